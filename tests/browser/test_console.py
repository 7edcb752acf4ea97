"""The console page in a real browser, against the whole system as `make run` starts it."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Route, expect, sync_playwright

from tests.support.receiver import Receiver, status
from tests.support.running import ROOT, Run, running
from tests.support.world import digest

CHROMIUM = shutil.which("chromium")
KEYS = {"shop": "produce+consume+erase", "desk": "consume", "till": "produce"}
HASTY = {"MAX_DELIVERY_ATTEMPTS": "2", "BACKOFF_BASE_SECONDS": "0.5", "SUBSCRIPTION_DISABLE_DAYS": "0.00001"}
HURRY = "window.wait = setTimeout; setTimeout = (act, ms) => wait(act, ms / 10);"  # the page refreshes every 3 s
FOCUSED = (
    "(node => [node.closest('label, a, button, summary')?.textContent, node.ariaLabel].join())(document.activeElement)"
)
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
    keys = ",".join(f"{name}:{digest(f'{name}-key')}:{scopes}" for name, scopes in KEYS.items())
    own = {"API_KEYS": keys, "ZAPIER_WEBHOOK_URL": receiver.url, "SUBSCRIPTION_HOSTS": "127.0.0.1"}
    with running(key="shop-key", **own, **HASTY) as system:
        yield system


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def axe() -> str:
    """Return the script of axe-core, installed with npm if it is not there."""
    folder = ROOT / "tests" / "browser"
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.exists():
        if not shutil.which("npm"):
            pytest.skip("no npm; on Debian and Ubuntu: apt-get install npm")
        command = "npm ci --ignore-scripts --no-audit --no-fund --loglevel=error"
        subprocess.run(command.split(), cwd=folder, check=True, timeout=100)
    return script.read_text(encoding="utf-8")


class Console:
    """A tab with the console. `faults` is what it should not do; it must be empty in the end."""

    def __init__(self, context: BrowserContext, system: Run) -> None:
        self.system = system
        self.origin = f"http://127.0.0.1:{system.port}"
        self.faults: list[str] = []
        allowed = (f"{self.origin}/", "data:")
        context.on("console", lambda message: self._check(message.type not in ("error", "warning"), message.text))
        context.on("weberror", lambda error: self._check(False, str(error.error)))
        context.on("request", lambda request: self._check(request.url.startswith(allowed), request.url))
        context.on("response", lambda answer: self._check(answer.status != 403, f"403: {answer.url}"))
        self.page = context.new_page()

    def open(self, place: str = "/", key: str = "shop-key") -> None:
        self.page.goto(f"{self.origin}/#{place}{'&' if '?' in place else '?'}key={key}")
        self.text("#who").to_be_visible()

    def text(self, selector: str) -> Any:
        return expect(self.page.locator(selector))

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def buttons(self) -> list[str]:
        """Return the names of the buttons that can be seen."""
        return [button.inner_text() for button in self.page.get_by_role("button").all() if button.is_visible()]

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
            self.page.screenshot(path=ROOT / f"build/screenshots/{name}-{scheme}.png", full_page=True)
            assert self.page.evaluate("axe.run().then(found => found.violations)") == []

    def tab_through(self, names: str) -> None:
        """Press Tab until an element with the first of these names has the focus, then the next, and so on."""
        for name in names.split(","):
            for _ in range(60):
                self.page.keyboard.press("Tab")
                if name in self.page.evaluate(FOCUSED):
                    break
            assert name in self.page.evaluate(FOCUSED), f"Tab does not reach {name}"

    def _check(self, is_right: bool, text: str) -> None:
        if not is_right:
            self.faults.append(text)


@pytest.fixture
def console(browser: Browser, system: Run, receiver: Receiver) -> Iterator[Console]:
    receiver.default = status(200)
    permissions = ["clipboard-read", "clipboard-write"]
    context = browser.new_context(viewport={"width": 1100, "height": 800}, permissions=permissions)
    context.add_init_script(HURRY)
    expect.set_options(timeout=20_000)
    console = Console(context, system)
    yield console
    assert console.page.evaluate("[window.hacked, document.images.length]") == [None, 0]
    console.page.goto("about:blank")  # a poll would miss the routes
    console.page.unroute_all(behavior="ignoreErrors")
    context.close()
    for query in ("", "?tenant=acme", "?tenant=other"):
        for one in console.api("GET", f"/subscriptions{query}")["subscriptions"]:
            system.call("DELETE", f"/subscriptions/{one['subscription_id']}")
    assert console.faults == []


# The key


def test_only_a_key_that_may_read_opens_the_page_until_it_is_forgotten(console: Console) -> None:
    page, event = console.page, console.post("order.linked")
    page.goto(console.origin)
    page.keyboard.press("Tab")
    for key, said in (("wrong…", "is not accepted"), ("till-key", "lacks the scope consume")):
        page.keyboard.type(key)
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text(said)
    page.keyboard.type("shop-key")
    page.keyboard.press("Enter")
    console.text("#who").to_have_text("shop on dev")
    console.forgive("status of 401")
    # In a link it leaves the address at once, and asks before it replaces another.
    for place in ("/", f"/events/{event['event_id']}", "/?event_type=order.linked"):
        console.open(place)
        page.reload()
        console.text("#who").to_have_text("shop on dev")
        assert page.evaluate("location.hash") == f"#{place}"
    for button, who in (("Cancel", "shop on dev"), ("Use it", "desk on dev")):
        page.evaluate("location.hash += '&key=desk-key'")
        assert "desk-key" not in page.evaluate("location.href")
        console.button(button).click()
        console.text("#who").to_have_text(who)
    # A new tab has it, too, and forgets it with the first.
    with page.context.expect_page() as opened:
        console.row(event).click(modifiers=["ControlOrMeta"])
    tab = opened.value
    expect(tab.get_by_role("button", name="Replay")).to_be_visible()
    expect(tab.get_by_role("button", name="Erase")).to_be_hidden()  # the key lacks the scope
    assert "desk-key" not in tab.evaluate("location.href + JSON.stringify(localStorage) + document.cookie")

    console.button("Forget key").click()

    for one in (page, tab):
        expect(one.get_by_label("API key")).to_be_focused()
        assert one.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [0, 0, ""]


# The list


def test_a_new_event_appears_by_itself_once_the_api_responds_again(console: Console) -> None:
    first = console.post("order.first")
    console.open()
    console.row(first).focus()
    console.page.route("**/events?*", lambda route: route.abort())
    console.text("#banner").to_contain_text("The API does not respond")

    second = console.post("order.second", tenant="acme")
    console.page.unroute("**/events?*")

    expect(console.row(second)).to_have_text(re.compile(r"order\.second\s+for acme, after [\d.]+ m?s\s+1 attempt"))
    console.text("#banner").to_be_hidden()
    expect(console.row(first)).to_be_focused()
    assert re.search(r"\d+ delivered", console.page.get_by_role("img").get_attribute("aria-label") or "")
    console.forgive("ERR_FAILED")


def test_counts_never_claim_more_than_was_counted(console: Console) -> None:
    event = console.post("order.counted")
    held: list[Route] = []

    def fill(route: Route) -> None:
        events = [{**event, "event_id": f"evt_{uuid4().hex}"} for _ in range(100)]
        route.fulfill(json={"events": events, "next_cursor": "more"})

    def hold(route: Route) -> None:
        held.append(route)

    console.page.route(re.compile("/events.*status=delivered"), hold, times=1)
    console.page.route(re.compile("/events.*status=failed"), fill)
    console.open(f"/?since={event['created_at']}")

    console.text("#failed b").to_have_text("500+")
    console.text("#delivered b").to_have_text("…")
    held[0].continue_()
    console.text("#delivered b").to_have_text("1")


def test_filters_are_in_the_address_and_a_refused_one_is_explained(console: Console, receiver: Receiver) -> None:
    page = console.page
    receiver.script(status(422))
    failed = console.post("refund.made", tenant="acme")
    console.post("refund.made", tenant="other")
    console.post("refund.meant", tenant="acme")
    event_type, until = page.get_by_label("Event type"), page.get_by_label("Until")
    console.open()
    console.row(failed).wait_for()
    page.get_by_label("Tenant", exact=True).fill("acme")
    event_type.fill("refund m")
    expect(page.get_by_role("alert")).to_contain_text("It must be an event type, or a prefix followed by *")
    expect(event_type).to_have_attribute("aria-invalid", "true")
    console.text("#empty p").to_have_text("Correct the filters.")
    console.text("#rows li").to_have_count(0)
    event_type.fill("refund.m")  # a partial word is the beginning of a type
    until.fill(f"{failed['created_at'][:13]}:00")
    console.text("#empty p").to_have_text("No event matches.")
    until.fill("2099-01-01T00:00")
    console.text("#rows li").to_have_count(2)
    console.button("failed").click()
    console.text("#rows li").to_have_count(1)
    expect(console.row(failed)).to_contain_text("receiver responded 422")
    address = page.evaluate("location.hash")
    assert address == "#/?event_type=refund.m*&status=failed&tenant=acme&until=2099-01-01T00%3A00"

    page.reload()

    console.text("#rows li").to_have_count(1)
    expect(event_type).to_have_value("refund.m*")
    console.row(failed).click()
    page.get_by_role("link", name="All events").click()
    assert page.evaluate("location.hash") == address
    expect(console.row(failed)).to_be_focused()
    console.button("Clear filters").click()
    assert page.evaluate("location.hash") == "#/"
    console.forgive("status of 400")


def test_all_that_match_are_listed_and_replayed(console: Console, receiver: Receiver, axe: str) -> None:
    receiver.default = status(422)
    events = [console.post("bulk.failed", tenant="acme")["event_id"] for _ in range(51)]
    console.open("/?event_type=bulk.failed&status=failed")
    console.text("#rows li").to_have_count(50)
    console.button("Load older events").click()
    console.page.reload()
    console.text("#rows li").to_have_count(51)
    console.check_looks("list", axe)
    receiver.default = status(503, headers={"Retry-After": "5"})  # who counts at once counts pending events
    before = len(receiver.requests)
    console.button("Replay all that match").click()
    expect(console.page.get_by_role("dialog")).to_contain_text("Replay 51 events?")
    console.check_looks("dialog", axe)
    console.button("Cancel").click()
    console.page.evaluate("void (setTimeout = wait)")  # four a second, as people see it
    console.press("Replay all that match", "Replay")
    console.text("#job-title").to_contain_text(re.compile(r"Replaying: [1-9]\d* of 51 events"))

    console.button("Stop").click()

    console.text("#job-title").to_have_text(re.compile(r"Replayed \d+ of 51 events, then stopped"))
    receiver.default = status(200)
    replayed = int(console.page.locator("#job-title").inner_text().split()[1])
    for state, count in (("failed", 51 - replayed), ("pending", 0), ("delivered", replayed)):
        console.text(f"#{state} b").to_have_text(str(count))
    console.page.reload()
    console.press("Replay all that match", "Replay")
    console.text("#job-title").to_have_text(re.compile(r"Replayed ([1-9]\d?) of \1 events"))
    console.text("#delivered b").to_have_text("51")
    assert {request.json()["event_id"] for request in receiver.requests[before:]} == set(events)


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


def test_a_leased_event_is_found_copied_and_erased(console: Console, receiver: Receiver) -> None:
    page = console.page
    receiver.default = status(503, headers={"Retry-After": "60"})
    event_id = console.post("order.leased", payload={"big": 12345678901234567890123})["event_id"]
    console.post("order.other")
    [leased] = console.api("POST", "/inbox/lease", event_type="order.leased", lease_seconds=60)["events"]
    given = {"target_url": receiver.url, "name": "Warehouse", "tenant": "acme", "event_types": ["none"]}
    subscription_id = console.api("POST", "/subscriptions", **given)["subscription_id"]
    console.open("/subscriptions?tenant=acme")
    headings = {
        "order.leased": "Nothing is here. An id is evt_",
        "evt_" + "0" * 32: "There is no evt_",
        "evt_00000": "None of the newest 500",
        f" {event_id} ": "order.leased",
        subscription_id: "Warehouse",
        "sub_" + "0" * 32: "There is no sub_",
        subscription_id[:20]: "Warehouse",
        event_id[:-1]: "order.leased",
    }
    for searched, heading in headings.items():
        page.get_by_label("Find by id").fill(searched)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name=heading)).to_be_visible()
        expect(page.get_by_label("Find by id")).to_have_value("")

    curl = f"""curl -sS '{console.origin}/events/{event_id}' -H "Authorization: Bearer $TRIGGERS_API_KEY\""""
    texts = {"id": event_id, "curl": curl, "payload": '{\n  "big": 12345678901234567890123\n}'}
    for name, text in texts.items():
        console.button(f"Copy {name}").click()
        console.text("#announcement").to_have_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == text
    console.text("#steps").to_contain_text(re.compile(r"Held by a push or a lease that ends in \d+ s"))
    console.forgive("status of 404")
    console.press("Replay")
    console.text("#answer").to_contain_text(re.compile(r"409 Conflict\..*Try again in \d+ s"))
    console.forgive("status of 409")
    console.api("POST", "/inbox/acknowledge", lease_id=leased["lease_id"], event_ids=[event_id])
    console.press("Erase")
    expect(page.get_by_role("heading", name=f"Erased: {event_id}")).to_be_visible()
    assert console.system.call("GET", f"/events/{event_id}")[0] == 404


