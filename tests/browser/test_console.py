"""The console page in a real browser, against the whole system as `make run` starts it."""

import json
import re
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from chalicelib.console import page as join_page
from tests.support.console import HOSTILE, Console, refuse_copies
from tests.support.receiver import Exchange, Receiver, status
from tests.support.world import ROOT

EDGES = "rows => [rows[0].getBoundingClientRect().y, rows[7].getBoundingClientRect().bottom]"

pytestmark = pytest.mark.timeout(400)


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
    console.reads("#who", "shop on dev")
    console.forgive("status of 401")
    # In a link it leaves the address at once, and asks before it replaces another.
    for place in ("/", f"/events/{event['event_id']}", "/?event_type=order.linked"):
        console.open(place)
        page.reload()
        console.reads("#who", "shop on dev")
        assert page.evaluate("location.hash") == f"#{place}"
    follow = "location.hash += '&key=desk-key'"
    page.evaluate(follow)
    console.button("Use it").wait_for()
    assert "desk-key" not in page.evaluate("location.href")
    # another question, before the browser tells of the end of this one
    page.evaluate(f"document.getElementById('no').click(); {follow}; onhashchange({{}})")
    console.click("Use it")
    console.reads("#who", "desk on dev")
    console.go(f"/events/{event['event_id']}")
    console.shows("order.linked")
    expect(console.button("Erase")).to_be_hidden()  # the key lacks the scope
    assert "desk-key" not in page.evaluate(
        "location.href + JSON.stringify(localStorage) + document.cookie"
    )

    console.click("Forget key")

    expect(page.get_by_label("API key")).to_be_focused()
    assert "order.linked" not in page.evaluate("document.title + document.body.textContent")
    assert not page.evaluate("sessionStorage.length + localStorage.length + document.cookie.length")


# The list


