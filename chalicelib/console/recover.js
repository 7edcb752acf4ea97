// recover.js: what did not arrive is sent again; what was never sent is looked for, then sent, too.
const SHOWN = 10; // of what was found
const verbOf = (one) => (isOff(one) ? "Enable and recover" : "Recover");
// The button says what the API counts, and the API pushes that again.
function fillRecover(button, one) {
  const { deliveries: some } = one;
  setText(button, isMissing(one) ? `${verbOf(one)} ${tellUndelivered(some)}`.trim() : "");
  set(button, { ariaDescription: nameOf(one) });
  button.onclick = () => recover(one, {}, some.failed + some.waiting);
}
function fillLook(node, one) {
  const { since, look, halt, mend } = partsOf(node);
  // What is older was hardly meant for it.
  since.defaultValue ||= asInput(Math.max(Date.now() - 3 * DAY, Date.parse(one.created_at)));
  look.onclick = () => since.value && countMissed(node, one, fromInput(since.value));
  node.ontoggle = () => node.open || page.counting?.abort();
  halt.onclick = () => page.counting?.abort();
  mend.onclick = () => recoverFound(one);
  renderMissed(node, one);
}
async function countMissed(node, one, typed) {
  page.counting?.abort();
  page.counting = new AbortController();
  const { signal } = page.counting;
  const [, since] = [typed, one.dismissed_until ?? ""].sort(); // what was dismissed is left out
  const given = { since, until: new Date().toISOString() };
  const missed = { ...given, rows: [], examined: 0, end: "" };
  page.missed.set(one.subscription_id, missed);
  const tellRows = (rows, examined) => {
    const last = rows.at(-1)?.created_at;
    const sorted = rows.toSorted((a, b) => Boolean(a.copy) - Boolean(b.copy));
    Object.assign(missed, { rows: sorted, examined, last });
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
// Return how many deliveries a webhook has of a time; null: more than are shown.
async function countMade({ subscription_id, dismissed_until }, given, signal) {
  const options = { enough: MOST_SHOWN, signal };
  const { found, cursor } = await listEvents({ ...given, subscription_id }, options);
  const isExamined = ({ event_type, created_at }) =>
    !event_type.startsWith("triggers.") && created_at > (dismissed_until ?? "");
  return cursor ? null : [...found.values()].filter(isExamined).length;
}
function tellSentAll({ examined, since, made }, one) {
  const looked = `${number(examined, "event")} since ${since}`;
  if (takesAll(one)) return `It was sent all of ${looked}`;
  if (made === null) return `It was sent all that its types and filter take of ${looked}`;
  const left = `types and filter leave out ${examined - made}`;
  return `It was sent all that it takes: ${made} of ${looked}; ${left}`;
}
// Say what was found, and while it is looked for how far that came.
function tellMissed(missed, one) {
  const { rows, examined, since, end, last } = missed;
  if (end === "counted" && !rows.length) return tellSentAll(missed, one);
  const count = (word, isIn) => [rows.filter(isIn).length, word];
  const unsent = count("never sent", (row) => !row.copy);
  const others = ["failed", "waiting"].map((word) => count(word, ({ reason }) => reason === word));
  const amounts = [unsent, ...others.filter(([amount]) => amount)];
  const parts = amounts.map(([amount, word]) => `${amount.toLocaleString("en")} ${word}`);
  const found = `${parts.join(", ")} of ${number(examined, "event")} since ${since}`;
  if (end === "counted") return found;
  const came = last ? `, at one of ${last}` : "";
  return end ? `${found}. ${end}${came}: there may be more.` : `Looking: ${found} …`;
}
function renderMissed(node, one) {
  const { missed: told, reasons, mend, halt } = partsOf(node);
  const missed = page.missed.get(one.subscription_id);
  setSentence(told, missed ? tellMissed(missed, one) : "");
  hide(halt, !missed || missed.end !== "");
  const rows = missed?.rows ?? [];
  setText(mend, rows.length ? `${verbOf(one)} these ${rows.length.toLocaleString("en")}` : "");
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
// Recover what was found, up to the time at which it was; more than is shown is asked for first.
async function recoverFound(one) {
  const missed = page.missed.get(one.subscription_id);
  const { since, until, rows, end } = missed;
  const least = end === "counted" ? "" : "at least ";
  const asked = `Recover ${least}${number(rows.length, "event")} for ${nameOf(one)}?`;
  const question = [asked, tellMissed(missed, one), "Recover"];
  if ((rows.length > SHOWN || least) && !(await confirm(...question))) return;
  await recover(one, { since, until }, rows.length);
}
// Recover, of about `total`, what did not arrive or, with `since`, what was never sent, too.
const recover = (one, given, total) =>
  runJob(async (signal) => {
    const { subscription_id: id, deliveries } = one;
    page.counting?.abort();
    tellJob("Recovering");
    if (isOff(one)) await insist("POST", `subscriptions/${id}/enable`, signal);
    const asked = { ...given, cursor: null };
    let done = 0;
    let left = 0;
    do {
      const { body } = await insist("POST", `subscriptions/${id}/recover`, signal, asked);
      done += body.sent + body.replayed;
      left += body.left;
      asked.cursor = body.next_cursor;
      tellJob(`Recovering: ${done} of ${number(total, "event", deliveries.has_more)} queued`);
      showProgress(done + left, Math.max(done + left, total));
    } while (asked.cursor && !signal.aborted);
    page.missed.delete(id);
    const end = asked.cursor ? ", then stopped" : "";
    const again = left ? `; ${left} were tried within a minute, or are about to be` : "";
    const failed = { event_id: "cpy_", subscription_id: id, status: "failed" };
    const letters = done && deliveries.failed ? tellLetters([failed]) : "";
    return `${number(done, "event")} queued for ${nameOf(one)}${end}${again}${letters}`;
  });
