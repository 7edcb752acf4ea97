"""The system under load in virtual time: everybody at once, repeatable by a seed.

Actors are greenlets. Whoever makes a call steps aside, and the seed says who goes on.
"""

import contextlib
import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from greenlet import getcurrent, greenlet

from chalicelib.events import Event
from tests.crash.invariants import MAX_SKEW_SECONDS
from tests.crash.rig import DLQ, INBOX, Fault, Process, Rig, SerialPool
from tests.support.world import Clock

STORM_SECONDS = 900.0
# How a target responds; None is no response.
MOODS: dict[str, tuple[int | None, ...]] = {
    "well": (200,),
    "flaky": (200, 503, 500, 429, None, 204),
    "down": (503,),
    "refusing": (404, 410, 200),
    "hanging": (None, None, 200),
    "leaving": (200, 200, 503, 410),
}
MAX_WORKERS = 3


class Hub:
    """Runs actors one at a time. Time passes only when all of them sleep."""

    def __init__(self, clock: Clock, choose: Callable[[int], int]) -> None:
        self._clock = clock
        self._choose = choose
        self._ready: list[greenlet] = []
        self._sleeping: list[tuple[float, int, greenlet]] = []
        self._order = itertools.count()
        self._hub = getcurrent()

    def spawn(self, act: Callable[[], Any]) -> None:
        self._ready.append(greenlet(act, self._hub))

    def sleep(self, seconds: float) -> None:
        """Let others go on, at least for so long."""
        if not self._is_actor():
            self._clock.sleep(seconds)
            return
        if seconds:
            heapq.heappush(self._sleeping, (self._clock() + seconds, next(self._order), getcurrent()))
        else:
            self._ready.append(getcurrent())
        self._hub.switch()

    def wait(self) -> None:
        """Wait until another actor wakes this one."""
        self._hub.switch()

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

    def _is_actor(self) -> bool:
        """Return whether an actor asks: a thread of a real pool goes straight on."""
        return getcurrent().parent is self._hub


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
            self._hub.wait()
        if failures:
            raise failures[0]
        return [results[number] for number, _ in todo]


class Simulation(Rig):
    """A rig whose actors act at the same time. Containers live on from call to call."""

    def __init__(self, environ: Mapping[str, str], *, seed: int = 0) -> None:
        super().__init__(environ, seed=seed)
        self.hub = Hub(self.clock, self.choose)
        self.threads = lambda size: Pool(self.hub)
        self._idle: list[Process] = []

    def choose(self, count: int) -> int:
        return 0

    def sleep(self, seconds: float) -> None:
        self.hub.sleep(seconds)

    def start(self) -> Process:
        """Start a container."""
        return Process(self)

    @contextlib.contextmanager
    def container(self) -> Iterator[Process]:
        """Give a container that nobody else has meanwhile, the one that was used last if it still lives."""
        process = self._idle.pop() if self._idle else self.start()
        yield process
        if not process.is_dead:
            self._idle.append(process)


