// form.js: the form that makes a webhook or edits it: what is not changed stays as it is.
const SAVED_MS = 10e3; // an edit counts everywhere after that
// Fill the form that adds a webhook or, if `webhook` is given, edits that webhook. `answer` is the
// node that shows that an edit was saved.
function fillForm(form, webhook, answer) {
  form.replaceChildren($("fields").content.cloneNode(true));
  const { target_url: url, name, tenant, filter, types } = form.elements;
  const parts = partsOf(form);
  url.required = !webhook;
  url.defaultValue = page.urls.get(webhook?.subscription_id) ?? "";
  const host = webhook?.target_host;
  if (webhook) url.placeholder = `hidden; leave this empty to keep the URL at ${host}`;
  name.defaultValue = webhook?.name ?? "";
  tenant.parentNode.hidden = Boolean(webhook);
  filter.defaultValue = webhook?.filter ? JSON.stringify(webhook.filter) : "";
  for (const choice of ["body", "header_prefix"])
    form.elements[choice].value = webhook?.[choice] ?? "";
  fillTypes(parts, types, webhook?.event_types ?? []);
  for (const header of webhook?.header_names ?? []) addHeader(parts.rows, header);
  const refused = ({ message }) => [message, "failed"];
  parts.trier.onclick = async () => {
    const said = await tryFilter(form).catch(refused);
    showAnswer(parts.tried, ...said);
  };
  filter.oninput = () => showAnswer(parts.tried, "");
  hide(parts.trier, !Object.keys(page.me.catalogue).some(exampleOf));
  parts.add.onclick = () => addHeader(parts.rows).querySelector("input").focus();
  const isOfHeaders = ({ field }) => field === "headers";
  url.oninput = () => explain(readForm(form, webhook).faults.filter(isOfHeaders), form);
  form.isEdited = () => webhook && form.children.length > 0 && isUnsaved(readForm(form, webhook));
  setText(parts.save, webhook ? "Save" : "Add");
  const submit = () => save(form, webhook, answer).finally(() => delete form.saved);
  form.onsubmit = () => (form.saved ??= submit()); // a second click waits for the first
}
// Return whether what `readForm` returns has a change or an error.
const isUnsaved = ({ given, faults }) =>
  faults.length > 0 || Object.values(given).some((value) => value !== undefined);
