// chart.js: what the list has loaded, in a line by state, and as a strip of the last hour.
const MINUTES = 60;
// Draw how many of the loaded `items`, {state, time}, are in each state. `name` is the noun for one
// of them. A state that is a filter of the list is a link.
function drawCounts(items, name) {
  const sums = sumsOf(items.map(({ state }) => state));
  const older = page.olderCursor ? "older ones are not counted" : "";
  const total = `${number(items.length, name)}${sums.length ? ":" : ""}`;
  const draw = () => [total, ...sums.map(countLink), ...(older ? [span("muted", older)] : [])];
  redraw($("counted"), [total, sums, older, page.filters], draw);
}
// Return the number of items in a state, as a link that turns the filter for this state on or off.
// It is no link if the list has no such filter.
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
// Draw the items, {state, time}, that were created in the last hour, as a column for each minute.
// The part of the hour from which no items are loaded is marked.
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
// Return the column of a minute. `sums` has pairs of a state and its count, `index` is the minute's
// place in the hour, `first` the first minute of the hour (minutes since 1970), and `peak` the
// count that has the full height.
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
