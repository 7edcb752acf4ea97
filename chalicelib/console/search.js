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
  const { found, ids } = await findSubject(sought, "subject", 2);
  const [{ event_id: text, subject } = {}] = found;
  if (found.length === 1) return location.replace(address("/find", { text }));
  if (found.length > 1) return location.replace(address("/", { subject }));
  await loadWebhooks();
  missSubject(sought, [...ids, ...page.webhooks.keys()]);
}
function missSubject(sought, ids = []) {
  miss(`No event has the ${page.me.tenant ? "" : "id or "}subject ${sought}.`);
  propose(sought, ids);
}
// Return the events with a subject, however that is written, and the ids of the newest if none has.
async function findSubject(sought, include, enough = PAGE) {
  const ask = async (subject) => {
    const given = { subject, source: "original", include };
    return [...(await listEvents(given, { enough })).found.values()];
  };
  let found = await ask(sought);
  if (found.length) return { found };
  const newest = await listEvents({ include }, { enough: PAGE }); // which have other subjects
  for (const spelling of spellings(sought)) {
    found = await ask(spelling);
    if (found.length) break;
  }
  return { found, ids: [...newest.found.keys()] };
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
  const end = proposals.length ? "These contain it:" : "Nothing that was seen here contains it.";
  setText($("looked"), `Ids and subjects are found as a whole. ${end}`);
  const items = proposals.map(([text, path, values]) => make("li", {}, link(path, values, text)));
  $("proposals").replaceChildren(...items);
}