// Offer the event types as boxes to tick, if the operator lists its event types; otherwise types
// are typed into the input. `chosen` are the types of the webhook.
function fillTypes({ ticks, others }, input, chosen) {
  const offered = page.me.event_types ?? [];
  const ticked = offered.length ? [...new Set([...offered, ...chosen, "triggers.*"])] : [];
  ticks.hidden = !ticked.length;
  setText(others, offered.length ? "Other types, or beginnings such as order.*" : "");
  input.ariaLabel = offered.length ? null : "Types, none for all";
  input.defaultValue = offered.length ? "" : chosen.join(", ");
  for (const type of ticked) {
    const box = make("input", { type: "checkbox", name: "ticked", value: type });
    box.defaultChecked = chosen.includes(type);
    const reports = type === "triggers.*" && "reports of failures";
    const about = span("muted", reports || (page.me.catalogue[type]?.description ?? ""));
    ticks.append(make("label", { class: "tick" }, box, ` ${type} `, about));
  }
}
// Add a row for a header to the form, and return the row. `name` is the name of a header that is
// set; its value is not shown, because the API returns only names.
function addHeader(rows, name = "") {
  const row = $("header").content.firstElementChild.cloneNode(true);
  const { header, value, remove } = partsOf(row);
  header.defaultValue = name;
  if (name) value.placeholder = "hidden; enter it again if you change the URL";
  remove.onclick = () => row.remove();
  rows.append(row);
  return row;
}
// Return {given, faults}. `given` has the members in which the form differs from the webhook that
// it edits or, without a webhook, all members; a member that does not change is undefined. `faults`
// has an error, {field, message}, for each field that cannot be read.
function readForm(form, webhook) {
  const { target_url: url, name, tenant, filter, secret } = form.elements;
  const changed = (input) => input.value !== (webhook ? input.defaultValue : "");
  const text = (input) => (changed(input) ? input.value.trim() || null : undefined);
  const chosen = (choice) => {
    const { value } = form.elements[choice];
    return value === (webhook?.[choice] ?? "") ? undefined : value || null;
  };
  const readers = {
    target_url: () => text(url) ?? undefined,
    name: () => text(name),
    body: () => chosen("body"),
    header_prefix: () => chosen("header_prefix"),
    secret: () => secret.value.trim() || undefined,
    tenant: () => (webhook || page.me.tenant ? undefined : text(tenant)),
    event_types: () => readTypes(form, webhook?.event_types ?? []),
    filter: () => text(filter) && JSON.parse(text(filter), exactly),
    headers: () => readHeaders(form, webhook),
  };
  const faults = [];
  const given = {};
  for (const [field, read] of Object.entries(readers)) {
    try {
      given[field] = read();
    } catch ({ name: kind, message }) {
      const isSyntax = kind === "SyntaxError";
      faults.push({ field, message: isSyntax ? `It must be JSON: ${message}.` : message });
    }
  }
  return { given, faults };
}
// Return the event types that are ticked or typed in a form, each once.
function typesIn(form) {
  const data = new FormData(form);
  const typed = data.get("types").split(",").map((entry) => entry.trim());
  return [...new Set([...data.getAll("ticked"), ...typed.filter(Boolean)])];
}
// Return the event types of a form: undefined if they are those of the webhook (`known`), null if
// there are none, which means all. Throws an Error if the operator lists its event types and one of
// the form is not among them.
function readTypes(form, known) {
  const entries = typesIn(form);
  const offered = page.me.event_types ?? entries;
  const isOffered = (entry) => /^triggers\.|\*$/.test(entry) || offered.includes(entry);
  const wrong = entries.find((entry) => !isOffered(entry) && !known.includes(entry));
  if (wrong) throw new Error(`${wrong} is not an event type here.`);
  const isSame = entries.length === known.length && entries.every((entry) => known.includes(entry));
  return isSame ? undefined : entries.length ? entries : null;
}
// Return the headers of a form as an object: undefined if they are those of the webhook, null if
// there are none. Throws an Error if a header has no value: the values of headers are needed again
// when one of them or the URL changes.
function readHeaders(form, webhook) {
  const rows = [...partsOf(form).rows.children].map((row) => partsOf(row));
  const given = rows.map(({ header, value }) => [header.value.trim(), value.value]);
  const filled = given.filter(([name, value]) => name || value);
  const known = webhook?.header_names ?? [];
  const { target_url: url } = form.elements;
  const isElsewhere = known.length > 0 && url.value && url.value !== url.defaultValue;
  const isKept = ([name, value]) => !value && known.includes(name);
  const isSame = filled.length === known.length && filled.every(isKept);
  if (isSame && !isElsewhere) return undefined;
  const [without] = filled.filter(([, value]) => !value);
  if (without) throw new Error(`Enter the value of ${without[0]} again, or remove it.`);
  return filled.length ? Object.fromEntries(filled) : null;
}
// Try the filter of a form on examples of the chosen event types, by calls of the API. Returns
// [text, tone] for `showAnswer`.
async function tryFilter(form) {
  const { given, faults } = readForm(form);
  const { filter } = given;
  const fault = faults.find(({ field }) => field === "filter");
  if (!filter && fault) return [fault.message, "failed"];
  if (!filter) return ["Without a filter, it takes all events.", ""];
  const chosen = Object.keys(page.me.catalogue).filter((type) => hasType(typesIn(form), type));
  const all = chosen.filter(exampleOf);
  if (!all.length) return ["No chosen type has an example to try the filter on.", ""];
  const types = all.slice(0, MOST_READ);
  const [yes, no] = [[], []];
  for (const type of types) {
    const body = { filter, payload: exampleOf(type) };
    const { matches, member } = (await call("POST", "filters/test", [], body)).body;
    if (matches) yes.push(type);
    else no.push(`${type} (it ${whyFiltered(filter, member, body.payload)})`);
  }
  const took = yes.length ? ` It takes the example of ${yes.join(", ")}.` : "";
  const left = no.length ? ` It leaves out ${no.join(", ")}.` : "";
  const tried = `Tried on ${types.length} of ${number(all.length, "example")}.`;
  return [tried + took + left, yes.length ? "delivered" : "failed"];
}
// Save a form: add a webhook or, if `webhook` is given, change it. Errors are shown in the form.
// Asks first if an edit would send all event types to the webhook.
async function save(form, webhook, answer) {
  const { given, faults } = readForm(form, webhook);
  if (explain(faults, form)) return;
  const isWidened = webhook?.event_types && given.event_types === null;
  const question = [`Send all types to ${isWidened && nameOf(webhook)}?`, "No type is chosen."];
  if (isWidened && !(await confirm(...question, "Send all types"))) return;
  const path = webhook ? `subscriptions/${webhook.subscription_id}` : "subscriptions";
  const answered = await call(webhook ? "PATCH" : "POST", path, [], given).catch((error) => error);
  const { body } = answered;
  const isExplained = explain((answered.errors ?? []).map(asSentence), form);
  const { fault } = partsOf(form);
  setText(fault, isExplained || body ? "" : answered.message);
  const { code, differs, subscription_id: id } = answered;
  if (code === "subscription_exists")
    fault.append(
      ` It differs in ${differs.join(", ")}. `,
      link(`/subscriptions/${id}`, {}, "Edit it"),
    );
  if (!body) return;
  const fold = form.closest("details");
  fold.open = false;
  if (webhook) {
    page.urls.delete(webhook.subscription_id);
    fold.firstElementChild.focus();
    form.replaceChildren(); // it is filled with what was saved
    const end = Date.now() + SAVED_MS;
    const said = "It is saved, and takes effect within ten seconds.";
    showAnswer(answer, said, "delivered", () => Date.now() < end);
    return hooks.refresh();
  }
  fillForm(form);
  location.hash = `#/subscriptions/${body.subscription_id}`;
  const was = answered.isNew ? " was added" : " already existed";
  await showSecret(body, body, was);
  focusFirst();
}
