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

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open, and a push may be made only as a trial."""
        return self.next_trial_at > 0


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
        """Ask for one push to a target. Return 0 if it may be made now, or else the seconds after
        which it is worth asking again.

        While the breaker of the destination is closed, the push may be made. While it is open, the
        push may be made only as a trial: the one push whose result closes the breaker, or keeps it
        open. There is no trial before the breaker's `next_trial_at`, none during a rest of the
        destination's owner, and none while the container makes another trial or pauses after it.

        A rest of an owner begins when the breaker of one of its destinations opens, or a trial of
        such a destination fails. During a rest, a push to a destination whose breaker is closed
        must wait, too, if pushes to that destination have hung since its last success.

        If 0 is returned, make the push and call `record`, or call `release_trial`: if the push is a
        trial, the container makes no other one before that, for up to MAX_TRIAL_SECONDS.

        :param now: Unix seconds.
        :param asked_at: When somebody asked for this push, by a replay for example (Unix seconds);
            0: nobody did. If no push to the destination has failed since, the destination may have
            been repaired: then the push may be a trial before `next_trial_at` and during a rest. Of
            two rests of an owner in a row only one is skipped like that: an owner with a hundred
            dead URLs who asks all the time gets no more trials than an owner with one.
        """
        with self._lock:
            state = self._state(target)
            # An edited URL has its trial when the old one would have had it.
            state.url = target.url
            rest = self._rests.get(target.owner, _Rest())  # by default a rest that has ended
            if not state.is_open:
                # The breaker of a destination that hung may be about to open: each of a hundred
                # dead URLs would hold a thread until then. A destination that fails quickly holds
                # nobody up.
                has_hung = state.wasted_seconds >= DOUBTFUL_SECONDS
                return max(0.0, rest.ends_at - now) if has_hung else 0.0
            due_at = max(state.next_trial_at, rest.ends_at)
            need_not_be_due = asked_at > state.last_failure_at and not rest.is_skipped
            # Before `_free_at`, the container makes another trial, or pauses after it.
            trial_at = self._free_at if need_not_be_due else max(self._free_at, due_at)
            if trial_at > now:
                return trial_at - now
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
            if self._state(target).is_open:  # the push was to be a trial
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
        """Count the result of a push that was made, which may open or close the breaker of its
        destination.

        A success closes the breaker. If it was open, the rest of the destination's owner ends, in
        which the owner's open destinations get no push. A failure is counted if the push began
        after the latest success and after the breaker opened. When the failed pushes since the
        latest success have taken `patience_seconds` together, the breaker opens (or stays open, if
        the push was a trial: the one push while it is open), and a rest of the owner begins.

        A final refusal, which is not retried, counts as a success. A quick 429 counts as a success
        if the breaker is open, and not at all if it is closed. A push to a URL that was edited
        since is ignored, unless it failed while the breaker is closed: edits must not keep the
        breaker closed. Whatever the result of a trial, the container may make another trial after
        it: at once after a success, otherwise after a pause.

        :param started: When the push began (Unix seconds).
        :param now: When the push ended (Unix seconds).
        :param open_seconds: The least time between two trials of a destination.
        """
        with self._lock:
            state = self._state(target)
            was_open = state.is_open
            is_trial = was_open and started >= state.next_trial_at
            seconds = now - started
            # Two to eight times as long as the push, so that trials of dead destinations hold one
            # thread for a third of the time at most. At random, so that not all containers try at
            # the same time.
            pause_seconds = seconds * (2 + 6 * self._random())
            if is_trial:
                self._free_at = now + pause_seconds
            is_quick_429 = (
                result.status_code == HTTPStatus.TOO_MANY_REQUESTS
                and seconds < SLOW_REFUSAL_SECONDS
            )
            is_success = result.outcome is not Outcome.RETRY or (is_quick_429 and was_open)
            if state.url != target.url and (was_open or is_success):
                return
            if is_success:
                # A closed breaker, with no failures.
                self._states[target.destination] = _State(target.url, last_success_at=now)
                if was_open:
                    self._rests.pop(target.owner, None)
                    self._free_at = now
                return
            # A push that began before the latest success, or before the breaker opened, says
            # nothing about the destination now.
            is_outdated = started < max(state.last_success_at, state.next_trial_at)
            if is_quick_429 or is_outdated:
                return
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
        :param pause_seconds: The length of one pause: if the push that failed was a trial, how long
            the container waits before its next trial.
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
            # There is at least one closed breaker: `state` has just been added.
            closed = (name for name, known in self._states.items() if not known.is_open)
            del self._states[next(closed)]
        return state
