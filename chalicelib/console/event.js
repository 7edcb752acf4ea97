// event.js: one event, or one delivery: what became of it first.
// Load the event or copy that the address names, and for an event its recipients, and draw it.
async function loadEvent() {
  const event = await get(`events/${page.view.id}`);
  const isOpened = page.event?.event_id !== event.event_id;
  if (isOpened) page.recipients = page.outcome = null;
  else if (page.event.status !== event.status) setText($("announcement"), say(event.message));
  page.event = event;
  fillEvent();
  show();
  markShown();
  drawTimeline();
  await learn();
  const { event_id: id } = event;
  if (!isCopy(id)) Object.assign(page, await get(`events/${id}/recipients`)); // and its outcome
  fillEvent();
}
// Return what became of an event or copy: {state, tone, text}, where `text` is a sentence.
// `recipients` and `outcome` are those of an event; the outcome is null while it is loaded.
function becameOf({ event, recipients, outcome: judged }) {
  const own = stateOfPush(event);
  if (isCopy(event.event_id))
    return { state: own, tone: toneOf(own), text: sayOf(event, event.message) };
  if (!judged) return { state: "…", tone: "", text: "Looking up who got it…" };
  const outcome = withKept({ ...event, outcome: judged }, recipients);
  const isNotAsked = (recipient) => stateOfRecipient(recipient) === "not_asked";
  const others = recipients.filter(isNotAsked).length;
  const there = others ? `none of ${number(others, "webhook")}` : "no webhook: there are none";
  const none = `It matched ${there}.`;
  const became = describeOutcome(outcome, event.tenant);
  const without = others && /^\d/.test(became) ? `; ${others} not asked` : "";
  const alone = [none, upper(describeOwnPush(outcome, true))].filter(Boolean).join(" ");
  const text = isOwnAlone({ outcome }) ? alone : `${became}${without}`;
  return { state: wordOf(outcome.state), tone: toneOf(outcome.state), text };
}
// Draw the event or copy of the page, with what is known of it so far.
function fillEvent() {
  const { event, recipients, me, webhooks } = page;
  const { subject, event_type: type, status, delivered_via } = event;
  const isOne = isCopy(event.event_id);
  const { state, tone, text } = becameOf(page);
  set(document, { title: `${subject ?? type}: ${state}` });
  setText($("type"), subject ?? type);
  setText($("kind"), subject ? type : "");
  setText($("status"), state);
  setTone($("status"), "badge", tone);
  fillFacts(isOne);
  showAnswer($("became"), text, tone);
  const isOthers = (recipient) => recipient.tenant !== event.tenant;
  const all = isOne ? [] : inOrder(recipients ?? []);
  showRecipients($("recipients"), all.sort((a, b) => isOthers(a) - isOthers(b)), event);
  fillContent();
  setText($("own-title"), isOne ? "Timeline" : "Your own webhook");
  setText($("own-status"), isOne ? "" : wordOf(stateOfPush(event)));
  setTone($("own-status"), "badge", toneOf(stateOfPush(event)));
  setSentence($("message"), isOne ? "" : say(event.message));
  const owner = webhooks.get(event.subscription_id);
  const name = owner && isOff(owner) ? "Enable and replay" : "Replay";
  showText($("replay"), isOne ? name : "Replay to your own webhook");
  for (const id of ["own", "replay"]) hide($(id), !isOne && delivered_via === "subscriptions");
  setTone($("replay"), "", isOne ? "primary" : "");
  hide($("replay-copies"), isOne || !recipientsToReplay().chosen.length);
  hide($("acknowledge"), status === "delivered");
  hide($("erase"), !me.scopes.includes("erase"));
}
// Draw the facts about the event; `isOne` says whether it is a copy, that is one delivery.
function fillFacts(isOne) {
  const { event_id: id, tenant, subject, subscription_id, source_event_id: source } = page.event;
  const isCustomers = Boolean(page.me.tenant);
  const own = isCustomers ? { subscription_id } : {};
  const to = isOne && link(`/subscriptions/${subscription_id}`, {}, label(subscription_id));
  const facts = [
    ["Id", span("mono", id)],
    ["Created", `${page.event.created_at}${by(page.event)}`],
    ["Subject", subject && link("/", { subject, ...own }, subject)],
    ["Tenant", !isCustomers && tenant && link("/", { tenant }, tenant)],
    ["To", to],
    ["Copy of", !isCustomers && isOne && link(`/events/${source}`, {}, source)],
  ];
  redraw($("facts"), [id, to && to.textContent], () => makeFacts(facts));
  const isFrom = (place) => $("back").hash.includes(place);
  if (isCustomers && !isFrom(subscription_id) && !isFrom("undelivered"))
    setLink($("back"), address("/", { subscription_id }));
}
// Draw the payload and the metadata of the event, and the body and the headers with which it would
// be pushed now.
function fillContent() {
  const { push_body: body, subscription_id, payload, metadata } = page.event;
  const owner = page.webhooks.get(subscription_id);
  const prefixes = ["webhook", owner?.header_prefix].filter(Boolean);
  const ends = ["id", "timestamp", "signature"];
  const signed = prefixes.flatMap((prefix) => ends.map((end) => `${prefix}-${end}`));
  const own = ["Content-Type", "User-Agent", "webhook-event-type"];
  const all = [...own, ...signed, ...(owner?.header_names ?? [])];
  hide($("sending"), !body);
  setText($("sent"), `This body would be sent now, with the headers ${all.join(", ")}.`);
  setText($("body"), body ?? "");
  setText($("payload"), JSON.stringify(payload, null, 2));
  setText($("metadata"), JSON.stringify(metadata, null, 2));
  hide($("metadata").parentNode, metadata === null);
}
$("replay").onclick = ({ target }) =>
  replayOne(target, page.event, $("answer"), page.webhooks.get(page.event.subscription_id));
