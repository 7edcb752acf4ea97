"""Exponential backoff with jitter, and the loop that retries in process. Clock, sleep and random are passed in."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Delay:
    """Seconds until the next attempt is due, and whether the worker may wait for it in process."""

    seconds: float
    may_wait: bool = True


def delay_seconds(attempt: int, *, base: float, cap: float, random: Callable[[], float]) -> float:
    """Return the delay after `attempt` (from 1) with equal jitter: between half and all of min(cap, base * 2**(n-1)).

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
    """
    ceiling = min(cap, base * 2.0 ** (attempt - 1))
    return ceiling / 2 + random() * ceiling / 2


def retry_in_process(
    step: Callable[[], Delay | None],
    *,
    wait_seconds: float,
    last_start: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> float | None:
    """Call `step` until it returns None (settled) or a delay that cannot be waited for here; return that delay.

    At most `wait_seconds` are waited in total, and no step starts after `last_start` (Unix seconds).
    """
    waited = 0.0
    while (delay := step()) is not None:
        too_long = waited + delay.seconds > wait_seconds or clock() + delay.seconds > last_start
        if too_long or not delay.may_wait:
            return delay.seconds
        sleep(delay.seconds)
        waited += delay.seconds
    return None
