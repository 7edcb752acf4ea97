// actions.js: what a button does: a question, a call, and what came of it.
async function confirm(question, consequence, yes, no = "Cancel", tone = "primary") {
  const dialog = $("confirm");
  while (dialog.onclose) await sleep(100); // another question is open, or has closed this moment
  setText($("question"), question);
  setSentence($("consequence"), consequence);
  for (const [part, text] of Object.entries({ yes, no, secret: "" })) setText($(part), text);
  $("yes").className = tone;
  $("yes").onclick = null;
  dialog.returnValue = "";
  dialog.dataset.hash = location.hash;
  dialog.showModal();
  await new Promise((resolve) => (dialog.onclose = resolve));
  dialog.onclose = null;
  for (const part of ["question", "consequence", "secret"]) setText($(part), "");
  return dialog.returnValue === "yes";
}
// What each node says of an action, with a function that returns whether it is still so.
const answers = new Map(); // by the node that says it
function dropPassed() {
  for (const [answer, isSo] of answers)
    if (!answer.isConnected || !isSo()) showAnswer(answer, "");
}
function showAnswer(answer, text, tone = "", isSo = null) {
  setSentence(answer, text);
  setTone(answer, "note", tone);
  if (isSo) answers.set(answer, isSo);
  else answers.delete(answer);
}
// Make a button's call, after asking if it has a `consequence`; show what `describe` makes of it.
async function act(button, answer, given) {
  const { method = "POST", path, body, before = [], describe, consequence, tone } = given;
  if (button.ariaBusy === "true") return; // a second click
  const { me, view } = page;
  const isThere = () => page.me === me && page.view === view;
  const action = button.textContent;
  const asked = [given.question ?? `${action}?`, consequence, action, "Cancel", tone];
  if (consequence && !(await confirm(...asked))) return;
  button.ariaBusy = "true";
  showAnswer(answer, "Waiting for the answer…");
  clearTimeout(page.timer);
  page.refreshing.abort(); // it would ask for what is deleted meanwhile
  const run = async () => {
    for (const first of before) await call("POST", first);
    const answered = await call(method, path, [], body);
    showAnswer(answer, "");
    return isThere() ? describe(answered) : [""];
  };
  const said = await run().catch((error) => [error.message, "failed"]);
  button.ariaBusy = null;
  showAnswer(answer, ...(isThere() ? said : [""]));
  await hooks.refreshAll();
  focusNear(button);
}
// Give the focus back to a button or, if it went, to the sentence in its place, to what can be
// pressed nearest, or to the heading.
function focusNear(button) {
  const { activeElement: focused } = document;
  if (focused && focused !== document.body && focused.offsetParent) return; // elsewhere by now
  const next = button.nextElementSibling;
  const sentences = next?.matches("[role=status][tabindex]") ? [next] : [];
  const around = [button.parentNode, button.closest(".buttons"), button.closest("li, section")];
  const all = around.flatMap((node) => [...(node?.querySelectorAll("button, a, summary") ?? [])]);
  const nearest = [button, ...sentences, ...all].find((node) => node.offsetParent);
  (nearest ?? $(HEADINGS[page.view.name])).focus({ preventScroll: true });
}
async function copy({ target }, name, text) {
  const written = navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("needs https"));
  const said = await written.then(() => "Copied", () => "Not copied");
  setText(target, said);
  setText($("announcement"), said);
  await sleep(1500);
  if (target.textContent === said) setText(target, name); // else it asks something else by now
}
// Show the secret of a webhook until it is closed.
async function showSecret(webhook, { secret, previous_until: until }, added = "") {
  const before = until ? ` The previous secret also signs until ${until}.` : "";
  const note = `Check signatures with this secret.${before}`;
  const closed = confirm(`${nameOf(webhook)}${added}`, note, "Copy secret", "Done");
  setText($("secret"), secret);
  $("yes").onclick = (click) => click.preventDefault() ?? copy(click, "Copy secret", secret);
  $("yes").focus();
  await closed;
  return ["", ""];
}
