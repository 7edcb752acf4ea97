// Zapier integration of the Triggers API: an instant trigger for new events, and an action that posts one.

const { version: platformVersion } = require("zapier-platform-core");
const { version } = require("./package.json");

const API_GATEWAY_URLS = "https://docs.aws.amazon.com/apigateway/latest/developerguide/how-to-call-api.html";
const LOOPBACK_HOST = /^(localhost|127(\.\d+){3}|\[::1\])$/;
const SAMPLES = 3;

/** Return the URL of a path of the API; throw unless the API URL is https, or http to a loopback host. */
const urlOf = (z, bundle, path) => {
  const { api_url } = bundle.authData;
  const url = URL.canParse(api_url) ? new URL(api_url) : {};
  const isLoopback = url.protocol === "http:" && LOOPBACK_HOST.test(url.hostname);
  if (url.protocol !== "https:" && !isLoopback) {
    throw new z.errors.Error("The API URL must begin with https://, such as https://events.example.com/api.");
  }
  return url.origin + url.pathname.replace(/\/+$/, "") + path;
};

/** Call the API and return the body of its response; parameters and members that are undefined are left out. */
const call = async (z, bundle, method, path, options) => {
  const url = urlOf(z, bundle, path);
  const response = await z.request({ method, url, removeMissingValuesFrom: { params: true }, ...options });
  return response.data;
};

const addApiKey = (request, z, bundle) => {
  request.headers.Authorization = `Bearer ${bundle.authData.api_key}`;
  return request;
};

/** Throw the error that tells Zapier what to do next; its core does so for 429 before this is called. */
const explainError = (response, z) => {
  const { status, data } = response;
  if (status < 400) return response;
  const detail = data?.detail ?? `The API responded ${status}.`;
  if (status === 401) {
    throw new z.errors.ExpiredAuthError(detail);
  }
  if (status === 503) {
    const retryAfterSeconds = Number(response.headers.get("retry-after"));
    throw new z.errors.ThrottledError(detail, retryAfterSeconds || undefined);
  }
  // The API lets every valid key call /me: a refusal there comes from something else, such as API Gateway.
  const isFromElsewhere = !data?.detail || response.request.url.endsWith("/me");
  if ([403, 404].includes(status) && isFromElsewhere) {
    throw new z.errors.Error(`${detail} Is the stage missing from the API URL, such as /api?`, data?.code, status);
  }
  throw new z.errors.Error(detail, data?.code, status);
};

const authentication = {
  type: "custom",
  fields: [
    {
      key: "api_url",
      label: "API URL",
      type: "string",
      required: true,
      placeholder: "https://events.example.com/api",
      helpText: `The address of the API, [with its stage](${API_GATEWAY_URLS}), such as \`https://….com/api\`.`,
    },
    {
      key: "api_key",
      label: "API Key",
      type: "password",
      required: true,
      helpText: "Ask whoever runs the API. The trigger and the dropdowns need the scope consume, the action produce.",
    },
  ],
  test: (z, bundle) => call(z, bundle, "GET", "/me"),
  connectionLabel: "{{name}}",
};

const tenantField = {
  key: "tenant",
  label: "Tenant",
  type: "string",
  required: false,
};

// Fills the dropdowns; in Zapier's editor a dropdown also takes a custom value.
const eventType = {
  key: "event_type",
  noun: "Event Type",
  display: {
    label: "List Event Types",
    description: "Lists the types of recent events for dropdowns.",
    hidden: true,
  },
  operation: {
    type: "polling",
    perform: async (z, bundle) => {
      const params = { source: "original", limit: 100, tenant: bundle.inputData.tenant };
      const { events } = await call(z, bundle, "GET", "/events", { params });
      const types = new Set(events.map((event) => event.event_type));
      return [...types].map((type) => ({ id: type }));
    },
  },
};

/** Return an event as its copies are pushed, with itself as the source. */
const toSample = ({ event_id, event_type, payload, metadata, created_at, tenant }) => {
  return { id: event_id, event_id, event_type, payload, metadata, created_at, tenant, source_event_id: event_id };
};

/** Return recent events of a Zap's types, newest first. */
const listSamples = async (z, bundle) => {
  const { event_types, tenant } = bundle.inputData;
  const listType = (event_type) => {
    const params = { source: "original", include: "payload", limit: SAMPLES, event_type, tenant };
    return call(z, bundle, "GET", "/events", { params });
  };
  const pages = await Promise.all(event_types?.length ? event_types.map(listType) : [listType()]);
  const events = pages.flatMap((page) => page.events);
  const distinct = new Map(events.map((event) => [event.event_id, event])); // types may overlap
  const newestFirst = [...distinct.values()].sort((a, b) => b.created_at.localeCompare(a.created_at));
  return newestFirst.slice(0, SAMPLES).map(toSample);
};