# Copies and subscriptions


def test_copies_are_shown_if_asked_for_and_what_they_carry_never_runs(console: Console, receiver: Receiver) -> None:
    page = console.page
    for event_types in (["javascript:*"], ["javascript:hacked"]):
        console.api("POST", "/subscriptions", target_url=receiver.url, name=HOSTILE, event_types=event_types)
    receiver.default = status(422, body=HOSTILE.encode())
    payload = {HOSTILE: [HOSTILE], "__proto__": {"big": 12345678901234567890123}}
    event = console.post("javascript:hacked", payload=payload)
    console.open("/?event_type=javascript:hacked")
    console.text("#rows li").to_have_count(1)

    page.get_by_label("Copies").select_option("shown")

    expect(page.locator("#rows li", has_text="receiver responded 422")).to_have_count(3)
    label = rf"to ({re.escape(HOSTILE)} \(127\.0\.0\.1 …[0-9a-f]{{6}}\)), receiver responded 422"
    labels = set(re.findall(label, page.locator("#rows").inner_text()))
    assert len(labels) == 2
    page.get_by_label("Subscription").select_option(min(labels))
    console.text("#rows li").to_have_count(1)
    page.locator("#rows a").click()
    page.locator("#facts").get_by_role("link", name=event["event_id"]).click()
    expect(page.locator("#event-copies li", has_text=HOSTILE)).to_have_count(2)
    console.text("#payload").to_have_text(json.dumps(payload, indent=2))
    console.text(".response:not([hidden])").to_have_text(HOSTILE)
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'hacked = 1'}))")
    console.forgive("Content Security Policy")


