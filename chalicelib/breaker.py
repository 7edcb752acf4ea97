"""The circuit breaker of the inline push: a dead receiver must not make callers wait.

One for each container; knows nothing of what it protects.
"""

from collections.abc import Callable
from threading import Lock


class Breaker:
    """Opens after `failures` in a row, or one that timed out; lets one trial through each `open_seconds`."""

    def __init__(self, *, failures: int, open_seconds: float, clock: Callable[[], float]) -> None:
        self._limit = failures
        self._open_seconds = open_seconds
        self._clock = clock
        self._lock = Lock()
        self._failures = 0
        self._closed_to_all_until = 0.0
        self._trial_is_out = False

    def allows(self) -> bool:
        """Return whether to push now. A True given while open is the one trial: the next is `open_seconds` away."""
        with self._lock:
            if self._failures < self._limit:
                return True
            now = self._clock()
            if now < self._closed_to_all_until:
                return False
            self._closed_to_all_until = now + self._open_seconds
            self._trial_is_out = True
            return True

    def give_back(self) -> None:
        """What was allowed is not done after all: if it was the trial, the next who asks has it."""
        with self._lock:
            if self._trial_is_out:
                self._trial_is_out, self._closed_to_all_until = False, 0.0

    def succeeded(self) -> None:
        """The receiver answered with its mind made up, for or against: it is alive."""
        with self._lock:
            self._failures, self._trial_is_out = 0, False

    def failed(self, *, timed_out: bool) -> None:
        """The receiver is in trouble; a timeout is enough to open, since each costs a caller seconds."""
        with self._lock:
            self._failures = self._limit if timed_out else self._failures + 1
            self._trial_is_out = False
            if self._failures >= self._limit:
                self._closed_to_all_until = self._clock() + self._open_seconds
