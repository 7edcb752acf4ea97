"""A circuit breaker for each destination: one that fails or hangs does not make the others wait.

Closed: pushes are made. Open: none is. Half-open: one push is made, a trial, and its result
decides. Each container has breakers of its own, which its threads share. All times are Unix
seconds.
"""

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from chalicelib.core.outcome import MAX_RETRY_AFTER_SECONDS, Outcome, PushResult

WORKER_PATIENCE_SECONDS = 15.0
INLINE_PATIENCE_SECONDS = 5.0
MAX_DESTINATIONS = 2000  # the one used least recently is forgotten
# longer than any push; a trial whose result is never recorded ends by then
MAX_TRIAL_SECONDS = 20.0


@dataclass
class _State:
    """What is known of one destination since its last success.

    `next_trial_at` is 0 while it is closed.
    """

    last_success_at: float = 0.0
    failures: int = 0
    wasted_seconds: float = 0.0
    next_trial_at: float = 0.0


class Breaker:
    """Decides whether to push to a destination now.

    Open destinations take turns: one trial at a time for all of them.

    :param patience_seconds: A destination opens when the pushes that failed since its last success
        took so long.
    """

    def __init__(
        self, patience_seconds: float, random: Callable[[], float] = random.random
    ) -> None:
        self._patience_seconds = patience_seconds
        self._random = random
        self._lock = Lock()
        self._states: OrderedDict[str, _State] = OrderedDict()
        self._last_turn_at = 0.0  # the latest `next_trial_at` of any destination
        self._free_at = 0.0  # no trial before: another is being made, or has failed

    def acquire(self, destination: str, now: float) -> float:
        """Return 0 to push now, else the seconds until the next trial.

        Ask once for each push: 0 may begin the trial.
        """
        with self._lock:
            state = self._state(destination)
            if not state.next_trial_at:
                return 0.0
            wait_seconds = max(0.0, state.next_trial_at - now, self._free_at - now)
            if not wait_seconds:
                self._free_at = now + MAX_TRIAL_SECONDS
            return wait_seconds

    def failures(self, destination: str) -> int:
        """Return how many pushes in a row failed."""
        with self._lock:
            return self._state(destination).failures

    def record(
        self, destination: str, started: float, now: float, result: PushResult, open_seconds: float
    ) -> None:
        """Count the result of a push.

        A final refusal is a success, and so is a 429 if the destination is open.

        :param open_seconds: The least time between two trials of a destination.
        """
        with self._lock:
            state = self._state(destination)
            is_trial = 0 < state.next_trial_at <= started
            is_throttled = result.status_code == 429
            # not all containers try at the same time
            pause_seconds = (now - started) * (2 + 6 * self._random())
            if result.outcome is not Outcome.RETRY or (is_throttled and state.next_trial_at):
                self._states[destination] = _State(last_success_at=now)
                pause_seconds = 0.0
            elif not is_throttled and started >= max(state.last_success_at, state.next_trial_at):
                # Pushes that began before the latest success, or before the destination opened,
                # tell nothing.
                state.failures += 1
                state.wasted_seconds += now - started
                if state.wasted_seconds >= self._patience_seconds:
                    # Behind all other destinations that are open.
                    turn_at = max(now + open_seconds, max(now, self._last_turn_at) + pause_seconds)
                    self._last_turn_at = state.next_trial_at = min(
                        turn_at, now + MAX_RETRY_AFTER_SECONDS
                    )
            if is_trial:
                self._free_at = now + pause_seconds

    def _state(self, destination: str) -> _State:
        state = self._states.setdefault(destination, _State())
        self._states.move_to_end(destination)
        if len(self._states) > MAX_DESTINATIONS:
            self._states.popitem(last=False)
        return state
