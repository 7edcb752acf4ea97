from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError

import pytest

from chalicelib.breaker import Breaker
from tests.support.world import Clock

# What happens, in order: f a failure, t a timeout, s a success, x what was allowed was not done, a number of seconds
# pass, + a caller is let through, - a caller is not. Three failures open it, for 30 seconds.
SCENARIOS = {
    "it begins closed": "+ + + +",
    "fewer failures than the limit leave it closed": "f f + + + +",
    "failures in a row open it": "f f f - -",
    "a success in between starts the count anew": "f f s f f + f -",
    "one timeout opens it at once": "t - -",
    "while open one trial goes through each window": "f f f 29.9 - 0.1 + - - 29.9 - 0.1 + - - 30 + -",
    "a trial that succeeds closes it for all": "f f f 30 + s + + f f + f -",
    "a trial that fails opens it for a whole window from then": "f f f 30 + 5 f 29.9 - 0.1 + -",
    "a trial that times out does so too": "t 30 + 5 t 29.9 - 0.1 + -",
    "a push begun before it opened may close it": "f f f - s + +",
    "a trial that is not made goes to the next who asks": "t 30 + x + - 30 + x + -",
    "what is not made while it is closed changes nothing": "f + x f + x + f -",
}


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(text, id=name) for name, text in SCENARIOS.items()],
)
def test_the_breaker_follows_the_scenario(scenario: str, clock: Clock) -> None:
    breaker = Breaker(failures=3, open_seconds=30, clock=clock)
    for number, happening in enumerate(scenario.split()):
        if happening in "ft":
            breaker.failed(timed_out=happening == "t")
        elif happening == "x":
            breaker.give_back()
        elif happening == "s":
            breaker.succeeded()
        elif happening in "+-":
            assert breaker.allows() is (happening == "+"), f"step {number}"
        else:
            clock.now += float(happening)


def test_of_many_threads_that_ask_in_one_window_one_gets_the_trial(clock: Clock) -> None:
    crowd, meeting = 16, Barrier(2)

    def met() -> float:
        """Hold who asks for the time until another asks, which must not be possible in the middle of a decision."""
        with suppress(BrokenBarrierError):
            meeting.wait(timeout=0.05)
        return clock()

    breaker = Breaker(failures=1, open_seconds=30, clock=met)
    breaker.failed(timed_out=False)
    meeting.reset()
    with ThreadPoolExecutor(crowd) as pool:
        for _ in range(10):
            clock.now += 30
            asked = [pool.submit(breaker.allows) for _ in range(crowd)]
            assert sum(answer.result() for answer in asked) == 1
