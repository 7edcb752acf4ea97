// text.js: times and words.
// The units of `duration`: from how many milliseconds on it is used, its length, and its name.
const LONG = [[2 * DAY, DAY, "days"], [2 * HOUR, HOUR, "h"], [120e3, 60e3, "min"]];
const UNITS = [...LONG, [1e3, 1e3, "s"], [0, 1, "ms"]];
// Return a number of milliseconds in words, such as `1.5 min`; a negative number as 0.
function duration(given, digits = 1) {
  const ms = Math.max(given, 0); // two clocks may disagree
  const [, unit, name] = UNITS.find(([from]) => ms >= from) ?? UNITS.at(-1);
  return `${(ms / unit).toFixed(name === "ms" ? 0 : digits)} ${name}`;
}
const spell = (ms) => (ms < 1e3 ? `${(Math.max(ms, 0) / 1e3).toFixed(1)} s` : duration(ms));
// Return how long ago a time is, or how far ahead: `in 5 min`, `2 days ago` or `now`.
function relative(timestamp) {
  const ms = Date.parse(timestamp) - Date.now();
  const told = ms > 0 ? `in ${duration(ms, 0)}` : `${duration(-ms, 0)} ago`;
  return Math.abs(ms) < 1000 ? "now" : told;
}
// Return when something is due: `due now` if its time has come, otherwise as `relative`.
const due = (timestamp) =>
  Date.parse(timestamp) < Date.now() + 1000 ? "due now" : relative(timestamp);
const TIMES = /(\d{4}-\d\d-\d\dT[\d:.]+Z)/g; // of the API, in sentences until they are shown
// Return a time in UTC in words.
const utc = (time) => `${new Date(time).toISOString().slice(0, 19).replace("T", " ")} UTC`;
// Return a local time as 2026-01-20 22:00:05.
const local = (time) => new Date(time).toLocaleString("sv"); // 2026-01-20 22:00:05
// Return a local time as 01:18, with its date unless it is today. `end` is where the text ends: 16
// for minutes, 19 for seconds.
function clock(time, end = 16) {
  const text = local(time);
  const isToday = text.slice(0, 10) === local(Date.now()).slice(0, 10);
  return text.slice(isToday ? 11 : 0, end);
}
// Return the day of a time as 3 March or, of today, the hour.
const DATE = { day: "numeric", month: "long" };
const dayOf = (time) =>
  clock(time).length < 6 ? clock(time) : new Date(time).toLocaleDateString("en-GB", DATE);
// Return a local time with milliseconds.
const inMilliseconds = (time) => `${clock(time, 19)}${new Date(time).toISOString().slice(19, 23)}`;
// Return in words when something was read.
const asOf = (time) => `as of ${clock(time, 19)}`;
// Return a time of the API as the value of an input for a local time; empty stays empty.
const asInput = (time) => (time ? local(time).slice(0, 16).replace(" ", "T") : "");
// Return the value of such an input as a time of the API.
const fromInput = (value) => (value ? new Date(value).toISOString() : "");
// Return a text of the API in the words of this page, where a subscription is a webhook.
function say(text) {
  const readable = text.replace(/subscription(?=s?\b)/g, "webhook");
  const claimed = "Claimed by a push or a lease";
  return page.me?.tenant ? readable.replace(claimed, "Being sent") : readable;
}
const AGAIN = " Load the page again."; // it may be newer than what responded
// What to do when a call is refused, by the code of the answer.
const REFUSALS = {
  subscription_disabled: () => "This webhook is paused or disabled: enable it first.",
  subscription_exists: () => "A webhook with this URL and these types already exists.",
  suspended: () => "Its tenant is suspended: nothing is sent to it.",
  subscription_gone: () => "This webhook was deleted: nothing can be sent to it.",
  event_claimed: () => page.me?.tenant && "It is being sent at this moment.",
  edited_meanwhile: () => "Somebody else edited it in the meantime: check it and save again.",
};
// Return a number with a noun in the right form: `1 event`, `2 deliveries`, `100+ events` if there
// may be more (`isMore`).
function number(count, name, isMore = false) {
  const amount = count.toLocaleString("en") + (isMore ? "+" : "");
  return amount === "1" ? `1 ${name}` : `${amount} ${name.replace(/y$/, "ie")}s`;
}
// Return up to `most` names with commas, and how many more there are.
function listNames(names, most = 5) {
  const rest = names.length > most ? ` and ${names.length - most} more` : "";
  return names.slice(0, most).join(", ") + rest;
}
// Return a text with its first letter in upper case.
const upper = (text) => text && text[0].toUpperCase() + text.slice(1);
// Return a promise that is fulfilled after some milliseconds.
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
// Return in words which API key made an item; customers do not see it.
const by = (item) => (page.me.tenant ? "" : ` by ${item.created_by}`);
// Return the shell command that makes a GET call.
const curl = (path) => `curl -sS '${API}${path}' -H "Authorization: Bearer $TRIGGERS_API_KEY"`;
// Return a text without case and punctuation, by which a search compares.
const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "");
// Return a text, cut off after `most` characters.
const short = (text, most = 60) => (text.length > most ? `${text.slice(0, most)}…` : text);
// Return the address of a view of this page with parameters; empty ones are left out.
const address = (path, values) => `#${path}?${query(values)}`.replace(/\?$/, "");
// Return parameters as the query of a URL, in alphabetical order; empty ones are left out.
function query(values) {
  const given = Object.entries(values).filter(([, value]) => value);
  return given.sort().map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
}
