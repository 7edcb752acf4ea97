// What became of events: said in the list, in an event and in its recipients alike.
const typesOf = ({ event_types }) => event_types?.join(", ") ?? "all types";
function nameOf(one) {
  return one.name ?? one.target_host ?? `subscription …${one.subscription_id.slice(-6)}`;
}
function shortLabel(id) {
  return subscriptions.has(id) ? nameOf(subscriptions.get(id)) : label(id);
}
function label(id) {
  const one = subscriptions.get(id);
  const end = `…${id.slice(-6)}`; // tells those of one name apart
  if (!one) return `${noun()} ${end}`;
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
const worstOf = (statuses) => WORST_FIRST.find((status) => statuses.includes(status));
const rank = (one) => WORST_FIRST.indexOf(one.status);
// Return what became of an event at its webhooks, of which some may not be read yet.
function became(statuses, unread = 0) {
  const count = (status) => statuses.filter((one) => one === status).length;
  const total = statuses.length + unread;
  const rest = [
    [count("failed"), "failed"],
    [count("pending"), "pending"],
    [count("deleted"), "deleted"],
    [unread, "not read yet"],
  ];
  const told = rest.filter(([amount]) => amount).map(([amount, state]) => `, ${amount} ${state}`);
  return `${count("delivered")} of ${number(total, "webhook")} got it${told.join("")}`;
}
// Return whether an event was for nobody: not pushed itself, and without copies.
const isForNobody = (one) => one.delivered_via === "subscriptions" && !one.copies.length;
const NOBODY = ["no webhook", "absent"]; // its state and tone
// Amber stands for what is not wrong for good.
function toneOf(statuses) {
  const worst = worstOf(statuses);
  return { failed: "failed", pending: "retried", delivered: "delivered" }[worst] ?? "";
}
