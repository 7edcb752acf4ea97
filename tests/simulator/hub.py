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
    """Runs actors one at a time. Time passes only when all of them sleep.

    :param choose: Returns which of a number of ready actors goes on, from 0.
    """

    def __init__(self, clock: Clock, choose: Callable[[int], int]) -> None:
        self._clock = clock
        self._choose = choose
        self._ready: list[greenlet] = []
        self._sleeping: list[tuple[float, int, greenlet]] = []
        self._order = itertools.count()
        self._hub = getcurrent()

    def spawn(self, act: Callable[[], Any]) -> None:
        """Let an actor call a function soon."""
        self._ready.append(greenlet(act, self._hub))

    def sleep(self, seconds: float) -> None:
        """Let other actors go on for at least so many seconds; 0: in turn with them."""
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
        """Let actors act until all have ended."""
        while self._ready or self._sleeping:
            if not self._ready:
                moment, _, actor = heapq.heappop(self._sleeping)
                self._clock.now = max(self._clock.now, moment)
                self._ready.append(actor)
            self._ready.pop(self._choose(len(self._ready))).switch()

    def _is_actor(self) -> bool:
        """Return whether an actor asks, not the test itself."""
        return getcurrent().parent is self._hub

    def pool(self, size: int) -> AbstractContextManager[Any]:
        """Return a pool of threads, which are actors."""
        return nullcontext(SimpleNamespace(map=partial(self.map, size=size)))

    def map(self, function: Callable[[Any], Any], values: Iterable[Any], *, size: int) -> list[Any]:
        """Let `size` actors call a function with each value; return the results in order."""
        todo = list(values)
        owner = getcurrent()
        numbers = iter(range(len(todo)))
        results: dict[int, tuple[Any, BaseException | None]] = {}

        def act() -> None:
            for number in numbers:
                try:
                    results[number] = function(todo[number]), None
                except BaseException as failure:  # noqa: BLE001  # also Killed, for the caller that waits
                    results[number] = None, failure
                if len(results) == len(todo) and owner is not self._hub:
                    self._ready.append(owner)

        for _ in range(min(size, len(todo))):
            self.spawn(act)
        if self._is_actor():
            self._hub.switch()
        else:
            self.run()
        for _, failure in results.values():
            if failure:
                raise failure
        return [results[number][0] for number in range(len(todo))]
