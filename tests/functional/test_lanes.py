"""Slow destinations: their events go through a queue and a worker of their own."""

from dataclasses import replace
from typing import Any

import pytest

from chalicelib.core.http_push import PushClient
from chalicelib.core.outcome import TIMED_OUT, Outcome, PushResult
from chalicelib.infra.times import rfc3339
from chalicelib.operations.batch import BatchError
from tests.support.aws_calls import Aws
from tests.support.hooks import Hook
from tests.support.receiver import Answers, Behaviour, Receiver, hang, in_turn, status
from tests.support.world import KEY, World, assert_has

CUT_OFF = PushResult(Outcome.RETRY, error=TIMED_OUT)


def after(world: World, seconds: float, code: int = 200) -> Behaviour:
    """Respond after so many seconds of the world's time."""
    return in_turn(lambda _: world.sleep(seconds), status(code))


def lengths(world: World) -> tuple[int, int]:
    """Return how many messages are in the fast lane, and in the slow one."""
    slow = len(world.slow_messages())
    return len(world.messages()) - slow, slow


@pytest.fixture
def hook(world: World, hook: Hook) -> Hook:
    """A subscription where copies alone are pushed."""
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions", BREAKER_OPEN_SECONDS="1")
    return hook


@pytest.fixture
def slow(world: World, hook: Hook) -> Hook:
    """The subscription after three slow pushes."""
    for _ in range(3):
        hook.post(after(world, 2.5))
    return hook


def push_later(hook: Hook, *answers: Answers) -> None:
    """Post an event, and let the worker push it."""
    hook.post(*answers, prefer="respond-async")
    hook.world.run_worker()


def test_three_slow_pushes_mark_a_subscription_and_its_events_are_queued_apart(
    world: World, slow: Hook
) -> None:
    quick = Hook(world, slow.target, path="&quick", event_types=["other"])
    assert slow.now["slow_since"] == rfc3339(world.clock())
    for state, expected in ("slow", {slow.id}), ("active", {quick.id, slow.id}):
        listed = world.get(f"/subscriptions?state={state}")["subscriptions"]
        assert {row["subscription_id"] for row in listed} == expected

    slow.post()
    assert lengths(world) == (0, 1)
    assert slow.target.count == 3
    world.settle()
    assert slow.target.count == 4


def test_ten_quick_deliveries_end_the_mark_after_a_minute(world: World, slow: Hook) -> None:
    for _ in range(10):
        push_later(slow)
    assert slow.now["slow_since"]

    world.sleep(60)
    slow.target.script(after(world, 1.5))
    for _ in range(11):
        assert slow.now["slow_since"]
        push_later(slow)
    assert slow.now["slow_since"] is None
    slow.post(prefer="respond-async")
    assert lengths(world) == (1, 0)


def test_one_delivery_that_is_not_slow_ends_a_mark_that_is_older_than_an_hour(
    world: World, slow: Hook
) -> None:
    world.sleep(3590)
    answers: list[Answers] = [200, after(world, 2.5), after(world, 1.5, 503), after(world, 1.5)]
    for answer, is_slow in zip(answers, (True, True, True, False), strict=True):
        world.restart()  # containers do not live so long
        push_later(slow, answer)
        assert bool(slow.now["slow_since"]) is is_slow
        world.sleep(10)


def test_another_url_ends_the_mark_and_enabling_does_not(world: World, slow: Hook) -> None:
    assert slow.enable().json["slow_since"]
    assert slow.edit(name="CRM").json["slow_since"]
    assert slow.edit(target_url=f"{slow.url}&b").json["slow_since"] is None
    slow.post()
    assert lengths(world) == (0, 0)
    assert slow.now["slow_since"] is None


def test_a_mark_that_an_edit_overtook_is_dropped(world: World, hook: Hook) -> None:
    edit = in_turn(lambda _: hook.edit(target_url=f"{hook.url}&b"), after(world, 2.5))
    for answer in (after(world, 2.5), after(world, 2.5), edit):
        hook.post(answer)
    assert hook.now["slow_since"] is None


def test_the_events_of_a_slow_webhook_are_sent_on_without_a_claim(
    world: World, receiver: Receiver
) -> None:
    receiver.script(*[after(world, 2.5)] * 3)
    for _ in range(3):
        world.post()
    world.send_message("?")
    event_id = world.queued()
    assert lengths(world) == (1, 1)
    world.run_worker()
    assert lengths(world) == (0, 2)
    assert world.event(event_id)["delivery_attempts"] == 0

    world.sleep(300)
    world.post()
    assert receiver.count == 4


