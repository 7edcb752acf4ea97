// The key: in sessionStorage, and handed within the browser to a tab of this page that asks.
const channel = new BroadcastChannel(API);
const tabId = Math.random();
let former = null; // whose page this was: what was typed is kept for who opens it again
channel.onmessage = ({ data }) => {
  const { key, me } = page;
  if (data.asked && me) channel.postMessage({ to: data.asked, key });
  else if (data.to === tabId && !key) setKey(data.key);
  else if (data.opened && !key && former) askTabs();
  else if (data.forgotten && data.forgotten === key) forget();
};
const askTabs = () => channel.postMessage({ asked: tabId });
function setKey(value, refusal = "") {
  sessionStorage.clear();
  if (value) sessionStorage.setItem("key", value);
  former = page.me ?? former;
  page.key = value;
  page.me = null;
  page.job?.abort();
  page.counting?.abort();
  setText($("refusal"), refusal);
  hooks.refresh();
}
// Forget what was loaded and typed.
function forgetAll() {
  wipe();
  former = null;
  const lists = ["rows", "subscriptions", "overview", "recipients", "orders", "nobody"];
  for (const id of lists) $(id).replaceChildren();
}
async function takeKey(linked) {
  const isOther = page.key && page.key !== linked;
  const question = ["Use the key of this link?", "This tab uses another one.", "Use it"];
  if (isOther && !(await confirm(...question))) return;
  if (page.key !== linked) setKey(linked);
}
const REFUSED_KEYS = { 401: "This key is not accepted.", 403: "This key lacks the scope consume." };
const ENDS = {
  signedOut: ["You are signed out", "To come back, open the link again where you got it."],
  ended: ["This page has ended", "Open it again where you got its link."],
  refused: ["This link opens no page", "It is not whole, or has ended: open it where you got it."],
};
// Forget the key, which the API refused with `status`, or which its owner does not want any more.
function forget(status) {
  const isCustomer = page.key?.startsWith("trt_");
  const end = (page.me ?? former) ? "ended" : "refused";
  const [title, text] = ENDS[status ? end : "signedOut"];
  document.body.className = isCustomer ? "customer" : "";
  setText($("end-title"), title);
  setText($("end-text"), text);
  if (isCustomer) document.title = title;
  setKey(null, REFUSED_KEYS[status]);
  if (!(isCustomer && status)) forgetAll();
  $("key").focus();
}
// Show the page to the owner of a key, or of a token: then it is a customer's.
function welcome(owner) {
  const { tenant } = owner;
  if (!tenant && !owner.scopes.includes("consume")) return forget(403);
  const isSame = Boolean(tenant) && former?.tenant === tenant;
  if (!isSame) forgetAll();
  page.me = owner;
  readTests();
  document.body.className = tenant ? "customer" : "";
  document.title = $("owner").textContent = tenant ?? "Triggers API";
  $("home").textContent = tenant ? "← All webhooks" : "← All events";
  $("back").textContent = tenant ? "← All deliveries" : "← All events";
  $("forget").textContent = tenant ? "Sign out" : "Forget key";
  $("subscriptions-title").textContent = tenant ? `Webhooks of ${tenant}` : "Webhooks";
  $("find-text").placeholder = tenant ? "Subject ( / )" : "Id or subject ( / )";
  if (!isSame) fillForm($("add"));
  channel.postMessage({ opened: true });
  hooks.route();
}
$("forget").onclick = () => {
  channel.postMessage({ forgotten: page.key });
  forget();
};
$("login").onsubmit = () => {
  setKey($("key").value.trim());
  $("key").value = "";
};
