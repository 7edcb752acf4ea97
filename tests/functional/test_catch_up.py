"""Catch-up: what waits for a destination that delivers again is pushed within minutes."""

import threading
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from chalicelib.core.outcome import BREAKER_OPEN, Outcome, PushResult
from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.subscriptions import catch_up
from tests.conftest import During, Once
from tests.support.receiver import Receiver, status
from tests.support.subscribing import post_later, states, subscribe_later
from tests.support.world import KEY, World, assert_has

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


@pytest.mark.parametrize("state", ["paused", "suspended", "gone", "host"])
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
    elif state == "host":
        world.restart(SUBSCRIPTION_HOSTS="example.com")
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
    world: World,
    waiting: tuple[str, list[Any]],
    target: Receiver,
    during: During,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The five events need more than half: they get the share of the other destination, too.
    monkeypatch.setattr(catch_up, "MAX_EVENTS", 6)
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


def begin_catch_up(world: World, target: Receiver, subscription_id: str) -> None:
    """Begin a catch-up in which each push is answered as before the test event."""
    answer, target.default = target.default, 200
    try_it(world, subscription_id)
    target.default = answer


def wait_until_due(world: World, event: Any) -> None:
    """Let the next attempt be made, whose message the sweep sends."""
    world.sleep(unix_seconds(event["next_attempt_at"]) + 61 - world.clock())
    sweep_and_push(world)


