const $ = (id) => document.getElementById(id);
const API = location.origin + location.pathname.replace(/\/*$/, "/"); // a stage may be opened without its slash
const ROWS = 50,
  MOST_ROWS = 1000,
  LIMIT = 100,
  COUNTED = 500; // events of each status that are counted, at most
const REFRESH_MS = 3e3,
  COUNT_MS = 30e3,
  REPLAY_MS = 250,
  TYPING_MS = 300,
  HOUR = 3600e3,
  DAY = 24 * HOUR;
const STATUSES = ["pending", "delivered", "failed"],
  FIELDS = [...$("filters").querySelectorAll("[name]")];
const UNITS = [
  [2 * DAY, DAY, "days"],
  [2 * HOUR, HOUR, "h"],
  [120e3, 60e3, "min"],
  [1e3, 1e3, "s"],
  [0, 1, "ms"],
];
const COURSES = {
  delivered: "delivered at once",
  retried: "after retries",
  pending: "pending",
  failed: "failed",
};
const ID = /^(evt|cpy|sub)_[0-9a-f]{0,32}$/;
const VIEWS = { "": "list", "/": "list", "/subscriptions": "subscriptions" };
const LOADERS = {
  list: loadList,
  event: loadEvent,
  subscriptions: showSubscriptions,
  missing: search,
};
const HEADINGS = {
  list: "list-title",
  event: "type",
  subscriptions: "subscriptions-title",
  missing: "missing",
};
const TICKS = [
  1,
  2,
  5,
  10,
  20,
  50,
  100,
  200,
  500,
  1e3,
  2e3,
  5e3,
  10e3,
  30e3,
  60e3,
  120e3,
  300e3,
  600e3,
  1800e3,
  HOUR,
  2 * HOUR,
  4 * HOUR,
  12 * HOUR,
  DAY,
  2 * DAY,
  7 * DAY,
  30 * DAY,
];
const copies = new Map(),
  subscriptions = new Map(),
  loadedAt = new Map(),
  recent = new Map();
const types = new Set(),
  tenants = new Set(); // that were seen
let key = sessionStorage.getItem("key"),
  me = null,
  timer,
  typing,
  refreshing = new AbortController();
let view = {},
  filters = {},
  scrolledTo = 0; // what the address says
let events = [],
  isListed = false,
  isRefused = false,
  counted = {},
  countedAt = 0; // the list
let event = null,
  job = null; // the one event; replaying all that match