// Return {chosen, areFailed, left}. `chosen` are the recipients to which the button Replay copies
// sends: those whose copy failed (then `areFailed` is true) or, if no copy failed, all with a copy.
// Recipients that are off, gone or suspended are not chosen, because a replay would be refused;
// `left` are those among them whose copy failed.
function recipientsToReplay() {
  const made = (page.recipients ?? []).filter((recipient) => recipient.copy);
  const isTaken = (recipient) =>
    !isOff(recipient) && recipient.state !== "gone" && !isSuspended(recipient);
  const hasFailed = (recipient) => recipient.copy.status === "failed";
  const taken = made.filter(isTaken);
  const failed = taken.filter(hasFailed);
  const left = made.filter((recipient) => hasFailed(recipient) && !isTaken(recipient));
  return { chosen: failed.length ? failed : taken, areFailed: failed.length > 0, left };
}
$("replay-copies").onclick = async () => {
  const { chosen, areFailed, left } = recipientsToReplay();
  const copies = number(chosen.length, "copy");
  const question = `Replay ${copies}${areFailed ? " that failed" : ", none of which failed"}?`;
  const verb = chosen.length === 1 ? "It is" : "They are";
  const sentences = [`${verb} sent to ${listNames(chosen.map(nameOf))} with the same webhook-id.`];
  for (const recipient of left) {
    const state = isSuspended(recipient) ? "suspended" : recipient.state;
    sentences.push(`${nameOf(recipient)} gets nothing: it is ${state}.`);
  }
  if (page.me.webhook) sentences.push("Your own webhook gets nothing.");
  if (await confirm(question, sentences.join(" "), "Replay"))
    await replayMany(chosen.map((recipient) => recipient.copy));
};
$("acknowledge").onclick = () =>
  act($("acknowledge"), $("answer"), {
    path: `events/${page.view.id}/acknowledge`,
    describe: () => ["Acknowledged.", "delivered", () => page.event?.status === "delivered"],
    consequence: "The event counts as delivered and is not pushed again.",
  });
$("erase").onclick = () =>
  act($("erase"), $("answer"), {
    method: "DELETE",
    path: `events/${page.view.id}`,
    describe: () => [miss(`Erased: ${page.view.id}`) ?? "", ""],
    consequence: "The event and its copies, payload and attempts are deleted permanently.",
    tone: "danger",
  });
// The texts that the buttons named `copy-…` copy.
const COPIED = {
  id: () => page.event.event_id,
  curl: () => curl(`events/${page.event.event_id}`),
  body: () => page.event.push_body,
  payload: () => $("payload").textContent,
};
for (const [name, read] of Object.entries(COPIED))
  $(`copy-${name}`).onclick = (click) => copy(click, `Copy ${name}`, read());
