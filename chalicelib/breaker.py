"""Circuit breaker of the inline push: callers of POST /events do not wait for a receiver that is down."""

from collections.abc import Callable
from threading import Lock


class Breaker:
    """Opens after `failures` failures in a row, or one timeout; then lets one trial through every `open_seconds`."""

    def __init__(self, *, failures: int, open_seconds: float, clock: Callable[[], float]) -> None:
        self._threshold = failures
        self._open_seconds = open_seconds
        self._clock = clock
        self._lock = Lock()
        self._failures = 0
        self._open_until = 0.0

    def allows(self) -> bool:
        """Return whether to push now. While open, one caller in `open_seconds` gets True, for a trial."""
        with self._lock:
            if self._failures < self._threshold:
                return True
            now = self._clock()
            if now < self._open_until:
                return False
            self._open_until = now + self._open_seconds
            return True

    def record(self, *, failed: bool, timed_out: bool) -> None:
        """Count a failure, or close. A timeout opens at once, since each costs a caller seconds."""
        with self._lock:
            self._failures = (self._threshold if timed_out else self._failures + 1) if failed else 0
            if self._failures >= self._threshold:
                self._open_until = self._clock() + self._open_seconds
