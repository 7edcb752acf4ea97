async function refresh() {
  clearTimeout(timer);
  refreshing.abort();
  const { signal } = (refreshing = new AbortController()),
    startedAt = performance.now();
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
    explain([]);
    setText($("banner"), "");
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 403 && me?.tenant) return miss("This webhook was deleted.");
    if (error.status === 401 || error.status === 403) return forget(error.status);
    if (error.status === 404 && view.id)
      return miss(`There is no ${view.id}: it expired or was deleted.`);
    const trouble = error.status
      ? error.message
      : `The API does not respond (${error.message}). Trying again.`;
    setText($("banner"), explain(error.errors ?? []) ? "" : trouble);
    if (error.status === 400) [isRefused, isListed] = [true, false];
    if (isRefused && view.name === "list") render({ found: new Map(), isMore: false });
    if (isRefused) return; // until the filters change
  }
  const wait = Math.max(REFRESH_MS, 10 * (performance.now() - startedAt)); // what reads much is read less often
  timer = setTimeout(() => document.hidden || refresh(), wait);
}
// Show the page to the owner of a key, or of a token: then it is a customer's.
function welcome(owner) {
  if (!owner.tenant && !owner.scopes.includes("consume")) return forget(403);
  me = owner;
  document.body.className = me.tenant ? "customer" : "";
  $("list-title").className = me.tenant ? "" : "unseen";
  document.title = $("owner").textContent = me.tenant ?? "Triggers API";
  const words = me.tenant
    ? {
        home: "← All webhooks",
        back: "← All deliveries",
        "subscriptions-title": `Webhooks of ${me.tenant}`,
        "add-title": "Add a webhook",
        forget: "Sign out",
      }
    : {
        home: "← All events",
        back: "← All events",
        "subscriptions-title": "Subscriptions",
        "add-title": "Add a subscription",
        forget: "Forget key",
      };
  for (const [id, text] of Object.entries(words)) $(id).textContent = text;
  fillForm($("add"));
  route();
}
// Show the faults beside their fields; return whether there are any.
function explain(errors, fields = FIELDS) {
  const faults = fields.map((field) => {
    const fault = errors.find((error) => error.field.split(".")[0] === field.name);
    setText(field.nextElementSibling, fault ? `It ${fault.message}.` : "");
    field.ariaInvalid = String(Boolean(fault));
    return fault;
  });
  return faults.some(Boolean);
}
function miss(text, start = "") {
  view = { name: "missing", start };
  document.title = $("missing").textContent = text;
  show();
  $("missing").focus();
}
// Open what has an id that begins as the address says, or that subject, if that is one alone.
async function search() {
  const { start } = view;
  if (!start || me.tenant) return;
  const isId = ID.test(start),
    given = isId ? {} : { subject: start };
  const [{ found }] = await Promise.all([
    listEvents(given, isId ? COUNTED : 2, refreshing.signal),
    learn([]),
  ]);
  const ids = [...found.keys(), ...(isId ? subscriptions.keys() : [])].filter(
    (id) => !isId || id.startsWith(start),
  );
  if (ids.length === 1) return location.replace(address("/find", { text: ids[0] }));
  if (!isId && ids.length) return location.replace(address("/", given));
  miss(
    isId
      ? `${ids.length || "None"} of the newest ${COUNTED} events and known subscriptions begin with ${start}.`
      : `No event has the id or subject ${start}.`,
  );
}
function show() {
  const isLoading = !me || (view.name === "event" && event?.event_id !== view.id),
    shown = isLoading ? "-" : view.name;
  for (const node of document.querySelectorAll("[data-view]"))
    node.hidden = !node.dataset.view.includes(shown);
  $("top").hidden = !me;
  $("login").hidden = Boolean(key);
  for (const node of $("nav").children)
    node.ariaCurrent = VIEWS[node.hash.slice(1)] === shown ? "page" : null;
  $("clear").hidden = !isFiltered();
  if (shown === "list") $("chart").parentNode.hidden = !isCounted();
  for (const [id, seen] of Object.entries({ types, tenants })) offer($(id), seen);
}
// The key: in sessionStorage, and handed within the browser to a tab of this page that asks.
const channel = new BroadcastChannel(API),
  asked = Math.random();
