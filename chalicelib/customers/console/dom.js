// Whatever comes from the API becomes a text node: no markup is ever parsed.
function make(name, attributes = {}, ...children) {
  const namespace = /^(g|line|rect|circle|text|title)$/.test(name) ? "2000/svg" : "1999/xhtml";
  const node = document.createElementNS(`http://www.w3.org/${namespace}`, name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}
const span = (name, ...text) => make("span", { class: name }, ...text);
const link = (path, values, text) => make("a", { href: address(path, values) }, text);
const makeFacts = (facts) =>
  facts.flatMap(([name, node]) => (node ? [make("dt", {}, name), make("dd", {}, node)] : []));
function setText(node, text) {
  node.hidden = text === "";
  if (node.textContent !== text) node.textContent = text; // keeps the selection where nothing has changed
}
function redraw(node, data, children) {
  if (node.dataset.shown !== data) node.replaceChildren(...children()); // keeps what is open or pointed at
  node.dataset.shown = data;
}
// Show a child for each item, in order. An item keeps its node, and with it the focus and the selection.
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
function offer(options, values, before = "") {
  const texts = [...values].sort().map((value) => before + value);
  redraw(options, JSON.stringify(texts), () => texts.map((value) => make("option", { value })));
}
async function confirm(question, consequence, yes, no = "Cancel") {
  const dialog = $("confirm");
  while (dialog.open) await sleep(100); // another question is asked
  for (const [part, text] of Object.entries({ question, consequence, yes, no }))
    setText($(part), text);
  dialog.showModal();
  return new Promise((resolve) => {
    $("yes").onclick = () => resolve(true);
    $("no").onclick = dialog.oncancel = () => resolve(false);
  });
}
// Make the call of a button, if need be after a confirmation, and show in `node` what `describe` makes of the answer.
async function act(button, node, method, path, describe, consequence) {
  const { id } = view,
    action = button.textContent;
  if (consequence && !(await confirm(`${action}?`, consequence, action))) return;
  node.className = "note";
  setText(node, "Waiting for the answer…");
  clearTimeout(timer);
  refreshing.abort(); // it would ask for what is deleted meanwhile
  const [text, tone] = await call(method, path).then(describe, (error) => [
    error.message,
    "failed",
  ]);
  if (view.id === id) setText(node, text);
  node.className = `note ${tone}`;
  await refreshAll();
  if (button.hidden) button.previousElementSibling.focus();
}
async function copy({ target }, name, text) {
  const written = navigator.clipboard?.writeText(text) ?? Promise.reject(new Error("needs https"));
  setText(
    target,
    await written.then(
      () => "Copied",
      () => "Not copied",
    ),
  );
  setText($("announcement"), target.textContent);
  setTimeout(() => setText(target, name), 1500);
}
