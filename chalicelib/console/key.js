// key.js: the key, in sessionStorage, and handed within the browser to a tab that asks for it.
const channel = new BroadcastChannel(API);
const tabId = Math.random();
let former = null; // whose page this was: what was typed is kept for who opens it again
// Tabs of the same browser send each other: {asked: a tab's id} to ask for the key, {to, key} as
// the answer, {opened} when a page is shown, and {forgotten: key} when its owner signs out.
channel.onmessage = ({ data }) => {
  const { key, me } = page;
  if (data.asked && me) channel.postMessage({ to: data.asked, key });
  else if (data.to === tabId && !key) setKey(data.key);
  else if (data.opened && !key && former) askTabs();
  else if (data.forgotten && data.forgotten === key) forget();
};
// Ask the other tabs of this browser for the key.
const askTabs = () => channel.postMessage({ asked: tabId });
// Use another key, or none (null), and forget what the tab stored for the former key. `refusal` is
// a sentence that the form for the key shows.
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
// The elements that have an id and no content in the HTML: this script draws their content.
const DRAWN = document.querySelectorAll("[id]:empty:not(#login *, #confirm *)"); // by this script
// Forget and remove everything that the page has loaded with the former key.
function forgetAll() {
  Object.assign(page, nothingKnown());
  former = null;
  for (const node of DRAWN) node.replaceChildren();
}
// Use the key of a link; ask first if the tab has another key.
async function takeKey(linked) {
  const question = ["Use the key of this link?", "This tab already uses another key.", "Use it"];
  if (!page.key || (await confirm(...question)) || !page.key) setKey(linked);
}
// What an operator reads when the API refuses the key, by the code of the error.
const ENDED = {
  unauthorized: "This key is not accepted.",
  forbidden: "This key lacks the scope consume.",
  suspended: "This key is suspended.",
};
// What a customer reads when the page ends, as a title and a text: by the code of the error, when
// the customer signed out, when the token was valid before, and when it never was.
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
// Forget the key, because the API refused it with the error `code` or, without a code, because the
// user signed out.
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
// Show the page to the owner of the key, as GET /me describes it. The owner of a token, which has a
// tenant, is a customer.
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