def test_subscriptions_are_tested_and_deleted(console: Console, receiver: Receiver, axe: str) -> None:
    given = {"target_url": receiver.url, "name": HOSTILE, "event_types": ["ledger.*"], "tenant": "acme"}
    path = "/subscriptions/" + console.api("POST", "/subscriptions", **given)["subscription_id"]
    receiver.default = status(422, body=HOSTILE.encode())
    console.post("ledger.booked", tenant="acme")
    console.open("/subscriptions")
    console.text("#nobody").to_contain_text("There are none without a tenant.")

    console.page.get_by_label("Tenant", exact=True).fill("acme")

    item = console.page.locator("#subscriptions li", has=console.page.get_by_role("heading", name=HOSTILE))
    expect(item).to_contain_text(re.compile(r"failing since [0-9: .-]+ UTC\s*Host127.0.0.1Typesledger\.\*Tenantacme"))
    console.button("Send test").click()
    expect(item).to_contain_text(re.compile("Test: failed, receiver responded 422, took .* ms: " + re.escape(HOSTILE)))
    expect(item.get_by_role("link", name="Its events")).to_have_attribute("href", f"#/?subscription_id={path[15:]}")
    console.check_looks("subscriptions", axe)
    console.press("Delete")
    console.text("#nobody").to_contain_text("acme has no subscriptions.")
    assert console.system.call("GET", path)[0] == 404


