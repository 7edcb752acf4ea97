// Runs the integration with Zapier's own test harness against a running system:
// TRIGGERS_URL, TRIGGERS_API_KEY (both scopes); SUBSCRIPTION_HOSTS of the system must contain 127.0.0.1.

const assert = require("node:assert/strict");
const { randomUUID } = require("node:crypto");
const { createServer } = require("node:http");
const { after, before, test } = require("node:test");
const zapier = require("zapier-platform-core");

const App = require("../index");

const appTester = zapier.createAppTester(App);
const authData = { api_url: process.env.TRIGGERS_URL, api_key: process.env.TRIGGERS_API_KEY };
const { new_event: trigger } = App.triggers;
const { post_event: create } = App.creates;

const pushes = [];
const receiver = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  pushes.push(JSON.parse(Buffer.concat(chunks)));
  response.writeHead(200).end();
});

before(() => new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve)));
after(() => receiver.close());

const targetUrl = () => `http://127.0.0.1:${receiver.address().port}/hooks/standard/1`;

const postEvent = (inputData) =>
  appTester(create.operation.perform, {
    authData,
    inputData: { event_type: "order.created", payload: { order_id: "1" }, ...inputData },
  });

test("the definition is valid by Zapier's schema", async () => {
  const { results } = await zapier.createAppHandler(App)({ command: "validate" });
  assert.deepEqual(results, []);
});

test("the connection is tested with the key and labelled with its name", async () => {
  const me = await appTester(App.authentication.test, { authData });
  assert.ok(me.name);
  assert.deepEqual(me.scopes.toSorted(), ["consume", "produce"]);
});

test("a wrong key is refused in the API's words", async () => {
  const wrong = { ...authData, api_key: "wrong" };
  await assert.rejects(appTester(App.authentication.test, { authData: wrong }), /valid API key is required/);
});

test("a Zap that is turned on gets matching events until it is turned off", async () => {
  const inputData = { event_types: ["order.*"] };
  const bundle = { authData, inputData, targetUrl: targetUrl() };
  const subscribeData = await appTester(trigger.operation.performSubscribe, bundle);
  assert.match(subscribeData.subscription_id, /^sub_[0-9a-f]{32}$/);

  await postEvent({ payload: { order_id: "hook" } });
  await postEvent({ event_type: "invoice.paid" });
  assert.deepEqual(pushes.map((push) => push.payload), [{ order_id: "hook" }]);
  const [event] = await appTester(trigger.operation.perform, { authData, inputData, cleanedRequest: pushes[0] });
  assert.equal(event.id, pushes[0].event_id);

  await appTester(trigger.operation.performUnsubscribe, { authData, inputData, subscribeData });
  await postEvent({ payload: { order_id: "after" } });
  assert.equal(pushes.length, 1);
});

test("recent events are listed once each, with payload, filtered by type", async () => {
  const inputData = { event_types: ["sample.*"] };
  const listed = { event_type: "sample.listed", payload: { order_id: "2" }, metadata: { source: "a" } };
  const posted = await postEvent(listed);

  const events = await appTester(trigger.operation.performList, { authData, inputData });

  assert.deepEqual(events.map((event) => [event.id, event.payload, event.metadata]), [
    [posted.id, { order_id: "2" }, { source: "a" }],
  ]);
});

test("an idempotency key posts an event once", async () => {
  const idempotency_key = randomUUID();
  const first = await postEvent({ idempotency_key });
  const second = await postEvent({ idempotency_key });
  assert.equal(first.id, second.id);
  const other = { idempotency_key, payload: { order_id: "other" } };
  await assert.rejects(postEvent(other), /used before, with another body/);
});
