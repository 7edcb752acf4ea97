"""Outcomes: what became of an event, by all its webhooks."""

import json
from collections import Counter
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.aws_calls import Aws
from tests.support.receiver import Exchange, Receiver, status
from tests.support.subscribing import (
    id_of_new,
    make_token,
    post_later,
)
from tests.support.world import Json, World, assert_has


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
    return id_of_new(world, url, *types, tenant=tenant, filter=pattern)


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
def test_an_event_came_to_the_worst_of_its_tenant_s_webhooks_or_else_of_the_operator_s(
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
    event = post_later(world, {"total": 2}, tenant="a")
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
    event = post_later(world, {"total": 2}, tenant="a")
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
    listed = [post_later(world, tenant="a")["event_id"] for _ in range(4)]
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


def test_no_token_is_told_an_outcome(world: World, target: Receiver) -> None:
    subscription_id = make(world, target, "200", "a")
    path = f"/events?include=outcome&subscription_id={subscription_id}"
    assert world.call("GET", path, key=make_token(world, "a")).faults == ["include"]
