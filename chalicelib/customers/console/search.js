// The search: by an id or its beginning, or by a subject.
function miss(text, sought = "") {
  page.view = { name: "missing", sought };
  document.title = $("missing").textContent = text;
  setText($("looked"), "");
  $("proposals").replaceChildren();
  show();
  $("missing").focus();
}
// Open what has an id that begins as the address says, or that subject, if that is one alone.
async function search() {
  const { sought } = page.view;
  if (!sought || page.me.tenant) return;
  if (await openSubject(sought)) return; // which may look like the beginning of an id
  if (ID.test(sought)) return searchId(sought);
  await listEvents({ include: "subject" }, { enough: PAGE });
  for (const spelling of spellings(sought)) if (await openSubject(spelling)) return;
  await loadWebhooks();
  miss(`No event has the id or subject ${sought}.`);
  propose(sought, "A subject is found by all of its letters and digits.");
}
// Open the event with a subject, or the list of those; return whether there are any.
async function openSubject(subject) {
  const { found } = await listEvents({ subject, source: "original" }, { enough: 2 });
  const [id] = found.keys();
  if (found.size === 1) location.replace(address("/find", { text: id }));
  if (found.size > 1) location.replace(address("/", { subject }));
  return found.size > 0;
}
// Return other ways to write what is sought: subjects that were seen and differ from it in case and
// punctuation alone, then what people write as `#4711` or `Order 4711`.
function spellings(sought) {
  const known = [...page.seen.subjects].filter((subject) => plain(subject) === plain(sought));
  const words = sought.match(/[\p{L}\p{N}]+/gu) ?? [];
  const isNumber = /^\d+$/.test(sought); // it is tried in the shapes of subjects, the usual ones first
  const counts = new Map();
  for (const one of isNumber ? page.seen.subjects : []) {
    const shape = one.replace(/\d+/, sought);
    counts.set(shape, (counts.get(shape) ?? 0) + 1);
  }
  const shapes = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a));
  const guesses = ["-", "_", ""].map((sign) => words.join(sign));
  const others = [...known, ...shapes, ...guesses, ...guesses.map((guess) => guess.toLowerCase())];
  return [...new Set(others)].filter((other) => other && other !== sought).slice(0, 8);
}
const NEWEST = 500; // events that are looked at
async function searchId(sought) {
  const { found } = await listEvents({ include: "subject" }, { enough: NEWEST });
  await loadWebhooks();
  const all = [...found.keys(), ...page.webhooks.keys()];
  const ids = all.filter((id) => id.startsWith(sought));
  if (ids.length === 1) return location.replace(address("/find", { text: ids[0] }));
  const some = ids.length || "None";
  miss(`${some} of the newest ${NEWEST} events and of the webhooks begin with ${sought}.`);
  propose(sought, "Give more of its characters.");
}
// Offer what contains the text, among what this page has seen.
function propose(sought, looked) {
  const { seen, webhooks, me } = page;
  const wanted = plain(sought) || sought;
  const has = (text) => Boolean(text) && plain(text).includes(wanted);
  const placeOf = (text) => (me.tenant ? ["/find", { text }] : ["/", { subject: text }]);
  const subjects = [...seen.subjects].filter(has);
  const tenants = me.tenant ? [] : [...seen.tenants].filter(has);
  const found = [...webhooks.values()].filter(
    ({ name, target_host, tenant }) => has(name) || has(target_host) || has(tenant),
  );
  const proposals = [
    ...subjects.map((text) => [`Subject ${text}`, ...placeOf(text)]),
    ...tenants.map((tenant) => [`Events of tenant ${tenant}`, "/", { tenant }]),
    ...found.map(({ subscription_id: id }) => [`Webhook ${label(id)}`, `/subscriptions/${id}`, {}]),
  ].slice(0, 20);
  const end = proposals.length ? "It is contained in:" : "Nothing that was seen here contains it.";
  setText($("looked"), `${looked} ${end}`);
  const items = proposals.map(([text, path, values]) => make("li", {}, link(path, values, text)));
  $("proposals").replaceChildren(...items);
}
