// recipients.js: who got an event, who did not and why, and how it gets to them.
const ENABLED_FIRST = "The webhook is enabled first: new events are sent to it again.";
const REPLAYED =
  "It is queued to be sent again with the same webhook-id, and its attempts are counted from 0.";
const NOT_SENT = ["later", "edited"]; // the reasons why a copy is missing that can be sent
// Return the state of a recipient: of its copy or, without a copy, by the reason.
function stateOfRecipient({ copy: made, reason }) {
  if (made) return stateOfPush(made);
  return reason === "deleted" ? reason : NOT_SENT.includes(reason) ? "not_sent" : "not_asked";
}
// Return the place of a recipient among the others, by its state.
const turnOf = (recipient) => ORDER.indexOf(stateOfRecipient(recipient));
// Return recipients in the order of their states.
const inOrder = (all) => all.toSorted((a, b) => turnOf(a) - turnOf(b));
// Fill the row of one recipient of the event `given`.
function fillRecipient(node, recipient, given) {
  const parts = partsOf(node);
  const { subscription_id: id, copy: made } = recipient;
  const state = stateOfRecipient(recipient);
  setText(parts.state, wordOf(state));
  setTone(parts.state, "badge", toneOf(state));
  setText(parts.name, nameOf(recipient));
  setLink(parts.name, made ? `#/events/${made.event_id}` : `#/subscriptions/${id}`);
  setSentence(parts.about, aboutRecipient(recipient, given));
  setLink(parts.webhook, `#/subscriptions/${id}`);
  set(parts.webhook, { ariaLabel: `Webhook ${nameOf(recipient)}` });
  hide(parts.webhook, !made || recipient.state === "gone");
  fillButton(parts.act, recipient, given, parts.answer);
}
// Return in words whose webhook a recipient is, whether the webhook is off, and why the copy did
// not arrive or is missing.
function aboutRecipient(recipient, given) {
  const { copy: made, tenant, state } = recipient;
  const owner = [tenant && !page.me.tenant && `for ${tenant}`, isOff(recipient) && state];
  const count = made?.delivery_attempts ? number(made.delivery_attempts, "attempt") : "";
  const gone = state === "gone" && "its webhook was deleted";
  const told = made ? [remark(made), count, gone] : [whyNot(recipient, given)];
  return [...owner, ...told].filter(Boolean).join(", ");
}
// Set the button of a recipient: it replays the copy or, without a copy, sends one. Where the API
// would refuse both, there is no button.
function fillButton(button, recipient, given, answer) {
  const { copy: made, state, reason } = recipient;
  const action = made ? "replay" : "send";
  const isRefused = state === "gone" || reason === "host";
  const name = isOff(recipient) ? `Enable and ${action}` : made ? "Replay" : "Send";
  setText(button, isRefused ? "" : name);
  set(button, { ariaDescription: nameOf(recipient) });
  button.onclick = () =>
    made
      ? replayOne(button, made, answer, recipient)
      : send(button, recipient, given.event_id, answer);
}
// Return the paths of the calls that enable a webhook before a replay; empty if it is not off.
const enableFirst = (owner) =>
  owner && isOff(owner) ? [`subscriptions/${owner.subscription_id}/enable`] : [];
// Return whether an event or copy is shown, and pending.
function isPending(id) {
  const rows = [page.recipients, ...page.orders.map(({ recipients }) => recipients)].flat();
  const all = [page.event, ...rows.map((row) => row?.copy)];
  return all.some((item) => item?.event_id === id && item.status === "pending");
}
// Return the answer for `showAnswer` that a push is queued; `name` follows the word Queued.
const describeQueued = (name, { event_id, message }) =>
  [`Queued${name}. ${say(message)}`, "pending", () => isPending(event_id)];
// Replay an event or copy (`made`), after a question. `owner` is the webhook of a copy, which is
// enabled first if it is off; null: it is not known.
function replayOne(button, made, answer = $("answer"), owner = null) {
  const letter = describeDeadLetters([made]);
  const whose = made.subscription_id ? ` to ${nameById(made.subscription_id)}` : "";
  return act(button, answer, {
    question: `${button.textContent}${whose}?`,
    path: `events/${made.event_id}/replay`,
    before: enableFirst(owner),
    describe: ({ body }) => (letter ? [`It is replayed${letter}.`, ""] : describeQueued("", body)),
    consequence: enableFirst(owner).length ? `${ENABLED_FIRST} ${REPLAYED}` : REPLAYED,
  });
}
// Send an event to a recipient that has no copy of it, after a question.
function send(button, recipient, event_id, answer) {
  return act(button, answer, {
    path: `subscriptions/${recipient.subscription_id}/send`,
    body: { event_id },
    before: enableFirst(recipient),
    describe: ({ body }) => describeQueued(` for ${nameOf(recipient)}`, body),
    question: `Send it to ${nameOf(recipient)}?`,
    consequence: "It is queued for this webhook alone, even if its types or filter leave it out.",
  });
}
// Show the rows of the recipients of the event `given` in a list.
function showRecipients(list, all, given) {
  hide(list, !all.length);
  showItems(list, all, "subscription_id", "recipient", (...row) => fillRecipient(...row, given));
}
