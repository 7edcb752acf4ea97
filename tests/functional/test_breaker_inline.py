"""The breaker of the inline push: callers do not wait for a receiver that is down."""

import pytest

from tests.support.receiver import Receiver, close_without_answer, hang, in_turn, status
from tests.support.world import World


def pushed(world: World, receiver: Receiver, **headers: str) -> bool:
    """Post an event, and return whether it was pushed before the response."""
    before = len(receiver.requests)
    event = world.post(**headers)
    now = len(receiver.requests) > before
    assert event["delivery_attempts"] == now
    return now


def test_after_three_failures_events_are_queued_for_half_a_minute(world: World, receiver: Receiver) -> None:
    receiver.script(status(503), close_without_answer, status(429))
    assert [pushed(world, receiver) for _ in range(3)] == [True] * 3

    world.clock.sleep(29.9)
    assert [pushed(world, receiver) for _ in range(2)] == [False] * 2
    assert len(world.messages()) == 5


@pytest.mark.parametrize("shorter", ["INLINE_PUSH_TIMEOUT_SECONDS", "PUSH_TIMEOUT_SECONDS"])
def test_one_timeout_opens_it(world: World, receiver: Receiver, shorter: str) -> None:
    world.restart(**{shorter: "0.3"})
    receiver.script(hang)

    [attempt] = world.event(world.post()["event_id"])["attempts"]

    assert (attempt["error"], attempt["duration_ms"] < 5000) == ("timed out", True)
    assert not pushed(world, receiver)


@pytest.mark.parametrize("code", [200, 422])
def test_a_final_response_resets_the_count(world: World, receiver: Receiver, code: int) -> None:
    for _ in range(2):
        receiver.script(status(503), status(503), status(code))
        assert [pushed(world, receiver) for _ in range(3)] == [True] * 3

    assert pushed(world, receiver)


@pytest.mark.parametrize(("code", "after_it"), [(200, [True, True]), (422, [True, True]), (503, [False, False])])
def test_one_event_is_tried_after_that_time(world: World, receiver: Receiver, code: int, after_it: list[bool]) -> None:
    world.restart(BREAKER_FAILURES="1", BREAKER_OPEN_SECONDS="5")
    meanwhile: list[int] = []
    post_another = in_turn(lambda _: meanwhile.append(world.post()["delivery_attempts"]), status(code))
    receiver.script(status(500), post_another)
    pushed(world, receiver)
    world.clock.sleep(5)

    assert pushed(world, receiver)
    assert meanwhile == [0]
    assert [pushed(world, receiver) for _ in range(2)] == after_it
    world.clock.sleep(5)
    assert pushed(world, receiver)


def test_neither_the_worker_opens_it_nor_is_a_post_without_a_push_a_trial(world: World, receiver: Receiver) -> None:
    world.restart(BREAKER_FAILURES="1")
    receiver.script(status(503), status(503))
    world.post(prefer="respond-async")
    world.run_worker()

    assert pushed(world, receiver)
    world.clock.sleep(30)
    world.post(prefer="respond-async")
    assert pushed(world, receiver)
