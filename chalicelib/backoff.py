"""Exponential backoff with jitter, and the loop that waits.

Arithmetic apart from sleeping: clock, sleep and random are passed in.
"""

from collections.abc import Callable
from dataclasses import dataclass


def delay_seconds(attempt: int, *, base: float, cap: float, random: Callable[[], float]) -> float:
    """Return how long to wait after `attempt` (counted from 1): equal jitter, between half and all of the backoff.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
    """
    backoff = min(cap, base * 2.0 ** (attempt - 1))
    return backoff / 2 + random() * backoff / 2


@dataclass(frozen=True)
class Patience:
    """How long one invocation waits: `wait_seconds` in all, and no step begins after `last_start` (Unix seconds)."""

    wait_seconds: float
    last_start: float


def repeat(
    step: Callable[[], float | None], patience: Patience, *, clock: Callable[[], float], sleep: Callable[[float], None]
) -> float | None:
    """Call `step` until it returns None (settled) or a delay that `patience` has no room for; return that delay.

    `step` returns the seconds after which it wants to be called again.
    """
    waited = 0.0
    while (delay := step()) is not None:
        if waited + delay > patience.wait_seconds or clock() + delay > patience.last_start:
            return delay
        sleep(delay)
        waited += delay
    return None
