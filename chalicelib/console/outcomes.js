// outcomes.js: what became of events and how webhooks are, in words: the API judges.
// The states in the order in which they are shown, with their words.
const STATES = {
  failed: "failed",
  waiting: "waiting",
  not_sent: "not sent",
  "waiting or pending": "waiting or pending",
  pending: "pending",
  kept: "kept",
  delivered: "delivered",
  deleted: "deleted",
  not_asked: "not asked",
  no_webhook: "no webhook",
};
const ORDER = Object.keys(STATES);
// Return whether a state means that there is no copy.
const isAbsent = (state) => ["not_sent", "not_asked", "no_webhook"].includes(state);
const TONES = { "waiting or pending": "either", deleted: "absent" };
// Return the class that gives a state its colour.
const toneOf = (state) => (isAbsent(state) ? "absent" : (TONES[state] ?? state));
// Return the word that the page shows for a state.
const wordOf = (state) => STATES[state] ?? state;
// Return the event types of a webhook in words.
const typesOf = ({ event_types }) => event_types?.join(", ") ?? "all types";
// Return the name of a webhook or, without a name, its host and the end of its id, by which
// webhooks of one host differ.
const nameOf = ({ name, target_host: host, subscription_id: id }) =>
  name ?? `${host ?? "webhook"} …${id.slice(-6)}`;
// Return the name of the webhook with an id.
const nameById = (id) => (page.webhooks.has(id) ? nameOf(page.webhooks.get(id)) : label(id));
// Return what identifies the webhook with an id among all webhooks: name or types, host, and the
// end of the id.
function label(id) {
  const webhook = page.webhooks.get(id);
  const end = `…${id.slice(-6)}`; // differs between webhooks of one name
  if (id === OWN) return "your own webhook";
  if (!webhook) return `webhook ${end}`;
  return `${webhook.name ?? typesOf(webhook)} (${webhook.target_host} ${end})`;
}
// Return the remark on an event or a copy that stands beside its state.
function remark(item) {
  const took = spell(Date.parse(item.delivered_at) - Date.parse(item.created_at));
  const ways = { push: `after ${took}`, pull: `acknowledged after ${took}` };
  if (item.status === "delivered") return ways[item.delivered_via] ?? "not pushed itself";
  const waits = isCopy(item.event_id) ? "" : "waits in the inbox";
  const next = item.next_attempt_at ? `next attempt ${due(item.next_attempt_at)}` : waits;
  const error = sayOf(item, item.last_error ?? "");
  return [error, item.status === "pending" && next].filter(Boolean).join(", ");
}
// Return the command that ends the alarm, if some of the items that are replayed have dead letters.
// A copy for a tenant's webhook has none.
function describeDeadLetters(all) {
  const isOperators = ({ event_id: id, subscription_id: owner }) =>
    !isCopy(id) || page.webhooks.get(owner)?.tenant === null;
  const isLetter = (item) => item.status === "failed" && isOperators(item);
  if (page.me.tenant || !all.some(isLetter)) return "";
  const command = `make redrive STAGE=${page.me.stage}`;
  const purpose = "to remove the dead letters from the DLQ and end the alarm";
  return `; after delivery, run ${command} ${purpose}`;
}
// Return whether the webhook with an id is known to be paused.
const isPaused = (id) => page.webhooks.get(id)?.state === "paused";
// Return the state of one event or copy alone. A pending one waits once an attempt has failed; what
// failed is kept while its webhook is paused: nobody has to do anything about it.
function stateOfPush({ status, last_error, subscription_id }) {
  if (status === "failed" && isPaused(subscription_id)) return "kept";
  return status === "pending" && last_error ? "waiting" : status;
}
// Return a text of the API about a copy; of a kept one it calls the webhook paused, not disabled.
function sayOf(item, text) {
  const paused = text
    .replace("was disabled, or its tenant suspended", "is paused")
    .replace("is disabled", "is paused");
  return say(stateOfPush(item) === "kept" ? paused : text);
}
// Return the outcome of an event, or of the event of a copy, in which what is kept for paused
// webhooks is counted apart from what failed. Without `recipients` it is known only where all that
// failed is kept: then the API names a paused webhook. The state is then the worst of the others.
function withKept(item, recipients = null) {
  const { outcome } = item;
  const isKept = outcome.state === "failed" && isPaused(outcome.subscription_id);
  if (!isKept && !recipients) return outcome;
  const keepers = (recipients ?? []).filter((row) => row.copy && stateOfPush(row.copy) === "kept");
  const split = (counts, isTenants) => {
    const isDeciding = isTenants === isAny(outcome.tenant);
    const known = keepers.filter((row) => Boolean(row.tenant) === isTenants).length;
    const count = recipients ? known : isKept && isDeciding ? counts.failed : 0;
    return { ...counts, failed: counts.failed - count, kept: count };
  };
  const tenant = split(outcome.tenant, true);
  const operator = split(outcome.operator, false);
  const counted = { ...outcome, tenant, operator };
  if (!isKept) return counted;
  const isOwnWaiting = outcome.own === "pending" && !isCopy(item.event_id) && item.last_error;
  if (isOwnWaiting)
    return { ...counted, state: "waiting", error: item.last_error, subscription_id: null };
  const deciding = isAny(outcome.tenant) ? tenant : operator;
  const state = ORDER.find((name) => deciding[name]);
  return { ...counted, state, error: state === "kept" ? outcome.error : null };
}
// Return whether there is a webhook in any state.
const isAny = (counts) => Object.values(counts).some(Boolean);
// Return how many webhooks an event was meant for: all, except those that did not ask for it.
function meantFor(counts) {
  const all = Object.values(counts).reduce((sum, count) => sum + count, 0);
  return all - counts.not_asked;
}
// Return in words how many webhooks did not get an event, by state; empty if all got it.
function describeOthers(counts) {
  const states = ORDER.filter((state) => !["delivered", "not_asked"].includes(state));
  const rest = states.filter((state) => counts[state]);
  return rest.map((state) => `, ${counts[state]} ${wordOf(state)}`).join("");
}
// Return in words how many of its webhooks got an event.
const describeDelivered = (counts) =>
  `${counts.delivered} of ${number(meantFor(counts), "webhook")} got it${describeOthers(counts)}`;
