// Runs the integration in Zapier's own test harness against a little server that answers as each test says.

const assert = require("node:assert/strict");
const { createServer } = require("node:http");
const { after, before, beforeEach, test } = require("node:test");
const zapier = require("zapier-platform-core");

const App = require("../index");

const appTester = zapier.createAppTester(App);
const { new_event: trigger, delivery_problem: problem, event_type: dropdown } = App.triggers;
const { post_event: create } = App.creates;

let answer;
let requests;
let bodies;
const api = createServer(async (request, response) => {
  requests.push(request.url);
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  if (chunks.length) bodies.push(JSON.parse(Buffer.concat(chunks)));
  const { status = 200, headers = {}, body = {} } = answer(request.url);
  response.writeHead(status, headers).end(JSON.stringify(body));
});

before(() => new Promise((resolve) => api.listen(0, "127.0.0.1", resolve)));
after(() => api.close());
beforeEach(() => {
  answer = () => ({});
  requests = [];
  bodies = [];
});

const authData = (api_url = `http://127.0.0.1:${api.address().port}/api/`) => ({ api_url, api_key: "key" });
const connect = (api_url) => appTester(App.authentication.test, { authData: authData(api_url) });
const list = (inputData, { operation } = trigger) =>
  appTester(operation.performList, { authData: authData(), inputData });
const post = (inputData) => appTester(create.operation.perform, { authData: authData(), inputData });

for (const { operation, key } of [trigger, problem, create]) {
  test(`the sample of ${key} has every output field`, () => {
    assert.deepEqual(operation.outputFields.map((field) => field.key), Object.keys(operation.sample));
  });
}

for (const status of [429, 503]) {
  test(`${status} is tried again after Retry-After`, async () => {
    answer = () => ({ status, headers: { "Retry-After": "7" } });
    await assert.rejects(connect(), (error) => {
      assert.equal(error.name, "ThrottledError");
      assert.equal(JSON.parse(error.message).delay, 7);
      return true;
    });
  });
}

for (const status of [403, 404]) {
  test(`${status} that is not from the API asks about the stage`, async () => {
    answer = () => ({ status, body: { message: "Forbidden" } });
    await assert.rejects(list({}), /Is the stage missing from the API URL, such as \/api\?/);
  });
}

test("403 from the API names the scope that the key lacks, and no stage", async () => {
  answer = () => ({ status: 403, body: { detail: "This needs the scope consume." } });
  await assert.rejects(list({}), (error) => {
    assert.equal(JSON.parse(error.message).message, "This needs the scope consume.");
    return true;
  });
});

for (const url of ["events.example.com", "http://example.com/api", "http://127.0.0.1.evil.com", "ftp://localhost"]) {
  test(`${url} is refused as the API URL`, async () => {
    await assert.rejects(connect(url), /The API URL must begin with https:/);
  });
}

test("samples are asked for by type and tenant, originals only, and merged without repetition", async () => {
  const event = (number) => {
    return { event_id: `evt_${number}`, event_type: "order.paid", created_at: `2026-01-0${number}T00:00:00.000000Z` };
  };
  const pages = { "order.*": [5, 3, 1], "order.paid": [5, 4, 3] };
  answer = (url) => {
    const type = new URL(url, "http://localhost").searchParams.get("event_type");
    return { body: { events: (pages[type] ?? []).map(event) } };
  };

  const samples = await list({ event_types: ["order.*", "order.paid"], tenant: "customer-42" });

  assert.deepEqual(samples.map((sample) => sample.id), ["evt_5", "evt_4", "evt_3"]);
  const query = (type) => `source=original&include=payload&limit=3&event_type=${type}&tenant=customer-42`;
  assert.deepEqual(requests.toSorted(), [`/api/events?${query("order.*")}`, `/api/events?${query("order.paid")}`]);
});

const types = ["triggers.event.failed", "order.created", "triggers.subscription.failing", "triggerset"];
const mixed = () => ({
  body: { events: types.map((event_type, n) => ({ event_id: `evt_${n}`, event_type, created_at: String(9 - n) })) },
});

test("a Zap for all types and tenants asks for neither, and is shown no reports", async () => {
  answer = mixed;
  const samples = await list({});
  assert.deepEqual(samples.map((sample) => sample.event_type), ["order.created", "triggerset"]);
  assert.deepEqual(requests, ["/api/events?source=original&include=payload&limit=100"]);
});

test("the dropdown has no types of reports", async () => {
  answer = mixed;
  const choices = await appTester(dropdown.operation.perform, { authData: authData(), inputData: {} });
  assert.deepEqual(choices, [{ id: "order.created" }, { id: "triggerset" }]);
});

test("a Zap for all problems is shown reports alone", async () => {
  answer = mixed;
  const samples = await list({}, problem);
  assert.deepEqual(samples.map((sample) => sample.event_type), [types[0], types[2]]);
  assert.deepEqual(requests, ["/api/events?source=original&include=payload&limit=3&event_type=triggers.*"]);
});

for (const [operation, zap, expected, inputData] of [
  [trigger, { id: "987" }, { name: "Zap 987 New Event" }],
  [trigger, undefined, { name: "Zap New Event" }, { filter: "" }],
  [trigger, undefined, { name: "Zap New Event", filter: { total: [1] } }, { filter: '{"total": [1]}' }],
  [problem, { id: "987" }, { event_types: ["triggers.*"], name: "Zap 987 Delivery Problem" }],
]) {
  test(`a Zap ${JSON.stringify(zap)} subscribes with ${JSON.stringify(expected)}`, async () => {
    const targetUrl = "https://hooks.zapier.com/hooks/standard/1";
    const bundle = { authData: authData(), inputData: inputData ?? {}, meta: { zap }, targetUrl };
    await appTester(operation.operation.performSubscribe, bundle);
    assert.deepEqual(bodies, [{ target_url: targetUrl, ...expected }]);
  });
}

for (const [inputs, message] of [
  [{}, /Fill in either Payload or Payload as JSON/],
  [{ payload: { a: "1" }, payload_json: "{}" }, /Fill in either Payload or Payload as JSON/],
  [{ payload_json: "{order}" }, /Payload as JSON is not valid JSON/],
]) {
  test(`an event with ${JSON.stringify(inputs)} is not posted`, async () => {
    await assert.rejects(post({ event_type: "order.created", ...inputs }), message);
    assert.deepEqual(requests, []);
  });
}

test("a filter that is not JSON subscribes to nothing", async () => {
  const bundle = { authData: authData(), inputData: { filter: "{total}" }, targetUrl: "https://hooks.zapier.com/1" };
  await assert.rejects(appTester(trigger.operation.performSubscribe, bundle), /Filter is not valid JSON/);
  assert.deepEqual(requests, []);
});

test("samples have the subject of events that have one", async () => {
  const event = { event_id: "evt_1", event_type: "order.paid", created_at: "2026-01-01T00:00:00.000000Z" };
  answer = () => ({ body: { events: [{ ...event, subject: "order-1" }, { ...event, event_id: "evt_2", subject: null }] } });
  const samples = await list({});
  assert.deepEqual(samples.map((sample) => [sample.subject, "subject" in sample]), [["order-1", true], [undefined, false]]);
});

test("an event is posted with its subject", async () => {
  await post({ event_type: "order.created", payload: { a: "1" }, subject: "order-1" });
  assert.deepEqual(bodies, [{ event_type: "order.created", payload: { a: "1" }, subject: "order-1" }]);
});
