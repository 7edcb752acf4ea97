"""Two lanes: the events of slow destinations have a queue and a worker of their own.

A batch of the worker ends when its slowest push does: one that takes ten seconds makes nine others
wait. So the lane of the others has short pushes, and slow destinations share a lane. Each container
counts for itself; its threads share the counts. All times are Unix seconds.
"""

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock

from chalicelib.core.outcome import Outcome, PushResult
from chalicelib.core.target import Target

FAST_PUSH_SECONDS = 3.0  # the timeout of a push in the fast lane
SLOW_SECONDS = 2.0  # a push that took so long was slow
SLOW_PUSHES = 3  # in a row make a destination slow
QUICK_SECONDS = 1.0  # a push that took less was quick
QUICK_DELIVERIES = 10  # in a row end that
MARK_SECONDS = 60  # but not before
MAX_MARK_SECONDS = 3600  # of the webhook
MEMORY_SECONDS = 10  # how long a container knows what it read of a subscription
MAX_DESTINATIONS = 2000  # the one used least recently is forgotten


@dataclass
class _Pace:
    """What a container knows of one destination, since its URL was edited."""

    url: str = ""
    last_quick_at: float = 0.0
    slow_pushes: int = 0
    quick_deliveries: int = 0
    slow_until: float = 0.0
    mark_seconds: float = MARK_SECONDS


class Lanes:
    """Counts slow and quick pushes, and knows for a while which destinations are slow.

    The mark of a subscription is stored (`slow_since`), and remembered here when it is read. That
    of the webhook is a container's own: after a minute the next pushes decide, then after two
    minutes, four and so on, as long as they are slow.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._pace = lru_cache(MAX_DESTINATIONS)(lambda _destination: _Pace())

    def is_slow(self, destination: str, now: float) -> bool:
        """Return whether a destination is known to be slow."""
        with self._lock:
            return now < self._pace(destination).slow_until

    def remember(self, destination: str, now: float, *, is_slow: bool) -> None:
        """Remember what was read of a subscription."""
        with self._lock:
            self._pace(destination).slow_until = now + MEMORY_SECONDS if is_slow else 0.0

    def has_slowed(self, destination: str) -> bool:
        """Return whether the newest pushes were slow."""
        with self._lock:
            return self._pace(destination).slow_pushes >= SLOW_PUSHES

    def has_quickened(self, destination: str) -> bool:
        """Return whether the newest pushes were quick deliveries."""
        with self._lock:
            return self._pace(destination).quick_deliveries >= QUICK_DELIVERIES

    def record(self, target: Target, started: float, now: float, result: PushResult) -> None:
        """Count a push that was made."""
        with self._lock:
            pace = self._pace(target.destination)
            if pace.url != target.url:
                pace.url = target.url
                pace.slow_pushes = 0
                pace.quick_deliveries = 0
            seconds = now - started
            if seconds < SLOW_SECONDS and not result.timed_out:
                pace.last_quick_at = now
                pace.slow_pushes = 0
                pace.mark_seconds = MARK_SECONDS
                is_quick = seconds < QUICK_SECONDS and result.outcome is Outcome.DELIVERED
                pace.quick_deliveries = pace.quick_deliveries + 1 if is_quick else 0
                return
            pace.quick_deliveries = 0
            # Slow pushes that began before the latest that was not tell nothing: 5 % that hang
            # make no destination slow.
            if started >= pace.last_quick_at:
                pace.slow_pushes += 1
            if target.subscription_id is None and pace.slow_pushes >= SLOW_PUSHES:
                self._mark(pace, now)

    def _mark(self, pace: _Pace, now: float) -> None:
        """Take the webhook for slow, twice as long as the last time."""
        if now >= pace.slow_until:
            pace.slow_until = now + pace.mark_seconds
            pace.mark_seconds = min(2 * pace.mark_seconds, MAX_MARK_SECONDS)