def test_a_subscription_is_made_and_its_secret_is_shown_once(console: Console, receiver: Receiver, axe: str) -> None:
    page = console.page
    console.open("/subscriptions")
    console.text("#nobody").to_contain_text("Add one")
    page.get_by_label("URL").fill("http://evil.example/")
    page.get_by_label("Types").fill("ledger.*, order created")
    page.get_by_label("For tenant").fill("acme")

    page.keyboard.press("Enter")

    console.text("#add [role=alert]:not([hidden])").to_have_count(2)
    expect(page.get_by_label("URL")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("alert").first).to_contain_text("It must be")
    console.check_looks("add-subscription", axe)
    page.get_by_label("URL").fill(receiver.url)
    page.get_by_label("Types").fill("ledger.*, order.created")
    page.get_by_label("Name").fill(HOSTILE)
    page.keyboard.press("Enter")
    expect(console.button("Copy secret")).to_be_focused()
    page.keyboard.press("Enter")
    console.text("#announcement").to_have_text("Copied")
    given = {"target_url": receiver.url, "event_types": ["ledger.*", "order.created"], "tenant": "acme"}
    secret = console.api("POST", "/subscriptions", **given)["secret"]
    assert page.evaluate("navigator.clipboard.readText()") == secret
    expect(page.get_by_role("dialog")).to_contain_text(secret)
    console.check_looks("secret", axe)
    console.button("Done").click()
    console.text("#subscriptions li h2").to_have_text([HOSTILE])  # the list of that tenant
    expect(page.get_by_label("For tenant")).to_have_value("acme")
    assert secret not in page.content()
    console.forgive("status of 400")


