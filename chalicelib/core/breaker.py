"""Circuit breakers: a destination that fails or hangs does not make the others wait.

Closed: pushes are made. Open: none is. Half-open: one push is made, a trial, and its result
decides. Each container has breakers of its own, which its threads share. All times are Unix
seconds.
"""

import random
from dataclasses import dataclass, field
from http import HTTPStatus
from threading import Lock

from chalicelib.core.outcome import MAX_RETRY_AFTER_SECONDS, Outcome, PushResult, Random
from chalicelib.core.target import Target

WORKER_PATIENCE_SECONDS = 25.0
INLINE_PATIENCE_SECONDS = 5.0
# A destination whose failed pushes took this long together rests with the others of its owner.
DOUBTFUL_SECONDS = 2.0
SLOW_REFUSAL_SECONDS = 1.0  # a 429 that took longer held a thread like any failure
TROUBLE_SECONDS = 600.0  # after its last rest an owner still counts as in trouble
MAX_DESTINATIONS = 20_000
# Longer than any push: a trial whose result is never recorded ends by then.
MAX_TRIAL_SECONDS = 20.0


@dataclass
class _State:
    """The breaker of one destination. Times are 0 if the event has not happened."""

    # The URL of the latest push. An edited URL does not close the breaker.
    url: str = field(repr=False)
    last_success_at: float = 0.0
    # When the latest push that failed began; 0: none failed.
    last_failure_at: float = 0.0
    # How long the pushes that failed since the last success took together.
    wasted_seconds: float = 0.0
    # From when on a trial may be made; 0: the breaker is closed.
    next_trial_at: float = 0.0


@dataclass
class _Rest:
    """The rest of an owner: until it ends, no trial of the owner's destinations is made, unless
    somebody asked for a push.
    """

    # How long the owner's next rest is at most, as a multiple of the container's pause.
    turns: int = 1
    # When the latest rest ends or ended.
    ends_at: float = 0.0
    # Whether the latest trial was made before the rest ended, because somebody asked for it.
    is_skipped: bool = False


