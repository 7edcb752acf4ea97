// A customer's search: what became of the events with one subject at all of its webhooks.
const MOST_READ = 10; // webhooks whose deliveries are looked through
async function loadOrders() {
  const { sought } = page.view;
  const isOther = $("orders").dataset.sought !== sought;
  if (!page.areOrdersDue && !isOther) return;
  if (isOther) page.orders = [];
  $("orders").dataset.sought = sought;
  await loadWebhooks();
  renderOrders("Looking at each webhook…");
  const all = [...page.webhooks.values()];
  const before = page.orders.flatMap((order) => order.webhooks);
  const ids = new Set(before.filter(isUnderWay).map((row) => row.subscription_id));
  const isAgain = page.areOrdersDue === "some" && !isOther; // the others will tell nothing new
  const webhooks = isAgain ? all.filter((one) => ids.has(one.subscription_id)) : all;
  const isId = sought.startsWith("evt_");
  const found = isId ? [] : await findSubject(webhooks, page.orders[0]?.subject ?? sought);
  if (!found.length) return lookFurther(webhooks, sought, isId);
  if (isAgain) found.push(...before.filter((row) => !ids.has(row.subscription_id)));
  const byEvent = new Map();
  for (const row of found) {
    const order = byEvent.get(row.event_id) ?? { ...row, webhooks: [] };
    order.webhooks.push(row);
    byEvent.set(row.event_id, order);
  }
  page.orders = [...byEvent.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
  page.areOrdersDue = found.some(isUnderWay) && "some";
  page.calls = Math.min(page.calls, 2); // all were asked, which happens once
  markShown();
  renderOrders("");
}
// Return whether a refresh may tell more: what was just queued, or is tried again in a moment.
function isUnderWay({ copy: made }) {
  if (made?.status !== "pending") return false;
  return !made.next_attempt_at || Date.parse(made.next_attempt_at) < Date.now() + 60e3;
}
// Return what each webhook tells of the events with a subject, however that is written.
async function findSubject(webhooks, sought) {
  const ask = async (one, subject) => {
    const rows = await listMissed(one.subscription_id, { subject });
    return rows.map((row) => ({ ...one, ...row }));
  };
  const [first, ...others] = webhooks;
  for (const spelling of first ? [sought, ...spellings(sought)] : []) {
    const found = await ask(first, spelling);
    if (!found.length) continue; // each tells of every event of its tenant
    for (const one of others) found.push(...(await ask(one, spelling)));
    return found;
  }
  return [];
}
// Look among the newest deliveries of the first webhooks for that of an event, or for subjects.
async function lookFurther(webhooks, sought, isId) {
  for (const { subscription_id } of webhooks.slice(0, MOST_READ)) {
    const given = { subscription_id, include: "subject" };
    const { found } = await listEvents(given, { enough: PAGE, least: 1 });
    const made = [...found.values()].find((one) => isId && one.source_event_id === sought);
    if (made) return location.replace(`#/events/${made.event_id}`);
  }
  if (isId) return miss(`None of the newest deliveries to your webhooks is of ${sought}.`);
  const other = spellings(sought).find((spelling) => page.seen.subjects.has(spelling));
  if (other) return location.replace(address("/find", { text: other }));
  miss(`No event has the subject ${sought}.`);
  propose(sought, "A subject is found by all of its letters and digits.");
}
function renderOrders(looking) {
  const subject = page.orders[0]?.subject ?? page.view.sought;
  document.title = `${subject}: ${page.me.tenant}`;
  setText($("orders-title"), subject);
  setText($("orders-none"), page.orders.length ? "" : looking);
  showItems($("orders"), page.orders, "event_id", "order", fillOrder);
}
function fillOrder(node, order) {
  const { type, created, webhooks } = partsOf(node);
  setText(type, order.event_type);
  setSentence(created, order.created_at);
  showRecipients(webhooks, inOrder(order.webhooks), order);
}
