// dom.js: elements. Whatever comes from the API becomes a text node: no markup is ever parsed.
const SVG = /^(g|line|rect|text|title)$/;
function make(name, attributes = {}, ...children) {
  const namespace = SVG.test(name) ? "2000/svg" : "1999/xhtml";
  const node = document.createElementNS(`http://www.w3.org/${namespace}`, name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}
const span = (name, ...text) => make("span", { class: name }, ...text);
const link = (path, values, text) => make("a", { href: address(path, values) }, text);
// Return a local time, with UTC in the title.
const moment = (time, inWords = clock) =>
  make("time", { title: utc(time), datetime: time }, inWords(time));
// Return a sentence as nodes, with its times.
const sentence = (text) =>
  text.split(TIMES).map((part, index) => (index % 2 ? moment(part) : part));
function makeFacts(facts) {
  const shown = facts.filter(([, value]) => value);
  const asNodes = (value) => (typeof value === "string" ? sentence(value) : [value]);
  const asPair = ([name, value]) => [make("dt", {}, name), make("dd", {}, ...asNodes(value))];
  return shown.flatMap(asPair);
}
// Change only what differs: else a selection would be lost, and screen readers would read it again.
function set(node, properties) {
  for (const name of Object.keys(properties))
    if (node[name] !== properties[name]) node[name] = properties[name];
}
const hide = (node, isHidden) => set(node, { hidden: Boolean(isHidden) });
const showText = (node, textContent) => set(node, { textContent });
function setText(node, text) {
  hide(node, text === "");
  showText(node, text);
}
function showSentence(node, text) {
  const isSame = node.textContent === text.replace(TIMES, (time) => clock(time));
  if (!isSame) node.replaceChildren(...sentence(text));
}
function setSentence(node, text) {
  hide(node, text === "");
  showSentence(node, text);
}
const setTone = (node, kind, tone) => set(node, { className: `${kind} ${tone}`.trim() });
const setLink = (node, hash) => node.getAttribute("href") === hash || (node.href = hash);
// Replace the children of a node if `data` has changed; else they stay open or selected.
function redraw(node, data, children) {
  const text = JSON.stringify(data);
  if (node.shown === text && node.firstChild) return;
  const focused = [...node.querySelectorAll("a")].indexOf(document.activeElement);
  node.replaceChildren(...children());
  node.querySelectorAll("a")[focused]?.focus({ preventScroll: true });
  node.shown = text;
}
// Show a child for each item, which keeps it, with focus and selection. If one fails, others stand.
function showItems(list, items, id, template, fill) {
  const old = new Map([...list.children].map((node) => [node.dataset.id, node]));
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const blank = () => $(template).content.firstElementChild.cloneNode(true);
  const nodes = items.map((item) => old.get(item[id]) ?? blank());
  for (const node of old.values()) if (!nodes.includes(node)) node.remove();
  nodes.forEach((node, index) => {
    if (node.dataset.id !== items[index][id]) node.dataset.id = items[index][id];
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
    try {
      fill(node, items[index]);
    } catch ({ message }) {
      const told = `Cannot be drawn: ${items[index][id]}: ${message}`;
      showText(node.querySelector("[data-part]"), told);
    }
  });
  if (document.activeElement !== focused) focused?.focus({ preventScroll: true }); // it was moved
}
// Return the parts of a node from a template, by their `data-part`.
function partsOf(node) {
  const parts = [...node.querySelectorAll("[data-part]")];
  return Object.fromEntries(parts.map((part) => [part.dataset.part, part]));
}
function offer(options, values) {
  const texts = [...values].sort();
  redraw(options, texts, () => texts.map((value) => make("option", { value })));
}
// Show faults, which are sentences, beside their fields; return whether there are any.
function explain(errors, form) {
  const fields = [...form.elements].filter(({ name }) => name && name !== "ticked");
  const faults = fields.map((field) => {
    const fault = errors.find((error) => error.field.split(".")[0] === field.name);
    const around = field.closest("fieldset, label");
    const node = around.querySelector(".fault") ?? make("span", { class: "fault", role: "alert" });
    if (fault) around.append(node);
    setText(node, fault?.message ?? "");
    if (field.type !== "fieldset") set(field, { ariaInvalid: String(Boolean(fault)) });
    return fault;
  });
  return faults.some(Boolean);
}
// Return a fault that the API found as a sentence.
function asSentence({ field, message }) {
  const isAboutField = /^(must|is|has) /.test(message);
  return { field, message: isAboutField ? `It ${message}.` : `${message}.` };
}
