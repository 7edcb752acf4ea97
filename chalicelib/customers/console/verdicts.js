// What became of events and how webhooks are, in words: the API judges.
const WORST_FIRST = ["failed", "retrying", "pending", "delivered"];
// The words of states of events that no webhook was sent.
const WORDS = { not_asked: "not asked for", not_sent: "not sent", no_webhook: "no webhook" };
const toneOf = (state) => (state === "retrying" ? "retried" : WORDS[state] ? "absent" : state);
const wordOf = (state) => WORDS[state] ?? state;
const typesOf = ({ event_types }) => event_types?.join(", ") ?? "all types";
function nameOf(one) {
  return one.name ?? one.target_host ?? `webhook …${one.subscription_id.slice(-6)}`;
}
const shortLabel = (id) => (page.webhooks.has(id) ? nameOf(page.webhooks.get(id)) : label(id));
function label(id) {
  if (id === OWN) return "your own webhook";
  const one = page.webhooks.get(id);
  const end = `…${id.slice(-6)}`; // tells those of one name apart
  return one ? `${one.name ?? typesOf(one)} (${one.target_host} ${end})` : `webhook ${end}`;
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
// Return the state of one push: what failed and waits is retrying.
function stateOfPush({ status, last_error, delivery_attempts }) {
  return status === "pending" && last_error && delivery_attempts ? "retrying" : status;
}
const rank = (one) => WORST_FIRST.indexOf(stateOfPush(one));
// What became of an event: counts of its webhooks by state, in words.
const isAny = (counts) => Object.values(counts).some(Boolean);
const sentTo = (counts) => WORST_FIRST.reduce((sum, state) => sum + counts[state], 0);
function tellRest(counts) {
  const trouble = WORST_FIRST.filter((state) => state !== "delivered" && counts[state]);
  return trouble.map((state) => `, ${counts[state]} ${state}`).join("");
}
function tellGot(counts) {
  return `${counts.delivered} of ${number(sentTo(counts), "webhook")} got it${tellRest(counts)}`;
}
// The worst of all, with its own push: an alarm is about that.
const worstOf = ({ state, own }) => (own === "failed" ? own : state);
// Return whether an event has no webhook's verdict: its own push is all that there is.
const isOwnAlone = ({ outcome }) => outcome && !isAny(outcome.tenant) && !sentTo(outcome.operator);
function tellBecame(outcome, tenant) {
  const failed = outcome.own === "failed" ? "; your own webhook did not: a dead letter" : "";
  return tellOthers(outcome, tenant) + failed;
}
function tellOthers({ tenant: theirs, operator: yours, own, state }, tenant) {
  if (!isAny(theirs)) return tellGot(yours);
  const unsent = theirs.not_sent ? `not sent to ${tenant}` : `not asked for by ${tenant}`;
  const first = sentTo(theirs) ? tellGot(theirs) : unsent;
  const isNoise = state === "delivered" && !tellRest(yours);
  if (sentTo(yours) && !isNoise)
    return `${first}; ${yours.delivered} of yours got it${tellRest(yours)}`;
  return own === "delivered" && !sentTo(theirs) ? `${first}; your own webhook got it` : first;
}
// Return the state of a webhook: {text, word, since, tone, rank}. Trouble has a low rank.
function stateOf({ state, disabled_at, failing_since, slow_since, deliveries = {} }) {
  if (state === "paused") return stateSince(state, disabled_at, "pending", 3);
  if (state === "disabled") return stateSince(state, disabled_at, "failed", 0);
  const begun = [deliveries.oldest_missed_at, failing_since].filter(Boolean).sort()[0];
  const more = tellAmounts(deliveries);
  if (state === "dead letters") return stateSince(state, begun, "failed", 0, more);
  if (state === "failing") return stateSince(state, begun, "retried", 1, more);
  if (deliveries.waiting) return stateSince("retrying", begun, "retried", 2, more);
  if (deliveries.failed) return stateSince("missed some", begun, "failed", 2, more);
  if (slow_since) return stateSince("slow", slow_since, "retried", 3);
  return { text: "active", word: "active", tone: "delivered", rank: 4 };
}
function stateSince(word, since, tone, rank, more = "") {
  return { text: `${word}${since ? ` since ${since}` : ""}${more}`, word, since, tone, rank };
}
function tellAmounts({ waiting, failed, has_more: isMore }) {
  const plus = isMore ? "+" : "";
  const waits = waiting ? `, ${waiting}${plus} ${waiting === 1 ? "waits" : "wait"}` : "";
  return `${waits}${failed ? `, ${failed}${plus} failed` : ""}`;
}
const isOff = ({ state }) => state === "disabled" || state === "paused";
// Draw a mark for each of the newest copies, the oldest first.
function strip(recent) {
  const counts = WORST_FIRST.map((state) => [state, recent.filter((one) => one === state).length]);
  const told = counts.filter(([, count]) => count).map(([state, count]) => `${count} ${state}`);
  const marks = recent.toReversed().map((state) => span(toneOf(state), "▮"));
  return make("span", { class: "strip", role: "img", ariaLabel: `The newest: ${told.join(", ")}` }, ...marks);
}
