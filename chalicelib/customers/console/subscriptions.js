// Webhooks, those in trouble first: a table for the operator, a card each for a customer.
const recent = new Map(); // of each, by id: what its newest deliveries say
const pinned = new Map(); // rank of those that were acted on: they stay where they are
let listed = [];
const isTable = () => !me.tenant && !view.id;

async function showSubscriptions() {
  if (view.id) {
    listed = [await get(`subscriptions/${view.id}`)];
    subscriptions.set(view.id, listed[0]);
  } else {
    const { found, isMore } = await loadSubscriptions(me.tenant ?? "*");
    listed = found;
    isAll = !isMore;
  }
  renderSubscriptions();
  markShown();
  const now = Date.now();
  const isDue = (one) => now - (recentOf(one)?.at ?? 0) > COUNT_MS;
  const due = matching().filter((one) => isDue(one) && (!recentOf(one) || isVisible(one)));
  besides(async (signal) => {
    for (const one of due) {
      await loadRecent(one, signal).catch((error) => {
        if (error.status !== 403 && error.status !== 404) throw error; // deleted meanwhile
      });
      renderSubscriptions();
    }
  });
}
const maximum = (values) => values.sort().at(-1);
const minimum = (values) => values.filter(Boolean).sort()[0];
function isVisible({ subscription_id: id }) {
  const node = document.querySelector(`:is(#overview, #subscriptions) > [data-id=${id}]`);
  if (!node) return false;
  const { top, bottom } = node.getBoundingClientRect();
  return bottom > 0 && top < innerHeight;
}
// What was read of another state of a webhook counts no more.
const stateKey = (one) => [one.failing_since, one.disabled_at, one.slow_since].join();
function recentOf(one) {
  const known = recent.get(one.subscription_id);
  return known?.key === stateKey(one) ? known : undefined;
}
async function loadRecent(one, signal) {
  const { subscription_id } = one;
  const { found, isMore } = await listEvents({ subscription_id }, NEWEST, signal);
  const items = [...found.values()];
  const of = (...states) => items.filter((item) => states.includes(itemState(item)));
  const tried = of("delivered", "failed", "retrying");
  const missed = of("failed", "retrying");
  const delivered = of("delivered");
  const some = {
    key: stateKey(one),
    at: Date.now(),
    size: items.length,
    isMore,
    counts: Object.fromEntries(STATUSES.map((status) => [status, statusCount(items, status)])),
    isFailing: tried.length > 0 && tried[0].status !== "delivered",
    since: missed.at(-1)?.created_at, // the oldest that did not arrive
    waiting: of("retrying").filter(isWaiting).length,
    last: items[0]?.created_at,
    lastDelivered: maximum(delivered.map((item) => item.delivered_at)),
    lastError: await newestError(missed, signal),
    pending: tellCount(statusCount(items, "pending")),
    failed: tellCount(statusCount(items, "failed")),
  };
  if (isMore) {
    // older ones may wait or have failed, too
    for (const status of ["pending", "failed"]) {
      const more = await listEvents({ subscription_id, status }, PAGE, signal);
      some[status] = tellCount(more.found.size, more.isMore);
    }
  }
  if (one.slow_since && delivered.length) {
    const { attempts } = await get(`events/${delivered[0].event_id}`, signal);
    some.took = attempts.at(-1)?.duration_ms;
  }
  recent.set(subscription_id, some);
}
// Return whether the next attempt is so far ahead that *Recover* makes it now.
const isWaiting = (item) => Date.parse(item.next_attempt_at) > Date.now() + 60e3;
const statusCount = (items, status) => items.filter((item) => item.status === status).length;
const tellCount = (count, isMore) => (count ? `${count}${isMore ? "+" : ""}` : "");
// Return the error of the newest attempt. Only where errors differ, it matters which that is.
async function newestError(missed, signal) {
  const some = missed.filter((item) => item.last_error).slice(0, 5);
  const errors = new Set(some.map((item) => item.last_error));
  if (errors.size < 2) return some[0]?.last_error;
  const read = [];
  for (const { event_id } of some) read.push(await get(`events/${event_id}`, signal));
  const triedAt = (item) => item.attempts.at(-1)?.at ?? "";
  return read.sort((a, b) => (triedAt(a) < triedAt(b) ? 1 : -1))[0].last_error;
}
const isPaused = (one) => Boolean(one.disabled_at) && one.last_error === "disabled by hand";
// Return since when deliveries do not arrive, and what waits and failed; undefined without trouble.
function troubleOf(one) {
  const some = recentOf(one);
  if (!one.failing_since && !some?.isFailing) return undefined;
  const since = minimum([some?.since, one.failing_since]); // that of the newest alone would slide
  return { since, pending: some?.pending, failed: some?.failed };
}
// Return the state of a webhook: {text, word, since, tone, rank}. Trouble has a low rank.
function stateOf(one) {
  const { disabled_at: off, slow_since: slow } = one;
  if (isPaused(one)) return stateSince("paused", off, "pending", 3);
  if (off) return stateSince("disabled", off, "failed", 0);
  const trouble = troubleOf(one);
  if (trouble) return { ...tellTrouble(trouble), tone: "retried", rank: one.failing_since ? 1 : 2 };
  const some = recentOf(one);
  if (slow && !some?.took) return stateSince("slow", slow, "retried", 3);
  if (slow) {
    const text = `slow: the newest delivery took ${duration(some.took)}`;
    return { ...stateSince("slow", slow, "retried", 3), text };
  }
  return { text: "active", word: "active", tone: some ? "delivered" : "", rank: 4 };
}
function stateSince(word, since, tone, rank) {
  return { text: `${word} since ${clock(since)}`, word, since, tone, rank };
}
function tellTrouble({ since, pending, failed }) {
  const waits = pending && `, ${pending} ${pending === "1" ? "waits" : "wait"}`;
  const rest = [waits, failed && `, ${failed} failed`].filter(Boolean).join("");
  const text = `failing since ${clock(since)}${rest}`;
  if (!pending) return { text, word: "failing", since };
  return { text: `retrying, ${text}`, word: "retrying", since };
}
// Return those that match what is sought, those in trouble first, but those that were acted on where
// they were.
function matching() {
  const text = (filters.text ?? "").trim().toLowerCase();
  const matches = (one) =>
    pinned.has(one.subscription_id) ||
    [one.name, one.tenant, one.target_host, stateOf(one).text, one.subscription_id].some((own) =>
      own?.toLowerCase().includes(text),
    );
  const rankOf = (one) => pinned.get(one.subscription_id) ?? stateOf(one).rank;
  return listed.filter(matches).sort((a, b) => rankOf(a) - rankOf(b));
}
function pin(one) {
  if (!pinned.has(one.subscription_id)) pinned.set(one.subscription_id, stateOf(one).rank);
}
function renderSubscriptions() {
  const some = matching();
  const troubled = listed.filter((one) => stateOf(one).rank < 3).length;
  const uncounted = listed.filter((one) => !recentOf(one)).length;
  const none = me.tenant
    ? "There are no webhooks yet. Add the URL of a receiver: events are sent to it by POST."
    : "There are no webhooks yet. Add one.";
  const missed = `No webhook has “${filters.text}” in its name, tenant, host or state.`;
  const isOther = $("nobody").hidden !== some.length > 0; // there are none, or some again
  setText($("nobody"), some.length ? "" : listed.length ? missed : none);
  if (isOther) $("adding").open = !listed.length;
  const unread = uncounted ? `, ${uncounted} not looked at yet` : "";
  const total = number(listed.length, "webhook", !isAll);
  const told = `${troubled || "None"} of ${total} in trouble${unread}${tellOldest(some)}`;
  setText($("troubled"), isTable() && listed.length ? told : "");
  const isOff = listed.some((one) => stateOf(one).rank === 0);
  setTone($("troubled"), "note", isOff ? "failed" : troubled ? "retried" : "delivered");
  $("table").hidden = !isTable() || !some.length;
  const [rowsShown, cards] = isTable() ? [some, []] : [[], some];
  showItems($("overview"), rowsShown, "subscription_id", "overview-row", fillOverview);
  showItems($("subscriptions"), cards, "subscription_id", "subscription", fillCard);
}
// Say of when the oldest is that can be seen, if it is old.
function tellOldest(some) {
  const times = some.filter(isVisible).map((one) => recentOf(one)?.at ?? Date.now());
  const oldest = Math.min(...times);
  return Date.now() - oldest > OLD_MS ? `, ${asOf(oldest)}` : "";
}
function fillOverview(node, one) {
  const parts = partsOf(node);
  const { word, tone, since } = stateOf(one);
  const some = recentOf(one) ?? recent.get(one.subscription_id);
  const cells = {
    tenant: one.tenant,
    since: since && clock(since),
    waiting: some && (some.pending || "0"),
    failed: some && (some.failed || "0"),
    last: some?.lastDelivered ? clock(some.lastDelivered) : some && "none",
  };
  setText(parts.name, nameOf(one));
  parts.name.href = `#/subscriptions/${one.subscription_id}`;
  setText(parts.state, word);
  setTone(parts.state, "badge", tone);
  for (const [name, text] of Object.entries(cells)) parts[name].textContent = text ?? "";
  node.onclick = ({ target }) => target.closest("a") ?? parts.name.click();
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
