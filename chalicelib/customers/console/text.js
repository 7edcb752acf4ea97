// Words and times.
const UNITS = [
  [2 * DAY, DAY, "days"],
  [2 * HOUR, HOUR, "h"],
  [120e3, 60e3, "min"],
  [1e3, 1e3, "s"],
  [0, 1, "ms"],
];
function duration(ms, digits = 1) {
  const [, unit, name] = UNITS.find(([from]) => ms >= from);
  return `${(ms / unit).toFixed(name === "ms" ? 0 : digits)} ${name}`;
}
function relative(timestamp) {
  const ms = Date.parse(timestamp) - Date.now();
  if (Math.abs(ms) < 1000) return "now";
  return ms > 0 ? `in ${duration(ms, 0)}` : `${duration(-ms, 0)} ago`;
}
function due(timestamp) {
  return Date.parse(timestamp) < Date.now() + 1000 ? "due now" : relative(timestamp);
}
const utc = (time) => new Date(time).toISOString().replace("T", " ").replace("Z", " UTC");
// Return a time as 01:18, with its date unless it is of the last day.
function clock(time) {
  const text = new Date(time).toISOString();
  const isRecent = Date.now() - Date.parse(text) < DAY;
  return `${isRecent ? "" : `${text.slice(0, 10)} `}${text.slice(11, 16)} UTC`;
}
const asOf = (time) => `as of ${new Date(time).toISOString().slice(11, 19)} UTC`;
// Return a text of the API with times as people read them, in the words of this page.
function say(text) {
  const readable = text
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, utc)
    .replace(/subscription(?=s?\b)/g, "webhook");
  return me?.tenant ? readable.replace(/Claimed by a push or a lease/, "Being sent") : readable;
}
// What to do when a call is refused, by the code of the answer.
const REFUSALS = {
  subscription_disabled: () => "This webhook is disabled: enable it first.",
  subscription_gone: () => "This webhook was deleted: nothing can be sent to it.",
  event_claimed: () => me?.tenant && "It is being sent at this moment.",
  edited_meanwhile: () => "It was edited by somebody else meanwhile: look at it and save again.",
  no_signing_secret: () => "Nothing is signed here: there is no secret to renew.",
};
function number(count, name, isMore = false) {
  const amount = count.toLocaleString("en") + (isMore ? "+" : "");
  return amount === "1" ? `1 ${name}` : `${amount} ${name.replace(/y$/, "ie")}s`;
}
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const by = (one) => (me.tenant ? "" : ` by ${one.created_by}`);
const curl = (path) => `curl -sS '${API}${path}' -H "Authorization: Bearer $TRIGGERS_API_KEY"`;
// Return a text without case and punctuation, by which a search compares.
const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "");
// Return a text as short as it can be shown in a line.
const short = (text, most = 60) => (text.length > most ? `${text.slice(0, most)}…` : text);

const address = (path, values) => `#${path}?${query(values)}`.replace(/\?$/, "");
function query(values) {
  const given = Object.entries(values).filter(([, value]) => value);
  return given
    .sort()
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
    .join("&");
}
