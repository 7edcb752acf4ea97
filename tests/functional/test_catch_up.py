"""Catch-up: what waits for a destination that delivers again is pushed within minutes."""

from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.times import rfc3339
from chalicelib.subscriptions import catch_up
from tests.conftest import During
from tests.support.receiver import Receiver, status
from tests.support.subscribing import post_later, states, subscribe_later
from tests.support.world import KEY, World

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
    assert world.services.store.catch_ups() == []
    # Another test that is delivered starts none before a quarter of an hour is over.
    for seconds, marks in ((700, 0), (200, 1)):
        world.sleep(seconds)
        assert world.services.store.catch_ups() == []
        try_it(world, subscription_id)
        assert len(world.services.store.catch_ups()) == marks


def test_nothing_is_pushed_that_was_dismissed(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    dismissed = {"dismissed_until": events[2]["created_at"]}
    world.call("PATCH", f"/subscriptions/{subscription_id}", dismissed)
    target.default = 200
    try_it(world, subscription_id)
    sweep_and_push(world)
    assert [states(world, event) for event in events] == [["pending"]] * 3 + [["delivered"]] * 2


@pytest.mark.parametrize("state", ["paused", "suspended", "gone"])
def test_nothing_is_pushed_where_nothing_may_be(
    world: World, target: Receiver, waiting: tuple[str, list[Any]], state: str
) -> None:
    subscription_id, _ = waiting
    target.default = 200
    try_it(world, subscription_id)
    before = target.count
    if state == "suspended":
        world.change_item(subscription_id, "SET tenant = :tenant", tenant={"S": "a"})
        world.restart(SUSPENDED_TENANTS="a")
    elif state == "paused":
        world.call("POST", f"/subscriptions/{subscription_id}/disable")
    else:
        world.call("DELETE", f"/subscriptions/{subscription_id}")
    sweep_and_push(world)
    assert target.count == before
    assert world.services.store.catch_ups() == []


def test_a_test_of_a_webhook_that_is_paused_leaves_no_mark(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, _ = waiting
    target.default = 200
    path = f"/subscriptions/{subscription_id}"
    world.call("POST", f"{path}/disable")
    try_it(world, subscription_id)
    assert world.services.store.catch_ups() == []
    world.call("POST", f"{path}/enable")
    try_it(world, subscription_id)
    assert len(world.services.store.catch_ups()) == 1


def test_old_dead_letters_do_not_hide_what_waits(
    world: World, target: Receiver, waiting: tuple[str, list[Any]], during: During
) -> None:
    subscription_id, events = waiting
    for event in events[:3]:
        shard = {"S": "copy-failed#0"}
        world.change_item(event["copies"][0], "SET status_shard = :shard", shard=shard)

    def read_slowly(params: Any, **_: object) -> None:
        if params["IndexName"] == "undelivered-index":
            params["Limit"] = 2  # a page that ends early is read again from its last row on
            world.sleep(6)

    target.default = 200
    try_it(world, subscription_id)
    during(world.dynamodb, "provide-client-params.dynamodb.Query", read_slowly)
    sweep_and_push(world)
    assert states(world, events[3]) == ["delivered"]


def test_each_minute_has_twice_as_many_and_a_sweep_that_was_missed_counts(
    world: World, target: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "FIRST_EVENTS", 2)
    target.default = WAIT
    subscription_id = subscribe_later(world, target)
    world.sleep(10)
    for _ in range(15):
        post_later(world)
    world.sleep(61)
    target.default = 200
    try_it(world, subscription_id)
    before = target.count
    for count in (2, 6):
        sweep_and_push(world)
        assert target.count - before == count
    world.sleep(60)  # a sweep is missed
    sweep_and_push(world)
    assert target.count - before == 15


def test_a_destination_whose_reads_fail_costs_no_other_its_minute(
    world: World, waiting: tuple[str, list[Any]], target: Receiver, during: During
) -> None:
    subscription_id, events = waiting
    target.default = 200
    try_it(world, subscription_id)
    other = subscribe_later(world, target, "another")
    world.services.store.start_catch_up(other)

    def fail(params: Any, **_: object) -> None:
        if params["ExpressionAttributeValues"].get(":partition") == {"S": other}:
            raise EndpointConnectionError(endpoint_url="https://aws.test")

    during(world.dynamodb, "provide-client-params.dynamodb.Query", fail)
    with pytest.raises(StorageUnavailableError):
        world.sweep()
    world.sleep(60)
    world.empty_inbox()
    assert [states(world, event) for event in events] == [["delivered"]] * 5
    assert other in {mark.destination for mark in world.services.store.catch_ups()}


def test_of_more_destinations_than_a_minute_has_pushes_each_has_one(
    world: World, target: Receiver, waiting: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "MAX_EVENTS", 1)
    subscription_id, _ = waiting
    target.default = 200
    try_it(world, subscription_id)
    world.services.store.start_catch_up("webhook")
    before = target.count
    sweep_and_push(world)
    assert target.count - before == 1
    assert [mark.destination for mark in world.services.store.catch_ups()] == [subscription_id]
    world.sleep(20 * 3600)  # a mark lasts for a day
    sweep_and_push(world)


def test_what_waits_is_pushed_once_a_test_and_a_delivery_end_long_trouble(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    world.change_item(
        subscription_id, "SET failing_since = :now", now={"S": rfc3339(world.clock())}
    )
    world.sleep(10)
    target.default = 200
    try_it(world, subscription_id)
    post_later(world)
    world.empty_inbox()
    assert len(world.services.store.catch_ups()) == 2
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


def test_what_a_consumer_leased_is_left_to_it(world: World, receiver: Receiver) -> None:
    receiver.default = WAIT
    event_id = world.post()["event_id"]
    world.sleep(1)
    [leased] = world.call("POST", "/inbox/lease", key=KEY).json["events"]
    world.services.store.start_catch_up("webhook")
    world.sweep()
    assert world.item(event_id)["claim_id"]["S"] == leased["lease_id"]


def test_what_fails_again_ends_the_catch_up_and_keeps_its_backoff(
    world: World, target: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "FIRST_EVENTS", 4)
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
    assert world.services.store.catch_ups() == []
    assert [states(world, event) for event in events] == [["pending"]] * 20


def test_trouble_that_ends_soon_after_a_catch_up_has_one_a_quarter_of_an_hour_after_that(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    world.services.store.start_catch_up(subscription_id)
    sweep_and_push(world)
    sweep_and_push(world)
    target.default = 200
    world.services.store.start_catch_up(subscription_id)
    for state in ("pending", "delivered"):
        sweep_and_push(world)
        assert [states(world, event) for event in events] == [[state]] * 5
        world.sleep(800)


def test_a_mark_is_not_ended_by_a_sweep_that_read_the_one_before(world: World) -> None:
    store = world.services.store
    store.start_catch_up("webhook")
    [mark] = store.catch_ups()
    world.sleep(1)
    store.start_catch_up("webhook")
    assert store.catch_ups() == [mark]
    store.end_catch_up(mark)
    store.start_catch_up("webhook")
    store.end_catch_up(mark)
    world.sleep(900)
    assert [later.destination for later in store.catch_ups()] == ["webhook"]


def test_one_that_fails_again_leaves_none_that_was_not_tried(
    world: World, target: Receiver, waiting: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "FIRST_EVENTS", 4)
    subscription_id, events = waiting
    target.script(200, 200, WAIT)
    target.default = 200
    try_it(world, subscription_id)
    for _ in range(3):
        sweep_and_push(world)
    assert sorted(states(world, event) for event in events) == [["delivered"]] * 4 + [["pending"]]
