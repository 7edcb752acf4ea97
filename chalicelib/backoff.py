"""Exponential backoff with jitter."""

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
