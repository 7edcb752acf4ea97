// What a webhook missed since a time: counted with the reasons while one looks, then recovered.
const SHOWN = 10; // of what was missed
// The groups in which it is told, and what they are called; of other reasons: never sent.
const GROUPS = ["failed", "", "waiting"];
const groupOf = ({ reason }) => (GROUPS.includes(reason) ? reason : "");
const inGroups = (a, b) => GROUPS.indexOf(groupOf(a)) - GROUPS.indexOf(groupOf(b));
function fillRecover(node, one) {
  const { since, halt, mend } = partsOf(node);
  const { subscription_id: id } = one;
  set(since, { defaultValue: asInput(recoverFrom(one)) }); // what was typed stays
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
// Return where to begin: three days, which attempts last, before the trouble, or before now, but not
// before the webhook was made, nor with what was dismissed.
function recoverFrom({ created_at, dismissed_until, failing_since, disabled_at, deliveries }) {
  const { oldest_missed_at: oldest } = deliveries;
  const [begun = Date.now()] = [oldest, failing_since, disabled_at].filter(Boolean).sort();
  const bounds = [created_at, dismissed_until].filter(Boolean);
  return Math.max(new Date(begun) - 3 * DAY, ...bounds.map((time) => Date.parse(time)));
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
    const last = rows.at(-1)?.created_at;
    Object.assign(missed, { rows: rows.toSorted(inGroups), examined, last });
    renderMissed(node, one);
  };
  renderMissed(node, one);
  const given = { since, until: missed.until };
  const count = async () => {
    await listMissed(one.subscription_id, given, signal, tellRows);
    if (!missed.rows.length && !takesAll(one)) missed.made = await countMade(one, given, signal);
  };
  missed.end = await count().then(
    () => "counted",
    ({ message }) => (signal.aborted ? "Stopped" : message.replace(/\.$/, "")),
  );
  renderMissed(node, one);
  if (missed.end === "counted") setSentence($("announcement"), tellMissed(missed, one));
}
const takesAll = (one) => !one.event_types && !one.filter;
// Return how many deliveries a webhook has of a time, {all, delivered}; null: more than can be shown.
async function countMade({ subscription_id }, given, signal) {
  const options = { enough: MOST_SHOWN, signal };
  const { found, cursor } = await listEvents({ ...given, subscription_id }, options);
  const made = [...found.values()].filter((one) => !one.event_type.startsWith("triggers."));
  const delivered = made.filter(({ status }) => status === "delivered").length;
  return cursor ? null : { all: made.length, delivered };
}
function tellGotAll({ examined, since, made }, one) {
  const looked = `${number(examined, "event")} since ${since}`;
  if (takesAll(one)) return `It got all of ${looked}`;
  if (!made) return `It got all that its types and filter take of ${looked}`;
  const { all, delivered } = made;
  const way = all > delivered ? `, ${all - delivered} under way` : "";
  const left = Math.max(examined - all, 0);
  return `It got all that it takes: ${delivered} of ${looked}${way}; types and filter leave out ${left}`;
}
// Say how much was missed, and while it is counted what is known of the deliveries already.
function tellMissed(missed, one) {
  const { rows, examined, since, end, last } = missed;
  const isCounted = end === "counted";
  const count = (group) => rows.filter((row) => groupOf(row) === group).length;
  const counted = { failed: count("failed"), waiting: count("waiting") };
  const isKnown = !end && since <= one.deliveries.oldest_missed_at; // all of them are of that time
  const { failed, waiting } = isKnown ? one.deliveries : counted;
  const amounts = [
    [count(""), "never sent"],
    [failed, "failed"],
    [waiting, waiting === 1 ? "waits" : "wait"],
  ].filter(([amount]) => amount);
  const total = amounts.reduce((sum, [amount]) => sum + amount, 0).toLocaleString("en");
  const parts = amounts.map(([amount, words]) => `${amount.toLocaleString("en")} ${words}`);
  const looked = number(examined, "event");
  const told = `${total} that it missed since ${since}: ${parts.join(", ")}`;
  if (isCounted) return parts.length ? told : tellGotAll(missed, one);
  const some = parts.length ? `${told}. ` : "";
  const came = last ? `, at one of ${last}` : "";
  if (end) return `${some}${end}, after ${looked}${came}: there may be more.`;
  return `${some}Looking for what was never sent since ${since}, at ${looked} …`;
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
    const letters = tellLetters(rows.map((row) => row.copy).filter(Boolean));
    return `${number(done, "event")} queued for ${nameOf(one)}${again}${done ? letters : ""}`;
  });
}
