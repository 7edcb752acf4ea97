// The recipients of an event: who got it, who did not and why, and how it gets to them.
function statesOf(some) {
  const made = some.filter((one) => one.copy || one.reason === "deleted");
  return made.map((one) => one.copy?.status ?? "deleted");
}
function fillBecame(isOne, statuses) {
  const node = $("became");
  if (isOne) {
    tell(node, say(event.message), event.status === "pending" ? "pending" : event.status);
    return;
  }
  const isRead = recipients !== null;
  const others = isRead ? recipients.length - statuses.length : 0;
  const without = others ? `; ${number(others, "other")} got no copy` : "";
  const none = others
    ? `It matched none of ${number(others, "webhook")}.`
    : "It matched no webhook: there is none that could have had it.";
  const text = statuses.length ? `${became(statuses)}${without}` : none;
  tell(node, isRead ? text : "Looking who got it…", isRead ? toneOf(statuses) || "retried" : "");
}
function fillRecipients(isOne) {
  const all = isOne || !recipients ? [] : recipients;
  const order = (one) => (one.copy ? rank(one.copy) : WORST_FIRST.length);
  const sorted = [...all].sort((a, b) => order(a) - order(b));
  $("recipients").hidden = !all.length;
  showItems($("recipients"), sorted, "subscription_id", "recipient", fillRecipient);
}
function fillRecipient(node, one) {
  const parts = partsOf(node);
  const { subscription_id: id, copy: made } = one;
  const state = made?.status ?? "no copy";
  setText(parts.state, state);
  setTone(parts.state, "badge", made ? state : "absent");
  setText(parts.name, nameOf(one));
  parts.name.href = made ? `#/events/${made.event_id}` : `#/subscriptions/${id}`;
  setText(parts.about, made ? aboutCopy(one) : `${aboutOwner(one)}${whyNot(one, event)}`);
  fillRecipientButton(parts.act, one);
}
function aboutOwner({ tenant, state }) {
  const disabled = state === "disabled" ? "disabled, " : "";
  return `${tenant ? `for ${tenant}, ` : ""}${disabled}`;
}
function aboutCopy(one) {
  const attempts = one.copy.delivery_attempts;
  const count = attempts ? number(attempts, "attempt") : "";
  const gone = one.state === "gone" ? "its subscription is deleted" : "";
  return `${aboutOwner(one)}${[remark(one.copy), count, gone].filter(Boolean).join(", ")}`;
}
// A copy is replayed; who has none is sent one. Where both are refused there is no button.
function fillRecipientButton(button, one) {
  const { copy: made, state, reason } = one;
  const isRefused = ["disabled", "gone"].includes(state) || reason === "host";
  button.hidden = isRefused;
  setText(button, isRefused ? "" : made ? "Replay" : "Send");
  button.ariaDescription = nameOf(one);
  button.onclick = () => (made ? replay(button, made.event_id) : send(button, one));
}
function send(button, { subscription_id: id, ...one }) {
  return act(button, $("answer"), {
    method: "POST",
    path: `subscriptions/${id}/send`,
    body: JSON.stringify({ event_id: event.event_id }),
    describe: ({ body }) => [`Queued for ${nameOf(one)}. ${say(body.message)}`, "pending"],
    question: `Send it to ${nameOf(one)}?`,
    consequence: "A copy is made and queued for this webhook alone, whatever it takes.",
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
