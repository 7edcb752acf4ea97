// key.js: the key, in sessionStorage, and handed within the browser to a tab that asks for it.
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
  Object.assign(page, { key: value, me: null });
  endJob();
  $("confirm").close();
  setText($("banner"), "");
  setText($("refusal"), refusal);
  hooks.refresh();
}
const DRAWN = document.querySelectorAll("[id]:empty:not(#login *, #confirm *)"); // by this script
function forgetAll() {
  Object.assign(page, nothingKnown());
  former = null;
  for (const node of DRAWN) node.replaceChildren();
}
async function takeKey(linked) {
  const question = ["Use the key of this link?", "This tab already uses another key.", "Use it"];
  if (!page.key || (await confirm(...question)) || !page.key) setKey(linked);
}
// What ends a page, by the code of the answer: what an operator reads, and in ENDS a customer.
const ENDED = {
  unauthorized: "This key is not accepted.",
  forbidden: "This key lacks the scope consume.",
  suspended: "This key is suspended.",
};
const ENDS = {
  suspended: [
    "Your webhooks are suspended",
    "Nothing is sent to them, and their events are kept. Please contact the operator.",
  ],
  signedOut: ["You are signed out", "To return, open the link again from where you got it."],
  ended: ["This page has expired", "Open the link again from where you got it."],
  refused: [
    "This link does not work",
    "It is incomplete or has expired. Open it again from where you got it.",
  ],
};
// Forget the key, which the API refused with `code`, or which its owner does not want any more.
function forget(code) {
  const isCustomer = page.key?.startsWith("trt_");
  const end = (page.me ?? former) ? "ended" : "refused";
  const [title, text] = ENDS[code] ?? ENDS[code ? end : "signedOut"];
  document.body.className = isCustomer ? "customer" : "";
  setText($("end-title"), title);
  setText($("end-text"), text);
  document.title = isCustomer ? title : "Triggers API";
  setKey(null, ENDED[code]);
  if (!(isCustomer && code)) forgetAll();
  $("key").focus();
}
// Show the page to the owner of a key, or of a token: then it is a customer's.
function welcome(owner) {
  const { tenant } = owner;
  if (!tenant && !owner.scopes.includes("consume")) return forget("forbidden");
  const isSame = Boolean(tenant) && former?.tenant === tenant;
  if (!isSame) forgetAll();
  page.me = { ...owner, catalogue: owner.catalogue ?? {} };
  document.body.className = tenant ? "customer" : "";
  document.title = $("owner").textContent = tenant ?? "Triggers API";
  $("home").textContent = tenant ? "← All webhooks" : "← All events";
  $("back").textContent = tenant ? "← All deliveries" : "← All events";
  $("forget").textContent = tenant ? "Sign out" : "Forget key";
  $("find-text").placeholder = tenant ? "Subject ( / )" : "Id or subject ( / )";
  const [, zone] = new Date().toTimeString().match(/GMT(.\d{4})/);
  setText($("zone"), `Times are shown in UTC${zone}. Point at a time to see it in UTC.`);
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
