"""Catch-up: what waits for a destination that delivers again is pushed within minutes."""

from typing import Any

import pytest

from chalicelib.core import store
from chalicelib.infra.times import rfc3339
from tests.support.receiver import Receiver, status
from tests.support.subscribing import post_later, states, subscribe_later
from tests.support.world import World

WAIT = status(503, headers={"retry-after": "3000"})


def sweep_and_push(world: World) -> None:
    """Let a minute pass."""
    world.sweep()
    for _ in range(60):
        world.empty_inbox()
        world.sleep(1)


def try_it(world: World, subscription_id: str) -> None:
    assert world.call("POST", f"/subscriptions/{subscription_id}/test").json["error"] is None


@pytest.fixture
def waiting(world: World, target: Receiver) -> tuple[str, list[Any]]:
    """A subscription for which five copies wait, and their events."""
    target.default = WAIT
    subscription_id = subscribe_later(world, target)
    world.sleep(10)
    events = [post_later(world) for _ in range(5)]
    world.sleep(61)
    return subscription_id, events


def test_what_waits_is_pushed_once_a_test_event_was_delivered(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    target.default = 200
    try_it(world, subscription_id)
    sweep_and_push(world)
    assert [states(world, event) for event in events] == [["delivered"]] * 5
    assert target.count == 11
    world.sweep()
    assert world.services.store.mended() == []


def test_what_waits_is_pushed_once_a_delivery_ends_long_trouble(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    world.change_item(
        subscription_id, "SET failing_since = :now", now={"S": rfc3339(world.clock())}
    )
    world.sleep(10)
    target.default = 200
    post_later(world)
    sweep_and_push(world)
    assert [states(world, event) for event in events] == [["delivered"]] * 5
    assert "failing_since" not in world.item(subscription_id)


def test_the_webhook_catches_up_once_an_event_arrives_that_failed_often(
    world: World, receiver: Receiver
) -> None:
    receiver.default = WAIT
    events = [world.post()["event_id"] for _ in range(3)]
    often, *others = events
    world.change_item(often, "SET delivery_attempts = :number", number={"N": "10"})
    world.sleep(3100)
    receiver.default = 200
    for event_id in others:
        world.change_item(
            event_id,
            "SET next_attempt_at = :later",
            later={"S": rfc3339(world.clock() + 3000)},
        )
    sweep_and_push(world)
    assert world.event(often)["status"] == "delivered"
    sweep_and_push(world)
    assert [world.event(event_id)["status"] for event_id in others] == ["delivered"] * 2


def test_what_fails_again_ends_the_catch_up_and_keeps_its_backoff(
    world: World, target: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "FIRST_CAUGHT_UP", 4)
    target.default = WAIT
    subscription_id = subscribe_later(world, target)
    world.sleep(10)
    events = [post_later(world) for _ in range(20)]
    world.sleep(61)
    target.default = 200
    try_it(world, subscription_id)
    target.default = WAIT
    before = target.count
    for _ in range(5):
        sweep_and_push(world)
    assert target.count - before == 4
    assert world.services.store.mended() == []
    assert [states(world, event) for event in events] == [["pending"]] * 20
