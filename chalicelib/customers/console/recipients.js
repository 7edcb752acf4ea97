// The recipients of an event: who got it, who did not and why, and how it gets to them.
const isSent = (one) => Boolean(one.copy) || one.reason === "deleted";
const itemOf = (one) => one.copy ?? { event_id: "", status: "deleted" };
// Return the recipients of the event as `judge` takes them.
function sidesOfEvent() {
  const all = recipients ?? [];
  const isTheirs = (one) => Boolean(event.tenant) && one.tenant === event.tenant;
  const isOfTenants = all.some(isTheirs);
  const sent = all.filter(isSent);
  const others = sent.filter((one) => !isTheirs(one));
  const yours = isOfTenants ? others.filter(({ state }) => state !== "gone") : others;
  const unasked = ["event_types", "filter"];
  return {
    tenantCopies: sent.filter(isTheirs).map(itemOf),
    operatorCopies: yours.map(itemOf),
    ownPush: pushedItself(event),
    isOfTenants,
    isLate: all.some((one) => isTheirs(one) && !isSent(one) && !unasked.includes(one.reason)),
  };
}
// Say what became of an event; `sides` as `judge` takes them, `tone` as it says.
function fillBecame(sides, tone) {
  const others = recipients.filter((one) => !isSent(one));
  const without = others.length ? `; ${number(others.length, "other")} got no copy` : "";
  const none = others.length
    ? `It matched none of ${number(others.length, "webhook")}.`
    : "It matched no webhook: there is none that could have had it.";
  const isNone = !sides.isOfTenants && !sides.operatorCopies.length;
  const became = tellBecame(sides, 0, tellUnsent(sides, event.tenant));
  const isCounted = sides.tenantCopies.length || !sides.isOfTenants;
  const text = isNone ? none : `${became}${isCounted ? without : ""}`;
  tell($("became"), text, isNone ? "absent" : tone);
}
function fillRecipients(isOne) {
  const all = isOne || !recipients ? [] : recipients;
  const isOthers = (one) => one.tenant !== event.tenant;
  const order = (one) => (one.copy ? rank(one.copy) : WORST_FIRST.length);
  const sorted = all.toSorted((a, b) => isOthers(a) - isOthers(b) || order(a) - order(b));
  $("recipients").hidden = !all.length;
  showItems($("recipients"), sorted, "subscription_id", "recipient", (node, one) =>
    fillRecipient(node, one, event, $("answer")),
  );
}
// Fill the row of one recipient of `given`, an event; `answer` tells what its button did.
function fillRecipient(node, one, given, answer) {
  const parts = partsOf(node);
  const { subscription_id: id, copy: made } = one;
  const state = made ? itemState(made) : "no copy";
  setText(parts.state, me.tenant ? (CUSTOMERS_STATES[state] ?? state) : state);
  setTone(parts.state, "badge", made ? toneOf(state) : "absent");
  setText(parts.name, nameOf(one));
  parts.name.href = made ? `#/events/${made.event_id}` : `#/subscriptions/${id}`;
  setText(parts.about, made ? aboutCopy(one) : `${aboutOwner(one)}${whyNot(one, given)}`);
  parts.webhook.href = `#/subscriptions/${id}`;
  parts.webhook.ariaLabel = `Webhook ${nameOf(one)}`;
  parts.webhook.hidden = !made || one.state === "gone";
  fillRecipientButton(parts.act, one, given, answer);
}
const CUSTOMERS_STATES = { "no copy": "not sent", pending: "waiting", retrying: "waiting" };
const isOffState = (state) => ["disabled", "paused"].includes(state);
function aboutOwner({ tenant, state }) {
  const disabled = isOffState(state) ? `${state}, ` : "";
  return `${tenant && !me.tenant ? `for ${tenant}, ` : ""}${disabled}`;
}
function aboutCopy(one) {
  const attempts = one.copy.delivery_attempts;
  const count = attempts ? number(attempts, "attempt") : "";
  const gone = one.state === "gone" ? "its webhook is deleted" : "";
  return `${aboutOwner(one)}${[remark(one.copy), count, gone].filter(Boolean).join(", ")}`;
}
// A copy is replayed; who has none is sent one; a disabled webhook is enabled first. Where all are
// refused there is no button.
function fillRecipientButton(button, one, given, answer) {
  const { copy: made, state, reason } = one;
  const isOff = isOffState(state);
  const action = made ? "replay" : "send";
  const isRefused = state === "gone" || reason === "host";
  const name = isOff ? `Enable and ${action}` : made ? "Replay" : "Send";
  setText(button, isRefused ? "" : name);
  button.ariaDescription = nameOf(one);
  const { event_id } = given;
  const push = made
    ? () => replay(button, made.event_id, answer, isOff && one)
    : () => send(button, one, event_id, answer, isOff);
  button.onclick = push;
}
function send(button, { subscription_id: id, ...one }, event_id, answer, isOff) {
  return act(button, answer, {
    method: "POST",
    path: `subscriptions/${id}/send`,
    body: JSON.stringify({ event_id }),
    before: isOff ? [`subscriptions/${id}/enable`] : [],
    describe: ({ body }) => [`Queued for ${nameOf(one)}. ${say(body.message)}`, "pending"],
    question: `Send it to ${nameOf(one)}?`,
    consequence: me.tenant
      ? "It is queued for this webhook alone, whatever its types and filter say."
      : "A copy is made and queued for this webhook alone, whatever it takes.",
  });
}
// Replay the copies that failed or, if none did, all.
async function replayCopies() {
  const made = recipients.map((one) => one.copy).filter(Boolean);
  const failed = made.filter(({ status }) => status === "failed");
  const some = failed.length ? failed : made;
  const which = failed.length ? "that failed" : "none of which failed";
  const question = `Replay ${number(some.length, "copy")}, ${which}?`;
  const consequence = `${REPLAYED} Your own webhook gets nothing.`;
  if (await confirm(question, consequence, "Replay")) await replayMany(some.map(idOf));
}
