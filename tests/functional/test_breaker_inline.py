"""The breaker of the inline push: callers do not wait for a receiver that is down."""

from tests.support.receiver import Behaviour, Receiver, hang, in_turn
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
