// The list. Events of each status are counted unless a filter reads much to find few.
const isFiltered = (...not) =>
  Object.keys(filters).some((name) => !["rows", ...not].includes(name) && !kept()[name]);
const isCounted = () => !isFiltered("status", "copies");
const rowsShown = () => Math.min(Math.max(Number(filters.rows) || ROWS, ROWS), MOST_ROWS);
async function loadList() {
  const startedAt = Date.now(),
    isDue = startedAt - countedAt > COUNT_MS && isCounted();
  const { signal } = refreshing,
    { subscription_id: id } = filters;
  if (me.tenant && !(await loadSubscriptions(me.tenant)).some((one) => one.subscription_id === id))
    return miss("There is no such webhook. It was deleted.");
  const read = (more, most) => listEvents({ ...filters, ...more }, most, signal),
    enough = me.tenant ? LIMIT : COUNTED;
  const count = async (status) => {
    counted[status] = await read({ status }, enough);
    render();
  };
  const [rows] = await Promise.all([read({}, rowsShown()), ...(isDue ? STATUSES.map(count) : [])]);
  if (copies.size > 10 * MOST_ROWS) copies.clear(); // of a tab that is open for days
  for (const one of rows.found.values()) {
    for (const status of STATUSES)
      if (status !== one.status) counted[status]?.found.delete(one.event_id);
    counted[one.status]?.found.set(one.event_id, one);
    if (one.subscription_id) copies.set(one.event_id, { ...one, loadedAt: startedAt });
  }
  [isListed, countedAt] = [true, isDue ? startedAt : countedAt];
  render(rows);
  if (filters.subject) await loadCopies([...rows.found.values()].flatMap((one) => one.copies));
  render(rows);
  await learn(events);
  render();
}
// Remember types and tenants, and load the subscriptions whose names are needed.
async function learn(some) {
  for (const { event_type, tenant } of some) {
    types.add(event_type);
    if (tenant) tenants.add(tenant);
  }
  const unnamed = some.filter(({ subscription_id: id }) => id && !subscriptions.has(id));
  const owners = new Set(["", filters.tenant ?? "", ...unnamed.map(({ tenant }) => tenant ?? "")]);
  const isStale = (tenant) => Date.now() - (loadedAt.get(tenant) ?? 0) > COUNT_MS;
  await Promise.all([...owners].filter(isStale).slice(0, 10).map(loadSubscriptions));
}
async function loadSubscriptions(tenant) {
  const found = [
    ...(await list("subscriptions", { tenant }, Infinity, refreshing.signal)).found.values(),
  ];
  for (const [id, one] of subscriptions)
    if ((one.tenant ?? "") === tenant) subscriptions.delete(id);
  for (const one of found) subscriptions.set(one.subscription_id, one);
  loadedAt.set(tenant, Date.now());
  return found;
}
const typesOf = ({ event_types }) => event_types?.join(", ") ?? "all types";
function label(id) {
  const one = subscriptions.get(id),
    end = `…${id.slice(-6)}`; // which tells those of one name apart
  return one ? `${one.name ?? typesOf(one)} (${one.target_host} ${end})` : `subscription ${end}`;
}
function remark(one) {
  const took =
    one.delivered_at && duration(Date.parse(one.delivered_at) - Date.parse(one.created_at));
  const waits = one.subscription_id ? "" : "waits in the inbox";
  const next = one.next_attempt_at ? `next attempt ${due(one.next_attempt_at)}` : waits;
  const ways = {
    push: `after ${took}`,
    pull: `acknowledged after ${took}`,
    subscriptions: "not pushed itself",
  };
  const state =
    one.status === "delivered" ? ways[one.delivered_via] : one.last_error && say(one.last_error);
  const to = one.subscription_id && `to ${label(one.subscription_id)}`,
    whose = [one.tenant && `for ${one.tenant}`, to];
  const became = failedCopies(one) && countCopies(one.copies);
  return [...(me.tenant ? [] : whose), became, state, one.status === "pending" && next]
    .filter(Boolean)
    .join(", ");
}
const failedCopies = ({ copies: ids = [] }) =>
  ids.filter((id) => copies.get(id)?.status === "failed").length;
