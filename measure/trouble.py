"""Simulated stages whose destinations are in trouble, in virtual time.

Five workers of each lane take batches of ten, a healthy target responds after 0.2 s, and a call to
AWS takes 10 ms. The queues are not fair here, and there is no batching window.
"""

import itertools
import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from chalicelib.core.event import Event, Status
from chalicelib.core.outcome import PushResult
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.settings import COPIES_ONLY
from tests.simulator.simulated_world import (
    INBOX,
    NO_ENVIRON,
    SLOW,
    WORKERS,
    Container,
    Response,
    SimulatedWorld,
)
from tests.support.world import Json

TARGET = "https://hooks.zapier.com/1"
HEALTHY = Response(200, 0.2)
HANGS = Response(None)
REFUSED = Response(503, 0.1)

AFTER_A_SECOND = "answers 200 after 1 s"
FLAKY = "answers 503, 503, 200 by turns"
HANGING = "hangs"
NEARLY_SLOW = "answers 200 after 1.9 s"
REFUSES = "answers 503"
SLOW_TO_DELIVER = "answers 200 after 9 s"
SLOW_TO_FAIL = "answers 503 after 2 s"
SLOW_TO_THROTTLE = "answers 429 after 9 s"
SOMETIMES = "hangs at 5 % of its pushes"
THROTTLES = "answers 429"
THROTTLES_LONG = "answers 429 with Retry-After: 8"
USUAL = "answers 200 after 0.4 to 2 s at random"
# How a destination in trouble responds, by a random number below 1 and the number of the push.
TROUBLES: dict[str, Callable[[float, int], Response]] = {
    REFUSES: lambda random, number: REFUSED,
    HANGING: lambda random, number: HANGS,
    SLOW_TO_FAIL: lambda random, number: Response(503, 2.0),
    THROTTLES: lambda random, number: Response(429, 0.1),
    THROTTLES_LONG: lambda random, number: Response(429, 0.1, retry_after_seconds=8),
    FLAKY: lambda random, number: Response(200, 0.1) if number % 3 == 2 else REFUSED,
    SLOW_TO_THROTTLE: lambda random, number: Response(429, 9.0),
    AFTER_A_SECOND: lambda random, number: Response(200, 1.0),
    NEARLY_SLOW: lambda random, number: Response(200, 1.9),
    USUAL: lambda random, number: Response(200, 0.4 + 1.6 * random),
    SLOW_TO_DELIVER: lambda random, number: Response(200, 9.0),
    SOMETIMES: lambda random, number: HANGS if random < 0.05 else HEALTHY,
}


class Waits(NamedTuple):
    """How long healthy events took from their creation to their delivery, in seconds."""

    median: float
    p95: float


