// day.js: one line above the webhooks of a tenant: did everything arrive since yesterday?
const ASKED_AT_ONCE = 3; // webhooks in trouble that a refresh asks about; the first asks about all
// Return yesterday's time at which the present hour began, in the format of the API.
function yesterday() {
  const time = new Date();
  time.setDate(time.getDate() - 1);
  time.setMinutes(0, 0, 0);
  return time.toISOString();
}
// Return how many deliveries to a webhook were created since a time and did not arrive: {failed,
// waiting, isMore}, where isMore says that there may be more. Return null if neither the counts of
// the webhook nor an earlier response of the API says it.
function undeliveredSince(webhook, since) {
  const { failed, waiting, has_more, oldest_missed_at: oldest, last_at: last } = webhook.deliveries;
  const begin = Date.parse(since);
  const hasNone = !isMissing(webhook) || Date.parse(last) < begin;
  if (hasNone) return { failed: 0, waiting: 0, isMore: false };
  const areAllYoung = !has_more && Date.parse(oldest) >= begin;
  if (areAllYoung) return { failed, waiting, isMore: false };
  return page.days.get(webhook.subscription_id) ?? null;
}
// Ask the API what did not arrive since yesterday at each webhook whose counts leave that open:
// once, and again after its counts have changed. Later refreshes ask for ASKED_AT_ONCE webhooks
// each.
async function loadDay() {
  const since = yesterday();
  const isFirst = !page.shownAt;
  const stateAt = (webhook) => JSON.stringify([since, webhook.dismissed_until, webhook.deliveries]);
  const lastAsked = (webhook) => page.days.get(webhook.subscription_id);
  const isAsked = (webhook) => {
    const counted = undeliveredSince(webhook, since);
    if (counted === null) return true;
    return counted === lastAsked(webhook) && counted.asked !== stateAt(webhook);
  };
  const askedAt = (webhook) => lastAsked(webhook)?.askedAt ?? 0;
  const all = page.listed.filter(isAsked).sort((a, b) => askedAt(a) - askedAt(b));
  for (const webhook of isFirst ? all : all.slice(0, ASKED_AT_ONCE)) {
    const { items, cursor } = await listUndelivered(webhook, { since });
    const failed = items.filter(({ status }) => status === "failed").length;
    const counted = { failed, waiting: items.length - failed, isMore: Boolean(cursor) };
    const asked = { asked: stateAt(webhook), askedAt: Date.now() };
    page.days.set(webhook.subscription_id, { ...counted, ...asked });
  }
  if (isFirst) page.calls = Math.min(page.calls, 2); // what a refresh asks later on is little
}
// Return how many deliveries to the listed webhooks did not arrive since a time, for each state
// with such deliveries: {state, count, isMore, names}, where names are those of the webhooks.
// Return null if that is not known yet for one of the webhooks.
function undeliveredParts(since) {
  const parts = ["failed", "waiting", "kept"].map((state) => ({ state, count: 0, names: [] }));
  for (const webhook of page.listed) {
    const counted = undeliveredSince(webhook, since);
    if (!counted) return null;
    const counts = { [failedState(webhook)]: counted.failed, waiting: counted.waiting };
    for (const [state, count] of Object.entries(counts)) {
      const part = parts.find((known) => known.state === state);
      part.count += count;
      if (count) part.names.push(nameOf(webhook));
      part.isMore ||= count > 0 && counted.isMore;
    }
  }
  return parts.filter(({ count }) => count);
}
// Return a part of `undeliveredParts` in words, such as `3 that failed`.
function describePart({ state, count, isMore }) {
  const isOne = count === 1 && !isMore;
  const words = { failed: "failed", waiting: isOne ? "waits" : "wait", kept: "are kept" };
  const word = state === "kept" && isOne ? "is kept" : words[state];
  return `${count.toLocaleString("en")}${isMore ? "+" : ""} that ${word}`;
}
// Draw the line that says whether everything arrived since yesterday, if the view shows the
// webhooks of one tenant.
function drawDay() {
  const tenant = tenantOfTable();
  const isShown = tenant && !page.view.id && page.listed.length > 0;
  hide($("day"), !isShown);
  if (!isShown) return;
  const since = yesterday();
  const parts = undeliveredParts(since);
  const begin = moment(since, (time) => `yesterday ${local(time).slice(11, 16)}`);
  const given = { since, status: "undelivered", tenant: page.me.tenant ? "" : tenant };
  const linkTo = (part) => link("/", { ...given, state: part.state }, describePart(part));
  const draw = () => {
    if (!parts) return ["Since ", begin, ": looking at each webhook in trouble…"];
    const nodes = ["Since ", begin, " everything arrived"];
    parts.forEach((part, index) => {
      const between = index === parts.length - 1 ? " and " : ", ";
      nodes.push(index ? between : ", except ", linkTo(part), ` (${listNames(part.names)})`);
    });
    return nodes;
  };
  setTone($("day"), "badge", parts ? (parts[0]?.state ?? "delivered") : "");
  redraw($("day"), [since, parts], draw);
}
