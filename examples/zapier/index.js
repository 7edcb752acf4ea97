// Zapier integration of the Triggers API: instant triggers for events and for problems with them, and an action that
// posts an event.

const { version: platformVersion } = require("zapier-platform-core");
const { version } = require("./package.json");

const API_GATEWAY_URLS = "https://docs.aws.amazon.com/apigateway/latest/developerguide/how-to-call-api.html";
const EVENT_PATTERNS = "https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html";
const LOOPBACK_HOST = /^(localhost|127(\.\d+){3}|\[::1\])$/;
const SAMPLES = 3;
const MAX_PAGE = 100;
const RESERVED_PREFIX = "triggers."; // of the types of reports, which are events about events
const EXISTS = "subscription_exists"; // the code of 409 where a subscription is there with another filter

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
  if (status < 400 || data?.code === EXISTS) return response;
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
      helpText: "Ask whoever runs the API. The triggers and the dropdowns need the scope consume, the action produce.",
    },
  ],
  test: (z, bundle) => call(z, bundle, "GET", "/me"),
  connectionLabel: "{{name}}",
};

/** Return what JSON text says. */
const parseJson = (z, label, text) => {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new z.errors.Error(`${label} is not valid JSON: ${error.message}`);
  }
};

const tenantField = {
  key: "tenant",
  label: "Tenant",
  type: "string",
  required: false,
};

const isReport = (event) => event.event_type.startsWith(RESERVED_PREFIX);

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
      const params = { source: "original", limit: MAX_PAGE, tenant: bundle.inputData.tenant };
      const { events } = await call(z, bundle, "GET", "/events", { params });
      const types = new Set(events.filter((event) => !isReport(event)).map((event) => event.event_type));
      return [...types].map((type) => ({ id: type }));
    },
  },
};

/** Return an event as its copies are pushed, with itself as the source; a push has a subject only if the event does. */
const toSample = ({ event_id, event_type, payload, metadata, created_at, tenant, subject }) => {
  const sample = { id: event_id, event_id, event_type, payload, metadata, created_at, tenant };
  return { ...sample, ...(subject && { subject }), source_event_id: event_id };
};

/** Return recent events of these types, or else of all types but those of reports, newest first. */
const listSamples = async (z, bundle, event_types, isWanted) => {
  const listType = (event_type) => {
    const { tenant } = bundle.inputData;
    const limit = event_type ? SAMPLES : MAX_PAGE; // of which reports are left out
    const params = { source: "original", include: "payload", limit, event_type, tenant };
    return call(z, bundle, "GET", "/events", { params });
  };
  const pages = await Promise.all(event_types ? event_types.map(listType) : [listType()]);
  const events = pages.flatMap((page) => page.events).filter(isWanted);
  const distinct = new Map(events.map((event) => [event.event_id, event])); // types may overlap
  const newestFirst = [...distinct.values()].sort((a, b) => b.created_at.localeCompare(a.created_at));
  return newestFirst.slice(0, SAMPLES).map(toSample);
};

/** Return an instant trigger, whose Zaps get the types that are chosen, or else `defaultTypes`; undefined: all. */
const hookTrigger = ({ key, noun, display, inputFields, sample, defaultTypes, isWanted }) => {
  const typesOf = ({ event_types }) => (event_types?.length ? event_types : defaultTypes);
  const performSubscribe = async (z, bundle) => {
    const name = ["Zap", bundle.meta?.zap?.id, display.label].filter(Boolean).join(" ");
    const { tenant, filter: text } = bundle.inputData;
    const filter = text ? parseJson(z, "Filter", text) : undefined;
    const body = { target_url: bundle.targetUrl, event_types: typesOf(bundle.inputData), tenant, name, filter };
    const subscribe = () => call(z, bundle, "POST", "/subscriptions", { body, skipThrowForStatus: true });
    const { code, subscription_id, filter: former } = await subscribe();
    // It is there if Zapier did not unsubscribe when the Zap was turned off, and has the filter of then.
    if (code === EXISTS || (former && !filter)) {
      await call(z, bundle, "PATCH", `/subscriptions/${subscription_id}`, { body: { filter: filter ?? null } });
      await subscribe(); // enables it
    }
    return { subscription_id }; // Zapier keeps it: without the subscription's secret
  };
  const performUnsubscribe = async (z, bundle) => {
    await call(z, bundle, "DELETE", `/subscriptions/${bundle.subscribeData.subscription_id}`);
    return {};
  };
  const operation = {
    type: "hook",
    inputFields,
    performSubscribe,
    performUnsubscribe,
    perform: async (z, bundle) => [{ id: bundle.cleanedRequest.event_id, ...bundle.cleanedRequest }],
    performList: (z, bundle) => listSamples(z, bundle, typesOf(bundle.inputData), isWanted),
    sample: { id: sample.event_id, ...sample },
    outputFields: [
      { key: "id", label: "ID", type: "string" },
      { key: "event_id", label: "Event ID", type: "string" },
      { key: "event_type", label: "Event Type", type: "string" },
      { key: "payload", label: "Payload", dict: true },
      { key: "metadata", label: "Metadata", dict: true },
      { key: "created_at", label: "Created At", type: "datetime" },
      { key: "tenant", label: "Tenant", type: "string" },
      { key: "subject", label: "Subject", type: "string" },
      { key: "source_event_id", label: "Source Event ID", type: "string" },
    ].filter(({ key }) => key === "id" || key in sample),
  };
  return { key, noun, display, operation };
};