class BusyWorld(SimulatedWorld):
    """A simulated stage to which callers post at a steady rate for some seconds; its workers and
    sweeps run until `is_over`.

    A subclass defines which events are healthy, and how destinations respond: it overrides
    `is_healthy` and `answer`.

    :param seconds: How long callers post.
    :param environ: Settings of the stage, besides the usual settings of a simulated stage.
    :param seed: The seed of all random choices.
    """

    workers_of_lane = 5
    # How long after the last post the world goes on at most, while healthy events are pending.
    max_wait_seconds = 600.0

    def __init__(
        self, *, seconds: float, environ: Mapping[str, str] = NO_ENVIRON, seed: int = 0
    ) -> None:
        super().__init__({"MAX_DELIVERY_ATTEMPTS": "20", **environ}, seed=seed)
        self.began = self.clock()
        self.ends_at = self.began + seconds
        self._queues_posts = True

    def is_healthy(self, item: Json) -> bool:
        """Return whether an item is an event whose wait is measured."""
        raise NotImplementedError

    def latency(self) -> tuple[float, float]:
        """Return the seconds before and after the effect of a call to AWS."""
        return 0.0, 0.01

    def run(self, *, per_second: float, queues_posts: bool = True) -> None:
        """Run callers, workers and the sweep until `is_over`.

        :param per_second: How many events are posted a second.
        :param queues_posts: Whether a POST leaves the push to the worker.
        """
        self._queues_posts = queues_posts
        self.hub.spawn(partial(self._callers, 1 / per_second))
        for queue_url in WORKERS:
            for _ in range(self.workers_of_lane):
                self.hub.spawn(partial(self._worker, queue_url))
        self.hub.spawn(self._sweeps)
        self.hub.run()

    def is_over(self) -> bool:
        """Return whether callers have stopped posting, and either no healthy event is pending or
        `max_wait_seconds` have passed since then.
        """
        if self.clock() < self.ends_at:
            return False
        return self.clock() > self.ends_at + self.max_wait_seconds or not self.has_healthy_pending()

    def has_healthy_pending(self) -> bool:
        """Return whether a healthy event is pending."""
        items = self.dynamodb.items.values()
        return any(item.get("status") == Status.PENDING and self.is_healthy(item) for item in items)

    def healthy_waits(self, first_second: float = 0.0, last_second: float = 1e9) -> Waits:
        """Return how long healthy events waited for their delivery. For an event that was not
        delivered, the wait until now counts.

        :param first_second: Events that were posted earlier after the start are left out.
        :param last_second: Events that were posted at or after this second are left out.
        """
        now = rfc3339(self.clock())
        first = rfc3339(self.began + first_second)
        last = rfc3339(self.began + last_second)
        seconds = [
            unix_seconds(event.delivered_at or now) - unix_seconds(event.created_at)
            for key, event in self.items().items()
            if first <= event.created_at < last and self.is_healthy(self.dynamodb.items[key])
        ]
        return Waits(statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1])

    def post(self, tenant: str | None = None) -> None:
        """Post an event, which must be accepted."""
        headers = {"prefer": "respond-async"} if self._queues_posts else {}
        assert self.use(Container.post, tenant=tenant, **headers)

    def _callers(self, every_seconds: float) -> None:
        """Post an event every so many seconds, until `ends_at`."""
        while self.clock() < self.ends_at:
            self.hub.spawn(self.post)
            self.hub.sleep(every_seconds)

    def _worker(self, queue_url: str) -> None:
        """Handle the messages of a queue in one container, until `is_over`."""
        container = self.start()
        while not self.is_over():
            if not container.work(queues=[queue_url]):
                self.hub.sleep(0.1)

    def _sweeps(self) -> None:
        """Run the sweep every 60 s, each time in a new container, until `is_over`."""
        while not self.is_over():
            self.start().sweep()
            self.hub.sleep(60)


class OutageWorld(BusyWorld):
    """While callers post, one destination is in trouble: the webhook, or the targets of the
    subscriptions. Healthy are the events for the other.

    :param trouble: A name in TROUBLES. With SOMETIMES, what did not hang is healthy.
    """

    def __init__(
        self,
        trouble: str,
        *,
        seconds: float,
        in_webhook: bool = False,
        environ: Mapping[str, str] = NO_ENVIRON,
        seed: int = 0,
    ) -> None:
        super().__init__(seconds=seconds, environ=environ, seed=seed)
        self.trouble = trouble
        self.in_webhook = in_webhook
        self._hung: set[str] = set()
        self._numbers = itertools.count()

    def answer(self, event: Event, url: str) -> Response:
        is_over = self.clock() >= self.ends_at
        if is_over or event.is_copy == self.in_webhook:
            return HEALTHY
        response = TROUBLES[self.trouble](self.random.random(), next(self._numbers))
        if response.status_code is None:
            self._hung.add(event.event_id)
        return response

    def is_healthy(self, item: Json) -> bool:
        if self.trouble == SOMETIMES:
            return item["event_id"] not in self._hung
        return ("subscription_id" in item) == self.in_webhook


@dataclass(frozen=True)
class Outage:
    """A case of destinations in trouble, beside others whose events are measured."""

    # A name in TROUBLES.
    trouble: str
    # How many events are posted a second, and for how long.
    per_second: float
    seconds: float = 90.0
    # Whether the webhook is in trouble, or else the subscriptions.
    in_webhook: bool = False
    subscriptions: int = 1
    # The world in which it happens.
    kind: type[OutageWorld] = OutageWorld
    # Between which seconds the events are posted that are measured.
    first_second: float = 0.0
    last_second: float = 1e9

    def run(self, seed: int = 0) -> OutageWorld:
        """Simulate the outage, and return its world after the end."""
        world = self.kind(self.trouble, seconds=self.seconds, in_webhook=self.in_webhook, seed=seed)
        if self.trouble != SOMETIMES:  # which concerns the webhook alone
            for number in range(self.subscriptions):
                world.start().subscribe(f"{TARGET}/{number}")
        world.run(per_second=self.per_second)
        return world

    def waits(self, seed: int = 0) -> Waits:
        """Simulate the outage; return how long healthy events waited that were posted between
        `first_second` and `last_second`.
        """
        return self.run(seed).healthy_waits(self.first_second, self.last_second)


