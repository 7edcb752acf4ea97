"""Outcomes: what became of an event, by all its webhooks."""

import json
from collections import Counter
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.aws_calls import Aws
from tests.support.receiver import Exchange, Receiver, status
from tests.support.world import Answer, Json, World, assert_has


def outcomes(world: World, **query: str) -> Any:
    """Return what became of the events that are listed."""
    path = f"/events?{urlencode({'include': 'outcome', **query})}"
    return [event["outcome"] for event in world.get(path)["events"]]


def outcome(world: World, event: Json) -> Json:
    """Return what became of the only event, by a list, of its copies, too, and its recipients."""
    told = outcomes(world)
    told.append(world.get(f"/events/{event['event_id']}/recipients")["outcome"])
    assert told == [told[0]] * len(told)
    return dict(told[0])


def by_path(exchange: Exchange) -> object:
    """Answer with the status code at the end of the path."""
    return status(int(exchange.request.path[-3:]))(exchange)


def make(world: World, target: Receiver, kind: str, tenant: str | None) -> str:
    """Make a webhook that answers with a status code, 422 if it is another kind; return its id."""
    url = f"{target.url}&{kind}={kind if kind.isdigit() else 422}"
    types = ["other"] if kind == "types" else []
    pattern = {"total": [1]} if kind == "filter" else None
    return world.subscribe(url, *types, tenant=tenant, filter=pattern).new_id


@pytest.mark.parametrize(
    "tenants, operators, own, state, decided",
    [
        ("200 503 422", "", "failed", "failed", "422"),
        ("200 503", "422", "delivered", "waiting", "503"),
        ("200 503", "", "failed", "failed", None),
        ("200 filter", "422", "pending", "waiting", None),
        ("types", "200", "delivered", "not_asked", "types"),
        ("filter 200 later", "", "delivered", "not_sent", "later"),
        ("", "200 503", "delivered", "waiting", "503"),
        ("", "200 gone", "delivered", "failed", "gone"),
        ("200", "gone", "delivered", "delivered", "200"),
        ("", "types", "delivered", "delivered", None),
        ("", "types", None, "not_asked", "types"),
        ("", "", "failed", "failed", None),
        ("", "", None, "no_webhook", None),
    ],
)
def test_an_event_came_to_the_worst_of_its_tenants_webhooks_or_else_the_operators(
    world: World,
    receiver: Receiver,
    target: Receiver,
    tenants: str,
    operators: str,
    own: str | None,
    state: str,
    decided: str | None,
) -> None:
    receiver.default = {"failed": 422, "pending": 503}.get(own or "", 200)
    if own is None:
        world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    target.default = by_path
    kinds = [("a", kind) for kind in tenants.split()] + [(None, kind) for kind in operators.split()]
    made = {kind: make(world, target, kind, of) for of, kind in kinds if kind != "later"}
    world.sleep(10)
    event = world.post_later({"total": 2}, tenant="a")
    if "later" in tenants:
        made["later"] = make(world, target, "later", "a")
    if "gone" in made:
        world.call("DELETE", f"/subscriptions/{made['gone']}")

    told = outcome(world, event)

    code = {"failed": 422, "waiting": 503}.get(state)
    assert_has(
        told,
        state=state,
        own=own,
        error=f"receiver responded {code}" if code else None,
        subscription_id=made.get(decided or ""),
    )


COUNTS = ("delivered", "failed", "waiting", "pending", "not_asked", "not_sent")


def test_an_outcome_counts_the_webhooks_of_a_tenant_and_those_without_one(
    world: World, target: Receiver
) -> None:
    target.default = by_path
    for kind in ("200", "422", "503", "filter"):
        for tenant in ("a", None):
            make(world, target, kind, tenant)
    world.sleep(10)
    event = world.post_later({"total": 2}, tenant="a")
    make(world, target, "later", "a")

    told = outcome(world, event)

    assert told["tenant"] == {name: int(name != "pending") for name in COUNTS}
    assert told["operator"] == {**told["tenant"], "not_sent": 0}
    for copy in event["copies"]:
        world.replay(copy)
    assert_has(outcome(world, event)["operator"], pending=1, failed=0, waiting=2, delivered=0)


