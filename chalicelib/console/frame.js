// frame.js: which view is shown, with its filters and the focus.
const TITLES = { list: "Events", event: "Event", subscriptions: "Webhooks" }; // while one loads
const VIEWS = { "": "list", "/": "list", "/subscriptions": "subscriptions" };
const FIELDS = [...$("filters").querySelectorAll("[name]")];
let focusedBefore = null; // when a view was entered: its heading has it then, unless it moved
const askFocus = () => (focusedBefore = document.activeElement);
function isBlank() {
  const { me, view, event, listed } = page;
  if (view.name === "event") return event?.event_id !== view.id;
  return !me || (view.name === "subscriptions" && !listed);
}
function show() {
  const { me, view, key } = page;
  const shown = me && !isBlank() ? view.name : "-";
  for (const node of document.querySelectorAll("[data-view]"))
    hide(node, node.dataset.view !== shown);
  hide($("loading"), !key || shown !== "-");
  const whose = me?.tenant ?? view.tenant;
  const title = TITLES[view.name] ?? "Triggers API";
  showText($("loading-title"), whose ? `${title} of ${whose}` : title);
  hide($("top"), !me);
  hide($("login"), key);
  const isHere = ({ hash }) => VIEWS[hash.slice(1)] === view.name && !view.id;
  for (const node of $("nav").children) set(node, { ariaCurrent: isHere(node) ? "page" : null });
  hide($("clear"), !isFiltered());
  offer($("types"), me?.event_types ?? page.seen.types);
  offer($("tenants"), page.seen.tenants);
  if (!focusedBefore || shown === "-") return;
  const isThere = [focusedBefore, document.body].includes(document.activeElement);
  focusedBefore = null;
  if (isThere) focusFirst();
}
// Focus the row that was opened last, if it is there, or a card, or else the heading.
function focusFirst() {
  const { name, from } = page.view;
  const row = [...$("rows").children].find((node) => node.dataset.id === from)?.firstElementChild;
  const places = { list: row, subscriptions: $("subscriptions").querySelector("h2 a") };
  (places[name] ?? $(HEADINGS[name])).focus({ preventScroll: !row });
}
function showAge() {
  const isOld = page.key && page.shownAt && Date.now() - page.shownAt > OLD_MS;
  setText($("as-of"), isOld ? asOf(page.shownAt) : "");
}
