"""A circuit breaker for each destination of a container: one that fails or hangs costs the others nothing."""

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from threading import Lock

from chalicelib.core.http_push import PushResult
from chalicelib.core.outcome import Outcome

MAX_DESTINATIONS = 2000  # the one used least recently is forgotten
TRIAL_SECONDS = 20.0  # a trial whose container was killed ends then
ASKED_SECONDS = 600.0


@dataclass
class _Seen:
    failures: int = 0  # in a row
    wasted_seconds: float = 0.0  # by those
    last_success_at: float = 0.0
    next_trial_at: float = 0.0
    asked_at: float = 0.0


class Breaker:
    """Times are Unix seconds. Safe to share between threads."""

    def __init__(self, patience_seconds: float, random: Callable[[], float] = random.random) -> None:
        self._patience_seconds = patience_seconds
        self._random = random
        self._lock = Lock()
        self._destinations: OrderedDict[str, _Seen] = OrderedDict()
        self._trial: str | None = None
        self._free_at = 0.0

    def failures(self, destination: str) -> int:
        with self._lock:
            return self._seen(destination).failures

    def wait_seconds(self, destination: str, now: float) -> float:
        with self._lock:
            seen = self._seen(destination)
            seen.asked_at = now
            if seen.wasted_seconds < self._patience_seconds:
                return 0.0
            wait = max(seen.next_trial_at, self._free_at) - now
            if wait <= 0:
                self._trial, self._free_at = destination, now + TRIAL_SECONDS
            return max(0.0, wait)

    def record(self, destination: str, started: float, now: float, result: PushResult, open_seconds: float) -> None:
        with self._lock:
            seen = self._seen(destination)
            was_open = seen.wasted_seconds >= self._patience_seconds
            if result.status_code == HTTPStatus.TOO_MANY_REQUESTS and not was_open:
                return
            if result.outcome is not Outcome.RETRY or result.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                seen.failures, seen.wasted_seconds, seen.last_success_at = 0, 0.0, now
                if destination == self._trial:
                    self._trial, self._free_at = None, now
            elif started >= seen.last_success_at:
                took = now - started
                seen.failures += 1
                seen.wasted_seconds += took
                opened = not was_open and seen.wasted_seconds >= self._patience_seconds
                if opened or destination == self._trial:
                    rest = took * (2 + 6 * self._random())
                    self._free_at = max(self._free_at, now + rest) if opened and self._trial else now + rest
                    seen.next_trial_at = now + max(open_seconds, self._count_open(now) * 4 * took)
                    if destination == self._trial:
                        self._trial = None

    def _count_open(self, now: float) -> int:
        return sum(
            seen.wasted_seconds >= self._patience_seconds and seen.asked_at > now - ASKED_SECONDS
            for seen in self._destinations.values()
        )

    def _seen(self, destination: str) -> _Seen:
        seen = self._destinations.pop(destination, None) or _Seen()
        self._destinations[destination] = seen
        if len(self._destinations) > MAX_DESTINATIONS:
            self._destinations.popitem(last=False)
        return seen