@pytest.mark.parametrize("is_customer", [False, True])
def test_events_missed_while_disabled_are_replayed(console: Console, receiver: Receiver, is_customer: bool) -> None:
    page = console.page
    given = {"target_url": receiver.url, "event_types": ["missed.*"], "tenant": "acme"}
    made = console.api("POST", "/subscriptions", **given)
    path = "/subscriptions/" + made["subscription_id"]
    receiver.default = status(422)
    while not console.api("GET", path)["disabled_at"]:
        console.post("missed.one", tenant="acme")
        page.wait_for_timeout(200)
    copies = f"/events?subscription_id={path[15:]}&status="
    while console.api("GET", f"{copies}pending")["events"]:
        pass
    failed = console.api("GET", f"{copies}failed")["events"]

    def fill(route: Route) -> None:
        events = [{**failed[0], "event_id": f"cpy_{uuid4().hex}"} for _ in range(100)]
        route.fulfill(json={"events": events, "next_cursor": "more"})

    page.route(re.compile("/events.*status=failed"), fill, times=1)
    key = console.api("POST", "/tokens", tenant="acme")["token"] if is_customer else "shop-key"
    console.open("/subscriptions?tenant=acme", key)
    expect(page.get_by_role("link", name="100+ events")).to_be_visible()
    console.text("#subscriptions li").to_contain_text("disabled ")
    page.reload()
    page.get_by_role("link", name=re.compile(r"^\d+ events?$")).click()
    expect(page.locator("#rows li").first).to_contain_text("missed.one")
    page.go_back()
    receiver.default = status(200)
    before = len(receiver.requests)

    expect(console.button("Replay missed events")).to_be_hidden()

    console.button("Enable").press("Enter")
    expect(console.button("Replay missed events")).to_be_visible()
    expect(console.button("Send test")).to_be_focused()
    page.reload()

    console.press("Replay missed events", "Replay")
    console.text("#job-title").to_have_text(f"Replayed {len(failed)} of {len(failed)} events")
    expect(console.button("Replay missed events")).to_be_hidden()
    receiver.wait_for(before + len(failed))
    replayed = {request.json()["event_id"] for request in receiver.requests[before:]}
    assert replayed == {event["event_id"] for event in failed}


