// recover.js: what did not arrive is sent again; what was never sent is looked for, then sent, too.
const SHOWN = 10; // of what was found
// Return the name of the button that recovers the deliveries of a webhook.
const verbOf = (webhook) => (isOff(webhook) ? "Enable and recover" : "Recover");
// Fill the button Recover with the number of deliveries, and the sentence beside it with how a
// recovery goes on. After the button was pressed, the sentence takes its place.
function fillRecover({ recover: button, queued }, webhook) {
  const { deliveries: some } = webhook;
  const refusal = "Nothing can be recovered while its tenant is suspended.";
  const suspended = isSuspended(webhook) && refusal;
  const told = suspended || describeRecovery(webhook);
  const hadFocus = [button, queued].includes(document.activeElement);
  setSentence(queued, told);
  const isOffered = isMissing(webhook) && !suspended && !recoveryOf(webhook)?.isAsked;
  setText(button, isOffered ? `${verbOf(webhook)} ${describeMissing(webhook)}` : "");
  set(button, { ariaDescription: nameOf(webhook) });
  if (hadFocus) focusNear(button); // it has taken the place of the other, or both have gone
  button.onclick = () => recover(webhook, {}, some.failed + some.waiting);
}
// Return in words how many deliveries to a webhook did not arrive, and since when.
function describeMissing(webhook) {
  const { deliveries: some } = webhook;
  const total = some.failed + some.waiting;
  const least = `${total.toLocaleString("en")} or more`;
  const amount = some.has_more ? least : describeUndelivered(webhook);
  const oldest = `${total === 1 ? "" : ", the oldest"} of ${dayOf(some.oldest_missed_at)}`;
  return `${amount}${total ? oldest : ""}`;
}
// Recover what did not arrive at a webhook, about `total` deliveries. `given` has the parameters of
// the call; with `since`, events that were never sent to the webhook are sent, too. The job ends
// with the deliveries that existed when it began.
const recover = (webhook, given, total) =>
  runJob(async (signal) => {
    const { subscription_id: id, deliveries } = webhook;
    const path = `subscriptions/${id}`;
    const until = given.until ?? deliveries.last_at; // what is younger is not followed
    const asked = { ...given, cursor: null };
    const sum = { examined: 0, sent: 0, replayed: 0, left: 0 };
    const done = () => sum.sent + sum.replayed;
    const isOlder = async () => {
      const next = { ...asked, limit: 1 };
      const { events } = (await insist("GET", `${path}/missed?${query(next)}`, signal)).body;
      return events[0]?.created_at <= until;
    };
    let end = "";
    try {
      if (isOff(webhook)) await insist("POST", `${path}/enable`, signal);
      do {
        signal.throwIfAborted();
        showJob(`Recovering: ${done()} of ${number(total, "event", deliveries.has_more)} queued`);
        showProgress(done() + sum.left, Math.max(done() + sum.left, total));
        const { body } = await insist("POST", `${path}/recover`, signal, asked);
        for (const name of Object.keys(sum)) sum[name] += body[name];
        asked.cursor = body.next_cursor;
        const isKnown = given.since || sum.examined < total;
        if (asked.cursor && !isKnown && !(await isOlder())) asked.cursor = null;
      } while (asked.cursor);
    } catch (error) {
      end = stopped(error, signal, ", then stopped");
    }
    const now = new Date().toISOString();
    const soon = aMinuteFrom(Date.now());
    const isSoon = () => Date.now() < Date.parse(soon);
    const later = sum.left ? `; ${sum.left.toLocaleString("en")} more will follow by ${soon}` : "";
    const told = `${number(done(), "event")} queued`;
    const describeSum = () => `At ${now}: ${told}${isSoon() ? later : ""}.`;
    const laterBy = sum.left ? soon : null;
    const begun = { total, isAsked: true, laterBy, sentence: describeSum };
    if (!end && done() + sum.left) beginRecovery(id, begun);
    const failed = { event_id: "cpy_", subscription_id: id, status: "failed" };
    const letters = done() && deliveries.failed ? describeDeadLetters([failed]) : "";
    const text = `${told} for ${nameOf(webhook)}${later}${end}${letters}`;
    return { text, isSo: () => !sum.left || (isSoon() && isMissingNow(id)) };
  });
