"""Circuit breaker: a destination that fails or hangs costs the others nothing."""

from threading import Lock


class Breaker:
    """What was seen of one destination. Safe to share between threads; times are Unix seconds."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last_push = 0.0  # or trial
        self._timeouts = 0
        self.failures = 0  # in a row

    def allows(self, now: float, max_failures: float, max_timeouts: int, open_seconds: float) -> bool:
        """Return whether to push now.

        After `max_failures` failures or `max_timeouts` timeouts in a row, only one caller in `open_seconds` gets True,
        for a trial.
        """
        with self._lock:
            if self.failures < max_failures and self._timeouts < max_timeouts:
                return True
            if now < self._last_push + open_seconds:
                return False
            self._last_push = now
            return True

    def record(self, now: float, *, failed: bool, timed_out: bool) -> None:
        """Count the result of a push."""
        with self._lock:
            self._last_push = now
            self.failures = self.failures + 1 if failed else 0
            self._timeouts = self._timeouts + 1 if timed_out else 0