def test_what_was_posted_since_does_not_keep_a_catch_up_from_ending(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, _ = waiting
    target.default = 200
    try_it(world, subscription_id)
    target.default = WAIT
    world.sleep(1)
    for _ in range(3):
        post_later(world)
        sweep_and_push(world)
    assert target.count == 5 + 1 + 5 + 3
    assert world.services.store.catch_ups() == []


def test_an_event_of_the_moment_of_the_mark_catches_up(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    target.default = 200
    copy = world.item(events[0]["copies"][0])
    moment = copy["sort_key"]["S"].split("#")[0]
    world.services.store.start_catch_up(subscription_id)
    mark = f"mended#{subscription_id}"
    world.change_item(mark, "SET sort_key = :moment", moment={"S": moment})
    sweep_and_push(world)
    assert states(world, events[0]) == ["delivered"]


def test_what_a_destination_leaves_of_its_share_others_get_in_the_same_minute(
    world: World, target: Receiver, waiting: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "MAX_EVENTS", 5)
    subscription_id, events = waiting
    target.default = 200
    try_it(world, subscription_id)
    for _ in range(4):
        world.services.store.start_catch_up(subscribe_later(world, target, "another"))
    world.services.store.start_catch_up("webhook")
    sweep_and_push(world)
    assert [states(world, event) for event in events] == [["delivered"]] * 5


def test_a_slow_search_delays_no_push_to_another_destination(
    world: World, waiting: tuple[str, list[Any]], target: Receiver, during: During
) -> None:
    subscription_id, events = waiting
    target.default = 200
    try_it(world, subscription_id)
    other = subscribe_later(world, target, "another")
    world.services.store.start_catch_up(other)
    found = threading.Event()
    has_pushed = []

    def search_slowly(params: Any, **_: object) -> None:
        if params["ExpressionAttributeValues"].get(":partition") == {"S": other}:
            has_pushed.append(found.wait(timeout=20))

    def see_push(params: Any, **_: object) -> None:
        if params["Key"]["event_id"]["S"] == events[-1]["copies"][0]:
            found.set()

    during(world.dynamodb, "provide-client-params.dynamodb.Query", search_slowly)
    during(world.dynamodb, "provide-client-params.dynamodb.UpdateItem", see_push)
    world.sweep()
    assert has_pushed == [True]


def test_dead_letters_are_left_out_before_they_are_read(
    world: World, target: Receiver, waiting: tuple[str, list[Any]], during: During
) -> None:
    subscription_id, events = waiting
    target.script(*[422] * 4)
    for event in events[:4]:
        world.replay(event["copies"][0])
        world.empty_inbox()
    target.default = 200
    try_it(world, subscription_id)
    read = []

    def see(http_response: Any, parsed: Any, **_: object) -> None:
        read.extend(parsed["Items"])

    world.dynamodb.meta.events.register("after-call.dynamodb.Query", see)
    catch_up.catch_up(world.services, world.services.subscriptions)
    copies = [row["event_id"]["S"] for row in read if row["event_id"]["S"].startswith("cpy_")]
    assert copies == [events[4]["copies"][0]]


def test_trouble_that_ends_while_a_catch_up_runs_has_another_one_after_it(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    target.default = 200
    world.services.store.start_catch_up(subscription_id)
    world.sleep(300)
    target.default = WAIT
    later = [post_later(world) for _ in range(3)]
    world.sleep(300)
    target.default = 200
    world.services.store.start_catch_up(subscription_id)
    sweep_and_push(world)
    assert [states(world, event) for event in events] == [["delivered"]] * 5
    assert [states(world, event) for event in later] == [["pending"]] * 3
    sweep_and_push(world)
    sweep_and_push(world)
    assert [states(world, event) for event in later] == [["delivered"]] * 3
    sweep_and_push(world)
    assert world.services.store.catch_ups() == []


def test_trouble_that_ends_while_its_catch_up_ends_has_another_one(
    world: World, waiting: tuple[str, list[Any]], once: Once
) -> None:
    subscription_id, _ = waiting
    store = world.services.store
    store.start_catch_up(subscription_id)
    [mark] = store.catch_ups()
    world.sleep(300)
    once(world.dynamodb, "before-call.dynamodb.UpdateItem", lambda: store.end_catch_up(mark))
    assert not store.start_catch_up(subscription_id)
    assert store.catch_ups() == []
    world.sleep(600)
    assert [again.destination for again in store.catch_ups()] == [subscription_id]


def test_what_follows_after_a_test_begins_a_quarter_of_an_hour_after_it(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, _ = waiting
    target.default = 200
    try_it(world, subscription_id)
    target.default = WAIT
    world.sleep(61)
    later = post_later(world)
    target.default = 200
    try_it(world, subscription_id)
    for _ in range(5):
        sweep_and_push(world)
    assert states(world, later) == ["pending"]
    world.sleep(900)
    sweep_and_push(world)
    assert states(world, later) == ["delivered"]


def test_a_catch_up_that_fails_costs_a_copy_nothing(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    [copy_id] = events[0]["copies"]
    before = world.event(copy_id)
    target.default = 500
    for made in (2, 3):
        begin_catch_up(world, target, subscription_id)
        sweep_and_push(world)
        sweep_and_push(world)
        copy = world.event(copy_id)
        assert_has(copy, delivery_attempts=1, next_attempt_at=before["next_attempt_at"])
        assert [attempt["status_code"] for attempt in copy["attempts"]] == [503, 500, 500][:made]
        assert "resume_at" not in world.item(copy_id)
        world.sleep(800)
    target.default = WAIT
    wait_until_due(world, copy)
    copy = world.event(copy_id)
    assert_has(copy, status="pending", delivery_attempts=2)
    assert copy["next_attempt_at"] > before["next_attempt_at"]


def test_a_catch_up_brings_no_dead_letter_but_by_a_final_refusal(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    world.restart(MAX_DELIVERY_ATTEMPTS="2")
    target.default = 500
    begin_catch_up(world, target, subscription_id)
    target.script(422)
    sweep_and_push(world)
    first, second, *_ = [world.event(event["copies"][0]) for event in events]
    assert_has(first, status="failed", delivery_attempts=2)
    assert_has(second, status="pending", delivery_attempts=1)
    wait_until_due(world, second)
    assert_has(world.event(second["event_id"]), status="failed", delivery_attempts=2)


def test_in_a_catch_up_a_longer_retry_after_is_followed(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    begin_catch_up(world, target, subscription_id)
    sweep_and_push(world)
    copy = world.event(events[0]["copies"][0])
    tried_at = unix_seconds(copy["attempts"][-1]["at"])
    assert_has(copy, delivery_attempts=1, next_attempt_at=rfc3339(tried_at + 3000))


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_person_recovers_counts_also_in_a_catch_up(
    world: World, target: Receiver, waiting: tuple[str, list[Any]], when: str
) -> None:
    subscription_id, events = waiting
    [copy_id] = events[0]["copies"]
    target.default = 500
    begin_catch_up(world, target, subscription_id)
    if when == "after":
        sweep_and_push(world)
    else:
        world.sweep()
        world.lose_messages()
    world.sleep(61)
    recovered = world.call("POST", f"/subscriptions/{subscription_id}/recover", {}).json
    assert_has(recovered, replayed=5, left=0)
    world.empty_inbox()
    copy = world.event(copy_id)
    assert_has(copy, status="pending", delivery_attempts=2)
    assert unix_seconds(copy["next_attempt_at"]) < world.clock() + 3


def test_a_replay_ends_what_a_catch_up_began(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    [copy_id] = events[0]["copies"]
    target.default = 500
    begin_catch_up(world, target, subscription_id)
    world.sweep()
    target.default = WAIT
    world.replay(copy_id)
    world.empty_inbox()
    assert_has(world.event(copy_id), status="pending", delivery_attempts=1)


def test_an_attempt_that_is_not_recorded_counts_and_the_next_one_does_not(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    [copy_id] = events[0]["copies"]
    before = world.event(copy_id)
    target.default = 500
    begin_catch_up(world, target, subscription_id)
    world.sweep()
    assert world.services.store.claim(copy_id, "crashed").applied
    world.sleep(61)
    sweep_and_push(world)
    copy = world.event(copy_id)
    assert_has(copy, delivery_attempts=2, next_attempt_at=before["next_attempt_at"])


def test_an_attempt_of_a_catch_up_that_comes_after_its_time_does_not_count_either(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    target.default = 500
    begin_catch_up(world, target, subscription_id)
    world.sweep()
    world.sleep(3001)
    world.empty_inbox()
    copy = world.event(events[0]["copies"][0])
    assert_has(copy, status="pending", delivery_attempts=1)
    assert len(copy["attempts"]) == 2
    assert world.clock() < unix_seconds(copy["next_attempt_at"]) < world.clock() + 2


def test_an_attempt_counts_that_an_older_version_recorded_after_a_catch_up(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    [copy_id] = events[0]["copies"]
    target.default = 500
    begin_catch_up(world, target, subscription_id)
    sweep_and_push(world)
    copy = world.event(copy_id)
    # It leaves the attribute, which it does not know.
    world.change_item(copy_id, "SET resume_at = :due", due={"S": copy["next_attempt_at"]})
    target.default = WAIT
    wait_until_due(world, copy)
    assert_has(world.event(copy_id), delivery_attempts=2)


def test_what_an_open_breaker_refuses_in_a_catch_up_is_due_when_it_was(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    copies = [event["copies"][0] for event in events]
    before = [world.event(copy_id)["next_attempt_at"] for copy_id in copies]
    subscription = world.services.subscriptions.get(subscription_id)
    assert subscription
    opened = world.services.targets.of(subscription)
    begin_catch_up(world, target, subscription_id)
    world.sweep()
    world.sleep(unix_seconds(before[0]) - 20 - world.clock())
    breaker = world.services.worker_breaker
    breaker.record(opened, world.clock() - 25, world.clock(), PushResult(Outcome.RETRY), 30)
    world.empty_inbox()
    refused = [world.event(copy_id) for copy_id in copies]
    assert {copy["delivery_attempts"] for copy in refused} == {1}
    assert [copy["next_attempt_at"] for copy in refused] == before
    assert {copy["attempts"][-1]["error"] for copy in refused} == {BREAKER_OPEN}


def test_what_an_open_breaker_delays_in_a_catch_up_is_due_no_later_than_before(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, events = waiting
    [copy_id] = events[0]["copies"]
    before = world.event(copy_id)
    world.sleep(unix_seconds(before["next_attempt_at"]) - 80 - world.clock())
    subscription = world.services.subscriptions.get(subscription_id)
    assert subscription
    opened = world.services.targets.of(subscription)
    breaker = world.services.worker_breaker
    breaker.record(opened, world.clock() - 25, world.clock(), PushResult(Outcome.RETRY), 900)
    begin_catch_up(world, target, subscription_id)
    world.sweep()
    world.sleep(60)
    world.empty_inbox()
    delayed = world.event(copy_id)
    assert_has(delayed, delivery_attempts=1, attempts=before["attempts"])
    early_seconds = unix_seconds(before["next_attempt_at"]) - unix_seconds(
        delayed["next_attempt_at"]
    )
    assert 0 <= early_seconds < 1


def test_a_catch_up_asks_for_no_trial_of_an_open_breaker(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, _ = waiting
    subscription = world.services.subscriptions.get(subscription_id)
    assert subscription
    opened = world.services.targets.of(subscription)
    breaker = world.services.worker_breaker
    breaker.record(opened, world.clock() - 25, world.clock(), PushResult(Outcome.RETRY), 900)
    begin_catch_up(world, target, subscription_id)
    before = target.count
    sweep_and_push(world)
    assert target.count == before


def test_what_fails_again_in_a_catch_up_has_one_message_for_its_next_attempt(
    world: World, target: Receiver
) -> None:
    target.default = status(503, headers={"retry-after": "600"})
    subscription_id = subscribe_later(world, target)
    world.sleep(10)
    event = post_later(world)
    world.sleep(61)
    target.default = 500
    begin_catch_up(world, target, subscription_id)
    sweep_and_push(world)
    copy = world.event(event["copies"][0])
    assert_has(copy, delivery_attempts=1, status="pending")
    assert len(copy["attempts"]) == 2
    assert len(world.messages()) == 1


def test_what_waits_for_a_consumer_hides_nothing(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "FIRST_EVENTS", 2)
    receiver.default = WAIT
    left = [world.post()["event_id"] for _ in range(4)]
    for event_id in left:
        world.change_item(event_id, "REMOVE next_attempt_at")
    event_id = world.post()["event_id"]
    world.sleep(1)
    receiver.default = 200
    world.services.store.start_catch_up("webhook")
    sweep_and_push(world)
    assert world.event(event_id)["status"] == "delivered"


def test_nothing_catches_up_with_a_webhook_whose_url_was_taken_out(
    world: World, receiver: Receiver
) -> None:
    receiver.default = WAIT
    event_id = world.post()["event_id"]
    before = world.event(event_id)["next_attempt_at"]
    world.services.store.start_catch_up("webhook")
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    world.sweep()
    assert world.services.store.catch_ups() == []
    assert world.event(event_id)["next_attempt_at"] == before


def test_a_test_says_whether_a_catch_up_is_under_way(
    world: World, target: Receiver, waiting: tuple[str, list[Any]]
) -> None:
    subscription_id, _ = waiting
    path = f"/subscriptions/{subscription_id}/test"

    def catches_up() -> bool:
        return bool(world.call("POST", path).json["catches_up"])

    assert not catches_up()  # it is not delivered
    target.default = 200
    assert catches_up()
    assert catches_up()
    sweep_and_push(world)
    world.sweep()
    assert not catches_up()  # it has ended
    world.services.store.start_catch_up(subscription_id)  # a delivery begins another one
    assert catches_up()
    world.sleep(901)
    assert catches_up()
    world.call("POST", f"/subscriptions/{subscription_id}/disable")
    assert not catches_up()
