"""The console page in a real browser, against the whole system as `make run` starts it."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.receiver import Receiver, status
from tests.support.running import ROOT, Run, running

CHROMIUM = shutil.which("chromium")
SCREENSHOTS = ROOT / "build" / "screenshots"
KEY, PRODUCER_KEY = "console-key", "producer-key"
HURRY = "const wait = setTimeout; setTimeout = (act, ms) => wait(act, ms / 10);"  # the page refreshes every 3 s
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
    digest, producer_digest = (hashlib.sha256(key.encode()).hexdigest() for key in (KEY, PRODUCER_KEY))
    with running(
        key=KEY,
        API_KEYS=f"shop:{digest},till:{producer_digest}:produce",
        ZAPIER_WEBHOOK_URL=receiver.url,
        SUBSCRIPTION_HOSTS="127.0.0.1",
        MAX_DELIVERY_ATTEMPTS="2",
        BACKOFF_BASE_SECONDS="0.5",
    ) as system:
        yield system


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


class Console:
    """A tab with the console. `faults` is what it should not do; it must be empty in the end."""

    def __init__(self, page: Page, system: Run) -> None:
        self.page = page
        self.system = system
        self.origin = f"http://127.0.0.1:{system.port}"
        self.faults: list[str] = []
        allowed = (f"{self.origin}/", "data:")
        page.on("console", lambda message: self._check(message.type not in ("error", "warning"), message.text))
        page.on("pageerror", lambda error: self._check(False, str(error)))
        page.on("request", lambda request: self._check(request.url.startswith(allowed), request.url))

    def open(self, fragment: str = "/", key: str = KEY) -> None:
        self.page.goto(f"{self.origin}/#{fragment}?key={key}")

    def text(self, selector: str) -> Any:
        return expect(self.page.locator(selector))

    def row(self, event: dict[str, Any]) -> Any:
        return self.page.locator(f"#rows a[href='#/events/{event['event_id']}']")

    def post(self, event_type: str, payload: str = '{"order_id": "12345"}') -> Any:
        body = f'{{"event_type": "{event_type}", "payload": {payload}, "metadata": {{"source": "shop"}}}}'
        return json.loads(self.system.call("POST", "/events", body)[2])

    def press(self, action: str) -> None:
        self.page.get_by_role("button", name=action).click()
        self.page.get_by_role("dialog").get_by_role("button", name=action).click()

    def forgive(self, text: str) -> None:
        """Expect faults with this text, and no others so far."""
        assert {text in fault for fault in self.faults} == {True}
        self.faults.clear()

    def take_screenshots(self, name: str) -> None:
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            self.page.screenshot(path=SCREENSHOTS / f"{name}-{scheme}.png", full_page=True)

    def _check(self, is_right: bool, text: str) -> None:
        if not is_right:
            self.faults.append(text)


@pytest.fixture
def console(browser: Browser, system: Run, receiver: Receiver) -> Iterator[Console]:
    receiver.default = status(200)
    context = browser.new_context(viewport={"width": 1100, "height": 800})
    context.add_init_script(HURRY)
    expect.set_options(timeout=30_000)
    console = Console(context.new_page(), system)
    yield console
    context.close()
    assert console.faults == []


def test_a_key_that_is_typed_opens_the_list_until_it_is_forgotten(console: Console) -> None:
    page = console.page
    page.goto(console.origin)
    page.keyboard.press("Tab")
    page.keyboard.type(KEY)
    page.keyboard.press("Enter")
    console.text("#who").to_have_text("shop on dev")
    page.reload()
    console.text("#who").to_have_text("shop on dev")

    page.get_by_role("button", name="Forget key").click()

    expect(page.get_by_label("API key")).to_be_focused()
    console.text("#who").to_be_hidden()
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [0, 0, ""]


@pytest.mark.parametrize("fragment", ["key={key}", "/events/{id}?key={key}"])
def test_a_key_in_the_address_is_taken_and_removed_at_once(console: Console, fragment: str) -> None:
    event = console.post("order.linked")

    console.page.goto(f"{console.origin}/#" + fragment.format(key=KEY, id=event["event_id"]))

    console.text("#who").to_have_text("shop on dev")
    assert KEY not in console.page.evaluate("location.href")
    expect(console.page.get_by_role("heading", name="order.linked")).to_be_visible(visible="{id}" in fragment)


@pytest.mark.parametrize(
    ("key", "said"),
    [("wrong", "is not accepted"), ("wrong…", "is not accepted"), (PRODUCER_KEY, "lacks the scope consume")],
)
def test_a_key_that_may_not_read_says_so(console: Console, key: str, said: str) -> None:
    console.open(key=key)

    expect(console.page.get_by_role("alert")).to_contain_text(said)
    assert console.page.evaluate("sessionStorage.length") == 0
    if key != PRODUCER_KEY:
        console.forgive("status of 401")


def test_a_new_event_appears_by_itself_and_what_is_there_stays(console: Console) -> None:
    first = console.post("order.first")
    console.open()
    console.row(first).focus()
    console.row(first).evaluate("node => { node.isSame = true; }")

    second = console.post("order.second")

    expect(console.row(second)).to_have_text(re.compile(r"delivered order\.second after [\d.]+ m?s 1 attempt"))
    expect(console.row(first)).to_be_focused()
    assert console.row(first).evaluate("node => node.isSame")
    assert re.search(r"\d+ delivered", console.page.get_by_role("img").get_attribute("aria-label") or "")


def test_a_failing_event_is_watched_to_its_dead_letter_and_replayed(console: Console, receiver: Receiver) -> None:
    page = console.page
    receiver.script(status(503, headers={"Retry-After": "4"}, body=b"database is down"))
    receiver.default = status(503, body=b"database is down")
    event = console.post("order.created")
    console.open()
    expect(console.row(event)).to_contain_text("pending order.created next attempt")

    console.row(event).press("Enter")

    expect(page.get_by_role("heading", name="order.created")).to_be_focused()
    console.text("#timeline").to_contain_text("1: 503")
    console.text("#steps").to_contain_text(
        re.compile("Attempt 1: retry, receiver responded 503, took .*database is down")
    )
    console.text("#steps").to_contain_text(re.compile(r"Next attempt in \d s"))
    console.text("#status").to_have_text("failed")
    console.text("#announcement").to_contain_text("Not delivered: attempt 2")
    console.text("#steps").to_contain_text(re.compile("Attempt 2, after .*: retry, .*, same response"))
    console.text("#timeline").to_contain_text("dead letter")
    console.take_screenshots("dead-letter")
    labels = page.locator("#timeline text").all_text_contents()
    assert len(labels) == len(set(labels)) > 4

    receiver.default = status(200)
    console.press("Replay")

    console.text("#answer").to_contain_text("202 Accepted.")
    console.text("#status").to_have_text("delivered")
    console.text("#steps").to_contain_text("Attempt 3, replayed after")
    page.go_back()
    expect(console.row(event)).to_be_focused()
    expect(console.row(event)).to_contain_text("delivered order.created")


def test_an_event_is_acknowledged_only_after_a_confirmation(console: Console, receiver: Receiver) -> None:
    receiver.default = status(404)
    console.open(f"/events/{console.post('order.refused')['event_id']}")
    console.page.get_by_role("button", name="Acknowledge").press("Enter")
    console.page.keyboard.press("Escape")
    console.text("#status").to_have_text("failed")

    console.press("Acknowledge")

    console.text("#answer").to_contain_text("204 No Content.")
    console.text("#status").to_have_text("delivered")
    console.text("#timeline").to_contain_text("acknowledged")


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


def test_what_an_event_carries_is_shown_and_never_run(console: Console, receiver: Receiver) -> None:
    receiver.default = status(404, body=HOSTILE.encode())
    payload = json.dumps({HOSTILE: [HOSTILE], "__proto__": {"big": 12345678901234567890123}})
    event = console.post("javascript:window.hacked", payload)
    console.open()

    console.row(event).click()

    console.text("#payload").to_have_text(json.dumps(json.loads(payload), indent=2))
    console.text(".response:not([hidden])").to_have_text(HOSTILE)
    assert console.page.evaluate("[window.hacked, document.images.length]") == [None, 0]
    console.page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'hacked = 1'}))")
    assert console.page.evaluate("window.hacked") is None
    console.forgive("Content Security Policy")


def test_the_list_is_filtered_and_goes_on_with_older_events(console: Console, receiver: Receiver) -> None:
    page = console.page
    for _ in range(51):
        console.post("order.many")
    receiver.default = status(404)
    failed = console.post("order.many")
    console.open()
    page.get_by_label("Event type").fill("order.many")
    console.text("#rows li").to_have_count(50)
    page.get_by_role("button", name="Load older events").click()
    console.text("#rows li").to_have_count(52)

    page.get_by_role("button", name="failed").click()

    console.text("#rows li").to_have_count(1)
    expect(console.row(failed)).to_be_visible()
    page.get_by_label("Event type").fill("order.none")
    console.text("#empty p").to_have_text("No event matches.")


def test_copies_of_a_subscription_are_filtered_and_linked(console: Console, receiver: Receiver) -> None:
    subscription = json.dumps({"target_url": receiver.url, "event_types": ["copied.*"]})
    assert console.system.call("POST", "/subscriptions", subscription)[0] == 201
    [copy_id] = console.post("copied.once")["copies"]
    console.open()

    console.page.get_by_label("Subscription").select_option("127.0.0.1: copied.*")

    console.text("#rows li").to_have_count(1)
    expect(console.row({"event_id": copy_id})).to_contain_text("to 127.0.0.1")
    console.row({"event_id": copy_id}).click()
    console.page.locator("#facts a").click()
    console.text("#facts a").to_have_text(copy_id)


def test_it_fits_a_phone_under_a_stage_path(console: Console, receiver: Receiver) -> None:
    receiver.default = status(404, body=b"x" * 200)
    event = console.post("x" * 128, json.dumps({"long": "y" * 500}))
    page = console.page
    page.set_viewport_size({"width": 390, "height": 800})
    # As API Gateway does with the stage `api`; the page is opened without a slash at its end.
    page.route("**/api**", lambda route: route.fulfill(response=route.fetch(url=route.request.url.replace("/api", ""))))
    page.goto(f"{console.origin}/api#key={KEY}")
    console.row(event).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    console.take_screenshots("phone-list")

    console.row(event).click()

    console.text("#status").to_have_text("failed")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    console.take_screenshots("phone-event")


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
