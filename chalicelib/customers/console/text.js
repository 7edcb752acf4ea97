function duration(ms, digits = 1) {
  const [, unit, name] = UNITS.find(([from]) => ms >= from);
  return `${(ms / unit).toFixed(name === "ms" ? 0 : digits)} ${name}`;
}
function relative(timestamp) {
  const ms = Date.parse(timestamp) - Date.now();
  if (Math.abs(ms) < 1000) return "now";
  return ms > 0 ? `in ${duration(ms, 0)}` : `${duration(-ms, 0)} ago`;
}
const due = (timestamp) =>
  Date.parse(timestamp) < Date.now() + 1000 ? "due now" : relative(timestamp);
const utc = (time) => new Date(time).toISOString().replace("T", " ").replace("Z", " UTC");
// Return a text of the API with times as people read them, and for a customer in the words of its page.
const say = (text) =>
  text
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, utc)
    .replace(/subscription/g, noun)
    .replace(/Claimed by a push or a lease/, (words) => (me.tenant ? "Being sent" : words));
const noun = () => (me?.tenant ? "webhook" : "subscription");
const REFUSALS = {
  // what to do, by the code of the answer
  subscription_disabled: () => `This ${noun()} is disabled: enable it first.`,
  subscription_gone: () => `This ${noun()} was deleted: nothing can be sent to it.`,
  event_claimed: () => me?.tenant && "It is being sent at this moment.",
};
const number = (count, name) => `${count.toLocaleString("en")} ${name}${count === 1 ? "" : "s"}`;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const curl = (path) => `curl -sS '${API}${path}' -H "Authorization: Bearer $TRIGGERS_API_KEY"`;
const kept = () => (me?.tenant ? { subscription_id: filters.subscription_id } : {}); // of a customer's filters
const by = (one) => (me.tenant ? "" : ` by ${one.created_by}`);
const address = (path, values) => `#${path}?${query(values)}`.replace(/\?$/, "");
const query = (values) =>
  Object.entries(values)
    .filter(([, value]) => value)
    .sort()
    .map(([name, value]) => `${name}=${encodeURIComponent(value)}`)
    .join("&");