def test_a_push_has_three_seconds_in_the_fast_lane_and_no_longer_than_its_timeout(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = list[float]()

    def send(*arguments: Any) -> PushResult:
        """Let the first push time out, and deliver the others."""
        seconds.append(arguments[4])
        return PushResult(Outcome.DELIVERED) if seconds[1:] else CUT_OFF

    # Of the class: a container that restarts makes its client anew.
    monkeypatch.setattr(PushClient, "send", send)
    event_id = world.queued()
    world.run_worker()
    assert lengths(world) == (0, 1)
    assert world.event(event_id)["last_error"] == "timed out"
    world.settle()
    world.restart(PUSH_TIMEOUT_SECONDS="2")
    world.post()
    assert seconds == [3.0, 10.0, 2.0]


def test_an_event_that_timed_out_goes_to_the_slow_lane_and_stays_there_until_replay(
    world: World, receiver: Receiver
) -> None:
    settings = world.services.settings
    world.services.settings = replace(settings, push_timeout_seconds=0.2)
    receiver.script(hang, status(503, headers={"Retry-After": "60"}), 503)
    event_id = world.queued()
    body = f'{{"event_id": "{event_id}"}}'
    world.run_worker()
    world.services.settings = settings
    world.sleep(5)
    world.run_worker()
    world.sleep(5)
    assert lengths(world) == (0, 1)
    world.lose_messages()
    world.sleep(51)
    world.outside.send_message(QueueUrl=world.environ["SLOW_QUEUE_URL"], MessageBody=body)
    world.run_worker()  # a little too early
    assert [message["delay_seconds"] for message in world.slow_messages()] == [4]
    world.lose_messages()
    world.sleep(4)

    world.send_message(body)
    world.run_worker()

    assert_has(world.event(event_id), delivery_attempts=2, status="pending")
    assert lengths(world) == (0, 1)
    world.run_worker()
    assert world.event(event_id)["delivery_attempts"] == 3
    world.replay(event_id)
    assert lengths(world)[0] == 1


def test_the_sweep_sends_what_timed_out_to_the_slow_lane_at_once(
    world: World, receiver: Receiver, aws: Aws
) -> None:
    world.restart(PUSH_TIMEOUT_SECONDS="0.2")
    receiver.script(hang, 503)
    event_ids = [world.post()["event_id"] for _ in range(2)]
    world.lose_messages()
    world.sleep(120)

    world.sweep()

    assert lengths(world) == (1, 1)
    [timed_out] = world.slow_messages()
    assert timed_out["attributes"] == {"EventId": event_ids[0]}
    world.run_worker()
    # Claimed and recorded once, not given back by the fast lane's worker before.
    assert aws.during(world.run_worker).count("UpdateItem") == 2
    assert world.event(event_ids[0])["status"] == "delivered"


def test_what_was_recovered_stays_in_the_slow_lane_until_it_is_replayed(
    world: World, target: Receiver
) -> None:
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions", BACKOFF_BASE_SECONDS="300")
    world.post()
    world.sleep(1)
    hook = Hook(world, target)
    target.default = 503
    waiting, _failed = hook.post(), hook.post(422)
    world.lose_messages()
    world.sleep(61)
    assert_has(world.recover(hook.id).json, sent=1, replayed=2)
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
    waiting.replay()
    assert lengths(world) == (1, 3)


def test_what_a_token_replays_or_sends_goes_through_the_slow_lane(
    world: World, customer: Hook
) -> None:
    token = world.make_token("a")
    copy = customer.post()
    other = Hook(world, customer.target, path="&other", tenant="a")

    for key, expected in ((token, (0, 3)), (KEY, (3, 0))):
        assert world.replay(copy.id, key=key).status_code == 202
        for _ in range(2):  # the copy is made, then replayed
            world.sleep(1)
            assert world.send_to(other.id, copy.event["event_id"], key=key).status_code == 202
        assert lengths(world) == expected
        world.lose_messages()


def test_only_the_failed_messages_of_a_slow_batch_come_again(world: World, aws: Aws) -> None:
    world.services.lanes.remember(world.services.targets.webhook, world.clock(), world.clock())
    for _ in range(2):
        world.queued()
    assert lengths(world) == (0, 2)
    aws.fail("UpdateItem", at=1)
    with pytest.raises(BatchError):
        world.run_worker()
    assert lengths(world) == (0, 1)


def test_test_pushes_count_for_no_mark_and_no_breaker(world: World, hook: Hook) -> None:
    hook.target.script(*[after(world, 9, 503)] * 4)
    for _ in range(4):
        hook.call("test")
    hook.post()
    assert lengths(world) == (0, 0)
    assert hook.target.count == 5