channel.onmessage = ({ data }) => {
  if (data.asked && me) channel.postMessage({ to: data.asked, key });
  else if (data.to === asked && !key) setKey(data.key);
  else if (data.forgotten && data.forgotten === key) forget();
};
function setKey(value, refusal = "") {
  sessionStorage.clear();
  if (value) sessionStorage.setItem("key", value);
  for (const seen of [copies, subscriptions, loadedAt, recent, types, tenants]) seen.clear();
  [key, me, event, events, isListed, counted, countedAt] = [value, null, null, [], false, {}, 0];
  job?.abort();
  for (const id of ["rows", "subscriptions"]) $(id).replaceChildren();
  setText($("nobody"), "");
  setText($("refusal"), refusal);
  refresh();
}
async function takeKey(linked) {
  const question = ["Use the key of this link?", "This tab uses another one.", "Use it"];
  if (key !== linked && (!key || (await confirm(...question)))) setKey(linked);
}
function forget(status) {
  document.body.className = key?.startsWith("trt_") ? "customer" : "";
  setKey(
    null,
    { 401: "This key is not accepted.", 403: "This key lacks the scope consume." }[status],
  );
  $("key").focus();
}
// The address: what is shown, and the filters
function route(isTyped = false) {
  const [, path, text] = location.hash.replace(/^#key=/, "#/?key=").match(/^#?([^?]*)\??(.*)$/);
  const { key: linked, ...given } = Object.fromEntries(
    new URLSearchParams(text.replaceAll("+", "%2B")),
  );
  if (linked !== undefined) history.replaceState(null, "", address(path || "/", given));
  const left = view,
    id =
      (path === "/find" ? given.text : path.match(/^\/(?:events|subscriptions)\/(.+)$/)?.[1]) ?? "";
  const isWhole = ID.test(id) && id.length === 36,
    name = id.startsWith("sub") ? "subscriptions" : "event";
  view = isWhole ? { name, id } : { name: VIEWS[path] ?? "missing" };
  isRefused = false;
  if (me?.tenant) delete given.tenant; // its own is known
  if (me?.tenant && view.name === "list" && !given.subscription_id) view.name = "subscriptions";
  if (left.name === "list" && view.name !== "list") scrolledTo = scrollY;
  if (view.name === "list") $("back").href = location.hash || "#/";
  const isOther = FIELDS.some(({ name }) => filters[name] !== given[name]);
  if (view.name === "list" && isOther) [counted, countedAt] = [{}, 0];
  if (VIEWS[path]) filters = given;
  if (!isTyped) fillFields();
  const isSearch = !me?.tenant && (path === "/find" || ID.test(id));
  if (view.name === "missing")
    miss(isSearch ? "Searching…" : "Nothing is here.", isSearch ? id : "");
  else if (left.name !== view.name || left.id !== view.id) enter(left);
  refresh();
  if (linked) takeKey(linked);
}
function enter(left) {
  explain([]);
  setText($("answer"), "");
  document.title = me?.tenant ?? "Triggers API";
  show();
  scrollTo(0, view.name === "list" ? scrolledTo : 0);
  const row = [...$("rows").children].find((item) => item.dataset.id === left.id)?.firstChild;
  const focused = view.name === "list" && row ? row : $(HEADINGS[view.name]);
  if (left.name) focused.focus({ preventScroll: true });
}
function fillFields() {
  drawSubscriptionOptions();
  for (const field of FIELDS) field.value = filters[field.name] ?? "";
}
function readFields() {
  const given = Object.fromEntries(new FormData($("filters"))),
    type = given.event_type;
  const isWhole = !type || type.endsWith("*") || types.has(type); // else it is taken as the beginning of a type
  return { ...given, event_type: isWhole ? type : `${type}*` };
}
const base = () => (view.name === "list" ? "/" : "/subscriptions");
// Put filters into the address and show what they match; `isTyped`: while someone types, without a step for "back".
function go(changes, isTyped = false) {
  clearTimeout(typing);
  const next = address(base(), { ...filters, rows: "", ...changes });
  if (next === (location.hash || "#/")) return fillFields();
  history[isTyped ? "replaceState" : "pushState"](null, "", next);
  route(isTyped);
}
$("filters").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(() => go(readFields(), true), TYPING_MS);
};
$("filters").onchange = () => go(readFields());
for (const field of FIELDS)
  field.after(make("span", { class: "fault", role: "alert", hidden: "" }));
for (const status of STATUSES)
  $(status).onclick = () => go({ status: filters.status === status ? "" : status });
$("older").onclick = () => go({ rows: rowsShown() + ROWS });
$("clear").onclick = () => {
  location.hash = address(base(), kept());
  $(HEADINGS[view.name]).focus();
};
$("replay-all").onclick = () => replayAll(filters);
$("stop").onclick = () => (isReplaying() ? job.abort() : endJob());
$("find").onsubmit = () => {
  location.hash = address("/find", { text: $("find-text").value.trim() });
  $("find").reset();
};
$("forget").onclick = () => {
  channel.postMessage({ forgotten: key });
  forget();
};
$("login").onsubmit = () => {
  setKey($("key").value.trim());
  $("key").value = "";
};
const queued = ({ body }) => [`Queued. ${say(body.message)}`, "pending"];
const REPLAYED = "It is queued to be sent again, with all its attempts and the same webhook-id.";
const acknowledged = () => ["Acknowledged.", "delivered"];
const erased = () => [miss(`Erased: ${view.id}`), ""];
for (const [id, method, path, describe, consequence] of [
  ["replay", "POST", "/replay", queued, REPLAYED],
  [
    "acknowledge",
    "POST",
    "/acknowledge",
    acknowledged,
    "The event counts as delivered and is not pushed again.",
  ],
  [
    "erase",
    "DELETE",
    "",
    erased,
    "The event, its copies, payload and attempts are deleted for good.",
  ],
])
  $(id).onclick = () =>
    act($(id), $("answer"), method, `events/${view.id}${path}`, describe, consequence);
const texts = {
  id: () => event.event_id,
  curl: () => curl(`events/${event.event_id}`),
  body: () => bodyOf(event),
  payload: () => $("payload").textContent,
};
for (const [name, read] of Object.entries(texts))
  $(`copy-${name}`).onclick = (click) => copy(click, `Copy ${name}`, read());
$("example").textContent = `${curl("events")} \\
  -H 'Content-Type: application/json' -d '{"event_type": "order.created", "payload": {"order_id": "12345"}}'`;
onhashchange = () => route();
onbeforeunload = (leaving) => {
  if (isReplaying()) leaving.preventDefault();
};
document.onvisibilitychange = () => document.hidden || refresh();
setInterval(
  () =>
    me && view.name === "list" ? render() : event && event.event_id === view.id && drawTimeline(),
  1000,
);
route();
if (!key) channel.postMessage({ asked });
