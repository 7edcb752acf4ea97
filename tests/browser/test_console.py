"""The console page in a real browser, against the whole system as `make run` starts it."""

import hashlib
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect, sync_playwright

from tests.support.receiver import Receiver, status
from tests.support.running import ROOT, Run, running

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = ROOT / "build" / "screenshots"
KEYS = {"shop": "produce+consume+erase", "desk": "consume", "till": "produce"}
HURRY = "window.wait = setTimeout; setTimeout = (act, ms) => wait(act, ms / 10);"  # the page refreshes every 3 s
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; on Debian and Ubuntu: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def system(receiver: Receiver) -> Iterator[Run]:
    digests = {name: hashlib.sha256(f"{name}-key".encode()).hexdigest() for name in KEYS}
    with running(
        key="shop-key",
        API_KEYS=",".join(f"{name}:{digests[name]}:{scopes}" for name, scopes in KEYS.items()),
        ZAPIER_WEBHOOK_URL=receiver.url,
        SUBSCRIPTION_HOSTS="127.0.0.1",
        SUBSCRIPTION_DISABLE_DAYS="0.00001",
        MAX_DELIVERY_ATTEMPTS="2",
        BACKOFF_BASE_SECONDS="0.5",
    ) as system:
        yield system


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def axe() -> str:
    """Return the script of axe-core, installed with npm if it is not there."""
    folder = Path(__file__).parent
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists() and not shutil.which("npm"):
        pytest.skip("no npm; on Debian and Ubuntu: apt-get install npm")
    if not script.exists():
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(command, cwd=folder, check=True, timeout=100)
    return script.read_text(encoding="utf-8")


class Console:
    """A tab with the console. `faults` is what it should not do; it must be empty in the end."""

    def __init__(self, context: BrowserContext, system: Run) -> None:
        self.system = system
        self.origin = f"http://127.0.0.1:{system.port}"
        self.faults: list[str] = []
        context.on("page", self._watch)
        self.page = context.new_page()

    def _watch(self, page: Page) -> None:
        allowed = (f"{self.origin}/", "data:")
        page.on("console", lambda message: self._check(message.type not in ("error", "warning"), message.text))
        page.on("pageerror", lambda error: self._check(False, str(error)))
        page.on("request", lambda request: self._check(request.url.startswith(allowed), request.url))

    def open(self, place: str = "/", key: str = "shop-key") -> None:
        self.page.goto(f"{self.origin}/#{place}{'&' if '?' in place else '?'}key={key}")
        self.text("#who").to_be_visible()

    def text(self, selector: str) -> Any:
        return expect(self.page.locator(selector))

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def row(self, event: dict[str, Any]) -> Locator:
        return self.page.locator(f"#rows a[href='#/events/{event['event_id']}']")

    def api(self, method: str, path: str, **body: Any) -> Any:
        return json.loads(self.system.call(method, path, json.dumps(body))[2])

    def post(self, event_type: str, **members: Any) -> Any:
        given = {"payload": {"order_id": "12345"}, "metadata": {"source": "shop"}, **members}
        return self.api("POST", "/events", event_type=event_type, **given)

    def press(self, name: str, confirmation: str = "") -> None:
        self.button(name).click()
        self.page.get_by_role("dialog").get_by_role("button", name=confirmation or name).click()

    def forgive(self, text: str) -> None:
        """Expect faults with this text, and no others so far."""
        assert {text in fault for fault in self.faults} == {True}
        self.faults.clear()

    def check_looks(self, name: str, axe: str) -> None:
        """Take screenshots, and look for faults of accessibility, light and dark."""
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        self.page.evaluate(axe)
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            self.page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}.png", full_page=True)
            found = self.page.evaluate("axe.run()")["violations"]
            assert [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found] == []

    def tab_through(self, names: str) -> None:
        """Press Tab until an element with the first of these names has the focus, then the next, and so on."""
        node = "document.activeElement"
        text = f"[{node}.closest('label, a, button')?.textContent, {node}.ariaLabel].join()"
        for name in names.split(","):
            for _ in range(60):
                self.page.keyboard.press("Tab")
                if name in self.page.evaluate(text):
                    break
            assert name in self.page.evaluate(text), f"Tab does not reach {name}"

    def _check(self, is_right: bool, text: str) -> None:
        if not is_right:
            self.faults.append(text)


