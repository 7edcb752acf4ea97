// The key: in sessionStorage, and handed within the browser to a tab of this page that asks.
const channel = new BroadcastChannel(API);
const asked = Math.random();
channel.onmessage = ({ data }) => {
  if (data.asked && me) channel.postMessage({ to: data.asked, key });
  else if (data.to === asked && !key) setKey(data.key);
  else if (data.forgotten && data.forgotten === key) forget();
};
function setKey(value, refusal = "") {
  sessionStorage.clear();
  if (value) sessionStorage.setItem("key", value);
  const loaded = [copies, families, subscriptions, loadedAt, recent, pinned, lastTests, urls];
  for (const one of [...loaded, ...Object.values(seen)]) one.clear();
  key = value;
  me = null;
  event = null;
  rows = [];
  listed = [];
  resetList();
  job?.abort();
  for (const id of ["rows", "subscriptions", "recipients"]) $(id).replaceChildren();
  setText($("nobody"), "");
  setText($("refusal"), refusal);
  refresh();
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
  document.body.className = key?.startsWith("trt_") ? "customer" : "";
  setKey(null, REFUSED_KEYS[status]);
  $("key").focus();
}
// Show the page to the owner of a key, or of a token: then it is a customer's.
const WORDS = {
  operator: {
    home: "← All events",
    back: "← All events",
    "subscriptions-title": "Subscriptions",
    "add-title": "Add a subscription",
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
  me = owner;
  const audience = me.tenant ? "customer" : "operator";
  document.body.className = me.tenant ? "customer" : "";
  $("list-title").className = me.tenant ? "" : "unseen";
  document.title = $("owner").textContent = me.tenant ?? "Triggers API";
  for (const [id, text] of Object.entries(WORDS[audience])) $(id).textContent = text;
  if (me.tenant) $("subscriptions-title").textContent = `Webhooks of ${me.tenant}`;
  fillForm($("add"));
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
