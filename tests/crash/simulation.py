"""A day in the life of the system, in virtual time: everybody at once, everything failing, repeatable by its seed.

Actors are greenlets. Whoever is about to make a call steps aside, and the seed says who goes on.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from greenlet import getcurrent, greenlet

from chalicelib.events import Event
from tests.crash.rig import DLQ, INBOX, Fault, Process, Rig, SerialPool
from tests.support.world import Clock

STORMY_SECONDS = 900.0
MOST_WORKERS = 3


class Hub:
    """Runs actors one at a time. Time passes only when all of them sleep."""

    def __init__(self, clock: Clock, choose: Callable[[int], int]) -> None:
        self._clock = clock
        self._choose = choose
        self._ready: list[greenlet] = []
        self._sleeping: list[tuple[float, int, greenlet]] = []
        self._order = itertools.count()
        self._hub = getcurrent()

    def spawn(self, act: Callable[[], None]) -> None:
        self._ready.append(greenlet(act, self._hub))

    def pause(self) -> None:
        """Let anybody else go first."""
        if self._inside():
            self._ready.append(getcurrent())
            self._hub.switch()

    def sleep(self, seconds: float) -> None:
        if self._inside():
            heapq.heappush(self._sleeping, (self._clock() + seconds, next(self._order), getcurrent()))
            self._hub.switch()
        else:
            self._clock.sleep(seconds)

    def park(self) -> greenlet:
        """Wait until somebody wakes the greenlet that this returns to."""
        self._hub.switch()
        return getcurrent()

    def wake(self, actor: greenlet) -> None:
        self._ready.append(actor)

    def run(self) -> None:
        """Let everybody act until nobody has anything left to do."""
        while self._ready or self._sleeping:
            if not self._ready:
                moment, _, actor = heapq.heappop(self._sleeping)
                self._clock.now = max(self._clock.now, moment)
                self._ready.append(actor)
            self._ready.pop(self._choose(len(self._ready))).switch()

    def _inside(self) -> bool:
        """Return whether an actor asks; a thread of a pool is none, and goes straight on."""
        return getcurrent() is not self._hub and getcurrent().parent is self._hub


class Pool:
    """A pool of threads that are actors."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def map(self, function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
        results: dict[int, Any] = {}
        failures: list[BaseException] = []
        todo = list(enumerate(values))
        owner = getcurrent()

        def run(number: int, value: Any) -> None:
            try:
                results[number] = function(value)
            except BaseException as failure:  # noqa: BLE001  # a death too: whoever waits is told
                failures.append(failure)
                results[number] = None
            if len(results) == len(todo):
                self._hub.wake(owner)

        for number, value in todo:
            self._hub.spawn(lambda number=number, value=value: run(number, value))  # type: ignore[misc]
        if todo:
            self._hub.park()
        if failures:
            raise failures[0]
        return [results[number] for number, _ in todo]


class Storm(Rig):
    """A rig in which everybody acts at the same time and anything may fail, until the storm is over."""

    def __init__(self, seed: int) -> None:
        super().__init__({"MAX_DELIVERY_ATTEMPTS": "6", "BACKOFF_CAP_SECONDS": "120"}, seed=seed)
        self.hub = Hub(self.clock, self.random.randrange)
        self.threads = lambda size: Pool(self.hub)
        self.sqs.duplicate_probability = self.random.choice((0.0, 0.05, 0.2))
        self._fault_rate = self.random.choice((0.0, 0.02, 0.1, 0.25))
        self._mood = self.random.choice(("well", "flaky", "down", "refusing", "hanging"))
        self._end = self.clock() + STORMY_SECONDS
        self._working = 0

    def pause(self) -> None:
        self.hub.pause()

    def sleep(self, seconds: float) -> None:
        self.hub.sleep(seconds)

    def run(self) -> None:
        """Live through the storm, then let the calm settle everything, and check what was promised."""
        actors = [
            self._callers,
            self._callers,
            self._event_source,
            self._sweeps,
            self._consumer,
            self._operator,
            self._moods,
        ]
        for act in actors:
            self.hub.spawn(act)
        self.hub.run()
        self._mood, self._fault_rate, self.sqs.duplicate_probability, self.threads = "well", 0.0, 0.0, SerialPool
        self.settle()
        self.check()

    def answer(self, event: Event) -> tuple[int | None, float]:
        moods: dict[str, tuple[int | None, ...]] = {
            "well": (200,),
            "flaky": (200, 503, 500, 429, None, 204),
            "down": (503,),
            "refusing": (404, 410, 200),
            "hanging": (None, None, 200),
        }
        return self.random.choice(moods[self._mood]), self.random.choice((0.01, 0.3, 4.0))

    def _process(self) -> Process:
        return Process(self, self._fault)

    def _fault(self, number: int, label: str) -> Fault | None:
        return self.random.choice(list(Fault)) if self.random.random() < self._fault_rate else None

    def _every(self, least: float, most: float) -> Iterable[None]:
        """Yield now and then while the storm lasts."""
        while self.clock() < self._end:
            self.hub.sleep(self.random.uniform(least, most))
            yield

    def _callers(self) -> None:
        for number, _ in enumerate(self._every(1, 40)):
            headers = self.random.choice(({}, {"prefer": "respond-async"}, {"idempotency_key": f"key-{number // 2}"}))
            if self._process().post(**headers) is None and "idempotency_key" in headers:
                self._process().post(**headers)

    def _event_source(self) -> None:
        for _ in self._every(0.1, 3):
            if self._working < MOST_WORKERS:
                self._working += 1
                self.hub.spawn(self._work)

    def _work(self) -> None:
        self._process().work(most=self.random.randint(1, 10))
        self._working -= 1

    def _sweeps(self) -> None:
        for _ in self._every(30, 60):  # two may run at the same time
            self.hub.spawn(self._process().sweep)

    def _consumer(self) -> None:
        for _ in self._every(5, 60):
            if events := sorted(self.dynamodb.items()):
                event_id = self.random.choice(events)
                act = self.random.choice(("acknowledge", "replay"))
                self.hub.spawn(lambda act=act, event_id=event_id: getattr(self._process(), act)(event_id))  # type: ignore[misc]

    def _operator(self) -> None:
        """Move dead letters back now and then, also those of long ago."""
        for _ in self._every(60, 300):
            for message in self.sqs.receive_message(QueueUrl=DLQ, MaxNumberOfMessages=10).get("Messages", []):
                self.sqs.send_message(QueueUrl=INBOX, MessageBody=message["Body"])
                self.sqs.delete_message(QueueUrl=DLQ, ReceiptHandle=message["ReceiptHandle"])

    def _moods(self) -> None:
        for _ in self._every(20, 200):
            self._mood = self.random.choice(("well", "well", "flaky", "down", "refusing", "hanging"))


def live_through(seed: int) -> Storm:
    """Run one simulation; raises ViolationError with the seed when a promise was broken."""
    storm = Storm(seed)
    try:
        storm.run()
    except AssertionError as violation:
        violation.add_note(f"seed {seed}: repeat it with `make chaos SEED={seed}`")
        raise
    return storm
