// Counts of each status under the filters, of events and of copies, and the chart of the last hour.
const COURSES = {
  delivered: "delivered at once",
  late: "delivered later",
  absent: "not asked for",
  "absent unsent": "not sent",
  pending: "pending",
  retried: "retrying",
  failed: "failed",
};
const AT_ONCE_MS = 10e3; // longer, and it was in a queue, or replayed
let counted = {}; // by status: {found, isMore}
let countedAt = 0;
let countMs = 0; // what counting took
// Count what the list has as it is now.
function countAgain(items) {
  for (const one of items) {
    for (const status of STATUSES) {
      if (status !== one.status) counted[status]?.found.delete(one.event_id);
    }
    counted[one.status]?.found.set(one.event_id, one);
  }
}
// Count one status after another, unless that was done a moment ago.
async function loadCounts(signal) {
  const startedAt = Date.now();
  if (startedAt - countedAt < Math.max(COUNT_MS, 5 * countMs)) return;
  const most = me.tenant ? PAGE : COUNTED;
  for (const status of ["failed", "pending", "delivered"]) {
    counted[status] = await listEvents({ ...filters, status }, most, signal);
    remember([...counted[status].found.values()]);
    renderCounts();
  }
  countedAt = startedAt;
  countMs = Date.now() - startedAt;
}
function renderCounts() {
  const items = Object.values(counted).flatMap(({ found }) => [...found.values()]);
  const judged = rowsOf(items).map((row) => ({ row, ...judgeRow(row, sidesOf(row)) }));
  for (const status of STATUSES) {
    const [amount, more] = countsOf(status, judged);
    const { amount: first, more: second } = partsOf($(status));
    $(status).ariaPressed = String(filters.status === status);
    setText(first, amount);
    setText(second, more);
  }
  const isOld = countedAt && Date.now() - countedAt > OLD_MS;
  setText($("counted"), isOld ? `Counted ${asOf(countedAt)}` : "");
  drawChart(judged);
}
// Return the counts of a status as texts: of events, judged as their badges are, and of copies.
function countsOf(status, judged) {
  if (!counted[status]) return ["…", ""];
  const { found, isMore } = counted[status];
  const of = judged.filter(({ state }) => (state === "retrying" ? "pending" : state) === status);
  const retrying = of.filter(({ state }) => state === "retrying").length;
  const waiting = retrying ? `${retrying.toLocaleString("en")} retrying` : "";
  if (isOfOne()) return [number(of.length, me.tenant ? "delivery" : "copy", isMore), waiting];
  const made = judged.flatMap(({ row }) => (isWithoutCopies() ? [] : copiesOf(row).read));
  const copyCount = made.filter((one) => one.status === status).length;
  const tellOthers = (name) => {
    const count = judged.filter(({ state }) => state === name).length;
    return status === "delivered" && count && `${count.toLocaleString("en")} ${name}`;
  };
  const more = [
    copyCount && number(copyCount, "copy", isMore),
    waiting,
    tellOthers("not asked for"),
    tellOthers("not sent"),
  ];
  return [number(of.length, "event", isMore), more.filter(Boolean).join(", ")];
}
// Return whether all that an event is judged by was delivered at once.
function isAtOnce({ event_id, delivered_at, created_at, delivery_attempts }) {
  const took = Date.parse(delivered_at) - Date.parse(created_at);
  return delivery_attempts <= 1 && took < AT_ONCE_MS && !replayed.has(event_id);
}
function courseOf({ row, state, tone, judged }) {
  const isLate = tone === "delivered" && !judged.every(isAtOnce);
  const course = state === "not sent" ? "absent unsent" : tone;
  return { course: isLate ? "late" : course, time: createdAt(row.event ?? row.items[0]) };
}
function drawChart(judged) {
  const now = Math.floor(Date.now() / 60e3);
  const first = now - 59;
  const isCounting = Object.keys(counted).length < STATUSES.length;
  const lists = isCounting ? [] : Object.values(counted).filter(({ found }) => found.size);
  const oldest = ({ found }) => Math.min(...[...found.values()].map(createdAt));
  const cut = Math.max(0, ...lists.filter(({ isMore }) => isMore).map(oldest));
  const isCut = cut > first * 60e3;
  const minutes = Array.from({ length: 60 }, () => []);
  const all = isCounting ? [] : judged.map(courseOf);
  const shown = all.filter(({ time }) => time >= Math.max(cut, first * 60e3));
  for (const { course, time } of shown) minutes[Math.floor(time / 60e3) - first]?.push(course);
  const peak = Math.max(...minutes.map(({ length }) => length));
  redraw($("chart"), [first, minutes, cut], () => [
    ...(isCut ? [notCounted(cut, first)] : []),
    ...minutes.map((courses, index) => column(courses, index, first, peak)),
  ]);
  const sums = sumsOf(shown.map(({ course }) => course));
  const texts = sums.map(([, text]) => text);
  $("chart").ariaLabel = `Events created in the last hour: ${texts.join(", ") || "none"}`;
  redraw($("legend"), sums, () => sums.map(([course, text]) => span(`badge ${course}`, text)));
  const most = peak ? `at most ${peak} a minute` : "";
  setText($("peak"), isCounting ? "Counting…" : most);
  setText($("cut"), isCut ? `counted from ${clock(cut)} on` : "");
}
const createdAt = (one) => Date.parse(one.created_at);
function sumsOf(courses) {
  const amount = (name) => courses.filter((one) => one === name).length;
  const present = Object.entries(COURSES).filter(([name]) => amount(name));
  return present.map(([name, text]) => [name, `${amount(name)} ${text}`]);
}
// The part of the hour that the lists, which end somewhere, do not reach.
function notCounted(cut, first) {
  const width = Math.min((cut / 60e3 - first) * 10, 600);
  const title = make("title", {}, `Not counted before ${utc(cut)}`);
  return make("g", {}, title, make("rect", { class: "beyond", x: 0, y: 0, width, height: 100 }));
}
function column(courses, index, first, peak) {
  const sums = sumsOf(courses);
  const texts = sums.map(([, text]) => text);
  const group = make(
    "g",
    {},
    make("title", {}, [utc((first + index) * 60e3), ...texts].join(", ")),
  );
  let y = 100;
  for (const [name] of sums) {
    const amount = courses.filter((one) => one === name).length;
    const height = (amount / Math.max(peak, 4)) * 100;
    y -= height;
    group.append(make("rect", { class: name, x: index * 10 + 1, y, width: 8, height }));
  }
  return group;
}
