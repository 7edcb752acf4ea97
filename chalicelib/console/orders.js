// orders.js: what became of the events with one subject at all webhooks of a customer.
const MOST_READ = 10; // webhooks whose deliveries are looked through
async function loadOrders() {
  const { sought } = page.view;
  if (page.ordersOf !== sought) page.orders = [];
  page.ordersOf = sought;
  const isFirst = page.acted === null; // later on the others would tell nothing new
  const rows = page.orders.flatMap((order) => order.webhooks);
  const underWay = rows.filter(isUnderWay).map((row) => row.subscription_id);
  const ids = page.acted?.size ? page.acted : new Set(underWay);
  if (!isFirst && !ids.size) return;
  await loadWebhooks();
  renderOrders(isFirst ? "Looking at each webhook…" : "");
  const all = [...page.webhooks.values()];
  const asked = isFirst ? all : all.filter((one) => ids.has(one.subscription_id));
  const isId = sought.startsWith("evt_");
  const showFound = (found, looking) => {
    const told = new Set(found.map((row) => row.subscription_id));
    const others = rows.filter((row) => !told.has(row.subscription_id)); // as they were
    const byEvent = [...Map.groupBy([...others, ...found], (row) => row.event_id).values()];
    const orders = byEvent.map((webhooks) => ({ ...webhooks[0], webhooks }));
    page.orders = orders.sort(newestFirst);
    markShown();
    renderOrders(looking);
  };
  const subject = page.orders[0]?.subject ?? sought;
  const found = isId ? [] : await findSubject(asked, subject, isFirst ? showFound : null);
  if (!found.length && !rows.length) found.push(...(await lookFurther(all, sought, isId)));
  if (!found.length && !rows.length) return;
  page.acted = new Set();
  if (isFirst) page.calls = 2; // what comes next are few
  showFound(found, "");
}
// Return whether a refresh may tell more: what was just queued, or is tried again in a moment.
function isUnderWay({ copy: made }) {
  if (made?.status !== "pending") return false;
  return !made.next_attempt_at || Date.parse(made.next_attempt_at) < Date.now() + 60e3;
}
// Return what webhooks tell of a subject, however that is written; likely takers are asked first.
async function findSubject(webhooks, sought, showFound = null) {
  const ask = async (one, subject) =>
    (await listMissed(one.subscription_id, { subject })).map((row) => ({ ...one, ...row }));
  const [first, ...others] = webhooks;
  for (const spelling of first ? [sought, ...spellings(sought)] : []) {
    const found = await ask(first, spelling);
    if (!found.length) continue; // each tells of every event of its tenant
    const isLater = (one) => !hasType(one.event_types, found[0].event_type);
    for (const [index, one] of others.sort((a, b) => isLater(a) - isLater(b)).entries()) {
      showFound?.(found, `Looked at ${index + 1} of ${number(webhooks.length, "webhook")}…`);
      found.push(...(await ask(one, spelling)));
    }
    return found;
  }
  return [];
}
// Look among the newest deliveries for that of an event, or for subjects like what is sought.
async function lookFurther(webhooks, sought, isId) {
  for (const { subscription_id } of webhooks.slice(0, MOST_READ)) {
    const given = { subscription_id, include: "subject" };
    const { found } = await listEvents(given, { enough: PAGE, least: 1 });
    const made = [...found.values()].find((one) => isId && one.source_event_id === sought);
    if (made) return location.replace(`#/events/${made.event_id}`) ?? [];
  }
  const found = isId ? [] : await findSubject(webhooks, sought);
  if (isId) miss(`None of the newest deliveries to your webhooks is of ${sought}.`);
  else if (!found.length) missSubject(sought);
  return found;
}
function renderOrders(looking) {
  const subject = page.orders[0]?.subject ?? page.view.sought;
  set(document, { title: `${subject}: ${page.me.tenant}` });
  setText($("orders-title"), subject);
  setText($("orders-none"), looking);
  showItems($("orders"), page.orders, "event_id", "order", fillOrder);
}
function fillOrder(node, order) {
  const { type, created, webhooks } = partsOf(node);
  setText(type, order.event_type);
  setSentence(created, order.created_at);
  showRecipients(webhooks, inOrder(order.webhooks), order);
}