const newEvent = {
  key: "new_event",
  noun: "Event",
  display: { label: "New Event", description: "Triggers when an event is posted to the Triggers API." },
  operation: {
    type: "hook",
    inputFields: [
      { ...tenantField, helpText: "Whose events trigger the Zap. Leave empty for the events of all tenants." },
      {
        key: "event_types",
        label: "Event Types",
        type: "string",
        list: true,
        dynamic: "event_type.id",
        helpText: "Choose, or enter a custom value, such as `invoice.*` for all that begin so. Leave empty for all.",
      },
    ],
    performSubscribe: async (z, bundle) => {
      const { event_types, tenant } = bundle.inputData;
      const body = { target_url: bundle.targetUrl, event_types: event_types?.length ? event_types : undefined, tenant };
      const { subscription_id } = await call(z, bundle, "POST", "/subscriptions", { body });
      return { subscription_id }; // Zapier keeps it: without the subscription's secret
    },
    performUnsubscribe: async (z, bundle) => {
      await call(z, bundle, "DELETE", `/subscriptions/${bundle.subscribeData.subscription_id}`);
      return {};
    },
    perform: async (z, bundle) => [{ id: bundle.cleanedRequest.event_id, ...bundle.cleanedRequest }],
    performList: listSamples,
    sample: {
      id: "cpy_0123456789abcdef0123456789abcdef",
      event_id: "cpy_0123456789abcdef0123456789abcdef",
      event_type: "order.created",
      payload: { order_id: "12345" },
      metadata: { source: "shop" },
      created_at: "2026-01-31T12:00:00.000000Z",
      tenant: "customer-42",
      source_event_id: "evt_fedcba9876543210fedcba9876543210",
    },
    outputFields: [
      { key: "id", label: "ID", type: "string" },
      { key: "event_id", label: "Event ID", type: "string" },
      { key: "event_type", label: "Event Type", type: "string" },
      { key: "payload", label: "Payload", dict: true },
      { key: "metadata", label: "Metadata", dict: true },
      { key: "created_at", label: "Created At", type: "datetime" },
      { key: "tenant", label: "Tenant", type: "string" },
      { key: "source_event_id", label: "Source Event ID", type: "string" },
    ],
  },
};

/** Return the payload, which is given either as fields or as JSON text. */
const readPayload = (z, { payload, payload_json }) => {
  if (Boolean(payload) === Boolean(payload_json)) {
    throw new z.errors.Error("Fill in either Payload or Payload as JSON.");
  }
  if (payload) return payload;
  try {
    return JSON.parse(payload_json);
  } catch (error) {
    throw new z.errors.Error(`Payload as JSON is not valid JSON: ${error.message}`);
  }
};

const postEvent = {
  key: "post_event",
  noun: "Event",
  display: { label: "Post Event", description: "Posts an event, which every subscriber receives." },
  operation: {
    inputFields: [
      {
        key: "event_type",
        label: "Event Type",
        type: "string",
        required: true,
        dynamic: "event_type.id",
        helpText: "Choose, or enter a custom value, such as `order.created`.",
      },
      {
        key: "payload",
        label: "Payload",
        dict: true,
        required: false,
        helpText: "The members of the payload. Every value becomes a string; for anything else use Payload as JSON.",
      },
      {
        key: "payload_json",
        label: "Payload as JSON",
        type: "code",
        required: false,
        helpText: 'Instead of Payload: a [JSON](https://www.json.org/) object, such as `{"order": {"total": 99.5}}`.',
      },
      {
        key: "metadata",
        label: "Metadata",
        dict: true,
        required: false,
        helpText: "What describes the event but is not part of the payload, such as its source.",
      },
      { ...tenantField, helpText: "Whose event it is. Triggers of another tenant do not get it." },
      {
        key: "idempotency_key",
        label: "Idempotency Key",
        type: "string",
        required: false,
        helpText: "The same key never posts a second event. Take what identifies the cause, such as an order's ID.",
      },
    ],
    perform: async (z, bundle) => {
      const { event_type, metadata, tenant, idempotency_key } = bundle.inputData;
      const headers = idempotency_key ? { "Idempotency-Key": idempotency_key } : {};
      const body = { event_type, payload: readPayload(z, bundle.inputData), metadata, tenant };
      const event = await call(z, bundle, "POST", "/events", { headers, body });
      return { id: event.event_id, ...event };
    },
    sample: {
      id: "evt_fedcba9876543210fedcba9876543210",
      event_id: "evt_fedcba9876543210fedcba9876543210",
      event_type: "order.created",
      status: "delivered",
      created_at: "2026-01-31T12:00:00.000000Z",
      delivered_at: "2026-01-31T12:00:00.123456Z",
      next_attempt_at: null,
      delivery_attempts: 1,
      delivered_via: "push",
      created_by: "zapier",
      tenant: "customer-42",
      last_error: null,
      message: "Delivered by attempt 1.",
      subscription_id: null,
      source_event_id: null,
      copies: ["cpy_0123456789abcdef0123456789abcdef"],
    },
    outputFields: [
      { key: "id", label: "ID", type: "string" },
      { key: "event_id", label: "Event ID", type: "string" },
      { key: "event_type", label: "Event Type", type: "string" },
      { key: "status", label: "Status", type: "string" },
      { key: "created_at", label: "Created At", type: "datetime" },
      { key: "delivered_at", label: "Delivered At", type: "datetime" },
      { key: "next_attempt_at", label: "Next Attempt At", type: "datetime" },
      { key: "delivery_attempts", label: "Delivery Attempts", type: "integer" },
      { key: "delivered_via", label: "Delivered Via", type: "string" },
      { key: "created_by", label: "Created By", type: "string" },
      { key: "tenant", label: "Tenant", type: "string" },
      { key: "last_error", label: "Last Error", type: "string" },
      { key: "message", label: "Message", type: "string" },
      { key: "subscription_id", label: "Subscription ID", type: "string" },
      { key: "source_event_id", label: "Source Event ID", type: "string" },
      { key: "copies", label: "Copies", type: "string", list: true },
    ],
  },
};

module.exports = {
  version,
  platformVersion,
  authentication,
  beforeRequest: [addApiKey],
  afterResponse: [explainError],
  triggers: { [newEvent.key]: newEvent, [eventType.key]: eventType },
  creates: { [postEvent.key]: postEvent },
};
