"""The console page in a real browser, against the whole system as `make run` starts it."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect, sync_playwright

from chalicelib.console import page as join_page
from tests.support.console import Console
from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import Run, running
from tests.support.world import ROOT, digest

CHROMIUM = shutil.which("chromium")
KEYS = {"shop": "produce+consume+erase", "desk": "consume", "till": "produce"}
HASTY = {
    "MAX_DELIVERY_ATTEMPTS": "2",
    "BACKOFF_BASE_SECONDS": "0.5",
    "SUBSCRIPTION_DISABLE_DAYS": "0.00001",
}
# the page refreshes every 3 s
HURRY = "window.wait = setTimeout; setTimeout = (act, ms) => wait(act, ms / 10);"
ELSEWHERE = "Asia/Kolkata"  # +05:30
OWN, OTHER = (f"whsec_{letter * 32}" for letter in "ab")
EDGES = "rows => [rows[0].getBoundingClientRect().y, rows[7].getBoundingClientRect().bottom]"
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium; on Debian and Ubuntu: apt-get install chromium"
    ),
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
def packages() -> Path:
    """Return the folder of what npm installs, after it did."""
    folder = ROOT / "tests" / "browser"
    if not (folder / "node_modules" / "oxlint").exists():
        if not shutil.which("npm"):
            pytest.skip("no npm; on Debian and Ubuntu: apt-get install npm")
        command = "npm ci --ignore-scripts --no-audit --no-fund --loglevel=error"
        subprocess.run(command.split(), cwd=folder, check=True, timeout=100)
    return folder / "node_modules"


@pytest.fixture(scope="module")
def axe(packages: Path) -> str:
    """Return the script of axe-core."""
    return (packages / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def console(browser: Browser, system: Run, receiver: Receiver) -> Iterator[Console]:
    receiver.default = status(200)
    permissions = ["clipboard-read", "clipboard-write"]
    context = browser.new_context(
        viewport={"width": 1100, "height": 800}, permissions=permissions, timezone_id=ELSEWHERE
    )
    context.add_init_script(HURRY)
    expect.set_options(timeout=60_000)
    console = Console(context, system)
    yield console
    assert console.page.evaluate("[window.hacked, document.images.length]") == [None, 0]
    console.page.goto("about:blank")  # a poll would miss the routes
    console.page.unroute_all(behavior="ignoreErrors")
    context.close()
    for one in console.api("GET", "/subscriptions?tenant=*")["subscriptions"]:
        system.call("DELETE", f"/subscriptions/{one['subscription_id']}")
    while pending := console.pending():
        for one in pending:
            system.call("DELETE", f"/events/{one['event_id']}")
    assert console.faults == []


def test_the_script_names_nothing_undefined_unused_redeclared_or_shadowed(
    packages: Path, tmp_path: Path
) -> None:
    [script] = re.findall(r'<script type="module">(.*?)</script>', join_page()[0], re.DOTALL)
    joined = tmp_path / "page.js"
    joined.write_text(script, encoding="utf-8")
    config = ROOT / "tests/browser/.oxlintrc.json"
    command = [str(packages / ".bin" / "oxlint"), "--config", str(config), str(joined)]

    linted = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert linted.returncode == 0, linted.stdout


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
    follow = "location.hash += '&key=desk-key'"
    page.evaluate(follow)
    console.button("Use it").wait_for()
    assert "desk-key" not in page.evaluate("location.href")
    # another question, before the browser tells of the end of this one
    page.evaluate(f"document.getElementById('no').click(); {follow}; onhashchange({{}})")
    console.button("Use it").click()
    console.text("#who").to_have_text("desk on dev")
    console.go(f"/events/{event['event_id']}")
    console.heading("order.linked").to_be_visible()
    expect(console.button("Erase")).to_be_hidden()  # the key lacks the scope
    assert "desk-key" not in page.evaluate(
        "location.href + JSON.stringify(localStorage) + document.cookie"
    )

    console.button("Forget key").click()

    expect(page.get_by_label("API key")).to_be_focused()
    assert not page.evaluate("sessionStorage.length + localStorage.length + document.cookie.length")


# The list


def test_a_new_event_appears_by_itself_once_the_api_responds_again(console: Console) -> None:
    first = console.post("order.first")
    console.open()
    console.row(first).focus()
    console.page.route("**/events?*", lambda route: route.abort())
    console.text("#banner").to_contain_text(
        re.compile(r"The API does not respond. Trying again. What is shown is of \d\d:\d\d")
    )
    console.row(first).wait_for()

    second = console.post("order.second", tenant="acme")
    console.page.unroute("**/events?*")

    expect(console.row(second)).to_have_text(
        re.compile(r"evt_\w{8}…\s+order\.second\s+for acme, after [\d.]+ m?s\s+1 attempt")
    )
    console.text("#banner").to_be_hidden()
    expect(console.row(first)).to_be_focused()
    console.forgive("ERR_FAILED")
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=429, headers={"Retry-After": "50"}, json={"code": "slow_down"})

    console.page.route("**/events?*", refuse)
    console.text("#banner").to_contain_text("Try again in 50 s")
    console.page.wait_for_timeout(1000)  # 10 s of the page
    assert len(asked) == 1
    console.forgive("status of 429")


def test_filters_are_in_the_address_and_a_refused_one_is_explained(
    console: Console, receiver: Receiver
) -> None:
    page = console.page
    receiver.script(status(422))
    failed = console.post("refund.made", tenant="acme")
    console.post("refund.made", tenant="other")
    console.post("refund.meant", tenant="acme")
    event_type = page.get_by_label("Event type")
    console.open()
    console.row(failed).wait_for()
    page.get_by_text("Filters", exact=True).click()
    page.get_by_label("Tenant", exact=True).fill("acme")
    event_type.fill("refund m")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text(
        "It must be an event type, or a prefix followed by *"
    )
    expect(event_type).to_have_attribute("aria-invalid", "true")
    event_type.fill("refund.m")  # a partial word is the beginning of a type
    page.get_by_label("Until").fill("2099-01-01T00:00")
    console.text("#rows li").to_have_count(2)
    page.get_by_role("link", name="1 failed").click()
    console.text("#rows li").to_have_count(1)
    expect(console.row(failed)).to_contain_text("receiver responded 422")
    address = page.evaluate("location.hash")
    until = "until=2098-12-31T18%3A30%3A00.000Z"
    assert address == f"#/?event_type=refund.m*&status=failed&tenant=acme&{until}"

    page.reload()

    console.text("#rows li").to_have_count(1)
    expect(event_type).to_have_value("refund.m*")
    console.button("Clear filters").click()
    assert page.evaluate("location.hash") == "#/"
    console.forgive("status of 400")


def test_all_that_match_are_listed_and_replayed(console: Console, receiver: Receiver) -> None:
    receiver.default = status(422)
    events = [console.post("bulk.failed", tenant="acme")["event_id"] for _ in range(31)]
    console.open("/?event_type=bulk.failed&status=failed")
    console.text("#rows li").to_have_count(31)
    # who counts at once counts pending events
    receiver.default = status(503, headers={"Retry-After": "5"})
    before = len(receiver.requests)
    console.page.evaluate("void (setTimeout = wait)")  # four a second, as people see it
    console.press("Replay all that match", "Replay")
    console.text("#job-title").to_contain_text(
        re.compile(r"Replaying: [1-9]\d* of 31 events queued")
    )

    console.button("Stop").click()

    console.text("#job-title").to_have_text(re.compile(r"^\d+ queued, then stopped"))
    receiver.default = status(200)
    queued = int(console.page.locator("#job-title").inner_text().split()[0])
    console.page.reload()
    console.text("#rows li").to_have_count(31 - queued)
    console.press("Replay all that match", "Replay")
    console.text("#job-title").to_have_text(
        f"{31 - queued} queued; once delivered, make redrive STAGE=dev takes the "
        "dead letters out of the DLQ, which ends the alarm"
    )
    console.text("#empty").to_be_visible()
    console.text(":focus").to_have_count(1)
    console.open("/?event_type=bulk.failed&status=pending")
    console.text("#empty").to_be_visible()
    assert {request.json()["event_id"] for request in receiver.requests[before:]} >= set(events)


# What became of an event, and of when that is


def test_an_event_is_judged_by_the_webhooks_of_its_tenant(
    console: Console, receiver: Receiver
) -> None:
    dear = {"total": [{"numeric": [">=", 100]}]}
    early = console.post("tone.judged", tenant="corp", payload={"total": 100})
    console.subscribe(receiver.url, name="Corp", tenant="corp", filter=dear)
    console.subscribe(receiver.url, name="Archive", event_types=["tone.*"])

    def refuse(exchange: Exchange) -> None:
        body = exchange.request.json()
        refused_total = 100 if "source_event_id" in body else 120
        is_refused = body["payload"].get("total") == refused_total
        status(422 if is_refused else 200)(exchange)

    receiver.default = refuse
    left_out = console.post("tone.judged", tenant="corp", payload={"total": 80})
    failed = console.post("tone.judged", tenant="corp", payload={"total": 100})
    foreign = console.post("tone.judged", tenant="stranger", payload={"total": 80})
    dead = console.post("tone.judged", tenant="corp", payload={"total": 120})
    console.open("/?event_type=tone.judged")

    told = "not asked for by corp; 1 of yours got it"
    refused = "0 of 1 webhook got it, 1 failed, Corp: .* 422; 0 of yours got it, 1 failed"
    own = "your own webhook did not get it: receiver responded 422"
    for event, row in (
        (early, r"^not sent\s.*\s0 of 1 webhook got it, 1 not sent"),
        (left_out, rf"^not asked\s.*\s{told}"),
        (dead, rf"^failed\s.*for corp, 1 of 1 webhook got it; 1 of yours got it; {own}"),
        (failed, rf"^failed\s.*for corp, {refused}"),
        (foreign, r"^delivered\s.*for stranger, 1 of 1 webhook got it"),
    ):
        expect(console.row(event)).to_contain_text(re.compile(row, re.DOTALL))
    console.text("#counted").to_have_text("5 events:2 failed1 not sent1 delivered1 not asked")
    console.page.get_by_role("link", name="2 failed").click()
    console.row(dead).click()
    became = "1 of 1 webhook got it; 1 of yours got it; your own webhook did not get it"
    console.text("#became").to_have_text(became)
    console.text("#status").to_have_text("failed")
    console.press("Replay to your own webhook")
    console.text("#answer").to_have_text(re.compile("once delivered, make redrive STAGE=dev takes"))
    console.subscribe(f"{receiver.url}/too", name="Corp too", tenant="corp")
    console.go("/?event_type=tone.judged")
    expect(console.row(foreign)).to_contain_text("1 of 1 webhook got it")
    expect(console.row(dead)).to_contain_text("1 of 2 webhooks got it, 1 not sent")
    console.row(left_out).click()
    console.text("#became").to_contain_text("0 of 1 webhook got it, 1 not sent; 1 of yours got it")
    console.text("#recipients a.type").to_have_text(["Corp too", "Corp", "Archive"])
    console.page.get_by_role("link", name="Webhook Archive").click()
    console.heading("Archive").to_be_visible()
    console.find(early["event_id"])
    console.text("#status").to_have_text("not sent")


def test_what_is_old_says_so_older_pages_are_read_once_and_one_bad_row_spoils_no_other(
    console: Console,
) -> None:
    page = console.page
    console.post("page.turned")
    asked: list[int] = []

    def fill(route: Route) -> None:
        page_number = int("cursor=" in route.request.url)
        asked.append(page_number)
        [own] = route.fetch(url=route.request.url.replace("cursor=more&", "")).json()["events"]
        own["created_at"] = f"2026-01-0{2 - page_number}T00:00:00.000000Z"
        own["delivered_at"] = "2025-12-01T00:00:00.000000Z"  # by another clock
        ids = [f"evt_{page_number}{number:031x}" for number in range(100)]
        events = [{**own, "event_id": event_id} for event_id in ids]
        events[7] = {**events[7], "outcome": {"state": "failed"}}
        route.fulfill(json={"events": events, "next_cursor": ["more", None][page_number]})

    page.route(re.compile("/events.*include=outcome"), fill)
    console.open("/?event_type=page.turned")
    console.text("#rows li").to_have_count(100)
    console.text("#counted").to_have_text(
        "100 events:1 failed99 deliveredolder ones are not counted"
    )
    console.text("#rows li >> nth=7").to_contain_text("Cannot be drawn")
    console.text("#rows li >> nth=8").to_contain_text("after 0.0 s")

    console.button("Load older events").click()

    console.text("#rows li").to_have_count(200)
    while asked[-3:] != [0, 0, 0]:
        page.wait_for_timeout(100)
    assert sum(asked) == 1
    old, later = re.compile(r"as of \d\d:\d\d:\d\d"), "Date.now = () => new Date().getTime() + "
    page.evaluate(f"{later} 2e4")
    console.text("#rows li:last-child").to_contain_text(old)
    console.text("#rows li:first-child").not_to_contain_text(old)
    page.route(re.compile("/events"), lambda route: None)  # no answer
    page.evaluate(f"{later} 4e4")
    console.text("#as-of").to_have_text(old)


def test_a_search_opens_an_exact_hit_at_once_and_ignores_case_and_punctuation(
    console: Console,
) -> None:
    console.post("order.sought", subject="Order-815")
    console.open("/nowhere")
    asked: list[str] = []
    console.page.on("request", lambda request: asked.append(request.url))
    console.post("order.sought", subject="INV-FRESH")
    for searched in ("Order-815", "#order 815", "815"):
        console.find(searched)
        console.heading("Order-815").to_be_focused()
        console.go("/nowhere")
        console.heading("Nothing is here.").to_be_focused()
    assert "/events?limit=2&source=original&subject=Order-815" in asked[0]
    assert "/events/evt_" in asked[1]
    console.find("99999")
    console.heading("No event has the id or subject 99999.").to_be_visible()
    console.text("#proposals li").to_have_count(0)
    console.find("fresh")
    console.text("#looked").to_contain_text("These contain it:")
    console.text("#proposals").to_have_text("Subject INV-FRESH")
    token = console.api("POST", "/tokens", tenant="acme")["token"]
    console.subscribe("https://127.0.0.1/none", tenant="acme", event_types=["none"])
    console.post("order.sought", subject="INV-FRESH", tenant="acme")
    console.open("/find?text=99999", token)
    console.button("Use it").click()
    console.heading("No event has the subject 99999.").to_be_visible()


# One event


def test_a_failing_event_is_watched_to_its_end_and_replayed(
    console: Console, receiver: Receiver, axe: str
) -> None:
    receiver.script(status(503, headers={"Retry-After": "4"}, body=b"database is down"))
    receiver.default = status(503, body=b"database is down")
    event = console.post("order.created")
    console.open()
    expect(console.row(event)).to_contain_text("receiver responded 503, next attempt")

    console.row(event).press("Enter")

    console.heading("order.created").to_be_focused()
    attempt = (
        r"1: failed, receiver responded 503, took [\d.]+ ms [\d:]+\.\d{3}\s*database is down.*"
    )
    console.text("#steps").to_contain_text(re.compile(attempt + r"Next attempt in \d s"))
    console.text("#announcement").to_contain_text("Not delivered: the latest attempt")
    console.text("#steps").to_contain_text(
        re.compile(attempt + "Attempt 2, after .*: failed, .*, same response")
    )
    console.text("#timeline").to_contain_text(re.compile("1: 503.*2: 503.*dead letter"))
    console.check_looks("event", axe)

    receiver.default = status(200)
    console.press("Replay to your own webhook")

    console.text("#steps").to_contain_text("Attempt 3, replayed after")
    console.text("#message").to_have_text("Delivered.")


def test_a_leased_event_is_found_copied_and_erased(console: Console, receiver: Receiver) -> None:
    receiver.default = status(503, headers={"Retry-After": "60"})
    event_id = console.post("order.leased", payload={"big": 12345678901234567890123})["event_id"]
    console.post("order.other")
    [leased] = console.api("POST", "/inbox/lease", event_type="order.leased", lease_seconds=60)[
        "events"
    ]
    subscription_id = console.subscribe(receiver.url, name="Warehouse", tenant="acme")[
        "subscription_id"
    ]
    console.open("/subscriptions")
    for searched, heading in (
        ("evt_" + "0" * 32, "There is no evt_"),
        ("evt_00000", "No event has the id or subject evt_00000."),
        (subscription_id, "Warehouse"),
        (f" {event_id} ", "order.leased"),
    ):
        console.find(searched)
        console.heading(heading).to_be_visible()

    header = '-H "Authorization: Bearer $TRIGGERS_API_KEY"'
    curl = f"curl -sS '{console.origin}/events/{event_id}' {header}"
    texts = {"id": event_id, "curl": curl, "payload": '{\n  "big": 12345678901234567890123\n}'}
    assert {name: console.copied(name) for name in texts} == texts
    console.text("#steps").to_contain_text("Claimed by a push or a lease until")
    console.forgive("status of 404")
    console.press("Replay to your own webhook")
    console.text("#answer").to_contain_text(re.compile(r"409 Conflict\..*Try again in \d+ s"))
    console.forgive("status of 409")
    console.api("POST", "/inbox/acknowledge", lease_id=leased["lease_id"], event_ids=[event_id])
    console.press("Erase")
    console.heading(f"Erased: {event_id}").to_be_visible()
    assert console.system.call("GET", f"/events/{event_id}")[0] == 404


# Copies and subscriptions


def test_an_order_says_who_got_it_and_is_sent_to_who_did_not(
    console: Console, receiver: Receiver, axe: str
) -> None:
    page = console.page
    pattern = {"order": {"total": [{"numeric": [">=", 100]}]}}
    for name, more in (("Ledger", {}), ("Warehouse", {}), ("Corp", {"filter": pattern})):
        console.subscribe(
            receiver.url, name=name, tenant="acme", event_types=["order.*", name], **more
        )
    console.subscribe(receiver.url, name="Audit", event_types=["invoice.*"])
    receiver.default = refuse_copies
    members = {"tenant": "acme", "subject": "order 4711", "payload": {"order": {"total": 80}}}
    event = console.post("order.paid", **members)
    console.open()
    page.keyboard.press("/")
    expect(page.get_by_label("Find by id or subject")).to_be_focused()
    console.find("471")
    console.heading("No event has the id or subject 471.").to_be_visible()
    page.get_by_role("link", name="Subject order 4711").click()
    expect(console.row(event)).to_have_text(
        re.compile(r"failed\s+order 4711\s+order.paid\s+for acme, 0 of 2 webhooks got it, 2 fail")
    )

    console.find("4711")  # in the shape of the subject that was seen

    console.text("#became").to_have_text("0 of 2 webhooks got it, 2 failed; 2 not asked")
    console.text("#recipients li").to_have_text(
        [
            re.compile(r"failed\s+Ledger\s+for acme, receiver responded 422, 1 attempt\s+Replay"),
            re.compile(r"failed\s+Warehouse"),
            re.compile(r"not asked\s+Corp\s+for acme, takes order.total ≥ 100; this has 80\s+Send"),
            re.compile(r"not asked\s+Audit\s+takes invoice.\*; this is order.paid\s+Send"),
        ]
    )
    console.check_looks("order", axe)
    receiver.default = status(200)
    before = len(receiver.requests)
    for name, became in (("Corp", "1 of 3"), ("Ledger", "2 of 3")):
        page.locator("#recipients li", has_text=name).get_by_role("button").click()
        page.get_by_role("dialog").get_by_role("button", name=re.compile("Send|Replay")).click()
        console.text("#became").to_contain_text(f"{became} webhooks got it")
        expect(page.locator("#recipients li", has_text=name).get_by_role("button")).to_be_focused()
    console.press("Replay copies", "Replay")
    console.text("#job-title").to_have_text("1 queued")
    console.text("#became").to_have_text("3 of 3 webhooks got it; 1 not asked")
    expect(console.button("Replay copies")).to_be_focused()
    pushed = [request.json() for request in receiver.requests[before:]]
    assert {one.get("source_event_id") for one in pushed} == {event["event_id"]}
    assert len(pushed) == 3
    unmatched = console.post("bill.made")["event_id"]
    console.find(unmatched)
    console.text("#became").to_have_text("It matched none of 1 webhook.")


def refuse_copies(exchange: Exchange) -> None:
    is_copy = exchange.request.headers["webhook-id"].startswith("cpy_")
    status(422 if is_copy else 200, body=HOSTILE.encode())(exchange)


def test_what_copies_carry_never_runs(console: Console, receiver: Receiver) -> None:
    page = console.page
    for event_types in (["javascript:*"], ["javascript:hacked"]):
        console.subscribe(receiver.url, name=HOSTILE, event_types=event_types)

    receiver.default = refuse_copies
    payload = {HOSTILE: [HOSTILE], "__proto__": {"big": 12345678901234567890123}}
    event = console.post("javascript:hacked", payload=payload, subject=HOSTILE)
    console.open("/?event_type=javascript:hacked")

    expect(console.row(event)).to_contain_text(f"2 failed, {HOSTILE}: receiver responded 422")
    expect(console.row(event)).to_contain_text(re.compile(r"^failed\s+</script>"))
    console.row(event).click()
    console.text("#payload").to_have_text(json.dumps(payload, indent=2))
    page.locator("#recipients a", has_text=HOSTILE).first.click()
    console.text(".response:not([hidden])").to_have_text(HOSTILE)
    expect(page.locator("#facts").get_by_role("link", name=event["event_id"])).to_be_visible()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: "
        "'hacked = 1'}))"
    )
    console.forgive("Content Security Policy")


def test_those_in_trouble_come_first_and_tell_what_they_missed(
    console: Console, receiver: Receiver, axe: str
) -> None:
    page = console.page
    console.subscribe(receiver.url, name="Audit", event_types=["none"])
    made = console.subscribe(
        receiver.url, tenant="acme", name="CRM", event_types=["ledger.*", "acme"]
    )
    bank = console.subscribe(receiver.url, tenant="other", name="Bank", event_types=["ledger.*"])
    cards = page.locator("#subscriptions > li")
    clock, said = r"\d\d:\d\d", "receiver responded"
    console.post("ledger.booked", tenant="other")
    receiver.default = status(503, headers={"Retry-After": "60"})
    console.post("ledger.booked", tenant="other")
    path = f"/subscriptions/{made['subscription_id']}"
    receiver.default = status(422)
    while not console.api("GET", path)["disabled_at"]:
        console.post("ledger.booked", tenant="acme")
        page.wait_for_timeout(200)
    copies = f"/events?subscription_id={path[15:]}&status="
    while console.api("GET", f"{copies}pending")["events"]:
        pass
    failed = len(console.api("GET", f"{copies}failed")["events"])
    console.open("/subscriptions")

    console.text("#troubled").to_have_text("3 of 4 webhooks in trouble")
    console.text("#overview tr").to_have_text(
        [
            re.compile(rf"Your own webhook\s*dead letters{clock}{said} 422\d+{clock}"),
            re.compile(rf"CRM\s*acme\s*disabled{clock}{said} 4220{failed}{clock}"),
            re.compile(rf"Bank\s*other\s*waiting{clock}{said} 50310{clock}"),
            re.compile(r"Audit\s*active00none"),
        ]
    )
    console.check_looks("webhooks", axe)
    begun = {  # before the newest deliveries
        "state": "failing",
        "failing_since": "2026-01-20T22:00:00.000000Z",
    }
    page.route(
        f"**/subscriptions/{bank['subscription_id']}?*",
        lambda route: route.fulfill(json={**route.fetch().json(), **begun}),
    )
    page.get_by_role("link", name="Bank").click()
    expect(cards).to_contain_text(
        re.compile(r"failing since 2026-01-21 03:30: 1 waiting.*1 waiting, all, the", re.DOTALL)
    )
    expect(console.button("Enable", exact=True)).to_be_hidden()
    expect(console.button("Recover 1 waiting of ")).to_be_visible()
    with page.context.expect_page() as opened:
        console.button("Open as customer").click()
    expect(opened.value.get_by_role("heading", name="Webhooks of other")).to_be_visible()
    opened.value.close()
    page.get_by_role("link", name="All webhooks").click()
    page.get_by_label("Find", exact=True).fill("disab")
    console.text("#overview tr").to_have_count(1)
    page.locator("#overview tr").click()
    expect(cards).to_contain_text(re.compile("Last error.*To doMend the receiver", re.DOTALL))
    receiver.default = status(200)
    console.button("Enable", exact=True).press("Enter")
    expect(cards.get_by_role("status")).to_contain_text("It is enabled.")
    expect(cards.locator(".primary:visible")).to_have_text(
        re.compile(f"^Recover {failed} failed, the oldest of {clock}$")
    )
    console.button(f"Recover {failed} failed").click()
    told = f"0 events queued for CRM, {failed} more in a minute"  # a loop would be a flood
    console.text("#job-title").to_have_text(re.compile(f"^{told}; once delivered|^{told}$"))
    said = f"At {clock}: 0 events queued, {failed} more in a minute."
    expect(cards.locator("[data-part=queued]")).to_have_text(re.compile(said))


def test_what_was_lost_is_trouble_until_it_is_dismissed_or_recovered(
    console: Console, receiver: Receiver
) -> None:
    page, clock = console.page, r"\d\d:\d\d"
    console.subscribe(receiver.url, name="CRM", tenant="acme", event_types=["lost.*"])
    other = console.subscribe(receiver.url, event_types=["none"])
    receiver.default = refuse_copies
    console.post("lost.found", tenant="acme")
    receiver.default = status(200)
    for _ in range(2):
        console.post("lost.found", tenant="acme")
    console.post("not.asked", tenant="acme")
    console.open("/subscriptions")
    page.get_by_role("link", name=f"127.0.0.1 …{other['subscription_id'][-6:]}").wait_for()
    row = page.locator("#overview tr", has_text="CRM")
    expect(row).to_contain_text(re.compile(rf"missed 1{clock}receiver responded 42201{clock}"))
    page.route("**/subscriptions?*", lambda route: None)  # nothing is loaded for it
    page.get_by_label("Find", exact=True).fill("missed")
    console.text("#overview tr").to_have_count(1)
    glyph = "mark => getComputedStyle(mark, '::before').content[1]"
    marks = row.locator(".badge, .strip > span")
    assert [mark.evaluate(glyph) for mark in marks.all()] == [*"▲✕●●"]
    page.get_by_role("link", name="CRM").click()
    state = page.locator("#subscriptions h2 + [data-part=state]")
    expect(state).to_have_text(re.compile(f"^missed 1 since {clock}$"))

    console.press("Dismiss")

    expect(state).to_have_text("active")
    expect(console.button("Recover")).to_be_hidden()
    page.get_by_text("Never sent").click()
    console.button("Look").click()
    got = "^It got all that it takes: 0 of 1 event since .*; types and filter leave out 1$"
    expect(page.locator("[data-part=missed]")).to_have_text(re.compile(got))
    console.button("Undo dismissal").click()
    expect(state).to_have_text(re.compile("^missed 1 since"))
    expect(console.button("Recover 1 failed of ")).to_be_visible()
    expect(console.button("Undo dismissal")).to_be_hidden()


def answer_with(**members: object) -> Callable[[Route], None]:
    """Return a handler that changes members of an answer of the API."""
    return lambda route: route.fulfill(json={**route.fetch().json(), **members})


COUNTED = {
    "failed": 0,
    "waiting": 2114,
    "has_more": False,
    "oldest_missed_at": "2026-03-03T12:00:00.000000Z",
    "last_error": "receiver responded 503",
    "last_at": "2026-03-04T12:00:00.000000Z",
    "recent": ["pending"],
}


def open_counted(console: Console, url: str, **counts: object) -> tuple[str, dict[str, object]]:
    """Open the card of a webhook as if it had such counts; return its path and the counts."""
    path = f"/subscriptions/{console.subscribe(url, name='CRM')['subscription_id']}"
    counted = {**COUNTED, **counts}
    slow = {"slow_since": COUNTED["oldest_missed_at"]}
    console.page.route(f"**{path}?*", answer_with(deliveries=counted, **slow))
    console.open(path)
    return path, counted


def test_the_button_says_what_recover_will_queue_and_stop_stops_it(
    console: Console, receiver: Receiver
) -> None:
    page, card = console.page, console.page.locator("#subscriptions > li")
    path, counted = open_counted(console, receiver.url, failed=29)
    name = "Recover 29 failed and 2,114 waiting, the oldest of 3 March"
    expect(console.button(name, exact=True)).to_be_visible()
    counts = "29 failed and 2,114 waiting since 2026-03-03 17:30"
    expect(card.locator("h2 + [data-part=state]")).to_have_text(counts)
    expect(card.locator("dl")).to_contain_text("29 failed, 2,114 waiting, all, the last at")
    expect(card.locator("dl")).to_contain_text("Its receiver takes a second or longer")
    counted["has_more"] = True
    expect(console.button("Recover 2,143 or more, the oldest of 3 March")).to_be_visible()
    # A container of before the update does not know it.
    fault = {"code": "invalid_request", "errors": [{"field": "since", "message": "is missing"}]}
    page.route(f"**{path}/recover", lambda route: route.fulfill(status=400, json=fault))
    console.button("Recover").click()
    console.text("#job-fault").to_contain_text("Load the page again.")
    console.button("Close").click()
    wait = {"Retry-After": "5000"}
    page.unroute(f"**{path}/recover")
    page.route(f"**{path}/recover", lambda route: route.fulfill(status=503, headers=wait, json={}))
    console.button("Recover").click()
    console.text("#job-fault").to_contain_text("Try again in 5000 s")

    console.button("Stop", exact=True).click()

    console.text("#job-title").to_have_text("0 events queued for CRM, then stopped")
    console.forgive("status of")


def test_recover_ends_with_what_was_there_and_its_card_says_what_was_queued(
    console: Console, receiver: Receiver
) -> None:
    page = console.page
    path, counted = open_counted(console, receiver.url)
    asked: list[str] = []

    def recover(route: Route) -> None:
        asked.append(route.request.post_data or "")
        done = {"examined": 900, "sent": 0, "replayed": 890, "left": 10, "next_cursor": "more"}
        route.fulfill(json=done)

    page.route(f"**{path}/recover", recover)
    younger = {"events": [{"created_at": "2026-03-04T12:00:01.000000Z"}]}
    page.route(f"**{path}/missed?cursor=more&limit=1", lambda route: route.fulfill(json=younger))

    console.button("Recover 2,114 waiting").click()

    told = "2,670 events queued"
    console.text("#job-title").to_have_text(f"{told} for CRM, 30 more in a minute")
    assert [json.loads(body)["cursor"] for body in asked] == [None, "more", "more"]
    queued = page.locator("#subscriptions [data-part=queued]")
    expect(queued).to_have_text(re.compile(rf"^At \d\d:\d\d: {told}, 30 more in a minute\.$"))
    expect(console.button("Recover")).to_be_hidden()
    counted["failed"] = 1  # again
    expect(console.button("Recover 1 failed and 2,114")).to_be_visible()
    expect(queued).to_be_hidden()
    counted["failed"] = 0
    expect(queued).to_be_visible()
    page.evaluate("Date.now = () => new Date().getTime() + 3e5")
    expect(console.button("Recover 2,114 waiting")).to_be_visible()


def test_a_webhook_of_a_suspended_tenant_says_so_and_offers_no_recovery(
    console: Console, receiver: Receiver
) -> None:
    page = console.page
    console.subscribe(receiver.url, name="CRM", tenant="acme", event_types=["held.*"])
    receiver.default = refuse_copies
    console.post("held.back", tenant="acme")
    assert console.api("GET", "/me")["suspended_tenants"] == []
    page.route("**/me?*", answer_with(suspended_tenants=["acme"]))
    console.open("/subscriptions")
    expect(page.locator("#overview tr", has_text="CRM")).to_contain_text("suspended")
    page.get_by_role("link", name="CRM").click()
    card = page.locator("#subscriptions > li")
    expect(card.locator("h2 + [data-part=state]")).to_have_text("suspended: 1 failed")
    expect(card).to_contain_text("Nothing can be recovered while its tenant is suspended.")
    expect(console.button("Recover")).to_be_hidden()


def test_an_offline_page_says_so_and_goes_on_by_itself(console: Console) -> None:
    event = console.post("order.offline")
    console.open(f"/events/{event['event_id']}")
    console.heading("order.offline").to_be_visible()
    console.page.context.set_offline(True)
    console.text("#banner").to_contain_text("You are offline. Trying again.")
    console.press("Erase")
    console.text("#answer").to_have_text("You are offline.")
    console.page.context.set_offline(False)
    console.text("#banner").to_be_hidden()
    console.forgive("ERR_INTERNET_DISCONNECTED")


def test_a_subscription_is_made_and_its_secret_is_shown(
    console: Console, receiver: Receiver
) -> None:
    page, offered = console.page, ["order.created", "order.paid"]
    page.route(
        "**/me?*",
        lambda route: route.fulfill(json={**route.fetch().json(), "event_types": offered}),
    )
    console.open("/subscriptions")
    page.get_by_text("Add a webhook").click()
    url, types = page.get_by_label("URL"), page.get_by_label("Other types")
    fault = page.get_by_role("alert").filter(visible=True)
    url.fill("http://evil.example/")
    page.get_by_label("order.paid", exact=True).check()
    types.fill("order.made")
    console.button("Add").last.click()
    expect(fault).to_have_text("order.made is no event type here.")
    types.fill("order.*")
    page.get_by_label("Name", exact=True).fill(HOSTILE)
    page.get_by_label("For tenant").fill("acme")
    page.keyboard.press("Enter")
    expect(fault).to_have_text("It must begin with https://.")
    expect(url).to_have_attribute("aria-invalid", "true")
    url.fill(receiver.url)

    console.button("Add").last.dblclick()

    expect(console.button("Copy secret")).to_be_focused()
    [made] = console.api("GET", "/subscriptions?tenant=acme")["subscriptions"]
    assert made["event_types"] == ["order.paid", "order.*"]
    secret = console.api("GET", f"/subscriptions/{made['subscription_id']}/secret")["secret"]
    assert console.copied("secret") == secret
    console.button("Done").click()
    console.text("#secret").to_have_text("")
    assert secret not in page.content()
    console.text("#subscriptions h2").to_have_text([HOSTILE])
    expect(page.locator("#subscriptions h2 a")).to_be_focused()
    # Another filter would take the place of the one that is there.
    console.go("/subscriptions")
    page.get_by_text("Add a webhook").click()
    url.fill(receiver.url)
    page.get_by_label("order.paid", exact=True).check()
    types.fill("order.*")
    page.get_by_label("For tenant").fill("acme")
    page.get_by_role("textbox", name="Filter").fill('{"total": [1]}')
    console.button("Add").last.click()
    expect(fault).to_have_text(re.compile("types already. Differs: filter. Edit it"))
    page.get_by_role("link", name="Edit it").click()
    console.text("#subscriptions h2").to_have_text([HOSTILE])
    console.forgive("status of 40")


def test_the_catalogue_tells_what_types_mean_and_its_examples_are_tried(
    console: Console, receiver: Receiver, axe: str
) -> None:
    page = console.page
    example = {"order_id": "4711", "total": 80}
    told = {
        "order.created": {"example": {"total": 120}},
        "order.paid": {"description": HOSTILE, "example": example},
        "order.made": {},
        **{f"many.{number}": {"example": {"total": 1}} for number in range(11)},
    }

    offered = {"event_types": [*told], "catalogue": told}
    page.route("**/me?*", lambda route: route.fulfill(json={**route.fetch().json(), **offered}))
    console.subscribe(receiver.url, name="CRM", event_types=["order.*"], tenant="acme")
    console.open("/subscriptions", key=console.api("POST", "/tokens", tenant="acme")["token"])

    page.get_by_text("How to verify and answer").click()
    console.text("#listen").to_contain_text(f"TRIGGERS_URL={console.origin}/ TRIGGERS_API_KEY=")
    assert console.copied("token").startswith("trt_")
    page.get_by_text("Event types and their payloads").click()
    row = page.locator("#catalogue-rows > li").filter(has_text="order.paid")
    row.get_by_text("order.paid", exact=True).click()
    expect(row).to_contain_text(HOSTILE)
    row.get_by_role("button", name="Copy example").click()
    console.text("#announcement").to_have_text("Copied")
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == example
    page.get_by_text("Add a webhook").click()
    form = page.locator("#add")
    expect(form.get_by_text(HOSTILE)).to_be_visible()
    form.get_by_label("Filter").fill('{"total": [{"numeric": [">", 100]}]}')
    form.get_by_label("Other types").fill("order.*")
    form.get_by_role("button", name="Try the filter on the examples").click()
    expect(form.get_by_role("status")).to_have_text(
        "Tried on 2 of 2 examples. It takes the example of order.created. "
        "It leaves out order.paid (it takes total > 100; this has 80)."
    )
    console.check_looks("catalogue", axe)
    form.get_by_label("Other types").fill("")
    form.get_by_label("order.paid").check()
    form.get_by_role("button", name="Try the filter on the examples").click()
    expect(form.get_by_role("status")).to_contain_text("Tried on 1 of 1 example. It leaves out")
    form.get_by_label("order.paid").uncheck()
    form.get_by_label("Other types").fill("many.*")
    form.get_by_role("button", name="Try the filter on the examples").click()
    expect(form.get_by_role("status")).to_contain_text("Tried on 10 of 11 examples.")
    form.get_by_label("Other types").fill("")
    form.get_by_label("Filter").fill('{"total": [{"numric": [">", 100]}]}')
    form.get_by_role("button", name="Try the filter on the examples").click()
    expect(form.get_by_role("status")).to_contain_text("is no operator")
    page.get_by_text("Add a webhook").click()
    page.get_by_text("Try it", exact=True).click()
    payload = page.get_by_role("textbox", name="Payload")
    expect(payload).to_have_value(json.dumps({"total": 120}, indent=2))
    page.get_by_label("Type", exact=True).fill("order.paid")
    page.keyboard.press("Tab")
    expect(payload).to_have_value(json.dumps(example, indent=2))
    console.forgive("status of 400")


def test_a_subscription_is_edited_and_its_headers_are_given_again(
    console: Console, receiver: Receiver, axe: str
) -> None:
    members = {
        "filter": {"total": [{"numeric": [">", 100]}]},
        "headers": {"Authorization": "Bearer s3cret"},
        "event_types": ["order.*"],
    }
    made = console.subscribe(receiver.url, name="CRM", tenant="acme", **members)
    del made["secret"]
    path = f"/subscriptions/{made['subscription_id']}"
    signed = console.api("GET", f"{path}/secret")
    console.open(path)
    card = console.page.locator("#subscriptions > li")
    edit = card.get_by_text("Edit")
    edit.click()
    shown = card.get_by_label("URL").get_attribute("placeholder")
    assert shown == "not shown to you; stays as it is, at 127.0.0.1"
    console.check_looks("edit", axe)
    card.get_by_label("Your own secret").fill(OWN)
    card.get_by_label("Filter").fill('{"total": [{"numric": [">", 100]}]}')
    card.get_by_role("button", name="Save").click()
    expect(card.get_by_role("alert").filter(visible=True)).to_contain_text("is no operator")
    assert console.api("GET", f"{path}/secret") == signed  # a refused edit changes nothing
    card.get_by_label("Filter").fill("")
    card.get_by_label("Your own secret").fill("")
    types = card.get_by_label("Types, none for all").last
    types.fill("")
    console.forgive("status of 400")
    console.press("Save", "Cancel")
    console.text("#question").to_have_text("Send all types to CRM?")
    types.fill("order.*")
    card.get_by_label("URL").fill(f"{receiver.url}/moved")
    card.get_by_label("Filter").fill('{"total": ')
    card.get_by_role("button", name="Save").click()
    for told in ("It must be JSON", "Give the value of Authorization again, or remove it."):
        expect(card.get_by_role("alert").filter(has_text=told)).to_be_visible()
    card.get_by_label("URL").fill("")
    card.get_by_role("button", name="Remove").first.click()
    console.button("Add a header").last.click()
    console.page.keyboard.type("X-Team")
    card.get_by_label("Value of the header").fill("a")
    card.get_by_label("Filter").fill("")
    card.get_by_label("Name", exact=True).fill("ERP")
    edit.click()
    edit.click()  # what was typed stays

    card.get_by_role("button", name="Save").click()

    expect(card.get_by_role("status")).to_contain_text("It is saved")
    expect(card).to_contain_text("HeadersX-Team: set")
    expect(card.get_by_role("heading")).to_have_text("ERP")
    expect(edit).to_be_focused()
    edit.click()
    expect(card.get_by_label("Value of the header")).to_have_value("")
    edited = {"name": "ERP", "filter": None, "header_names": ["X-Team"]}
    assert console.api("GET", path) == {**made, **edited}


def test_edits_that_would_vanish_with_the_card_ask_first(
    console: Console, receiver: Receiver
) -> None:
    page = console.page
    console.subscribe(receiver.url, name="CRM")
    console.open("/subscriptions")
    page.get_by_role("link", name="CRM").click()
    card = page.locator("#subscriptions > li")
    card.get_by_text("Edit").click()
    name = card.get_by_label("Name", exact=True)
    name.fill("ERP")
    page.get_by_role("link", name="All webhooks").click()
    console.button("Stay").click()
    for _ in range(2):  # that one is in the history, too
        page.go_back()
    console.button("Stay").click()
    expect(name).to_have_value("ERP")
    page.get_by_role("link", name="All webhooks").click()
    console.button("Leave").click()
    console.heading("Webhooks").to_be_visible()
    page.get_by_role("link", name="CRM").click()
    card.get_by_text("Edit").click()
    page.get_by_role("link", name="All webhooks").click()  # nothing was edited
    console.heading("Webhooks").to_be_visible()


# A customer's page


@pytest.fixture
def customer(console: Console) -> Console:
    """Return the console as the link of a token for the tenant `acme` opens it."""
    console.open(key=console.api("POST", "/tokens", tenant="acme")["token"])
    console.heading("Webhooks of acme").to_be_focused()
    return console


def test_a_token_opens_the_page_of_its_tenant(
    customer: Console, receiver: Receiver, axe: str
) -> None:
    page, press = customer.page, customer.page.keyboard.press
    receiver.default = status(422, body=b"no such account")
    assert page.title() == "acme"
    assert "trt_" not in page.evaluate("location.href + document.body.innerText")
    customer.text("#nobody").to_contain_text("There are no webhooks yet. Add")
    page.get_by_label("URL").fill(receiver.url)
    page.get_by_label("Name").fill("Ledger")
    press("Enter")
    expect(customer.button("Copy secret")).to_be_focused()
    press("Escape")
    expect(page.get_by_role("link", name="Ledger")).to_be_focused()
    page.get_by_text("Try it").click()
    customer.button("Send as a test").click()
    customer.text("#subscriptions [data-part=result]").to_contain_text("receiver responded 422")
    customer.text("#subscriptions [data-part=sent]").to_contain_text(
        receiver.requests[-1].headers["webhook-signature"]
    )
    named = ["Send as a test", "Pause", "Show secret", "New secret"]
    assert customer.buttons() == ["Sign out", *named]
    event = customer.post("order.created", tenant="acme")
    customer.post("order.created")

    page.get_by_role("link", name="Ledger").click()

    customer.heading("Deliveries to Ledger").to_be_focused()
    customer.text("#rows li").to_have_text(
        re.compile(r"failed\s+cpy_\w{8}…\s+order.created\s+receiver responded 422\s+1 att")
    )
    assert customer.buttons() == ["Sign out", "Replay all that match"]
    page.locator("#rows a").press("Enter")
    customer.text("#steps").to_contain_text(
        re.compile("Attempt 1: failed, receiver responded 422.*no such account")
    )
    customer.text("#facts").to_contain_text(event["copies"][0])
    assert customer.buttons() == ["Sign out", "Replay", "Copy id", "Copy body", "Copy payload"]
    assert customer.copied("body").encode() in [request.body for request in receiver.requests]
    said = page.locator("main").inner_text().replace("shop", "", 2)  # in metadata
    assert not re.search("shop|copies|claim|lease|dead letter", said, re.IGNORECASE)
    customer.check_looks("customer-event", axe)
    receiver.default = status(200)
    customer.press("Replay")
    customer.text("#status").to_have_text("delivered")
    customer.go("/subscriptions")
    page.locator("#subscriptions").get_by_text("Edit").click()
    customer.press("Delete")
    customer.text("#told").to_have_text("Ledger is deleted.")
    customer.text("#nobody").to_contain_text("There are no webhooks yet.")


def test_a_webhook_is_tried_paused_renewed_and_recovers_what_it_missed(
    console: Console, receiver: Receiver, axe: str
) -> None:
    console.post("order.created", tenant="acme", payload={"order": {"total": 120}})
    pattern = {"order": {"total": [{"numeric": [">=", 100]}]}}
    made = console.subscribe(receiver.url, name="CRM", tenant="acme", filter=pattern)
    console.open(key=console.api("POST", "/tokens", tenant="acme")["token"])
    console.post("order.paid", tenant="acme", payload={"order": {"total": 120}})
    card = console.page.locator("#subscriptions > li")
    payload = card.get_by_label("Payload")
    expect(card).to_contain_text(f"URL{receiver.url}")
    card.get_by_text("Try it").click()
    expect(payload).to_have_value(re.compile("120"))
    payload.fill('{"order": {"total": 80}}')
    before = len(receiver.requests)
    console.button("Send as a test").click(click_count=3)
    result = "would not be sent: CRM takes order.total ≥ 100; this has 80."
    expect(card.get_by_role("status").filter(visible=True)).to_contain_text(result)
    expect(card).to_contain_text(re.compile(r"Last test\d\d:\d\d: delivered, status 200"))
    assert len(receiver.requests) == before + 1
    console.check_looks("webhook", axe)
    box = console.button("Pause").bounding_box()
    card.get_by_text("Edit").dblclick()
    card.get_by_text("Edit").click()
    assert console.button("Pause").bounding_box() == box

    console.press("New secret")
    console.text("#consequence").to_contain_text("The one before signs, too, until")
    expect(card).not_to_contain_text("Waiting for the answer")
    renewed = console.copied("secret")
    console.button("Done").click()
    path = f"/subscriptions/{made['subscription_id']}"
    assert console.api("GET", f"{path}/secret")["secret"] == renewed != made["secret"]
    console.press("Pause")
    expect(card).to_contain_text(re.compile(r"paused since \d\d:\d\d"))
    expect(console.button("Enable", exact=True)).to_be_focused()
    [paused] = console.post("order.paid", tenant="acme", payload={"order": {"total": 120}})[
        "copies"
    ]
    while console.api("GET", f"/events/{paused}")["status"] != "failed":
        pass
    console.button("Enable", exact=True).click()
    expect(console.button("Recover 1 failed of ")).to_be_focused()

    card.get_by_text("Never sent").click()
    card.get_by_label("Look for events it never got").fill("2026-01-01T00:00")
    console.button("Look", exact=True).click()
    expect(card).to_contain_text(re.compile(r"1 never sent of \d+ events since"))
    console.check_looks("never-sent", axe)
    console.button("Recover these 1 and what did not arrive since then").click()
    console.text("#job-title").to_have_text("2 events queued for CRM")


def test_a_customer_finds_an_order_and_mends_what_refuses_it(
    customer: Console, receiver: Receiver, axe: str
) -> None:
    page, rows = customer.page, customer.page.locator("#orders li li")
    for name, types in (("Ledger", "order.*"), ("Mail", "mail.*"), ("Shop", "order.*")):
        url = f"{receiver.url}/{name}"
        made = customer.subscribe(url, name=name, tenant="acme", event_types=[types])

    def refuse_ledger(exchange: Exchange) -> None:
        status(422 if exchange.request.path.endswith("Ledger") else 200)(exchange)

    receiver.default = refuse_ledger
    customer.api("POST", f"/subscriptions/{made['subscription_id']}/disable")
    event = customer.post("order.made", tenant="acme", subject="order-99")
    customer.find(event["event_id"])  # which a token may not read: its own delivery opens
    customer.heading("order-99").to_be_visible()
    customer.text("#facts").to_contain_text("Idcpy_")
    customer.find("99")  # in the shape of the subject that was seen
    customer.heading("order-99").to_be_focused()
    customer.find("der-99")
    page.get_by_role("link", name="Subject order-99").click()

    customer.find("ORDER 99")

    expect(rows).to_have_text(
        [
            re.compile(r"failed\s+Ledger\s+receiver responded 422, 1 attempt\s+Replay"),
            re.compile(r"failed\s+Shop\s+paused, not pushed.*\s+Enable and replay"),
            re.compile(r"not asked\s+Mail\s+takes mail.\*; this is order.made\s+Send"),
        ]
    )
    customer.check_looks("order-of-a-customer", axe)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("link", name="All webhooks").click()
    page.get_by_role("link", name="What did not arrive").click()
    customer.text("#rows li").to_have_text(
        [
            re.compile(r"failed\s+order-99\s+order.made\s+to Shop, not pushed"),
            re.compile(r"failed\s+order-99\s+order.made\s+to Ledger, receiver responded 422"),
        ]
    )
    customer.check_looks("undelivered", axe)
    assert len({url for url in asked if "status=undelivered" in url}) == 2  # not of Mail
    page.get_by_role("link", name="to Ledger").click()
    page.get_by_role("link", name="All deliveries").click()
    customer.heading("What did not arrive").to_be_visible()
    customer.find("order-99")
    for name, button in (("Shop", "Enable and replay"), ("Mail", "Send")):
        rows.filter(has_text=name).get_by_role("button").click()
        page.get_by_role("dialog").get_by_role("button", name=button).click()
        expect(rows.filter(has_text=name)).to_contain_text("delivered")


def test_a_page_that_ended_goes_on_with_what_was_typed(customer: Console) -> None:
    page, url = customer.page, "https://hooks.example/typed"
    page.get_by_label("URL").fill(url)
    refused = "**/subscriptions?*"
    page.route(refused, lambda route: route.fulfill(status=403, json={"message": "by a proxy"}))
    customer.text("#banner").to_contain_text("403 Forbidden")
    customer.heading("Webhooks of acme").to_be_visible()
    page.route(refused, lambda route: route.fulfill(status=401, json={"code": "unauthorized"}))
    customer.heading("This page has ended").to_be_visible()
    customer.forgive("40")
    page.unroute(refused)

    customer.go(f"key={customer.api('POST', '/tokens', tenant='acme')['token']}")

    customer.heading("Webhooks of acme").to_be_visible()
    expect(page.get_by_label("URL")).to_have_value(url)
    customer.button("Sign out").click()
    customer.heading("You are signed out").to_be_visible()
    customer.go("key=trt_cut")
    customer.heading("This link opens no page").to_be_visible()
    page.route("**/me?*", lambda route: route.fulfill(status=403, json={"code": "suspended"}))
    customer.go("key=trt_suspended")
    customer.heading("Your webhooks are suspended").to_be_visible()
    customer.forgive("40")


def test_a_webhook_of_another_system_keeps_its_secret_and_the_form_of_its_bodies(
    console: Console, receiver: Receiver
) -> None:
    page, payload = console.page, '{"text":"a,\\"metadata\\":","cents":12345678901234567890}'
    console.open(key=console.api("POST", "/tokens", tenant="acme")["token"])
    secret = page.get_by_label("Your own secret")
    page.get_by_label("URL").fill(receiver.url)
    page.get_by_label("Body of each request").select_option("the payload alone")
    secret.fill("whsec_short")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(visible=True)).to_have_text(
        "It must be whsec_ and base64 of 24 to 64 bytes."
    )
    secret.fill(OWN)
    page.keyboard.press("Enter")
    assert console.copied("secret") == OWN
    page.keyboard.press("Escape")
    card = page.locator("#subscriptions > li")
    expect(card.locator("dl")).to_contain_text("Bodythe payload alone")

    event = f'{{"event_type": "a", "tenant": "acme", "payload": {payload}}}'
    posted = json.loads(console.system.call("POST", "/events", event)[2])
    console.go(f"/events/{posted['copies'][0]}")
    console.text("#body").to_have_text(payload)
    assert payload.encode() in [request.body for request in receiver.requests]

    console.go("/subscriptions")
    card.get_by_text("Edit").click()
    card.get_by_label("Your own secret").fill(OTHER)
    console.button("Save").click()
    console.text("#subscriptions li > p").to_contain_text("It is saved")
    console.button("Show secret").click()
    assert console.copied("secret") == OTHER
    page.keyboard.press("Escape")
    console.forgive("status of 400")


# Keyboard and phone


def test_every_action_is_reached_by_keyboard(console: Console, receiver: Receiver) -> None:
    press = console.page.keyboard.press
    console.subscribe(receiver.url, name="Watch", event_types=["none"], tenant="acme")
    receiver.default = status(422)
    console.post("keys.pressed")
    console.open("/?event_type=keys.pressed&status=failed")
    console.text("#rows li").to_have_count(1)
    console.tab_through("Events,Find,Forget,1 failed,Replay all,Clear,Filters")
    press("Enter")
    console.tab_through("Status,type,Subject,Tenant,From,Until,Webhook,keys.pressed")
    press("Enter")
    console.heading("keys.pressed").to_be_focused()
    console.tab_through("Replay to your own webhook,Acknowledge")
    press("Enter")
    console.tab_through("Cancel,Acknowledge")
    press("Enter")
    console.text("#answer").to_have_text("Acknowledged.")
    expect(console.button("Replay to your own webhook")).to_be_focused()
    console.tab_through("Erase,Copy id,Copy curl,Copy payload,Webhooks")
    console.open("/subscriptions")
    console.page.get_by_role("link", name="Watch").wait_for()
    console.tab_through("Find,Add a webhook,Watch,Skip to the list")
    press("Enter")
    expect(console.page.get_by_role("link", name="Your own webhook")).to_be_focused()
    console.tab_through("Watch")
    press("Enter")
    expect(console.page.get_by_role("link", name="Watch")).to_be_focused()
    console.tab_through("Try it,Never sent,Edit,Pause,Show secret,New secret")


FREEZE = "later => (now => (Date.now = () => now))(Date.now() + later)"
HURRY_MORE = "void (setTimeout = (act, ms) => wait(act, ms / 20))"
WATCH = """() => {
    window.writes = [];
    const note = ({ target, attributeName: name }) => `${target.outerHTML ?? target.data} ${name}`;
    const watch = { attributes: true, characterData: true, childList: true, subtree: true };
    new MutationObserver((all) => writes.push(...all.map(note))).observe(document, watch);
}"""


def test_views_ask_twenty_times_a_minute_write_no_more_than_changes_and_lists_show_eight_rows(
    console: Console, receiver: Receiver
) -> None:
    page, asked = console.page, []
    for number in range(20):
        url = f"{receiver.url}/{number}"
        console.subscribe(url, name=f"Watch {number}", event_types=["none"])
    for number in range(12):
        event = console.post("list.shown", subject=f"order-{number}")
    while console.pending():
        pass

    def post_refused(tenant: str) -> tuple[str, str]:
        """Post an event that waits at forty webhooks; return a token, and the last one's id."""
        for number in range(40):
            made = console.subscribe(f"{receiver.url}/{tenant}/{number}", tenant=tenant)
        receiver.default = status(503, headers={"Retry-After": "3600"})
        console.post("list.shown", tenant=tenant, subject="order-40")
        while sum(bool(one["last_error"]) for one in console.pending(f"&tenant={tenant}")) < 41:
            pass
        token = console.api("POST", "/tokens", tenant=tenant)["token"]
        return token, made["subscription_id"]

    token, last_id = post_refused("acme")
    page.on("request", lambda request: asked.append(request.url))
    for key, place, rows in (
        ("shop-key", "/?event_type=list.shown", "#rows li"),
        ("shop-key", "/subscriptions", "#overview tr"),
        ("shop-key", f"/events/{event['event_id']}", "#steps li"),
        ("shop-key", f"/subscriptions/{last_id}", "#subscriptions > li"),
        (token, "/?status=undelivered", "#rows li"),
        (token, "/", "#overview tr"),
        ("", "/find?text=order-40", "#orders li li"),
    ):
        page.set_viewport_size({"width": 1280, "height": 720})
        if place == "/?status=undelivered":
            console.button("Forget key").click()
        if not key:
            console.button("Sign out").click()
            page.evaluate(FREEZE, 4e6)  # what is due within an hour is under way
        console.open(place, key or post_refused("beta")[0])
        row = page.locator(rows)
        row.first.wait_for()
        if "undelivered" in place or "find" in place:
            console.text(rows).to_have_count(40)
        chosen = row.locator("[data-part=subject], [data-part=name]")
        is_list = rows in ("#rows li", "#overview tr")
        if is_list:
            top, bottom = row.evaluate_all(EDGES)
            assert top <= 300
            assert bottom <= 720
            chosen.nth(7).evaluate("node => getSelection().selectAllChildren(node)")
        page.evaluate(FREEZE, 0)
        page.evaluate(HURRY_MORE)
        page.wait_for_timeout(1500)  # what is drawn each second was
        page.evaluate(WATCH)
        with page.expect_request("**"):  # a view that asked forty waits for two minutes
            asked.clear()
        page.wait_for_timeout(2500)  # nearly a minute, at twenty times the speed
        assert 1 <= len(asked) <= 20, place
        assert page.evaluate("window.writes") == [], place
        if is_list:
            assert page.evaluate("String(getSelection())") == chosen.nth(7).inner_text()
            page.set_viewport_size({"width": 720, "height": 450})  # 1440 x 900 at 200 %
            assert row.evaluate_all(EDGES)[0] < 400


