// dom.js: elements. Whatever comes from the API becomes a text node: no markup is ever parsed.
const SVG = /^(g|line|rect|text|title)$/;
// Return a new element of HTML or SVG with attributes and children, which are nodes or texts.
function make(name, attributes = {}, ...children) {
  const namespace = SVG.test(name) ? "2000/svg" : "1999/xhtml";
  const node = document.createElementNS(`http://www.w3.org/${namespace}`, name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}
// Return a span with a class (`name`) and children.
const span = (name, ...text) => make("span", { class: name }, ...text);
// Return a link to a view of this page; `values` are the parameters of its address.
const link = (path, values, text) => make("a", { href: address(path, values) }, text);
// Return a time element for a time of the API. It shows what `inWords` returns for the time, by
// default the local time, and has the time in UTC as its title.
const moment = (time, inWords = clock) =>
  make("time", { title: utc(time), datetime: time }, inWords(time));
// Return a sentence as nodes, in which each time of the API is an element made by `moment`.
const sentence = (text) =>
  text.split(TIMES).map((part, index) => (index % 2 ? moment(part) : part));
// Return the nodes of a list of facts, which are pairs of a name and a value. A value is a node or
// a text, whose times are shown in local time. Facts without a value are left out.
function makeFacts(facts) {
  const shown = facts.filter(([, value]) => value);
  const asNodes = (value) => (typeof value === "string" ? sentence(value) : [value]);
  const asPair = ([name, value]) => [make("dt", {}, name), make("dd", {}, ...asNodes(value))];
  return shown.flatMap(asPair);
}
// Set properties of a node, but only those that differ: otherwise a selection would be lost, and
// screen readers would read the node again.
function set(node, properties) {
  for (const name of Object.keys(properties))
    if (node[name] !== properties[name]) node[name] = properties[name];
}
// Hide a node, or show it if `isHidden` is not true.
const hide = (node, isHidden) => set(node, { hidden: Boolean(isHidden) });
// Set the text of a node.
const showText = (node, textContent) => set(node, { textContent });
// Set the text of a node, and hide the node if the text is empty.
function setText(node, text) {
  hide(node, text === "");
  showText(node, text);
}
// Show a text in a node, with its times in local time, unless the node shows the same already.
function showSentence(node, text) {
  const isSame = node.textContent === text.replace(TIMES, (time) => clock(time));
  if (!isSame) node.replaceChildren(...sentence(text));
}
// Show a text in a node, with its times in local time, and hide the node if the text is empty.
function setSentence(node, text) {
  hide(node, text === "");
  showSentence(node, text);
}
// Set the classes of a node: what it is, such as `badge`, and a state, which gives its colour.
const setTone = (node, kind, tone) => set(node, { className: `${kind} ${tone}`.trim() });
// Set the address of a link, if it differs.
const setLink = (node, hash) => node.getAttribute("href") === hash || (node.href = hash);
// Replace the children of a node by what the function `children` returns, if `data`, of which they
// are made, has changed. Otherwise the children stay, and so does what is open or selected in them.
function redraw(node, data, children) {
  const text = JSON.stringify(data);
  if (node.shown === text && node.firstChild) return;
  const focused = [...node.querySelectorAll("a")].indexOf(document.activeElement);
  node.replaceChildren(...children());
  node.querySelectorAll("a")[focused]?.focus({ preventScroll: true });
  node.shown = text;
}
// Show one child of a list for each item, a clone of a template that `fill(node, item)` fills. `id`
// is the name of the member that identifies an item. A child stays the same for the same item, with
// its focus and selection. If `fill` fails for an item, its child says so, and the other items are
// shown.
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
// Return the elements of a node that have `data-part`, by its value.
function partsOf(node) {
  const parts = [...node.querySelectorAll("[data-part]")];
  return Object.fromEntries(parts.map((part) => [part.dataset.part, part]));
}
// Offer values as suggestions of an input, in the datalist `options`.
function offer(options, values) {
  const texts = [...values].sort();
  redraw(options, texts, () => texts.map((value) => make("option", { value })));
}
// Show errors, {field, message}, beside their fields in a form, and remove the former ones; return
// whether an error belongs to a field of the form.
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
// Return an error of the API, {field, message}, with a sentence as its message.
function asSentence({ field, message }) {
  const isAboutField = /^(must|is|has) /.test(message);
  return { field, message: isAboutField ? `It ${message}.` : `${message}.` };
}