# A customer's page


@pytest.fixture
def customer(console: Console) -> Console:
    """Return the console as the link of a token for the tenant `acme` opens it."""
    console.open(key=console.api("POST", "/tokens", tenant="acme")["token"])
    expect(console.page.get_by_role("heading", name="Webhooks of acme")).to_be_focused()
    return console


def test_a_token_opens_the_page_of_its_tenant(customer: Console, receiver: Receiver, axe: str) -> None:
    page, press = customer.page, customer.page.keyboard.press
    receiver.default = status(422, body=b"no such account")
    assert page.title() == "acme"
    assert "trt_" not in page.evaluate("location.href + document.body.innerText")
    customer.text("#nobody").to_contain_text("There are no webhooks yet. Add")
    customer.check_looks("customer-empty", axe)
    page.get_by_label("URL").fill(receiver.url)
    page.get_by_label("Name").fill("Ledger")
    press("Enter")
    expect(customer.button("Copy secret")).to_be_focused()
    press("Escape")
    customer.button("Send test").click()
    customer.text("#subscriptions li > p").to_contain_text("Test: failed, receiver responded 422")
    assert customer.buttons() == ["Sign out", "Send test", "Delete"]
    customer.check_looks("customer-webhooks", axe)
    event = customer.post("order.created", tenant="acme")
    customer.post("order.created")

    page.get_by_role("link", name="Its deliveries").click()

    expect(page.get_by_role("heading", name="Deliveries to Ledger")).to_be_focused()
    customer.text("#rows li").to_have_count(1)
    customer.text("#rows li").to_have_text(re.compile(r"failed order\.created\s+receiver responded 422\s+1 attempt"))
    assert customer.buttons() == ["Sign out", "pending", "delivered", "failed", "Replay all that match"]
    assert page.locator("label:visible").all_inner_texts() == ["Event type", "From (UTC)", "Until (UTC)"]
    customer.text("#chart").to_be_hidden()
    customer.text("#banner").to_be_hidden()
    customer.check_looks("customer-deliveries", axe)
    page.locator("#rows a").press("Enter")
    customer.text("#steps").to_contain_text(re.compile("Attempt 1: failed, receiver responded 422.*no such account"))
    customer.text("#facts").to_contain_text(event["copies"][0])
    assert customer.buttons() == ["Sign out", "Replay", "Copy id", "Copy payload"]
    assert "shop" not in page.locator("main").inner_text().replace('"source": "shop"', "")
    customer.check_looks("customer-event", axe)
    receiver.default = status(200)
    customer.press("Replay")
    customer.text("#status").to_have_text("delivered")
    page.get_by_role("link", name="All deliveries").click()
    page.get_by_role("link", name="All webhooks").click()
    customer.press("Delete")
    customer.text("#nobody").to_contain_text("There are no webhooks yet.")


