// One event, or one delivery: what became of it first.
let event = null;
let recipients = null; // of an event; null: not read yet

async function loadEvent() {
  const { body, text } = await call("GET", `events/${view.id}`, [refreshing.signal]);
  const isOpened = event?.event_id !== view.id;
  if (isOpened) recipients = null;
  else if (event.status !== body.status) setText($("announcement"), say(body.message));
  event = { ...body, text };
  remember([event]);
  fillEvent();
  show();
  markShown();
  drawTimeline();
  if (isOpened) $("type").focus();
  if (!isCopy(event.event_id)) recipients = await loadRecipients(event.event_id);
  await learn([event, ...(recipients ?? []).map((one) => one.copy ?? one)]);
  fillEvent();
}
// Return the body of the push, as it would be sent now: the API's answer begins with it, and ends
// with what is not sent.
function bodyOf({ text, subscription_id, created_at, tenant, subject, source_event_id }) {
  if (subscriptions.get(subscription_id)?.body === "payload") return payloadOf(text);
  const rest = { created_at, tenant, source_event_id, ...(subject && { subject }) };
  return `${text.slice(0, text.lastIndexOf(',"status":'))},${JSON.stringify(rest).slice(1)}`;
}
// Return the payload as the API's answer has it: the first text that is JSON where it may end.
function payloadOf(text) {
  const from = text.indexOf('"payload":') + '"payload":'.length;
  const end = ',"metadata":'; // which a payload may have, too
  for (let to = text.indexOf(end); to > 0; to = text.indexOf(end, to + 1)) {
    const payload = text.slice(from, to);
    try {
      return JSON.parse(payload) && payload;
    } catch {}
  }
  return "";
}
const isOwnPushed = () => event.delivered_via !== "subscriptions";

function fillEvent() {
  const { subject, event_type: type } = event;
  const isOne = isCopy(event.event_id);
  const isRead = isOne || recipients !== null;
  const sides = isOne ? { operatorCopies: [event], ownPush: [] } : sidesOfEvent();
  const { state, tone } = judge(sides);
  const title = subject ?? type;
  document.title = isRead ? `${title}: ${state}` : title;
  setText($("type"), title);
  setText($("kind"), subject ? type : "");
  setText($("status"), isRead ? state : "…");
  setTone($("status"), "badge", isRead ? tone : "");
  fillFacts(isOne);
  if (isOne) tell($("became"), say(event.message), tone);
  else if (isRead) fillBecame(sides, tone);
  else tell($("became"), "Looking who got it…");
  fillRecipients(isOne);
  fillContent();
  const ownState = itemState(event);
  setText($("own-title"), isOne ? "Timeline" : "Your own webhook");
  setText($("own-status"), isOne ? "" : ownState);
  setTone($("own-status"), "badge", toneOf(ownState));
  setText($("message"), isOne ? "" : say(event.message));
  $("own").hidden = !isOne && !isOwnPushed();
  const isOff = isOne && Boolean(subscriptions.get(event.subscription_id)?.disabled_at);
  const name = isOff ? "Enable and replay" : isOne ? "Replay" : "Replay to your own webhook";
  setText($("replay"), name);
  $("replay").hidden = $("own").hidden;
  setTone($("replay"), "", isOne ? "primary" : "");
  $("replay-copies").hidden = isOne || !(recipients ?? []).some(isSent);
  $("acknowledge").hidden = event.status === "delivered";
  $("erase").hidden = !me.scopes.includes("erase");
}
function fillFacts(isOne) {
  const { event_id: id, tenant, subject, subscription_id, source_event_id: source } = event;
  const own = me.tenant ? { subscription_id } : {};
  const to = isOne && link(`/subscriptions/${subscription_id}`, {}, label(subscription_id));
  const facts = [
    ["Id", span("mono", id)],
    ["Created", `${utc(event.created_at)}${by(event)}`],
    ["Subject", subject && link("/", { subject, ...own }, subject)],
    ["Tenant", !me.tenant && tenant && link("/", { tenant }, tenant)],
    ["To", to],
    ["Copy of", !me.tenant && isOne && link(`/events/${source}`, {}, source)],
  ];
  redraw($("facts"), [id, to && to.textContent], () => makeFacts(facts));
  const isElsewhere = me.tenant && !$("back").hash.includes(subscription_id);
  if (isElsewhere) $("back").href = address("/", { subscription_id });
}
function fillContent() {
  const names = ["Content-Type", "User-Agent", "webhook-id", "webhook-timestamp"];
  const more = subscriptions.get(event.subscription_id)?.header_names ?? [];
  setText($("sent"), `With the headers ${[...names, "webhook-signature", ...more].join(", ")}.`);
  setText($("body"), bodyOf(event));
  setText($("payload"), JSON.stringify(event.payload, null, 2));
  setText($("metadata"), JSON.stringify(event.metadata, null, 2));
  $("metadata").parentNode.hidden = event.metadata === null;
}

const queued = ({ body }) => [`Queued. ${say(body.message)}`, "pending"];
const ENABLED_FIRST = "The webhook is enabled: what comes is sent to it again.";
const REPLAYED = "It is queued to be sent again, with all its attempts and the same webhook-id.";
const actOnEvent = (button, more) =>
  act(button, $("answer"), { path: `events/${view.id}`, ...more });
// Replay an event or copy; `owner`: its webhook, which is enabled first.
function replay(button, id, answer = $("answer"), owner = null) {
  return act(button, answer, {
    method: "POST",
    path: `events/${id}/replay`,
    before: owner ? [`subscriptions/${owner.subscription_id}/enable`] : [],
    describe: queued,
    consequence: owner ? `${ENABLED_FIRST} ${REPLAYED}` : REPLAYED,
  });
}
$("replay").onclick = () => {
  const owner = subscriptions.get(event.subscription_id);
  return replay($("replay"), view.id, $("answer"), owner?.disabled_at && owner);
};
$("replay-copies").onclick = () => replayCopies();
$("acknowledge").onclick = () =>
  actOnEvent($("acknowledge"), {
    method: "POST",
    path: `events/${view.id}/acknowledge`,
    describe: () => ["Acknowledged.", "delivered"],
    consequence: "The event counts as delivered and is not pushed again.",
  });
$("erase").onclick = () =>
  actOnEvent($("erase"), {
    method: "DELETE",
    describe: () => [miss(`Erased: ${view.id}`), ""],
    consequence: "The event, its copies, payload and attempts are deleted for good.",
    tone: "danger",
  });
const texts = {
  id: () => event.event_id,
  curl: () => curl(`events/${event.event_id}`),
  body: () => bodyOf(event),
  payload: () => $("payload").textContent,
};
for (const [name, read] of Object.entries(texts)) {
  $(`copy-${name}`).onclick = (click) => copy(click, `Copy ${name}`, read());
}
