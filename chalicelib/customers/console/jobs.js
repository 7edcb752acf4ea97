// What takes many calls: replaying all that match, and recovering what a webhook missed. One job at
// a time, with its progress in a bar at the bottom.
let job = null; // an AbortController
let opener = null; // what began it, and has the focus again after it
let mend = null; // what its button *Enable and replay* does, if it has one
const isRunning = () => job !== null && $("stop").textContent === "Stop";
const tellJob = (text) => setText($("job-title"), text);
function showProgress(value, max) {
  $("progress").max = max;
  $("progress").value = value;
}
// Run `work`, which returns what became of it, or null if somebody thought better of it.
async function runJob(work) {
  if (isRunning()) return $("stop").focus();
  job = new AbortController();
  if ($("job").contains(document.activeElement)) $("stop").focus();
  else opener = document.activeElement;
  $("progress").removeAttribute("value");
  $("job").hidden = $("progress").hidden = false;
  $("stop").textContent = "Stop";
  $("mend").hidden = true;
  mend = null;
  setText($("job-fault"), "");
  tellJob("Counting");
  const { signal } = job;
  const told = await work(signal).catch((error) => stopped(error, signal, "Stopped"));
  if (told === null) return endJob();
  tellJob(told);
  setText($("announcement"), told);
  $("stop").textContent = "Close";
  $("mend").hidden = !mend;
  $("mend").onclick = mend;
  $("progress").hidden = true;
  refreshAll();
}
function stopped(error, signal, text) {
  if (!signal.aborted) setText($("job-fault"), error.message);
  return text;
}
function endJob() {
  job = null;
  $("job").hidden = true;
  if (!opener?.isConnected) $(HEADINGS[view.name]).focus();
  else if (opener.offsetParent) opener.focus();
  else focusNear(opener);
}
$("stop").onclick = () => (isRunning() ? job.abort() : endJob());
onbeforeunload = (leaving) => {
  if (isRunning()) leaving.preventDefault();
};

const QUEUED_EACH = "Each is queued to be sent again, a few a second, from this tab.";
function tellIds(ids) {
  const count = ids.filter(isCopy).length;
  if (me.tenant) return number(count, "delivery");
  const parts = [
    [ids.length - count, "event"],
    [count, "copy"],
  ];
  const given = parts.filter(([amount]) => amount);
  return given.map(([amount, name]) => number(amount, name)).join(" and ") || "0 events";
}
// Count all that match, ask, then replay them.
function replayAll(given) {
  return runJob(async (signal) => {
    const tellSize = (size) => tellJob(`Counting: ${size} so far`);
    const { found } = await listEvents(given, Infinity, signal, tellSize);
    const pushed = [...found.values()].filter((one) => one.delivered_via !== "subscriptions");
    const ids = pushed.map(idOf);
    const whatever = given.status ? "" : ", whatever their status";
    const consequence = `${QUEUED_EACH} If they fail again and that disables a webhook, the rest for \
it is refused.`;
    const question = `Replay ${tellIds(ids)}${whatever}?`;
    if (!(await confirm(question, consequence, "Replay"))) return null;
    const told = await replayEach(ids, signal, given.subscription_id);
    if (signal.aborted || given.status !== "failed") return told;
    const left = await listEvents(given, PAGE, signal);
    return `${told}; ${left.found.size}${left.isMore ? "+" : ""} left as failed`;
  });
}
const replayMany = (ids) => runJob((signal) => replayEach(ids, signal));
// Return how many were queued, and how many refused and why. `owner`: the webhook that all are for.
async function replayEach(ids, signal, owner) {
  const refused = new Map(); // how many, by reason
  const disabled = []; // those that a disabled webhook refused
  const total = tellIds(ids);
  const left = [...ids];
  let done = 0;
  let end = "";
  try {
    for (const id of left) {
      signal.throwIfAborted();
      tellJob(`Replaying: ${done.toLocaleString("en")} of ${total} queued`);
      showProgress(done, ids.length);
      const error = await call("POST", `events/${id}/replay`).then(
        () => null,
        (reason) => reason,
      );
      if (!error) done += 1;
      else if (!(error.status < 500))
        left.push(id); // the API failed; once more at the end
      else if (![404, 409].includes(error.status)) throw error;
      else refused.set(error.message, (refused.get(error.message) ?? 0) + 1);
      if (error) setText($("job-fault"), `${id}: ${error.message}`);
      if (error?.code === "subscription_disabled") disabled.push(id);
      await sleep(REPLAY_MS);
    }
  } catch (error) {
    end = stopped(error, signal, ", then stopped");
  }
  if (owner && disabled.length) offerToMend(owner, disabled);
  const reasons = [...refused].map(
    ([reason, count]) => `, ${count} refused: ${reason.replace(/\.$/, "")}`,
  );
  return `${done.toLocaleString("en")} queued${reasons.join("")}${end}`;
}
// Offer to enable the webhook that refused some, and to replay those.
function offerToMend(owner, ids) {
  mend = () =>
    runJob(async (signal) => {
      await call("POST", `subscriptions/${owner}/enable`, [signal]);
      return replayEach(ids, signal, owner);
    });
}