def test_whatever_the_address_a_customer_sees_what_is_its_own(customer: Console, receiver: Receiver) -> None:
    own, other = (
        customer.api("POST", "/subscriptions", target_url=receiver.url, tenant=tenant, name=f"Of {tenant}")
        for tenant in ("acme", "other")
    )
    for place in ("/?tenant=other", "/?status=failed", "/subscriptions?tenant=other", "/"):
        customer.page.goto(f"{customer.origin}/#{place}")
        customer.text("#subscriptions li h2").to_have_text(["Of acme"])
    customer.page.goto(f"{customer.origin}/#/?subscription_id={own['subscription_id']}&tenant=other")
    customer.text("#empty").to_contain_text("Nothing was sent yet")
    event_id, other_id = customer.post("order.created", tenant="acme")["event_id"], other["subscription_id"]
    for place in (
        f"/?subscription_id={other_id}",
        f"/subscriptions/{other_id}",
        f"/events/{event_id}",
        "/events/evt_0",
    ):
        customer.page.goto(f"{customer.origin}/#{place}")
        expect(customer.page.locator("#missing")).to_be_focused()
        customer.text("#missing").not_to_have_text("Searching…")
        customer.page.get_by_role("link", name="All webhooks").click()
        expect(customer.page.get_by_role("heading", name="Webhooks of acme")).to_be_focused()
    customer.forgive("status of 404")


def test_a_new_token_replaces_the_old_one_and_an_ended_one_says_where_to_go(console: Console) -> None:
    console.page.goto(f"{console.origin}/#key=trt_ended.x")
    expect(console.page.get_by_role("heading", name="This page has ended")).to_be_visible()
    expect(console.page.get_by_label("API key")).to_be_hidden()

    for tenant in ("acme", "bolt"):
        console.open("/subscriptions", key=console.api("POST", "/tokens", tenant=tenant)["token"])

        expect(console.page.get_by_role("heading", name=f"Webhooks of {tenant}")).to_be_visible()
    console.forgive("status of 401")


# Keyboard and phone


def test_every_action_is_reached_by_keyboard(console: Console, receiver: Receiver) -> None:
    press = console.page.keyboard.press
    console.api("POST", "/subscriptions", target_url=receiver.url, event_types=["none"])
    receiver.default = status(422)
    console.post("keys.pressed")
    console.open("/?event_type=keys.pressed&status=failed")
    console.text("#rows li").to_have_count(1)
    console.tab_through("Events,Find,Forget,pending,type,Tenant,From,Until,Subscription,Copies,Clear,keys.pressed")
    press("Enter")
    expect(console.page.get_by_role("heading", name="keys.pressed")).to_be_focused()
    console.tab_through("Replay,Acknowledge")
    press("Enter")
    console.tab_through("Cancel,Acknowledge")
    press("Enter")
    console.text("#answer").to_contain_text("204 No Content.")
    expect(console.button("Replay")).to_be_focused()
    console.tab_through("Erase,Copy id,Copy curl,Copy payload,Subscriptions")
    press("Enter")
    console.text("#subscriptions li").to_have_count(1)
    console.tab_through("Tenant,Add a subscription,Send test,Delete,Its events")


def test_it_fits_a_phone_under_a_stage_path(console: Console, receiver: Receiver, axe: str) -> None:
    receiver.default = status(422, body=b"x" * 200)
    tenant = "z" * 128
    console.api("POST", "/subscriptions", target_url=receiver.url, name="w" * 100, tenant=tenant)
    event = console.post("x" * 128, payload={"long": "y" * 500}, tenant=tenant)
    token = console.api("POST", "/tokens", tenant=tenant)["token"]
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
    page.get_by_role("link", name="Subscriptions").click()
    expect(page.get_by_label("URL")).to_be_visible()
    console.check_looks("phone-subscriptions", axe)
    page.evaluate(f"location.hash = '#key={token}'")
    console.button("Use it").click()
    expect(page.get_by_role("heading", name=f"Webhooks of {tenant}")).to_be_focused()
    expect(page.get_by_role("link", name="Its deliveries")).to_be_visible()
    console.check_looks("phone-webhooks", axe)
    page.get_by_role("link", name="Its deliveries").click()
    console.text("#rows li").to_have_count(1)
    console.check_looks("phone-deliveries", axe)
