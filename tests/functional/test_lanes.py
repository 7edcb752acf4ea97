"""Slow destinations: their events go through a queue and a worker of their own."""

from typing import Any

import pytest

from chalicelib.core.http_push import PushClient
from chalicelib.core.messages import push_message
from chalicelib.core.outcome import TIMED_OUT, Outcome, PushResult
from chalicelib.infra.times import rfc3339
from chalicelib.operations.batch import BatchError
from tests.support.aws_calls import Aws
from tests.support.hooks import Hook
from tests.support.receiver import Behaviour, Receiver, hang, in_turn, status
from tests.support.subscribing import id_of_new, make_token, send
from tests.support.world import KEY, World, assert_has

CUT_OFF = PushResult(Outcome.RETRY, error=TIMED_OUT)


def after(world: World, seconds: float, code: int = 200) -> Behaviour:
    """Respond after so many seconds of the world's time."""
    return in_turn(lambda _: world.sleep(seconds), status(code))


def lengths(world: World) -> tuple[int, int]:
    """Return how many messages are in the fast lane, and in the slow one."""
    slow = len(world.slow_messages())
    return len(world.messages()) - slow, slow


def slow_since(world: World, subscription_id: str) -> Any:
    return world.get(f"/subscriptions/{subscription_id}")["slow_since"]


@pytest.fixture
def copies(world: World) -> None:
    """Let only copies be pushed."""
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions", BREAKER_OPEN_SECONDS="1")


def make_slow(world: World, target: Receiver) -> str:
    """Return the id of a subscription whose first three pushes were slow."""
    subscription_id = id_of_new(world, target)
    target.script(*[after(world, 2.5)] * 3)
    for _ in range(3):
        world.post()
    return subscription_id


@pytest.mark.usefixtures("copies")
def test_three_slow_pushes_mark_a_subscription_and_its_events_are_queued_apart(
    world: World, target: Receiver
) -> None:
    quick_id = id_of_new(world, f"{target.url}&quick", "other")
    subscription_id = make_slow(world, target)
    assert slow_since(world, subscription_id) == rfc3339(world.clock())
    for state, expected in ("slow", [subscription_id]), ("active", [quick_id, subscription_id]):
        listed = world.get(f"/subscriptions?state={state}")["subscriptions"]
        assert [row["subscription_id"] for row in listed] == expected

    world.post()
    assert lengths(world) == (0, 1)
    assert target.count == 3
    world.settle()
    assert target.count == 4


@pytest.mark.usefixtures("copies")
def test_ten_quick_deliveries_end_the_mark_after_a_minute(world: World, target: Receiver) -> None:
    subscription_id = make_slow(world, target)
    for _ in range(10):
        world.queued()
        world.run_worker()
    assert slow_since(world, subscription_id)

    world.sleep(60)
    target.script(after(world, 1.5))
    for _ in range(11):
        assert slow_since(world, subscription_id)
        world.queued()
        world.run_worker()
    assert slow_since(world, subscription_id) is None
    world.queued()
    assert lengths(world) == (1, 0)


@pytest.mark.usefixtures("copies")
def test_one_delivery_that_is_not_slow_ends_a_mark_that_is_older_than_an_hour(
    world: World, target: Receiver
) -> None:
    subscription_id = make_slow(world, target)
    world.sleep(3590)
    target.script(200, after(world, 2.5), after(world, 1.5, 503), after(world, 1.5))
    for is_slow in (True, True, True, False):
        world.restart()  # containers do not live so long
        world.queued()
        world.run_worker()
        assert bool(slow_since(world, subscription_id)) is is_slow
        world.sleep(10)


@pytest.mark.usefixtures("copies")
def test_another_url_ends_the_mark_and_enabling_does_not(world: World, target: Receiver) -> None:
    subscription_id = make_slow(world, target)
    path = f"/subscriptions/{subscription_id}"
    assert world.call("POST", f"{path}/enable").json["slow_since"]
    assert world.call("PATCH", path, {"name": "CRM"}).json["slow_since"]
    assert world.call("PATCH", path, {"target_url": f"{target.url}&b"}).json["slow_since"] is None
    world.post()
    assert lengths(world) == (0, 0)
    assert slow_since(world, subscription_id) is None


@pytest.mark.usefixtures("copies")
def test_a_mark_that_an_edit_overtook_is_dropped(world: World, target: Receiver) -> None:
    subscription_id = id_of_new(world, target)
    edit = {"target_url": f"{target.url}&b"}
    target.script(
        *[after(world, 2.5)] * 2,
        in_turn(
            lambda _: world.call("PATCH", f"/subscriptions/{subscription_id}", edit),
            after(world, 2.5),
        ),
    )
    for _ in range(3):
        world.post()
    assert slow_since(world, subscription_id) is None


def test_the_events_of_a_slow_webhook_are_sent_on_without_a_claim(
    world: World, receiver: Receiver
) -> None:
    receiver.script(*[after(world, 2.5)] * 3)
    for _ in range(3):
        world.post()
    world.send("?")
    event_id = world.queued()
    assert lengths(world) == (1, 1)
    world.run_worker()
    assert lengths(world) == (0, 2)
    assert world.event(event_id)["delivery_attempts"] == 0

    world.sleep(300)
    world.post()
    assert receiver.count == 4