@pytest.fixture
def console(browser: Browser, system: Run, receiver: Receiver) -> Iterator[Console]:
    receiver.default = status(200)
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.add_init_script(HURRY)
    expect.set_options(timeout=20_000)
    console = Console(context, system)
    yield console
    console.page.unroute_all(behavior="ignoreErrors")  # of a poll that is under way
    context.close()
    for one in console.api("GET", "/subscriptions")["subscriptions"]:
        system.call("DELETE", f"/subscriptions/{one['subscription_id']}")
    assert console.faults == []


# The key


def test_a_key_that_is_typed_opens_the_list_until_it_is_forgotten(console: Console) -> None:
    page = console.page
    page.goto(console.origin)
    page.keyboard.press("Tab")
    page.keyboard.type("shop-key")
    page.keyboard.press("Enter")
    console.text("#who").to_have_text("shop on dev")

    console.button("Forget key").click()

    expect(page.get_by_label("API key")).to_be_focused()
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [0, 0, ""]


@pytest.mark.parametrize("fragment", ["key={key}", "/events/{id}?key={key}", "/?event_type=order.linked&key={key}"])
def test_a_key_in_the_address_is_removed_at_once_and_survives_a_reload(console: Console, fragment: str) -> None:
    event = console.post("order.linked")

    console.page.goto(f"{console.origin}/#" + fragment.format(key="shop-key", id=event["event_id"]))
    console.page.reload()

    console.text("#who").to_have_text("shop on dev")
    assert "shop-key" not in console.page.evaluate("location.href")
    expect(console.page.get_by_role("heading", name="order.linked")).to_be_visible(visible="{id}" in fragment)


def test_a_link_asks_before_its_key_replaces_one_in_use(console: Console) -> None:
    console.open()
    use_link = "location.hash = '#/subscriptions?key=desk-key'"

    console.page.evaluate(use_link)
    assert "desk-key" not in console.page.evaluate("location.href")
    console.button("Cancel").click()
    expect(console.page.get_by_role("heading", name="Subscriptions")).to_be_visible()
    console.text("#who").to_have_text("shop on dev")
    console.page.evaluate(use_link)
    console.button("Use it").click()

    console.text("#who").to_have_text("desk on dev")


def test_a_row_opened_in_a_new_tab_has_the_key_and_forgets_it_with_the_first(console: Console) -> None:
    event = console.post("order.tab")
    console.open()

    with console.page.context.expect_page() as opened:
        console.row(event).click(modifiers=["ControlOrMeta"])
    tab = opened.value

    expect(tab.get_by_role("heading", name="order.tab")).to_be_visible()
    assert "shop-key" not in tab.evaluate("location.href + JSON.stringify(localStorage) + document.cookie")
    console.button("Forget key").click()
    expect(tab.get_by_label("API key")).to_be_visible()


@pytest.mark.parametrize(("key", "said"), [("wrong…", "is not accepted"), ("till-key", "lacks the scope consume")])
def test_a_key_that_may_not_read_says_so(console: Console, key: str, said: str) -> None:
    console.page.goto(f"{console.origin}/#key={key}")

    expect(console.page.get_by_role("alert")).to_contain_text(said)
    assert console.page.evaluate("sessionStorage.length") == 0
    if key != "till-key":
        console.forgive("status of 401")


# The list


def test_a_new_event_appears_by_itself_and_what_is_there_stays(console: Console) -> None:
    first = console.post("order.first")
    console.open()
    console.row(first).focus()
    console.row(first).evaluate("node => { node.isSame = true; }")

    second = console.post("order.second", tenant="acme")

    expect(console.row(second)).to_have_text(re.compile(r"order\.second\s+for acme, after [\d.]+ m?s\s+1 attempt"))
    expect(console.row(first)).to_be_focused()
    assert console.row(first).evaluate("node => node.isSame")
    assert re.search(r"\d+ delivered", console.page.get_by_role("img").get_attribute("aria-label") or "")


