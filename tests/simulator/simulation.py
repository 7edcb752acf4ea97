"""Storms: everybody at once and anything may fail, in an order that a seed decides, and repeats."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from chalicelib.core.event import Event
from chalicelib.core.store import ERASED_SECONDS
from chalicelib.infra.times import rfc3339
from chalicelib.settings import COPIES_ONLY, PULL_ONLY
from tests.simulator.simulated_world import DLQ, ENVIRON, Container, Fault, Response, SimulatedWorld
from tests.support.versions import PRESENT, Version

ROUND_SECONDS = 450.0
# Between the two rounds of a storm, so that marks of events erased in the first round expire in the
# middle of the second.
PAUSE_SECONDS = ERASED_SECONDS - ROUND_SECONDS / 2
# How a target responds; None is no response.
BEHAVIOURS = {
    "well": (200,),
    "flaky": (200, 503, 500, 429, None, 204),
    "down": (503,),
    "refusing": (422, 410, 200),
    "hanging": (None, None, 200),
    "leaving": (200, 200, 503, 410),
    "dead and hanging": (None,),
}
MODES = tuple(
    {"ZAPIER_WEBHOOK_URL": value}
    for value in (ENVIRON["ZAPIER_WEBHOOK_URL"], PULL_ONLY, COPIES_ONLY)
)
MAX_WORKERS = 3


class StormWorld(SimulatedWorld):
    """Everybody acts at the same time and anything may fail, in two rounds with the same
    idempotency keys.
    """

    def __init__(self, seed: int, versions: Sequence[Version] = (PRESENT,)) -> None:
        # Of ten storms, two have containers that disagree about where events go, as for a while
        # after a change.
        disagree = seed % 10 in (7, 8)
        last = MODES[seed // 10 % 3] if disagree else MODES[{6: 2, 9: 1}.get(seed % 10, 0)]
        disable_days = ("0", "0.001", "3")[seed % 3]
        environ = {
            "MAX_DELIVERY_ATTEMPTS": "6",
            "BACKOFF_CAP_SECONDS": "120",
            "SUBSCRIPTION_DISABLE_DAYS": disable_days,
        }
        super().__init__({**environ, **last}, seed=seed, versions=versions)
        draw = self.random.choice
        self._modes = MODES if disagree else (last,)
        self.sqs.duplicate_probability = draw((0.0, 0.05, 0.2))
        self.dynamodb.index_lag_seconds = draw((0.0, 1.0, 10.0))
        self._fault_rate = draw((0.0, 0.02, 0.1, 0.25))
        self._max_latency_seconds = draw((0.0, 0.1, 2.0, 7.0))
        self._max_skew_seconds = self.history.max_skew_seconds = draw((0.0, 5.0))
        self._targets, self._most_subscriptions = draw(((4, 2), (12, 8)))
        self._redrive_seconds = draw(((60.0, 300.0), (1.0, 10.0)))
        self._webhook_behaviour = "well"
        self._target_behaviours: dict[str, str] = {}
        self._end = 0.0
        self._working = 0

    def choose(self, count: int) -> int:
        return self.random.randrange(count)

    def start(self, version: Version = PRESENT) -> Container:
        container = Container(self, self._fault, self.random.choice(self._modes), version)
        container.skew_seconds = self.random.uniform(
            -self._max_skew_seconds, self._max_skew_seconds
        )
        return container

    def latency(self) -> tuple[float, float]:
        total = self.random.uniform(0, self._max_latency_seconds)
        before = self.random.uniform(0, total)
        return before, total - before

    def live(self) -> None:
        """Run two rounds, then let everything settle without faults, and check the promises."""
        ends = (Container.acknowledge, Container.replay)
        subscribed = self.history.subscribed_at
        actors: list[Callable[[], None]] = [
            self._callers,
            self._callers,
            self._event_source,
            self._sweeps,
            partial(self._now_and_then, 5, 60, ends, self.items),
            partial(self._now_and_then, 5, 100, (Container.enable,), lambda: subscribed),
            self._leasing_consumer,
            self._leasing_consumer,
            self._subscriber,
            self._operator,
            self._webhook_changes,
            self._erasers,
            self._senders,
        ]
        for pause_seconds in (PAUSE_SECONDS, 0.0):
            self._end = self.clock() + ROUND_SECONDS
            for act in actors:
                self.hub.spawn(act)
            self.hub.run()
            self.complete_erasures()
            self.clock.sleep(pause_seconds)
        self._webhook_behaviour = "well"
        self._fault_rate = 0.0
        self._max_latency_seconds = 0.0
        self.sqs.duplicate_probability = 0.0
        self.settle()
        self.check()

    def answer(self, event: Event, url: str) -> Response:
        statuses = BEHAVIOURS[self._target_behaviours.get(url, self._webhook_behaviour)]
        return Response(self.random.choice(statuses), self.random.choice((0.01, 0.3, 4.0)))

    def _fault(self, label: str) -> Fault | None:
        return self.random.choice(list(Fault)) if self.random.random() < self._fault_rate else None

    def _every(self, least: float, most: float) -> Iterable[None]:
        """Yield now and then while the round lasts."""
        while self.clock() < self._end:
            self.hub.sleep(self.random.uniform(least, most))
            yield

    def _callers(self) -> None:
        for number, _ in enumerate(self._every(1, 40)):
            key = {"idempotency_key": f"key-{number // 2}"}
            headers = self.random.choice(
                ({}, {"prefer": "respond-async"}, key, key | {"prefer": "respond-async"})
            )
            payload, other = self.random.choices(('{"n":1}', '{"n":2}'), k=2)
            if "idempotency_key" in headers:  # at the same time
                self._spawn(Container.post, other, **headers)
            accepted = self.use(Container.post, payload, **headers)
            if accepted is None and "idempotency_key" in headers:
                self.use(Container.post, payload, **headers)

    def _event_source(self) -> None:
        for _ in self._every(0.1, 3):
            if self._working < MAX_WORKERS:
                self._working += 1
                self.hub.spawn(self._work)

    def _work(self) -> None:
        self.use(Container.work, max_messages=self.random.randint(1, 10))
        self._working -= 1

    def _sweeps(self) -> None:
        for _ in self._every(30, 60):  # two may run at the same time
            self.hub.spawn(self.start(self.draw_version()).sweep)

    def _now_and_then(
        self,
        least: float,
        most: float,
        acts: Sequence[Callable[..., Any]],
        subjects: Callable[[], Iterable[str]],
    ) -> None:
        """Let a container call one of `acts` with one of `subjects`, every `least` to `most`
        seconds.
        """
        for _ in self._every(least, most):
            if found := sorted(subjects()):
                self._spawn(self.random.choice(acts), self.random.choice(found))

    def _erasers(self) -> None:
        """Erase an event several times at once; its idempotency key may be in use again."""
        for _ in self._every(10, 90):
            if events := sorted(
                key for key in self.dynamodb.items if key.startswith(("evt_", "cpy_"))
            ):
                event_id = self.random.choice(events)
                for _ in range(self.random.randint(1, 3)):
                    self._spawn(Container.erase, event_id)
                    self.hub.sleep(self.random.uniform(0, 10))

    def _senders(self) -> None:
        """Send an event to a subscription, to several at once, or recover what one missed."""
        for _ in self._every(5, 60):
            subscription_ids = sorted(self.history.subscribed_at)
            events = sorted(key for key in self.dynamodb.items if key.startswith("evt_"))
            if not subscription_ids or not events:
                continue
            if self.random.random() < 0.4:
                since = self.random.choice((None, rfc3339(0)))
                self._spawn(Container.recover, self.random.choice(subscription_ids), since)
                continue
            event_id = self.random.choice(events)
            for _ in range(self.random.randint(1, 3)):
                self._spawn(Container.send, self.random.choice(subscription_ids), event_id)

    def _leasing_consumer(self) -> None:
        """Lease events; acknowledge each at once or late, release it, replay it, or forget it."""
        for _ in self._every(5, 60):
            limit = self.random.randint(1, 5)
            seconds = self.random.choice((30, 60, 120))
            leased = self.use(Container.lease, limit=limit, seconds=seconds)
            for event_id, lease_id in leased:
                self.hub.sleep(self.random.choice((0.0, 0.0, 1.0, 20.0, 70.0)))
                act = self.random.choice(
                    (Container.acknowledge, Container.acknowledge, Container.release, None)
                )
                if act:
                    self._spawn(act, event_id, lease_id)
                elif self.random.random() < 0.5:
                    self._spawn(Container.replay, event_id)

    def _subscriber(self) -> None:
        """Subscribe targets, end subscriptions, and subscribe the same targets again."""
        for _ in self._every(5, 100):
            url = f"https://hooks.zapier.com/{self.random.randrange(self._targets)}"
            self._target_behaviours.setdefault(url, self.random.choice(list(BEHAVIOURS)))
            self.use(Container.subscribe, url, *self.random.choice(((), ("a", "triggers.*"))))
            active = list(self.history.subscribed_at)
            if active and (len(active) > self._most_subscriptions or self.random.random() < 0.3):
                self._spawn(Container.unsubscribe, active[0])

    def _spawn(self, act: Callable[..., Any], *parameters: Any, **options: str) -> None:
        self.hub.spawn(partial(self.use, act, *parameters, **options))

    def _operator(self) -> None:
        """Move dead letters back now and then, or all the time; one in ten also stays in the
        queue.
        """
        for _ in self._every(*self._redrive_seconds):
            for message in self.receive(DLQ):
                self.move_back(message)
                self.hub.sleep(self.random.choice((0.0, 1.0)))
                if self.random.random() < 0.9:
                    self.sqs.delete_message(QueueUrl=DLQ, ReceiptHandle=message["ReceiptHandle"])

    def _webhook_changes(self) -> None:
        """Change how the webhook responds."""
        for _ in self._every(20, 200):
            self._webhook_behaviour = self.random.choice(
                ("well", "well", "flaky", "down", "refusing", "hanging")
            )
