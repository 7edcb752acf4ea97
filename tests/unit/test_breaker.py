from concurrent.futures import ThreadPoolExecutor

import pytest

from chalicelib.breaker import Breaker
from tests.support.world import Clock

# In order: f a failure, t a timeout, s a success, a number of seconds pass; + a caller may push, - a caller may not.
# Three failures open the breaker for 30 seconds.
SCENARIOS = {
    "it begins closed": "+ + + +",
    "fewer failures than the limit leave it closed": "f f + + + +",
    "failures in a row open it": "f f f - -",
    "a success resets the count": "f f s f f + f -",
    "one timeout opens it at once": "t - -",
    "while open, each period has one trial": "f f f 29.9 - 0.1 + - - 29.9 - 0.1 + - - 30 + -",
    "a trial that succeeds closes it": "f f f 30 + s + + f f + f -",
    "a trial that fails opens it for a whole period": "f f f 30 + 5 f 29.9 - 0.1 + -",
    "a trial that times out does so too": "t 30 + 5 t 29.9 - 0.1 + -",
    "a push begun before it opened may close it": "f f f - s + +",
}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_the_breaker_follows_the_scenario(scenario: str, clock: Clock) -> None:
    breaker = Breaker(failures=3, open_seconds=30, clock=clock)
    for number, step in enumerate(scenario.split()):
        if step in "ft":
            breaker.failed(timed_out=step == "t")
        elif step == "s":
            breaker.succeeded()
        elif step in "+-":
            assert breaker.allows() is (step == "+"), f"step {number}"
        else:
            clock.now += float(step)


def test_of_many_threads_one_gets_the_trial(clock: Clock) -> None:
    breaker = Breaker(failures=1, open_seconds=30, clock=clock)
    breaker.failed(timed_out=False)
    with ThreadPoolExecutor(16) as pool:
        for _ in range(20):
            clock.now += 30
            assert sum(pool.map(lambda _: breaker.allows(), range(16))) == 1
