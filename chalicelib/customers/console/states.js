// What became of events: said in the list, in an event and in its recipients alike.
const typesOf = ({ event_types }) => event_types?.join(", ") ?? "all types";
function nameOf(one) {
  return one.name ?? one.target_host ?? `webhook …${one.subscription_id.slice(-6)}`;
}
function shortLabel(id) {
  return subscriptions.has(id) ? nameOf(subscriptions.get(id)) : label(id);
}
function label(id) {
  const one = subscriptions.get(id);
  const end = `…${id.slice(-6)}`; // tells those of one name apart
  if (!one) return `webhook ${end}`;
  return `${one.name ?? typesOf(one)} (${one.target_host} ${end})`;
}
// Return what is to be said of one event or copy beside its status.
function remark(one) {
  const took = Date.parse(one.delivered_at) - Date.parse(one.created_at);
  if (one.status === "delivered") {
    const ways = {
      push: `after ${duration(took || 0)}`,
      pull: `acknowledged after ${duration(took || 0)}`,
      subscriptions: "not pushed itself",
    };
    return ways[one.delivered_via];
  }
  const waits = isCopy(one.event_id) ? "" : "waits in the inbox";
  const next = one.next_attempt_at ? `next attempt ${due(one.next_attempt_at)}` : waits;
  return [one.last_error && say(one.last_error), one.status === "pending" && next]
    .filter(Boolean)
    .join(", ");
}
// Return the state of one event or copy: what failed and waits is retrying.
function itemState({ status, last_error, delivery_attempts }) {
  return status === "pending" && last_error && delivery_attempts ? "retrying" : status;
}
const TONES = { retrying: "retried", deleted: "absent" }; // of the other states, their names
const toneOf = (state) => TONES[state] ?? state;
const worstOf = (states) => WORST_FIRST.find((state) => states.includes(state));
const rank = (one) => WORST_FIRST.indexOf(itemState(one));
const worstItemOf = (items) => items.toSorted((a, b) => rank(a) - rank(b))[0];

// Judge an event by its copies for webhooks of its own tenant (`tenantCopies`), or, if that has
// none, by those of the operator (`operatorCopies`) and, where it was pushed itself, by the event
// (`ownPush`). Return {state, tone, judged}; `isOfTenants`: the tenant has webhooks; `isLate`: not
// types or filter alone kept the event from them.
function judge({ tenantCopies, operatorCopies, ownPush, isOfTenants, isLate }) {
  const judged = isOfTenants ? tenantCopies : [...operatorCopies, ...ownPush];
  const state = worstOf(judged.map(itemState));
  if (state) return { state, tone: toneOf(state), judged };
  const unsent = isLate ? "not sent" : "not asked for";
  return { state: isOfTenants ? unsent : "no webhook", tone: "absent", judged };
}
// Return what begins the sentence of `tellBecame` if nothing was sent to the tenant.
function tellUnsent({ isLate }, tenant) {
  return `${isLate ? "not sent to" : "not asked for by"} ${tenant}`;
}
// Return what became of an event in words, of which some copies may not be read yet.
function tellBecame({ tenantCopies, operatorCopies, ownPush, isOfTenants }, unread, unsent) {
  const judged = isOfTenants ? tenantCopies : operatorCopies;
  const total = judged.length + unread;
  const count = (items, state) => items.filter((one) => itemState(one) === state).length;
  const rest = (items) =>
    WORST_FIRST.filter((state) => state !== "delivered" && count(items, state)).map(
      (state) => `, ${count(items, state)} ${state}`,
    );
  const unknown = unread ? `, ${unread} not read yet` : "";
  const got = `${count(judged, "delivered")} of ${number(total, "webhook")} got it`;
  const first = total ? [got, ...rest(judged), unknown].join("") : unsent;
  const isOwnDelivered = ownPush.some(({ delivered_via }) => delivered_via === "push");
  const alone = !total && isOwnDelivered ? "; your own webhook got it" : "";
  if (!isOfTenants || !operatorCopies.length) return first + (isOfTenants ? alone : "");
  const yours = `${count(operatorCopies, "delivered")} of yours got it`;
  return `${first}; ${yours}${rest(operatorCopies).join("")}`;
}
// Return whether an event was for nobody: not pushed itself, and without copies.
const isForNobody = (one) => one.delivered_via === "subscriptions" && !one.copies.length;
const pushedItself = (one) => (one && one.delivered_via !== "subscriptions" ? [one] : []);
