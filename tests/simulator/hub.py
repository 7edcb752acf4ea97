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
        """Let actors go on, one at a time, until all have ended: each time an actor that `choose`
        chooses of those that are ready. If all of them sleep, move the clock to the time at which
        the first of them wakes.
        """
        while self._ready or self._sleeping:
            if not self._ready:
                wakes_at, _order, first_to_wake = heapq.heappop(self._sleeping)
                self._clock.now = max(self._clock.now, wakes_at)
                self._ready.append(first_to_wake)
            index = self._choose(len(self._ready))
            actor = self._ready.pop(index)
            # This returns once the actor sleeps or has ended.
            actor.switch()

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
        # The numbers of the arguments. The actors share this iterator, so that each argument is
        # taken by one of them.
        numbers = iter(range(len(arguments)))
        # The result or the error of each call that has ended, by the number of its argument, in the
        # order in which the calls ended.
        results: dict[int, Any] = {}
        errors: dict[int, BaseException] = {}

        def act() -> None:
            """Call the function with the next argument that no other actor has taken, until none is
            left. After the last call of all actors, make the caller of `map` ready.
            """
            for number in numbers:
                try:
                    results[number] = function(arguments[number])
                except BaseException as error:  # noqa: BLE001  # also Killed, for the caller that waits
                    errors[number] = error
                has_last_ended = len(results) + len(errors) == len(arguments)
                # The test itself is not an actor, and does not wait to be chosen.
                if has_last_ended and caller is not self._hub:
                    self._ready.append(caller)

        for _ in range(min(size, len(arguments))):
            self.spawn(act)
        if self._is_actor():
            self._hub.switch()  # returns once `act` has made this actor ready, and it is chosen
        else:
            self.run()
        if errors:
            first_error = next(iter(errors.values()))
            raise first_error
        return [results[number] for number in range(len(arguments))]
