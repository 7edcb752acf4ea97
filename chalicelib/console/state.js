// state.js: limits, and what the page knows: all that more than one file changes is in `page`.
const $ = (id) => document.getElementById(id);
// A stage may be opened without the slash at its end.
const API = location.origin + location.pathname.replace(/\/*$/, "/");
const PAGE = 100; // the most that a page of a list has, and what the list begins with
const MOST_SHOWN = 1000; // events and copies
const MOST_READ = 10; // webhooks, examples or events of which one asks for more
const CALL_MS = 3e3; // a view waits so long for each call of a refresh
const MOST_CALLS = 20; // that a view makes by itself in a minute
const OLD_MS = 15e3; // what is older says so
const NAMES_MS = 30e3; // between two reads of a page of webhooks, for their names
const MOST_TRIED = 12; // spellings of a subject
const HOUR = 3600e3;
const DAY = 24 * HOUR;
const ID = /^(evt|cpy|sub)_[0-9a-f]{32}$/;
const OWN = "own"; // stands for the webhook of the operator where others have an id
const HEADINGS = { list: "list-title", event: "type", missing: "missing", orders: "orders-title" };
HEADINGS.subscriptions = "subscriptions-title";
const nothingKnown = () => ({
  loaded: new Map(), // events and copies of the list, by id, the newest first
  olderCursor: null, // of the page that follows; null: there is none
  isListed: false,
  event: null,
  recipients: null, // of an event, as its outcome; null: not read yet
  outcome: null,
  webhooks: new Map(), // by id, as they were last read
  namesAt: 0, // when all of them were read
  listed: null, // the webhooks of the table or the card; null: not read yet
  days: new Map(), // what did not arrive since yesterday, by webhook, as far as that was asked for
  urls: new Map(), // in full, for a customer, by id
  tests: new Map(), // the last one of each webhook, by id: {at, text, sent}
  counted: new Map(), // what waited at the last refresh, by webhook: {waiting, state}
  recoveries: new Map(), // recoveries that go on, by webhook: see beginRecovery
  orders: [], // what a customer's search found
  seen: { types: new Set(), tenants: new Set(), subjects: new Set() },
  shapes: JSON.parse(sessionStorage.getItem("shapes") ?? "[]"), // of subjects: `order-#`
});
const page = {
  key: sessionStorage.getItem("key"),
  me: null, // the answer of GET /me
  view: {}, // what the address says: {name, id, sought}
  filters: {},
  refreshing: new AbortController(), // the next refresh ends the calls of this one
  calls: 0, // that were made since the last refresh began
  recent: [], // one for each call that the view made by itself in the last minute
  timer: 0,
  shownAt: null, // when the main part of the view was read last
  isRefused: false, // the filters are, until they change
  job: null, // an AbortController
  isJobSo: null, // returns whether what the last job said is still so; null: it does not pass
  ...nothingKnown(),
};
const hooks = {}; // what main.js does for files above it: refresh, refreshAll, route
// Return whether an id is that of a copy, the event made for one webhook.
const isCopy = (id) => id.startsWith("cpy_");
// Return the id of an event or copy.
const idOf = (item) => item.event_id;
// Compare two items for `sort`, so that the newest comes first.
const newestFirst = (a, b) => (a.created_at < b.created_at ? 1 : -1);
// Return whether a customer may see a list with these filters: of one webhook, or of what did not
// arrive.
const isOfCustomer = (given) => Boolean(given.subscription_id) || given.status === "undelivered";
// Return whether the list shows what did not arrive at all webhooks of a tenant.
function isOfAll() {
  const { subscription_id, status, tenant } = page.filters;
  const isOfTenant = Boolean(page.me?.tenant ?? tenant);
  return isOfTenant && !subscription_id && status === "undelivered";
}
// Return the filters that stay when the filters are cleared: they say whose deliveries these are.
function kept() {
  const { subscription_id, status, tenant } = page.filters;
  if (isOfAll()) return { status, tenant };
  return page.me?.tenant ? { subscription_id } : {};
}
// Return whether there are filters that the button for it clears.
const isFiltered = () => Object.keys(page.filters).some((name) => name !== "rows" && !kept()[name]);
// Return the tenant whose webhooks the table shows; undefined: the table shows all webhooks.
const tenantOfTable = () => page.me.tenant ?? page.view.tenant;
// Remember that the view shows data that was read now.
const markShown = () => (page.shownAt = Date.now());
