// Post an event until it is accepted or refused, with Node 18 or newer.
const { setTimeout: sleep } = require("node:timers/promises");

async function call(event, idempotencyKey) {
  const response = await fetch(process.env.TRIGGERS_URL + "/events", {
    method: "POST",
    headers: {
      "Authorization": "Bearer " + process.env.TRIGGERS_API_KEY,
      "Content-Type": "application/json",
      "Idempotency-Key": idempotencyKey,
    },
    body: JSON.stringify(event),
    signal: AbortSignal.timeout(30_000),
  });
  return { status: response.status, headers: response.headers, text: await response.text() };
}

/** Posts an event; throws if it is refused, or not accepted yet. */
async function post(event, idempotencyKey) {
  for (let attempt = 0; attempt < 6; attempt++) {
    // No connection, or no answer in time, counts as 503.
    const { status, headers, text } = await call(event, idempotencyKey).catch(() => ({ status: 503 }));
    if (status === 202) return JSON.parse(text);
    if (status < 500 && status !== 429) throw new Error("refused: " + text);
    const wait = 2 ** attempt * (0.5 + Math.random() / 2);
    await sleep(1000 * Math.max(wait, Number(headers?.get("Retry-After") ?? 0)));
  }
  throw new Error("not accepted yet: post it again with the same key");
}

const order = { event_type: "order.paid", payload: { order_id: "4711" } };
post(order, "order-4711-paid").then((event) => console.log(event.event_id));
