"""The circuit breaker of the inline push: a dead receiver must not make callers wait.

One for each container; knows nothing of what it protects.
"""

from collections.abc import Callable
from threading import Lock


class Breaker:
    """Opens after `failures` in a row, or one that timed out; lets one trial through each `open_seconds`."""

    def __init__(self, *, failures: int, open_seconds: float, clock: Callable[[], float]) -> None:
        self._threshold = failures
        self._open_seconds = open_seconds
        self._clock = clock
        self._lock = Lock()
        self._failures = 0
        self._open_until = 0.0

    def allows(self) -> bool:
        """Return whether to push now. A True given while open is the one trial: the next is `open_seconds` away."""
        with self._lock:
            if self._failures < self._threshold:
                return True
            now = self._clock()
            if now < self._open_until:
                return False
            self._open_until = now + self._open_seconds
            return True

    def give_back(self) -> None:
        """The push that was allowed is not made: if it was the trial, the next who asks gets it."""
        with self._lock:
            self._open_until = 0.0

    def succeeded(self) -> None:
        """The receiver gave a final answer, for or against: it is alive."""
        with self._lock:
            self._failures = 0

    def failed(self, *, timed_out: bool) -> None:
        """The receiver is in trouble; a timeout is enough to open, since each costs a caller seconds."""
        with self._lock:
            self._failures = self._threshold if timed_out else self._failures + 1
            if self._failures >= self._threshold:
                self._open_until = self._clock() + self._open_seconds
