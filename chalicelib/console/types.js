// types.js: what the operator says of event types, with examples.
// Return the example payload of an event type; undefined: the operator gives none.
const exampleOf = (type) => page.me.catalogue[type]?.example;
// Return a value of JSON with line breaks.
const pretty = (value) => JSON.stringify(value, null, 2);
// Show the event types, if the operator describes any of them.
function fillCatalogue() {
  const all = Object.entries(page.me.catalogue).map(([type, told]) => ({ type, ...told }));
  hide($("catalogue"), !all.some(({ description, example }) => description ?? example));
  showItems($("catalogue-rows"), all, "type", "event-type", fillType);
}
// Fill the row of an event type.
function fillType(node, { type, description = "", example }) {
  const { name, about, shown, copier } = partsOf(node);
  setText(name, type);
  setText(about, description);
  setText(shown, example ? pretty(example) : "");
  hide(copier, !example);
  copier.onclick = (click) => copy(click, "Copy example", pretty(example));
}
// Return whether a type is among entries, which are types or beginnings of types followed by `*`;
// without entries, all types are.
const hasType = (entries, type) =>
  !entries?.length || entries.some((entry) => entry === type || isIn(type)(entry));
// Return a function that returns whether an entry is a beginning of the type.
const isIn = (type) => (entry) => entry.endsWith("*") && type.startsWith(entry.slice(0, -1));
