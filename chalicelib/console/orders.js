// orders.js: what became of the events with one subject, or of one event, at a customer's webhooks.
// Load what became of the events that a customer searches for: by a subject, or by the id of an
// event. The webhooks of the first MOST_READ events are loaded, too.
async function loadOrders() {
  const { sought } = page.view;
  await loadWebhooks(); // whose types and filters tell why one has no delivery
  renderOrders("Looking…");
  const known = new Map(page.orders.map((order) => [order.event_id, order]));
  const isId = sought.startsWith("evt_");
  const subject = page.orders[0]?.subject ?? sought;
  const searched = isId ? null : await findSubject(subject, "outcome");
  const found = searched?.found ?? [{ event_id: sought }];
  if (!found.length) return missSubject(sought, searched.tried);
  const turn = ({ outcome }) => ORDER.indexOf(outcome?.state);
  const orders = found.map((order) => ({ ...known.get(order.event_id), ...order }));
  page.orders = orders.sort((a, b) => turn(a) - turn(b));
  renderOrders("");
  for (const order of orders.slice(0, MOST_READ)) {
    const told = await get(`events/${order.event_id}/recipients`);
    const made = told.recipients.find((recipient) => recipient.copy)?.copy;
    Object.assign(order, { ...made, ...order }, told);
    markShown();
    renderOrders("");
  }
}
// Draw the events that were found; `looking` is shown while there are none.
function renderOrders(looking) {
  const subject = page.orders[0]?.subject ?? page.view.sought;
  set(document, { title: `${subject}: ${page.me.tenant}` });
  setText($("orders-title"), subject);
  setText($("orders-none"), page.orders.length ? "" : looking);
  showItems($("orders"), page.orders, "event_id", "order", fillOrder);
}
// Fill the part of the view for one event.
function fillOrder(node, order) {
  const { type, created, became, webhooks } = partsOf(node);
  const { event_id: id, event_type, created_at, outcome, recipients } = order;
  setText(type, event_type ?? "");
  setLink(type, address("/find", { text: id }));
  setSentence(created, created_at ?? "");
  const judged = outcome && withKept(order, recipients);
  setText(became, judged ? upper(describeOutcome(judged, page.me.tenant)) : "");
  showRecipients(webhooks, inOrder(recipients ?? []), order);
}
