const brief = (one) =>
  `${one.outcome}, ${one.error ?? `status ${one.status_code}`}, took ${duration(one.duration_ms)}`;
function stepsOf({
  attempts,
  created_at,
  delivered_at,
  delivered_via,
  message,
  next_attempt_at,
  status,
}) {
  const held = message.match(/until ([\d:.TZ-]+)/)?.[1],
    how = delivered_via === "pull" ? "acknowledged" : status;
  const next = next_attempt_at && `next ${due(next_attempt_at)}`,
    steps = [];
  const earlier = held ? 0 : attempts.length - event.delivery_attempts; // attempts before the latest replay
  const add = (from, ms, tone, name, text, response) =>
    steps.push({ from, to: from + ms, tone, name, text, response });
  add(Date.parse(created_at), 0, "", "created", `Created${by(event)}`);
  attempts.forEach((attempt, index) => {
    const { at, outcome, status_code, duration_ms, response } = attempt,
      from = Date.parse(at),
      before = steps.at(-1);
    const isReplay = index === earlier || ["delivered", "failed"].includes(before.tone);
    const after = `, ${isReplay ? "replayed " : ""}after ${duration(Math.max(from - before.to, 0))}`;
    const text = `Attempt ${index + 1}${index ? after : ""}: ${brief(attempt)}`;
    add(
      from,
      Math.max(duration_ms, 1),
      outcome,
      `${index + 1}: ${status_code ?? "no response"}`,
      text,
      response,
    );
  });
  if (status === "delivered") add(Date.parse(delivered_at), 0, status, how, message);
  else if (status === "failed")
    add(steps.at(-1).to, 0, status, me.tenant ? "given up" : "dead letter", message);
  else if (held) add(Date.parse(held), 0, status, `ends ${due(held)}`, message);
  else if (next)
    add(Date.parse(next_attempt_at), 0, status, next, next.replace("next", "Next attempt"));
  else add(Date.now(), 0, status, "waiting", message);
  return steps;
}
function drawTimeline() {
  const steps = stepsOf(event),
    start = steps[0].from,
    end = Math.max(...steps.map(({ to }) => to), start + 10);
  const width = $("timeline").clientWidth,
    left = 112,
    row = 26,
    bottom = row * (steps.length + 1),
    drawn = [];
  const x = (time) => left + ((time - start) / (end - start)) * (width - left - 10);
  const draw = (name, attributes, ...text) => drawn.push(make(name, attributes, ...text));
  const vertical = (time, name) =>
    draw("line", { class: name, x1: x(time), x2: x(time), y1: 20, y2: bottom });
  const tick = TICKS.find((ms) => (end - start) / ms <= (width - left) / 70) ?? TICKS.at(-1);
  for (let ms = 0; ms <= end - start; ms += tick) {
    vertical(start + ms, "grid");
    draw(
      "text",
      { x: Math.min(x(start + ms), width - 26), y: 13, "text-anchor": "middle" },
      duration(ms),
    );
  }
  if (Date.now() < end) vertical(Date.now(), "now");
  steps.forEach(({ from, to, name, tone, text }, index) => {
    const y = row * (index + 1.5);
    draw("text", { class: `name ${tone}`, y: y + 4 }, name);
    if (index)
      draw("line", { class: "wait", x1: x(steps[index - 1].to), x2: x(from), y1: y, y2: y });
    if (from === to && tone === "failed")
      draw("rect", { class: tone, x: x(from) - 4, y: y - 4, width: 8, height: 8 });
    else if (from === to) draw("circle", { class: tone, cx: x(from), cy: y, r: 5 });
    else
      draw("rect", {
        class: tone,
        x: x(from),
        y: y - 6,
        width: Math.max(x(to) - x(from), 3),
        height: 12,
        rx: 2,
      });
  });
  const texts = steps.map(({ from, text, response }, index) => {
    const isRepeated = response && response === steps[index - 1]?.response,
      said = isRepeated ? ", same response" : "";
    return [
      `+${duration(Math.max(from - start, 0))}`,
      say(text) + said,
      utc(from),
      isRepeated ? "" : response,
    ];
  });
  const makeStep = ([at, text, time, response]) =>
    make(
      "li",
      {},
      span("at", at),
      span("", `${text} `, span("muted", time)),
      ...(response ? [span("response", response)] : []),
    );
  redraw($("steps"), JSON.stringify(texts), () => texts.map(makeStep));
  $("timeline").setAttribute("height", bottom);
  $("timeline").replaceChildren(...drawn);
}
