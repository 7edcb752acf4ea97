// The key: in sessionStorage, and handed within the browser to a tab of this page that asks.
const channel = new BroadcastChannel(API);
const asked = Math.random();
let former = null; // whose page this was: of a token that ended nothing is wiped that was typed
channel.onmessage = ({ data }) => {
  if (data.asked && me) channel.postMessage({ to: data.asked, key });
  else if (data.to === asked && !key) setKey(data.key);
  else if (data.opened && !key && former) channel.postMessage({ asked });
  else if (data.forgotten && data.forgotten === key) forget();
};
function setKey(value, refusal = "") {
  sessionStorage.clear();
  if (value) sessionStorage.setItem("key", value);
  former = me ?? former;
  key = value;
  me = null;
  stopCounting();
  job?.abort();
  setText($("refusal"), refusal);
  refresh();
}
// Forget what was loaded and typed.
function wipe() {
  const known = [copies, families, replayed, subscriptions, loadedAt, owners, lookedFor];
  const ofCards = [recent, pinned, lastTests, urls, missedBy];
  for (const one of [...known, ...ofCards, ...Object.values(seen)]) one.clear();
  former = null;
  event = null;
  rows = [];
  listed = [];
  orders = [];
  areOrdersDue = true;
  resetList();
  for (const id of ["rows", "subscriptions", "overview", "recipients", "orders"]) {
    $(id).replaceChildren();
  }
  setText($("nobody"), "");
}
async function takeKey(linked) {
  const isOther = key && key !== linked;
  const question = ["Use the key of this link?", "This tab uses another one.", "Use it"];
  if (isOther && !(await confirm(...question))) return;
  if (key !== linked) setKey(linked);
}
const REFUSED_KEYS = {
  401: "This key is not accepted.",
  403: "This key lacks the scope consume.",
};
function forget(status) {
  const isCustomer = key?.startsWith("trt_");
  document.body.className = isCustomer ? "customer" : "";
  setKey(null, REFUSED_KEYS[status]);
  if (!(isCustomer && status)) wipe();
  $("key").focus();
}
// Show the page to the owner of a key, or of a token: then it is a customer's.
const WORDS = {
  operator: {
    home: "← All events",
    back: "← All events",
    "subscriptions-title": "Webhooks",
    "add-title": "Add a webhook",
    forget: "Forget key",
  },
  customer: {
    home: "← All webhooks",
    back: "← All deliveries",
    "subscriptions-title": "Webhooks",
    "add-title": "Add a webhook",
    forget: "Sign out",
  },
};
function welcome(owner) {
  if (!owner.tenant && !owner.scopes.includes("consume")) return forget(403);
  const isSame = Boolean(owner.tenant) && former?.tenant === owner.tenant;
  if (!isSame) wipe();
  me = owner;
  readTests();
  const audience = me.tenant ? "customer" : "operator";
  document.body.className = me.tenant ? "customer" : "";
  $("list-title").className = me.tenant ? "" : "unseen";
  document.title = $("owner").textContent = me.tenant ?? "Triggers API";
  for (const [id, text] of Object.entries(WORDS[audience])) $(id).textContent = text;
  if (me.tenant) $("subscriptions-title").textContent = `Webhooks of ${me.tenant}`;
  $("find-text").placeholder = me.tenant ? "Subject ( / )" : "Id or subject ( / )";
  if (!isSame) fillForm($("add"));
  channel.postMessage({ opened: true });
  route();
}
$("forget").onclick = () => {
  channel.postMessage({ forgotten: key });
  forget();
};
$("login").onsubmit = () => {
  setKey($("key").value.trim());
  $("key").value = "";
};
