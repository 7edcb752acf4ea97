// Runs the integration in Zapier's own test harness against a running system:
// TRIGGERS_URL, TRIGGERS_API_KEY (both scopes); SUBSCRIPTION_HOSTS of the system must contain 127.0.0.1.

const assert = require("node:assert/strict");
const { randomUUID } = require("node:crypto");
const { once } = require("node:events");
const { createServer } = require("node:http");
const { after, before, beforeEach, test } = require("node:test");
const zapier = require("zapier-platform-core");

const App = require("../index");

const appTester = zapier.createAppTester(App);
const authData = { api_url: process.env.TRIGGERS_URL, api_key: process.env.TRIGGERS_API_KEY };
const { new_event: trigger, delivery_problem: problem, event_type: dropdown } = App.triggers;
const { post_event: create } = App.creates;

const pushes = [];
const receiver = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  pushes.push(JSON.parse(Buffer.concat(chunks)));
  response.writeHead(Number(request.url.split("/").pop())).end();
  receiver.emit("pushed");
});

before(() => new Promise((resolve) => receiver.listen(0, "127.0.0.1", resolve)));
after(() => receiver.close());
beforeEach(() => pushes.splice(0));

const targetUrl = (status) => `http://127.0.0.1:${receiver.address().port}/hooks/standard/${status}`;

const postEvent = (inputData) =>
  appTester(create.operation.perform, {
    authData,
    inputData: { event_type: "order.created", payload: { order_id: "1" }, ...inputData },
  });

const subscribe = (inputData, { operation } = trigger, status = 200) =>
  appTester(operation.performSubscribe, { authData, inputData, targetUrl: targetUrl(status) });

const unsubscribe = (subscribeData, { operation } = trigger) =>
  appTester(operation.performUnsubscribe, { authData, inputData: {}, subscribeData });

test("the connection is tested with the key and labelled with its name", async () => {
  const me = await appTester(App.authentication.test, { authData });
  assert.ok(me.name);
  assert.deepEqual(me.scopes.toSorted(), ["consume", "erase", "produce"]);
});

test("a refused key asks the user to connect again", async () => {
  const refused = appTester(App.authentication.test, { authData: { ...authData, api_key: "wrong" } });
  await assert.rejects(refused, { name: "ExpiredAuthError", message: /valid API key is required/ });
});

test("an address below the API's own asks about the stage", async () => {
  const wrong = { ...authData, api_url: `${authData.api_url}/events` };
  await assert.rejects(appTester(App.authentication.test, { authData: wrong }), /Is the stage missing/);
});

test("a Zap that is turned on gets matching events until it is turned off", async () => {
  const subscribeData = await subscribe({ event_types: ["order.*"] });
  assert.deepEqual(Object.keys(subscribeData), ["subscription_id"]);

  await postEvent({ payload: { order_id: "hook" } });
  await postEvent({ event_type: "invoice.paid" });
  assert.deepEqual(pushes.map((push) => push.payload), [{ order_id: "hook" }]);

  await unsubscribe(subscribeData);
  await postEvent({ payload: { order_id: "after" } });
  assert.equal(pushes.length, 1);
});

test("a Zap with a tenant gets the events of that tenant alone", async () => {
  const subscribeData = await subscribe({ tenant: "customer-42" });

  await postEvent({ tenant: "customer-42" });
  await postEvent({ tenant: "customer-43" });
  await postEvent({});
  await unsubscribe(subscribeData);

  assert.deepEqual(pushes.map((push) => push.tenant), ["customer-42"]);
});

test("a Zap with a filter gets the events whose payload matches", async () => {
  const subscribeData = await subscribe({ filter: '{"order_id": ["42"]}' });

  await postEvent({ payload: { order_id: "42" } });
  await postEvent({ payload: { order_id: "43" } });
  await unsubscribe(subscribeData);

  assert.deepEqual(pushes.map((push) => push.payload), [{ order_id: "42" }]);
});

test("a Zap that is turned on again, although it was not turned off, gets what its new filter matches", async () => {
  const ids = new Set();
  for (const filter of ['{"order_id": ["42"]}', '{"order_id": ["43"]}', undefined]) {
    const { subscription_id } = await subscribe({ filter });
    ids.add(subscription_id);
    await postEvent({ payload: { order_id: "43" } });
  }
  await Promise.all([...ids].map((subscription_id) => unsubscribe({ subscription_id })));

  assert.equal(ids.size, 1);
  assert.equal(pushes.length, 2);
});