function countCopies(ids) {
  const unread = ids.filter((id) => !copies.has(id)).length,
    rest = unread ? `, ${unread} not read yet` : "";
  return `${failedCopies({ copies: ids })} of ${ids.length} ${ids.length === 1 ? "copy" : "copies"} failed${rest}`;
}
// What was delivered itself is not green while copies of it failed.
const toneOf = (one) => (one.status === "delivered" && failedCopies(one) ? "retried" : one.status);
function fillRow(row, one) {
  const [{ children: cells }, button] = row.children,
    count = one.delivery_attempts;
  const rest = one.created_at && [
    remark(one),
    count ? number(count, "attempt") : "",
    relative(one.created_at),
  ];
  [one.status, one.event_type, ...(rest ?? ["", "", ""])].forEach((text, index) =>
    setText(cells[index], text),
  );
  cells[0].className = `badge ${toneOf(one)}`;
  row.firstChild.href = `#/events/${one.event_id}`;
  button.hidden = !rest || row.parentNode.id !== "event-copies";
  button.ariaDescription = one.event_type;
  button.onclick = () =>
    act(button, $("answer"), "POST", `events/${one.event_id}/replay`, queued, REPLAYED);
}
function render(read) {
  if (read) {
    const listed = (one) => [
      one,
      ...(filters.subject ? one.copies.map((id) => copies.get(id)) : []),
    ];
    const all = [...read.found.values()].flatMap(listed).filter((one) => one?.created_at);
    events = [...new Map(all.map((one) => [one.event_id, one])).values()];
    $("older").hidden = !read.isMore || rowsShown() === MOST_ROWS;
  }
  const empty = isFiltered()
    ? "No event matches."
    : me.tenant
      ? "Nothing was sent yet."
      : "No events yet. Post one:";
  showItems($("rows"), events, "event_id", "row", fillRow);
  for (const status of STATUSES) {
    const { found, isMore } = counted[status] ?? {},
      amount = found?.size.toLocaleString("en") + (isMore ? "+" : "");
    $(status).ariaPressed = String(filters.status === status);
    setText($(status).lastChild, isCounted() ? (found ? amount : "…") : "");
  }
  drawSubscriptionOptions();
  setText(
    $("list-name"),
    me.tenant ? `Deliveries to ${label(filters.subscription_id ?? "")}` : "Events",
  );
  setText(
    $("empty").firstChild,
    isRefused ? "Correct the filters." : isListed ? empty : "Loading…",
  );
  $("empty").hidden = events.length > 0;
  $("example").hidden = isFiltered() || !isListed || isRefused || me.tenant;
  $("replay-all").hidden = !events.length;
  drawChart();
}
function drawSubscriptionOptions() {
  const chosen = filters.subscription_id ?? "",
    select = $("subscription_id");
  const options = [...new Set(["", chosen, ...subscriptions.keys()])].map((id) => [
    id ? label(id) : "all",
    id,
  ]);
  redraw(select, JSON.stringify(options), () => options.map((option) => new Option(...option)));
  if (document.activeElement !== select) select.value = chosen;
}
function drawChart() {
  const first = Math.floor(Date.now() / 60e3) - 59,
    minutes = Array.from({ length: 60 }, () => []);
  const all = Object.values(counted),
    isRecent = (one) => Date.parse(one?.created_at) > first * 60e3;
  for (const one of all.flatMap(({ found }) => [...found.values()]).filter(isRecent)) {
    const course = one.status === "delivered" && one.delivery_attempts > 1 ? "retried" : one.status;
    minutes[Math.floor(Date.parse(one.created_at) / 60e3) - first]?.push(course);
  }
  const plus = all.some(({ found, isMore }) => isMore && isRecent([...found.values()].at(-1)))
    ? "+"
    : "";
  const amount = (courses, name) => courses.filter((one) => one === name).length;
  const present = (courses) => Object.keys(COURSES).filter((name) => courses.includes(name));
  const sum = (courses) =>
    present(courses).map((name) => `${amount(courses, name)}${plus} ${COURSES[name]}`);
  const peak = Math.max(...minutes.map(({ length }) => length)),
    total = minutes.flat();
  redraw($("chart"), JSON.stringify([first, minutes]), () =>
    minutes.map((courses, index) => {
      const column = make(
        "g",
        {},
        make("title", {}, [utc((first + index) * 60e3), ...sum(courses)].join(", ")),
      );
      let y = 100;
      for (const name of present(courses)) {
        const height = (amount(courses, name) / Math.max(peak, 4)) * 100;
        column.append(
          make("rect", { class: name, x: index * 10 + 1, y: (y -= height), width: 8, height }),
        );
      }
      return column;
    }),
  );
  $("chart").ariaLabel = `Events created in the last hour: ${sum(total).join(", ") || "none"}`;
  $("legend").replaceChildren(
    ...sum(total).map((text, index) => span(`badge ${present(total)[index]}`, text)),
  );
  setText(
    $("peak"),
    plus ? `the newest ${COUNTED} of each status` : peak ? `at most ${peak} a minute` : "",
  );
}
