// The card of one webhook.
const urls = new Map(); // in full, for a customer, by id: {at, url}

function fillCard(node, one) {
  const parts = partsOf(node);
  const { text, tone } = stateOf(one);
  setText(parts.name, nameOf(one));
  setText(parts.state, text);
  setTone(parts.state, "badge", tone);
  fillCardFacts(parts.facts, one);
  fillCardButtons(parts, one);
  if (me.tenant) loadUrl(one);
  parts.edit.ontoggle = () => {
    const isEmpty = !parts.form.children.length; // else what was typed stays
    if (parts.edit.open && isEmpty) fillForm(parts.form, one, parts.answer);
  };
  parts.try.ontoggle = () => {
    if (parts.try.open) fillTry(parts.try, one);
  };
  fillRecover(parts.recover, one);
}
function fillCardFacts(node, one) {
  const { subscription_id: id, target_host: host, filter, header_names: headers } = one;
  const some = recentOf(one);
  const tested = lastTests.get(id);
  const newest = troubleOf(one) && some?.lastError;
  const lastError = one.disabled_at ? one.last_error : (newest ?? one.last_error);
  const toDo =
    one.disabled_at && !isPaused(one)
      ? "Mend the receiver, send a test, enable, then recover what it missed."
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
function tellDeliveries(id, { size, isMore, counts, last, at }) {
  if (!size) return "none yet";
  const amounts = STATUSES.filter((status) => counts[status]).map((status, index) => {
    const text = `${counts[status]} ${status}`;
    const values = { subscription_id: id, status };
    return span("", index ? ", " : "", status === "failed" ? link("/", values, text) : text);
  });
  const of = isMore ? `of the newest ${size}: ` : "";
  const old = Date.now() - at > OLD_MS ? `, ${asOf(at)}` : "";
  return span("", of, ...amounts, `; the last at ${clock(last)}${old}`);
}
function fillCardButtons(parts, one) {
  const { subscription_id: id } = one;
  const some = recentOf(one) ?? recent.get(id);
  const isOff = Boolean(one.disabled_at);
  const failed = isOff ? "" : some?.failed;
  const waiting = isOff || failed ? 0 : some?.waiting;
  setText(parts.replay, failed ? `Replay ${failed} that failed` : "");
  setText(parts.wait, waiting ? `Retry ${waiting} that ${waiting === 1 ? "waits" : "wait"}` : "");
  parts.enable.hidden = !isOff;
  parts.pause.hidden = isOff;
  const first = [parts.enable, parts.replay, parts.wait, parts.test].find((each) => !each.hidden);
  for (const each of [parts.enable, parts.replay, parts.wait, parts.test]) {
    each.className = each === first ? "primary" : "";
  }
  parts.deliveries.href = address("/", { subscription_id: id });
  const buttons = {
    replay: () => replayAll({ subscription_id: id, status: "failed" }),
    wait: () => {
      parts.recover.open = true;
      return partsOf(parts.recover).count.click();
    },
  };
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
        tone: given.tone,
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
    describe: () => ["It is enabled. Recover gets it what failed or was never sent.", "delivered"],
  },
  pause: {
    method: "POST",
    path: "/disable",
    describe: () => ["It is paused. What comes counts as failed; enable it, then recover that.", ""],
    question: (one) => `Pause ${nameOf(one)}?`,
    consequence: () =>
      "Nothing is sent to it until it is enabled: what waits or comes meanwhile counts as failed, \
and Recover gets it that.",
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
    tone: "danger",
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
    ? `The secret to check signatures with:${before}`
    : "Nothing is signed: there is no secret.";
  const closed = confirm(`${nameOf(one)}${added}`, note, secret ? "Copy secret" : "", "Done");
  setText($("secret"), secret ?? "");
  $("yes").onclick = (click) => {
    click.preventDefault();
    copy(click, "Copy secret", secret);
  };
  $(secret ? "yes" : "no").focus();
  return closed.then(() => {
    setText($("secret"), "");
    return ["", ""];
  });
}