def test_an_order_asks_twenty_times_a_minute_from_the_first_on_and_shows_what_it_has(
    console: Console, receiver: Receiver
) -> None:
    page, asked = console.page, []
    made = console.subscribe(receiver.url, tenant="acme")
    ids = [f"sub_{number:032x}" for number in range(40)]
    many = {"subscriptions": [{**made, "subscription_id": one} for one in ids]}
    members = {"event_id": f"evt_{0:032x}", "event_type": "a", "created_at": made["created_at"]}
    missed = {"events": [{**members, "subject": "order-40", "reason": "later"}], "examined": 1}
    page.route("**/subscriptions?*", lambda route: route.fulfill(json=many))
    page.route("**/missed?*", lambda route: route.fulfill(json=missed))
    page.on("request", lambda request: asked.append(request.url))
    page.add_init_script("setTimeout = wait")

    console.open("/find?text=order-40", console.api("POST", "/tokens", tenant="acme")["token"])

    console.text("#orders-none").to_have_text("Looked at 19 of 40 webhooks…")
    console.text("#orders li li").to_have_count(19)
    assert len([url for url in asked if "/subscriptions" in url]) == 20


def test_it_fits_a_phone_under_a_stage_path(console: Console, receiver: Receiver, axe: str) -> None:
    receiver.default = status(422, body=b"x" * 300)
    tenant = "z" * 128
    console.subscribe(receiver.url, name="w" * 100, tenant=tenant)
    event = console.post("x" * 128, payload={"long": "y" * 500}, tenant=tenant)
    page = console.page
    page.set_viewport_size({"width": 390, "height": 800})
    # As API Gateway does with the stage `api`; the page is opened without a slash at its end.
    page.route(
        "**/api**",
        lambda route: route.fulfill(
            response=route.fetch(url=route.request.url.replace("/api", ""))
        ),
    )
    page.goto(f"{console.origin}/api#key=shop-key")
    box = console.row(event).bounding_box()
    assert box
    assert box["y"] < 600  # on the first screen
    console.check_looks("phone-list", axe)

    console.row(event).click()

    console.text("#status").to_have_text("failed")
    console.check_looks("phone-event", axe)
    page.set_viewport_size({"width": 360, "height": 800})
    console.text("#steps .response").to_have_text("x" * 200 + "…")
    marks = page.locator("#timeline text[text-anchor]")
    expect(marks).to_have_count(3)
    boxes = [mark.bounding_box() for mark in marks.all()]
    ends = [(box["x"], box["x"] + box["width"]) for box in boxes if box]
    assert all(end < start for (_, end), (start, _) in pairwise(ends)), ends
    page.set_viewport_size({"width": 390, "height": 800})
    page.evaluate("location.hash = '#/subscriptions'")
    page.get_by_role("link", name="w" * 100).wait_for()
    console.check_looks("phone-webhooks", axe)
    page.set_viewport_size({"width": 1440, "height": 900})
    console.check_looks("wide-webhooks", axe)
    console.text("#zone").to_contain_text("UTC+0530")
    page.emulate_media(media="print")
    assert console.buttons() == []
    dated = "time => getComputedStyle(time, '::after').content + getComputedStyle(time).fontSize"
    shown = page.locator("#overview time").first.evaluate(dated)
    assert re.fullmatch(r'"\d{4}-\d\d-\d\d [\d:]+ UTC"0px', shown)
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 390, "height": 800})
    page.get_by_role("link", name="w" * 100).click()
    page.locator("#subscriptions").get_by_text("Edit").click()
    console.check_looks("phone-card", axe)
