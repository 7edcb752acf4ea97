// outcomes.js: what became of events and how webhooks are, in words: the API judges.
const WORST_FIRST = ["failed", "waiting", "not_sent", "pending", "delivered"];
const ORDER = [...WORST_FIRST, "deleted", "not_asked", "no_webhook"];
const WORDS = { not_asked: "not asked", not_sent: "not sent", no_webhook: "no webhook" };
const toneOf = (state) => (WORDS[state] ? "absent" : state);
const wordOf = (state) => WORDS[state] ?? state;
const typesOf = ({ event_types }) => event_types?.join(", ") ?? "all types";
// Webhooks of one host are told apart by the ends of their ids.
const nameOf = ({ name, target_host: host, subscription_id: id }) =>
  name ?? `${host ?? "webhook"} …${id.slice(-6)}`;
const nameById = (id) => (page.webhooks.has(id) ? nameOf(page.webhooks.get(id)) : label(id));
function label(id) {
  const one = page.webhooks.get(id);
  const end = `…${id.slice(-6)}`; // tells those of one name apart
  const named = one ? `${one.name ?? typesOf(one)} (${one.target_host} ${end})` : `webhook ${end}`;
  return id === OWN ? "your own webhook" : named;
}
// Return what is to be said of one event or copy beside its status.
function remark(one) {
  const took = spell(Date.parse(one.delivered_at) - Date.parse(one.created_at));
  const ways = { push: `after ${took}`, pull: `acknowledged after ${took}` };
  if (one.status === "delivered") return ways[one.delivered_via] ?? "not pushed itself";
  const waits = isCopy(one.event_id) ? "" : "waits in the inbox";
  const next = one.next_attempt_at ? `next attempt ${due(one.next_attempt_at)}` : waits;
  return [say(one.last_error ?? ""), one.status === "pending" && next].filter(Boolean).join(", ");
}
// Say what ends the alarm, if what is replayed had dead letters: a customer's copy has none.
function tellLetters(all) {
  const isOperators = ({ event_id: id, subscription_id: owner }) =>
    !isCopy(id) || page.webhooks.get(owner)?.tenant === null;
  const isLetter = (one) => one.status === "failed" && isOperators(one);
  if (page.me.tenant || !all.some(isLetter)) return "";
  const command = `make redrive STAGE=${page.me.stage}`;
  return `; once delivered, ${command} takes the dead letters out of the DLQ, which ends the alarm`;
}
// Return the state of one push: what failed at least once is waiting for its next attempt.
const stateOfPush = ({ status, last_error }) =>
  status === "pending" && last_error ? "waiting" : status;
// What became of an event: counts of its webhooks by state, in words.
const isAny = (counts) => Object.values(counts).some(Boolean);
const meantFor = (counts) => WORST_FIRST.reduce((sum, state) => sum + (counts[state] ?? 0), 0);
const tellRest = (counts) =>
  WORST_FIRST.filter((state) => state !== "delivered" && counts[state])
    .map((state) => `, ${counts[state]} ${wordOf(state)}`).join("");
const tellGot = (counts) =>
  `${counts.delivered} of ${number(meantFor(counts), "webhook")} got it${tellRest(counts)}`;
// Return whether an event has no webhook's outcome: its own push is all that there is.
const isOwnAlone = ({ outcome }) =>
  outcome && !isAny(outcome.tenant) && !meantFor(outcome.operator);
