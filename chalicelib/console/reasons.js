// reasons.js: why an event is not sent to a webhook: `takes order.total ≥ 100; this has 80`.
// Return in words why a webhook has no copy of an event. The first argument has the webhook's id
// and the API's `reason` and `member`; the second one is the event, in a search without its
// payload.
function whyNot({ subscription_id: id, reason, member }, { event_type, payload }) {
  const webhook = page.webhooks.get(id);
  const told = {
    deleted: () => `its ${page.me.tenant ? "delivery" : "copy"} was deleted`,
    host: () => "its host is no longer allowed",
    event_types: () => `takes ${webhook ? typesOf(webhook) : "other types"}; this is ${event_type}`,
    filter: () => whyFiltered(webhook?.filter, member, payload),
    later: () => `was made after the event${webhook ? `, ${webhook.created_at}` : ""}`,
    edited: () => "would take it now, because it was edited since",
  };
  return told[reason]?.() ?? reason;
}
// Return in words why a filter does not match a payload. `member` is the path of the first member
// that does not match; null: the payload is nested too deep. The payload is undefined where it is
// not known.
function whyFiltered(filter, member, payload) {
  if (!member) return "its filter cannot be applied to this payload";
  const wanted = filter && memberAt(filter, member);
  const values = memberAt(payload, member);
  const has = values === undefined ? "none" : short(formatValue(values));
  const end = payload === undefined ? "" : `; this has ${has}`; // a search has no payloads
  return wanted ? `takes ${member} ${tellFilter(wanted)}${end}` : `its filter on ${member}${end}`;
}
// Return the member at a path, whose names may have dots; in lists, of each of their objects.
function memberAt(value, path) {
  if (Array.isArray(value)) {
    const members = value.map((entry) => memberAt(entry, path));
    const found = members.filter((entry) => entry !== undefined);
    return found.length ? found : undefined;
  }
  if (value === null || typeof value !== "object") return undefined;
  if (Object.hasOwn(value, path)) return value[path];
  const names = Object.keys(value).filter((name) => path.startsWith(`${name}.`));
  const found = names.map((name) => memberAt(value[name], path.slice(name.length + 1)));
  return found.find((entry) => entry !== undefined);
}
// Return a value of JSON as a text, without quotation marks around a text.
const formatValue = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const SIGNS = { ">=": "≥", "<=": "≤", ">": ">", "<": "<", "=": "=" };
// Return what a member of a filter takes: `≥ 100`, `paid or open`.
const tellFilter = (wanted) =>
  Array.isArray(wanted) ? short(wanted.map(describeEntry).join(" or "), 120) : "with other members";
// Return one entry of a filter's list in words.
function describeEntry(entry) {
  const isScalar = entry === null || typeof entry !== "object" || JSON.isRawJSON?.(entry);
  if (isScalar) return formatValue(entry);
  const [[operator, operand]] = Object.entries(entry);
  if (operator === "numeric") {
    const terms = operand.map((term) => SIGNS[term] ?? formatValue(term));
    return terms.join(" ").replace(/(\S+ \S+) (?=[≥≤<>=])/, "$1 and ");
  }
  if (operator === "exists") return operand ? "if it is present" : "if it is absent";
  const words = { prefix: "beginning with", suffix: "ending with", "anything-but": "anything but" };
  const list = Array.isArray(operand) ? operand.map(formatValue).join(", ") : formatValue(operand);
  return `${words[operator]} ${list}`;
}
