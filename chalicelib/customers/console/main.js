// The address says what is shown, and the filters; the view is loaded anew every few seconds.
const LOADERS = {
  list: loadList,
  event: loadEvent,
  subscriptions: showSubscriptions,
  missing: search,
  orders: loadOrders,
};
const FIELDS = [...$("filters").querySelectorAll("[name]")];
let timer;
let typing;
let shownAt; // when the main part of the view was loaded last
function markShown() {
  shownAt = Date.now();
  tellAge();
}
function tellAge() {
  const isOld = key && shownAt && Date.now() - shownAt > OLD_MS;
  setText($("as-of"), isOld ? asOf(shownAt) : "");
}

async function refresh() {
  clearTimeout(timer);
  refreshing.abort();
  refreshing = new AbortController();
  const { signal } = refreshing;
  const startedAt = performance.now();
  show();
  if (!key) return;
  try {
    if (!me) return welcome(await get("me"));
    setText(
      $("who"),
      me.tenant ? `Page ends ${relative(me.expires_at)}` : `${me.name} on ${me.stage}`,
    );
    show();
    await LOADERS[view.name]();
    explain([], $("filters"));
    setText($("banner"), "");
  } catch (error) {
    if (signal.aborted || !showFailure(error)) return;
  }
  // what reads much is read less often, but before it is too old
  const took = performance.now() - startedAt;
  const wait = Math.max(REFRESH_MS, Math.min(10 * took, OLD_MS - 1e3 - took));
  timer = setTimeout(() => document.hidden || refresh(), wait);
}
const refreshAll = () => {
  stopCounting();
  recent.forEach((one) => (one.at = 0));
  countedAt = 0;
  areOrdersDue = true;
  loaded.clear(); // older pages are read again, too
  return refresh();
};
// Do what completes the rows beside them: a refresh neither waits for it nor ends it.
async function besides(work) {
  if (counting) return;
  const own = new AbortController();
  counting = own;
  await work(own.signal).catch((error) => own.signal.aborted || showFailure(error));
  if (counting === own) counting = null;
}
function stopCounting() {
  counting?.abort();
  counting = null;
}
// Say what failed, above what was shown before; return whether to try again.
function showFailure(error) {
  const { status, message } = error;
  if (status === 403 && me?.tenant) return miss("This webhook was deleted.");
  if (status === 401 || status === 403) return forget(status);
  if (status === 404 && view.id) return miss(`There is no ${view.id}: it expired or was deleted.`);
  const isExplained = explain((error.errors ?? []).map(asSentence), $("filters"));
  if (isExplained) $("fold").open = true;
  const trouble = status ? message : `The API does not respond (${message}). Trying again.`;
  const since = shownAt ? ` What is shown is of ${utc(shownAt)}.` : "";
  setText($("banner"), isExplained ? "" : `${trouble}${since}`);
  isRefused = isRefused || status === 400;
  if (isRefused && view.name === "list") {
    rows = [];
    renderList();
  }
  return !isRefused; // until the filters change
}
function show() {
  const isLoading = !me || (view.name === "event" && event?.event_id !== view.id);
  const shown = isLoading ? "-" : view.name;
  for (const node of document.querySelectorAll("[data-view]")) {
    node.hidden = !node.dataset.view.includes(shown);
  }
  $("top").hidden = !me;
  $("subscriptions-title").className = view.id ? "unseen" : ""; // the card has a heading
  for (const id of ["all-webhooks", "finding"]) {
    $(id).hidden = shown !== "subscriptions" || Boolean(view.id) === (id === "finding");
  }
  $("login").hidden = Boolean(key);
  for (const node of $("nav").children) {
    node.ariaCurrent = VIEWS[node.hash.slice(1)] === shown ? "page" : null;
  }
  $("clear").hidden = !isFiltered();
  const set = FIELDS.filter(({ name }) => filters[name] && !kept()[name]);
  const names = set.map((field) => field.closest("label").firstChild.textContent.trim());
  setText($("folded"), ["Filters", names.join(", ")].filter(Boolean).join(": "));
  for (const id of ["types", "tenants"]) offer($(id), seen[id]);
}

