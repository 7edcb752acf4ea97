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
# The ways in which a destination responds: for each push, one of these status codes is chosen at
# random; None: no response.
BEHAVIOURS = {
    "well": (200,),
    "flaky": (200, 503, 500, 429, None, 204),
    "down": (503,),
    "refusing": (422, 410, 200),
    "hanging": (None, None, 200),
    "leaving": (200, 200, 503, 410),
    "dead and hanging": (None,),
}
# What is pushed, as the variable of the webhook has it: all events, no event, or copies alone.
ALL_PUSHED = {"ZAPIER_WEBHOOK_URL": ENVIRON["ZAPIER_WEBHOOK_URL"]}
NONE_PUSHED = {"ZAPIER_WEBHOOK_URL": PULL_ONLY}
COPIES_PUSHED = {"ZAPIER_WEBHOOK_URL": COPIES_ONLY}
MODES = (ALL_PUSHED, NONE_PUSHED, COPIES_PUSHED)
MAX_WORKERS = 3


class StormWorld(SimulatedWorld):
    """A storm: all kinds of users and functions act at the same time and any call may fail, in two
    rounds with the same idempotency keys. The seed decides what happens.
    """

    def __init__(self, seed: int, versions: Sequence[Version] = (PRESENT,)) -> None:
        """Decide by the seed what the storm is like, without beginning it.

        :param seed: The seed of all random choices. Its last digits also choose what is pushed, and
            after how many days a subscription is disabled, so that all combinations occur.
        :param versions: The versions of the code that run beside each other.
        """
        # A mode of a container is what it pushes: all events, copies alone, or nothing. Of ten
        # storms, two have containers of all modes, as for a while after a change of the settings;
        # the last but one digit of the seed chooses the mode of the world, in which the storm ends.
        # Of the others, one pushes copies alone, and one pushes nothing.
        last_digit = seed % 10
        has_all_modes = last_digit in (7, 8)
        if has_all_modes:
            final_mode = MODES[seed // 10 % 3]
        elif last_digit == 6:
            final_mode = COPIES_PUSHED
        elif last_digit == 9:
            final_mode = NONE_PUSHED
        else:
            final_mode = ALL_PUSHED
        disable_days = ("0", "0.001", "3")[seed % 3]
        environ = {
            "MAX_DELIVERY_ATTEMPTS": "6",
            "BACKOFF_CAP_SECONDS": "120",
            "SUBSCRIPTION_DISABLE_DAYS": disable_days,
        }
        super().__init__({**environ, **final_mode}, seed=seed, versions=versions)
        draw = self.random.choice
        # The modes of the containers during the storm.
        self._modes = MODES if has_all_modes else (final_mode,)
        self.sqs.duplicate_probability = draw((0.0, 0.05, 0.2))
        self.dynamodb.index_lag_seconds = draw((0.0, 1.0, 10.0))
        # The probability that a call has a fault, and how long a call takes at most.
        self._fault_rate = draw((0.0, 0.02, 0.1, 0.25))
        self._max_latency_seconds = draw((0.0, 0.1, 2.0, 7.0))
        # How far the clock of a container is off at most.
        self._max_skew_seconds = draw((0.0, 5.0))
        self.history.max_skew_seconds = self._max_skew_seconds
        # How many targets there are, and how many of them are subscribed at the same time.
        self._targets, self._most_subscriptions = draw(((4, 2), (12, 8)))
        # The shortest and the longest time between two redrives.
        self._redrive_seconds = draw(((60.0, 300.0), (1.0, 10.0)))
        # Names in BEHAVIOURS; those of targets by their URLs.
        self._webhook_behaviour = "well"
        self._target_behaviours: dict[str, str] = {}
        # When the present round ends, in Unix seconds.
        self._end = 0.0
        # How many workers run now.
        self._working = 0

    def choose(self, count: int) -> int:
        """Return the index of the actor that goes on, of so many that are ready, at random."""
        return self.random.randrange(count)

    def start(self, version: Version = PRESENT) -> Container:
        """Start a container of a version, whose calls may have faults, whose clock may be off, and
        whose mode is one of those of the storm.
        """
        container = Container(self, self._fault, self.random.choice(self._modes), version)
        container.skew_seconds = self.random.uniform(
            -self._max_skew_seconds, self._max_skew_seconds
        )
        return container

    def latency(self) -> tuple[float, float]:
        """Return, at random, how many seconds the next call takes before it takes effect, and
        after that.
        """
        total = self.random.uniform(0, self._max_latency_seconds)
        before = self.random.uniform(0, total)
        return before, total - before

    def live(self) -> None:
        """Simulate two rounds, in which all actors act at the same time, let everything settle
        without faults, and check the promises. Raise ViolationError if a promise was broken.
        """
        subscription_ids = self.history.subscribed_at  # of those that exist at the time
        actors: list[Callable[[], None]] = [
            self._callers,
            self._callers,
            self._event_source,
            self._sweeps,
            partial(
                self._call_at_random,
                (Container.acknowledge, Container.replay),
                self.items,
                least_seconds=5,
                most_seconds=60,
            ),
            partial(
                self._call_at_random,
                (Container.enable,),
                lambda: subscription_ids,
                least_seconds=5,
                most_seconds=100,
            ),
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
        """Return a response at random, of those that the destination gives at present."""
        behaviour = self._target_behaviours.get(url, self._webhook_behaviour)
        status_codes = BEHAVIOURS[behaviour]
        return Response(self.random.choice(status_codes), self.random.choice((0.01, 0.3, 4.0)))

    def _fault(self, label: str) -> Fault | None:
        """Return the fault of the next call, at random; None: it has none.

        :param label: The service and the operation, which do not matter.
        """
        return self.random.choice(list(Fault)) if self.random.random() < self._fault_rate else None

    def _every_seconds(self, least: float, most: float) -> Iterable[None]:
        """Sleep for a random number of seconds between `least` and `most`, and yield, again and
        again until the round ends.
        """
        while self.clock() < self._end:
            self.hub.sleep(self.random.uniform(least, most))
            yield

    def _callers(self) -> None:
        """Post an event every 1 to 40 seconds. Half of the time, with an idempotency key: then
        another caller posts with the same key at the same time, perhaps another body, and a refused
        POST is repeated once. Each key is used for two events in succession.
        """
        for number, _ in enumerate(self._every_seconds(1, 40)):
            key = {"idempotency_key": f"key-{number // 2}"}
            headers = self.random.choice(
                ({}, {"prefer": "respond-async"}, key, key | {"prefer": "respond-async"})
            )
            payload, other_payload = self.random.choices(('{"n":1}', '{"n":2}'), k=2)
            has_key = "idempotency_key" in headers
            if has_key:
                self._spawn(Container.post, other_payload, **headers)
            event_id = self.use(Container.post, payload, **headers)
            is_refused = event_id is None
            if is_refused and has_key:
                self.use(Container.post, payload, **headers)

    def _event_source(self) -> None:
        """Start a worker every 0.1 to 3 seconds, unless MAX_WORKERS run already."""
        for _ in self._every_seconds(0.1, 3):
            if self._working < MAX_WORKERS:
                self._working += 1
                self.hub.spawn(self._work)

    def _work(self) -> None:
        """Let a worker process one batch."""
        self.use(Container.work, max_messages=self.random.randint(1, 10))
        self._working -= 1

    def _sweeps(self) -> None:
        """Run the sweep every 30 to 60 seconds, each time in a new container. Two sweeps may run at
        the same time.
        """
        for _ in self._every_seconds(30, 60):
            container = self.start(self.draw_version())
            self.hub.spawn(container.sweep)

    def _call_at_random(
        self,
        acts: Sequence[Callable[..., Any]],
        list_ids: Callable[[], Iterable[str]],
        *,
        least_seconds: float,
        most_seconds: float,
    ) -> None:
        """Let a container call a method for an event or a subscription, both chosen at random,
        every `least_seconds` to `most_seconds`.

        :param acts: The methods, as functions of Container. They take the id.
        :param list_ids: Returns the ids of the events or subscriptions; if there are none, nothing
            is called.
        """
        for _ in self._every_seconds(least_seconds, most_seconds):
            ids = sorted(list_ids())
            if ids:
                act = self.random.choice(acts)
                chosen_id = self.random.choice(ids)
                self._spawn(act, chosen_id)

    def _erasers(self) -> None:
        """Erase an event or a copy every 10 to 90 seconds: one to three times, each within 10 s of
        the time before. Meanwhile its idempotency key may be used again.
        """
        for _ in self._every_seconds(10, 90):
            event_ids = sorted(
                key for key in self.dynamodb.items if key.startswith(("evt_", "cpy_"))
            )
            if not event_ids:
                continue
            event_id = self.random.choice(event_ids)
            for _ in range(self.random.randint(1, 3)):
                self._spawn(Container.erase, event_id)
                self.hub.sleep(self.random.uniform(0, 10))

    def _senders(self) -> None:
        """Every 5 to 60 seconds, send an event one to three times at once, each time to a
        subscription chosen at random; or, in four of ten cases, recover the events that a
        subscription missed: with 1970 as `since`, or without a time.
        """
        for _ in self._every_seconds(5, 60):
            subscription_ids = sorted(self.history.subscribed_at)
            event_ids = sorted(key for key in self.dynamodb.items if key.startswith("evt_"))
            if not subscription_ids or not event_ids:
                continue
            if self.random.random() < 0.4:
                since = self.random.choice((None, rfc3339(0)))
                self._spawn(Container.recover, self.random.choice(subscription_ids), since)
                continue
            event_id = self.random.choice(event_ids)
            for _ in range(self.random.randint(1, 3)):
                self._spawn(Container.send, self.random.choice(subscription_ids), event_id)

    def _leasing_consumer(self) -> None:
        """Lease events every 5 to 60 seconds. Acknowledge or release each lease, at once or so late
        that the lease may have ended; or replay the event; or do nothing more with it.
        """
        for _ in self._every_seconds(5, 60):
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
        """Create a subscription every 5 to 100 seconds, for a target which may have one already,
        and decide how a new target responds. Delete the oldest subscription if there are too many,
        or by chance.
        """
        for _ in self._every_seconds(5, 100):
            url = f"https://hooks.zapier.com/{self.random.randrange(self._targets)}"
            self._target_behaviours.setdefault(url, self.random.choice(list(BEHAVIOURS)))
            event_types = self.random.choice(((), ("a", "triggers.*")))
            self.use(Container.subscribe, url, *event_types)
            active = list(self.history.subscribed_at)
            if active and (len(active) > self._most_subscriptions or self.random.random() < 0.3):
                self._spawn(Container.unsubscribe, active[0])

    def _spawn(self, act: Callable[..., Any], *parameters: Any, **options: str) -> None:
        """Let an actor of its own call a method of Container."""
        self.hub.spawn(partial(self.use, act, *parameters, **options))

    def _operator(self) -> None:
        """Move up to ten dead letters back to the work queue, at intervals between the two numbers
        of seconds in `_redrive_seconds`. One in ten is not deleted from the DLQ, so that it is
        moved back twice.
        """
        least_seconds, most_seconds = self._redrive_seconds
        for _ in self._every_seconds(least_seconds, most_seconds):
            for message in self.receive(DLQ):
                self.move_back(message)
                self.hub.sleep(self.random.choice((0.0, 1.0)))
                if self.random.random() < 0.9:
                    self.sqs.delete_message(QueueUrl=DLQ, ReceiptHandle=message["ReceiptHandle"])

    def _webhook_changes(self) -> None:
        """Choose anew how the webhook responds, every 20 to 200 seconds: a name in BEHAVIOURS."""
        for _ in self._every_seconds(20, 200):
            self._webhook_behaviour = self.random.choice(
                ("well", "well", "flaky", "down", "refusing", "hanging")
            )