def test_a_page_of_outcomes_ends_before_a_thousand_copies_which_are_read_together(
    world: World, target: Receiver, aws: Aws
) -> None:
    for number in range(2):
        make(world, target, f"{number}", "a")
    listed = [world.post_later(tenant="a")["event_id"] for _ in range(4)]
    query = {"tenant": "a", "source": "original", "order": "oldest"}

    calls = aws.during(lambda: outcomes(world, **query))

    # the events, and their copies; the subscriptions of the tenant, and those without one
    assert Counter(calls) == {"BatchGetItem": 2, "Query": 3}
    ids_of_copies = json.dumps([f"cpy_{number:032x}" for number in range(400)])
    for event_id in listed:
        world.change_item(event_id, "SET copies = :copies", copies={"S": ids_of_copies})
    page = world.get(f"/events?{urlencode({'include': 'outcome', **query})}")
    assert [event["event_id"] for event in page["events"]] == listed[:2]
    assert len(outcomes(world, **query, cursor=page["next_cursor"])) == 2


# With a token


class Customer:
    """What a token sees of a tenant's events."""

    def __init__(self, world: World, tenant: str) -> None:
        self.world = world
        self.token = world.make_token(tenant)

    def get(self, path: str) -> Answer:
        return self.world.call("GET", path, key=self.token)

    def events(self, **query: str) -> Any:
        answer = self.get(f"/events?{urlencode({'include': 'outcome', **query})}")
        assert answer.status_code == 200, answer.text
        return answer.json["events"]

    def recipients(self, event: Json) -> Answer:
        return self.get(f"/events/{event['event_id']}/recipients")


def test_a_token_is_told_what_became_of_its_events_at_its_webhooks(
    world: World, target: Receiver
) -> None:
    target.default = by_path
    ids = {kind: make(world, target, kind, "a") for kind in ("200", "422", "503", "filter")}
    make(world, target, "422", None)
    world.sleep(10)
    event = world.post_later({"total": 2}, tenant="a", subject="order-4711")
    ids["later"] = make(world, target, "later", "a")
    customer = Customer(world, "a")

    [by_subject] = customer.events(subject="order-4711")
    [by_time] = customer.events(since=event["created_at"], order="oldest", tenant="a")
    told = customer.recipients(event).json

    assert by_subject == by_time
    assert_has(by_time, event_id=event["event_id"], subject="order-4711")
    counts = {name: int(name != "pending") for name in COUNTS}
    outcome = {"state": "failed", "tenant": counts, "operator": dict.fromkeys(COUNTS, 0)}
    error = {"error": "receiver responded 422", "subscription_id": ids["422"]}
    assert told["outcome"] == by_time["outcome"] == {**outcome, "own": None, **error}
    rows = {row["subscription_id"]: row for row in told["recipients"]}
    assert {*rows} == {*ids.values()}
    made = [row["copy"]["event_id"] for row in rows.values() if row["copy"]]
    assert sorted(by_time["copies"]) == sorted(made)
    assert len(made) == 3
    assert rows[ids["later"]]["reason"] == "later"
    assert customer.events(until=event["created_at"]) == []
    assert customer.events(event_type="b.*") == []
    world.call("DELETE", f"/subscriptions/{ids['422']}")  # it is nobody's now
    assert_has(customer.events()[0]["outcome"], state="waiting")