class SomeSlowWorld(OutageWorld):
    """The only subscription takes 9 s for every second event, and 0.2 s for the others, which are
    healthy.
    """

    def answer(self, event: Event, url: str) -> Response:
        is_slow = event.is_copy and not self.is_healthy({"event_id": event.event_id})
        return Response(200, 9.0) if is_slow else HEALTHY

    def is_healthy(self, item: Json) -> bool:
        return str(item["event_id"])[-1] in "01234567"


class RecoveryWorld(OutageWorld):
    """A tenant's subscription in trouble recovers what it missed, and lists it again and again.

    Healthy are the copies for another subscription; nothing else is pushed.
    """

    missed = 5000

    def __init__(
        self, trouble: str, *, seconds: float, in_webhook: bool = False, seed: int = 0
    ) -> None:
        environ = {"ZAPIER_WEBHOOK_URL": COPIES_ONLY}
        super().__init__(trouble, seconds=seconds, environ=environ, seed=seed)
        for _ in range(self.missed):
            self.use(Container.post, tenant="recovering")
        self.start().subscribe(TARGET, tenant="recovering")
        [self.recovering] = self.history.subscribed_at
        self.began = self.clock()
        self.ends_at = self.began + seconds

    def answer(self, event: Event, url: str) -> Response:
        return HEALTHY if event.tenant is None else TROUBLES[self.trouble](0, 0)

    def is_healthy(self, item: Json) -> bool:
        return "subscription_id" in item and "tenant" not in item

    def _callers(self, every_seconds: float) -> None:
        self.hub.spawn(partial(self.use, Container.recover, self.recovering))
        self.hub.spawn(self._list_missed)
        super()._callers(every_seconds)

    def _list_missed(self) -> None:
        """List the missed events of the recovering subscription each second, until `ends_at`."""
        path = f"/subscriptions/{self.recovering}/missed?since={rfc3339(0)}"
        while self.clock() < self.ends_at:
            self.use(Container.call, "GET", path)
            self.hub.sleep(1)


class LongRecoveryWorld(RecoveryWorld):
    """A `RecoveryWorld` with more missed events."""

    missed = 12_000


class HiccupWorld(OutageWorld):
    """The webhook is healthy, but one push of each worker to it, after 3 s, takes 2.2 s."""

    _had: frozenset[int] = frozenset()  # ids of the containers that had theirs

    def respond(
        self, event: Event, url: str, timeout_seconds: float, container: Container
    ) -> PushResult:
        is_due = self.clock() > self.began + 3 and id(container) not in self._had
        if is_due and not event.is_copy:
            self._had |= {id(container)}
            container.sleep(2)
        return super().respond(event, url, timeout_seconds, container)


class TenantsWorld(BusyWorld):
    """The targets of some tenants hang all the time, and that of another tenant hangs at first.

    Healthy are the copies of the other tenant. It ends when all of them are delivered.

    :param hanging_tenants: How many tenants have targets that hang.
    :param targets: How many targets each of these has.
    :param hangs_seconds: How long the target of the other tenant hangs.
    :param posts: How many events are posted for the other tenant, at the rate of the others.
    """

    def __init__(
        self,
        hanging_tenants: int,
        targets: int,
        *,
        hangs_seconds: float,
        seconds: float,
        posts: int,
        seed: int = 0,
    ) -> None:
        super().__init__(seconds=seconds, seed=seed)
        self._other_is_back_at = self.began + hangs_seconds
        self._posts = posts
        # The seconds at which each container pushed to targets that hang all the time.
        self.pushed_at: dict[int, list[float]] = {}
        self._tenants = [f"hanging-{number}" for number in range(hanging_tenants)]
        for tenant in self._tenants:
            for number in range(targets):
                self.start().subscribe(f"{TARGET}/{number}", tenant=tenant)
        self.start().subscribe(f"{TARGET}/0", tenant="other")

    def answer(self, event: Event, url: str) -> Response:
        back_at = self._other_is_back_at if event.tenant == "other" else self.ends_at
        return HANGS if event.is_copy and self.clock() < back_at else HEALTHY

    def respond(
        self, event: Event, url: str, timeout_seconds: float, container: Container
    ) -> PushResult:
        if event.tenant in self._tenants and event.is_copy:
            self.pushed_at.setdefault(id(container), []).append(self.clock() - self.began)
        return super().respond(event, url, timeout_seconds, container)

    def is_healthy(self, item: Json) -> bool:
        return "subscription_id" in item and item.get("tenant") == "other"

    def _callers(self, every_seconds: float) -> None:
        for number in itertools.count():
            tenants = [*self._tenants, "other"] if number < self._posts else self._tenants
            for tenant in tenants:
                self.hub.spawn(partial(self.post, tenant))
            self.hub.sleep(every_seconds)
            has_arrived = 0 < self._posts < number and not self.has_healthy_pending()
            if self.clock() >= self.ends_at or has_arrived:
                self.ends_at = self.clock()
                return

    def delivered_after(self) -> list[float]:
        """Return the seconds from creation to delivery of each copy of the tenant `other` that was
        delivered before `ends_at`.
        """
        seconds = []
        for key, event in self.items().items():
            if not self.is_healthy(self.dynamodb.items[key]) or not event.delivered_at:
                continue
            delivered_at = unix_seconds(event.delivered_at)
            if delivered_at <= self.ends_at:
                seconds.append(delivered_at - unix_seconds(event.created_at))
        return seconds