def test_counts_never_claim_more_than_was_counted(console: Console) -> None:
    event = console.post("order.counted")
    held: list[Route] = []

    def answer(route: Route) -> None:
        if "status=delivered" in route.request.url and not held:
            held.append(route)
        elif "status=failed" in route.request.url:
            rows = [{**event, "status": "failed", "event_id": f"evt_{next(numbers):032x}"} for _ in range(100)]
            route.fulfill(json={"events": rows, "next_cursor": "more"})
        else:
            route.continue_()

    numbers = itertools.count()
    console.page.route("**/events?*", answer)
    console.open(f"/?since={event['created_at']}")

    console.text("#failed b").to_have_text("500+")
    console.text("#delivered b").to_have_text("…")
    held[0].continue_()
    console.text("#delivered b").to_have_text("1")


def test_filters_are_in_the_address_and_reload_and_back_work(console: Console, receiver: Receiver) -> None:
    page = console.page
    receiver.script(status(422))
    failed = console.post("refund.made", tenant="acme")
    console.post("refund.made", tenant="other")
    console.post("refund.meant", tenant="acme")
    console.open()
    page.get_by_label("Tenant").fill("acme")
    page.get_by_label("Event type").fill("refund.m")  # a partial word is the beginning of a type
    console.text("#rows li").to_have_count(2)
    console.button("failed").click()
    console.text("#rows li").to_have_count(1)
    expect(console.row(failed)).to_contain_text("receiver responded 422")
    address = page.evaluate("location.hash")
    assert address == "#/?event_type=refund.m*&status=failed&tenant=acme"

    page.reload()

    console.text("#rows li").to_have_count(1)
    expect(page.get_by_label("Event type")).to_have_value("refund.m*")
    console.row(failed).click()
    page.get_by_role("link", name="All events").click()
    assert page.evaluate("location.hash") == address
    expect(console.row(failed)).to_be_focused()
    console.button("failed").click()
    console.text("#rows li").to_have_count(2)
    page.go_back()
    console.text("#rows li").to_have_count(1)
    console.button("Clear filters").click()
    assert page.evaluate("location.hash") == "#/"


def test_a_refused_filter_is_explained_beside_the_field(console: Console) -> None:
    event = console.post("order.refused")
    console.open()
    console.row(event).wait_for()

    console.page.get_by_label("Event type").fill("order created")

    expect(console.page.get_by_role("alert")).to_contain_text("It must be an event type, or a prefix followed by *")
    expect(console.page.get_by_label("Event type")).to_have_attribute("aria-invalid", "true")
    expect(console.row(event)).to_be_visible()
    console.page.get_by_label("Event type").fill("order")
    expect(console.page.get_by_role("alert")).to_have_count(0)
    console.forgive("status of 400")


def test_events_are_filtered_by_time(console: Console) -> None:
    event = console.post("order.timed")
    hour = f"{event['created_at'][:13]}:00"
    console.open(f"/?event_type=order.timed&since={hour}:00Z")
    console.row(event).wait_for()

    console.page.get_by_label("Until").fill(hour)

    console.text("#empty p").to_have_text("No event matches.")
    console.page.get_by_label("Until").fill("2099-01-01T00:00")
    expect(console.row(event)).to_be_visible()


def test_the_list_goes_on_with_older_events_and_keeps_them_on_reload(console: Console) -> None:
    for _ in range(51):
        console.post("order.many")
    console.open("/?event_type=order.many")
    console.text("#rows li").to_have_count(50)

    console.button("Load older events").click()
    console.page.reload()

    console.text("#rows li").to_have_count(51)


