// Elements. Whatever comes from the API becomes a text node: no markup is ever parsed.
const SVG = /^(g|line|rect|circle|text|title)$/;
function make(name, attributes = {}, ...children) {
  const namespace = SVG.test(name) ? "2000/svg" : "1999/xhtml";
  const node = document.createElementNS(`http://www.w3.org/${namespace}`, name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}
const span = (name, ...text) => make("span", { class: name }, ...text);
const link = (path, values, text) => make("a", { href: address(path, values) }, text);
function makeFacts(facts) {
  const shown = facts.filter(([, value]) => value);
  return shown.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
}
function setText(node, text) {
  node.hidden = text === "";
  if (node.textContent !== text) node.textContent = text; // else a selection would be lost
}
function setTone(node, kind, tone) {
  node.className = `${kind} ${tone}`;
}
// Replace the children of a node if `data` changed: what is open or pointed at stays.
function redraw(node, data, children) {
  const text = JSON.stringify(data);
  if (node.dataset.shown !== text) node.replaceChildren(...children());
  node.dataset.shown = text;
}
// Show a child for each item, in order. An item keeps its node, and with it focus and selection.
function showItems(list, items, id, template, fill) {
  const old = new Map([...list.children].map((node) => [node.dataset.id, node]));
  const nodes = items.map(
    (item) => old.get(item[id]) ?? $(template).content.firstElementChild.cloneNode(true),
  );
  for (const node of old.values()) if (!nodes.includes(node)) node.remove();
  nodes.forEach((node, index) => {
    node.dataset.id = items[index][id];
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
    fill(node, items[index]);
  });
}
// Return the parts of a node from a template, by their `data-part`.
function partsOf(node) {
  const parts = node.querySelectorAll("[data-part]");
  return Object.fromEntries([...parts].map((part) => [part.dataset.part, part]));
}
function offer(options, values, before = "") {
  const texts = [...values].sort().map((value) => before + value);
  redraw(options, texts, () => texts.map((value) => make("option", { value })));
}

async function confirm(question, consequence, yes, no = "Cancel", tone = "primary") {
  const dialog = $("confirm");
  while (dialog.open) await sleep(100); // another question is asked
  const texts = { question, consequence, yes, no, secret: "" };
  for (const [part, text] of Object.entries(texts)) setText($(part), text);
  $("yes").className = tone;
  dialog.showModal();
  return new Promise((resolve) => {
    $("yes").onclick = () => resolve(true);
    $("no").onclick = dialog.oncancel = () => resolve(false);
  });
}
// Make the call of a button, after a confirmation if there is a `consequence`, and after the calls
// `before`. Show in `answer` the text and tone that `describe` makes of the result.
async function act(button, answer, given) {
  const { method, path, body, before = [], describe, consequence, question, tone } = given;
  const { id } = view;
  const action = button.textContent;
  const asked = [question ?? `${action}?`, consequence, action, "Cancel", tone];
  if (consequence && !(await confirm(...asked))) return;
  tell(answer, "Waiting for the answer…");
  clearTimeout(timer);
  refreshing.abort(); // it would ask for what is deleted meanwhile
  const run = async () => {
    for (const first of before) await call("POST", first);
    return describe(await call(method, path, [], body));
  };
  const [text, kind] = await run().catch(async (error) => {
    loadedAt.clear(); // who is disabled has another button
    return [error.message, "failed"];
  });
  if (view.id === id) tell(answer, text, kind);
  await refreshAll();
  if (!button.offsetParent) focusNear(button);
}
function tell(answer, text, tone = "") {
  setText(answer, text);
  setTone(answer, "note", tone);
}
// Focus what can be pressed nearest to a button that went, or the heading.
function focusNear(button) {
  const around = [button.parentNode, button.closest(".buttons"), button.closest("li, section")];
  const all = around.flatMap((node) => [...(node?.querySelectorAll("button, a, summary") ?? [])]);
  const nearest = all.find((one) => one.offsetParent);
  (nearest ?? $(HEADINGS[view.name])).focus({ preventScroll: true });
}
async function copy({ target }, name, text) {
  const written = navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("needs https"));
  const told = await written.then(
    () => "Copied",
    () => "Not copied",
  );
  setText(target, told);
  setText($("announcement"), told);
  await sleep(1500);
  if (target.textContent === told) setText(target, name); // else it asks something else by now
}
