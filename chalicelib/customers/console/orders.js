// A customer's search: what became of the events with one subject at all of its webhooks.
const AT_ONCE = 4; // webhooks that are asked at a time
let orders = []; // by event: {event_id, event_type, subject, created_at, webhooks}
let areOrdersDue = true; // each webhook is asked once for a search, and after an action

async function loadOrders() {
  if (!areOrdersDue) return;
  const { found } = await loadSubscriptions(me.tenant);
  const isOther = $("orders").dataset.sought !== view.sought;
  if (isOther) orders = [];
  $("orders").dataset.sought = view.sought;
  renderOrders(true);
  const rowsOfAll = await findSubject(found, orders[0]?.subject ?? view.sought);
  const byEvent = new Map();
  for (const { one, row } of rowsOfAll) {
    const order = byEvent.get(row.event_id) ?? { ...row, webhooks: [] };
    order.webhooks.push({ ...one, ...row, state: one.disabled_at ? "disabled" : "" });
    byEvent.set(row.event_id, order);
  }
  orders = [...byEvent.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
  areOrdersDue = rowsOfAll.some(({ row }) => isUnderWay(row));
  markShown();
  renderOrders(false);
}
// Return whether a refresh may tell more: what was just queued, or is tried again in a moment.
const isUnderWay = ({ copy: made }) => made?.status === "pending" && !isWaiting(made);
// Return what each webhook tells of the events with a subject, however that is written.
async function findSubject(webhooks, sought) {
  const { signal } = refreshing;
  const [first] = webhooks;
  if (!first) return [];
  let subject = "";
  for (const spelling of [sought, ...spellings(sought)]) {
    const some = await listMissed(first, { subject: spelling, limit: PAGE }, signal);
    if (some.length) subject = spelling;
    if (some.length) break;
  }
  if (!subject) return [];
  const found = [];
  for (let start = 0; start < webhooks.length; start += AT_ONCE) {
    const some = webhooks.slice(start, start + AT_ONCE);
    const told = some.map(async (one) => {
      const missed = await listMissed(one, { subject }, signal);
      return missed.map((row) => ({ one, row }));
    });
    found.push(...(await Promise.all(told)).flat());
  }
  return found;
}
function renderOrders(isLooking) {
  const subject = orders[0]?.subject ?? view.sought;
  document.title = `${subject}: ${me.tenant}`;
  setText($("orders-title"), subject);
  const none = `No event has the subject ${subject}. It is found by all of its letters and digits.`;
  const text = orders.length ? "" : isLooking ? "Looking at each webhook…" : none;
  setText($("orders-none"), text);
  showItems($("orders"), orders, "event_id", "order", fillOrder);
}
function fillOrder(node, order) {
  const { type, created, webhooks } = partsOf(node);
  setText(type, order.event_type);
  setText(created, utc(order.created_at));
  const rankOf = ({ copy }) => (copy ? rank(copy) : WORST_FIRST.length);
  const sorted = order.webhooks.toSorted((a, b) => rankOf(a) - rankOf(b));
  showItems(webhooks, sorted, "subscription_id", "recipient", (item, one) =>
    fillRecipient(item, one, order, $("orders-answer")),
  );
}