def test_an_event_is_found_by_its_id_and_what_is_none_says_so(console: Console) -> None:
    event = console.post("order.found")
    console.open()
    find = console.page.get_by_label("Find by id")
    find.fill("evt_123")
    find.press("Enter")
    expect(console.page.get_by_role("heading", name="An event's id is evt_ or cpy_ and 32 characters")).to_be_focused()

    find.fill(f" {event['event_id']} ")
    find.press("Enter")

    expect(console.page.get_by_role("heading", name="order.found")).to_be_focused()
    find.fill("evt_" + "0" * 32)
    find.press("Enter")
    expect(console.page.get_by_role("heading", name="There is no event evt_000")).to_be_focused()
    console.forgive("status of 404")


def test_all_that_match_are_replayed_once_confirmed(console: Console, receiver: Receiver, axe: str) -> None:
    receiver.default = status(404)
    events = [console.post("bulk.failed", tenant="acme")["event_id"] for _ in range(30)]
    console.open("/?event_type=bulk.failed&status=failed")
    console.text("#rows li").to_have_count(30)
    console.check_looks("list", axe)
    receiver.default = status(200)
    before = len(receiver.requests)
    console.button("Replay all that match").click()
    expect(console.page.get_by_role("dialog")).to_contain_text("Replay 30 events?")
    console.check_looks("dialog", axe)
    console.button("Cancel").click()
    console.page.evaluate("void (setTimeout = wait)")  # four a second, as people see it
    console.press("Replay all that match", "Replay")
    console.text("#job-title").to_contain_text(re.compile(r"Replaying: \d+ of 30 events"))

    console.button("Stop").click()

    console.text("#job-title").to_have_text(re.compile(r"Replayed \d+ of 30 events, then stopped"))
    console.button("Close").click()
    console.press("Replay all that match", "Replay")
    console.text("#job-title").to_have_text(re.compile(r"Replayed ([1-9]\d?) of \1 events"))
    console.text("#failed b").to_have_text("0")
    assert sorted(request.json()["event_id"] for request in receiver.requests[before:]) == sorted(events)


# One event


def test_a_failing_event_is_watched_to_its_end_and_replayed(console: Console, receiver: Receiver, axe: str) -> None:
    page = console.page
    receiver.script(status(503, headers={"Retry-After": "4"}, body=b"database is down"))
    receiver.default = status(503, body=b"database is down")
    event = console.post("order.created")
    console.open()
    expect(console.row(event)).to_contain_text("receiver responded 503, next attempt")

    console.row(event).press("Enter")

    expect(page.get_by_role("heading", name="order.created")).to_be_focused()
    attempt = "1: retry, receiver responded 503, took .*database is down.*"
    console.text("#steps").to_contain_text(re.compile(attempt + r"Next attempt in \d s"))
    console.text("#announcement").to_contain_text("Not delivered: attempt 2")
    console.text("#steps").to_contain_text(re.compile(attempt + "Attempt 2, after .*: retry, .*, same response"))
    console.text("#timeline").to_contain_text(re.compile("1: 503.*2: 503.*dead letter"))
    console.check_looks("event", axe)

    receiver.default = status(200)
    console.press("Replay")

    console.text("#answer").to_contain_text("202 Accepted.")
    console.text("#steps").to_contain_text("Attempt 3, replayed after")
    page.go_back()
    expect(console.row(event)).to_be_focused()
    expect(console.row(event)).to_contain_text("delivered order.created")


def test_a_leased_event_shows_its_lease_and_is_not_replayed(console: Console, receiver: Receiver) -> None:
    receiver.default = status(503, headers={"Retry-After": "60"})
    event = console.post("order.leased")
    lease = '{"event_type": "order.leased", "lease_seconds": 60}'
    assert event["event_id"] in console.system.call("POST", "/inbox/lease", lease)[2].decode()
    console.open(f"/events/{event['event_id']}")
    console.text("#steps").to_contain_text(re.compile(r"Held by a push or a lease that ends in \d+ s"))

    console.press("Replay")

    console.text("#answer").to_contain_text(re.compile(r"409 Conflict\..*Try again in \d+ s"))
    console.forgive("status of 409")


