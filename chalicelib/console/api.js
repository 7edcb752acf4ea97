// api.js: calls of the API. Numbers that JavaScript would change keep their text.
// Keep the text of a number that JavaScript would change, such as 1.0 or one with 20 digits. This
// is a reviver for `JSON.parse`; browsers without `JSON.rawJSON` get the changed number.
function exactly(_, value, { source } = {}) {
  const isChanged = typeof value === "number" && source !== String(value);
  return isChanged && JSON.rawJSON ? JSON.rawJSON(source) : value;
}
// Make one call of the API. `signals` are AbortSignals that end it; it ends after 30 seconds
// anyway. Returns {isNew, body}: whether something was created (status 201), and the parsed
// response. If the call fails, throws an Error with the members of the API's error response, and
// with `status` (0: there was no response) and `wait` (the seconds after which the API asks to try
// again; 0: it does not say).
async function call(method, path, signals = [], body = undefined) {
  page.calls += 1;
  const fitting = page.key?.replace(/[^\x20-\xff]/g, "?"); // no other character fits a header
  const headers = { Authorization: `Bearer ${fitting}`, "Content-Type": "application/json" };
  const signal = AbortSignal.any([AbortSignal.timeout(30e3), ...signals]);
  const given = { method, headers, credentials: "omit", signal };
  const unanswered = () => (navigator.onLine ? "The API does not respond." : "You are offline.");
  const failed = () => Promise.reject(Object.assign(new Error(unanswered()), { status: 0 }));
  const sent = fetch(API + path, { ...given, body: body && JSON.stringify(body) });
  const response = await sent.catch(failed);
  const parsed = response.text().then((text) => JSON.parse(text || "{}", exactly));
  if (response.ok) return { isNew: response.status === 201, body: await parsed.catch(failed) };
  const answer = await parsed.catch(() => ({})); // a gateway's page
  const wait = response.headers.get("retry-after");
  const { code, title = response.statusText, detail = "" } = answer;
  const said = REFUSALS[code]?.() || say(`${response.status} ${title}. ${detail}`.trim());
  const message = wait ? `${said} Try again in ${wait} s.` : said;
  const members = { ...answer, message, status: response.status, wait: Number(wait) };
  throw Object.assign(new Error(message), members);
}
// Wait until the view has made fewer than MOST_CALLS calls by itself in the last minute.
async function pace(signal) {
  const { recent } = page;
  while (recent.length >= MOST_CALLS && !signal.aborted) await sleep(500);
  recent.push(true);
  setTimeout(() => recent.pop(), 60e3);
}
// Return the body of the response to a GET call. While an error response asks to wait, show it,
// wait, and repeat the call, until `signal` aborts. Calls that a view makes by itself, after its
// first refresh, are limited by `pace`.
async function get(path, signal = page.refreshing.signal) {
  const isPaced = page.shownAt || page.view.name === "orders"; // which may ask many at first
  if (isPaced && signal === page.refreshing.signal) await pace(signal);
  try {
    return (await call("GET", path, [signal])).body;
  } catch (error) {
    if (!error.wait || signal.aborted) throw error;
    setText($("banner"), error.message);
    await sleep(1000 * error.wait);
    return get(path, signal);
  }
}
// Yield the bodies of the pages of a list, from `cursor` on (null: from the beginning). `given` has
// the parameters of the query.
async function* pagesOf(path, given, signal, cursor = null) {
  do {
    const body = await get(`${path}?${query({ ...given, cursor })}`, signal);
    yield body;
    cursor = body.next_cursor;
  } while (cursor);
}
// Read a list of events or webhooks. Returns {found, cursor}: up to about `enough` items by id, and
// the cursor of the page that follows; null: there is none. Pages are read until there are `least`
// items, but not many more pages than these need: with filters, a page may have few items or none.
async function listAll(path, given, { enough, least = enough, signal, cursor }) {
  const found = new Map();
  const limit = Math.min(enough, PAGE);
  let asked = 0;
  for await (const body of pagesOf(path, { ...given, limit }, signal, cursor)) {
    for (const item of body[path]) found.set(item.event_id ?? item.subscription_id, item);
    asked += 1;
    const isEnough = found.size >= least || asked > 5 + least / 25; // a page may hold few, or none
    if (isEnough) return { found, cursor: body.next_cursor };
  }
  return { found, cursor: null };
}
// Read a list of events and copies under the filters of the page, as `listAll` does with the same
// options, and remember their types, tenants and subjects for suggestions.
async function listEvents(given, options) {
  const own = given.subscription_id === OWN && { subscription_id: "", source: "original" };
  const ofPage = { rows: "", text: "", state: "" }; // which the API does not know
  const listed = await listAll("events", { ...given, ...own, ...ofPage }, options);
  for (const { event_type, tenant, subject } of listed.found.values()) {
    page.seen.types.add(event_type);
    if (tenant) page.seen.tenants.add(tenant);
    if (subject) page.seen.subjects.add(subject);
  }
  const subjects = [...listed.found.values()].map((item) => item.subject).filter(Boolean);
  subjects.reverse().forEach(rememberShape); // so that the newest is tried first
  return listed;
}
// Remember the shape of a subject with one number in it, such as `order-#` for `order-4711`, until
// the tab's key changes. A search for a bare number tries it in the shapes of all subjects that
// were seen, not of the newest ones alone.
function rememberShape(subject) {
  const shape = subject.replace(/\d+/, "#");
  const isNumbered = /^[^\d#]+#\D*$|^#[^\d#]+$/.test(shape);
  if (!isNumbered || page.shapes.includes(shape)) return;
  page.shapes = [shape, ...page.shapes].slice(0, MOST_TRIED);
  sessionStorage.setItem("shapes", JSON.stringify(page.shapes));
}
// Load the webhooks: of one tenant if `tenant` is given, else all that the key may see. `include`
// names the additional members that the API returns for each. Returns whether these are all: no
// more than MOST_SHOWN are loaded.
async function loadWebhooks({ include, tenant } = {}) {
  const given = { tenant: page.me.tenant ?? tenant ?? "*", include };
  const { found, cursor } = await listAll("subscriptions", given, { enough: MOST_SHOWN });
  page.webhooks = found;
  page.namesAt = tenant ? 0 : Date.now(); // the webhooks of other tenants are not known then
  for (const webhook of found.values())
    if (webhook.tenant) page.seen.tenants.add(webhook.tenant);
  return !cursor;
}
// Load the webhooks for their names, unless that was done a short time ago. The more webhooks there
// are, the less often they are loaded.
async function learn() {
  const isOld = Date.now() - page.namesAt > NAMES_MS * (1 + page.webhooks.size / PAGE);
  if (isOld) await loadWebhooks();
}
// Return all events that a webhook missed. `given` has the parameters of the query. `onRows` is
// called after each page with the events so far, and with the number of events that were examined.
async function listMissed(id, given, signal, onRows) {
  const missed = [];
  let examined = 0;
  for await (const body of pagesOf(`subscriptions/${id}/missed`, given, signal)) {
    missed.push(...body.events);
    examined += body.examined;
    onRows?.(missed, examined);
  }
  return missed;
}
