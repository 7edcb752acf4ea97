// progress.js: a recovery while it goes on: how much of what had not arrived is left.
const STALLED_MS = 5 * 60e3; // what moves no more for so long can be recovered again
const MINUTE = 60e3; // the sweep sends more once in it
// Return the time a minute after a time (milliseconds), in the format of the API.
const aMinuteFrom = (time) => new Date(time + MINUTE).toISOString();
// Remember that a recovery of `total` deliveries to a webhook began:
// isAsked: somebody pressed Recover. laterBy: the time by which the rest of them follow, or null.
// isCatchUp: the webhook works again, and the sweep sends more each minute.
// sentence: returns the sentence that is shown until the first delivery has arrived.
function beginRecovery(id, { total, isAsked, laterBy, isCatchUp, sentence: sentenceOf }) {
  const movedAt = Date.now(); // when something had arrived last
  const given = { total, isAsked, laterBy, isCatchUp, sentence: sentenceOf };
  page.recoveries.set(id, { ...given, left: total, movedAt });
}
// Return whether something has not arrived at a webhook, or it is not shown.
const isMissingNow = (id) =>
  (page.listed ?? []).every((webhook) => webhook.subscription_id !== id || isMissing(webhook));
// Return how many deliveries of a recovery have not arrived. Failed ones count only if the user
// pressed Recover: a catch-up does not send them again.
const leftOf = ({ isAsked }, { failed, waiting }) => (isAsked ? failed + waiting : waiting);
// Compare the counts of a webhook with its counts at the last refresh: if fewer deliveries wait, a
// recovery goes on, or has begun.
function watchRecovery(webhook) {
  const { subscription_id: id, deliveries: some, state } = webhook;
  const before = page.counted.get(id);
  page.counted.set(id, { waiting: some.waiting, state });
  if (!isMissing(webhook) || isOff(webhook)) page.recoveries.delete(id);
  const known = page.recoveries.get(id);
  if (known) {
    const left = leftOf(known, some);
    if (left < known.left) Object.assign(known, { left, movedAt: Date.now() });
  } else if (some.waiting && some.waiting < before?.waiting) {
    const isCatchUp = before.state === "failing" && state !== "failing";
    beginRecovery(id, { total: before.waiting, isCatchUp });
    page.recoveries.get(id).left = some.waiting;
  }
}
// Return the recovery of a webhook that goes on, or null: none does, it stalls, or it failed again.
function recoveryOf(webhook) {
  const known = page.recoveries.get(webhook.subscription_id);
  const isOver = !known || !isMissing(webhook) || Date.now() - known.movedAt > STALLED_MS;
  return isOver || (known.isAsked && webhook.deliveries.failed) ? null : known;
}
// Say how a recovery goes; "" if there is none.
function describeRecovery(webhook) {
  const known = recoveryOf(webhook);
  if (!known) return "";
  const { left, total, isCatchUp, laterBy } = known;
  if (left === total) return known.sentence?.() ?? "";
  const isLater = laterBy && Date.now() < Date.parse(laterBy);
  const nextBy = isCatchUp ? aMinuteFrom(Date.now()) : isLater && laterBy;
  const next = nextBy ? `; the next ones will follow by ${nextBy}` : "";
  const verb = left === 1 ? "is" : "are";
  return `${left.toLocaleString("en")} of ${number(total, "delivery")} ${verb} left${next}.`;
}
