// try.js: a test of one's own, and what came of the last one.
// Return the answer for `showAnswer` to a test event: what the receiver responded, and whether an
// event like this would be sent to the webhook. `given` is the test event, and `sent` the node that
// shows the request.
function describeTest({ body }, webhook, given, sent) {
  const told = brief(body) + (body.outcome === "retry" ? ", would be tried again" : "");
  page.tests.set(webhook.subscription_id, { at: body.at, text: told });
  const headers = Object.entries(body.sent?.headers ?? {}).map((pair) => pair.join(": "));
  setText(sent, body.sent ? [...headers, "", body.sent.body].join("\n") : "");
  const why = body.matches ? "" : whyNot({ ...webhook, ...body }, given);
  const match = why ? `would not be sent: ${nameOf(webhook)} ${why}` : "would be sent";
  const answer = [responderOf(body), excerpt(body)].filter(Boolean).join(", ");
  const test = `Test at ${body.at}: ${told}`;
  const { text: follows, isSo } = describeCatchUp(webhook.subscription_id, body);
  const sentences = [test, answer, `An event like this ${match}`, follows].filter(Boolean);
  return [`${sentences.join(". ")}.`, body.outcome, isSo];
}
// Say whether waiting deliveries follow a test that was delivered: {text, isSo}, as for
// `showAnswer`; the text is empty if none wait.
function describeCatchUp(id, { outcome, catches_up: isCatchUp }) {
  const webhook = page.listed?.find((listed) => listed.subscription_id === id);
  const waiting = webhook?.deliveries.waiting ?? 0;
  if (outcome !== "delivered" || !waiting || isCatchUp === undefined) return { text: "" };
  const isSo = () => isMissingNow(id);
  const { has_more: isMore } = webhook.deliveries;
  const verb = waiting === 1 && !isMore ? "is" : "are";
  const count = `${number(waiting, "delivery", isMore)} ${verb} waiting`;
  if (isCatchUp) {
    const text = `${count}, and will follow within minutes`;
    beginRecovery(id, { total: waiting, isCatchUp, sentence: () => `${text}.` });
    return { text, isSo: () => page.recoveries.get(id)?.left === waiting }; // then it counts down
  }
  if (isOff(webhook)) return { text: `${count}: press Enable, then Recover`, isSo };
  // A catch-up after a test rests for a quarter of an hour; when the last one ended is not known.
  const again = Date.now() + 15 * MINUTE;
  const end = new Date(again).toISOString();
  const text = `${count}. A test sends waiting deliveries at most once in a quarter of an hour: \
test again after ${end}, or press Recover`;
  return { text, isSo: () => isSo() && Date.now() < again };
}
// Return the last event of a type (empty: of any type) that the webhook's tenant got, or for a
// customer one of its webhooks; null: there is none.
async function findLast({ tenant, subscription_id: own }, event_type) {
  const ids = [own, ...page.webhooks.keys()].slice(0, MOST_READ);
  const places = page.me.tenant ? ids.map((id) => ({ subscription_id: id })) : [{ tenant }];
  for (const place of places) {
    const given = { event_type, include: "payload", ...place };
    const { found } = await listEvents(given, { enough: 1, signal: AbortSignal.timeout(30e3) });
    const [last] = found.values();
    if (last && !last.event_type.startsWith("triggers.")) return last;
  }
  return null;
}
// Fill the form of a test with an event type and a payload: an example of the type or, without an
// example, the last event. What the user has typed stays.
function fillTry(node, webhook) {
  const { type, payload, send: button, result, sent } = partsOf(node);
  // Fill in the last event, unless something is typed: the default is what was filled in.
  const fill = async (event_type) => {
    const before = type.value;
    const example = exampleOf(event_type);
    const last = example ? { event_type, payload: example } : await findLast(webhook, event_type);
    const isTyped = type.value !== before || payload.value !== payload.defaultValue;
    if (!last || isTyped) return;
    type.value = last.event_type;
    payload.defaultValue = pretty(last.payload);
    payload.value = payload.defaultValue;
  };
  if (!payload.defaultValue) {
    const exact = webhook.event_types?.find((entry) => !entry.endsWith("*"));
    const isTaken = (offered) => hasType(webhook.event_types, offered);
    type.value = exact ?? page.me.event_types?.find(isTaken) ?? "test";
    payload.defaultValue = "{}";
    fill(exampleOf(type.value) ? type.value : "").catch(() => {});
  }
  type.onchange = () => fill(type.value).catch(() => {});
  button.onclick = () => {
    const given = { event_type: type.value.trim() };
    try {
      given.payload = JSON.parse(payload.value, exactly);
    } catch ({ message }) {
      return showAnswer(result, `The payload must be JSON: ${message}`, "failed");
    }
    setText(sent, "");
    return act(button, result, {
      path: `subscriptions/${webhook.subscription_id}/test`,
      body: given,
      describe: (answer) => describeTest(answer, webhook, given, sent),
    });
  };
}