def test_nothing_of_the_operator_changes_what_a_token_is_told(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    make(world, target, "200", "a")
    world.sleep(10)
    receiver.default = 503
    event = world.post_later(tenant="a", subject="x")
    customer = Customer(world, "a")
    event_id = event["event_id"]

    def seen() -> list[str]:
        paths = "/events?include=outcome", "/events?include=outcome&subject=x&limit=1"
        return [*(customer.get(path).text for path in paths), customer.recipients(event).text]

    before = seen()

    def is_unchanged() -> bool:
        return seen() == before

    assert event_id in before[0]
    assert "503" not in "".join(before)
    operators = make(world, target, "422", None)
    world.subscribe(f"{target.url}&reports=200", "triggers.*")
    assert is_unchanged()
    world.send_to(operators, event_id)
    world.empty_inbox()
    world.send_to(make(world, target, "200", None), event_id)
    assert is_unchanged()
    receiver.default = 422
    world.replay(event_id)
    world.empty_inbox()
    assert world.event(event_id)["status"] == "failed"
    assert is_unchanged()
    world.call("DELETE", f"/subscriptions/{operators}")  # its copy is left
    receiver.default = 200
    world.replay(event_id)
    assert len(world.event(event_id)["copies"]) == 3
    assert is_unchanged()
    world.acknowledge(event_id)
    assert is_unchanged()


def test_a_token_finds_no_event_but_those_of_its_tenant(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    make(world, target, "200", "a")
    make(world, target, "422", "b")
    world.subscribe(f"{target.url}&reports=200", "triggers.*")  # the operator's: reports of all
    target.default = by_path
    world.sleep(10)
    mine, theirs, nobodys = (
        world.post_later(tenant=tenant, subject="same") for tenant in ("a", "b", None)
    )
    a, b = Customer(world, "a"), Customer(world, "b")
    world.empty_inbox()
    listed = world.get("/events?limit=100")["events"]
    reports = [event for event in listed if event["event_type"] == "triggers.event.failed"]
    [report] = [event for event in reports if not event["source_event_id"]]
    assert report["tenant"] == "b"

    for query in {}, {"subject": "same"}, {"since": mine["created_at"]}, {"limit": "1"}:
        assert [event["event_id"] for event in a.events(**query)] == [mine["event_id"]]
        assert [event["event_id"] for event in b.events(**query)] == [theirs["event_id"]]
    cursors = [f"{event['created_at']}~{event['event_id']}" for event in listed]
    for cursor in cursors:
        for order in "newest", "oldest":
            found = a.events(cursor=cursor, order=order, subject="same")
            assert {event["event_id"] for event in found} <= {mine["event_id"]}
    assert b.events(event_type="triggers.*") == []
    unknown = a.get(f"/events/evt_{0:032x}/recipients")
    copies = [{"event_id": copy} for event in (mine, theirs) for copy in event["copies"]]
    for event in theirs, nobodys, report, *copies:
        assert a.recipients(event).text == unknown.text
        assert unknown.problem == (404, "not_found")
    assert b.recipients(report).problem == (404, "not_found")
    assert a.get(f"/events/{mine['event_id']}").problem == (404, "not_found")  # its payload
    refused = a.get("/events?include=outcome&tenant=b")
    assert refused.problem == (403, "forbidden")


@pytest.mark.parametrize("status", ["failed", "pending", "delivered", "undelivered"])
def test_a_token_learns_no_status_of_an_event_itself(
    world: World, target: Receiver, status: str
) -> None:
    subscription_id = make(world, target, "200", "a")
    customer = Customer(world, "a")
    of_webhook = f"&subscription_id={subscription_id}"
    asked = f"/events?include=outcome&status={status}"

    if status != "undelivered":  # which needs a subscription, whoever asks
        assert customer.get(asked).faults == ["status"]
    assert customer.get(asked + of_webhook).faults == ["status", "subscription_id"]
    assert customer.get(f"/events?include=outcome{of_webhook}").faults == ["subscription_id"]
    for include in "payload", "subject":
        answer = customer.get(f"/events?include={include}&subject=x")
        assert answer.problem == (403, "forbidden")


def test_a_page_of_a_token_has_no_end_by_copies_of_the_operator(
    world: World, target: Receiver
) -> None:
    make(world, target, "200", "a")
    events = [world.post_later(tenant="a")["event_id"] for _ in range(4)]
    for event_id in events:
        made = world.event(event_id)["copies"]
        copies = json.dumps([*made, *(f"cpy_{number:032x}" for number in range(400))])
        world.change_item(event_id, "SET copies = :copies", copies={"S": copies})
    assert len(Customer(world, "a").events()) == 4
    assert len(outcomes(world, source="original")) == 2