@pytest.fixture
def timeouts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let the first push time out, and deliver the others; return how long each may take."""
    given = list[float]()

    def send(*arguments: Any) -> PushResult:
        given.append(arguments[4])
        return PushResult(Outcome.DELIVERED) if given[1:] else CUT_OFF

    monkeypatch.setattr(PushClient, "send", send)
    return given


def test_a_push_in_the_fast_lane_has_three_seconds_and_the_next_is_in_the_slow_lane(
    world: World, timeouts: list[float]
) -> None:
    event_id = world.queued()
    world.run_worker()
    assert lengths(world) == (0, 1)
    assert world.event(event_id)["last_error"] == "timed out"
    world.settle()
    assert timeouts == [3.0, 10.0]


def test_an_event_that_timed_out_is_moved_by_whoever_gets_it_and_the_attempt_given_back(
    world: World, receiver: Receiver
) -> None:
    world.restart(PUSH_TIMEOUT_SECONDS="0.2")
    receiver.script(hang, status(503))
    event_id = world.queued()
    for _ in range(2):
        world.run_worker()
        world.sleep(5)
    assert lengths(world) == (0, 1)
    world.lose_messages()
    world.send(f'{{"event_id": "{event_id}"}}')

    world.run_worker()

    event = world.event(event_id)
    assert (event["delivery_attempts"], event["status"]) == (2, "pending")
    assert lengths(world) == (0, 1)
    world.run_worker()
    assert world.event(event_id)["delivery_attempts"] == 3

    world.replay(event_id)
    assert lengths(world) == (1, 0)


@pytest.mark.usefixtures("copies")
def test_what_the_sweep_queues_is_sent_on_to_its_own_lane(world: World, target: Receiver) -> None:
    make_slow(world, target)
    id_of_new(world, target, "other")
    world.queued()
    world.queued(event_type="other")
    world.lose_messages()
    world.sleep(120)
    world.restart()
    world.sweep()
    assert lengths(world) == (3, 0)
    world.run_worker()
    assert lengths(world) == (0, 2)


@pytest.mark.usefixtures("copies")
def test_what_was_recovered_stays_in_the_slow_lane_until_it_is_replayed(
    world: World, target: Receiver
) -> None:
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions", BACKOFF_BASE_SECONDS="300")
    earlier = world.post()
    subscription_id = id_of_new(world, target)
    target.default = 503
    target.script(503, 422)
    [waiting], _failed = world.post()["copies"], world.post()
    world.lose_messages()
    world.sleep(61)
    path = f"/subscriptions/{subscription_id}/recover"
    recovered = world.call("POST", path, {"since": earlier["created_at"]}).json
    assert_has(recovered, sent=1, replayed=2)
    assert lengths(world) == (0, 3)
    world.run_worker()
    assert target.count == 5
    assert lengths(world) == (0, 3)

    world.lose_messages()
    world.sleep(1000)
    world.sweep()
    assert lengths(world) == (3, 0)
    world.run_worker()
    assert lengths(world) == (0, 3)
    world.sleep(1)
    world.replay(waiting)
    assert lengths(world) == (1, 3)


def test_what_a_token_replays_or_sends_goes_through_the_slow_lane(
    world: World, target: Receiver
) -> None:
    token = make_token(world, "a")
    copy = Hook(world, target, tenant="a").post()
    other = Hook(world, target, path="&other", tenant="a")

    for key, expected in ((token, (0, 3)), (KEY, (3, 0))):
        assert world.call("POST", f"/events/{copy.id}/replay", key=key).status_code == 202
        for _ in range(2):  # the copy is made, then replayed
            world.sleep(1)
            assert send(world, other.id, copy.event["event_id"], key=key).status_code == 202
        assert lengths(world) == expected
        world.lose_messages()


def test_only_the_failed_messages_of_a_slow_batch_come_again(
    world: World, receiver: Receiver, aws: Aws
) -> None:
    world.services.lanes.remember(world.services.targets.webhook, world.clock(), world.clock())
    for _ in range(2):
        world.queued()
    assert lengths(world) == (0, 2)
    aws.fail("UpdateItem", at=1)
    with pytest.raises(BatchError):
        world.run_worker()
    assert lengths(world) == (0, 1)


@pytest.mark.usefixtures("copies")
def test_test_pushes_count_for_no_mark_and_no_breaker(world: World, target: Receiver) -> None:
    subscription_id = id_of_new(world, target)
    target.script(*[after(world, 9, 503)] * 4)
    for _ in range(4):
        world.call("POST", f"/subscriptions/{subscription_id}/test")
    world.post()
    assert lengths(world) == (0, 0)
    assert target.count == 5


def test_an_early_message_of_the_slow_lane_stays_there(world: World, receiver: Receiver) -> None:
    world.restart(PUSH_TIMEOUT_SECONDS="0.2")
    receiver.script(hang, status(503, headers={"Retry-After": "60"}))
    event_id = world.queued()
    world.run_worker()
    world.sleep(5)
    world.run_worker()
    world.lose_messages()
    world.sleep(55.5)
    event = world.services.store.get(event_id)
    assert event
    world.services.slow_queue.send(push_message(event))
    assert world.run_worker() == 1
    [message] = world.slow_messages()
    assert message["delay_seconds"] == 5
    assert lengths(world) == (0, 1)


def test_a_post_pushes_no_longer_than_the_timeout_of_pushes(
    world: World, timeouts: list[float]
) -> None:
    world.restart(PUSH_TIMEOUT_SECONDS="2")
    world.post()
    assert timeouts == [2.0]