def test_a_new_event_appears_by_itself_once_the_api_responds_again(console: Console) -> None:
    first = console.post("order.first")
    console.open()
    console.row(first).focus()
    console.page.route("**/events?*", lambda route: route.abort())
    console.contains(
        "#banner",
        re.compile(r"The API does not respond. Trying again. The data shown is from \d\d:\d\d"),
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
    console.contains("#banner", "Try again in 50 s")
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
    console.reads("#counted", "")
    console.text("#of-webhook").to_be_disabled()
    event_type.fill("refund.m")  # a partial word is the beginning of a type
    page.get_by_label("Until").fill("2099-01-01T00:00")
    console.text("#rows li").to_have_count(2)
    console.follow("1 failed")
    console.text("#rows li").to_have_count(1)
    expect(console.row(failed)).to_contain_text("receiver responded 422")
    address = page.evaluate("location.hash")
    until = "until=2098-12-31T18%3A30%3A00.000Z"
    assert address == f"#/?event_type=refund.m*&status=failed&tenant=acme&{until}"

    page.reload()

    console.text("#rows li").to_have_count(1)
    expect(event_type).to_have_value("refund.m*")
    console.click("Clear filters")
    assert page.evaluate("location.hash") == "#/"
    console.forgive("status of 400")


def test_all_that_match_are_listed_and_replayed(console: Console, receiver: Receiver) -> None:
    receiver.default = 422
    events = [console.post("bulk.failed", tenant="acme")["event_id"] for _ in range(31)]
    console.open("/?event_type=bulk.failed&status=failed")
    console.text("#rows li").to_have_count(31)
    # who counts at once counts pending events
    receiver.default = status(503, headers={"Retry-After": "5"})
    before = len(receiver.requests)
    console.page.evaluate("void (setTimeout = wait)")  # four a second, as people see it
    console.press("Replay all that match", "Replay")
    console.contains("#job-title", re.compile(r"Replaying: [1-9]\d* of 31 events queued"))

    console.click("Stop")

    console.reads("#job-title", re.compile(r"^\d+ queued, then stopped"))
    receiver.default = 200
    queued = int(console.page.locator("#job-title").inner_text().split()[0])
    console.page.reload()
    console.text("#rows li").to_have_count(31 - queued)
    console.press("Replay all that match", "Replay")
    console.reads(
        "#job-title",
        f"{31 - queued} queued; after delivery, run make redrive STAGE=dev to remove "
        "the dead letters from the DLQ and end the alarm",
    )
    console.text("#empty").to_be_visible()
    console.text(":focus").to_have_count(1)
    # Not the list of pending events: until it is loaded, the page shows that the last one is empty.
    console.open("/?event_type=bulk.failed&status=delivered")
    console.text("#rows li").to_have_count(31)
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
    console.reads("#counted", "5 events:2 failed1 not sent1 delivered1 not asked")
    console.follow("2 failed")
    expect(console.row(foreign)).to_be_hidden()  # the rows have moved
    console.row(dead).click()
    became = "1 of 1 webhook got it; 1 of yours got it; your own webhook did not get it"
    console.reads("#became", became)
    console.reads("#status", "failed")
    console.press("Replay to your own webhook")
    console.reads("#answer", re.compile("after delivery, run make redrive STAGE=dev"))
    console.subscribe(f"{receiver.url}/too", name="Corp too", tenant="corp")
    console.go("/?event_type=tone.judged")
    expect(console.row(foreign)).to_contain_text("1 of 1 webhook got it")
    expect(console.row(dead)).to_contain_text("1 of 2 webhooks got it, 1 not sent")
    console.row(left_out).click()
    console.contains("#became", "0 of 1 webhook got it, 1 not sent; 1 of yours got it")
    console.reads("#recipients a.type", ["Corp too", "Corp", "Archive"])
    console.follow("Webhook Archive")
    console.shows("Archive")
    console.find(early["event_id"])
    console.reads("#status", "not sent")


def test_what_is_old_says_so_older_pages_are_read_once_and_a_bad_row_spoils_none(
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
    console.reads("#counted", "100 events:1 failed99 deliveredolder ones are not counted")
    console.contains("#rows li >> nth=7", "Cannot be drawn")
    console.contains("#rows li >> nth=8", "after 0.0 s")

    console.click("Load older events")

    console.text("#rows li").to_have_count(200)
    while asked[-3:] != [0, 0, 0]:
        page.wait_for_timeout(100)
    assert sum(asked) == 1
    old, later = re.compile(r"as of \d\d:\d\d:\d\d"), "Date.now = () => new Date().getTime() + "
    page.evaluate(f"{later} 2e4")
    console.contains("#rows li:last-child", old)
    console.text("#rows li:first-child").not_to_contain_text(old)
    page.route(re.compile("/events"), lambda route: None)  # no answer
    page.evaluate(f"{later} 4e4")
    console.reads("#as-of", old)
    console.go("/?event_type=page.loaded")
    console.text("#listing").to_be_visible()


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
        console.heading("There is nothing here.").to_be_focused()
    assert "/events?include=subject&limit=2&source=original&subject=Order-815" in asked[0]
    assert "/events/evt_" in asked[1]
    for searched in ("x" * 129, "99999"):
        console.find(searched)
        console.shows(f"No event has the id or subject {searched}.")
    console.forgive("status of 400")
    console.text("#proposals li").to_have_count(0)
    console.find("fresh")
    console.contains("#looked", "These results contain the text:")
    console.reads("#proposals", "Subject INV-FRESH")
    token = console.token()
    console.subscribe("https://127.0.0.1/none", tenant="acme", event_types=["none"])
    console.post("order.sought", subject="INV-FRESH", tenant="acme")
    console.open("/find?text=99999", token)
    console.click("Use it")
    console.shows("No event has the subject 99999.")


def test_a_bare_number_is_tried_in_each_shape_of_subject_that_the_tab_has_seen(
    console: Console,
) -> None:
    page, event = console.page, console.post("shape.seen", subject="bill-4711")
    console.open("/?event_type=shape.seen")
    console.row(event).wait_for()
    members = {"event_id": f"evt_{0:032x}", "event_type": "shape.newer", "subject": "item-1"}
    newer = {"events": [{**members, "created_at": event["created_at"]}], "next_cursor": None}
    page.route(
        re.compile(r"/events\?include=(outcome|subject)&limit=100"),
        lambda route: route.fulfill(json=newer),
    )
    page.goto("about:blank")
    console.go("/nowhere")
    console.shows("There is nothing here.")

    console.find("4711")

    console.heading("bill-4711").to_be_focused()
    console.find("4712")
    console.shows("No event has the id or subject 4712.")
    tried = r"^Searched for the id or subject 4712, item-4712, (\S+, )*bill-4712"
    console.contains("#looked", re.compile(tried))
    console.click("Forget key")
    assert page.evaluate("sessionStorage.length") == 0


# One event


def test_a_failing_event_is_watched_to_its_end_and_replayed(
    console: Console, receiver: Receiver, axe: str
) -> None:
    receiver.script(status(503, headers={"Retry-After": "60"}, body=b"database is down"))
    receiver.default = status(503, body=b"database is down")
    event = console.post("order.created")
    console.open()
    expect(console.row(event)).to_contain_text("receiver responded 503, next attempt")

    console.row(event).press("Enter")

    console.heading("order.created").to_be_focused()
    first = (
        r"1: failed, receiver responded 503, took [\d.]+ ms [\d:]+\.\d{3}"
        r"\s*database is down.*"
    )
    answered = first + r"retry-after: 60.*Next attempt in \d+ s"
    console.contains("#steps", re.compile(answered, re.DOTALL))
    console.api("POST", f"/events/{event['event_id']}/replay")
    console.contains("#announcement", "Not delivered: the latest attempt")
    second = "Attempt 2, replayed after .*: failed, .*"
    third = "Attempt 3, after .*: failed, .*, same response"
    console.contains("#steps", re.compile(first + second + third, re.DOTALL))
    console.contains("#timeline", re.compile("1: 503.*2: 503.*3: 503.*dead letter"))
    console.check_looks("event", axe)

    receiver.default = 200
    console.press("Replay to your own webhook")

    console.contains("#steps", "Attempt 4, replayed after")
    console.reads("#message", "Delivered.")


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
        console.shows(heading)

    header = '-H "Authorization: Bearer $TRIGGERS_API_KEY"'
    curl = f"curl -sS '{console.origin}/events/{event_id}' {header}"
    texts = {"id": event_id, "curl": curl, "payload": '{\n  "big": 12345678901234567890123\n}'}
    assert {name: console.copied(name) for name in texts} == texts
    console.contains("#steps", "Claimed by a push or a lease until")
    console.forgive("status of 404")
    console.press("Replay to your own webhook")
    console.contains("#answer", re.compile(r"409 Conflict\..*Try again in \d+ s"))
    console.forgive("status of 409")
    console.api("POST", "/inbox/acknowledge", lease_id=leased["lease_id"], event_ids=[event_id])
    console.press("Erase")
    console.shows(f"Erased: {event_id}")
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
    expect(console.row(event)).to_have_text(
        re.compile(r"failed\s+order 4711\s+order.paid\s+for acme, 0 of 2 webhooks got it, 2 fail")
    )

    console.find("4711")  # in the shape of the subject that was seen

    console.reads("#became", "0 of 2 webhooks got it, 2 failed; 2 not asked")
    console.reads(
        "#recipients li",
        [
            re.compile(r"failed\s+Ledger\s+for acme, receiver responded 422, 1 attempt\s+Replay"),
            re.compile(r"failed\s+Warehouse"),
            re.compile(r"not asked\s+Corp\s+for acme, takes order.total ≥ 100; this has 80\s+Send"),
            re.compile(r"not asked\s+Audit\s+takes invoice.\*; this is order.paid\s+Send"),
        ],
    )
    console.check_looks("order", axe)
    receiver.default = 200
    before = len(receiver.requests)
    for name, became in (("Corp", "1 of 3"), ("Ledger", "2 of 3")):
        page.locator("#recipients li", has_text=name).get_by_role("button").click()
        page.get_by_role("dialog").get_by_role("button", name=re.compile("Send|Replay")).click()
        console.contains("#became", f"{became} webhooks got it")
        expect(page.locator("#recipients li", has_text=name).get_by_role("button")).to_be_focused()
    console.press("Replay copies", "Replay")
    console.reads("#job-title", "1 queued")
    console.reads("#became", "3 of 3 webhooks got it; 1 not asked")
    expect(console.button("Replay copies")).to_be_focused()
    pushed = [request.json() for request in receiver.requests[before:]]
    assert {one.get("source_event_id") for one in pushed} == {event["event_id"]}
    assert len(pushed) == 3
    unmatched = console.post("bill.made")["event_id"]
    console.click("Replay copies")
    console.go(f"/events/{unmatched}")
    console.reads("#became", "It matched none of 1 webhook.")
    for left in ("#confirm", "#job"):
        console.text(left).to_be_hidden()


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
    console.reads("#payload", json.dumps(payload, indent=2))
    page.locator("#recipients a", has_text=HOSTILE).first.click()
    console.reads(".response:not([hidden])", HOSTILE)
    expect(page.locator("#facts").get_by_role("link", name=event["event_id"])).to_be_visible()
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: "
        "'hacked = 1'}))"
    )
    console.forgive("Content Security Policy")


def test_an_offline_page_says_so_and_goes_on_by_itself(console: Console) -> None:
    event = console.post("order.offline")
    console.open(f"/events/{event['event_id']}")
    console.shows("order.offline")
    console.page.context.set_offline(True)
    console.contains("#banner", "You are offline. Trying again.")
    console.press("Erase")
    console.reads("#answer", "You are offline.")
    console.page.context.set_offline(False)
    console.text("#banner").to_be_hidden()
    console.forgive("ERR_INTERNET_DISCONNECTED")
    console.page.route("**/events/*", lambda route: route.fulfill(body="<p>Sign in to the Wi-Fi"))
    console.contains("#banner", "The API does not respond. Trying again.")


# Keyboard and phone


def test_every_action_is_reached_by_keyboard(console: Console, receiver: Receiver) -> None:
    press = console.page.keyboard.press
    console.subscribe(receiver.url, name="Watch", event_types=["none"], tenant="acme")
    receiver.default = 422
    console.post("keys.pressed")
    console.open("/?event_type=keys.pressed&status=failed")
    console.text("#rows li").to_have_count(1)
    press("/")
    expect(console.page.get_by_label("Find by id or subject")).to_be_focused()
    console.tab_through("Forget,1 failed,Replay all,Clear,Filters")
    press("Enter")
    console.tab_through("Status,type,Subject,Tenant,From,Until,Webhook,keys.pressed")
    press("Enter")
    console.heading("keys.pressed").to_be_focused()
    console.tab_through("Replay to your own webhook,Acknowledge")
    press("Enter")
    console.tab_through("Cancel,Acknowledge")
    press("Enter")
    console.reads("#answer", "Acknowledged.")
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
DRAW_OFTEN = "const every = setInterval; setInterval = (act, ms) => every(act, ms / 20);"
WATCH = """() => {
    window.writes = [];
    const note = ({ target, attributeName: name }) => `${target.outerHTML ?? target.data} ${name}`;
    const watch = { attributes: true, characterData: true, childList: true, subtree: true };
    new MutationObserver((all) => writes.push(...all.map(note))).observe(document, watch);
}"""


def test_views_ask_twenty_times_a_minute_write_only_changes_and_show_eight_rows(
    console: Console, receiver: Receiver
) -> None:
    page, asked = console.page, []
    for number in range(8):
        event = console.post("list.shown", subject=f"order-{number}")
    for number in range(21):
        made = console.subscribe(f"{receiver.url}/{number}", name=f"{number}", tenant="acme")
    receiver.default = status(503, headers={"Retry-After": "3600"})
    console.post("list.shown", tenant="acme", subject="order-40")
    while sum(bool(one["last_error"]) for one in console.pending("&tenant=acme")) < 22:
        page.wait_for_timeout(200)
    token = console.token()
    page.add_init_script(DRAW_OFTEN)
    page.on("request", lambda request: asked.append(request.url))
    for key, place, rows in (
        ("shop-key", "/?event_type=list.shown", "#rows li"),
        ("shop-key", "/subscriptions", "#overview tr"),
        ("shop-key", f"/events/{event['event_id']}", "#steps li"),
        ("shop-key", f"/subscriptions/{made['subscription_id']}", "#subscriptions > li"),
        (token, "/?status=undelivered", "#rows li"),
        (token, "/", "#overview tr"),
        (token, "/find?text=order-40", "#orders li li"),
    ):
        page.set_viewport_size({"width": 1280, "height": 720})
        if place == "/?status=undelivered":
            console.click("Forget key")
        if "find" in place:
            page.evaluate(FREEZE, 4e6)  # what is due within an hour is under way
        console.open(place, key)
        row = page.locator(rows)
        row.first.wait_for()
        if "undelivered" in place or "find" in place:
            console.text(rows).to_have_count(21)
        chosen = row.locator("[data-part=subject], [data-part=name]")
        is_list = rows in ("#rows li", "#overview tr")
        if is_list:
            top, bottom = row.evaluate_all(EDGES)
            assert top <= 300
            assert bottom <= 720
            chosen.nth(7).evaluate("node => getSelection().selectAllChildren(node)")
        page.evaluate(FREEZE, 0)
        page.evaluate(HURRY_MORE)
        page.wait_for_timeout(200)  # what is drawn each second was
        page.evaluate(WATCH)
        with page.expect_request("**"):  # a view that asked 21 times waits for a minute
            asked.clear()
        page.wait_for_timeout(2500)  # nearly a minute, at twenty times the speed
        assert 1 <= len(asked) <= 20, place
        assert page.evaluate("window.writes") == [], place
        if is_list:
            assert page.evaluate("String(getSelection())") == chosen.nth(7).inner_text()
            page.set_viewport_size({"width": 720, "height": 450})  # 1440 x 900 at 200 %
            assert row.evaluate_all(EDGES)[0] < 400


def test_an_order_over_forty_webhooks_takes_three_calls_and_shows_failures_first(
    console: Console, receiver: Receiver, axe: str
) -> None:
    asked: list[str] = []
    receiver.default = lambda exchange: status(
        422 if exchange.request.path.endswith("/38") else 200
    )(exchange)
    for number in range(40):
        console.subscribe(f"{receiver.url}/{number}", name=f"Hook {number}", tenant="acme")
    console.subscribe(f"{receiver.url}/operators/38")
    event = console.post("order.made", tenant="acme", subject="order-4711")
    while console.pending("&tenant=acme"):
        console.page.wait_for_timeout(200)
    path = f"/events/{event['event_id']}/recipients"
    while console.api("GET", path)["outcome"]["tenant"]["pending"]:
        console.page.wait_for_timeout(200)
    console.open("/", console.token())
    console.page.locator("#overview tr").first.wait_for()
    console.page.on("request", lambda request: asked.append(request.url))

    console.find("order-4711")

    rows = console.page.locator("#orders li li")
    console.text("#orders li li").to_have_count(40)
    assert len(asked) == 3, asked
    assert "failed" in rows.first.inner_text()
    assert "Hook 38" in rows.first.inner_text()
    console.contains("#orders", "39 of 40 webhooks got it, 1 failed")
    console.check_looks("order-of-forty", axe)


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

    console.reads("#status", "failed")
    console.check_looks("phone-event", axe)
    page.set_viewport_size({"width": 360, "height": 800})
    console.reads("#steps .response", "x" * 200 + "…")
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
    console.contains("#zone", "UTC+0530")
    page.emulate_media(media="print")
    assert console.buttons() == []
    dated = "time => getComputedStyle(time, '::after').content + getComputedStyle(time).fontSize"
    shown = page.locator("#overview time").first.evaluate(dated)
    assert re.fullmatch(r'"\d{4}-\d\d-\d\d [\d:]+ UTC"0px', shown)
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 390, "height": 800})
    console.follow("w" * 100)
    page.locator("#subscriptions").get_by_text("Edit").click()
    console.check_looks("phone-card", axe)
