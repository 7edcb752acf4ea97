// actions.js: what a button does: a question, a call, and what came of it.
// Ask a question in the dialog; return whether it was answered with yes. Wait while another
// question is open. `yes` and `no` are the names of the two buttons, and `tone` is the class of the
// first one.
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
// What each node says of an action, with a function that returns whether that still holds.
const answers = new Map(); // by the node that says it
// Remove what nodes say of actions, where that no longer holds or the node is gone.
function dropPassed() {
  for (const [answer, isSo] of answers)
    if (!answer.isConnected || !isSo()) showAnswer(answer, "");
}
// Show in a node what came of an action. `tone` is a state, such as `failed`, which gives the
// colour. `isSo` returns whether the text still holds: the first refresh after that removes the
// text. Without `isSo`, the text stays until the next one.
function showAnswer(answer, text, tone = "", isSo = null) {
  setSentence(answer, text);
  setTone(answer, "note", tone);
  if (isSo) answers.set(answer, isSo);
  else answers.delete(answer);
}
// Make the call of a button, and show in the node `answer` what `describe` returns for the
// response: [text, tone, isSo], as for `showAnswer`. With a `consequence`, ask the `question`
// first. `before` has the paths of POST calls that are made before the call itself. If the user has
// left the view, or the key is another one, the response is not shown.
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
// Give the focus back to a button. If the button is hidden or gone, focus the sentence in its
// place, the nearest button or link, or the heading. If the user has focused something else
// meanwhile, leave the focus there.
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
// Copy a text to the clipboard, and show for a moment on the button whether that succeeded. `name`
// is the text of the button.
async function copy({ target }, name, text) {
  const written = navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("needs https"));
  const said = await written.then(() => "Copied", () => "Not copied");
  setText(target, said);
  setText($("announcement"), said);
  await sleep(1500);
  if (target.textContent === said) setText(target, name); // else it asks something else by now
}
// Show the secret of a webhook until the user closes the dialog. `added` follows the webhook's name
// in the title, such as ` was added`. `previous_until` is the time until which the previous secret
// also signs; null: there is no such secret. Returns an answer for `showAnswer` with no text.
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
