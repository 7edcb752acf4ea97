// webhooks.js: a table of webhooks, those in trouble first, or the card of a webhook.
// Whether all webhooks are loaded, not only the first MOST_SHOWN.
let isAll = true; // all webhooks are known
// Return whether the view has a table. A customer's only webhook has its card at once.
const isTable = () => !page.view.id && !(page.me.tenant && page.listed.length === 1);
// Load the webhooks of the view, or the one that the address names, and draw them.
async function loadSubscriptions() {
  const { view, me } = page;
  if (view.id) {
    page.listed = [await get(`subscriptions/${view.id}?include=deliveries`)];
    page.webhooks.set(view.id, page.listed[0]);
  } else {
    isAll = await loadWebhooks({ include: "deliveries", tenant: view.tenant });
    const own = me.webhook && !view.tenant ? [await loadOwn(me.webhook)] : [];
    page.listed = [...own, ...page.webhooks.values()];
  }
  page.listed.forEach(watchRecovery);
  renderSubscriptions();
  show();
  if (!view.id && tenantOfTable()) await loadDay();
  markShown();
  renderSubscriptions();
}
// Return the operator's own webhook in the form of the others. Its counts are those of the events
// that failed or wait themselves.
async function loadOwn({ host }) {
  const own = { subscription_id: OWN, name: "Your own webhook", target_host: host };
  const list = (given, enough) =>
    listEvents({ subscription_id: OWN, ...given }, { enough, least: 1 });
  const failed = await list({ status: "failed", order: "oldest" }, PAGE);
  const pending = await list({ status: "pending", order: "oldest" }, PAGE);
  const recent = [...(await list({}, 25)).found.values()];
  const isWaiting = (event) => stateOfPush(event) === "waiting";
  const waiting = [...pending.found.values()].filter(isWaiting);
  const missed = [...failed.found.values(), ...waiting];
  const deliveries = {
    failed: failed.found.size,
    waiting: waiting.length,
    has_more: Boolean(failed.cursor ?? pending.cursor),
    oldest_missed_at: missed.map(({ created_at }) => created_at).sort()[0],
    last_error: recent.find((webhook) => webhook.last_error)?.last_error,
    last_at: recent[0]?.created_at,
    recent: recent.map(({ status }) => status),
  };
  const state = failed.found.size ? "dead letters" : "active";
  return { ...own, state, deliveries };
}
// Return the text of a webhook in which the search looks.
function searchedText(webhook) {
  const { name, tenant, target_host, subscription_id } = webhook;
  return [name, tenant, target_host, subscription_id, stateOf(webhook).word].join("\n");
}
// Return the webhooks that the search finds: the operator's own first, then webhooks in trouble,
// then the others.
function matching() {
  const text = (page.filters.text ?? "").trim().toLowerCase();
  const placeOf = (webhook) => (webhook.subscription_id === OWN ? -1 : stateOf(webhook).rank);
  const isFound = (webhook) => searchedText(webhook).toLowerCase().includes(text);
  const found = page.listed.filter((webhook) => page.view.id || isFound(webhook));
  return found.sort((a, b) => placeOf(a) - placeOf(b));
}
// Draw the table or the card, and what belongs around it, from what is loaded.
function renderSubscriptions() {
  const { me, listed, view, filters } = page;
  const some = matching();
  const ranks = listed.map((webhook) => stateOf(webhook).rank);
  const troubled = ranks.filter((rank) => rank < QUIET).length;
  const none = "There are no webhooks yet. Add the URL of a receiver to send events to it.";
  const missed = `No webhook has “${filters.text}” in its name, tenant, host or state.`;
  const isOther = $("nobody").hidden !== some.length > 0; // there are none, or some again
  setText($("nobody"), some.length ? "" : listed.length ? missed : none);
  if (isOther) $("adding").open = !listed.length;
  const tenant = tenantOfTable();
  setText($("subscriptions-title"), tenant ? `Webhooks of ${tenant}` : "Webhooks");
  hide($("undelivered"), !tenant || !listed.some(isMissing));
  setLink($("undelivered"), address("/", { status: "undelivered", tenant: view.tenant }));
  drawDay();
  const isShown = isTable() && listed.length > 0;
  const paused = listed.filter(({ state }) => state === "paused").length;
  const rest = paused ? `, ${paused} paused` : "";
  const all = number(listed.length, "webhook", !isAll);
  const told = `${troubled || "None"} of ${all} in trouble${rest}`;
  setText($("troubled"), isShown ? told : "");
  const tone = ranks.includes(0) ? "failed" : troubled ? "waiting" : "delivered";
  setTone($("troubled"), "badge", tone);
  const isOnly = me.tenant && page.webhooks.size === 1;
  hide($("all-webhooks"), isOnly || !(view.id || view.tenant));
  hide($("finding"), view.id);
  hide($("sought"), !isShown);
  hide($("table"), !isTable() || !some.length);
  fillCatalogue();
  setTone($("subscriptions-title"), view.id ? "unseen" : "", ""); // the card has a heading
  const [rows, cards] = isTable() ? [some, []] : [[], some];
  showItems($("overview"), rows, "subscription_id", "overview-row", fillOverview);
  showItems($("subscriptions"), cards, "subscription_id", "subscription", fillCard);
}
// Return how many deliveries to a webhook failed, as the table shows it.
function describeFailed(webhook) {
  const { deliveries: some, state } = webhook;
  const amount = some.failed ? amountOf(some.failed, some) : "0";
  return state === "paused" && some.failed ? `${amount} kept` : amount;
}
// Fill the row of a webhook in the table.
function fillOverview(node, webhook) {
  const parts = partsOf(node);
  const { word, tone, since } = stateOf(webhook);
  const { deliveries: some } = webhook;
  const cells = {
    since: since ?? "",
    waiting: some.waiting ? amountOf(some.waiting, some) : "0",
    failed: describeFailed(webhook),
    error: errorOf(webhook),
    last: some.last_at ?? "none",
  };
  setText(parts.name, nameOf(webhook));
  setText(parts.tenant, webhook.tenant ?? "");
  setLink(parts.tenant, address("/subscriptions", { tenant: webhook.tenant }));
  set(parts.error, { title: cells.error });
  redraw(parts.recent, [some.recent, some.waiting, webhook.state], () => [strip(webhook)]);
  const path = webhook.subscription_id === OWN ? "/?subscription_id=" : "/subscriptions/";
  setLink(parts.name, `#${path}${webhook.subscription_id}`);
  showText(parts.state, word);
  setTone(parts.state, "badge", tone);
  for (const [name, text] of Object.entries(cells)) showSentence(parts[name], text);
  set(parts.failed.dataset, { name: webhook.state === "paused" && some.failed ? "" : "failed" });
  const isSelecting = () => !getSelection().isCollapsed;
  node.onclick = ({ target }) =>
    target.closest("a, button") ?? (isSelecting() || parts.name.click());
}
// Return the command that a customer runs to get events on a machine of theirs. It is copied with
// the token.
const listenCommand = (token) => `curl -fsS ${API}listen.py -o listen.py && \\
  TRIGGERS_URL=${API} TRIGGERS_API_KEY=${token} \\
  python3 listen.py http://127.0.0.1:3000/hook`;
$("listen").textContent = listenCommand("trt_…");
$("copy-listen").onclick = (click) => copy(click, "Copy command", listenCommand(page.key));
$("copy-token").onclick = (click) => copy(click, "Copy token", page.key);
// Filter the table at each key, and keep the text in the address; nothing is loaded for it.
$("sought").oninput = () => {
  const text = new FormData($("sought")).get("text");
  page.filters = { ...page.filters, text };
  history.replaceState(null, "", address("/subscriptions", page.filters));
  if (page.listed) renderSubscriptions();
};
