// The form that makes a subscription, or edits one: what is not changed stays.
const MOST_HEADERS = 5;

function fillForm(form, one, answer) {
  form.replaceChildren($("fields").content.cloneNode(true));
  const { target_url: url, name, tenant, filter, event_types: types, body } = form.elements;
  const parts = partsOf(form);
  url.required = !one;
  url.defaultValue = urls.get(one?.subscription_id)?.url ?? "";
  if (one) url.placeholder = `as it is, at ${one.target_host}`;
  name.defaultValue = one?.name ?? "";
  tenant.parentNode.hidden = Boolean(one);
  tenant.defaultValue = seen.tenants.has(filters.text) ? filters.text : "";
  filter.defaultValue = one?.filter ? JSON.stringify(one.filter) : "";
  body.value = one?.body ?? "";
  fillTypes(parts, types, one?.event_types ?? []);
  for (const header of one?.header_names ?? []) addHeader(parts.rows, header);
  parts.add.onclick = () => addHeader(parts.rows).querySelector("input").focus();
  url.oninput = () => explain(faultsOf(form, one, "headers"), form);
  setText(parts.save, one ? "Save" : "Add");
  form.onsubmit = () => save(form, one, answer);
}
// Types to tick, if there are some to choose from; else they are typed.
function fillTypes({ ticks, others }, input, chosen) {
  const offered = me.event_types ?? [];
  const ticked = offered.length ? [...new Set([...offered, ...chosen, "triggers.*"])] : [];
  ticks.hidden = !ticked.length;
  setText(others, offered.length ? "Other types, or beginnings such as order.*" : "");
  input.ariaLabel = offered.length ? null : "Types, none for all";
  input.defaultValue = offered.length ? "" : chosen.join(", ");
  for (const type of ticked) {
    const box = make("input", { type: "checkbox", name: "ticked", value: type });
    box.defaultChecked = chosen.includes(type);
    const about = type === "triggers.*" ? `${type} (reports of failures)` : type;
    ticks.append(make("label", { class: "tick" }, box, ` ${about}`));
  }
  input.onfocus = input.oninput = () => {
    // after those that were typed already
    const before = input.value.replace(/[^,]*$/, "").replace(/,$/, ", ");
    offer($("offered"), me.event_types ?? seen.types, before);
  };
}
// Add a row for a header; of one that is set only the name is known.
function addHeader(rows, name = "") {
  const row = $("header").content.firstElementChild.cloneNode(true);
  const { header, value, remove } = partsOf(row);
  header.defaultValue = name;
  if (name) value.placeholder = "set; give it again with another URL";
  remove.onclick = () => row.remove();
  if (rows.children.length < MOST_HEADERS) rows.append(row);
  return row.isConnected ? row : rows.lastElementChild;
}

