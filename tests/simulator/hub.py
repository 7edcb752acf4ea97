"""Actors in virtual time, one at a time: greenlets that step aside whenever they wait."""

import heapq
import itertools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

from greenlet import getcurrent, greenlet

from tests.support.world import Clock


class Hub:
    """Runs actors one at a time. Time passes only when all of them sleep."""

    def __init__(self, clock: Clock, choose: Callable[[int], int]) -> None:
        """Make a hub without actors.

        :param clock: The clock that is moved forward while all actors sleep.
        :param choose: Called with the number of actors that are ready; returns the index of the
            actor that goes on.
        """
        self._clock = clock
        self._choose = choose
        self._ready: list[greenlet] = []
        # A heap: when each sleeping actor wakes, and a number that decides between equal times.
        self._sleeping: list[tuple[float, int, greenlet]] = []
        self._order = itertools.count()
        # The greenlet of the test itself, in which `run` is called.
        self._hub = getcurrent()

    def spawn(self, act: Callable[[], Any]) -> None:
        """Add an actor, which calls a function once `run` chooses it."""
        self._ready.append(greenlet(act, self._hub))

    def sleep(self, seconds: float) -> None:
        """Let other actors go on, and return after so many seconds of the clock or later. Called by
        the test itself, move the clock forward and return at once.

        :param seconds: 0: the actor stays ready, and goes on once it is chosen again.
        """
        if not self._is_actor():
            self._clock.sleep(seconds)
            return
        if seconds:
            heapq.heappush(
                self._sleeping, (self._clock() + seconds, next(self._order), getcurrent())
            )
        else:
            self._ready.append(getcurrent())
        self._hub.switch()

    def run(self) -> None:
        """Let actors act, one after another, until all have ended."""
        while self._ready or self._sleeping:
            if not self._ready:
                wakes_at, _, actor = heapq.heappop(self._sleeping)
                self._clock.now = max(self._clock.now, wakes_at)
                self._ready.append(actor)
            chosen = self._choose(len(self._ready))
            self._ready.pop(chosen).switch()

    def _is_actor(self) -> bool:
        """Return whether the caller is an actor, not the test itself."""
        return getcurrent().parent is self._hub

    def pool(self, size: int) -> AbstractContextManager[Any]:
        """Return a context manager in place of a ThreadPoolExecutor, whose threads are actors.

        :param size: How many threads the pool has.
        """
        return nullcontext(SimpleNamespace(map=partial(self.map, size=size)))

    def map(self, function: Callable[[Any], Any], values: Iterable[Any], *, size: int) -> list[Any]:
        """Let actors call a function with each value, and wait until all calls have ended. Return
        the results in the order of the values, or raise the first error of a call.

        :param size: How many actors call the function at the same time.
        """
        arguments = list(values)
        caller = getcurrent()
        numbers = iter(range(len(arguments)))  # shared: each number is for one of the actors
        # The result or the error of each call that has ended.
        outcomes: dict[int, tuple[Any, BaseException | None]] = {}

        def act() -> None:
            """Call the function with the next value, until no value is left; then let the caller of
            `map` go on.
            """
            for number in numbers:
                try:
                    outcomes[number] = function(arguments[number]), None
                except BaseException as error:  # noqa: BLE001  # also Killed, for the caller that waits
                    outcomes[number] = None, error
                has_all = len(outcomes) == len(arguments)
                if has_all and caller is not self._hub:
                    self._ready.append(caller)

        for _ in range(min(size, len(arguments))):
            self.spawn(act)
        if self._is_actor():
            self._hub.switch()
        else:
            self.run()
        for _, error in outcomes.values():
            if error:
                raise error
        return [outcomes[number][0] for number in range(len(arguments))]