class Breaker:
    """Decides whether to push to a destination now, for all destinations of a container.

    A container makes one trial at a time. After a trial that failed the container rests, and so do
    the destinations of the same owner that are open or have hung since their last success: for as
    long, then twice, four times as long, up to twice the number of owners in trouble. So a tenant
    with a hundred dead URLs takes no more trials than a tenant with one, and new trouble is tried
    before old.

    :param patience_seconds: The breaker of a destination opens when the pushes that failed since
        its last success have taken this long together.
    """

    def __init__(self, patience_seconds: float, random: Random = random.random) -> None:
        """Begin with all breakers closed.

        :param patience_seconds: The breaker of a destination opens when the pushes that failed
            since its last success have taken this long together.
        :param random: Returns a number from 0 to 1, which varies the pause after a trial.
        """
        self._patience_seconds = patience_seconds
        self._random = random
        self._lock = Lock()
        self._states: dict[str, _State] = {}  # by destination
        self._rests: dict[str, _Rest] = {}  # by owner: a tenant, or the operator
        # From when on the container may make a trial: another one is being made, or has failed.
        self._free_at = 0.0

    def acquire(self, target: Target, now: float, asked_at: float = 0.0) -> float:
        """Return 0 if a push to a target may be made now, or else the seconds until its destination
        may have a trial.

        A trial is the one push that is made while the breaker of a destination is open; its result
        closes the breaker, or keeps it open. A container makes one trial at a time. After a trial
        that failed, the owner of the destination rests: until the rest ends, the owner's
        destinations get no trial, and no push if they hung since their last success.

        Call this once for each push. If it returns 0, it may have begun a trial, which `record`
        ends, or `release_trial` if no push is made.

        :param now: Unix seconds.
        :param asked_at: When somebody asked for this push, by a replay for example (Unix seconds);
            0: nobody did. If no push to the destination has failed since, this push is the
            container's next trial, even during the owner's rest, because the destination may have
            been repaired. Of two rests of an owner in a row only one is skipped like that: with a
            hundred dead URLs an owner who asks all the time gets no more trials than with one.
        """
        with self._lock:
            state = self._state(target)
            # An edited URL has its trial when the old one would have had it.
            state.url = target.url
            rest = self._rests.get(target.owner, _Rest())  # by default a rest that has ended
            if not state.next_trial_at:  # the breaker is closed
                # A destination that hung may be about to open: each of a hundred dead URLs would
                # hold a thread until then. A destination that fails quickly holds nobody up.
                is_in_doubt = state.wasted_seconds >= DOUBTFUL_SECONDS
                return max(0.0, rest.ends_at - now) if is_in_doubt else 0.0
            due_at = max(state.next_trial_at, rest.ends_at)
            is_next = asked_at > state.last_failure_at and not rest.is_skipped
            # No trial before `_free_at`, when the container has ended its latest trial.
            wait_seconds = max(self._free_at, 0.0 if is_next else due_at) - now
            if wait_seconds > 0:
                return wait_seconds
            # Begin the trial.
            rest.is_skipped = due_at > now
            # `record` recognizes a trial by its beginning, which is not before `next_trial_at`.
            state.next_trial_at = min(state.next_trial_at, now)
            self._free_at = now + MAX_TRIAL_SECONDS
            return 0.0

    def release_trial(self, target: Target, now: float) -> None:
        """Say that a push that `acquire` allowed is not made. If it would have been a trial, the
        container may make another trial from now on.

        :param now: Unix seconds.
        """
        with self._lock:
            if self._state(target).next_trial_at:  # the breaker is open: the push was a trial
                self._free_at = now

    def has_failed_since(self, target: Target, asked_at: float) -> bool:
        """Return whether a push to a target that began at `asked_at` (Unix seconds) or later has
        failed, and no push to it has succeeded since; True for an `asked_at` of 0.
        """
        with self._lock:
            return self._state(target).last_failure_at >= asked_at

    def record(
        self, target: Target, started: float, now: float, result: PushResult, open_seconds: float
    ) -> None:
        """Count the result of a push that was made.

        A success closes the breaker of the destination, and ends the rest of its owner if the
        breaker was open. A failure opens the breaker when the failed pushes since the last success
        have taken `patience_seconds` together; then the owner rests: its open destinations get no
        push for a while. A push that was a trial (the one push while the breaker is open) is over,
        and the container pauses before its next trial.

        A final refusal, which is not retried, counts as a success. A quick 429 counts as a success
        if the breaker is open, and not at all if it is closed. A push to a URL that was edited
        since is ignored, unless it failed while the breaker is closed: edits must not keep the
        breaker closed.

        :param started: When the push began (Unix seconds).
        :param now: When the push ended (Unix seconds).
        :param open_seconds: The least time between two trials of a destination.
        """
        with self._lock:
            state = self._state(target)
            is_open = state.next_trial_at > 0  # 0: the breaker is closed
            is_trial = is_open and started >= state.next_trial_at
            seconds = now - started
            # Two to eight times as long as the push, so that trials of dead destinations hold one
            # thread for a third of the time at most. At random, so that not all containers try at
            # the same time.
            pause_seconds = seconds * (2 + 6 * self._random())
            is_throttled = (
                result.status_code == HTTPStatus.TOO_MANY_REQUESTS
                and seconds < SLOW_REFUSAL_SECONDS
            )
            if is_trial:
                self._free_at = now + pause_seconds
            is_success = result.outcome is not Outcome.RETRY or (is_throttled and is_open)
            if state.url != target.url and (is_open or is_success):
                return
            if is_success:
                # A closed breaker, with no failures.
                self._states[target.destination] = _State(target.url, last_success_at=now)
                if is_open:
                    self._rests.pop(target.owner, None)
                    self._free_at = now
            # A push that began before the latest success, or before the breaker opened, says
            # nothing about the destination now.
            elif not is_throttled and started >= max(state.last_success_at, state.next_trial_at):
                state.wasted_seconds += seconds
                state.last_failure_at = max(state.last_failure_at, started)
                if state.wasted_seconds >= self._patience_seconds:
                    state.next_trial_at = now + min(open_seconds, MAX_RETRY_AFTER_SECONDS)
                    self._rest(target.owner, now, pause_seconds)

    def _rest(self, owner: str, now: float, pause_seconds: float) -> None:
        """Begin a rest of an owner, in which the owner's open destinations get no trial.

        The rest lasts one pause, the next one two, then four, up to twice as many pauses as there
        are owners in trouble, and MAX_RETRY_AFTER_SECONDS at most. So each owner gets a fair part
        of the container's trials. Rests that ended TROUBLE_SECONDS ago are forgotten: the next one
        of such an owner lasts one pause again.

        :param now: Unix seconds.
        :param pause_seconds: How long the container pauses after the trial that failed.
        """
        since = now - TROUBLE_SECONDS
        self._rests = {name: rest for name, rest in self._rests.items() if rest.ends_at > since}
        rest = self._rests.setdefault(owner, _Rest())
        turns = min(rest.turns, 2 * len(self._rests))  # how many pauses the rest lasts
        rest.ends_at = now + min(pause_seconds * turns, MAX_RETRY_AFTER_SECONDS)
        rest.turns = 2 * turns

    def _state(self, target: Target) -> _State:
        """Return the breaker of a destination, a closed one if it is new; beyond MAX_DESTINATIONS,
        forget the closed breaker that was seen first.
        """
        state = self._states.setdefault(target.destination, _State(target.url))
        if len(self._states) > MAX_DESTINATIONS:
            # `next` finds a closed breaker: `state` has just been added, and is closed.
            states = self._states.items()
            del self._states[next(name for name, known in states if not known.next_trial_at)]
        return state
