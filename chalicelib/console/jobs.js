// jobs.js: what takes many calls, one job at a time, with its progress in a bar at the bottom.
const REPLAY_MS = 250; // between two replays of many
let opener = null; // what began it, and has the focus again after it
// Return whether a job goes on. While its result is shown, the button is named Close.
const isRunning = () => page.job !== null && $("stop").textContent === "Stop";
// Show what the job is doing, or its result, in the bar.
const showJob = (text) => setSentence($("job-title"), text);
// Show the progress of the job: `value` of `max`.
const showProgress = (value, max) => Object.assign($("progress"), { max, value });
// Run a job, if none goes on. `work` gets an AbortSignal, which the button Stop aborts. It returns
// what came of the job, {text, isSo}, or null if the user answered no to its question. The bar
// shows the text until `isSo` returns false or, without `isSo`, until the user closes the bar.
async function runJob(work) {
  if (isRunning()) return $("stop").focus();
  page.job = new AbortController();
  if ($("job").contains(document.activeElement)) $("stop").focus();
  else opener = document.activeElement;
  $("progress").removeAttribute("value");
  $("job").hidden = $("progress").hidden = false;
  $("stop").textContent = "Stop";
  setText($("job-fault"), "");
  showJob("Counting");
  const { signal } = page.job;
  const fail = (error) => ({ text: stopped(error, signal, "Stopped") });
  const told = await work(signal).catch(fail);
  if (page.job?.signal !== signal) return; // the key is another, or forgotten
  if (told === null) return endJob();
  showJob(told.text);
  page.isJobSo = told.isSo ?? null;
  setSentence($("announcement"), told.text);
  $("stop").textContent = "Close";
  $("progress").hidden = true;
  await hooks.refreshAll();
  focusNear(opener ?? $("stop")); // what had the focus may be gone
}
// Return `text`, the end of a job that an error or the button Stop ended, and show the error in the
// bar.
function stopped({ message, status }, signal, text) {
  setText($("job-fault"), signal.aborted ? "" : `${message}${status === 400 ? AGAIN : ""}`);
  return text;
}
// Close the bar when what it says no longer holds.
function dropPassedJob() {
  const isPassed = page.job && !isRunning() && page.isJobSo?.() === false;
  if (isPassed) endJob();
}
// End the job, if one goes on, and close the bar.
function endJob() {
  page.job?.abort();
  page.isJobSo = null;
  page.job = null;
  $("job").hidden = true;
  focusNear(opener ?? $("stop"));
}
$("stop").onclick = () => (isRunning() ? page.job.abort() : endJob());
// Make a call of a job, and return its result as `call` does. Repeat the call while the API does
// not respond, responds with an error of its own (5xx), or asks to try again. Throws other errors,
// and the reason of `signal` when the user stops the job; a call that has begun is made to its end,
// so that what was done is counted.
async function insist(method, path, signal, body) {
  for (;;) {
    try {
      return await call(method, path, [], body); // to its end: what was done is counted
    } catch (error) {
      const isPassing = [0, 429].includes(error.status) || error.status >= 500;
      if (signal.aborted || !isPassing) throw error;
      setText($("job-fault"), `${error.message} The job continues by itself.`);
      const ended = new Promise((resolve) => (signal.onabort = resolve));
      await Promise.race([sleep(1000 * (error.wait || 2)), ended]);
      signal.throwIfAborted();
      setText($("job-fault"), "");
    }
  }
}
// Return the number of events, or for a customer of deliveries, in words.
const countItems = (all) => number(all.length, page.me.tenant ? "delivery" : "event");
// Count all events and copies under the filters `given`, ask, and replay each of them.
function replayAll(given) {
  return runJob(async (signal) => {
    const { found } = await listEvents(given, { enough: Infinity, signal });
    const pushed = [...found.values()].filter((item) => item.delivered_via !== "subscriptions");
    const whatever = given.status ? "" : ", whatever their status";
    const consequence = "This tab queues them to be sent again, a few per second. If they fail \
again and a webhook is disabled because of that, its remaining replays are refused.";
    const owner = page.webhooks.get(given.subscription_id);
    const isMended = owner && isOff(owner);
    const verb = isMended ? "Enable and replay" : "Replay";
    const question = `${verb} ${countItems(pushed)}${whatever}?`;
    if (!(await confirm(question, consequence, verb))) return null;
    if (isMended) await insist("POST", `subscriptions/${owner.subscription_id}/enable`, signal);
    return replayEach(pushed, signal);
  });
}
// Replay each of some events and copies.
const replayMany = (all) => runJob((signal) => replayEach(all, signal));
// Replay events and copies, one after another. Returns {text}, which says how many were queued, and
// how many were refused and why.
async function replayEach(all, signal) {
  const refused = new Map(); // the refused events or copies, by reason
  let done = 0;
  let end = "";
  try {
    for (const item of all) {
      const { event_id: id } = item;
      signal.throwIfAborted();
      showJob(`Replaying: ${done.toLocaleString("en")} of ${countItems(all)} queued`);
      showProgress(done, all.length);
      const path = `events/${id}/replay`;
      const error = await insist("POST", path, signal).then(() => null, (reason) => reason);
      if (!error) done += 1;
      else if (!error.code || ![404, 409].includes(error.status)) throw error;
      else refused.set(error.message, [...(refused.get(error.message) ?? []), item]);
      if (error) setText($("job-fault"), `${id}: ${error.message}`);
      await sleep(REPLAY_MS);
    }
  } catch (error) {
    end = stopped(error, signal, ", then stopped");
  }
  const told = [...refused].map(describeRefused).join("");
  return { text: `${done.toLocaleString("en")} queued${told}${end}${describeDeadLetters(all)}` };
}
// Return in words how many replays were refused for one reason, and for which webhooks. `all` are
// the events or copies.
function describeRefused([reason, all]) {
  const ids = new Set(all.map((item) => item.subscription_id).filter(Boolean));
  const names = ids.size ? ` (${listNames([...ids].map(nameById))})` : "";
  return `, ${all.length} refused${names}: ${reason.replace(/\.$/, "")}`;
}