def test_an_event_is_erased_if_the_key_may(console: Console) -> None:
    event = console.post("order.personal")
    console.open(f"/events/{event['event_id']}", key="desk-key")
    console.text("#replay").to_be_visible()
    console.text("#erase").to_be_hidden()
    console.button("Forget key").click()
    console.open(f"/events/{event['event_id']}")

    console.press("Erase")

    expect(console.page.get_by_role("heading", name=f"Erased: {event['event_id']}")).to_be_visible()
    assert console.system.call("GET", f"/events/{event['event_id']}")[0] == 404


def test_id_payload_and_a_curl_without_the_key_are_copied(console: Console) -> None:
    event = console.post("order.copied", payload={"big": 12345678901234567890123})
    console.open(f"/events/{event['event_id']}")
    copied = []

    for name in ("id", "curl", "payload"):
        console.button(f"Copy {name}").click()
        console.text("#announcement").to_have_text("Copied")
        copied.append(console.page.evaluate("navigator.clipboard.readText()"))

    curl = f"""curl -sS '{console.origin}/events/{event["event_id"]}' -H "Authorization: Bearer $TRIGGERS_API_KEY\""""
    assert copied == [event["event_id"], curl, '{\n  "big": 12345678901234567890123\n}']


def test_what_an_event_carries_is_shown_and_never_run(console: Console, receiver: Receiver) -> None:
    receiver.default = status(404, body=HOSTILE.encode())
    console.api("POST", "/subscriptions", target_url=receiver.url, name=HOSTILE)
    payload = {HOSTILE: [HOSTILE], "__proto__": {"big": 12345678901234567890123}}
    event = console.post("javascript:window.hacked", payload=payload)
    console.open()

    console.row(event).click()

    console.text("#payload").to_have_text(json.dumps(payload, indent=2))
    console.text(".response:not([hidden])").to_have_text(HOSTILE)
    console.text("#event-copies .type").to_contain_text(HOSTILE)
    console.page.get_by_role("link", name="Subscriptions").click()
    expect(console.page.get_by_role("heading", name=HOSTILE)).to_be_visible()
    console.button("Send test").click()
    console.text("#subscriptions .note").to_contain_text(HOSTILE)
    console.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'hacked = 1'}))")
    assert console.page.evaluate("[window.hacked, document.images.length]") == [None, 0]
    console.forgive("Content Security Policy")


# Copies and subscriptions


def test_copies_are_left_out_until_asked_for_and_name_their_subscription(console: Console, receiver: Receiver) -> None:
    page = console.page
    label = r"CRM \(127\.0\.0\.1 …[0-9a-f]{6}\)"
    for event_types in (["copied.*"], ["copied.once"]):
        console.api("POST", "/subscriptions", target_url=receiver.url, name="CRM", event_types=event_types)
    receiver.default = status(422)
    event = console.post("copied.once")
    console.open("/?event_type=copied.once")
    console.text("#rows li").to_have_count(1)

    page.get_by_label("Copies").select_option("shown")

    console.text("#rows li").to_have_count(3)
    expect(page.locator("#rows li", has_text=re.compile(f"to {label}, receiver responded 422"))).to_have_count(2)
    labels = set(re.findall(label, page.locator("#rows").inner_text()))
    assert len(labels) == 2
    page.get_by_label("Subscription").select_option(min(labels))
    console.text("#rows li").to_have_count(1)
    page.locator("#rows a").click()
    page.locator("#facts").get_by_role("link", name=event["event_id"]).click()
    expect(page.locator("#event-copies li", has_text=re.compile(f"failed\\s+{label}\\s+receiver"))).to_have_count(2)