test("a sample has the members of a push, and the values but for the ids", async () => {
  const tenant = randomUUID();
  const inputData = { event_types: ["shape.*"], tenant };
  const subscribeData = await subscribe(inputData);
  const posted = await postEvent({ event_type: "shape.pushed", metadata: { source: "a" }, tenant, subject: "order-1" });
  await unsubscribe(subscribeData);

  const [triggered] = await appTester(trigger.operation.perform, { authData, inputData, cleanedRequest: pushes[0] });
  const listed = await appTester(trigger.operation.performList, { authData, inputData });

  assert.deepEqual(Object.keys(triggered).toSorted(), Object.keys(trigger.operation.sample).toSorted());
  assert.equal(triggered.id, pushes[0].event_id);
  assert.equal(triggered.source_event_id, posted.event_id);
  assert.deepEqual(listed, [{ ...triggered, id: posted.event_id, event_id: posted.event_id }]);
});

test("a Zap is told of an event that was not delivered, in the shape of its sample, and other Zaps are not", async () => {
  const tenant = randomUUID();
  const inputData = { tenant, event_types: ["triggers.event.failed"] };
  const subscribeData = await subscribe(inputData, problem);
  const refusing = await subscribe({ tenant }, trigger, 422);

  const posted = await postEvent({ tenant });
  while (pushes.length < 2) await once(receiver, "pushed");
  await unsubscribe(subscribeData, problem);
  await unsubscribe(refusing);

  const [triggered] = await appTester(problem.operation.perform, { authData, inputData, cleanedRequest: pushes[1] });
  const [listed] = await appTester(problem.operation.performList, { authData, inputData });
  const { sample } = problem.operation;
  assert.deepEqual(Object.keys(triggered).toSorted(), Object.keys(sample).toSorted());
  assert.deepEqual(Object.keys(triggered.payload).toSorted(), Object.keys(sample.payload).toSorted());
  const { event_id, subscription_id, last_error } = triggered.payload;
  assert.deepEqual([event_id, subscription_id], [posted.copies[0], refusing.subscription_id]);
  assert.equal(last_error, "receiver responded 422");
  assert.deepEqual(listed, { ...triggered, id: listed.id, event_id: triggered.source_event_id });

  const ofEvents = await appTester(trigger.operation.performList, { authData, inputData: { tenant } });
  assert.deepEqual(ofEvents.map((event) => event.event_id), [posted.event_id]);
});

test("a sample is listed for an exact type and without metadata, too", async () => {
  const event_type = randomUUID();
  await postEvent({ event_type });
  await postEvent({ event_type: `${event_type}.longer` });

  const inputData = { event_types: [event_type] };
  const listed = await appTester(trigger.operation.performList, { authData, inputData });

  const members = listed.map((event) => [event.event_type, event.metadata, event.tenant]);
  assert.deepEqual(members, [[event_type, null, null]]);
});

test("the dropdown has each type of the tenant's recent events once", async () => {
  const tenant = randomUUID();
  await postEvent({ event_type: "first.type", tenant });
  await postEvent({ event_type: "second.type", tenant });
  await postEvent({ event_type: "first.type", tenant });

  const types = await appTester(dropdown.operation.perform, { authData, inputData: { tenant } });

  assert.deepEqual(types, [{ id: "first.type" }, { id: "second.type" }]);
});

test("an event is posted with a payload of JSON text", async () => {
  const subscribeData = await subscribe({ event_types: ["json.posted"] });
  const payload_json = '{"order": {"total": 99.5, "lines": [1, true, null]}}';
  await postEvent({ event_type: "json.posted", payload: undefined, payload_json });
  await unsubscribe(subscribeData);

  assert.deepEqual(pushes.map((push) => push.payload), [JSON.parse(payload_json)]);
});

test("an event that is posted is answered with the members of the sample", async () => {
  const posted = await postEvent({ subject: "order-1" });
  assert.deepEqual(Object.keys(posted).toSorted(), Object.keys(create.operation.sample).toSorted());
});

test("an idempotency key posts an event once", async () => {
  const idempotency_key = randomUUID();
  const first = await postEvent({ idempotency_key });
  const second = await postEvent({ idempotency_key });
  assert.equal(first.id, second.id);
  const other = { idempotency_key, payload: { order_id: "other" } };
  await assert.rejects(postEvent(other), /used before, with another body/);
});
