// Subscriptions, which a customer knows as webhooks: those in trouble first.
const recent = new Map(); // of each, by id: what its newest deliveries say
const pinned = new Map(); // rank of those that were acted on: they stay where they are
let listed = [];
let isAll = true; // the list was read to its end

async function showSubscriptions() {
  const tenant = me.tenant ?? "*";
  if (view.id) listed = [await get(`subscriptions/${view.id}`)];
  else {
    const { found, isMore } = await loadSubscriptions(tenant);
    listed = found;
    isAll = !isMore;
  }
  if (view.id) subscriptions.set(view.id, listed[0]);
  renderSubscriptions();
  markShown();
  const now = Date.now();
  const isDue = (one) => now - (recentOf(one)?.at ?? 0) > COUNT_MS;
  const isKnown = (one) => Boolean(recentOf(one));
  const due = matching().filter((one) => isDue(one) && (!isKnown(one) || isVisible(one)));
  for (const one of due.slice(0, 10)) {
    await loadRecent(one);
    renderSubscriptions();
  }
  return due.length > 10;
}
const maximum = (values) => values.sort().at(-1);
function isVisible({ subscription_id: id }) {
  const node = $("subscriptions").querySelector(`[data-id=${id}]`);
  if (!node) return false;
  const { top, bottom } = node.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}
// What was read of another state of a subscription counts no more.
const stateKey = (one) => [one.failing_since, one.disabled_at, one.slow_since].join();
function recentOf(one) {
  const known = recent.get(one.subscription_id);
  return known?.key === stateKey(one) ? known : undefined;
}
async function loadRecent(one) {
  const { subscription_id } = one;
  const { signal } = refreshing;
  const { found, isMore } = await listEvents({ subscription_id }, NEWEST, signal);
  const items = [...found.values()];
  const count = (status) => items.filter((item) => item.status === status).length;
  const tried = items.filter((item) => item.status !== "pending" || item.last_error);
  const delivered = items.filter((item) => item.status === "delivered");
  const some = {
    key: stateKey(one),
    at: Date.now(),
    size: items.length,
    isMore,
    counts: Object.fromEntries(STATUSES.map((status) => [status, count(status)])),
    isFailing: tried.length > 0 && tried[0].status !== "delivered",
    last: items[0]?.created_at,
    lastDelivered: maximum(delivered.map((item) => item.delivered_at)),
    lastError: tried[0]?.last_error,
    failed: count("failed"),
    isMoreFailed: false,
  };
  // older ones may have failed, too
  if (isMore) {
    const failed = await listEvents({ subscription_id, status: "failed" }, PAGE, signal);
    some.failed = failed.found.size;
    some.isMoreFailed = failed.isMore;
  }
  if (one.slow_since && delivered.length) {
    const { attempts } = await get(`events/${delivered[0].event_id}`);
    some.took = attempts.at(-1)?.duration_ms;
  }
  recent.set(subscription_id, some);
}
const isPaused = (one) => Boolean(one.disabled_at) && one.last_error === "disabled by hand";
// Return the state of a subscription in words, its tone and its rank: trouble has a low one.
function stateOf(one) {
  const some = recentOf(one);
  if (isPaused(one)) return [`paused since ${clock(one.disabled_at)}`, "pending", 3];
  if (one.disabled_at) return [`disabled since ${clock(one.disabled_at)}`, "failed", 0];
  if (one.failing_since) return [`failing since ${clock(one.failing_since)}`, "retried", 1];
  if (some?.isFailing) return [tellFailing(some), "retried", 2];
  if (one.slow_since) return [tellSlow(one, some), "retried", 3];
  return ["active", some ? "delivered" : "", 4];
}
function tellFailing({ lastDelivered, counts, isMore, size }) {
  const never = isMore ? `nothing of the newest ${size} delivered` : "nothing delivered yet";
  const since = lastDelivered ? `nothing delivered since ${clock(lastDelivered)}` : never;
  const rest = [
    [counts.pending, counts.pending === 1 ? "waits" : "wait"],
    [counts.failed, "failed"],
  ];
  const told = rest.filter(([count]) => count).map(([count, word]) => `, ${count} ${word}`);
  return `${since}${told.join("")}`;
}
function tellSlow({ slow_since }, some) {
  const took = some?.took && `the newest delivery took ${duration(some.took)}`;
  return `slow: ${took || `since ${clock(slow_since)}`}`;
}
// Return those that match what is sought, those in trouble first, but those that were acted on where
// they were.
function matching() {
  const sought = (filters.text ?? "").trim().toLowerCase();
  const matches = (one) =>
    pinned.has(one.subscription_id) ||
    [one.name, one.tenant, one.target_host, stateOf(one)[0], one.subscription_id].some((text) =>
      text?.toLowerCase().includes(sought),
    );
  const rankOf = (one) => pinned.get(one.subscription_id) ?? stateOf(one)[2];
  return listed.filter(matches).sort((a, b) => rankOf(a) - rankOf(b));
}
function pin(one) {
  if (!pinned.has(one.subscription_id)) pinned.set(one.subscription_id, stateOf(one)[2]);
}
function renderSubscriptions() {
  const some = matching();
  const troubled = listed.filter((one) => stateOf(one)[2] < 3).length;
  const uncounted = listed.filter((one) => !recentOf(one)).length;
  const none = me.tenant
    ? "There are no webhooks yet. Add the URL of a receiver: events are sent to it by POST."
    : "There are no subscriptions yet. Add one.";
  const missed = `No ${noun()} has “${filters.text}” in its name, tenant, host or state.`;
  const isOther = $("nobody").hidden !== some.length > 0; // there are none, or some again
  setText($("nobody"), some.length ? "" : listed.length ? missed : none);
  if (isOther) $("adding").open = !listed.length;
  const unread = uncounted ? `, ${uncounted} not looked at yet` : "";
  const total = number(listed.length, noun(), !isAll);
  const isOverview = !me.tenant && !view.id && listed.length;
  setText($("troubled"), isOverview ? `${troubled || "None"} of ${total} in trouble${unread}` : "");
  setTone($("troubled"), "note", troubled ? "failed" : "delivered");
  showItems($("subscriptions"), some, "subscription_id", "subscription", fillCard);
}
$("sought").oninput = () => {
  clearTimeout(typing);
  const text = new FormData($("sought")).get("text");
  typing = setTimeout(() => seek(text), TYPING_MS);
};
function seek(text) {
  pinned.clear();
  go({ text }, true);
}