const newEvent = hookTrigger({
  key: "new_event",
  noun: "Event",
  display: { label: "New Event", description: "Triggers when an event is posted to the Triggers API." },
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
    {
      key: "filter",
      label: "Filter",
      type: "code",
      required: false,
      helpText:
        `Which payloads trigger the Zap, as an [EventBridge pattern](${EVENT_PATTERNS}), such as ` +
        '`{"total": [{"numeric": [">", 100]}]}`. Leave empty for all.',
    },
  ],
  sample: {
    event_id: "cpy_0123456789abcdef0123456789abcdef",
    event_type: "order.created",
    payload: { order_id: "12345" },
    metadata: { source: "shop" },
    created_at: "2026-01-31T12:00:00.000000Z",
    tenant: "customer-42",
    subject: "order-12345",
    source_event_id: "evt_fedcba9876543210fedcba9876543210",
  },
  isWanted: (event) => !isReport(event),
});

const deliveryProblem = hookTrigger({
  key: "delivery_problem",
  noun: "Delivery Problem",
  display: {
    label: "Delivery Problem",
    description: "Triggers when an event cannot be delivered, or a subscription fails, is disabled or ends.",
  },
  inputFields: [
    {
      ...tenantField,
      helpText: "Whose subscriptions are watched. Leave empty for all, and for the webhook of whoever runs the API.",
    },
    {
      key: "event_types",
      label: "Problems",
      type: "string",
      list: true,
      choices: {
        [`${RESERVED_PREFIX}event.failed`]: "An event was not delivered",
        [`${RESERVED_PREFIX}subscription.failing`]: "A subscription fails",
        [`${RESERVED_PREFIX}subscription.disabled`]: "A subscription was disabled",
        [`${RESERVED_PREFIX}subscription.ended`]: "A subscription was ended by its target",
      },
      helpText: "Leave empty for all.",
    },
  ],
  sample: {
    event_id: "cpy_0123456789abcdef0123456789abcdef",
    event_type: "triggers.event.failed",
    payload: {
      event_id: "cpy_00112233445566778899aabbccddeeff",
      reason: "exhausted",
      last_status_code: 503,
      last_error: "receiver responded 503",
      delivery_attempts: 45,
      failed_at: "2026-01-31T12:00:00.000000Z",
      event_type: "order.created",
      subscription_id: "sub_0123456789abcdef0123456789abcdef",
      source_event_id: "evt_00112233445566778899aabbccddeeff",
      created_at: "2026-01-29T12:00:00.000000Z",
    },
    metadata: null,
    created_at: "2026-01-31T12:00:00.000000Z",
    tenant: "customer-42",
    source_event_id: "evt_fedcba9876543210fedcba9876543210",
  },
  defaultTypes: [`${RESERVED_PREFIX}*`],
  isWanted: isReport,
});

/** Return the payload, which is given either as fields or as JSON text. */
const readPayload = (z, { payload, payload_json }) => {
  if (Boolean(payload) === Boolean(payload_json)) {
    throw new z.errors.Error("Fill in either Payload or Payload as JSON.");
  }
  return payload || parseJson(z, "Payload as JSON", payload_json);
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
        key: "subject",
        label: "Subject",
        type: "string",
        required: false,
        helpText: "What the event is about, such as an order's number: the event can be found by it.",
      },
      {
        key: "idempotency_key",
        label: "Idempotency Key",
        type: "string",
        required: false,
        helpText: "The same key never posts a second event. Take what identifies the cause, such as an order's ID.",
      },
    ],
    perform: async (z, bundle) => {
      const { event_type, metadata, tenant, subject, idempotency_key } = bundle.inputData;
      const headers = idempotency_key ? { "Idempotency-Key": idempotency_key } : {};
      const body = { event_type, payload: readPayload(z, bundle.inputData), metadata, tenant, subject };
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
      subject: "order-12345",
      last_error: null,
      message: "Delivered.",
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
      { key: "subject", label: "Subject", type: "string" },
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
  triggers: { [newEvent.key]: newEvent, [deliveryProblem.key]: deliveryProblem, [eventType.key]: eventType },
  creates: { [postEvent.key]: postEvent },
};