// Fill the part of a card that looks for events that were never sent to the webhook.
function fillLook(node, webhook) {
  const parts = partsOf(node);
  // What is older was hardly meant for it.
  const since = asInput(Math.max(Date.now() - 3 * DAY, Date.parse(webhook.created_at)));
  parts.since.defaultValue ||= since;
  parts.look.onclick = () => lookFor(parts, webhook, fromInput(parts.since.value || since));
}
// Look for events that were never sent to a webhook since a time (`typed`), and count the
// deliveries since then that did not arrive.
const lookFor = (parts, webhook, typed) =>
  runJob(async (signal) => {
    // The later of the two: what was dismissed is left out.
    const [, since] = [typed, webhook.dismissed_until ?? ""].sort();
    const given = { since, until: new Date().toISOString() };
    const missed = { rows: [], others: 0, examined: 0, since, end: "" };
    const onRows = (all, examined) => {
      const rows = all.filter((row) => !row.copy);
      Object.assign(missed, { rows, others: all.length - rows.length, examined });
      showJob(`Looking: ${describeFound(missed)}`);
    };
    try {
      await listMissed(webhook.subscription_id, given, signal, onRows);
      if (!missed.rows.length) missed.made = await listMade(webhook, given, signal);
    } catch ({ message }) {
      missed.end = signal.aborted ? "Stopped." : message;
    }
    showMissed(parts, webhook, given, missed);
    return null;
  });
// Return the states of the deliveries that a webhook has of a time; null: there are more than are
// loaded.
async function listMade({ subscription_id, dismissed_until }, given, signal) {
  const options = { enough: MOST_SHOWN, signal };
  const { found, cursor } = await listEvents({ ...given, subscription_id }, options);
  const isExamined = ({ event_type, created_at }) =>
    !event_type.startsWith("triggers.") && created_at > (dismissed_until ?? "");
  return cursor ? null : [...found.values()].filter(isExamined).map(stateOfPush);
}
// Return in words how many events were never sent, of how many that were examined.
function describeFound({ rows, examined, since }) {
  const verb = rows.length === 1 ? "was" : "were";
  const count = rows.length.toLocaleString("en");
  return `${count} of ${number(examined, "event")} since ${since} ${verb} never sent`;
}
// Return in words what `lookFor` found. `made` are the states of the deliveries of that time, if
// nothing was missed.
function describeMissed({ others, made, end, examined, ...missed }) {
  const found = describeFound({ examined, ...missed });
  if (end) return `${found}. ${end} There may be more of them: look again.`;
  if (missed.rows.length) return found;
  const isGot = !others && made?.every((state) => state === "delivered");
  const count = made ? `: ${made.length}` : "";
  const left = made ? examined - made.length : 0;
  const out = left > 0 ? `; its types and filter leave out ${left}` : "";
  const events = `${number(examined, "event")} since ${missed.since}`;
  return `It ${isGot ? "got" : "was sent"} all events that it takes${count} of ${events}${out}`;
}
// Show what `lookFor` found, and a button that recovers it.
function showMissed({ missed: told, reasons, mend }, webhook, given, missed) {
  const { rows, others, end } = missed;
  setSentence(told, describeMissed(missed));
  const too = others ? " and all that did not arrive since then" : "";
  const action = `${verbOf(webhook)} ${number(rows.length, "event")}${too}`;
  setText(mend, rows.length && !end && !isSuspended(webhook) ? action : "");
  mend.onclick = () => {
    for (const part of [told, mend]) setText(part, "");
    reasons.replaceChildren();
    return recover(webhook, given, rows.length + others);
  };
  const more = rows.length - SHOWN;
  const rest = more > 0 ? [make("li", { class: "muted" }, `and ${more} more`)] : [];
  const items = rows.slice(0, SHOWN).map((row) => make("li", {}, makeMissedRow(row, webhook)));
  reasons.replaceChildren(...items, ...rest);
}
// Return the line about an event that was never sent to a webhook, with the reason.
function makeMissedRow(row, webhook) {
  const { subject, event_type, event_id, created_at } = row;
  const name = subject ?? event_type;
  const shown = page.me.tenant ? name : link(`/events/${event_id}`, {}, name);
  const why = ` ${created_at}: ${nameOf(webhook)} ${whyNot({ ...webhook, ...row }, row)}`;
  return span("", make("bdi", {}, shown), span("muted", ...sentence(why)));
}