// Return whether an event has no webhook's outcome: its own push is all that there is.
const isOwnAlone = ({ outcome }) =>
  outcome && !isAny(outcome.tenant) && !meantFor(outcome.operator);
// Return what became of an event in words, on request with the error of the webhook that failed.
function describeOutcome(outcome, tenant, hasError = false) {
  const { tenant: theirs, operator: yours, state, error, subscription_id: id } = outcome;
  const isTold = hasError && error && id;
  const said = state === "kept" ? "paused" : say(error ?? "");
  const told = isTold ? `, ${nameById(id)}: ${said}` : "";
  const isNotAsked = isAny(theirs) && !meantFor(theirs);
  const asked = isAny(theirs) ? theirs : yours;
  const first = isNotAsked ? `not asked for by ${tenant}` : describeDelivered(asked);
  const haveAllGot = state === "delivered" && !describeOthers(yours);
  const isNoise = !isAny(theirs) || !meantFor(yours) || haveAllGot;
  const second = isNoise ? "" : `${yours.delivered} of yours got it${describeOthers(yours)}`;
  return [`${first}${told}`, second, describeOwnPush(outcome, hasError)].filter(Boolean).join("; ");
}
// Return words about an event's own push if it failed or waits; the alarm is about such pushes.
function describeOwnPush({ own, state, error, subscription_id: id }, hasError) {
  const isWorst = !id && ["failed", "waiting"].includes(state);
  const told = own === "failed" ? "your own webhook did not get it" : "";
  const waits = told || (isWorst ? "your own webhook is waiting" : "");
  return `${waits}${isWorst && hasError && error ? `: ${say(error)}` : ""}`;
}
// Return the state of a webhook: {text, word, since, tone, rank}. Trouble has a low rank.
function stateOf(webhook) {
  const { state, disabled_at, failing_since, slow_since, deliveries = {} } = webhook;
  const { failed, waiting, oldest_missed_at: oldest } = deliveries;
  const missed = describeUndelivered(webhook);
  if (isSuspended(webhook)) return stateSince("suspended", "", "failed", 0, missed);
  if (state === "paused") return stateSince(state, disabled_at, "kept", QUIET, missed);
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
// Return whether the tenant of a webhook is suspended.
const isSuspended = ({ tenant }) => Boolean(page.me.suspended_tenants?.includes(tenant));
// Return whether deliveries to a webhook did not arrive.
const isMissing = ({ deliveries: some }) => some.failed > 0 || some.waiting > 0 || some.has_more;
// Return a state of a webhook as `stateOf` does: `more` follows the word and the time in the text.
function stateSince(word, since, tone, rank, more = "") {
  const text = `${word}${since ? ` since ${since}` : ""}${more && `: ${more}`}`;
  return { text, word, since, tone, rank };
}
// Return a number in words, with a plus sign if there may be more of the webhook's deliveries.
const amountOf = (count, some) => `${count.toLocaleString("en")}${some.has_more ? "+" : ""}`;
// Return the state of the failed deliveries of a webhook: of a paused one they are kept.
const failedState = ({ state }) => (state === "paused" ? "kept" : "failed");
// Say how many deliveries did not arrive, as the API counts them.
function describeUndelivered(webhook) {
  const { deliveries: some = {} } = webhook;
  const amounts = [[some.failed, failedState(webhook)], [some.waiting, "waiting"]];
  const told = amounts.filter(([count]) => count);
  return told.map(([count, word]) => `${amountOf(count, some)} ${word}`).join(" and ");
}
// Return whether a webhook is disabled, by hand or because it failed.
const isOff = ({ state }) => state === "disabled" || state === "paused";
// Return what disabled a webhook or, while it is sent to, what its newest missing delivery said.
function errorOf({ deliveries, last_error: own, state }) {
  const error = state === "disabled" ? own : (deliveries.last_error ?? own);
  return state === "paused" ? "" : say(error ?? "");
}
// Return how many are in which state, [state, count], the worst first.
function sumsOf(states) {
  const counts = ORDER.map((state) => [state, states.filter((other) => other === state).length]);
  return counts.filter(([, count]) => count);
}
// Return a pair of a state and its count in words.
const describeCount = ([state, count]) => `${count} ${wordOf(state)}`;
// Draw a mark for each of the newest copies of a webhook, the oldest first. The API has statuses
// alone: where some copies wait, it is not known which of the pending copies do.
function strip(webhook) {
  const { recent, waiting } = webhook.deliveries;
  const pending = waiting ? "waiting or pending" : "pending";
  const states = { failed: failedState(webhook), pending, delivered: "delivered" };
  const shown = recent.map((status) => states[status]);
  const title = `The newest deliveries: ${sumsOf(shown).map(describeCount).join(", ")}`;
  const marks = shown.toReversed().map((state) => span(toneOf(state)));
  return make("span", { class: "strip", role: "img", "aria-label": title, title }, ...marks);
}
