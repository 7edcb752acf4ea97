"""Circuit breaker: a destination that fails or hangs costs the others nothing."""

from threading import Lock


class Breaker:
    """What was seen of one destination. Safe to share between threads; times are Unix seconds."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._last_push = 0.0  # or trial
        self._timeouts = 0
        self._first_wait = 1.0  # until the first trial, in open times
        self._is_tried = False
        self.failures = 0  # in a row

    def allows(self, now: float, max_failures: float, max_timeouts: int, open_seconds: float) -> bool:
        """Return whether to push now.

        After `max_failures` failures or `max_timeouts` timeouts in a row, only one caller in `open_seconds` gets True,
        for a trial.
        """
        with self._lock:
            if self.failures < max_failures and self._timeouts < max_timeouts:
                return True
            if now < self._last_push + open_seconds * (1.0 if self._is_tried else self._first_wait):
                return False
            self._last_push = now
            self._is_tried = True
            return True

    def record(self, now: float, *, failed: bool, timed_out: bool, first_wait: float = 1.0) -> None:
        """Count the result of a push.

        The first trial may come after `first_wait` times the open time: workers whose breakers open at the same time
        would otherwise try at the same time, and all wait for a receiver that hangs.
        """
        with self._lock:
            self._last_push = now
            self._first_wait = first_wait
            self._is_tried = self._is_tried and failed
            self.failures = self.failures + 1 if failed else 0
            self._timeouts = self._timeouts + 1 if timed_out else 0
