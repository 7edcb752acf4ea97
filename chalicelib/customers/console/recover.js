// What a webhook missed since a time: counted with the reasons while one looks, then recovered.
const SHOWN = 10; // of what was missed
// The groups in which it is told, and what they are called; of other reasons: never sent.
const GROUPS = ["failed", "", "waiting"];
const groupOf = ({ reason }) => (GROUPS.includes(reason) ? reason : "");
const inGroups = (a, b) => GROUPS.indexOf(groupOf(a)) - GROUPS.indexOf(groupOf(b));
function fillRecover(node, one) {
  const { since, halt, mend } = partsOf(node);
  const { subscription_id: id } = one;
  since.defaultValue = asInput(recoverFrom(one)); // what was typed stays
  const begin = () => since.value && countMissed(node, one, sinceOf(since, one));
  node.ontoggle = () => {
    if (!node.open) return page.counting?.abort();
    if (page.missed.get(id)?.end !== "counted") begin();
  };
  since.onchange = begin;
  halt.onclick = () => page.counting?.abort();
  mend.onclick = () => recover(one);
  renderMissed(node, one);
}
// Return where to begin: with the oldest that failed or waits; without one, three days ago, but not
// before the webhook was made.
function recoverFrom({ created_at, deliveries: { oldest_missed_at: oldest } }) {
  return oldest ? Date.parse(oldest) : Math.max(Date.now() - 3 * DAY, Date.parse(created_at));
}
// Return the time that an input shows, exactly if it was not changed.
function sinceOf({ value, defaultValue }, one) {
  const isTyped = value !== defaultValue;
  return isTyped ? fromInput(value) : new Date(recoverFrom(one)).toISOString();
}
async function countMissed(node, one, since) {
  page.counting?.abort();
  page.counting = new AbortController();
  const { signal } = page.counting;
  const missed = { since, until: new Date().toISOString(), rows: [], examined: 0, end: "" };
  page.missed.set(one.subscription_id, missed);
  const tellRows = (rows, examined) => {
    Object.assign(missed, { rows: rows.toSorted(inGroups), examined });
    renderMissed(node, one);
  };
  renderMissed(node, one);
  const given = { since, until: missed.until };
  missed.end = await listMissed(one.subscription_id, given, signal, tellRows).then(
    () => "counted",
    ({ message }) => (signal.aborted ? "It was stopped: there may be more." : message),
  );
  renderMissed(node, one);
  if (missed.end === "counted") setSentence($("announcement"), tellMissed(missed, one));
}
// Say how much was missed, and while it is counted what is known of the deliveries already.
function tellMissed({ rows, examined, since, end }, one) {
  const { deliveries } = one;
  const isCounted = end === "counted";
  const count = (group) => rows.filter((row) => groupOf(row) === group).length;
  const counted = { failed: count("failed"), waiting: count("waiting") };
  const { failed, waiting } = isCounted ? counted : deliveries;
  const amounts = [
    [count(""), "never sent"],
    [failed, "failed"],
    [waiting, waiting === 1 ? "waits" : "wait"],
  ].filter(([amount]) => amount);
  const total = amounts.reduce((sum, [amount]) => sum + amount, 0).toLocaleString("en");
  const parts = amounts.map(([amount, words]) => `${amount.toLocaleString("en")} ${words}`);
  const looked = `${number(examined, "event")} since ${since}`;
  const told = parts.length
    ? `${total} that it missed since ${since}: ${parts.join(", ")}`
    : `It got all that it takes of ${looked}${one.filter || one.event_types ? "; its types and filter do not take the others" : ""}`;
  if (isCounted) return told;
  return end ? `${told}. ${end}` : `${told}. Looking for what was never sent, at ${looked} …`;
}
function renderMissed(node, one) {
  const { missed: told, reasons, mend, halt } = partsOf(node);
  const missed = page.missed.get(one.subscription_id);
  setSentence(told, missed ? tellMissed(missed, one) : "");
  halt.hidden = !missed || missed.end !== "";
  const rows = missed?.rows ?? [];
  mend.hidden = !rows.length;
  setText(mend, mend.hidden ? "" : isOff(one) ? "Enable and recover" : "Recover");
  const shown = rows.slice(0, SHOWN);
  const more = rows.length - shown.length;
  redraw(reasons, [missed?.until, shown, more], () => [
    ...shown.map((row) => make("li", {}, tellRow(row, one))),
    ...(more ? [make("li", { class: "muted" }, `and ${more.toLocaleString("en")} more`)] : []),
  ]);
}
function tellRow(row, one) {
  const { subject, event_type, event_id, created_at, copy: made } = row;
  const name = subject ?? event_type;
  const isOpen = made || !page.me.tenant;
  const shown = isOpen ? link(`/events/${made?.event_id ?? event_id}`, {}, name) : name;
  const why = made
    ? `${row.reason === "waiting" ? "waits" : "failed"}: ${remark(made)}`
    : `never sent: ${nameOf(one)} ${whyNot({ ...one, ...row }, row)}`;
  return span("", make("bdi", {}, shown), span("muted", ...sentence(` ${created_at}, ${why}`)));
}
// Recover what was counted, up to the time at which it was; more than is shown is asked for first.
async function recover(one) {
  const { subscription_id: id } = one;
  const missed = page.missed.get(id);
  const { since, until, rows, end } = missed;
  const least = end === "counted" ? "" : "at least ";
  const amount = `${least}${number(rows.length, "event")}`;
  const question = [`Recover ${amount} for ${nameOf(one)}?`, tellMissed(missed, one), "Recover"];
  if ((rows.length > SHOWN || least) && !(await confirm(...question))) return;
  return runJob(async (signal) => {
    page.counting?.abort();
    tellJob("Recovering");
    if (isOff(one)) await insist("POST", `subscriptions/${id}/enable`, signal);
    let done = 0;
    let left = 0;
    let cursor = null;
    do {
      const given = { since, until, cursor };
      const { body } = await insist("POST", `subscriptions/${id}/recover`, signal, given);
      done += body.sent + body.replayed;
      left += body.left ?? 0;
      cursor = body.next_cursor;
      tellJob(`Recovering: ${done} of ${amount} queued`);
      showProgress(done, Math.max(done, rows.length));
    } while (cursor);
    page.missed.delete(id);
    const again = left ? `; ${left} failed less than a minute ago: recover these again then` : "";
    return `${number(done, "event")} queued for ${nameOf(one)}${again}`;
  });
}
