// The card of one subscription.
const lastTests = new Map(); // what came of the last test of each: {at, text}
const urls = new Map(); // in full, for a customer, by id: {at, url}

function fillCard(node, one) {
  const parts = partsOf(node);
  const [state, tone] = stateOf(one);
  setText(parts.name, nameOf(one));
  setText(parts.state, state);
  setTone(parts.state, "badge", tone);
  fillCardFacts(parts.facts, one);
  fillCardButtons(parts, one);
  if (me.tenant) loadUrl(one);
  parts.edit.ontoggle = () => {
    if (parts.edit.open) fillForm(parts.form, one, parts.answer);
  };
  parts.try.ontoggle = () => {
    if (parts.try.open) fillTry(parts.try, one);
  };
  parts.recover.ontoggle = () => {
    if (parts.recover.open) fillRecover(parts.recover, one);
  };
}
function fillCardFacts(node, one) {
  const { subscription_id: id, target_host: host, filter, header_names: headers } = one;
  const some = recentOf(one);
  const tested = lastTests.get(id);
  const lastError = one.last_error ?? (some?.isFailing && some.lastError);
  const toDo =
    one.disabled_at && !isPaused(one)
      ? "Mend the receiver, send a test, enable, then replay what failed."
      : "";
  const url = urls.get(id)?.url;
  const facts = [
    ["URL", url && span("mono", url)],
    ["Host", !url && `${host} …${id.slice(-6)}`],
    ["Tenant", !me.tenant && one.tenant],
    ["Types", typesOf(one)],
    ["Filter", filter && span("mono", JSON.stringify(filter))],
    ["Headers", headers?.map((name) => `${name}: set`).join(", ")],
    ["Body", one.body && "the payload alone"],
    ["Deliveries", some && tellDeliveries(id, some)],
    ["Last test", tested && `${utc(tested.at)}: ${tested.text}`],
    ["Last error", lastError && say(lastError)],
    ["To do", toDo],
    ["Id", span("mono", id)],
    ["Created", `${utc(one.created_at)}${by(one)}`],
  ];
  const shown = facts.map(([, value]) => value?.textContent ?? value);
  redraw(node, shown, () => makeFacts(facts));
}
function tellDeliveries(id, { size, isMore, counts, last }) {
  if (!size) return "none yet";
  const amounts = STATUSES.filter((status) => counts[status]).map((status, index) => {
    const text = `${counts[status]} ${status}`;
    const values = { subscription_id: id, status };
    return span("", index ? ", " : "", status === "failed" ? link("/", values, text) : text);
  });
  const of = isMore ? `of the newest ${size}: ` : "";
  return span("", of, ...amounts, `; the last at ${clock(last)}`);
}
function fillCardButtons(parts, one) {
  const { subscription_id: id } = one;
  const some = recentOf(one) ?? recent.get(id);
  const failed = some?.failed ? `${some.failed}${some.isMoreFailed ? "+" : ""}` : "";
  const isOff = Boolean(one.disabled_at);
  parts.replay.hidden = isOff || !failed;
  setText(parts.replay, parts.replay.hidden ? "" : `Replay ${failed} that failed`);
  parts.enable.hidden = !isOff && !one.failing_since;
  parts.pause.hidden = isOff;
  parts.deliveries.href = address("/", { subscription_id: id });
  const buttons = { replay: () => replayAll({ subscription_id: id, status: "failed" }) };
  for (const [name, given] of Object.entries(CARD_CALLS)) {
    const { method, path, describe, consequence, question } = given;
    buttons[name] = () => {
      pin(one);
      return act(parts[name], parts.answer, {
        method,
        path: `subscriptions/${id}${path}`,
        describe: (answer) => describe(answer, one),
        consequence: consequence?.(one),
        question: question?.(one),
      });
    };
  }
  for (const [name, press] of Object.entries(buttons)) {
    parts[name].onclick = press;
    parts[name].ariaDescription = nameOf(one);
  }
}
const CARD_CALLS = {
  test: { method: "POST", path: "/test", describe: describeTest },
  enable: {
    method: "POST",
    path: "/enable",
    describe: () => ["It is enabled.", "delivered"],
  },
  pause: {
    method: "POST",
    path: "/disable",
    describe: () => ["It is paused: what it misses is kept as failed until you enable it.", ""],
    question: (one) => `Pause ${nameOf(one)}?`,
    consequence: () => "Nothing is sent to it until it is enabled; what it misses can be replayed.",
  },
  secret: {
    method: "GET",
    path: "/secret",
    describe: ({ body }, one) => showSecret(one, body),
  },
  renew: {
    method: "POST",
    path: "/secret",
    describe: ({ body }, one) => showSecret(one, body),
    question: (one) => `Make a new secret for ${nameOf(one)}?`,
    consequence: () =>
      "Requests are signed with the new one and, for 24 hours, with the present one, too: put the \
new one into your receiver meanwhile.",
  },
  delete: {
    method: "DELETE",
    path: "",
    describe: () => ["It is deleted.", ""],
    question: (one) => `Delete ${nameOf(one)}?`,
    consequence: (one) => `Nothing is sent to ${one.target_host} any more by it, and what waits \
for it is deleted, too.`,
  },
};
async function loadUrl({ subscription_id: id }) {
  const known = urls.get(id) ?? { at: 0, url: "" };
  if (Date.now() - known.at < COUNT_MS) return;
  urls.set(id, { at: Date.now(), url: known.url });
  const { body } = await call("GET", `subscriptions/${id}/secret`).catch(() => ({ body: {} }));
  urls.set(id, { at: Date.now(), url: body.target_url ?? known.url });
  renderSubscriptions();
}
function showSecret(one, { secret, previous_until: until }, added = "") {
  const before = until ? ` The one before signs, too, until ${utc(until)}.` : "";
  const note = secret
    ? `The secret to check signatures with: ${secret}${before}`
    : "Nothing is signed: there is no secret.";
  const closed = confirm(`${nameOf(one)}${added}`, note, secret ? "Copy secret" : "", "Done");
  $("yes").onclick = (click) => {
    click.preventDefault();
    copy(click, "Copy secret", secret);
  };
  $(secret ? "yes" : "no").focus();
  return closed.then(() => {
    setText($("consequence"), "");
    return ["", ""];
  });
}
