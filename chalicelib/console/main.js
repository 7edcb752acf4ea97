// main.js: the address says which view is shown, with which filters; it is loaded periodically.
const LOADERS = { list: loadList, event: loadEvent, missing: search, orders: loadOrders };
LOADERS.subscriptions = loadSubscriptions;
// Load what the view shows, draw it, and call this function again after a while: the longer, the
// more calls a refresh makes. A refresh that is still going on ends.
async function refresh() {
  clearTimeout(page.timer);
  page.refreshing.abort();
  page.refreshing = new AbortController();
  page.calls = 0;
  const { signal } = page.refreshing;
  show();
  if (!page.key) return;
  try {
    if (!page.me) return welcome(await get("me?include=catalogue"));
    const { tenant, name, stage, expires_at } = page.me;
    const end = Date.parse(expires_at) > Date.now() ? relative(expires_at) : "now";
    setText($("who"), tenant ? `Page expires ${end}` : `${name} on ${stage}`);
    await LOADERS[page.view.name]();
    explain([], $("filters"));
    setText($("banner"), "");
    show();
  } catch (error) {
    if (signal.aborted || !showFailure(error)) return;
  }
  if (signal.aborted) return;
  dropPassed();
  dropPassedJob();
  const wait = CALL_MS * Math.max(page.calls, 1);
  page.timer = setTimeout(() => document.hidden || refresh(), wait);
}
// Refresh the view after an action: also its older pages and the names of webhooks, which are read
// less often.
function refreshAll() {
  Object.assign(page, { namesAt: 0, recent: [] });
  resetList(); // older pages are read again, too
  return refresh();
}
Object.assign(hooks, { refresh, refreshAll, route });
// Say what failed while the view was loaded; return whether to try again. Only errors with a code
// of this API end the page, not those of a proxy.
function showFailure(error) {
  const { status, code, message } = error;
  const { me, view, shownAt } = page;
  if (code === "forbidden" && me?.tenant) return miss("There is no such webhook: it was deleted.");
  if (code in ENDED) return forget(code);
  const gone = `There is no ${view.id ?? view.sought}: it expired or was deleted.`;
  if (code === "not_found" && (view.id ?? view.sought)) return miss(gone);
  if (status === 400 && view.sought) return missSubject(view.sought); // no subject is like that
  const isExplained = explain((error.errors ?? []).map(asSentence), $("filters"));
  if (isExplained) $("fold").open = true;
  const faults = { 0: `${message} Trying again.`, 400: `${message}${AGAIN}` };
  faults[undefined] = `This page has an error and cannot show everything (${message}).${AGAIN}`;
  const since = shownAt ? ` The data shown is from ${new Date(shownAt).toISOString()}.` : "";
  setSentence($("banner"), isExplained ? "" : `${faults[status] ?? message}${since}`);
  if (status === undefined) console.error(error);
  page.isRefused ||= status === 400;
  if (page.isRefused) resetList();
  return !page.isRefused; // until the filters change
}
// Show the view that the address names, with its filters. An address with `key` comes from a link
// with a key, which is removed from the address.
function route() {
  const hash = location.hash.replace(/^#key=/, "#/?key=");
  const [, path, text] = hash.match(/^#?([^?]*)\??(.*)$/);
  const values = new URLSearchParams(text.replaceAll("+", "%2B"));
  const { key: linked, ...given } = Object.fromEntries(values);
  if (linked !== undefined) history.replaceState(null, "", address(path || "/", given));
  const { view: left, me } = page;
  const found = path.match(/^\/(?:events|subscriptions)\/(.+)$/);
  const sought = (path === "/find" ? given.text : found?.[1]) ?? "";
  const view = { ...viewOf(path, sought), from: left.id };
  Object.assign(page, { view, isRefused: false, recent: [] });
  if (me?.tenant) delete given.tenant; // its own is known
  if (me?.tenant && view.name === "list" && !isOfCustomer(given)) view.name = "subscriptions";
  if (view.name === "list") {
    $("back").href = location.hash || "#/";
    const names = [...FIELDS.map(({ name }) => name), "state"];
    if (names.some((name) => page.filters[name] !== given[name])) resetList();
  }
  if (VIEWS[path]) page.filters = given;
  fillFields();
  const isSearch = !me?.tenant && path === "/find";
  if (view.name === "subscriptions") view.tenant = given.tenant;
  if (["name", "id", "sought", "tenant"].some((part) => left[part] !== view[part])) enter(left);
  if (view.name === "missing")
    miss(isSearch ? "Searching…" : "There is nothing here.", isSearch ? sought : "");
  refresh();
  if (linked && linked !== page.key) takeKey(linked);
}
// Return the view for a path, {name, id, sought}. `sought` is the id in the path, or the text of a
// search; empty: there is none.
function viewOf(path, sought) {
  const isWhole = ID.test(sought);
  const isOthers = sought.startsWith("evt_"); // which a token may not read
  const isCustomers = page.me?.tenant && sought;
  if (isCustomers && (isWhole ? isOthers : path === "/find")) return { name: "orders", sought };
  if (!isWhole) return { name: VIEWS[path] ?? "missing" };
  return { name: sought.startsWith("sub") ? "subscriptions" : "event", id: sought };
}
// Begin another view than `left`: forget what is shown, and scroll to the top.
function enter(left) {
  if (page.job && !isRunning()) endJob();
  for (const id of ["answer", "told"]) showAnswer($(id), "");
  set(document, { title: page.me?.tenant ?? "Triggers API" });
  Object.assign(page, { orders: [], listed: null, days: new Map(), shownAt: null });
  $("fold").open = false;
  if (left.name) askFocus();
  show();
  scrollTo(0, 0);
}
// Fill the fields of the filters from the address, except the field that has the focus.
function fillFields() {
  drawWebhookOptions();
  for (const field of FIELDS.filter((other) => other !== document.activeElement)) {
    const value = page.filters[field.name] ?? "";
    field.value = field.type === "datetime-local" ? asInput(value) : value;
  }
  $("sought").elements.text.value = page.filters.text ?? "";
}
// Return the filters that the fields have.
function readFields() {
  const given = Object.fromEntries(new FormData($("filters")));
  const { event_type: type } = given;
  const isWhole = !type || type.endsWith("*") || page.seen.types.has(type);
  const event_type = isWhole ? type : `${type}*`; // what is typed is a beginning
  return { ...given, event_type, since: fromInput(given.since), until: fromInput(given.until) };
}
// Put changed filters into the address, which shows what they match.
function go(changes) {
  const next = address("/", { ...page.filters, rows: "", ...changes });
  if (next === (location.hash || "#/")) return fillFields();
  location.hash = next;
}
$("filters").onchange = () => go(readFields());
$("older").onclick = () => go({ rows: shownItems() + PAGE });
$("clear").onclick = () => {
  location.hash = address("/", kept());
  $(HEADINGS[page.view.name]).focus();
};
$("replay-all").onclick = () => replayAll(page.filters);
$("find").onsubmit = () => {
  const next = address("/find", { text: $("find-text").value.trim() });
  if (next === location.hash) refreshAll();
  location.hash = next;
  $("find").reset();
};
$("skip").onclick = (click) => {
  click.preventDefault();
  const all = [...document.querySelectorAll(":is(#rows, #overview, #subscriptions) a")];
  (all.find((node) => node.offsetParent) ?? $(HEADINGS[page.view.name])).focus();
};
onkeydown = (press) => {
  const isTyping = press.target.closest("input, textarea, select, dialog");
  if (press.key !== "/" || isTyping || !$("find").offsetParent) return;
  press.preventDefault();
  $("find-text").focus();
};
ononline = refresh;
// Return whether a form of a webhook has edits that are not saved.
const isEdited = () =>
  [...$("subscriptions").querySelectorAll("form")].some((form) => form.isEdited?.());
// Unsaved edits are lost with their card: ask first, while the address is that of the view to
// leave.
onhashchange = async ({ oldURL }) => {
  if ($("confirm").dataset.hash !== location.hash) $("confirm").close(); // it asks of what is left
  if (!isEdited()) return route();
  const wanted = location.hash;
  history.replaceState(null, "", oldURL);
  const question = ["Leave without saving?", "Your edits will be lost.", "Leave", "Stay"];
  if (!(await confirm(...question))) return;
  $("subscriptions").replaceChildren();
  location.hash = wanted;
};
onbeforeunload = (leaving) => {
  if (isRunning() || isEdited()) leaving.preventDefault();
};
document.onvisibilitychange = () => document.hidden || refresh();
setInterval(() => {
  const { me, view, event } = page;
  showAge();
  if (me && view.name === "list") renderList();
  else if (event && event.event_id === view.id) drawTimeline();
}, 1000);
route();
if (!page.key) askTabs();
