// Counts of each status under the filters, of events and of copies, and the chart of the last hour.
const COURSES = {
  delivered: "delivered at once",
  retried: "after retries",
  pending: "pending",
  failed: "failed",
};
let counted = {}; // by status: {found, isMore}
let countedAt = 0;
// Count one status after another, unless that was done a moment ago; then what the list has counts.
async function loadCounts(items) {
  const now = Date.now();
  for (const one of items) {
    for (const status of STATUSES) {
      if (status !== one.status) counted[status]?.found.delete(one.event_id);
    }
    counted[one.status]?.found.set(one.event_id, one);
  }
  renderCounts();
  if (now - countedAt < COUNT_MS) return;
  const most = me.tenant ? PAGE : COUNTED;
  for (const status of ["failed", "pending", "delivered"]) {
    counted[status] = await listEvents({ ...filters, status }, most, refreshing.signal);
    renderCounts();
  }
  countedAt = now;
}
function renderCounts() {
  for (const status of STATUSES) {
    const [amount, more] = countsOf(status);
    const { amount: first, more: second } = partsOf($(status));
    $(status).ariaPressed = String(filters.status === status);
    setText(first, amount);
    setText(second, more);
  }
  drawChart();
}
// Return the counts of a status as texts: of events and, apart, of copies.
function countsOf(status) {
  if (!counted[status]) return ["…", ""];
  const { found, isMore } = counted[status];
  const ids = new Set(found.keys());
  if (filters.subject) {
    for (const one of rows.flatMap((row) => copiesOf(row).read)) {
      if (one.status === status) ids.add(one.event_id); // a list by subject has events alone
    }
  }
  const copyCount = [...ids].filter(isCopy).length;
  const delivery = me.tenant ? "delivery" : "copy";
  if (isOfOne()) return [number(copyCount, delivery, isMore), ""];
  const more = copyCount ? number(copyCount, "copy", isMore) : "";
  return [number(ids.size - copyCount, "event", isMore), more];
}
// Return the course of each event, the worst of its own and those of its copies, and its time.
function coursesOf(items) {
  const found = new Map();
  for (const one of items) {
    const isLate = one.status === "delivered" && one.delivery_attempts > 1;
    const course = isLate ? "retried" : one.status;
    const id = one.source_event_id ?? one.event_id;
    const former = found.get(id)?.course;
    const order = Object.keys(COURSES);
    const isWorse = !former || order.indexOf(course) > order.indexOf(former);
    if (isWorse) found.set(id, { course, time: Date.parse(one.created_at) });
  }
  return [...found.values()];
}
function drawChart() {
  const now = Math.floor(Date.now() / 60e3);
  const first = now - 59;
  const isCounting = Object.keys(counted).length < STATUSES.length;
  const lists = isCounting ? [] : Object.values(counted).filter(({ found }) => found.size);
  const oldest = ({ found }) => Math.min(...[...found.values()].map(createdAt));
  const cut = Math.max(0, ...lists.filter(({ isMore }) => isMore).map(oldest));
  const isCut = cut > first * 60e3;
  const minutes = Array.from({ length: 60 }, () => []);
  const all = coursesOf(lists.flatMap(({ found }) => [...found.values()]));
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
