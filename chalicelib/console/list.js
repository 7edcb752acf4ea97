// list.js: one row for an event and its copies; of one webhook, and for a customer, for a delivery.
// Return whether each row of the list is one delivery: of one webhook, or of what did not arrive.
const isOfOne = () => isOfAll() || Boolean(page.filters.subscription_id);
// Return how many items the list shows at least, if there are so many: PAGE, or more after the
// button Older was pressed.
const shownItems = () => Math.min(Math.max(Number(page.filters.rows) || PAGE, PAGE), MOST_SHOWN);
// Forget what was read under other filters. The rows stay until there are new ones.
function resetList() {
  Object.assign(page, { isListed: false, loaded: new Map(), olderCursor: null });
}
// Load the list under the filters of the page, and draw it.
async function loadList() {
  if (isOfAll()) return loadUndelivered();
  const source = isOfOne() || page.filters.status ? "" : "original"; // a copy alone may match
  const given = { ...page.filters, include: isOfOne() ? "subject" : "outcome", source };
  const options = { enough: PAGE, least: 1 };
  takeNewest(await listEvents(given, options));
  while (page.olderCursor && page.loaded.size < shownItems()) {
    const older = await listEvents(given, { ...options, cursor: page.olderCursor });
    for (const item of keep(older.found)) page.loaded.set(idOf(item), item);
    page.olderCursor = older.cursor;
  }
  page.isListed = true;
  markShown();
  renderList();
  await learn();
  renderList();
}
// Load the deliveries that did not arrive at the webhooks of a tenant: all of them, or those in the
// state that the address names.
async function loadUndelivered() {
  const { state, tenant } = page.filters;
  await loadWebhooks({ include: "deliveries", tenant });
  const found = new Map();
  page.olderCursor = null;
  for (const webhook of [...page.webhooks.values()].filter(isMissing)) {
    const { items, cursor } = await listUndelivered(webhook, page.filters);
    for (const item of items)
      if (!state || stateOfPush(item) === state) found.set(idOf(item), item);
    page.olderCursor ??= cursor;
  }
  const items = keep(found).sort(newestFirst);
  page.loaded = new Map(items.slice(0, MOST_SHOWN).map((item) => [idOf(item), item]));
  page.isListed = true;
  markShown();
  renderList();
}
// Return the newest deliveries to a webhook that did not arrive, under the filters `given`: {items,
// cursor}. Like the API's counts, they leave out reports and dismissed deliveries.
async function listUndelivered(webhook, given) {
  const { subscription_id, dismissed_until: dismissed } = webhook;
  const [, since] = [given.since ?? "", dismissed ?? ""].sort();
  const asked = { ...given, subscription_id, since, status: "undelivered", include: "subject" };
  const { found, cursor } = await listEvents({ ...asked, tenant: "" }, { enough: PAGE });
  const isCounted = ({ created_at, event_type }) =>
    !event_type.startsWith("triggers.") && created_at > (dismissed ?? "");
  return { items: [...found.values()].filter(isCounted), cursor };
}
// Show the newest page of the list, and below it what was loaded before, if the page reaches as far
// back. Otherwise what was loaded before is dropped.
function takeNewest({ found, cursor }) {
  const items = keep(found);
  const oldest = items.at(-1)?.created_at;
  const isMeeting = items.some((item) => page.loaded.has(idOf(item)));
  const isLonger = cursor && isMeeting && (shownItems() > PAGE || items.length < PAGE);
  const before = isLonger ? [...page.loaded.values()] : [];
  const older = before.filter((item) => item.created_at <= oldest && !found.has(idOf(item)));
  const shown = [...items, ...older].slice(0, MOST_SHOWN);
  page.loaded = new Map(shown.map((item) => [idOf(item), item]));
  if (!isLonger) page.olderCursor = cursor;
}
// Return the items of a page, each with the time at which it was read.
function keep(found) {
  const readAt = Date.now();
  return [...found.values()].map((item) => ({ ...item, readAt }));
}
// Return a row for each event, or for each delivery if the list is of deliveries: {id, item,
// isEvent, state, time}. `item` is the event or, if only copies of it are in the list, one of
// these.
function rowsOf(items) {
  const rows = new Map();
  for (const item of items) {
    const id = isOfOne() ? item.event_id : (item.source_event_id ?? item.event_id);
    const isEvent = id === item.event_id;
    const outcome = item.outcome && withKept(item);
    const state = isOfOne() ? stateOfPush(item) : (outcome?.state ?? "deleted");
    const time = Date.parse(item.created_at);
    const row = { id, item: { ...item, outcome }, isEvent, state, time };
    if (isEvent || !rows.has(id)) rows.set(id, row);
  }
  return [...rows.values()];
}
// Fill a row of the list.
function fillRow(node, { id, item, isEvent, state }) {
  const parts = partsOf(node);
  const isOwn = isEvent && (isOfOne() || isOwnAlone(item));
  const attempts = isOwn ? item.delivery_attempts : 0;
  setText(parts.state, wordOf(state));
  setTone(parts.state, "badge", toneOf(state));
  setText(parts.subject, item.subject ?? `${id.slice(0, 12)}…`);
  setText(parts.type, item.event_type);
  const old = page.shownAt - item.readAt > OLD_MS && asOf(item.readAt);
  setSentence(parts.remark, [...remarksOf(item, isOwn), old].filter(Boolean).join(", "));
  setText(parts.tries, attempts ? number(attempts, "attempt") : "");
  const ago = relative(item.created_at);
  setSentence(parts.age, page.me.tenant ? `${ago}, ${item.created_at}` : ago);
  set(parts.age, { title: utc(item.created_at) });
  setLink(node.firstElementChild, `#/events/${id}`);
}
// Return what a row says beside the state of an item, as texts; empty or false ones are not shown.
// `isOwn` says that the event's own push is all that there is to say.
function remarksOf(item, isOwn) {
  const { tenant, outcome, delivered_via } = item;
  if (isOfAll()) return [`to ${nameById(item.subscription_id)}`, remark(item)];
  if (page.me.tenant) return [remark(item)];
  const whose = tenant && `for ${tenant}`;
  if (isOfOne()) return [whose, `to ${label(page.filters.subscription_id)}`, remark(item)];
  const isUnmatched = delivered_via === "subscriptions";
  if (isOwn) return [whose, isUnmatched ? "matched no webhook" : remark(item)];
  if (!outcome) return [whose]; // the event was erased a moment ago
  const became = describeOutcome(outcome, tenant, true);
  return [!became.startsWith("not ") && whose, became];
}
// Draw the link back to the webhooks to which the list belongs.
function drawBack() {
  const { me, filters } = page;
  const { tenant } = filters;
  showText($("to-webhooks"), me.tenant ? "← All webhooks" : `← Webhooks of ${tenant}`);
  setLink($("to-webhooks"), me.tenant ? "#/" : address("/subscriptions", { tenant }));
  hide($("to-webhooks"), !me.tenant && !isOfAll());
}
// The title of a list of deliveries that did not arrive, by the state that the address names.
const UNDELIVERED = { failed: "What failed", waiting: "What waits", kept: "What is kept" };
// Draw the list, with its title, counts and buttons, from what is loaded.
function renderList() {
  const { me, isListed, filters, isRefused } = page;
  const rows = rowsOf(page.loaded.values());
  if (isListed || isRefused) showItems($("rows"), rows, "id", "row", fillRow);
  set($("rows"), { ariaBusy: String(!isListed) });
  const none = me.tenant ? "Nothing has been sent yet." : "No events yet.";
  const nothing = isOfAll() ? "No delivery has failed or is waiting." : none;
  const empty = isFiltered() ? "No event matches." : nothing;
  const { subscription_id: owner } = filters;
  const name = owner ? `Deliveries to ${label(owner)}` : "Events";
  const whose = me.tenant || !filters.tenant ? "" : ` for ${filters.tenant}`;
  const undelivered = UNDELIVERED[filters.state] ?? "What did not arrive";
  const since = filters.since ? ` since ${filters.since}` : "";
  setSentence($("list-name"), isOfAll() ? `${undelivered}${whose}${since}` : name);
  drawBack();
  setTone($("list-title"), "", isOfOne() ? "" : "unseen");
  hide($("listing"), isListed || isRefused);
  const told = isRefused ? "Correct the filters." : isListed ? empty : "";
  setText($("empty"), $("rows").children.length ? "" : told);
  hide($("older"), isOfAll() || !page.olderCursor || page.loaded.size >= MOST_SHOWN);
  hide($("replay-all"), !rows.length || isOfAll() || !(isFiltered() || isOfOne()));
  hide($("filters").elements.status.parentNode, isOfAll());
  set($("of-webhook"), { disabled: !owner || owner === OWN });
  drawWebhookOptions();
  if (isRefused) redraw($("counted"), null, () => []);
  if (!isListed) return;
  drawCounts(rows, isOfOne() ? "delivery" : "event");
  drawChart(rows);
}
// Draw the choice of the webhook among the filters.
function drawWebhookOptions() {
  const chosen = page.filters.subscription_id ?? "";
  const own = page.me?.webhook ? [OWN] : [];
  const ids = [...new Set(["", ...own, chosen, ...page.webhooks.keys()])];
  const named = (id) => (id === OWN ? upper(label(id)) : label(id));
  const options = ids.map((id) => [id ? named(id) : "all", id]);
  redraw($("subscription_id"), options, () => options.map((option) => new Option(...option)));
  if (document.activeElement !== $("subscription_id")) $("subscription_id").value = chosen;
}
