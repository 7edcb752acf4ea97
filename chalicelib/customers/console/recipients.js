// The recipients of an event: who got it, who did not and why, and how it gets to them.
const CUSTOMERS_STATES = { "no copy": "not sent", pending: "waiting", retrying: "waiting" };
const ENABLED_FIRST = "The webhook is enabled: what comes is sent to it again.";
const REPLAYED = "It is queued to be sent again, with all its attempts and the same webhook-id.";
const turnOf = ({ copy: made }) => (made ? rankOf(made) : WORST_FIRST.length);
const inOrder = (all) => all.toSorted((a, b) => turnOf(a) - turnOf(b));
// Fill the row of one recipient of `given`, an event.
function fillRecipient(node, one, given) {
  const parts = partsOf(node);
  const { subscription_id: id, copy: made } = one;
  const state = made ? stateOfPush(made) : "no copy";
  setText(parts.state, page.me.tenant ? (CUSTOMERS_STATES[state] ?? state) : state);
  setTone(parts.state, "badge", made ? toneOf(state) : "absent");
  setText(parts.name, nameOf(one));
  setLink(parts.name, made ? `#/events/${made.event_id}` : `#/subscriptions/${id}`);
  setSentence(parts.about, made ? aboutCopy(one) : `${aboutOwner(one)}${whyNot(one, given)}`);
  setLink(parts.webhook, `#/subscriptions/${id}`);
  set(parts.webhook, { ariaLabel: `Webhook ${nameOf(one)}` });
  hide(parts.webhook, !made || one.state === "gone");
  fillButton(parts.act, one, given, parts.answer);
}
function aboutOwner(one) {
  const state = isOff(one) ? `${one.state}, ` : "";
  return `${one.tenant && !page.me.tenant ? `for ${one.tenant}, ` : ""}${state}`;
}
function aboutCopy(one) {
  const attempts = one.copy.delivery_attempts;
  const count = attempts ? number(attempts, "attempt") : "";
  const gone = one.state === "gone" ? "its webhook is deleted" : "";
  return `${aboutOwner(one)}${[remark(one.copy), count, gone].filter(Boolean).join(", ")}`;
}
// A copy is replayed; who has none is sent one; a disabled webhook is enabled first. Where all are
// refused there is no button.
function fillButton(button, one, given, answer) {
  const { copy: made, state, reason } = one;
  const action = made ? "replay" : "send";
  const isRefused = state === "gone" || reason === "host";
  const name = isOff(one) ? `Enable and ${action}` : made ? "Replay" : "Send";
  setText(button, isRefused ? "" : name);
  set(button, { ariaDescription: nameOf(one) });
  const push = () => replayOne(button, made, answer, one);
  button.onclick = () => {
    page.acted?.add(one.subscription_id);
    return made ? push() : send(button, one, given.event_id, answer);
  };
}
const enableFirst = (owner) =>
  owner && isOff(owner) ? [`subscriptions/${owner.subscription_id}/enable`] : [];
// Return whether an event or copy, of those that are shown, is pending.
function isPending(id) {
  const made = [page.recipients, ...page.orders.map(({ webhooks }) => webhooks)].flat();
  const all = [page.event, ...made.map((one) => one?.copy)];
  return all.some((one) => one?.event_id === id && one.status === "pending");
}
function tellQueued(name, { event_id, message }) {
  return [`Queued${name}. ${say(message)}`, "pending", () => isPending(event_id)];
}
// Replay an event or copy; `owner`: its webhook, which is enabled first if it is disabled.
function replayOne(button, made, answer = $("answer"), owner = null) {
  const before = enableFirst(owner);
  const letter = tellLetters([made]);
  return act(button, answer, {
    path: `events/${made.event_id}/replay`,
    before,
    describe: ({ body }) => (letter ? [`It is replayed${letter}.`, ""] : tellQueued("", body)),
    consequence: before.length ? `${ENABLED_FIRST} ${REPLAYED}` : REPLAYED,
  });
}
function send(button, one, event_id, answer) {
  return act(button, answer, {
    path: `subscriptions/${one.subscription_id}/send`,
    body: { event_id },
    before: enableFirst(one),
    describe: ({ body }) => tellQueued(` for ${nameOf(one)}`, body),
    question: `Send it to ${nameOf(one)}?`,
    consequence: page.me.tenant
      ? "It is queued for this webhook alone, whatever its types and filter say."
      : "A copy is made and queued for this webhook alone, whatever it takes.",
  });
}
function showRecipients(list, all, given) {
  hide(list, !all.length);
  const fill = (node, one) => fillRecipient(node, one, given);
  showItems(list, all, "subscription_id", "recipient", fill);
}
