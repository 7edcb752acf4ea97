"""The schedules: the sweep queues events that nobody will push, and check_dlq publishes depths and
ages.
"""

from collections.abc import Callable

import pytest

from chalicelib.core.outcome import Retry
from chalicelib.infra.errors import QueueUnavailableError, StorageUnavailableError
from chalicelib.infra.times import rfc3339, unix_seconds
from tests.conftest import Once, Output
from tests.support.aws_calls import Aws
from tests.support.hooks import Hook
from tests.support.receiver import Receiver
from tests.support.world import START, World, assert_has


@pytest.mark.parametrize("prefer", ["respond-async", ""])
def test_the_sweep_waits_for_the_batch_window(
    world: World, receiver: Receiver, prefer: str
) -> None:
    world.restart(WORKER_BATCH_WINDOW_SECONDS="60")
    receiver.script(503)
    world.post(prefer=prefer)
    world.lose_messages()

    counts = []
    for now in (114, 117, 230, 236):
        world.clock.now = START + now
        world.sweep()
        counts.append(len(world.messages()))

    assert counts == [0, 1, 1, 2]


def queued(world: World) -> list[str]:
    """Return the ids of the events that have a message."""
    return [message["attributes"]["EventId"] for message in world.messages()]


def test_what_cannot_be_marked_costs_nothing_else_its_message_or_catch_up(
    world: World, aws: Aws
) -> None:
    event_ids = {world.queued() for _ in range(50)}
    world.lose_messages()
    world.services.store.start_catch_up(f"sub_{0:032}")  # which is gone
    world.sleep(601)
    aws.fail("UpdateItem", at=1)

    with pytest.raises(StorageUnavailableError):
        world.sweep()

    assert len(queued(world)) == 49
    assert not world.services.store.catch_ups()
    world.sleep(60)
    world.sweep()
    assert len(queued(world)) == 50
    assert {*queued(world)} == event_ids


def lease_all(world: World) -> None:
    world.call("POST", "/inbox/lease", "{}")


def fail_all(world: World) -> None:
    """Record a retry of each event, due when the message that is under way comes."""
    for item in world.items():
        store = world.services.store
        claim = store.claim(item["event_id"]["S"], "of another worker")
        assert claim.event
        store.record(claim.event.after(Retry(30), world.clock()))


@pytest.mark.parametrize("other, count", [(World.sweep, 1), (lease_all, 0), (fail_all, 0)])
def test_of_two_at_once_one_takes_an_overdue_event(
    world: World, once: Once, other: Callable[[World], None], count: int
) -> None:
    world.post(prefer="respond-async")
    world.lose_messages()
    world.sleep(60)
    once(world.dynamodb, "before-call.dynamodb.UpdateItem", lambda: other(world))

    world.sweep()

    assert len(world.messages()) == count


def test_what_is_not_held_is_queued_once(world: World) -> None:
    events = [world.queued() for _ in range(2)]
    world.lose_messages()
    [held] = world.call("POST", "/inbox/lease", {"limit": 1, "lease_seconds": 3600}).json["events"]
    events.remove(held["event_id"])
    world.sleep(30)
    world.sweep()
    assert world.messages() == []  # theirs may be under way
    for seconds in (31, 1):
        world.sleep(seconds)
        world.sweep()

    assert queued(world) == events


def test_what_nobody_pushes_is_queued_more_and_more_rarely(world: World) -> None:
    world.queued()
    world.lose_messages()
    queued_after = []
    for minute in range(1, 48):
        world.sleep(61)
        world.sweep()
        if world.messages():
            queued_after.append(minute)
            world.lose_messages()

    assert queued_after == [1, 2, 4, 8, 16, 31, 46]


def test_what_was_marked_is_found_once_it_was_taken(world: World, receiver: Receiver) -> None:
    receiver.default = 503
    world.restart(BACKOFF_BASE_SECONDS="300")
    hook = Hook(world, receiver, event_types=["a"])
    hastened = hook.post()
    event_ids = [hastened.event["event_id"]]
    for _ in range(3):
        world.sleep(1)
        event_ids.append(world.post()["event_id"])
    untouched, released, leased, replayed = event_ids
    claimed = world.queued()
    event_ids += [claimed, hastened.id]

    def mark_all(*marked: str) -> None:
        for event_id in marked:
            world.change_item(event_id, "SET requeue_at = :at", at={"S": rfc3339(START + 1200)})

    mark_all(*event_ids)
    lease = {"limit": 3, "lease_seconds": 300}
    lease_id = world.call("POST", "/inbox/lease", lease).json["events"][0]["lease_id"]
    mark_all(untouched, released)
    world.call("POST", f"/events/{released}/release?lease_id={lease_id}")
    world.replay(replayed)
    world.services.store.claim(claimed, "of a worker that crashed")
    world.sleep(60)  # what was pushed just now is not recovered
    assert hook.call("recover", {}).json["replayed"] == 1
    world.lose_messages()

    found = []
    for seconds in (361, 540):
        world.sleep(seconds)
        world.sweep()
        found.append({*queued(world)})

    taken = {released, leased, replayed, claimed}
    assert found == [taken, {*taken, hastened.id}]


def test_check_dlq_publishes_numbers_and_warns(
    world: World, receiver: Receiver, output: Output, aws: Aws
) -> None:
    receiver.script(422, 422)
    for prefer in ("", "", *["respond-async"] * 3):
        world.post(prefer=prefer)
        world.sleep(30.5)
    output.lines()

    world.check_dlq()

    warning, metrics = (line for line in output.lines() if not line["message"].startswith("sqs "))
    assert_has(warning, level="WARNING", visible=2)
    assert_has(metrics, DLQDepth=2, InboxDepth=3, SlowDepth=0, OldestPendingAge=91.5, Stage="dev")
    logged_at = unix_seconds(metrics["timestamp"])
    assert metrics["_aws"]["Timestamp"] == pytest.approx(logged_at * 1000, abs=1)
    [directive] = metrics["_aws"]["CloudWatchMetrics"]
    assert_has(directive, Namespace="TriggersApi", Dimensions=[["Stage"]])
    units = {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]}
    depths = dict.fromkeys(("DLQDepth", "InboxDepth", "SlowDepth"), "Count")
    assert units == {**depths, "OldestPendingAge": "Seconds"}
    aws.fail("Query")
    with pytest.raises(StorageUnavailableError):
        world.check_dlq()
    assert output.metrics() == [{"DLQDepth": 2, "InboxDepth": 3, "SlowDepth": 0}]
    aws.fail("GetQueueAttributes", at=1)
    with pytest.raises(QueueUnavailableError):
        world.check_dlq()
    assert output.metrics() == [{"InboxDepth": 3, "SlowDepth": 0, "OldestPendingAge": 91.5}]


@pytest.mark.parametrize("webhook", ["none", "subscriptions"])
def test_check_dlq_searches_nothing_without_a_url(
    world: World, output: Output, aws: Aws, webhook: str
) -> None:
    world.restart(ZAPIER_WEBHOOK_URL=webhook)
    aws.fail("Query")

    world.check_dlq()

    [metrics] = output.metrics()
    assert_has(metrics, DLQDepth=0, InboxDepth=0, OldestPendingAge=0)
