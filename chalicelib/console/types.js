// types.js: what the operator says of event types, with examples.
const exampleOf = (type) => page.me.catalogue[type]?.example;
const pretty = (value) => JSON.stringify(value, null, 2);
function fillCatalogue() {
  const all = Object.entries(page.me.catalogue).map(([type, told]) => ({ type, ...told }));
  hide($("catalogue"), !all.some(({ description, example }) => description ?? example));
  showItems($("catalogue-rows"), all, "type", "event-type", fillType);
}
function fillType(node, { type, description = "", example }) {
  const { name, about, shown, copier } = partsOf(node);
  setText(name, type);
  setText(about, description);
  setText(shown, example ? pretty(example) : "");
  hide(copier, !example);
  copier.onclick = (click) => copy(click, "Copy example", pretty(example));
}
// Return whether entries, which are types or beginnings of types, have a type; none: all.
const hasType = (entries, type) =>
  !entries?.length || entries.some((entry) => entry === type || isIn(type)(entry));
const isIn = (type) => (entry) => entry.endsWith("*") && type.startsWith(entry.slice(0, -1));
