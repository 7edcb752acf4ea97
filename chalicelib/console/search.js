// search.js: the search by a subject.
// Show the view that says that something does not exist. `sought` is the subject that is still to
// be searched for; empty: nothing is.
function miss(text, sought = "") {
  page.view = { name: "missing", sought };
  document.title = $("missing").textContent = text;
  setText($("looked"), "");
  $("proposals").replaceChildren();
  show();
  $("missing").focus();
}
// Search for the events with the subject in the address, in several spellings, and open the one
// event or the list of the events that have it.
async function search() {
  const { sought } = page.view;
  if (!sought || page.me.tenant) return;
  const { found, ids, tried } = await findSubject(sought, "subject", 2);
  const [{ event_id: text, subject } = {}] = found;
  if (found.length === 1) return location.replace(address("/find", { text }));
  if (found.length > 1) return location.replace(address("/", { subject }));
  await loadWebhooks();
  missSubject(sought, tried, [...ids, ...page.webhooks.keys()]);
}
// Say that no event has a subject, and which spellings were `tried`. Offer what contains the text
// among `ids` and the names that this page has seen.
function missSubject(sought, tried = [sought], ids = []) {
  const what = page.me.tenant ? "subject" : "id or subject";
  miss(`No event has the ${what} ${sought}.`);
  propose(sought, tried.length > 1 ? `Searched for the ${what} ${tried.join(", ")}. ` : "", ids);
}
// Look for the events with a subject, however that is written, up to `enough`. Return them as
// `found`, the spellings that were `tried`, and, if the first one has no event, the newest `ids`.
async function findSubject(sought, include, enough = PAGE) {
  const tried = [];
  const ask = async (subject) => {
    tried.push(subject);
    const given = { subject, source: "original", include };
    return [...(await listEvents(given, { enough })).found.values()];
  };
  let found = await ask(sought);
  if (found.length) return { found, tried, ids: [] };
  const newest = await listEvents({ include }, { enough: PAGE }); // which have other subjects
  for (const spelling of spellings(sought)) {
    found = await ask(spelling);
    if (found.length) break;
  }
  return { found, tried, ids: [...newest.found.keys()] };
}
// Return other spellings of a subject to search for: subjects that were seen and differ only in
// case and punctuation, a bare number in the shapes of the subjects that were seen, and its words
// joined by a hyphen, an underscore or nothing.
function spellings(sought) {
  const known = [...page.seen.subjects].filter((subject) => plain(subject) === plain(sought));
  const words = sought.match(/[\p{L}\p{N}]+/gu) ?? [];
  const isNumber = /^\d+$/.test(sought);
  const shaped = isNumber ? page.shapes.map((shape) => shape.replace("#", sought)) : [];
  const guesses = ["-", "_", ""].map((sign) => words.join(sign));
  const others = [...known, ...shaped, ...guesses, ...guesses.map((guess) => guess.toLowerCase())];
  return [...new Set(others)].filter((other) => other && other !== sought).slice(0, MOST_TRIED);
}
// Offer links to what contains the text `sought`, among what this page has seen and `ids`. `tried`
// is a sentence on what was searched for, which is shown first; empty: there is none.
function propose(sought, tried, ids) {
  const { seen, webhooks, me } = page;
  const wanted = plain(sought) || sought;
  const has = (text) => Boolean(text) && plain(text).includes(wanted);
  const placeOf = (text) => (me.tenant ? ["/find", { text }] : ["/", { subject: text }]);
  const subjects = [...seen.subjects].filter(has);
  const tenants = me.tenant ? [] : [...seen.tenants].filter(has);
  const isLike = (webhook) => has(nameOf(webhook)) || has(webhook.tenant);
  const found = [...webhooks.values()].filter(isLike);
  const proposals = [
    ...ids.filter((id) => id.startsWith(sought)).map((id) => [id, "/find", { text: id }]),
    ...subjects.map((text) => [`Subject ${text}`, ...placeOf(text)]),
    ...tenants.map((tenant) => [`Events of tenant ${tenant}`, "/", { tenant }]),
    ...found.map(({ subscription_id: id }) => [`Webhook ${label(id)}`, `/subscriptions/${id}`, {}]),
  ].slice(0, 20);
  const end = proposals.length
    ? "These results contain the text:"
    : "Nothing that this page has seen contains the text.";
  setText($("looked"), `${tried}The search finds only whole ids and subjects. ${end}`);
  const items = proposals.map(([text, path, values]) => make("li", {}, link(path, values, text)));
  $("proposals").replaceChildren(...items);
}