// Say what became of an event, with the error beside those whom it is about.
function tellBecame(outcome, tenant, hasError = false) {
  const { tenant: theirs, operator: yours, state, error, subscription_id: id } = outcome;
  const told = hasError && error && id ? `, ${nameById(id)}: ${say(error)}` : "";
  const isNotAsked = isAny(theirs) && !meantFor(theirs);
  const asked = isAny(theirs) ? theirs : yours;
  const first = isNotAsked ? `not asked for by ${tenant}` : tellGot(asked);
  const isNoise = !isAny(theirs) || !meantFor(yours) || (state === "delivered" && !tellRest(yours));
  const second = isNoise ? "" : `${yours.delivered} of yours got it${tellRest(yours)}`;
  return [`${first}${told}`, second, tellOwn(outcome, hasError)].filter(Boolean).join("; ");
}
// Say that an event's own push fails, which the alarm is about.
function tellOwn({ own, state, error, subscription_id: id }, hasError) {
  const isWorst = !id && ["failed", "waiting"].includes(state);
  const told = own === "failed" ? "your own webhook did not get it" : "";
  const waits = told || (isWorst ? "your own webhook is waiting" : "");
  return `${waits}${isWorst && hasError && error ? `: ${say(error)}` : ""}`;
}
// Return the state of a webhook: {text, word, since, tone, rank}. Trouble has a low rank.
function stateOf(one) {
  const { state, disabled_at, failing_since, slow_since, deliveries = {} } = one;
  const { failed, waiting, oldest_missed_at: oldest } = deliveries;
  const missed = tellUndelivered(deliveries);
  if (isSuspended(one)) return stateSince("suspended", "", "failed", 0, missed);
  if (state === "paused")
    return stateSince(state, disabled_at, "pending", QUIET, tellUndelivered(deliveries, "kept"));
  if (state === "disabled") return stateSince(state, disabled_at, "failed", 0);
  const begun = [oldest, failing_since].filter(Boolean).sort()[0];
  if (state === "dead letters") return stateSince(state, begun, "failed", 0, missed);
  if (state === "failing") return stateSince(state, begun, "waiting", 1, missed);
  if (waiting) return { ...stateSince(missed, begun, "waiting", 2), word: "waiting" };
  if (failed || deliveries.has_more)
    return stateSince(`missed ${amountOf(failed, deliveries)}`, oldest, "waiting", 3);
  if (slow_since) return stateSince("slow", slow_since, "waiting", QUIET);
  return { text: "active", word: "active", tone: "delivered", rank: QUIET + 1 };
}
const QUIET = 4; // the rank from which on a webhook is not in trouble
const isSuspended = ({ tenant }) => Boolean(page.me.suspended_tenants?.includes(tenant));
const isMissing = ({ deliveries: some }) => some.failed > 0 || some.waiting > 0 || some.has_more;
function stateSince(word, since, tone, rank, more = "") {
  const text = `${word}${since ? ` since ${since}` : ""}${more && `: ${more}`}`;
  return { text, word, since, tone, rank };
}
const amountOf = (count, some) => `${count.toLocaleString("en")}${some.has_more ? "+" : ""}`;
// Say how many deliveries did not arrive, as the API counts them.
function tellUndelivered(some, failed = "failed") {
  const amounts = [[some.failed, failed], [some.waiting, "waiting"]];
  const told = amounts.filter(([count]) => count);
  return told.map(([count, word]) => `${amountOf(count, some)} ${word}`).join(" and ");
}
const isOff = ({ state }) => state === "disabled" || state === "paused";
// Return what ended a webhook or, while it is sent to, what its newest missing delivery said.
const errorOf = ({ deliveries, last_error: own, ...one }) =>
  say((isOff(one) ? own : (deliveries.last_error ?? own)) ?? "");
// Return how many are in which state, [state, count], the worst first.
function sumsOf(states) {
  const counts = ORDER.map((state) => [state, states.filter((one) => one === state).length]);
  return counts.filter(([, count]) => count);
}
const tellState = ([state, count]) => `${count} ${wordOf(state)}`;
// Draw a mark for each of the newest copies, the oldest first: what waits is pending there, too.
function strip({ recent, waiting }) {
  const told = sumsOf(recent).map(tellState).join(", ");
  const title = `The newest: ${waiting ? told.replace("pending", "waiting or pending") : told}`;
  const marks = recent.toReversed().map((state) => span(toneOf(state)));
  return make("span", { class: "strip", role: "img", "aria-label": title, title }, ...marks);
}
