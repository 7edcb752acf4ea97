// The list: one row for an event and its copies. Under a filter by subscription, and for a
// customer, a row is one delivery.
let rows = [];
let isListed = false;
let isRefused = false; // the filters are, until they change
let scrolledTo = 0;
const isOfOne = () => Boolean(filters.subscription_id);
const shownItems = () => Math.min(Math.max(Number(filters.rows) || PAGE, PAGE), MOST_SHOWN);

// Forget what was read under other filters; its rows stay until there are new ones.
function resetList() {
  isListed = false;
  counted = {};
  countedAt = 0;
}
async function loadList() {
  const { subscription_id: id } = filters;
  if (me.tenant) {
    const { found } = await loadSubscriptions(me.tenant);
    const isThere = found.some((one) => one.subscription_id === id);
    if (!isThere) return miss("There is no such webhook. It was deleted.");
  }
  const given = { ...filters, include: "subject" };
  const { found, isMore } = await listEvents(given, shownItems(), refreshing.signal);
  const items = [...found.values()];
  remember(items);
  rows = rowsOf(items);
  isListed = true;
  $("older").hidden = !isMore || shownItems() === MOST_SHOWN;
  renderList();
  markShown();
  await learn(items.toSorted((a, b) => rank(a) - rank(b)));
  renderList();
  const isMoreUnread = !isOfOne() && (await loadUnread());
  await loadCounts(items);
  return isMoreUnread;
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
// Load the copies of up to five rows that are not known in full; return whether there are more.
async function loadUnread() {
  const unread = rows.filter((row) => !families.has(row.id) || copiesOf(row).unread > 0);
  for (const { id } of unread.slice(0, 5)) {
    await loadRecipients(id).catch((error) => {
      if (error.status !== 404) throw error;
      families.set(id, []); // erased meanwhile
    });
    renderList();
  }
  return unread.length > 5;
}
function fillRow(node, row) {
  const parts = partsOf(node);
  const { read, unread } = copiesOf(row);
  const worst = worstItem(row, read);
  const one = row.event ?? worst;
  const attempts = worst.delivery_attempts;
  const clocked = me.tenant ? `, ${clock(one.created_at)}` : "";
  const [state, tone] = isForNobody(worst) ? NOBODY : [worst.status, worst.status];
  setText(parts.state, state);
  setTone(parts.state, "badge", tone);
  setText(parts.subject, one.subject ?? `${row.id.slice(0, 12)}…`);
  setText(parts.type, one.event_type);
  setText(parts.remark, toldOf(row, read, unread).filter(Boolean).join(", "));
  setText(parts.tries, attempts ? number(attempts, "attempt") : "");
  setText(parts.age, `${relative(one.created_at)}${clocked}`);
  parts.age.title = utc(one.created_at);
  node.firstElementChild.href = `#/events/${row.id}`;
}
// Return what of a row has the worst state, a copy rather than the event itself.
function worstItem({ event: own }, read) {
  const pushed = own && own.delivered_via !== "subscriptions" ? [own] : [];
  const all = [...read, ...pushed].filter(({ status }) => status !== "deleted");
  return all.sort((a, b) => rank(a) - rank(b))[0] ?? own;
}
function toldOf(row, read, unread) {
  const { event: own } = row;
  if (me.tenant) return [remark(own)];
  const worst = worstItem(row, read);
  const { tenant } = own ?? worst;
  const whose = tenant && `for ${tenant}`;
  if (isOfOne()) return [whose, `to ${label(own.subscription_id)}`, remark(own)];
  const statuses = read.map(({ status }) => status);
  const count = statuses.length + unread;
  if (!count) return [whose, isForNobody(own) ? "matched no webhook" : remark(own)];
  const isWhole = families.has(row.id);
  const whole = isWhole && became(statuses, unread);
  if (worst.status === "delivered") return [whose, whole];
  const name = worst === own ? "your own webhook" : shortLabel(worst.subscription_id);
  return [whose, whole, `${name}: ${remark(worst)}`];
}

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
