// Numbers that JavaScript would change keep their text.
const exactly = (_, value, { source } = {}) =>
  typeof value === "number" && JSON.rawJSON && source !== String(value)
    ? JSON.rawJSON(source)
    : value;
async function call(method, path, signals = [], body = undefined) {
  const fitting = key?.replace(/[^\x20-\xff]/g, "?"); // no other character fits a header
  const headers = { Authorization: `Bearer ${fitting}`, "Content-Type": "application/json" };
  const signal = AbortSignal.any([AbortSignal.timeout(30e3), ...signals]);
  const response = await fetch(API + path, { method, headers, credentials: "omit", signal, body });
  const text = await response.text();
  let answer = {};
  try {
    answer = JSON.parse(text, exactly);
  } catch {
    /* 204, or a gateway's page */
  }
  const status = `${response.status} ${answer.title ?? response.statusText}`.trim();
  if (response.ok) return { status, body: answer, text };
  const wait = response.headers.get("retry-after"),
    told = REFUSALS[answer.code]?.();
  const parts = [told || `${status}.`, !told && answer.detail, wait && `Try again in ${wait} s.`];
  throw Object.assign(new Error(parts.filter(Boolean).join(" ")), {
    status: response.status,
    errors: answer.errors,
  });
}
const asTime = (text) => text && `${text.padEnd(19, ":00")}Z`; // an input leaves out seconds that are 0
const get = async (path) => (await call("GET", path, [refreshing.signal])).body; // the next refresh ends it
// Return up to `enough` that match, by id, and whether there are more; `path` is also the member that has them.
async function list(path, given, enough, signal, tell = () => {}) {
  const found = new Map();
  let cursor = null,
    pages = 0;
  do {
    const limit = path === "events" ? Math.min(enough - found.size, LIMIT) : ""; // else the default is the most
    const { body } = await call("GET", `${path}?${query({ ...given, limit, cursor })}`, [signal]);
    for (const one of body[path]) found.set(one.event_id ?? one.subscription_id, one);
    cursor = body.next_cursor;
    tell(found);
  } while (cursor && found.size < enough && ++pages < 5 + enough / LIMIT); // a page may hold few, or none
  return { found, isMore: Boolean(cursor) };
}
function listEvents({ copies: shown, rows, since, until, ...given }, enough, signal, tell) {
  const source = shown === "no" && !given.subscription_id ? "original" : "";
  return list(
    "events",
    { ...given, since: asTime(since), until: asTime(until), source },
    enough,
    signal,
    tell,
  );
}