// Return {given, faults}: what a form says that differs from `one`, and what cannot be read.
function readForm(form, one) {
  const faults = [];
  const given = {};
  const read = (field, parser) => {
    try {
      const value = parser();
      if (value !== undefined) given[field] = value;
    } catch ({ name, message }) {
      faults.push({
        field,
        message: name === "SyntaxError" ? `It must be JSON: ${message}.` : message,
      });
    }
  };
  const { target_url: url, name, tenant, filter, body, secret } = form.elements;
  const changed = (input) => input.value !== (one ? input.defaultValue : "");
  const text = (input) => (changed(input) ? input.value.trim() || null : undefined);
  read("target_url", () => text(url) ?? undefined);
  read("name", () => text(name));
  read("body", () => (body.value === (one?.body ?? "") ? undefined : body.value || null));
  read("secret", () => secret.value.trim() || undefined);
  read("tenant", () => (one || me.tenant ? undefined : text(tenant)));
  read("event_types", () => readTypes(form, one));
  read("filter", () => {
    const typed = text(filter);
    return typed ? JSON.parse(typed, exactly) : typed;
  });
  read("headers", () => readHeaders(form, one));
  return { given, faults };
}
function readTypes(form, one) {
  const data = new FormData(form);
  const typed = data
    .get("event_types")
    .split(",")
    .map((entry) => entry.trim())
    .filter(Boolean);
  const entries = [...new Set([...data.getAll("ticked"), ...typed])];
  const offered = me.event_types ?? entries;
  const matches = (entry, type) =>
    entry.endsWith("*") ? type.startsWith(entry.slice(0, -1)) : type === entry;
  const isOffered = (entry) =>
    entry.startsWith("triggers.") || offered.some((type) => matches(entry, type));
  const known = one?.event_types ?? [];
  const wrong = entries.find((entry) => !isOffered(entry) && !known.includes(entry));
  if (wrong) throw new Error(`${wrong} is no event type here.`);
  const isSame = entries.length === known.length && entries.every((entry) => known.includes(entry));
  if (isSame) return undefined;
  return entries.length ? entries : null;
}
function readHeaders(form, one) {
  const rows = [...partsOf(form).rows.children].map((row) => partsOf(row));
  const given = rows.map(({ header, value }) => [header.value.trim(), value.value]);
  const filled = given.filter(([name, value]) => name || value);
  const known = one?.header_names ?? [];
  const { target_url: url } = form.elements;
  const isElsewhere = known.length > 0 && url.value && url.value !== url.defaultValue;
  const isSame =
    filled.length === known.length &&
    filled.every(([name, value]) => !value && known.includes(name));
  if (isSame && !isElsewhere) return undefined;
  const [without] = filled.filter(([, value]) => !value);
  if (without) throw new Error(`Give the value of ${without[0]} again, or remove it.`);
  return filled.length ? Object.fromEntries(filled) : null;
}

// Return the faults of one field.
function faultsOf(form, one, name) {
  return readForm(form, one).faults.filter(({ field }) => field === name);
}
async function save(form, one, answer) {
  const { given, faults } = readForm(form, one);
  if (explain(faults, form)) return;
  const answered = await submit(given, one).catch((error) => error);
  const { body } = answered;
  const isExplained = explain((answered.errors ?? []).map(asSentence), form);
  setText(partsOf(form).fault, isExplained || body ? "" : answered.message);
  if (!body) return;
  urls.clear();
  if (one) {
    form.closest("details").open = false;
    form.closest("details").firstElementChild.focus();
    form.replaceChildren(); // it is filled with what was saved
    tell(answer, "It is saved, and counts within ten seconds.", "delivered");
    return refresh();
  }
  fillForm(form);
  if (me.tenant) seek("");
  else location.hash = `#/subscriptions/${body.subscription_id}`;
  refresh();
  const was = answered.isNew ? " is added" : " was there already";
  await showSecret(body, body, was);
  $("subscriptions-title").focus();
}
// An edit takes no secret: a call of its own does, first, because it may be refused.
async function submit(given, one) {
  const { secret, ...changes } = given;
  if (!one) return call("POST", "subscriptions", [], JSON.stringify(given));
  const path = `subscriptions/${one.subscription_id}`;
  if (secret) await call("POST", `${path}/secret`, [], JSON.stringify({ secret }));
  return call("PATCH", path, [], JSON.stringify(changes));
}
// Return a fault that the API found as a sentence.
function asSentence({ field, message }) {
  const isAboutField = /^(must|is|has) /.test(message);
  return { field, message: isAboutField ? `It ${message}.` : `${message}.` };
}
// Show faults, which are sentences, beside their fields; return whether there are any.
function explain(errors, form) {
  const faults = [...form.querySelectorAll("[data-fault]")].map((node) => {
    const fault = errors.find(({ field }) => field.split(".")[0] === node.dataset.fault);
    const field = form.elements[node.dataset.fault];
    setText(node, fault?.message ?? "");
    if (field) field.ariaInvalid = String(Boolean(fault));
    return fault;
  });
  return faults.some(Boolean);
}
