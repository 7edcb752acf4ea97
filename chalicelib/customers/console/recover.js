// What a webhook missed since a time: counted with the reasons, then recovered.
const missedBy = new Map(); // what was counted of each, by id: {since, until, examined, rows}
const SHOWN = 10; // of what was missed
// What a reason is called, of one and of more; of the others: never sent.
const GROUPS = { failed: ["failed", "failed"], waiting: ["waits", "wait"] };

function fillRecover(node, one) {
  const { since, count, mend } = partsOf(node);
  since.defaultValue = startOf(one).slice(0, 16); // what was typed stays
  count.onclick = () => {
    if (since.value) return countMissed(one, asTime(since.value), mend);
  };
  mend.onclick = () => recover(one);
  renderMissed(node, one);
}
// Return where to begin: three days before the trouble, because what failed then may be older. What
// is known of deliveries are the newest, so the webhook's own times may be older, too.
function startOf(one) {
  const begun = minimum([troubleOf(one)?.since, one.failing_since, one.disabled_at]);
  return new Date((begun ? Date.parse(begun) : Date.now()) - 3 * DAY).toISOString();
}
// Return all that is listed as missed. `tellSum` is told how many there are, of how many events.
async function listMissed({ subscription_id: id }, given, signal, tellSum = () => {}) {
  const until = new Date().toISOString();
  const rows = [];
  let examined = 0;
  let cursor = null;
  do {
    const path = `subscriptions/${id}/missed?${query({ until, ...given, cursor })}`;
    const { body } = await call("GET", path, [signal]);
    rows.push(...body.events);
    examined += body.examined;
    cursor = body.next_cursor;
    tellSum(rows.length, examined);
  } while (cursor);
  return Object.assign(rows, { examined, until });
}
function countMissed(one, since, mend) {
  missedBy.delete(one.subscription_id);
  return runJob(async (signal) => {
    const until = new Date().toISOString();
    const rows = await listMissed(one, { since, until }, signal, (sum, examined) =>
      tellJob(`Counting: ${sum} missed of ${number(examined, "event")} so far`),
    );
    const missed = { since, until, examined: rows.examined, rows };
    missedBy.set(one.subscription_id, missed);
    setText($("announcement"), tellMissed(missed));
    renderSubscriptions();
    mend.scrollIntoView({ block: "nearest" });
    return null; // the card tells it
  });
}
// Return how much was missed, in the words of *Pause* and *Enable*.
function tellMissed({ since, examined, rows }) {
  const from = `since ${clock(since)}`;
  if (!rows.length) return `it missed nothing of ${number(examined, "event")} ${from}`;
  const tell = (words, isOne) => {
    const count = rows.filter(isOne).length;
    return count ? [`${count.toLocaleString("en")} ${words[count === 1 ? 0 : 1]}`] : [];
  };
  const amounts = [
    ...tell(["never sent", "never sent"], ({ reason }) => !GROUPS[reason]),
    ...tell(GROUPS.failed, ({ reason }) => reason === "failed"),
    ...tell(GROUPS.waiting, ({ reason }) => reason === "waiting"),
  ];
  return `${rows.length.toLocaleString("en")} that it missed ${from}: ${amounts.join(", ")}`;
}
function renderMissed(node, one) {
  const { missed: told, reasons, mend } = partsOf(node);
  const missed = missedBy.get(one.subscription_id);
  const text = missed ? tellMissed(missed) : "";
  setText(told, text && text[0].toUpperCase() + text.slice(1));
  const rows = missed?.rows ?? [];
  mend.hidden = !rows.length;
  setText(mend, mend.hidden ? "" : one.disabled_at ? "Enable and recover" : "Recover");
  const shown = rows.slice(0, SHOWN);
  const more = rows.length - shown.length;
  redraw(reasons, [missed?.until, shown.length], () => [
    ...shown.map((row) => make("li", {}, tellRow(row, one))),
    ...(more ? [make("li", { class: "muted" }, `and ${more.toLocaleString("en")} more`)] : []),
  ]);
}
function tellRow(row, one) {
  const { subject, event_type, event_id, created_at, copy: made } = row;
  const name = subject ?? event_type;
  const shown = me.tenant && !made ? name : link(`/events/${made?.event_id ?? event_id}`, {}, name);
  const why = made
    ? `${GROUPS[row.reason][0]}: ${remark(made)}`
    : `never sent: ${nameOf(one)} ${whyNot({ ...one, ...row }, row)}`;
  return span("", make("bdi", {}, shown), span("muted", ` ${clock(created_at)}, ${why}`));
}
// Recover what was counted, up to the time at which it was.
function recover(one) {
  const { subscription_id: id } = one;
  const { since, until, rows } = missedBy.get(id);
  return runJob(async (signal) => {
    tellJob("Recovering");
    if (one.disabled_at) await call("POST", `subscriptions/${id}/enable`, [signal]);
    let done = 0;
    let cursor = null;
    do {
      const body = JSON.stringify({ since, until, cursor });
      const answer = await call("POST", `subscriptions/${id}/recover`, [signal], body);
      done += answer.body.sent + answer.body.replayed;
      cursor = answer.body.next_cursor;
      tellJob(`Recovering: ${done} of ${number(rows.length, "event")} queued`);
      showProgress(done, rows.length);
    } while (cursor);
    missedBy.delete(id);
    return `${number(done, "event")} queued for ${nameOf(one)}`;
  });
}
