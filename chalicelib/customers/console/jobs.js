// What takes many calls: replaying all that match, and recovering what a webhook missed. One job at
// a time, with its progress above every view.
let job = null; // an AbortController
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
  $("progress").removeAttribute("value");
  $("job").hidden = $("progress").hidden = false;
  $("stop").textContent = "Stop";
  setText($("job-fault"), "");
  tellJob("Counting");
  $("stop").focus();
  const { signal } = job;
  const told = await work(signal).catch((error) => stopped(error, signal, "Stopped"));
  if (told === null) return endJob();
  tellJob(told);
  setText($("announcement"), told);
  $("stop").textContent = "Close";
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
  $(view.name === "list" ? "replay-all" : HEADINGS[view.name]).focus();
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
    const consequence = `${QUEUED_EACH} If they fail again and that disables a ${noun()}, the rest \
for it is refused.`;
    const question = `Replay ${tellIds(ids)}${whatever}?`;
    if (!(await confirm(question, consequence, "Replay"))) return null;
    const told = await replayEach(ids, signal);
    if (signal.aborted || given.status !== "failed") return told;
    const left = await listEvents(given, PAGE, signal);
    return `${told}; ${left.found.size}${left.isMore ? "+" : ""} left as failed`;
  });
}
const replayMany = (ids) => runJob((signal) => replayEach(ids, signal));
// Return how many were queued, and how many refused and why.
async function replayEach(ids, signal) {
  const refused = new Map(); // how many, by reason
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
      await sleep(REPLAY_MS);
    }
  } catch (error) {
    end = stopped(error, signal, ", then stopped");
  }
  const reasons = [...refused].map(
    ([reason, count]) => `, ${count} refused: ${reason.replace(/\.$/, "")}`,
  );
  return `${done.toLocaleString("en")} queued${reasons.join("")}${end}`;
}
// Count the events that a webhook missed since a time, ask, then send them.
function recover(one, since) {
  return runJob(async (signal) => {
    const given = { since, until: new Date().toISOString() };
    const missed = await missedPages(one, given, signal, (sum) =>
      tellJob(`Counting: ${sum.sent} missed of ${number(sum.examined, "event")} so far`),
    );
    const name = nameOf(one);
    const among = `of ${number(missed.examined, "event")} since ${clock(since)}`;
    if (!missed.sent) return `${name} missed nothing ${among}`;
    const question = `Send ${number(missed.sent, "event")} to ${name}?`;
    const consequence = `It missed them, ${among}. This tab queues them, the oldest first.`;
    if (!(await confirm(question, consequence, "Send"))) return null;
    const sent = await recoverPages(one, given, signal, (sum) => {
      tellJob(`Sending: ${sum.sent} of ${number(missed.sent, "event")} queued`);
      showProgress(sum.sent, missed.sent);
    });
    return `${number(sent.sent, "event")} queued for ${name}`;
  });
}
function missedPages({ subscription_id: id }, given, signal, tellSum) {
  return sumPages(given, tellSum, async (page) => {
    const query = new URLSearchParams(Object.entries(page).filter(([, value]) => value));
    const answer = await call("GET", `subscriptions/${id}/missed?${query}`, [signal]);
    return { ...answer.body, sent: answer.body.events.length };
  });
}
function recoverPages({ subscription_id: id }, given, signal, tellSum) {
  return sumPages(given, tellSum, async (page) => {
    const path = `subscriptions/${id}/recover`;
    const { body } = await call("POST", path, [signal], JSON.stringify(page));
    return { ...body, sent: body.sent + body.replayed };
  });
}
async function sumPages(given, tellSum, readPage) {
  const sum = { examined: 0, sent: 0 };
  let cursor = null;
  do {
    const page = await readPage({ ...given, cursor });
    sum.examined += page.examined;
    sum.sent += page.sent;
    cursor = page.next_cursor;
    tellSum(sum);
  } while (cursor);
  return sum;
}
