// The search: by an id or its beginning, or by a subject.
function miss(text, sought = "") {
  view = { name: "missing", sought };
  document.title = $("missing").textContent = text;
  setText($("looked"), "");
  $("proposals").replaceChildren();
  show();
  $("missing").focus();
}
// Open what has an id that begins as the address says, or that subject, if that is one alone.
async function search() {
  const { sought } = view;
  if (!sought || me.tenant) return;
  const isId = ID.test(sought);
  const given = isId ? {} : { subject: sought };
  const { found } = await listEvents(given, isId ? COUNTED : 2, refreshing.signal);
  await loadSubscriptions("*");
  if (!seen.types.size) await loadNewest();
  const all = [...found.keys(), ...(isId ? subscriptions.keys() : [])];
  const ids = all.filter((id) => !isId || id.startsWith(sought));
  if (ids.length === 1) return location.replace(address("/find", { text: ids[0] }));
  if (!isId && ids.length) return location.replace(address("/", given));
  const none = isId
    ? `${ids.length || "None"} of the newest ${COUNTED} events and of the subscriptions begin with`
    : "No event has the id or subject";
  miss(`${none} ${sought}.`);
  const looked = isId
    ? "Give more of its characters."
    : "A subject is found as it was posted, whole.";
  propose(sought, looked);
}
async function loadNewest() {
  const { found } = await listEvents({ include: "subject" }, PAGE, refreshing.signal);
  remember([...found.values()]);
}
// Offer what contains the text, among what this page has seen.
function propose(sought, looked) {
  const has = (text) => text?.toLowerCase().includes(sought.toLowerCase());
  const of = (values, name, member) =>
    [...values].filter(has).map((text) => [`${name} ${text}`, "/", { [member]: text }]);
  const webhooks = [...subscriptions.values()].filter(
    ({ name, target_host, tenant }) => has(name) || has(target_host) || has(tenant),
  );
  const proposals = [
    ...of(seen.subjects, "Subject", "subject"),
    ...of(seen.tenants, "Events of tenant", "tenant"),
    ...of(seen.types, "Events of type", "event_type"),
    ...webhooks.map((one) => [
      `Webhook ${label(one.subscription_id)}${one.tenant ? ` of ${one.tenant}` : ""}`,
      `/subscriptions/${one.subscription_id}`,
      {},
    ]),
  ].slice(0, 20);
  const end = proposals.length ? "It is contained in:" : "Nothing that was seen here contains it.";
  setText($("looked"), `${looked} ${end}`);
  const items = proposals.map(([text, path, values]) => make("li", {}, link(path, values, text)));
  $("proposals").replaceChildren(...items);
}
