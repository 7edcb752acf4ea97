// Webhooks: a table, those in trouble first, or the card of one.
let isAll = true; // all webhooks are known
let searching = 0; // a timer
// A customer's only webhook has its card at once.
const isTable = () => !page.view.id && !(page.me.tenant && page.listed.length === 1);
async function loadSubscriptions() {
  const { view, me } = page;
  if (view.id) {
    page.listed = [await get(`subscriptions/${view.id}?include=deliveries`)];
    page.webhooks.set(view.id, page.listed[0]);
  } else {
    isAll = await loadWebhooks({ include: "deliveries" });
    const own = me.webhook ? [await loadOwn(me.webhook)] : [];
    page.listed = [...own, ...page.webhooks.values()];
  }
  markShown();
  renderSubscriptions();
  show();
}
// Return the operator's own webhook as the others are: what was pushed of the events themselves.
async function loadOwn({ host }) {
  const options = { enough: PAGE, least: 1 };
  const newest = await listEvents({ subscription_id: OWN }, options);
  const failed = await listEvents({ subscription_id: OWN, status: "failed" }, options);
  const items = [...newest.found.values()];
  const pending = items.filter(({ status }) => status === "pending");
  const waiting = pending.filter((one) => stateOfPush(one) === "retrying");
  const pushed = items.find(({ delivered_via }) => delivered_via === "push");
  const missed = [...failed.found.values(), ...waiting].map(({ created_at }) => created_at);
  const deliveries = {
    failed: failed.found.size,
    waiting: waiting.length,
    has_more: Boolean(failed.cursor) || pending.length === PAGE,
    oldest_missed_at: missed.sort()[0],
    last_delivered_at: pushed?.created_at,
    recent: items.slice(0, 25).map(({ status }) => status),
  };
  const state = failed.found.size ? "dead letters" : "active";
  const name = "Your own webhook";
  return { subscription_id: OWN, name, target_host: host, state, deliveries };
}
// Return those that match what is sought, those in trouble first, after the operator's own.
function matching() {
  const text = (page.filters.text ?? "").trim().toLowerCase();
  const placeOf = (one) => (one.subscription_id === OWN ? -1 : stateOf(one).rank);
  const toldOfOne = ({ name, tenant, target_host, subscription_id, ...one }) =>
    [name, tenant, target_host, subscription_id, stateOf(one).word].join("\n").toLowerCase();
  const found = page.listed.filter((one) => page.view.id || toldOfOne(one).includes(text));
  return found.sort((a, b) => placeOf(a) - placeOf(b));
}
function renderSubscriptions() {
  const { me, listed, view, filters } = page;
  const some = matching();
  const troubled = listed.filter((one) => stateOf(one).rank < 3).length;
  const none = me.tenant
    ? "There are no webhooks yet. Add the URL of a receiver: events are sent to it by POST."
    : "There are no webhooks yet. Add one.";
  const missed = `No webhook has “${filters.text}” in its name, tenant, host or state.`;
  const isOther = $("nobody").hidden !== some.length > 0; // there are none, or some again
  setText($("nobody"), some.length ? "" : listed.length ? missed : none);
  if (isOther) $("adding").open = !listed.length;
  const total = number(listed.length, "webhook", !isAll);
  const isShown = isTable() && listed.length > 0;
  setText($("troubled"), isShown ? `${troubled || "None"} of ${total} in trouble` : "");
  const isRed = listed.some((one) => stateOf(one).rank === 0);
  setTone($("troubled"), "badge", isRed ? "failed" : troubled ? "retried" : "delivered");
  $("all-webhooks").hidden = !view.id || (Boolean(me.tenant) && page.webhooks.size === 1);
  $("finding").hidden = Boolean(view.id);
  $("sought").hidden = !isShown;
  $("table").hidden = !isTable() || !some.length;
  $("subscriptions-title").className = view.id ? "unseen" : ""; // the card has a heading
  const [rows, cards] = isTable() ? [some, []] : [[], some];
  showItems($("overview"), rows, "subscription_id", "overview-row", fillOverview);
  showItems($("subscriptions"), cards, "subscription_id", "subscription", fillCard);
}
function fillOverview(node, one) {
  const parts = partsOf(node);
  const { word, tone, since } = stateOf(one);
  const { deliveries: some } = one;
  const plus = some.has_more ? "+" : "";
  const cells = {
    tenant: one.tenant ?? "",
    since: since ?? "",
    waiting: `${some.waiting}${some.waiting ? plus : ""}`,
    failed: `${some.failed}${some.failed ? plus : ""}`,
    last: some.last_delivered_at ?? "none",
  };
  setText(parts.name, nameOf(one));
  redraw(parts.recent, some.recent, () => [strip(some.recent)]);
  const path = one.subscription_id === OWN ? "/?subscription_id=" : "/subscriptions/";
  setLink(parts.name, `#${path}${one.subscription_id}`);
  showText(parts.state, word);
  setTone(parts.state, "badge", tone);
  for (const [name, text] of Object.entries(cells)) showSentence(parts[name], text);
  const isSelecting = () => !getSelection().isCollapsed;
  node.onclick = ({ target }) => target.closest("a") ?? (isSelecting() || parts.name.click());
}
$("sought").oninput = () => {
  clearTimeout(searching);
  const text = new FormData($("sought")).get("text");
  searching = setTimeout(() => hooks.go({ text }, true), TYPING_MS);
};
