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
// Try the filter that is typed on examples: of the types that are chosen, or of all.
async function tryFilter(form) {
  const chosen = new FormData(form).getAll("ticked");
  const types = (chosen.length ? chosen : Object.keys(page.me.catalogue)).filter(exampleOf);
  const filter = JSON.parse(form.elements.filter.value, exactly);
  const [yes, no] = [[], []];
  for (const type of types.slice(0, MOST_READ)) {
    const body = { filter, payload: exampleOf(type) };
    const { matches, member } = (await call("POST", "filters/test", [], body)).body;
    if (matches) yes.push(type);
    else no.push(`${type} (it ${whyFiltered(filter, member, body.payload)})`);
  }
  const took = yes.length ? `It takes the example of ${yes.join(", ")}. ` : "";
  const left = no.length ? `It leaves out ${no.join(", ")}.` : "";
  const said = (took + left).trim() || "These types have no examples.";
  return [said, yes.length ? "delivered" : "failed"];
}