class Storm(Simulation):
    """Everybody acts at the same time and anything may fail, until the storm is over."""

    def __init__(self, seed: int) -> None:
        super().__init__({"MAX_DELIVERY_ATTEMPTS": "6", "BACKOFF_CAP_SECONDS": "120"}, seed=seed)
        draw = self.random.choice
        self.sqs.duplicate_probability = draw((0.0, 0.05, 0.2))
        self.dynamodb.index_lag_seconds = draw((0.0, 1.0, 10.0))
        self._fault_rate = draw((0.0, 0.02, 0.1, 0.25))
        self._max_latency_seconds = draw((0.0, 0.1, 2.0, 7.0))
        self._max_skew_seconds = draw((0.0, MAX_SKEW_SECONDS))
        self._redrive_seconds = draw(((60.0, 300.0), (1.0, 10.0)))
        self._mood = "well"
        self._moods_of_targets: dict[str, str] = {}
        self._end = self.clock() + STORM_SECONDS
        self._working = 0

    def choose(self, count: int) -> int:
        return self.random.randrange(count)

    def start(self) -> Process:
        skew_seconds = self.random.uniform(-self._max_skew_seconds, self._max_skew_seconds)
        return Process(self, self._fault, skew_seconds=skew_seconds)

    def latency(self) -> tuple[float, float]:
        total = self.random.uniform(0, self._max_latency_seconds)
        before = self.random.uniform(0, total)
        return before, total - before

    def stall_seconds(self) -> float:
        return self.random.uniform(5, 60)

    def live(self) -> None:
        """Live through the storm, then let the calm settle everything, and check what was promised."""
        actors = (
            self._callers,
            self._callers,
            self._event_source,
            self._sweeps,
            self._meddler,
            self._leasing_consumer,
            self._leasing_consumer,
            self._subscriber,
            self._operator,
            self._moods,
        )
        for act in actors:
            self.hub.spawn(act)
        self.hub.run()
        self._mood, self._fault_rate, self._max_latency_seconds = "well", 0.0, 0.0
        self.sqs.duplicate_probability, self.threads = 0.0, SerialPool
        self.settle()
        self.check()

    def answer(self, event: Event, url: str) -> tuple[int | None, float]:
        statuses = MOODS[self._moods_of_targets.get(url, self._mood)]
        return self.random.choice(statuses), self.random.choice((0.01, 0.3, 4.0))

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
            with self.container() as process:
                accepted = process.post(**headers)
            if accepted is None and "idempotency_key" in headers:
                with self.container() as process:
                    process.post(**headers)

    def _event_source(self) -> None:
        for _ in self._every(0.1, 3):
            if self._working < MAX_WORKERS:
                self._working += 1
                self.hub.spawn(self._work)

    def _work(self) -> None:
        with self.container() as process:
            process.work(max_messages=self.random.randint(1, 10))
        self._working -= 1

    def _sweeps(self) -> None:
        for _ in self._every(30, 60):  # two may run at the same time
            self.hub.spawn(self.start().sweep)

    def _meddler(self) -> None:
        """Acknowledge without a lease, or replay, whatever is there."""
        for _ in self._every(5, 60):
            if events := sorted(self.items()):
                self._spawn_call(self.random.choice((Process.acknowledge, Process.replay)), self.random.choice(events))

    def _leasing_consumer(self) -> None:
        """Lease events; acknowledge each at once or late, release it, replay it, or forget it."""
        for _ in self._every(5, 60):
            with self.container() as process:
                leased = process.lease(limit=self.random.randint(1, 5), seconds=self.random.choice((30, 60, 120)))
            for event_id, lease_id in leased:
                self.hub.sleep(self.random.choice((0.0, 0.0, 1.0, 20.0, 70.0)))
                act = self.random.choice((Process.acknowledge, Process.acknowledge, Process.release, None))
                if act:
                    self._spawn_call(act, event_id, lease_id)
                elif self.random.random() < 0.5:
                    self._spawn_call(Process.replay, event_id)

    def _subscriber(self) -> None:
        """Subscribe targets, and end subscriptions."""
        active: list[str] = []
        for number, _ in enumerate(self._every(10, 200)):
            url = f"https://hooks.zapier.com/{number}"
            self._moods_of_targets[url] = self.random.choice(list(MOODS))
            with self.container() as process:
                if subscription_id := process.subscribe(url):
                    active.append(subscription_id)
            if len(active) > 2 or self.random.random() < 0.3:
                self._spawn_call(Process.unsubscribe, active.pop(0)) if active else None

    def _spawn_call(self, act: Callable[..., Any], *parameters: Any) -> None:
        def call() -> None:
            with self.container() as process:
                act(process, *parameters)

        self.hub.spawn(call)

    def _operator(self) -> None:
        """Move dead letters back now and then, or all the time; a letter may stay in the queue as well."""
        for _ in self._every(*self._redrive_seconds):
            received = self.sqs.receive_message(QueueUrl=DLQ, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
            for message in received.get("Messages", []):
                attributes = message.get("MessageAttributes", {})
                self.sqs.send_message(QueueUrl=INBOX, MessageBody=message["Body"], MessageAttributes=attributes)
                self.hub.sleep(self.random.choice((0.0, 1.0)))
                if self.random.random() < 0.9:
                    self.sqs.delete_message(QueueUrl=DLQ, ReceiptHandle=message["ReceiptHandle"])

    def _moods(self) -> None:
        """Change how the webhook responds."""
        for _ in self._every(20, 200):
            self._mood = self.random.choice(("well", "well", "flaky", "down", "refusing", "hanging"))


def run(seed: int, storm: type[Storm] = Storm) -> Storm:
    """Live through one storm; raise ViolationError with the seed if a promise was broken."""
    lived = storm(seed)
    try:
        lived.live()
    except AssertionError as violation:
        violation.add_note(f"seed {seed}: repeat it with `make chaos SEED={seed}`")
        raise
    return lived
