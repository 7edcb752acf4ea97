"""What a container has seen of each destination, so that one that fails or hangs costs the others nothing."""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

MAX_DESTINATIONS = 1000


class Breaker:
    """A circuit breaker for one destination. Safe to share between threads.

    It opens after `max_failures` failures in a row, or `max_timeouts` timeouts in a row, and then lets one trial
    through every `open_seconds`.
    """

    def __init__(
        self, *, max_failures: float, max_timeouts: int, open_seconds: float, clock: Callable[[], float]
    ) -> None:
        self._max_failures = max_failures
        self._max_timeouts = max_timeouts
        self._open_seconds = open_seconds
        self._clock = clock
        self._lock = Lock()
        self._open_until = 0.0
        self._timeouts = 0
        self.failures = 0  # in a row

    def allows(self) -> bool:
        """Return whether to push now. While open, one caller in `open_seconds` gets True, for a trial."""
        with self._lock:
            if not self._is_open():
                return True
            now = self._clock()
            if now < self._open_until:
                return False
            self._open_until = now + self._open_seconds
            return True

    def record(self, *, failed: bool, timed_out: bool) -> None:
        """Count the result of a push."""
        with self._lock:
            self.failures = self.failures + 1 if failed else 0
            self._timeouts = self._timeouts + 1 if timed_out else 0
            if self._is_open():
                self._open_until = self._clock() + self._open_seconds

    def _is_open(self) -> bool:
        return self.failures >= self._max_failures or self._timeouts >= self._max_timeouts


class Breakers:
    """The breakers of the MAX_DESTINATIONS destinations that were used last."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()

    def get(self, url: str, make: Callable[[], Breaker]) -> Breaker:
        """Return the breaker of a destination, made at first use."""
        with self._lock:
            if url not in self._breakers:
                self._breakers[url] = make()
            self._breakers.move_to_end(url)
            if len(self._breakers) > MAX_DESTINATIONS:
                self._breakers.popitem(last=False)
            return self._breakers[url]