def flaps(world: "RepairWorld") -> Response:
    """Return the response of a target that fails every other minute after its repair."""
    return HEALTHY if int(world.repaired_seconds // 60) % 2 == 0 else Response(500, 0.1)


def dies_again(world: "RepairWorld") -> Response:
    """Return the response of a target that hangs again from 40 s after its repair on."""
    return HEALTHY if world.repaired_seconds < 40 else HANGS


class RepairWorld(BusyWorld):
    """Copies wait for targets that have hung for two hours, and that are then repaired.

    Healthy are the copies of a subscription without a tenant. It ends when all that waited has
    arrived.

    :param waiting: How many copies wait for each target.
    :param subscriptions: How many targets there are, each of a tenant of its own.
    :param asks: What somebody does 5 s after the repair with the subscription of each target, as
        `Container.recover`; None: nobody does anything.
    :param responds: How a target responds from its repair on; None: it is healthy.
    :param limit_seconds: When it ends, after the repair, if not all has arrived.
    """

    outage_seconds = 7200.0
    # From the start to the repair.
    repaired_after_seconds = 150.0

    def __init__(
        self,
        waiting: int,
        *,
        subscriptions: int = 1,
        asks: Callable[[Container, str], None] | None = None,
        responds: Callable[["RepairWorld"], Response] | None = None,
        limit_seconds: float = 9000.0,
        seed: int = 0,
    ) -> None:
        """Make the world as it is when the simulation begins; see RepairWorld for parameters."""
        environ = {"ZAPIER_WEBHOOK_URL": COPIES_ONLY, "MAX_DELIVERY_ATTEMPTS": "45"}
        super().__init__(seconds=1e9, environ=environ, seed=seed)
        self._asks = asks
        self._responds = responds
        self._limit_seconds = limit_seconds
        self._tenants = [f"repaired-{number}" for number in range(subscriptions)]
        self.repaired_at = self.began + self.repaired_after_seconds
        self.pushes = Counter[str]()  # since the repair, by event

        self.clock.now = self.began - self.outage_seconds - 100
        for number, tenant in enumerate(self._tenants):
            self.start().subscribe(f"{TARGET}/{number}", tenant=tenant)
        self.repaired = [*self.history.subscribed_at]
        self.start().subscribe(f"{TARGET}/healthy")
        self._post_during_the_outage(waiting)
        self.clock.now = self.began
        self.waiting = self._let_copies_wait()
        self._not_arrived = {*self.waiting}

    def _post_during_the_outage(self, waiting: int) -> None:
        """Post events for each tenant, at random times during the outage.

        :param waiting: How many events are posted for each tenant.
        """
        ages = [self.random.uniform(5, self.outage_seconds) for _ in range(waiting)]
        for age in sorted(ages, reverse=True):
            self.clock.now = self.began - age
            for tenant in self._tenants:
                self.post(tenant)

    def _let_copies_wait(self) -> frozenset[str]:
        """Change the copies for the targets as if all their attempts had timed out, delete all
        queue messages and the copies for the healthy subscription, and mark the subscriptions as
        failing; return the ids of the changed copies.
        """
        for url in (INBOX, SLOW):
            self.sqs.expire(url, 0)
        waiting = set()
        for key, item in [*self.dynamodb.items.items()]:
            if item.get("subscription_id") in self.repaired:
                self.dynamodb.store(key, self._timed_out(item))
                waiting.add(key)
            elif key.startswith("cpy_"):  # of the healthy subscription
                self.dynamodb.store(key, None)
        failing_since = rfc3339(self.began - 6400)
        for subscription_id in self.repaired:
            subscription = self.dynamodb.items[subscription_id]
            self.dynamodb.store(subscription_id, subscription | {"failing_since": failing_since})
        return frozenset(waiting)

    def _timed_out(self, copy: Json) -> Json:
        """Return the item of a copy, changed as if each push since its creation had timed out: with
        the number of attempts that fit into its age, the last attempt, and the time of the next.
        """
        age_seconds = self.began - unix_seconds(copy["sort_key"].split("#")[0])
        # The delay after attempt n is 0.75 * 2 ** (n - 1) s on average, so that n attempts have
        # taken 0.75 * 2 ** n s. At the age of two hours, no delay has reached its maximum yet.
        attempts = max(1, int(math.log2(age_seconds / 0.75)))
        delay = self.random.uniform(0.5, 1) * 2.0 ** (attempts - 1)
        last_at = self.began - self.random.uniform(0, delay)
        attempt = {
            "at": rfc3339(last_at),
            "outcome": "retry",
            "status_code": None,
            "error": "timed out",
            "duration_ms": 3000,
            "response": None,
        }
        unclaimed = {name: value for name, value in copy.items() if name != "claimed_until"}
        return unclaimed | {
            "delivery_attempts": attempts,
            "attempts": json.dumps([attempt]),
            "last_error": "timed out",
            "next_attempt_at": rfc3339(last_at + delay),
            "undelivered_key": copy["subscription_id"],
        }

    @property
    def repaired_seconds(self) -> float:
        """Seconds since the repair; negative before the repair."""
        return self.clock() - self.repaired_at

    def answer(self, event: Event, url: str) -> Response:
        if event.subscription_id not in self.repaired:
            return HEALTHY
        if self.repaired_seconds < 0:
            return HANGS
        self.pushes[event.event_id] += 1
        return self._responds(self) if self._responds else HEALTHY

    def is_healthy(self, item: Json) -> bool:
        return "subscription_id" in item and "tenant" not in item

    def is_over(self) -> bool:
        return self.clock() >= self.ends_at

    def _callers(self, every_seconds: float) -> None:
        self.hub.spawn(self._end_when_all_arrived)
        self.hub.spawn(self._ask)
        self.hub.spawn(self._post_to_repaired)
        super()._callers(every_seconds)

    def _post_to_repaired(self) -> None:
        """Post an event for the next of the tenants every 5 s, until `is_over`."""
        for tenant in itertools.cycle(self._tenants):
            if self.is_over():
                return
            self.hub.spawn(partial(self.post, tenant))
            self.hub.sleep(5)

    def _end_when_all_arrived(self) -> None:
        """End the world once all waiting copies are delivered, or the limit is reached."""
        while self._not_arrived and self.repaired_seconds < self._limit_seconds:
            items = self.dynamodb.items
            self._not_arrived = {
                key for key in self._not_arrived if "delivered_at" not in items[key]
            }
            self.hub.sleep(1)
        self.ends_at = self.clock()

    def _ask(self) -> None:
        """Call `asks` for the subscription of each target 5 s after the repair; do nothing if it is
        None.
        """
        if self._asks:
            self.hub.sleep(self.repaired_after_seconds + 5)
            for subscription_id in self.repaired:
                self.hub.spawn(partial(self.use, self._asks, subscription_id))

    def arrivals(self) -> tuple[float, float]:
        """Return after how many seconds from the repair half of the waiting copies, and after how
        many the last of them, had arrived; infinity if they did not arrive.
        """
        delivered = [str(self.dynamodb.items[key].get("delivered_at", "~")) for key in self.waiting]
        seconds = sorted(
            unix_seconds(at) - self.repaired_at if at != "~" else math.inf
            for at in delivered
            if at > rfc3339(self.repaired_at)
        )
        return seconds[len(seconds) // 2], seconds[-1]