function route(isTyped = false) {
  const hash = location.hash.replace(/^#key=/, "#/?key=");
  const [, path, text] = hash.match(/^#?([^?]*)\??(.*)$/);
  const values = Object.fromEntries(new URLSearchParams(text.replaceAll("+", "%2B")));
  const { key: linked, ...given } = values;
  if (linked !== undefined) history.replaceState(null, "", address(path || "/", given));
  const left = view;
  stopCounting();
  const sought =
    path === "/find" ? given.text : path.match(/^\/(?:events|subscriptions)\/(.+)$/)?.[1];
  view = viewOf(path, sought ?? "");
  isRefused = false;
  if (me?.tenant) delete given.tenant; // its own is known
  if (me?.tenant && view.name === "list" && !given.subscription_id) view.name = "subscriptions";
  if (left.name === "list" && view.name !== "list") scrolledTo = scrollY;
  if (view.name === "list") {
    $("back").href = location.hash || "#/";
    const isOther = FIELDS.some(({ name }) => filters[name] !== given[name]);
    if (isOther) resetList();
  }
  if (VIEWS[path]) filters = given;
  if (!isTyped) fillFields();
  const isSearch = !me?.tenant && (path === "/find" || ID.test(sought ?? ""));
  if (view.name === "missing")
    miss(isSearch ? "Searching…" : "Nothing is here.", isSearch ? sought : "");
  else if (["name", "id", "sought"].some((part) => left[part] !== view[part])) enter(left);
  refresh();
  if (linked) takeKey(linked);
}
function viewOf(path, sought) {
  const isWhole = ID.test(sought) && sought.length === 36;
  if (!isWhole && me?.tenant && path === "/find" && sought) return { name: "orders", sought };
  if (!isWhole) return { name: VIEWS[path] ?? "missing" };
  return { name: sought.startsWith("sub") ? "subscriptions" : "event", id: sought };
}
function enter(left) {
  explain([], $("filters"));
  setText($("answer"), "");
  document.title = me?.tenant ?? "Triggers API";
  pinned.clear();
  areOrdersDue = true;
  foldFilters();
  shownAt = null;
  show();
  scrollTo(0, view.name === "list" ? scrolledTo : 0);
  const row = [...$("rows").children].find((item) => item.dataset.id === left.id);
  const isBack = view.name === "list" && row;
  const focused = isBack ? row.firstElementChild : $(HEADINGS[view.name]);
  if (left.name) focused.focus({ preventScroll: true });
}
function fillFields() {
  drawSubscriptionOptions();
  for (const field of FIELDS) field.value = filters[field.name] ?? "";
  $("sought").elements.text.value = filters.text ?? "";
}
function readFields() {
  const given = Object.fromEntries(new FormData($("filters")));
  const { event_type: type } = given;
  const isWhole = !type || type.endsWith("*") || seen.types.has(type);
  return { ...given, event_type: isWhole ? type : `${type}*` }; // what is typed is a beginning
}
// Put filters into the address and show what they match; `isTyped`: while someone types, without a
// step for "back".
function go(changes, isTyped = false) {
  clearTimeout(typing);
  const base = view.name === "list" ? "/" : "/subscriptions";
  const next = address(base, { ...filters, rows: "", ...changes });
  if (next === (location.hash || "#/")) return fillFields();
  history[isTyped ? "replaceState" : "pushState"](null, "", next);
  route(isTyped);
}
$("filters").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(() => go(readFields(), true), TYPING_MS);
};
$("filters").onchange = () => go(readFields());
for (const status of STATUSES) {
  $(status).onclick = () => go({ status: filters.status === status ? "" : status });
}
$("older").onclick = () => go({ rows: shownItems() + PAGE });
$("clear").onclick = () => {
  location.hash = address("/", kept());
  $(HEADINGS[view.name]).focus();
};
$("replay-all").onclick = () => replayAll(filters);
// On a narrow screen the filters are folded.
const isWide = matchMedia("(min-width: 641px)");
isWide.onchange = foldFilters;
function foldFilters() {
  $("fold").open = isWide.matches;
}
$("find").onsubmit = () => {
  const next = address("/find", { text: $("find-text").value.trim() });
  if (next === location.hash) refreshAll(); // it is sought once more
  location.hash = next;
  $("find").reset();
};
$("skip").onclick = (click) => {
  click.preventDefault();
  const lists = { list: ["rows"], subscriptions: ["overview", "subscriptions"] }[view.name] ?? [];
  const all = lists.flatMap((id) => [...$(id).querySelectorAll("a, button")]);
  const first = all.find((one) => one.offsetParent);
  (first ?? $(HEADINGS[view.name])).focus();
};
onkeydown = (press) => {
  const isTyping = press.target.closest("input, textarea, select, dialog");
  if (press.key !== "/" || isTyping || !$("find").offsetParent) return;
  press.preventDefault();
  $("find-text").focus();
};
$("example").textContent = `${curl("events")} \\
  -H 'Content-Type: application/json' \\
  -d '{"event_type": "order.created", "payload": {"order_id": "12345"}}'`;
onhashchange = () => route();
document.onvisibilitychange = () => document.hidden || refresh();
setInterval(() => {
  tellAge();
  if (me && view.name === "list") renderList();
  else if (event && event.event_id === view.id) drawTimeline();
}, 1000);
route();
if (!key) channel.postMessage({ asked });
