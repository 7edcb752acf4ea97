// The list: one row for an event and its copies. Under a filter by webhook, and for a customer, a
// row is one delivery.
let loaded = new Map(); // events and copies, by id, the newest first
let olderCursor = null; // of what is older than those
let rows = [];
let isListed = false;
let isRefused = false; // the filters are, until they change
let scrolledTo = 0;
const isOfOne = () => Boolean(filters.subscription_id);
const isWithoutCopies = () => !isOfOne() && filters.copies === "no";
const shownItems = () => Math.min(Math.max(Number(filters.rows) || PAGE, PAGE), MOST_SHOWN);

// Forget what was read under other filters; its rows stay until there are new ones.
function resetList() {
  isListed = false;
  counted = {};
  countedAt = 0;
  loaded = new Map();
  olderCursor = null;
}
async function loadList() {
  const { subscription_id: id } = filters;
  if (me.tenant) {
    const { found } = await loadSubscriptions(me.tenant);
    const isThere = found.some((one) => one.subscription_id === id);
    if (!isThere) return miss("There is no such webhook. It was deleted.");
  }
  const { signal } = refreshing;
  const given = { ...filters, include: "subject" };
  takeNewest(await listEvents(given, PAGE, signal));
  while (olderCursor && loaded.size < shownItems()) {
    takeOlder(await listEvents(given, PAGE, signal, undefined, olderCursor));
  }
  const items = [...loaded.values()];
  const byRank = items.toSorted((a, b) => rank(a) - rank(b));
  if (!loadedAt.size) await learn(byRank); // else a tone could be wrong for a moment
  rows = rowsOf(items);
  isListed = true;
  countAgain(items);
  $("older").hidden = !olderCursor || loaded.size >= MOST_SHOWN;
  renderList();
  markShown();
  await learn(byRank);
  renderList();
  besides(async (signal) => {
    await loadCounts(signal);
    if (!isOfOne()) await loadUnread(signal);
  });
}
// Put the newest page above what was loaded before it, if the two meet.
function takeNewest({ found, cursor }) {
  const items = keep(found);
  const oldest = items.at(-1)?.created_at;
  const isMeeting = items.some((one) => loaded.has(idOf(one)));
  const isLonger = cursor && isMeeting && shownItems() > PAGE;
  const older = isLonger ? [...loaded.values()].filter((one) => one.created_at <= oldest) : [];
  const rest = older.filter((one) => !found.has(idOf(one)));
  loaded = new Map([...items, ...rest].slice(0, MOST_SHOWN).map((one) => [idOf(one), one]));
  if (!isLonger) olderCursor = cursor;
}
function takeOlder({ found, cursor }) {
  for (const one of keep(found)) loaded.set(idOf(one), one);
  olderCursor = cursor;
}
// Return the items of a page, marked with the time at which they were read.
function keep(found) {
  const readAt = Date.now();
  const items = [...found.values()].map((one) => ({ ...one, readAt }));
  remember(items);
  return items;
}
function rowsOf(items) {
  const found = new Map();
  for (const item of items) {
    const isOwn = isOfOne() || !item.source_event_id;
    const id = isOwn ? item.event_id : item.source_event_id;
    const row = found.get(id) ?? { id, items: [] };
    if (isOwn) row.event = item;
    else row.items.push(item);
    found.set(id, row);
  }
  return [...found.values()];
}
// Return the copies of a row as far as they are read, and the number of those that are not.
function copiesOf({ id, items }) {
  const ids = new Set([...(isOfOne() ? [] : (families.get(id) ?? [])), ...items.map(idOf)]);
  const read = [...ids].map((one) => copies.get(one)).filter(Boolean);
  return { read: read.sort((a, b) => rank(a) - rank(b)), unread: ids.size - read.length };
}
const idOf = (one) => one.event_id;
// Return whose copies a row has, as `judge` takes them, and how many are not read yet.
function sidesOf(row) {
  const { read, unread } = copiesOf(row);
  const none = { tenantCopies: [], operatorCopies: [], unread: 0 };
  if (isOfOne()) return { ...none, ownPush: [row.event] };
  if (isWithoutCopies()) return { ...none, ownPush: pushedItself(row.event) };
  const { tenant, created_at } = row.event ?? row.items[0];
  const isTheirs = (one) => subscriptions.get(one.subscription_id)?.tenant === tenant;
  const isOfTenants = Boolean(tenant) && owners.has(tenant);
  const isYours = (one) => !isTheirs(one) && isNamed(one.subscription_id);
  return {
    tenantCopies: isOfTenants ? read.filter(isTheirs) : [],
    // whose webhook is gone, nobody knows
    operatorCopies: isOfTenants ? read.filter(isYours) : read,
    ownPush: pushedItself(row.event),
    isOfTenants,
    isLate: created_at < owners.get(tenant),
    unread,
  };
}
// Judge a row: its event or, under a filter by status, what of it matches that.
function judgeRow(row, sides) {
  const verdict = judge(sides);
  const { status } = filters;
  const matched = [...pushedItself(row.event), ...row.items].filter((one) => one.status === status);
  const isOthers = status === "delivered" && verdict.tone === "absent";
  if (!matched.length || isOthers) return verdict;
  const state = worstOf(matched.map(itemState));
  return { state, tone: toneOf(state), judged: matched };
}
// Return what a badge shows: nothing good before all copies are read.
function badgeOf(row, sides) {
  const verdict = judgeRow(row, sides);
  const isOpen = sides.unread && !filters.status && ["delivered", "absent"].includes(verdict.tone);
  return isOpen ? { ...verdict, state: "…", tone: "" } : verdict;
}
// Load the copies of some of the rows that are not known in full.
async function loadUnread(signal) {
  const unread = rows.filter((row) => !families.has(row.id) || copiesOf(row).unread > 0);
  for (const { id } of unread.slice(0, 20)) {
    await loadRecipients(id, signal).catch((error) => {
      if (error.status !== 404) throw error;
      families.set(id, []); // erased meanwhile
    });
    renderList();
  }
}
function fillRow(node, row) {
  const parts = partsOf(node);
  const sides = sidesOf(row);
  const { state, tone, judged } = badgeOf(row, sides);
  const one = row.event ?? row.items[0];
  const deciding = worstItemOf(judged) ?? one;
  const attempts = judged.length && deciding.delivery_attempts;
  const clocked = me.tenant ? `, ${clock(one.created_at)}` : "";
  setText(parts.state, state);
  setTone(parts.state, "badge", tone);
  setText(parts.subject, one.subject ?? `${row.id.slice(0, 12)}…`);
  setText(parts.type, one.event_type);
  setText(parts.remark, toldOf(row, sides, deciding).filter(Boolean).join(", "));
  setText(parts.tries, attempts ? number(attempts, "attempt") : "");
  setText(parts.age, `${relative(one.created_at)}${clocked}`);
  parts.age.title = utc(one.created_at);
  node.firstElementChild.href = `#/events/${row.id}`;
}
function toldOf(row, sides, deciding) {
  const { event: own } = row;
  const { tenant, readAt } = own ?? row.items[0];
  const old = isListed && shownAt - readAt > OLD_MS && asOf(readAt);
  if (me.tenant) return [remark(own), old];
  const whose = tenant && `for ${tenant}`;
  if (isOfOne()) return [whose, `to ${label(own.subscription_id)}`, remark(own), old];
  const { tenantCopies, operatorCopies, ownPush, isOfTenants, unread } = sides;
  const isSent = tenantCopies.length + operatorCopies.length + unread > 0;
  const none = isForNobody(deciding) ? "matched no webhook" : remark(deciding);
  if (!isSent && !isOfTenants) return [whose, none, old];
  const unsent = tellUnsent(sides, tenant);
  const told = families.has(row.id) && tellBecame(sides, unread, unsent);
  const whom = told && told.startsWith(unsent) ? "" : whose;
  const trouble = [deciding, ...ownPush].filter(({ status }) => status !== "delivered");
  const reasons = [...new Set(trouble)].map((one) => `${nameOfItem(one)}: ${remark(one)}`);
  return [whom, told, ...reasons, old];
}
const nameOfItem = (one) =>
  one.subscription_id ? shortLabel(one.subscription_id) : "your own webhook";

function renderList() {
  showItems($("rows"), rows, "id", "row", fillRow);
  $("rows").ariaBusy = String(!isListed);
  const none = me.tenant ? "Nothing was sent yet." : "No events yet. Post one:";
  const empty = isFiltered() ? "No event matches." : none;
  const name = me.tenant ? `Deliveries to ${label(filters.subscription_id ?? "")}` : "Events";
  setText($("list-name"), name);
  setText($("empty-text"), isRefused ? "Correct the filters." : isListed ? empty : "Loading…");
  $("empty").hidden = rows.length > 0;
  $("example").hidden = isFiltered() || !isListed || isRefused || Boolean(me.tenant);
  $("replay-all").hidden = !rows.length;
  drawSubscriptionOptions();
  renderCounts();
}
function drawSubscriptionOptions() {
  const chosen = filters.subscription_id ?? "";
  const select = $("subscription_id");
  const ids = [...new Set(["", chosen, ...subscriptions.keys()])];
  const options = ids.map((id) => [id ? label(id) : "all", id]);
  redraw(select, options, () => options.map((option) => new Option(...option)));
  if (document.activeElement !== select) select.value = chosen;
}
