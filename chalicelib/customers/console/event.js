// One event
async function loadEvent() {
  const { body, text } = await call("GET", `events/${view.id}`, [refreshing.signal]);
  const isOpened = event?.event_id !== view.id;
  if (isOpened) copies.clear();
  else if (event.status !== body.status) setText($("announcement"), say(body.message));
  event = { ...body, text };
  fillEvent();
  show();
  drawTimeline();
  if (isOpened) $("type").focus();
  await loadCopies(event.copies);
  await learn([event, ...copies.values()].filter((one) => one.created_at));
  fillEvent();
}
// Load ten copies that may have changed, first those that were not loaded yet.
async function loadCopies(ids) {
  const isOpen = (id) => !["delivered", "deleted"].includes(copies.get(id)?.status);
  const age = (id) => copies.get(id)?.loadedAt ?? 0;
  const gone = (error) => (error.status === 404 ? { status: "deleted" } : Promise.reject(error));
  const load = async (id) =>
    copies.set(id, { ...(await get(`events/${id}`).catch(gone)), loadedAt: Date.now() });
  await Promise.all(
    ids
      .filter(isOpen)
      .sort((a, b) => age(a) - age(b))
      .slice(0, 10)
      .map(load),
  );
}
// Return the body of the push: the API's answer begins with it, and ends with what is not sent.
function bodyOf({ text, created_at, tenant, subject, source_event_id }) {
  const rest = { created_at, tenant, source_event_id, ...(subject && { subject }) };
  return `${text.slice(0, text.lastIndexOf(',"status":'))},${JSON.stringify(rest).slice(1)}`;
}
function fillEvent() {
  const { event_id, tenant, subject, subscription_id, source_event_id, status } = event,
    { length } = event.copies;
  const to = subscription_id && link("/", { subscription_id }, label(subscription_id));
  const facts = [
    ["Id", span("mono", event_id)],
    ["Created", utc(event.created_at) + by(event)],
    ["Subject", subject && link("/", { subject, ...(me.tenant && { subscription_id }) }, subject)],
    ["Tenant", !me.tenant && tenant && link("/", { tenant }, tenant)],
    ["To", to],
    [
      "Copy of",
      !me.tenant && source_event_id && link(`/events/${source_event_id}`, {}, source_event_id),
    ],
  ];
  if (me.tenant && !$("back").hash.includes(subscription_id))
    $("back").href = address("/", { subscription_id });
  redraw($("facts"), event_id + to?.textContent, () => makeFacts(facts));
  document.title = `${event.event_type}: ${status}`;
  $("status").className = `badge ${toneOf(event)}`;
  $("became").className = `note ${failedCopies(event) ? "failed" : ""}`;
  const names = [
    "Content-Type",
    "User-Agent",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    ...(subscriptions.get(subscription_id)?.header_names ?? []),
  ];
  const texts = {
    type: event.event_type,
    status,
    message: say(event.message),
    body: bodyOf(event),
    became: length ? countCopies(event.copies) : "",
    sent: `With the headers ${names.join(", ")}.`,
  };
  for (const id of ["payload", "metadata"]) texts[id] = JSON.stringify(event[id], null, 2);
  for (const [id, text] of Object.entries(texts)) setText($(id), text);
  $("metadata").parentNode.hidden = event.metadata === null;
  $("acknowledge").hidden = status === "delivered";
  $("erase").hidden = !me.scopes.includes("erase");
  $("event-copies").parentNode.hidden = length === 0;
  const items = event.copies.map((id) => {
    const { subscription_id: target, ...rest } = copies.get(id) ?? { status: "…" };
    return { ...rest, event_id: id, event_type: target ? label(target) : id };
  });
  showItems($("event-copies"), items, "event_id", "row", fillRow);
}
