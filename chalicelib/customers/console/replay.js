// Replay all that match: count them, ask, then queue a few a second. An AbortController is the job.
const isReplaying = () => job && $("stop").textContent === "Stop";
async function replayAll(given) {
  if (isReplaying()) return $("stop").focus();
  const { signal } = (job = new AbortController()),
    tell = (text) => setText($("job-title"), text);
  const refused = new Map(); // how many, by reason
  let done = 0,
    end = "";
  $("progress").removeAttribute("value");
  [$("job").hidden, $("stop").textContent] = [false, "Stop"];
  setText($("job-fault"), "");
  tell("Counting");
  $("stop").focus();
  try {
    const { found } = await listEvents(given, Infinity, signal, ({ size }) =>
      tell(`Counting: ${size} so far`),
    );
    const ids = [...found.keys()],
      total = number(ids.length, "event");
    const consequence = `Each is queued to be sent again, a few a second, from this tab. If they fail again and that \
disables a ${noun()}, the rest for it is refused.`;
    const question = `Replay ${total}${given.status ? "" : ", whatever their status"}?`;
    if (!(await confirm(question, consequence, "Replay"))) return endJob();
    for (const [index, id] of ids.entries()) {
      signal.throwIfAborted();
      tell(`Replaying: ${done.toLocaleString("en")} of ${total} queued`);
      [$("progress").max, $("progress").value] = [ids.length, index + 1];
      const error = await call("POST", `events/${id}/replay`).then(
        () => null,
        (reason) => reason,
      );
      if (!error) done++;
      else if (!(error.status < 500))
        ids.push(id); // the API could not take it; once more at the end
      else if (![404, 409].includes(error.status)) throw error;
      else refused.set(error.message, (refused.get(error.message) ?? 0) + 1);
      if (error) setText($("job-fault"), `${id}: ${error.message}`);
      await sleep(REPLAY_MS);
    }
    const left = given.status === "failed" && (await listEvents(given, LIMIT, signal));
    if (left) end = `; ${left.found.size}${left.isMore ? "+" : ""} left as failed`;
  } catch (error) {
    end = ", then stopped";
    if (!signal.aborted) setText($("job-fault"), error.message);
  }
  const refusals = [...refused]
    .map(([reason, count]) => `, ${count} refused: ${reason.replace(/\.$/, "")}`)
    .join("");
  tell(`${done.toLocaleString("en")} queued${refusals}${end}`);
  setText($("announcement"), $("job-title").textContent);
  $("stop").textContent = "Close";
  refreshAll();
}
const refreshAll = () => {
  copies.clear();
  recent.clear();
  countedAt = 0;
  return refresh();
};
function endJob() {
  job = null;
  $("job").hidden = true;
  $(view.name === "list" ? "replay-all" : HEADINGS[view.name]).focus();
}
