"""The breaker of the inline push: callers do not wait for a receiver that is down."""

import pytest

from tests.support.receiver import Behaviour, Receiver, hang, in_turn, status
from tests.support.world import World


def slowly(world: World, behaviour: Behaviour, seconds: float = 5) -> Behaviour:
    """Respond after so many seconds of the world's time."""
    return in_turn(lambda _: world.sleep(seconds), behaviour)


def pushed(world: World, receiver: Receiver, **headers: str) -> bool:
    """Post an event, and return whether it was pushed before the response."""
    before = receiver.count
    event = world.post(**headers)
    now = receiver.count > before
    assert event["delivery_attempts"] == now
    return now


def test_a_timeout_opens_it_and_the_next_success_closes_it(
    world: World, receiver: Receiver
) -> None:
    world.restart(INLINE_PUSH_TIMEOUT_SECONDS="0.3")
    receiver.script(slowly(world, hang))
    [attempt] = world.event(world.post()["event_id"])["attempts"]
    assert attempt["error"] == "timed out"
    assert not pushed(world, receiver)

    world.sleep(60)
    assert [pushed(world, receiver) for _ in range(3)] == [True] * 3


@pytest.mark.parametrize(
    "code, after_it", [(200, [True, True]), (422, [True, True]), (503, [False, False])]
)
def test_one_event_is_tried_after_that_time(
    world: World, receiver: Receiver, code: int, after_it: list[bool]
) -> None:
    meanwhile = []
    post_another = in_turn(
        lambda _: meanwhile.append(world.post()["delivery_attempts"]), status(code)
    )
    receiver.script(slowly(world, status(500)), post_another)
    pushed(world, receiver)
    world.sleep(60)

    assert pushed(world, receiver)
    assert meanwhile == [0]
    assert [pushed(world, receiver) for _ in range(2)] == after_it
