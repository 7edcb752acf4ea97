"""Webhooks in the page: their table, their cards, and the page of a customer."""

import json
import re
import threading
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Route, expect

from tests.support.console import HOSTILE, Console, refuse_copies
from tests.support.receiver import Exchange, Receiver, in_turn, status
from tests.support.world import Json

SIGN_OUT_ELSEWHERE = (
    "new BroadcastChannel(origin + '/').postMessage({ forgotten: sessionStorage.getItem('key') })"
)
OWN, OTHER = (f"whsec_{letter * 32}" for letter in "ab")

pytestmark = pytest.mark.timeout(400)


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
    receiver.default = 422
    while not console.api("GET", path)["disabled_at"]:
        console.post("ledger.booked", tenant="acme")
        page.wait_for_timeout(200)
    copies = f"/events?subscription_id={path[15:]}&status="
    while console.api("GET", f"{copies}pending")["events"]:
        pass
    failed = len(console.api("GET", f"{copies}failed")["events"])
    console.open("/subscriptions")

    console.reads("#troubled", "3 of 4 webhooks in trouble")
    console.reads(
        "#overview tr",
        [
            re.compile(rf"Your own webhook\s*dead letters{clock}{said} 422\d+{clock}"),
            re.compile(rf"CRM\s*acme\s*disabled{clock}{said} 4220{failed}{clock}"),
            re.compile(rf"Bank\s*other\s*waiting{clock}{said} 50310{clock}"),
            re.compile(r"Audit\s*active00none"),
        ],
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
    console.follow("Bank")
    expect(cards).to_contain_text(
        re.compile(r"failing since 2026-01-21 03:30: 1 waiting.*1 waiting, all, the", re.DOTALL)
    )
    expect(console.button("Enable", exact=True)).to_be_hidden()
    expect(console.button("Recover 1 waiting of ")).to_be_visible()
    with page.context.expect_page() as opened:
        console.click("Open as customer")
    expect(opened.value.get_by_role("heading", name="Webhooks of other")).to_be_visible()
    opened.value.close()
    console.follow("All webhooks")
    page.get_by_label("Find", exact=True).fill("disab")
    console.text("#overview tr").to_have_count(1)
    page.locator("#overview tr").click()
    expect(cards).to_contain_text(re.compile("Last error.*To doFix the receiver", re.DOTALL))
    receiver.default = 200
    console.button("Enable", exact=True).press("Enter")
    expect(cards.get_by_role("status")).to_contain_text("It is enabled.")
    expect(cards.locator(".primary:visible")).to_have_text(
        re.compile(f"^Recover {failed} failed, the oldest of {clock}$")
    )
    console.click(f"Recover {failed} failed")
    told = (
        f"0 events queued for CRM; {failed} more will follow by {clock}"  # a loop would be a flood
    )
    console.reads("#job-title", re.compile(f"^{told}; after delivery|^{told}$"))
    said = f"At {clock}: 0 events queued; {failed} more will follow by {clock}."
    expect(cards.locator("[data-part=queued]")).to_have_text(re.compile(said))


def test_what_was_lost_is_trouble_until_it_is_dismissed_or_recovered(
    console: Console, receiver: Receiver
) -> None:
    page, clock = console.page, r"\d\d:\d\d"
    console.subscribe(receiver.url, name="CRM", tenant="acme", event_types=["lost.*"])
    other = console.subscribe(receiver.url, event_types=["none"])
    receiver.default = refuse_copies
    console.post("lost.found", tenant="acme")
    receiver.default = 200
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
    console.follow("CRM")
    state = page.locator("#subscriptions h2 + [data-part=state]")
    expect(state).to_have_text(re.compile(f"^missed 1 since {clock}$"))

    console.press("Dismiss")

    expect(state).to_have_text("active")
    expect(console.button("Recover")).to_be_hidden()
    console.unfold("Never sent")
    console.click("Look")
    got = (
        "^It got all events that it takes: 0 of 1 event since .*; its types and filter leave out 1$"
    )
    expect(page.locator("[data-part=missed]")).to_have_text(re.compile(got))
    console.click("Undo dismissal")
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
    console.click("Recover")
    console.contains("#job-fault", "Load the page again.")
    console.click("Close")
    wait = {"Retry-After": "5000"}
    page.unroute(f"**{path}/recover")
    page.route(f"**{path}/recover", lambda route: route.fulfill(status=503, headers=wait, json={}))
    console.click("Recover")
    console.contains("#job-fault", "Try again in 5000 s")

    console.click("Stop", exact=True)

    console.reads("#job-title", "0 events queued for CRM, then stopped")
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

    console.click("Recover 2,114 waiting")

    told = "2,670 events queued"
    later = r"30 more will follow by \d\d:\d\d"
    console.reads("#job-title", re.compile(f"^{told} for CRM; {later}$"))
    assert [json.loads(body)["cursor"] for body in asked] == [None, "more", "more"]
    queued = page.locator("#subscriptions [data-part=queued]")
    expect(queued).to_have_text(re.compile(rf"^At \d\d:\d\d: {told}; {later}\.$"))
    expect(console.button("Recover")).to_be_hidden()
    counted["failed"] = 1  # again
    expect(console.button("Recover 1 failed and 2,114")).to_be_visible()
    expect(queued).to_be_hidden()
    counted["failed"] = 0
    expect(queued).to_be_visible()
    expect(queued).to_be_focused()
    counted["waiting"] = 20
    told = r"^20 of 2,114 deliveries are left; the next ones will follow by \d\d:\d\d.$"
    expect(queued).to_have_text(re.compile(told))
    page.evaluate("Date.now = () => new Date().getTime() + 3e5")
    console.text("#job").to_be_hidden()  # the minute has passed
    expect(console.button("Recover 20 waiting")).to_be_visible()


def test_a_recovery_counts_down_what_is_left_until_all_has_arrived(
    console: Console, receiver: Receiver
) -> None:
    page, clock = console.page, r"\d\d:\d\d"
    path, counted = open_counted(console, receiver.url, waiting=60)
    queued = page.locator("#subscriptions [data-part=queued]")
    result = page.locator("#subscriptions [data-part=result]")
    began = {"catches_up": False}
    page.route(
        f"**{path}/test", lambda route: route.fulfill(json={**route.fetch().json(), **began})
    )
    console.unfold("Try it")
    console.click("Send as a test")
    again = f"60 deliveries are waiting. A test .*: test again after {clock}, or press Recover."
    expect(result).to_have_text(re.compile(again))
    began["catches_up"] = True
    follows = "60 deliveries are waiting, and will follow within minutes."
    console.click("Send as a test")
    expect(result).to_contain_text(follows)
    expect(queued).to_have_text(follows)
    expect(console.button("Recover 60 waiting")).to_be_visible()  # it is quicker

    left = "deliveries are left; the next ones will follow by"
    counted["waiting"] = 42

    expect(queued).to_have_text(re.compile(f"^42 of 60 {left} {clock}.$"))
    counted["waiting"] = 0
    expect(queued).to_be_hidden()
    expect(result).to_be_hidden()  # what it said has passed
    # By itself, once something is delivered to a webhook that was failing.
    twelve = {**counted, "waiting": 12}
    page.route(f"**{path}?*", answer_with(deliveries=twelve, state="failing"))
    expect(console.button("Recover 12 waiting")).to_be_visible()
    # At once: the page asks every 0.3 s, and would find what no route answers.
    page.route(f"**{path}?*", answer_with(deliveries={**counted, "waiting": 11}))
    expect(queued).to_have_text(re.compile(f"^11 of 12 {left} {clock}.$"))


def test_what_a_paused_webhook_keeps_is_no_failure_and_is_counted_apart(
    console: Console, receiver: Receiver, axe: str
) -> None:
    page = console.page
    console.subscribe(receiver.url, name="CRM", tenant="acme", event_types=["kept.*"])
    laptop = console.subscribe(f"{receiver.url}&laptop", name="Laptop", tenant="acme")
    console.api("POST", f"/subscriptions/{laptop['subscription_id']}/disable")
    event = console.post("kept.back", tenant="acme")
    [_, kept] = event["copies"]
    while console.api("GET", f"/events/{kept}")["status"] != "failed":
        page.wait_for_timeout(100)
    console.open("/?event_type=kept.*")

    expect(console.row(event)).to_contain_text(
        re.compile(r"^kept.*for acme, 1 of 2 webhooks got it, 1 kept, Laptop: paused", re.DOTALL)
    )
    console.reads("#counted", "1 event:1 kept")
    console.row(event).click()
    console.reads("#status", "kept")
    console.contains("#recipients", "for acme, paused, not pushed: the webhook is paused")
    console.click("Replay copies")
    console.reads("#question", "Replay 1 copy, none of which failed?")
    console.contains(
        "#consequence", "It is sent to CRM with the same webhook-id. Laptop gets nothing: it is p"
    )
    console.click("Cancel")
    console.go("/subscriptions")
    console.contains("#troubled", "of 3 webhooks in trouble, 1 paused")
    row = page.locator("#overview tr", has_text="Laptop")
    expect(row).to_contain_text(re.compile(r"Laptop\s*acme\s*paused\d\d:\d\d01 kept"))
    console.follow("Laptop")
    card = page.locator("#subscriptions > li")
    expect(card.locator("h2 + [data-part=state]")).to_have_text(re.compile("^paused .*: 1 kept$"))
    expect(console.button("Enable and recover 1 kept of ")).to_be_visible()
    expect(card).not_to_contain_text(re.compile("failed|disabled"))
    console.check_looks("kept", axe)

    def be_busy(exchange: Exchange) -> None:
        is_copy = exchange.request.headers["webhook-id"].startswith("cpy_")
        status(503 if is_copy else 200, headers={"Retry-After": "60"})(exchange)

    receiver.default = be_busy
    waiting = console.post("kept.back", tenant="acme")
    while len(console.pending("&tenant=acme")) > 1:  # the copy for CRM
        page.wait_for_timeout(100)
    console.go("/?event_type=kept.*")
    expect(console.row(waiting)).to_contain_text(
        re.compile("^waiting.*1 waiting, 1 kept", re.DOTALL)
    )


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
    console.follow("CRM")
    card = page.locator("#subscriptions > li")
    expect(card.locator("h2 + [data-part=state]")).to_have_text("suspended: 1 failed")
    expect(card).to_contain_text("Nothing can be recovered while its tenant is suspended.")
    expect(console.button("Recover")).to_be_hidden()


def test_a_subscription_is_made_and_its_secret_is_shown(
    console: Console, receiver: Receiver
) -> None:
    page, offered = console.page, ["order.created", "order.paid"]
    page.route(
        "**/me?*",
        lambda route: route.fulfill(json={**route.fetch().json(), "event_types": offered}),
    )
    console.open("/subscriptions")
    console.unfold("Add a webhook")
    url, types = page.get_by_label("URL"), page.get_by_label("Other types")
    fault = page.get_by_role("alert").filter(visible=True)
    url.fill("http://evil.example/")
    page.get_by_label("order.paid", exact=True).check()
    types.fill("order.made")
    console.button("Add").last.click()
    expect(fault).to_have_text("order.made is not an event type here.")
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
    console.click("Done")
    console.reads("#secret", "")
    assert secret not in page.content()
    console.reads("#subscriptions h2", [HOSTILE])
    expect(page.locator("#subscriptions h2 a")).to_be_focused()
    # Another filter would take the place of the one that is there.
    console.go("/subscriptions")
    console.unfold("Add a webhook")
    url.fill(receiver.url)
    page.get_by_label("order.paid", exact=True).check()
    types.fill("order.*")
    page.get_by_label("For tenant").fill("acme")
    page.get_by_role("textbox", name="Filter").fill('{"total": [1]}')
    console.button("Add").last.click()
    expect(fault).to_have_text(re.compile("types already exists. It differs in filter. Edit it"))
    console.follow("Edit it")
    console.reads("#subscriptions h2", [HOSTILE])
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
    console.open("/subscriptions", key=console.token())

    console.unfold("How to verify and answer")
    console.contains("#listen", f"TRIGGERS_URL={console.origin}/ TRIGGERS_API_KEY=")
    assert console.copied("token").startswith("trt_")
    console.unfold("Event types and their payloads")
    row = page.locator("#catalogue-rows > li").filter(has_text="order.paid")
    row.get_by_text("order.paid", exact=True).click()
    expect(row).to_contain_text(HOSTILE)
    row.get_by_role("button", name="Copy example").click()
    console.reads("#announcement", "Copied")
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == example
    console.unfold("Add a webhook")
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
    console.unfold("Add a webhook")
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
    assert shown == "hidden; leave this empty to keep the URL at 127.0.0.1"
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
    console.click("Save")
    console.reads("#question", "Send all types to CRM?")
    console.click("Cancel")
    types.fill("order.*")
    card.get_by_label("URL").fill(f"{receiver.url}/moved")
    card.get_by_label("Filter").fill('{"total": ')
    card.get_by_role("button", name="Save").click()
    for told in ("It must be JSON", "Enter the value of Authorization again, or remove it."):
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
    console.follow("CRM")
    card = page.locator("#subscriptions > li")
    card.get_by_text("Edit").click()
    name = card.get_by_label("Name", exact=True)
    name.fill("ERP")
    console.follow("All webhooks")
    console.click("Stay")
    for _ in range(2):  # that one is in the history, too
        page.go_back()
    console.click("Stay")
    expect(name).to_have_value("ERP")
    console.follow("All webhooks")
    console.click("Leave")
    console.shows("Webhooks")
    console.follow("CRM")
    card.get_by_text("Edit").click()
    console.follow("All webhooks")  # nothing was edited
    console.shows("Webhooks")


# A customer's page


@pytest.fixture
def customer(console: Console) -> Console:
    """Return the console as the link of a token for the tenant `acme` opens it."""
    console.open(key=console.token())
    console.heading("Webhooks of acme").to_be_focused()
    return console


def test_a_token_opens_the_page_of_its_tenant(
    customer: Console, receiver: Receiver, axe: str
) -> None:
    page, press = customer.page, customer.page.keyboard.press
    receiver.default = status(422, body=b"no such account")
    assert page.title() == "acme"
    assert "trt_" not in page.evaluate("location.href + document.body.innerText")
    customer.contains("#nobody", "There are no webhooks yet. Add")
    page.get_by_label("URL").fill(receiver.url)
    page.get_by_label("Name").fill("Ledger")
    press("Enter")
    expect(customer.button("Copy secret")).to_be_focused()
    press("Escape")
    expect(page.get_by_role("link", name="Ledger")).to_be_focused()
    customer.unfold("Try it")
    customer.click("Send as a test")
    customer.contains("#subscriptions [data-part=result]", "receiver responded 422")
    customer.contains(
        "#subscriptions [data-part=sent]", receiver.requests[-1].headers["webhook-signature"]
    )
    named = ["Send as a test", "Delete", "Pause", "Show secret", "New secret"]
    assert customer.buttons() == ["Sign out", *named]
    event = customer.post("order.created", tenant="acme")
    customer.post("order.created")

    customer.follow("Ledger")

    customer.heading("Deliveries to Ledger").to_be_focused()
    customer.reads(
        "#rows li",
        re.compile(r"failed\s+cpy_\w{8}…\s+order.created\s+receiver responded 422\s+1 att"),
    )
    assert customer.buttons() == ["Sign out", "Replay all that match"]
    page.locator("#rows a").press("Enter")
    customer.contains(
        "#steps", re.compile("Attempt 1: failed, receiver responded 422.*no such account")
    )
    customer.contains("#facts", event["copies"][0])
    assert customer.buttons() == ["Sign out", "Replay", "Copy id", "Copy body", "Copy payload"]
    customer.contains("#sent", "webhook-event-type")
    assert customer.copied("body").encode() in [request.body for request in receiver.requests]
    said = page.locator("main").inner_text().replace("shop", "", 2)  # in metadata
    assert not re.search("shop|copies|claim|lease|dead letter", said, re.IGNORECASE)
    customer.check_looks("customer-event", axe)
    receiver.default = 200
    customer.press("Replay")
    customer.reads("#status", "delivered")
    customer.go("/subscriptions")
    page.locator("#subscriptions").get_by_text("Edit").click()
    customer.press("Delete")
    customer.reads("#told", "Ledger is deleted.")
    customer.contains("#nobody", "There are no webhooks yet.")


def click_three_times(button: Locator, receiver: Receiver) -> None:
    """Click a button that makes a push, and let the receiver respond with 200 after the clicks."""
    has_clicked = threading.Event()
    receiver.script(in_turn(lambda _: has_clicked.wait(60), status(200)))
    button.click(click_count=3)
    has_clicked.set()


def test_a_webhook_is_tried_paused_renewed_and_recovers_what_it_missed(
    console: Console, receiver: Receiver, axe: str
) -> None:
    console.post("order.created", tenant="acme", payload={"order": {"total": 120}})
    pattern = {"order": {"total": [{"numeric": [">=", 100]}]}}
    made = console.subscribe(receiver.url, name="CRM", tenant="acme", filter=pattern)
    console.open(key=console.token())
    console.post("order.paid", tenant="acme", payload={"order": {"total": 120}})
    card = console.page.locator("#subscriptions > li")
    payload = card.get_by_label("Payload")
    expect(card).to_contain_text(f"URL{receiver.url}")
    card.get_by_text("Try it").click()
    expect(payload).to_have_value(re.compile("120"))
    payload.fill('{"order": {"total": 80}}')
    click_three_times(console.button("Send as a test"), receiver)
    result = "would not be sent: CRM takes order.total ≥ 100; this has 80."
    expect(card.get_by_role("status").filter(visible=True)).to_contain_text(result)
    expect(card).to_contain_text(re.compile(r"Last test\d\d:\d\d: delivered, status 200"))
    tested = [
        push for push in receiver.requests if push.json()["payload"] == {"order": {"total": 80}}
    ]
    assert len(tested) == 1
    console.check_looks("webhook", axe)
    box = console.button("Pause").bounding_box()
    card.get_by_text("Edit").dblclick()
    card.get_by_text("Edit").click()
    assert console.button("Pause").bounding_box() == box

    console.press("New secret")
    console.contains("#consequence", "The previous secret also signs until")
    expect(card).not_to_contain_text("Waiting for the answer")
    renewed = console.copied("secret")
    console.click("Done")
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
    console.click("Enable", exact=True)
    expect(console.button("Recover 1 failed of ")).to_be_focused()

    card.get_by_text("Never sent").click()
    card.get_by_label("Look for events it never got").fill("2026-01-01T00:00")
    console.click("Look", exact=True)
    expect(card).to_contain_text(re.compile(r"1 of \d+ events since .* was never sent"))
    console.check_looks("never-sent", axe)
    console.click("Recover 1 event and all that did not arrive since then")
    console.reads("#job-title", "2 events queued for CRM")
    console.click("Show secret")
    console.reads("#secret", renewed)
    console.page.evaluate(SIGN_OUT_ELSEWHERE)
    console.shows("You are signed out")
    for left in ("#confirm", "#job", "#secret"):
        console.text(left).to_be_hidden()


def test_one_line_tells_whether_everything_arrived_since_yesterday(
    console: Console, receiver: Receiver, axe: str
) -> None:
    page, asked = console.page, []
    made = {
        name: console.subscribe(
            f"{receiver.url}/{name}", name=name, tenant="acme", event_types=types
        )
        for name, types in (
            ("CRM", ["day.failed", "day.dismissed"]),
            ("ERP", ["day.waits"]),
            ("Mail", ["day.waits", "triggers.*"]),
            ("Laptop", ["day.kept"]),
        )
    }
    paths = {name: f"/subscriptions/{one['subscription_id']}" for name, one in made.items()}
    codes = {"CRM": status(422), "ERP": status(503, headers={"Retry-After": "60"})}
    codes["Mail"] = codes["ERP"]
    receiver.default = lambda exchange: codes.get(
        exchange.request.path.rpartition("/")[2], status(200)
    )(exchange)
    console.api("POST", f"{paths['Laptop']}/disable")
    console.open("/subscriptions?tenant=acme")
    since = r"Since yesterday \d\d:00 everything arrived"
    console.reads("#day", re.compile(f"^{since}$"))
    console.heading("Webhooks of acme")
    dismissed = console.post("day.dismissed", tenant="acme")
    console.api("PATCH", paths["CRM"], dismissed_until=dismissed["created_at"])
    for event_type in ("day.failed", "day.failed", "day.waits", "day.kept"):
        console.post(event_type, tenant="acme")

    told = r"2 that failed \(CRM\), 2 that wait \(ERP, Mail\) and 1 that is kept \(Laptop\)"
    console.reads("#day", re.compile(f"^{since}, except {told}$"))
    console.check_looks("day", axe)
    for link, heading, rows in (
        ("2 that failed", "What failed for acme since", 2),
        ("2 that wait", "What waits for acme since", 2),
        ("1 that is kept", "What is kept for acme since", 1),
    ):
        console.follow(link)
        console.shows(heading)
        console.text("#rows li").to_have_count(rows)
        console.follow("Webhooks of acme")
    # Of what failed or waits for longer than a day the counts do not tell how much is of the day.
    older: Json = {"oldest_missed_at": "2026-01-20T22:00:00.000000Z", "failed": 1004}

    def age(route: Route) -> None:
        listed = route.fetch().json()
        for one in listed["subscriptions"]:
            if one["name"] == "CRM":
                one["deliveries"] |= older
        route.fulfill(json=listed)

    page.route("**/subscriptions?include=deliveries*", age)
    page.on("request", lambda request: asked.append(request.url))
    console.open(key=console.token())
    console.click("Use it")
    console.reads("#day", re.compile(f"^{since}, except {told}$"))
    console.contains("#overview", "1,004")
    page.wait_for_timeout(1000)  # three refreshes
    assert len([url for url in asked if "status=undelivered" in url]) == 1
    with page.expect_request(re.compile("status=undelivered")):
        older["failed"] += 1
    console.follow("2 that failed")
    console.text("#rows li").to_have_count(2)


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
    customer.find(event["event_id"])
    customer.shows("order-99")
    expect(rows).to_have_count(3)
    customer.find("der-99")
    customer.follow("Subject order-99")

    customer.find("ORDER 99")

    expect(rows).to_have_text(
        [
            re.compile(r"failed\s+Ledger\s+receiver responded 422, 1 attempt\s+Replay"),
            re.compile(
                r"kept\s+Shop\s+paused, not pushed: the webhook is paused\s+Enable and replay"
            ),
            re.compile(r"not asked\s+Mail\s+takes mail.\*; this is order.made\s+Send"),
        ]
    )
    customer.check_looks("order-of-a-customer", axe)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    customer.follow("All webhooks")
    customer.follow("What did not arrive")
    customer.reads(
        "#rows li",
        [
            re.compile(
                r"kept\s+order-99\s+order.made\s+to Shop, not pushed: the webhook is paused"
            ),
            re.compile(r"failed\s+order-99\s+order.made\s+to Ledger, receiver responded 422"),
        ],
    )
    customer.check_looks("undelivered", axe)
    assert len({url for url in asked if "status=undelivered" in url}) == 2  # not of Mail
    customer.follow("to Ledger")
    customer.follow("All deliveries")
    customer.shows("What did not arrive")
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
    customer.contains("#banner", "403 Forbidden")
    customer.shows("Webhooks of acme")
    page.route(refused, lambda route: route.fulfill(status=401, json={"code": "unauthorized"}))
    customer.shows("This page has expired")
    customer.forgive("40")
    page.unroute(refused)

    customer.go(f"key={customer.api('POST', '/tokens', tenant='acme')['token']}")

    customer.shows("Webhooks of acme")
    expect(page.get_by_label("URL")).to_have_value(url)
    customer.click("Sign out")
    customer.shows("You are signed out")
    customer.go("key=trt_cut")
    customer.shows("This link does not work")
    page.route("**/me?*", lambda route: route.fulfill(status=403, json={"code": "suspended"}))
    customer.go("key=trt_suspended")
    customer.shows("Your webhooks are suspended")
    customer.forgive("40")


def test_a_webhook_of_another_system_keeps_its_secret_and_the_form_of_its_bodies(
    console: Console, receiver: Receiver
) -> None:
    page, payload = console.page, '{"text":"a,\\"metadata\\":","cents":12345678901234567890}'
    console.open(key=console.token())
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
    console.reads("#body", payload)
    assert payload.encode() in [request.body for request in receiver.requests]

    console.go("/subscriptions")
    card.get_by_text("Edit").click()
    card.get_by_label("Your own secret").fill(OTHER)
    console.click("Save")
    console.contains("#subscriptions li > p", "It is saved")
    console.click("Show secret")
    assert console.copied("secret") == OTHER
    page.keyboard.press("Escape")
    console.forgive("status of 400")
