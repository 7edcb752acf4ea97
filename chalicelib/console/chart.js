// chart.js: what the list has loaded, in a line by state, and as a strip of the last hour.
const MINUTES = 60;
// Say how many of the loaded `items`, {state, time}, are in which state; each state is a filter.
function drawCounts(items, name) {
  const sums = sumsOf(items.map(({ state }) => state));
  const older = page.olderCursor ? "older ones are not counted" : "";
  const total = `${number(items.length, name)}${sums.length ? ":" : ""}`;
  const draw = () => [total, ...sums.map(countLink), ...(older ? [span("muted", older)] : [])];
  redraw($("counted"), [total, sums, older, page.filters], draw);
}
function countLink([state, count]) {
  const text = `${count.toLocaleString("en")} ${wordOf(state)}`;
  const isStatus = ["failed", "pending", "delivered"].includes(state);
  const filter = state === "waiting" ? "pending" : isStatus && state;
  const name = `badge ${toneOf(state)}`;
  if (isOfAll() || !filter) return span(name, text);
  const isOn = filter === page.filters.status;
  const href = address("/", { ...page.filters, rows: "", status: isOn ? "" : filter });
  return make("a", { class: name, href, ...(isOn && { "aria-current": "true" }) }, text);
}
function drawChart(items) {
  const now = Math.floor(Date.now() / 60e3);
  const first = now - MINUTES + 1;
  const oldest = Math.min(...items.map(({ time }) => time));
  const cut = page.olderCursor ? oldest : 0;
  const minutes = Array.from({ length: MINUTES }, () => []);
  for (const { state, time } of items) minutes[Math.floor(time / 60e3) - first]?.push(state);
  const width = Math.min((cut / 60e3 - first) * 10, 10 * MINUTES); // what is not loaded
  const peak = Math.max(4, ...minutes.map(({ length }) => length));
  redraw($("chart"), [first, minutes, cut], () => [
    ...(cut > first * 60e3 ? [make("rect", { class: "beyond", width, height: 100 })] : []),
    ...minutes.map((states, index) => column(sumsOf(states), index, first, peak)),
  ]);
  const sums = sumsOf(minutes.flat()).map(describeCount);
  set($("chart"), { ariaLabel: `Events created in the last hour: ${sums.join(", ") || "none"}` });
}
function column(sums, index, first, peak) {
  const texts = [utc((first + index) * 60e3), ...sums.map(describeCount)];
  const group = make("g", {}, make("title", {}, texts.join(", ")));
  let y = 100;
  for (const [state, count] of sums) {
    const height = (count / peak) * 100;
    y -= height;
    const width = state === "failed" ? 8 : 5; // a failure differs by more than its colour
    const x = index * 10 + 5 - width / 2;
    group.append(make("rect", { class: toneOf(state), x, y, width, height }));
  }
  return group;
}
