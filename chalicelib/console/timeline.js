// timeline.js: the life of one event as a drawing to scale and as a list.
const LEFT = 112; // of the drawing, for names
const LINE = 26; // its height
const PART = 80; // the least width of a part of its time
const MOST_KEPT = 200; // characters of a response
const ESCAPED = /\\(?:[nrt]|x..|u.{4}|U.{8})/g;
// Return the result of an attempt in words.
function brief({ outcome, error, status_code, duration_ms }) {
  const word = outcome === "delivered" ? outcome : "failed";
  return `${word}, ${error ?? `status ${status_code}`}, took ${duration(duration_ms)}`;
}
// Return the response to an attempt, with an ellipsis if the API cut it off. An escaped character
// counts as one.
const excerpt = ({ response }) =>
  [...(response ?? "").replace(ESCAPED, " ")].length < MOST_KEPT ? response : `${response}…`;
// Return the steps in the life of an event, in order: {from, to, tone, name, text, response,
// headers}. `from` and `to` are in milliseconds, `name` is shown in the drawing and `text` in the
// list.
function stepsOf(event) {
  const created = Date.parse(event.created_at);
  const steps = [step(created, 0, "", "created", `Created${by(event)}`)];
  const claimedUntil = event.message.match(/until ([\d:.TZ-]+)/)?.[1];
  // While an event is claimed, one attempt may be counted that is not recorded yet.
  const earlier = claimedUntil ? 0 : event.attempts.length - event.delivery_attempts;
  const dropped = Math.max(-earlier, 0); // only the last ones are kept
  for (const [index, attempt] of event.attempts.entries()) {
    const before = steps.at(-1);
    const isReplay = index === earlier || ["delivered", "failed"].includes(before.tone);
    steps.push(attemptStep(attempt, index + dropped + 1, before, isReplay));
  }
  steps.push(lastStep(event, steps.at(-1), claimedUntil));
  return steps;
}
// Return the headers that show who responded to an attempt, as a text; empty: the API has none,
// because the event was delivered.
function responderOf({ response_headers: headers }) {
  return Object.entries(headers ?? {}).map((pair) => pair.join(": ")).join(", ");
}
// Return a step that begins at `from` and takes `ms`, both in milliseconds.
const step = (from, ms, tone, name, text, response, headers) =>
  ({ from, to: from + ms, tone, name, text: say(text), response, headers });
// Return the step of an attempt. `count` is its number, `before` the step before it, and `isReplay`
// says whether it is the first one after a replay.
function attemptStep(attempt, count, before, isReplay) {
  const { at, outcome, status_code, error, duration_ms } = attempt;
  const from = Date.parse(at);
  const wait = duration(from - before.to);
  const after = count > 1 ? `, ${isReplay ? "replayed " : ""}after ${wait}` : "";
  const text = `Attempt ${count}${after}: ${brief(attempt)}`;
  const unanswered = error?.startsWith("not pushed") ? "not pushed" : "no response";
  const name = `${count}: ${status_code ?? unanswered}`;
  const ms = Math.max(duration_ms, 1);
  return step(from, ms, outcome, name, text, excerpt(attempt), responderOf(attempt));
}
// Return the last step: the end of the event, or what comes next. `before` is the step before it,
// and `claimedUntil` the end of the claim; undefined: nobody holds the event.
function lastStep(event, before, claimedUntil) {
  const { status, message, delivered_at, delivered_via, next_attempt_at } = event;
  const way = delivered_via === "pull" ? "acknowledged" : status;
  if (status === "delivered") return step(Date.parse(delivered_at), 0, status, way, message);
  if (status === "failed") {
    const isUnsent = message.includes("disabled"); // then there is no dead letter
    const state = stateOfPush(event);
    const pushed = describeDeadLetters([event]) ? "dead letter" : status;
    const unsent = state === "kept" ? state : "not pushed";
    return step(before.to, 0, state, isUnsent ? unsent : pushed, sayOf(event, message));
  }
  if (claimedUntil)
    return step(Date.parse(claimedUntil), 0, status, `ends ${due(claimedUntil)}`, message);
  if (!next_attempt_at) return step(Date.now(), 0, status, status, message);
  const next = due(next_attempt_at);
  return step(Date.parse(next_attempt_at), 0, status, `next ${next}`, `Next attempt ${next}`);
}
// Draw the steps of the event to scale, and list them.
function drawTimeline() {
  const steps = stepsOf(page.event);
  const start = steps[0].from;
  const end = Math.max(...steps.map(({ to }) => to), start + 10);
  const width = $("timeline").clientWidth - LEFT - 10;
  const bottom = LINE * (steps.length + 1);
  const x = (time) => LEFT + ((time - start) / (end - start)) * width;
  const vertical = (time, name) =>
    make("line", { class: name, x1: x(time), x2: x(time), y1: 20, y2: bottom });
  const drawn = [];
  const parts = Math.max(Math.min(Math.floor(width / PART), 4), 1);
  for (let part = 0; part <= parts; part += 1) {
    const ms = ((end - start) * part) / parts;
    const middle = Math.min(x(start + ms), LEFT + width - 24);
    drawn.push(vertical(start + ms, "grid"));
    drawn.push(make("text", { x: middle, y: 13, "text-anchor": "middle" }, duration(ms)));
  }
  if (Date.now() < end) drawn.push(vertical(Date.now(), "now"));
  for (const [index, current] of steps.entries())
    drawn.push(...drawStep(current, steps[index - 1], x, LINE * (index + 1.5)));
  listSteps(steps, start);
  redraw($("timeline"), [drawn.map((node) => node.outerHTML)], () => {
    $("timeline").setAttribute("height", bottom);
    return drawn;
  });
}
// Return the nodes of a step in the drawing. `before` is the step before it, `x` returns the place
// of a time, and `y` is the height of its line.
function drawStep({ from, to, name, tone }, before, x, y) {
  const drawn = [make("text", { class: `name ${tone}`, y: y + 4 }, name)];
  if (before)
    drawn.push(make("line", { class: "wait", x1: x(before.to), x2: x(from), y1: y, y2: y }));
  const width = Math.max(x(to) - x(from), 8);
  const rx = tone === "failed" ? 0 : 4;
  return [...drawn, make("rect", { class: tone, x: x(from) - 4, y: y - 4, width, height: 8, rx })];
}
// List the steps of an event; `start` is the time of the first one. A response that is the same as
// that of the step before is not shown again.
function listSteps(steps, start) {
  const shown = steps.map(({ from, text, response, headers }, index) => {
    const before = steps[index - 1];
    const isRepeated = response && response === before?.response;
    return {
      at: `+${duration(from - start)}`,
      text: `${text}${isRepeated ? ", same response" : ""}`,
      from,
      response: isRepeated ? "" : response,
      headers: headers === before?.headers ? "" : headers,
    };
  });
  redraw($("steps"), shown, () => shown.map(makeStep));
}
// Return the line of a step in the list.
function makeStep({ at, text, from, response, headers }) {
  const time = span("muted", moment(new Date(from).toISOString(), inMilliseconds));
  const answer = response ? [span("response", response)] : [];
  const responder = headers ? [span("headers muted", headers)] : [];
  const said = span("", ...sentence(text), " ", time);
  return make("li", {}, span("at", at), said, ...answer, ...responder);
}
