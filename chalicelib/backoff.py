"""Exponential backoff with jitter."""

from collections.abc import Callable


def delay_seconds(attempt: int, *, base: float, cap: float, random: Callable[[], float]) -> float:
    """Return the delay after `attempt` (from 1) with equal jitter: between half and all of min(cap, base * 2**(n-1)).

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
    """
    ceiling = min(cap, base * 2.0 ** (attempt - 1))
    return ceiling / 2 + random() * ceiling / 2
