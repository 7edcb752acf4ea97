// Calls of the API.
// Numbers that JavaScript would change keep their text.
function exactly(_, value, { source } = {}) {
  const isChanged = typeof value === "number" && source !== String(value);
  return isChanged && JSON.rawJSON ? JSON.rawJSON(source) : value;
}
function parse(text) {
  try {
    return JSON.parse(text, exactly);
  } catch {
    return {}; // 204, or a gateway's page
  }
}
// Return {isNew, body, text}. Throws an Error that says what went wrong; it has `status`, `code`,
// `errors`.
async function call(method, path, signals = [], body = undefined) {
  const fitting = key?.replace(/[^\x20-\xff]/g, "?"); // no other character fits a header
  const headers = { Authorization: `Bearer ${fitting}`, "Content-Type": "application/json" };
  const signal = AbortSignal.any([AbortSignal.timeout(30e3), ...signals]);
  const response = await fetch(API + path, { method, headers, credentials: "omit", signal, body });
  const text = await response.text();
  const answer = parse(text);
  if (response.ok) return { isNew: response.status === 201, body: answer, text };
  const wait = response.headers.get("retry-after");
  const status = `${response.status} ${answer.title ?? response.statusText}`.trim();
  const told = REFUSALS[answer.code]?.() || say(`${status}. ${answer.detail ?? ""}`.trim());
  const error = new Error(wait ? `${told} Try again in ${wait} s.` : told);
  const { code, errors } = answer;
  throw Object.assign(error, { status: response.status, code, errors });
}
async function get(path, signal = refreshing.signal) {
  return (await call("GET", path, [signal])).body;
}
// Return up to `enough` items that match, by id, from `cursor` on, whether there are more, and the
// cursor of those; `path` is also the member that has them.
async function list(path, given, enough, signal, tellSize = () => {}, cursor = null) {
  const found = new Map();
  let pages = 0;
  do {
    const limit = path === "events" ? Math.min(enough - found.size, PAGE) : PAGE;
    const { body } = await call("GET", `${path}?${query({ ...given, limit, cursor })}`, [signal]);
    for (const one of body[path]) found.set(one.event_id ?? one.subscription_id, one);
    cursor = body.next_cursor;
    pages += 1;
    tellSize(found.size);
  } while (cursor && found.size < enough && pages < 5 + enough / PAGE); // a page may hold none
  return { found, isMore: Boolean(cursor), cursor };
}
// An input leaves out seconds that are 0.
const asTime = (text) => text && `${text.padEnd(19, ":00")}Z`;
function listEvents(given, enough, signal, tellSize, cursor) {
  const { copies: shown, rows, since, until, ...filter } = given;
  const source = shown === "no" && !filter.subscription_id ? "original" : "";
  const times = { since: asTime(since), until: asTime(until) };
  return list("events", { ...filter, ...times, source }, enough, signal, tellSize, cursor);
}
// Keep what a list of events says.
function remember(items) {
  const now = Date.now();
  if (copies.size > 10 * MOST_SHOWN) copies.clear(); // of a tab that is open for days
  for (const one of items) {
    if (isCopy(one.event_id)) copies.set(one.event_id, { ...one, loadedAt: now });
    else families.set(one.event_id, one.copies);
    if (one.message?.includes("(replayed)")) replayed.add(one.event_id); // counts do not tell
    seen.types.add(one.event_type);
    if (one.tenant) seen.tenants.add(one.tenant);
    if (one.subject) seen.subjects.add(one.subject);
  }
}
// Load the webhooks, of which events tell ids alone: all or, of very many, those of the tenants of
// `some`. A new one is looked for at once, one that is gone not again.
async function learn(some) {
  const unnamed = some.map((one) => one.subscription_id).filter((id) => id && !isNamed(id));
  const isStale = (tenant) => Date.now() - (loadedAt.get(tenant) ?? 0) > LEARN_MS;
  const isNew = isAll && unnamed.some((id) => !lookedFor.has(id));
  for (const id of unnamed) lookedFor.add(id);
  const everybody = me.tenant ?? "*";
  if (isStale(everybody) || isNew) isAll = !(await loadSubscriptions(everybody)).isMore;
  if (isAll) return;
  const tenants = new Set(["", ...some.map(({ tenant }) => tenant ?? "")]);
  for (const tenant of [...tenants].filter(isStale).slice(0, 10)) await loadSubscriptions(tenant);
}
const isNamed = (id) => subscriptions.has(id);
const lookedFor = new Set(); // ids of webhooks
const loadedAt = new Map(); // of the webhooks of a tenant; "*": of all
const owners = new Map(); // tenants that have webhooks, and when the first was made
let isAll = true; // all webhooks are known
async function loadSubscriptions(tenant) {
  const { found, isMore } = await list("subscriptions", { tenant }, MOST_SHOWN, refreshing.signal);
  for (const [id, one] of subscriptions) {
    if (tenant === "*" || (one.tenant ?? "") === tenant) subscriptions.delete(id);
  }
  for (const [id, one] of found) {
    subscriptions.set(id, one);
    if (one.tenant) seen.tenants.add(one.tenant);
  }
  owners.clear();
  for (const { tenant: owner, created_at } of subscriptions.values()) {
    if (!owners.has(owner)) owners.set(owner, created_at); // the oldest is listed first
  }
  loadedAt.set(tenant, Date.now());
  return { found: [...found.values()], isMore };
}
// What recipients say of an event's copies is as good as a list.
async function loadRecipients(id, signal) {
  const { recipients } = await get(`events/${id}/recipients`, signal);
  const made = recipients.map((one) => one.copy).filter(Boolean);
  remember(made);
  const ids = new Set(made.map((one) => one.event_id));
  const listed = new Set([...(families.get(id) ?? []), ...ids]);
  families.set(id, [...listed]);
  for (const gone of listed) {
    if (!ids.has(gone)) copies.set(gone, { event_id: gone, status: "deleted" });
  }
  return recipients;
}
