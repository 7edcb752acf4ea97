// card.js: the card of one webhook, with one primary button by its state.
// Fill the card of a webhook. One of its buttons is the primary one: Enable if the webhook is off,
// Recover if deliveries did not arrive, else Try.
function fillCard(node, webhook) {
  const parts = partsOf(node);
  const { text, tone } = stateOf(webhook);
  setText(parts.name, nameOf(webhook));
  setLink(parts.name, address("/", { subscription_id: webhook.subscription_id }));
  setSentence(parts.state, text);
  setTone(parts.state, "badge", tone);
  fillCardFacts(parts.facts, webhook);
  fillCardButtons(parts, webhook);
  fillRecover(parts, webhook);
  const primary = isOff(webhook) ? "enable" : parts.recover.hidden ? "try" : "recover";
  setTone(parts.recover, "", primary === "recover" ? "primary" : "quiet");
  setTone(parts.try.firstElementChild, "", primary === "try" ? "primary" : "quiet");
  const isEmpty = () => !parts.form.children.length; // else what was typed stays
  const fill = () => isEmpty() && fillForm(parts.form, webhook, parts.answer);
  parts.edit.ontoggle = ({ target }) => target.open && fill();
  parts.try.ontoggle = ({ target }) => target.open && fillTry(target, webhook);
  fillLook(parts.never, webhook);
  if (page.me.tenant) loadUrl(webhook);
}
// Fill the list of facts about a webhook. A fact without a value is left out.
function fillCardFacts(node, webhook) {
  const { subscription_id: id, target_host: host, filter, header_names: headers } = webhook;
  const tested = page.tests.get(id);
  const url = page.urls.get(id);
  const facts = [
    ["URL", url && span("mono", url)],
    ["Host", !url && `${host} …${id.slice(-6)}`],
    ["Tenant", !page.me.tenant && webhook.tenant && linkToTenant(webhook)],
    ["Types", typesOf(webhook)],
    ["Filter", filter && span("mono", JSON.stringify(filter))],
    ["Headers", headers?.map((name) => `${name}: set`).join(", ")],
    ["Body", webhook.body && "the payload alone"],
    ["Signature", webhook.header_prefix && `also as ${webhook.header_prefix}-… headers`],
    ["Deliveries", linkDeliveries(webhook)],
    ["Newest", webhook.deliveries.recent.length && strip(webhook)],
    ["Last test", tested && `${tested.at}: ${tested.text}`],
    ["Last error", errorOf(webhook)],
    ["Slow", webhook.slow_since && SLOW],
    ["Dismissed", webhook.dismissed_until && `deliveries created up to ${webhook.dismissed_until}`],
    ["To do", webhook.state === "disabled" && TO_DO],
    ["Created", `${webhook.created_at}${by(webhook)}`],
    ["Id", span("mono", id)],
  ];
  const shown = facts.map(([, value]) => value?.textContent ?? value);
  redraw(node, shown, () => makeFacts(facts));
}
// Return a link to the webhooks of a webhook's tenant.
const linkToTenant = ({ tenant }) => link("/subscriptions", { tenant }, tenant);
const TO_DO = "Fix the receiver, try the webhook, enable it, and then recover what it missed.";
const SLOW = "Its receiver takes a second or longer to respond. Its deliveries therefore go \
through a queue for slow webhooks, and may arrive later. Let the receiver respond before it \
processes an event.";
// Return links to the deliveries of a webhook, with the numbers of those that failed or wait.
function linkDeliveries(webhook) {
  const { subscription_id: id, deliveries: some } = webhook;
  if (!some.last_at) return "none yet";
  const linkTo = (status, count, word) =>
    [link("/", { subscription_id: id, status }, `${amountOf(count, some)} ${word}`), ", "];
  const failed = some.failed ? linkTo("failed", some.failed, failedState(webhook)) : [];
  const waiting = some.waiting ? linkTo("pending", some.waiting, "waiting") : [];
  const all = link("/", { subscription_id: id }, "all");
  return span("", ...failed, ...waiting, all, ...sentence(`, the last at ${some.last_at}`));
}
// Show the buttons that a webhook in its state has, and set what they do.
function fillCardButtons(parts, webhook) {
  const { subscription_id: id } = webhook;
  hide(parts.enable, !isOff(webhook));
  hide(parts.pause, isOff(webhook));
  hide(parts.dismiss, !isMissing(webhook));
  hide(parts.restore, !webhook.dismissed_until);
  hide(parts.open, page.me.tenant || !webhook.tenant);
  const asked = { path: "tokens", body: { tenant: webhook.tenant }, describe: openTab };
  parts.open.onclick = () => act(parts.open, parts.answer, asked);
  for (const [name, { path = "", verb, describe, body, ...more }] of Object.entries(CALLS)) {
    set(parts[name], { ariaDescription: nameOf(webhook) });
    parts[name].onclick = () =>
      act(parts[name], parts.answer, {
        ...more,
        path: `subscriptions/${id}${path}`,
        body: body?.(webhook),
        question: `${verb} ${nameOf(webhook)}?`,
        describe: (answer) => describe(webhook, answer.body),
      });
  }
}
// Return a function that returns whether a listed webhook is in a state.
const isNow = (state) => () => page.listed?.some((webhook) => webhook.state === state);
// The calls of the buttons of a card, by the button's name. `path` follows the webhook's own path,
// `describe` returns the answer for `showAnswer`, and the other members are those of `act`.
const CALLS = {
  enable: {
    path: "/enable",
    describe: () => ["It is enabled. Press Recover to send what it missed.", "", isNow("active")],
  },
  pause: {
    path: "/disable",
    describe: () => ["It is paused. Recover sends the events of the pause.", "", isNow("paused")],
    verb: "Pause",
    consequence: "Nothing is sent to it until it is enabled. Events that are waiting, or that \
arrive in the meantime, are kept, and Recover sends them.",
  },
  dismiss: {
    method: "PATCH",
    body: ({ deliveries }) => ({ dismissed_until: deliveries.last_at }), // all that is shown
    describe: () => ["The deliveries that did not arrive are dismissed.", ""],
    verb: "Dismiss what did not arrive at",
    consequence: "Deliveries that have failed or are waiting no longer count as trouble, and \
Recover leaves them out. Nothing is deleted, and waiting deliveries are still tried. Undo \
dismissal makes them count again.",
  },
  restore: {
    method: "PATCH",
    body: () => ({ dismissed_until: null }),
    describe: () => ["The dismissed deliveries count again.", ""],
  },
  secret: { method: "GET", path: "/secret", describe: showSecret },
  renew: {
    path: "/secret",
    describe: showSecret,
    verb: "Make a new secret for",
    consequence: "Requests are signed with the new secret and, for another 24 hours, also with \
the present secret. Put the new secret into your receiver within that time.",
  },
  delete: {
    method: "DELETE",
    describe: (webhook) => {
      history.pushState(null, "", "#/subscriptions");
      hooks.route();
      showAnswer($("told"), `${nameOf(webhook)} is deleted.`);
      return ["", ""];
    },
    verb: "Delete",
    consequence: "Nothing is sent to it any more, and its waiting deliveries are deleted.",
    tone: "danger",
  },
};
// Open the page of a tenant in a new tab, with a token that is valid for an hour.
const openTab = ({ body }) => [open(`${API}#key=${body.token}`, "_blank", "noopener") ?? "", ""];
// Load the full URL of a customer's webhook once. Saving an edit removes the URL, so that it is
// loaded again.
async function loadUrl({ subscription_id: id }) {
  if (page.urls.has(id)) return;
  page.urls.set(id, "");
  const { body } = await call("GET", `subscriptions/${id}/secret`).catch(() => ({ body: {} }));
  page.urls.set(id, body.target_url ?? "");
  hooks.refresh();
}