def test_subscriptions_are_tested_enabled_and_deleted(console: Console, receiver: Receiver, axe: str) -> None:
    page = console.page
    given = {"target_url": receiver.url, "name": "Ledger", "event_types": ["ledger.*"], "tenant": "acme"}
    path = "/subscriptions/" + console.api("POST", "/subscriptions", **given)["subscription_id"]
    receiver.default = status(422, body=b"no such account")
    console.post("ledger.booked", tenant="acme")
    console.open("/subscriptions")
    console.text("#nobody").to_contain_text("There are none without a tenant.")

    page.get_by_label("Tenant").fill("acme")

    item = page.locator("#subscriptions li", has=page.get_by_role("heading", name="Ledger"))
    expect(item).to_contain_text(re.compile(r"failing since [0-9: .-]+ UTC\s*Host127.0.0.1Typesledger\.\*Tenantacme"))
    while not console.api("GET", path)["disabled_at"]:
        console.post("ledger.booked", tenant="acme")
    expect(item).to_contain_text("disabled ")
    console.button("Send test").click()
    expect(item).to_contain_text(re.compile("Test: failed, receiver responded 422, took .* ms: no such account"))
    console.check_looks("subscriptions", axe)
    console.button("Enable").press("Enter")
    expect(item).to_contain_text("active")
    expect(console.button("Send test")).to_be_focused()
    item.get_by_role("link", name="Its events").click()
    expect(page.locator("#rows li").first).to_contain_text("to Ledger")
    page.go_back()
    console.press("Delete")
    console.text("#nobody").to_contain_text("acme has no subscriptions.")
    assert console.system.call("GET", path)[0] == 404


# Looks, keyboard, trouble


def test_every_action_is_reached_by_keyboard(console: Console, receiver: Receiver) -> None:
    press = console.page.keyboard.press
    console.api("POST", "/subscriptions", target_url=receiver.url, event_types=["none"])
    receiver.default = status(404)
    console.post("keys.pressed")
    console.open("/?event_type=keys.pressed&status=failed")
    console.text("#rows li").to_have_count(1)
    names = "Events,Find,Forget,pending,Event type,Tenant,From,Until,Subscription,Copies,Clear,keys.pressed"
    console.tab_through(names)
    press("Enter")
    expect(console.page.get_by_role("heading", name="keys.pressed")).to_be_focused()
    console.tab_through("Replay,Acknowledge")
    press("Enter")
    press("Escape")
    console.text("#status").to_have_text("failed")
    press("Enter")
    console.tab_through("Cancel,Acknowledge")
    press("Enter")
    console.text("#answer").to_contain_text("204 No Content.")
    expect(console.button("Replay")).to_be_focused()
    console.tab_through("Erase,Copy id,Copy curl,Copy payload,Subscriptions")
    press("Enter")
    console.text("#subscriptions li").to_have_count(1)
    console.tab_through("Tenant,Send test,Delete,Its events")


def test_it_fits_a_phone_under_a_stage_path(console: Console, receiver: Receiver, axe: str) -> None:
    receiver.default = status(404, body=b"x" * 200)
    event = console.post("x" * 128, payload={"long": "y" * 500}, tenant="z" * 128)
    page = console.page
    page.set_viewport_size({"width": 390, "height": 800})
    # As API Gateway does with the stage `api`; the page is opened without a slash at its end.
    page.route("**/api**", lambda route: route.fulfill(response=route.fetch(url=route.request.url.replace("/api", ""))))
    page.goto(f"{console.origin}/api")
    console.check_looks("phone-login", axe)
    page.goto(f"{console.origin}/api#key=shop-key")
    console.row(event).wait_for()
    console.check_looks("phone-list", axe)

    console.row(event).click()

    console.text("#status").to_have_text("failed")
    console.check_looks("phone-event", axe)


def test_an_api_that_does_not_respond_is_told_and_tried_again(console: Console) -> None:
    event = console.post("order.before")
    console.open()
    console.row(event).wait_for()

    console.page.route("**/events?*", lambda route: route.abort())

    console.text("#banner").to_contain_text("The API does not respond")
    expect(console.row(event)).to_be_visible()
    console.page.unroute("**/events?*")
    console.text("#banner").to_be_hidden()
    console.forgive("ERR_FAILED")
