// Subscriptions; a customer's are called webhooks. First those in trouble, of whatever tenant, then those of one.
async function showSubscriptions() {
  const tenant = me.tenant ?? filters.tenant ?? "",
    isOfAll = !view.id && !tenant,
    { signal } = refreshing;
  const listed = view.id
    ? [await get(`subscriptions/${view.id}`)]
    : await loadSubscriptions(tenant);
  const load = (state) => list("subscriptions", { tenant: "*", state }, LIMIT, signal);
  const lists = await Promise.all(isOfAll ? ["disabled", "failing"].map(load) : []);
  const troubled = new Map(lists.flatMap(({ found }) => [...found]));
  const all = [
    ...new Map([...troubled, ...listed.map((one) => [one.subscription_id, one])]).values(),
  ];
  for (const one of all) if (one.tenant) tenants.add(one.tenant);
  const none = me.tenant
    ? "There are no webhooks yet. Add the URL of a receiver: events are sent to it by POST."
    : `There are no subscriptions ${tenant ? `of ${tenant}` : "without a tenant"}. Add one, or give another tenant.`;
  if ($("nobody").hidden !== all.length > 0) $("adding").open = !all.length; // there are none, or some again
  setText($("nobody"), all.length ? "" : none);
  const count = `${troubled.size || "None"}${lists.some(({ isMore }) => isMore) ? "+" : ""}`;
  setText(
    $("troubled"),
    isOfAll ? `${count} failing or disabled, of all tenants; then those without a tenant` : "",
  );
  $("add").elements.tenant.defaultValue = filters.tenant ?? "";
  const draw = () =>
    showItems($("subscriptions"), all, "subscription_id", "subscription", fillSubscription);
  draw();
  const isDue = (one) => !(Date.now() - recent.get(stateOf(one))?.at < COUNT_MS);
  await Promise.all(
    all
      .filter(isDue)
      .slice(0, 10)
      .map(async (one) => {
        const { found, isMore } = await listEvents(
          { subscription_id: one.subscription_id },
          LIMIT,
          signal,
        );
        const failed = [...found.values()].filter(({ status }) => status === "failed");
        recent.set(stateOf(one), { at: Date.now(), size: found.size, isMore, failed });
      }),
  );
  draw();
}
const stateOf = ({ subscription_id, failing_since, disabled_at }) =>
  [subscription_id, failing_since, disabled_at].join();
function fillSubscription(item, one) {
  const { subscription_id: id, name, target_host, failing_since, disabled_at } = one,
    path = `subscriptions/${id}`;
  const parts = item.querySelectorAll(":scope > div > *, :scope > :is(dl, p, details)");
  const [heading, badge, facts, test, enable, replay, secret, remove, its, answer, edit] = parts;
  const {
    size,
    isMore,
    failed: { length: failed, 0: last },
  } = recent.get(stateOf(one)) ?? { failed: [] };
  const lastError = one.last_error ?? last?.last_error,
    active = ["active", failed ? "retried" : "delivered"];
  const failing = failing_since ? [`failing since ${utc(failing_since)}`, "retried"] : active;
  const [state, tone] = disabled_at ? [`disabled ${utc(disabled_at)}`, "failed"] : failing;
  if (answer.textContent.startsWith("Test") && badge.textContent !== state) setText(answer, ""); // of another state
  setText(heading, name ?? target_host);
  setText(badge, state);
  badge.className = `badge ${tone}`;
  const share = `${failed} of ${isMore ? "the newest " : ""}${size} deliveries`;
  const shown = [
    ["Host", `${target_host} …${id.slice(-6)}`],
    ["Types", typesOf(one)],
    ["Filter", one.filter && span("mono", JSON.stringify(one.filter))],
    ["Headers", one.header_names?.map((header) => `${header}: set`).join(", ")],
    ["Tenant", me.tenant ? "" : one.tenant],
    ["Created", utc(one.created_at) + by(one)],
    ["Id", span("mono", id)],
    [
      "Failed",
      size && (failed ? link("/", { subscription_id: id, status: "failed" }, share) : share),
    ],
    ["Last error", lastError && say(lastError)],
    ["To do", disabled_at && "Mend the receiver, send a test, enable, then replay what failed."],
  ];
  redraw(facts, JSON.stringify([one, share, lastError]), () => makeFacts(shown));
  [enable.hidden, replay.hidden] = [
    !failing_since && !disabled_at,
    Boolean(disabled_at) || !(failed || isMore),
  ];
  its.href = address("/", { subscription_id: id });
  setText(its, me.tenant ? "Its deliveries" : "Its events");
  const tested = ({ body }) => [
    [
      `Test at ${utc(body.at)}: ${brief(body).replace(/^retry/, "would be retried")}`,
      ...(body.response ? [body.response] : []),
    ].join(": "),
    body.outcome,
  ];
  const revealed = ({ body }) => {
    showSecret(one, body.secret);
    return ["", ""];
  };
  const deleted = () => {
    $("subscriptions-title").focus();
    return ["It is deleted.", ""];
  };
  test.onclick = () => act(test, answer, "POST", `${path}/test`, tested);
  enable.onclick = () =>
    act(enable, answer, "POST", `${path}/enable`, () => ["It is enabled.", "delivered"]);
  replay.onclick = () => replayAll({ subscription_id: id, status: "failed" });
  secret.onclick = () => act(secret, answer, "GET", `${path}/secret`, revealed);
  remove.onclick = () =>
    act(remove, answer, "DELETE", path, deleted, "Its pending events are deleted, too.");
  for (const button of [test, enable, replay, secret, remove])
    button.ariaDescription = heading.textContent;
  edit.ontoggle = () => {
    if (edit.open) fillForm(edit.lastElementChild, one, answer);
  };
}
