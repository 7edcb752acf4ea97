// search.js: the search by a subject.
function miss(text, sought = "") {
  page.view = { name: "missing", sought };
  document.title = $("missing").textContent = text;
  setText($("looked"), "");
  $("proposals").replaceChildren();
  show();
  $("missing").focus();
}
// Open what has the subject, however that is written.
async function search() {
  const { sought } = page.view;
  if (!sought || page.me.tenant) return;
  if (await openSubject(sought)) return;
  const { found } = await listEvents({ include: "subject" }, { enough: PAGE });
  for (const spelling of spellings(sought)) if (await openSubject(spelling)) return;
  await loadWebhooks();
  missSubject(sought, [...found.keys(), ...page.webhooks.keys()]);
}
function missSubject(sought, ids = []) {
  miss(`No event has the ${page.me.tenant ? "" : "id or "}subject ${sought}.`);
  propose(sought, ids);
}
// Open the event with a subject, or the list of those; return whether there are any.
async function openSubject(subject) {
  const { found } = await listEvents({ subject, source: "original" }, { enough: 2 });
  const [id] = found.keys();
  if (found.size === 1) location.replace(address("/find", { text: id }));
  if (found.size > 1) location.replace(address("/", { subject }));
  return found.size > 0;
}
// Return other ways to write a subject: those that were seen, and what people mean by `#4711`.
function spellings(sought) {
  const known = [...page.seen.subjects].filter((subject) => plain(subject) === plain(sought));
  const words = sought.match(/[\p{L}\p{N}]+/gu) ?? [];
  // A bare number is tried in the place of theirs.
  const numbered = [...page.seen.subjects].filter((subject) => /^\D*\d+\D*$/.test(subject));
  const isNumber = /^\d+$/.test(sought);
  const shapes = isNumber ? numbered.map((subject) => subject.replace(/\d+/, sought)) : [];
  const guesses = ["-", "_", ""].map((sign) => words.join(sign));
  const others = [...known, ...shapes, ...guesses, ...guesses.map((guess) => guess.toLowerCase())];
  return [...new Set(others)].filter((other) => other && other !== sought).slice(0, 8);
}
// Offer what contains the text, among what this page has seen.
function propose(sought, ids) {
  const { seen, webhooks, me } = page;
  const wanted = plain(sought) || sought;
  const has = (text) => Boolean(text) && plain(text).includes(wanted);
  const placeOf = (text) => (me.tenant ? ["/find", { text }] : ["/", { subject: text }]);
  const subjects = [...seen.subjects].filter(has);
  const tenants = me.tenant ? [] : [...seen.tenants].filter(has);
  const found = [...webhooks.values()].filter((one) => has(nameOf(one)) || has(one.tenant));
  const proposals = [
    ...ids.filter((id) => id.startsWith(sought)).map((id) => [id, "/find", { text: id }]),
    ...subjects.map((text) => [`Subject ${text}`, ...placeOf(text)]),
    ...tenants.map((tenant) => [`Events of tenant ${tenant}`, "/", { tenant }]),
    ...found.map(({ subscription_id: id }) => [`Webhook ${label(id)}`, `/subscriptions/${id}`, {}]),
  ].slice(0, 20);
  const end = proposals.length ? "These are like it:" : "Nothing that was seen here is like it.";
  setText($("looked"), `Ids and subjects are found as a whole. ${end}`);
  const items = proposals.map(([text, path, values]) => make("li", {}, link(path, values, text)));
  $("proposals").replaceChildren(...items);
}
