// What the files that follow share: limits, the key, what the address says, and what was loaded.
const $ = (id) => document.getElementById(id);
// A stage may be opened without the slash at its end.
const API = location.origin + location.pathname.replace(/\/*$/, "/");
const PAGE = 100; // the most that a page of a list has, and what the list begins with
const MOST_SHOWN = 1000; // events and copies
const COUNTED = 500; // of each status, at most
const NEWEST = 50; // deliveries of each webhook that its card counts
const REFRESH_MS = 3e3;
const OLD_MS = 15e3; // what is older says so
const COUNT_MS = 12e3; // between two counts, at least
const LEARN_MS = 30e3; // between two reads of all webhooks
const REPLAY_MS = 250; // between two replays of many
const TYPING_MS = 300;
const HOUR = 3600e3;
const DAY = 24 * HOUR;
const STATUSES = ["pending", "delivered", "failed"];
const WORST_FIRST = ["failed", "retrying", "pending", "delivered", "deleted"];
const ID = /^(evt|cpy|sub)_[0-9a-f]{0,32}$/;
const VIEWS = { "": "list", "/": "list", "/subscriptions": "subscriptions" };
const HEADINGS = {
  list: "list-title",
  event: "type",
  subscriptions: "subscriptions-title",
  missing: "missing",
  orders: "orders-title",
};

let key = sessionStorage.getItem("key");
let me = null; // the answer of GET /me
let view = {}; // what the address says: {name, id, sought}
let filters = {};
let refreshing = new AbortController(); // the next refresh ends the calls of this one
let counting = null; // what counts beside the rows, {signal}: it ends with what it counts for
const copies = new Map(); // by id, as they were last read, with `loadedAt`
const families = new Map(); // ids of the copies of an event, by its id
const replayed = new Set(); // ids of what was delivered after a replay
const subscriptions = new Map(); // by id
const seen = { types: new Set(), tenants: new Set(), subjects: new Set() };

const isCopy = (id) => id.startsWith("cpy_");
// What of the filters stays when a customer clears them: whose deliveries these are.
const kept = () => (me?.tenant ? { subscription_id: filters.subscription_id } : {});
function isFiltered() {
  return Object.keys(filters).some((name) => name !== "rows" && !kept()[name]);
}
