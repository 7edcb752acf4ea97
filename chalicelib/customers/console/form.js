// Let a form make a subscription, or edit `one`, of which stays what is not changed.
function fillForm(form, one, answer) {
  form.replaceChildren($("fields").content.cloneNode(true));
  const fields = [...form.querySelectorAll("[name]")],
    { target_url, event_types, tenant } = form.elements;
  const old = {
    ...one,
    event_types: one?.event_types?.join(", "),
    filter: one?.filter && JSON.stringify(one.filter),
    headers:
      one?.header_names?.[0] &&
      `{${one.header_names.map((name) => `"${name}": "${SET}"`).join(", ")}}`,
  };
  for (const field of fields) {
    field.defaultValue = old[field.name] || "";
    field.after(make("span", { class: "fault", role: "alert", hidden: "" }));
  }
  [target_url.required, tenant.parentNode.hidden] = [!one, Boolean(one)];
  if (one) target_url.placeholder = `as it is, at ${one.target_host}`;
  form.querySelector("button").textContent = one ? "Save" : "Add";
  event_types.onfocus = event_types.oninput = () => {
    // after those that were typed already
    offer(
      $("offered"),
      me.event_types ?? types,
      event_types.value.replace(/[^,]*$/, "").replace(/,$/, ", "),
    );
  };
  form.onsubmit = () => save(form, fields, one, answer);
}
const SET = "(set)"; // stands for the value of a header, which is never shown
function parseTypes(text) {
  const entries = text
      .split(",")
      .map((entry) => entry.trim())
      .filter(Boolean),
    offered = me.event_types ?? entries;
  const matches = (entry, type) =>
    entry.endsWith("*") ? type.startsWith(entry.slice(0, -1)) : type === entry;
  const isOffered = (entry) =>
    entry.startsWith("triggers.") || offered.some((type) => matches(entry, type));
  const wrong = entries.find((entry) => !isOffered(entry));
  if (wrong) throw new Error(`must not have ${wrong}, which is no event type here`);
  return entries;
}
function parseHeaders(text) {
  const headers = JSON.parse(text),
    unknown = Object.keys(headers).find((name) => headers[name] === SET);
  if (unknown) throw new Error(`must have the value of ${unknown} again, because all are replaced`);
  return headers;
}
const PARSERS = {
  event_types: parseTypes,
  filter: (text) => JSON.parse(text, exactly),
  headers: parseHeaders,
};
async function save(form, fields, one, answer) {
  const faults = [],
    given = {};
  for (const { name, value, defaultValue } of fields) {
    if (value === (one ? defaultValue : "")) continue;
    try {
      given[name] = value.trim() ? (PARSERS[name] ?? String)(value.trim()) : null;
    } catch ({ name: kind, message }) {
      faults.push({
        field: name,
        message: kind === "SyntaxError" ? `must be JSON: ${message}` : message,
      });
    }
  }
  if (explain(faults, fields)) return;
  const [method, path] = one
    ? ["PATCH", `subscriptions/${one.subscription_id}`]
    : ["POST", "subscriptions"];
  const answered = await call(method, path, [], JSON.stringify(given)).catch((error) => error),
    { body } = answered;
  setText(
    form.lastElementChild,
    explain(answered.errors ?? [], fields) || body ? "" : answered.message,
  );
  if (!body) return;
  if (one) {
    form.parentNode.open = false;
    form.previousElementSibling.focus();
    setText(answer, "It is saved, and counts within ten seconds.");
    return refresh();
  }
  form.reset();
  go({ tenant: me.tenant ? "" : (body.tenant ?? "") });
  refresh();
  const was = answered.status.startsWith("201")
    ? " is added"
    : " was there already, and is enabled";
  await showSecret(body, body.secret, was);
  $("subscriptions-title").focus();
}
async function showSecret({ name, target_host }, secret, added = "") {
  const note = secret
    ? `The secret to check signatures with: ${secret}`
    : "Nothing is signed: there is no secret.";
  const closed = confirm(
    `${name ?? target_host}${added}`,
    note,
    secret ? "Copy secret" : "",
    "Done",
  );
  $("yes").onclick = (click) => {
    click.preventDefault();
    copy(click, "Copy secret", secret);
  };
  $(secret ? "yes" : "no").focus();
  await closed;
  setText($("consequence"), "");
}
