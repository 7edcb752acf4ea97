// frame.js: which view is shown, with its filters and the focus.
const TITLES = { list: "Events", event: "Event", subscriptions: "Webhooks" }; // while one loads
const VIEWS = { "": "list", "/": "list", "/subscriptions": "subscriptions" };
const FIELDS = [...$("filters").querySelectorAll("[name]")];
let focusedBefore = null; // when a view was entered: its heading has it then, unless it moved
// Remember what has the focus. When the view is shown, its heading gets the focus, unless the user
// has moved it.
const askFocus = () => (focusedBefore = document.activeElement);
// Return whether the view has nothing to show yet.
function isBlank() {
  const { me, view, event, listed } = page;
  if (view.name === "event") return event?.event_id !== view.id;
  return !me || (view.name === "subscriptions" && !listed);
}
// Show the view that the address names once it has something to show, and until then that it is
// loading; without a key, show the form for the key.
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
// Focus the row from which the user comes back to the list, the link of the first card, or else the
// heading of the view.
function focusFirst() {
  const { name, from } = page.view;
  const row = [...$("rows").children].find((node) => node.dataset.id === from)?.firstElementChild;
  const places = { list: row, subscriptions: $("subscriptions").querySelector("h2 a") };
  (places[name] ?? $(HEADINGS[name])).focus({ preventScroll: !row });
}
// Say when the shown data was read, if that is longer ago than OLD_MS.
function showAge() {
  const isOld = page.key && page.shownAt && Date.now() - page.shownAt > OLD_MS;
  setText($("as-of"), isOld ? asOf(page.shownAt) : "");
}
