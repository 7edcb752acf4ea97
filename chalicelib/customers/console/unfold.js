// A test of one's own, and what came of the last one, which this tab remembers.
const lastTests = new Map(); // of each webhook, by id: {at, text}
function readTests() {
  const tests = JSON.parse(sessionStorage.getItem("tests") ?? "[]");
  for (const [id, test] of tests) lastTests.set(id, test);
}
function describeTest({ body }, one, sent) {
  const told = brief(body).replace(/^retry/, "would be retried");
  lastTests.set(one.subscription_id, { at: body.at, text: told });
  sessionStorage.setItem("tests", JSON.stringify([...lastTests]));
  const texts = [`Test at ${utc(body.at)}: ${told}`, body.response, tellMatch(body, one, sent)];
  return [texts.filter(Boolean).join(". "), body.outcome];
}
// Say whether an event like that of a test would have been sent.
function tellMatch({ matches, reason, member }, one, sent) {
  if (matches === undefined || matches === null) return "";
  if (matches) return "An event like this would be sent.";
  const { subscription_id } = one;
  const why = whyNot({ subscription_id, reason, member }, sent);
  return `An event like this would not be sent: ${nameOf(one)} ${why}.`;
}
// A test with a type and a payload, at first those of the last delivery.
function fillTry(node, one) {
  const { type, payload, send, result } = partsOf(node);
  const { subscription_id } = one;
  offer($("offered"), me.event_types ?? seen.types);
  // Fill in the last delivery, unless something is typed: the default is what was filled in.
  const fill = async (event_type) => {
    const before = type.value;
    const given = { subscription_id, event_type, include: "payload" };
    const { found } = await listEvents(given, 1, AbortSignal.timeout(30e3));
    const [last] = found.values();
    const isTyped = type.value !== before || payload.value !== payload.defaultValue;
    if (!last || isTyped) return;
    type.value = last.event_type;
    payload.defaultValue = JSON.stringify(last.payload, null, 2);
    payload.value = payload.defaultValue;
  };
  if (!payload.defaultValue) {
    const exact = one.event_types?.find((entry) => !entry.endsWith("*"));
    type.value = exact ?? me.event_types?.[0] ?? "";
    payload.defaultValue = "{}";
    fill("").catch(() => {});
  }
  type.onchange = () => fill(type.value).catch(() => {});
  send.onclick = () => {
    const sent = { event_type: type.value.trim() };
    try {
      sent.payload = JSON.parse(payload.value, exactly);
    } catch ({ message }) {
      return tell(result, `The payload must be JSON: ${message}`, "failed");
    }
    return act(send, result, {
      method: "POST",
      path: `subscriptions/${subscription_id}/test`,
      body: JSON.stringify(sent),
      describe: (answer) => describeTest(answer, one, sent),
    });
  };
}
