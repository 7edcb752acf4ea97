// Zapier integration: an instant trigger for new events, and an action that posts one.

const { version: platformVersion } = require("zapier-platform-core");
const { version } = require("./package.json");

const urlOf = (bundle, path) => bundle.authData.api_url.replace(/\/+$/, "") + path;

const authentication = {
  type: "custom",
  fields: [
    {
      key: "api_url",
      label: "API URL",
      type: "string",
      required: true,
      helpText: "The address of the API, for example `https://events.example.com/api`.",
    },
    {
      key: "api_key",
      label: "API Key",
      type: "password",
      required: true,
      helpText: "A key made with `make api-key`: with the scope consume for the trigger, produce for the action.",
    },
  ],
  test: async (z, bundle) => (await z.request(urlOf(bundle, "/me"))).data,
  connectionLabel: "{{name}}",
};

const addApiKey = (request, z, bundle) => {
  request.headers.Authorization = `Bearer ${bundle.authData.api_key}`;
  return request;
};

const explainError = (response, z) => {
  if (response.status >= 400) {
    const detail = response.data?.detail ?? `The API responded ${response.status}.`;
    throw new z.errors.Error(detail, response.data?.title, response.status);
  }
  return response;
};

// Zapier drops events whose `id` it has seen.
const withId = (event) => ({ id: event.event_id, ...event });

const matches = (eventTypes, eventType) =>
  !eventTypes?.length ||
  eventTypes.some((entry) => (entry.endsWith("*") ? eventType.startsWith(entry.slice(0, -1)) : eventType === entry));

const sample = {
  id: "evt_0123456789abcdef0123456789abcdef",
  event_id: "evt_0123456789abcdef0123456789abcdef",
  event_type: "order.created",
  payload: { order_id: "12345" },
  metadata: { source: "shop" },
  created_at: "2026-01-31T12:00:00.000000Z",
};

const newEvent = {
  key: "new_event",
  noun: "Event",
  display: { label: "New Event", description: "Triggers when an event is posted to the Triggers API." },
  operation: {
    type: "hook",
    inputFields: [
      {
        key: "event_types",
        label: "Event Types",
        type: "string",
        list: true,
        helpText: "Such as `order.created`, or `invoice.*` for all that begin so. Leave empty for all.",
      },
    ],
    performSubscribe: async (z, bundle) => {
      const eventTypes = bundle.inputData.event_types;
      const body = { target_url: bundle.targetUrl, ...(eventTypes?.length && { event_types: eventTypes }) };
      return (await z.request({ method: "POST", url: urlOf(bundle, "/subscriptions"), body })).data;
    },
    performUnsubscribe: async (z, bundle) => {
      const url = urlOf(bundle, `/subscriptions/${bundle.subscribeData.subscription_id}`);
      await z.request({ method: "DELETE", url });
      return {};
    },
    perform: async (z, bundle) => [withId(bundle.cleanedRequest)],
    performList: async (z, bundle) => {
      const params = { include: "payload", limit: 100 };
      const { data } = await z.request({ url: urlOf(bundle, "/events"), params });
      return data.events
        .filter((event) => event.source_event_id === null && matches(bundle.inputData.event_types, event.event_type))
        .map(withId);
    },
    sample,
    outputFields: [
      { key: "event_id", label: "Event ID", type: "string" },
      { key: "event_type", label: "Event Type", type: "string" },
      { key: "created_at", label: "Created At", type: "datetime" },
    ],
  },
};

const postEvent = {
  key: "post_event",
  noun: "Event",
  display: { label: "Post Event", description: "Posts an event, which every subscriber receives." },
  operation: {
    inputFields: [
      { key: "event_type", label: "Event Type", type: "string", required: true, helpText: "Such as `order.created`." },
      { key: "payload", label: "Payload", dict: true, required: true, helpText: "The members of the payload." },
      { key: "metadata", label: "Metadata", dict: true, required: false },
      {
        key: "idempotency_key",
        label: "Idempotency Key",
        type: "string",
        required: false,
        helpText: "The same key never posts a second event. Take what identifies the cause, such as an order's id.",
      },
    ],
    perform: async (z, bundle) => {
      const { event_type, payload, metadata, idempotency_key } = bundle.inputData;
      const headers = idempotency_key ? { "Idempotency-Key": idempotency_key } : {};
      const body = { event_type, payload, ...(metadata && { metadata }) };
      return withId((await z.request({ method: "POST", url: urlOf(bundle, "/events"), headers, body })).data);
    },
    sample: { id: sample.id, event_id: sample.id, event_type: sample.event_type, status: "delivered" },
  },
};

module.exports = {
  version,
  platformVersion,
  authentication,
  beforeRequest: [addApiKey],
  afterResponse: [explainError],
  triggers: { [newEvent.key]: newEvent },
  creates: { [postEvent.key]: postEvent },
};
