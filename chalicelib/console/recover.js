// recover.js: what a webhook missed since a time, counted with the reasons, then recovered.
const SHOWN = 10; // of what was missed
// The groups in which it is told; "": for other reasons, which was never sent.
const GROUPS = ["failed", "", "waiting"];
const groupOf = ({ reason }) => (GROUPS.includes(reason) ? reason : "");
const inGroups = (a, b) => GROUPS.indexOf(groupOf(a)) - GROUPS.indexOf(groupOf(b));
function fillRecover(node, one) {
  const { since, halt, mend } = partsOf(node);
  set(since, { defaultValue: asInput(recoverFrom(one)) }); // what was typed stays
  const isTyped = () => since.value !== since.defaultValue;
  const suggested = () => new Date(recoverFrom(one)).toISOString();
  const begin = () =>
    since.value && countMissed(node, one, isTyped() ? fromInput(since.value) : suggested());
  node.ontoggle = () => {
    if (!node.open) return page.counting?.abort();
    if (page.missed.get(one.subscription_id)?.end !== "counted") begin();
  };
  since.onchange = begin;
  halt.onclick = () => page.counting?.abort();
  mend.onclick = () => recover(one);
  renderMissed(node, one);
}
// Return where to begin: three days, which attempts last, before the trouble, or before now.
function recoverFrom({ created_at, dismissed_until, failing_since, disabled_at, deliveries }) {
  const { oldest_missed_at: oldest } = deliveries;
  const [begun = Date.now()] = [oldest, failing_since, disabled_at].filter(Boolean).sort();
  const bounds = [created_at, dismissed_until].filter(Boolean);
  return Math.max(new Date(begun) - 3 * DAY, ...bounds.map((time) => Date.parse(time)));
}
async function countMissed(node, one, since) {
  page.counting?.abort();
  page.counting = new AbortController();
  const { signal } = page.counting;
  const given = { since, until: new Date().toISOString() };
  const missed = { ...given, rows: [], examined: 0, end: "" };
  page.missed.set(one.subscription_id, missed);
  const tellRows = (rows, examined) => {
    const last = rows.at(-1)?.created_at;
    Object.assign(missed, { rows: rows.toSorted(inGroups), examined, last });
    renderMissed(node, one);
  };
  renderMissed(node, one);
  try {
    await listMissed(one.subscription_id, given, signal, tellRows);
    if (!missed.rows.length && !takesAll(one)) missed.made = await countMade(one, given, signal);
    missed.end = "counted";
  } catch ({ message }) {
    missed.end = signal.aborted ? "Stopped" : message.replace(/\.$/, "");
  }
  renderMissed(node, one);
  if (missed.end === "counted") setSentence($("announcement"), tellMissed(missed, one));
}
const takesAll = (one) => !one.event_types && !one.filter;
// Return the deliveries that a webhook has of a time; null: more than are shown.
async function countMade({ subscription_id }, given, signal) {
  const options = { enough: MOST_SHOWN, signal };
  const { found, cursor } = await listEvents({ ...given, subscription_id }, options);
  const isReport = ({ event_type }) => event_type.startsWith("triggers.");
  return cursor ? null : [...found.values()].filter((one) => !isReport(one));
}
function tellGotAll({ examined, since, made }, one) {
  const looked = `${number(examined, "event")} since ${since}`;
  if (takesAll(one)) return `It got all of ${looked}`;
  if (!made) return `It got all that its types and filter take of ${looked}`;
  const got = made.filter(({ status }) => status === "delivered").length;
  const way = made.length > got ? `, ${made.length - got} under way` : "";
  const left = `types and filter leave out ${examined - made.length}`;
  return `It got all that it takes: ${got} of ${looked}${way}; ${left}`;
}
// Say how much was missed, and while it is counted what is known of the deliveries already.
function tellMissed(missed, one) {
  const { rows, examined, since, end, last } = missed;
  const isCounted = end === "counted";
  const count = (group) => rows.filter((row) => groupOf(row) === group).length;
  const counted = { failed: count("failed"), waiting: count("waiting") };
  const isKnown = !end && since <= one.deliveries.oldest_missed_at; // all of them are of that time
  const { failed, waiting } = isKnown ? one.deliveries : counted;
  const waits = [waiting, waiting === 1 ? "waits" : "wait"];
  const groups = [[count(""), "never sent"], [failed, "failed"], waits];
  const amounts = groups.filter(([amount]) => amount);
  const total = amounts.reduce((sum, [amount]) => sum + amount, 0).toLocaleString("en");
  const parts = amounts.map(([amount, words]) => `${amount.toLocaleString("en")} ${words}`);
  const looked = number(examined, "event");
  const told = `${total} that it missed since ${since}: ${parts.join(", ")}`;
  if (isCounted) return parts.length ? told : tellGotAll(missed, one);
  const came = `${looked}${last ? `, at one of ${last}` : ""}`;
  const halted = `${end}, after ${came}: there may be more.`;
  const going = `Looking for what was never sent since ${since}, at ${looked} …`;
  return `${parts.length ? `${told}. ` : ""}${end ? halted : going}`;
}
function renderMissed(node, one) {
  const { missed: told, reasons, mend, halt } = partsOf(node);
  const missed = page.missed.get(one.subscription_id);
  setSentence(told, missed ? tellMissed(missed, one) : "");
  hide(halt, !missed || missed.end !== "");
  const rows = missed?.rows ?? [];
  const verb = isOff(one) ? "Enable and recover" : "Recover";
  setText(mend, rows.length ? verb : "");
  const shown = rows.slice(0, SHOWN);
  const more = rows.length - shown.length;
  const rest = () => make("li", { class: "muted" }, `and ${more.toLocaleString("en")} more`);
  const items = () => shown.map((row) => make("li", {}, tellRow(row, one)));
  redraw(reasons, [missed?.until, shown, more], () => [...items(), ...(more ? [rest()] : [])]);
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
    const given = { since, until, cursor: null };
    do {
      const { body } = await insist("POST", `subscriptions/${id}/recover`, signal, given);
      done += body.sent + body.replayed;
      left += body.left;
      given.cursor = body.next_cursor;
      tellJob(`Recovering: ${done} of ${amount} queued`);
      showProgress(done, Math.max(done, rows.length));
    } while (given.cursor);
    page.missed.delete(id);
    const again = left ? `; ${left} failed less than a minute ago: recover these again then` : "";
    const letters = tellLetters(rows.map((row) => row.copy).filter(Boolean));
    return `${number(done, "event")} queued for ${nameOf(one)}${again}${done ? letters : ""}`;
  });
}
