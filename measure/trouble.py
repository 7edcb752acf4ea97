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
from typing import NamedTuple, Protocol

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


class Trouble(Protocol):
    """How a destination in trouble responds."""

    def __call__(self, random: float, number: int) -> Response:
        """Return the response to a push.

        :param random: A random number from 0 to below 1.
        :param number: The number of the push, counted from 0 over all destinations in trouble.
        """


TROUBLES: dict[str, Trouble] = {
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


class Arrivals(NamedTuple):
    """When the copies that waited for a repair were delivered, in seconds since the repair;
    infinity: they were not.
    """

    # When half of the copies were delivered.
    half: float
    # When all of them were.
    last: float


class BusyWorld(SimulatedWorld):
    """A simulated stage to which callers post at a steady rate for some seconds; its workers and
    sweeps run until `is_over`.

    A subclass defines which events are healthy, and how destinations respond: it overrides
    `is_healthy` and `answer`. The waits of healthy events are measured.
    """

    workers_of_lane = 5
    # For how long after the last post the simulation goes on at most, while healthy events are
    # pending.
    max_wait_seconds = 600.0

    def __init__(
        self, *, seconds: float, environ: Mapping[str, str] = NO_ENVIRON, seed: int = 0
    ) -> None:
        """Make a stage without events and subscriptions; `run` simulates it.

        :param seconds: For how many seconds from now on callers post.
        :param environ: Settings of the stage, besides the usual settings of a simulated stage.
        :param seed: The seed of all random choices.
        """
        super().__init__({"MAX_DELIVERY_ATTEMPTS": "20", **environ}, seed=seed)
        # The times of the first post and, at the latest, of the last one, in Unix seconds.
        self.began = self.clock()
        self.ends_at = self.began + seconds
        # Whether a POST leaves the push to the worker (`Prefer: respond-async`).
        self._queues_posts = True

    def is_healthy(self, item: Json) -> bool:
        """Return whether an item of the table is an event whose wait is measured."""
        raise NotImplementedError

    def latency(self) -> tuple[float, float]:
        """Return how many seconds a call to AWS takes before it takes effect, and how many until
        its response arrives after that.
        """
        return 0.0, 0.01

    def run(self, *, per_second: float, queues_posts: bool = True) -> None:
        """Run callers, workers and the sweep until `is_over`.

        :param per_second: How many events are posted a second.
        :param queues_posts: Whether a POST leaves the push to the worker; otherwise it pushes the
            event itself.
        """
        self._queues_posts = queues_posts
        self.hub.spawn(partial(self._callers, every_seconds=1 / per_second))
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
        is_too_late = self.clock() > self.ends_at + self.max_wait_seconds
        return is_too_late or not self.has_healthy_pending()

    def has_healthy_pending(self) -> bool:
        """Return whether a healthy event is pending."""
        items = self.dynamodb.items.values()
        return any(item.get("status") == Status.PENDING and self.is_healthy(item) for item in items)

    def healthy_waits(self, first_second: float = 0.0, last_second: float = 1e9) -> Waits:
        """Return the median and the 95th percentile of the seconds that healthy events, as
        `is_healthy` defines them, waited for their delivery. For an event that was not delivered,
        the wait until now counts.

        :param first_second: Leave out events that were posted less than so many seconds after the
            start.
        :param last_second: Leave out events that were posted so many seconds after the start, or
            later.
        """
        now = rfc3339(self.clock())
        first = rfc3339(self.began + first_second)
        last = rfc3339(self.began + last_second)
        seconds = [
            unix_seconds(event.delivered_at or now) - unix_seconds(event.created_at)
            for key, event in self.items().items()
            if first <= event.created_at < last and self.is_healthy(self.dynamodb.items[key])
        ]
        # The last of the 19 values that divide the waits into twentieths is the 95th percentile.
        return Waits(statistics.median(seconds), statistics.quantiles(seconds, n=20)[-1])

    def post(self, tenant: str | None = None) -> None:
        """Post an event; raise AssertionError unless it is accepted.

        :param tenant: The tenant of the event; None: it has none.
        """
        headers = {"prefer": "respond-async"} if self._queues_posts else {}
        assert self.use(Container.post, tenant=tenant, **headers)

    def _callers(self, every_seconds: float) -> None:
        """Post an event every so many seconds until `ends_at`, each as an actor of its own, so that
        none waits for the response to another.
        """
        while self.clock() < self.ends_at:
            self.hub.spawn(self.post)
            self.hub.sleep(every_seconds)

    def _worker(self, queue_url: str) -> None:
        """Let one container handle the messages of a queue, batch by batch, until `is_over`; look
        for messages every 0.1 s while there are none.
        """
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
    """A stage on which, while callers post, either the webhook or the targets of the subscriptions
    are in trouble. Healthy are the events for the other destinations.
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
        """Make a stage without events and subscriptions.

        :param trouble: The trouble: a name in TROUBLES. With SOMETIMES, healthy are the events that
            no push hung for.
        :param seconds: For how many seconds from now on callers post, and the trouble lasts.
        :param in_webhook: Whether the webhook is in trouble; otherwise the targets of the
            subscriptions are.
        :param environ: Settings of the stage, besides the usual settings of a simulated stage.
        :param seed: The seed of all random choices.
        """
        super().__init__(seconds=seconds, environ=environ, seed=seed)
        self.trouble = trouble
        self.in_webhook = in_webhook
        # The ids of the events a push of which hung.
        self._hung: set[str] = set()
        # The numbers of the pushes to destinations in trouble.
        self._numbers = itertools.count()

    def answer(self, event: Event, url: str) -> Response:
        """Return the response of a destination to a push: HEALTHY if it is not in trouble, or if
        the trouble has ended; otherwise the response of the trouble. Note in `_hung` an event to
        which there is no response.
        """
        has_ended = self.clock() >= self.ends_at
        # Copies are pushed to subscriptions, all other events to the webhook.
        is_in_trouble = event.is_copy != self.in_webhook
        if has_ended or not is_in_trouble:
            return HEALTHY
        random = self.random.random()
        number_of_push = next(self._numbers)
        response = TROUBLES[self.trouble](random=random, number=number_of_push)
        hangs = response.status_code is None
        if hangs:
            self._hung.add(event.event_id)
        return response

    def is_healthy(self, item: Json) -> bool:
        """Return whether an event goes to a destination that is not in trouble; with SOMETIMES,
        whether no push of the event hung.

        :param item: The event as the table stores it.
        """
        if self.trouble == SOMETIMES:
            return item["event_id"] not in self._hung
        # Copies are healthy if the webhook is in trouble, and other events if it is not.
        is_copy = "subscription_id" in item
        return is_copy == self.in_webhook


@dataclass(frozen=True)
class Outage:
    """A case of destinations in trouble, beside others whose events are measured."""

    # A name in TROUBLES.
    trouble: str
    # How many events are posted a second, and for how many seconds.
    per_second: float
    seconds: float = 90.0
    # Whether the webhook is in trouble, or else the subscriptions.
    in_webhook: bool = False
    # How many subscriptions there are. With SOMETIMES, there is none.
    subscriptions: int = 1
    # The class of the world in which the outage is simulated.
    kind: type[OutageWorld] = OutageWorld
    # Only events that are posted from the first to before the last of these seconds are measured.
    first_second: float = 0.0
    last_second: float = 1e9

    def run(self, seed: int = 0) -> OutageWorld:
        """Simulate the outage; return its world as it is at the end."""
        world = self.kind(self.trouble, seconds=self.seconds, in_webhook=self.in_webhook, seed=seed)
        # SOMETIMES is a trouble of the webhook, and is simulated without subscriptions.
        if self.trouble != SOMETIMES:
            for number in range(self.subscriptions):
                world.start().subscribe(f"{TARGET}/{number}")
        world.run(per_second=self.per_second)
        return world

    def waits(self, seed: int = 0) -> Waits:
        """Simulate the outage; return how long the healthy events waited that were posted between
        `first_second` and `last_second`.
        """
        return self.run(seed).healthy_waits(self.first_second, self.last_second)


class SomeSlowWorld(OutageWorld):
    """A stage whose only subscription takes 9 s for half of the copies, and 0.2 s for the others.
    Healthy are the events and copies that are not slow.
    """

    def answer(self, event: Event, url: str) -> Response:
        """Return a slow response to a copy that is not healthy, and HEALTHY to any other push."""
        is_slow = event.is_copy and not self.is_healthy({"event_id": event.event_id})
        return Response(200, 9.0) if is_slow else HEALTHY

    def is_healthy(self, item: Json) -> bool:
        """Return whether the last of the hexadecimal digits of an event's id is one of the first
        eight, as it is for half of the events.
        """
        return str(item["event_id"])[-1] in "01234567"


class RecoveryWorld(OutageWorld):
    """A stage on which a tenant's subscription, whose target is in trouble, recovers the events
    that it missed, and lists them again and again.

    Healthy are the copies for subscriptions without a tenant. Nothing is pushed to the webhook.
    """

    # How many events the subscription missed.
    missed = 5000

    def __init__(
        self, trouble: str, *, seconds: float, in_webhook: bool = False, seed: int = 0
    ) -> None:
        """Post as many events of a tenant as `missed` says, and then create the tenant's
        subscription, which has missed them. The simulation begins after that.

        :param trouble: A name in TROUBLES that needs neither a random number nor a number of the
            push.
        :param seconds: For how many seconds callers post, once the simulation has begun.
        :param in_webhook: Has no effect: nothing is pushed to the webhook.
        :param seed: The seed of all random choices.
        """
        environ = {"ZAPIER_WEBHOOK_URL": COPIES_ONLY}
        super().__init__(trouble, seconds=seconds, environ=environ, seed=seed)
        for _ in range(self.missed):
            self.use(Container.post, tenant="recovering")
        self.start().subscribe(TARGET, tenant="recovering")
        # The id of the only subscription.
        [self.recovering] = self.history.subscribed_at
        self.began = self.clock()
        self.ends_at = self.began + seconds

    def answer(self, event: Event, url: str) -> Response:
        """Return the response to the push of a copy: HEALTHY for a copy without a tenant, or the
        response of the trouble for a copy of the tenant that recovers. All targets respond alike,
        whatever their URL.
        """
        if event.tenant is None:
            return HEALTHY
        # The troubles that this class is used with need neither number.
        return TROUBLES[self.trouble](random=0, number=0)

    def is_healthy(self, item: Json) -> bool:
        """Return whether an item is a copy without a tenant."""
        return "subscription_id" in item and "tenant" not in item

    def _callers(self, every_seconds: float) -> None:
        """Recover and list the events that the subscription missed, while an event without a tenant
        is posted every so many seconds, until `ends_at`.
        """
        self.hub.spawn(partial(self.use, Container.recover, self.recovering))
        self.hub.spawn(self._list_missed)
        super()._callers(every_seconds)

    def _list_missed(self) -> None:
        """List the events that the subscription missed each second, until `ends_at`."""
        path = f"/subscriptions/{self.recovering}/missed?since={rfc3339(0)}"
        while self.clock() < self.ends_at:
            self.use(Container.call, "GET", path)
            self.hub.sleep(1)


class LongRecoveryWorld(RecoveryWorld):
    """A `RecoveryWorld` with more missed events."""

    missed = 12_000


class HiccupWorld(OutageWorld):
    """A stage whose webhook is healthy, except that the first push of each container to it, once
    3 s have passed, takes 2.2 s.
    """

    # The `id()` of each container that has made its slow push.
    _slow_once: frozenset[int] = frozenset()

    def respond(
        self, event: Event, url: str, timeout_seconds: float, container: Container
    ) -> PushResult:
        """Return the result of a push, as the base class does. Before that, sleep for 2 s if this
        is the first push of the container to the webhook, to which all events but copies are
        pushed, since 3 s after the start.
        """
        was_slow = id(container) in self._slow_once
        if self.clock() > self.began + 3 and not was_slow and not event.is_copy:
            self._slow_once |= {id(container)}
            container.sleep(2)
        return super().respond(event, url, timeout_seconds, container)


class TenantsWorld(BusyWorld):
    """A stage on which the targets of some tenants hang all the time, and the target of the tenant
    `other` hangs at first.

    Healthy are the copies of the tenant `other`. The simulation ends when all of them are
    delivered.
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
        """Make a stage with a subscription for each target.

        :param hanging_tenants: How many tenants have targets that hang all the time.
        :param targets: How many targets each of these tenants has.
        :param hangs_seconds: For how many seconds from now on the target of the tenant `other`
            hangs.
        :param seconds: After how many seconds the simulation ends at the latest.
        :param posts: How many events of the tenant `other` are posted, each together with an event
            of each other tenant; 0: none, and the simulation ends after `seconds`.
        :param seed: The seed of all random choices.
        """
        super().__init__(seconds=seconds, seed=seed)
        self._other_hangs_until = self.began + hangs_seconds
        self._posts = posts
        # The seconds since the start of each push to a target that hangs all the time, by the
        # `id()` of the container that made it.
        self.pushed_at: dict[int, list[float]] = {}
        self._tenants = [f"hanging-{number}" for number in range(hanging_tenants)]
        for tenant in self._tenants:
            for number in range(targets):
                self.start().subscribe(f"{TARGET}/{number}", tenant=tenant)
        self.start().subscribe(f"{TARGET}/0", tenant="other")

    def answer(self, event: Event, url: str) -> Response:
        """Return the response to a push: HANGS for a copy whose target hangs now, else HEALTHY."""
        hangs_until = self._other_hangs_until if event.tenant == "other" else self.ends_at
        return HANGS if event.is_copy and self.clock() < hangs_until else HEALTHY

    def respond(
        self, event: Event, url: str, timeout_seconds: float, container: Container
    ) -> PushResult:
        """Return the result of a push, as the base class does; note in `pushed_at` when a container
        pushes to a target that hangs all the time.
        """
        if event.tenant in self._tenants and event.is_copy:
            self.pushed_at.setdefault(id(container), []).append(self.clock() - self.began)
        return super().respond(event, url, timeout_seconds, container)

    def is_healthy(self, item: Json) -> bool:
        """Return whether an item is a copy of the tenant `other`."""
        return "subscription_id" in item and item.get("tenant") == "other"

    def _callers(self, every_seconds: float) -> None:
        """Post an event of each tenant every so many seconds, but only `posts` events of the tenant
        `other`. Stop at `ends_at`, or when all events of `other` are delivered, and set `ends_at`
        to now. If `posts` is 0, stop at `ends_at` alone.
        """
        for number in itertools.count():
            tenants = [*self._tenants, "other"] if number < self._posts else self._tenants
            for tenant in tenants:
                self.hub.spawn(partial(self.post, tenant))
            self.hub.sleep(every_seconds)
            # Not yet in the first round without a post of `other`, in which its last event may
            # still be on its way to the table.
            has_posted_all = 0 < self._posts < number
            is_delivered = has_posted_all and not self.has_healthy_pending()
            if self.clock() >= self.ends_at or is_delivered:
                self.ends_at = self.clock()
                return

    def delivery_seconds(self) -> list[float]:
        """Return the seconds from creation to delivery of each copy of the tenant `other` that was
        delivered until `ends_at`.
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
    """A stage on which copies wait for targets that have hung for two hours, and that are repaired
    some time after the start.

    Healthy are the copies of a subscription without a tenant. The simulation ends when all copies
    that waited are delivered.
    """

    outage_seconds = 7200.0
    # From the start of the simulation to the repair.
    repaired_after_seconds = 150.0

    def __init__(
        self,
        waiting_per_target: int,
        *,
        subscriptions: int = 1,
        act_after_repair: Callable[[Container, str], None] | None = None,
        respond_after_repair: Callable[["RepairWorld"], Response] | None = None,
        limit_seconds: float = 9000.0,
        seed: int = 0,
    ) -> None:
        """Make the stage as it is when the simulation begins: the targets hang, and copies wait for
        them.

        :param waiting_per_target: How many copies wait for each target.
        :param subscriptions: How many targets there are, each of a subscription of a tenant of its
            own.
        :param act_after_repair: Called 5 s after the repair with a container and the id of the
            subscription, for each subscription: what an operator does then, such as
            `Container.recover`. None: nobody does anything.
        :param respond_after_repair: Called with this world for each push to a target from its
            repair on; returns the response. None: the response is HEALTHY.
        :param limit_seconds: After how many seconds from the repair the simulation ends at the
            latest.
        :param seed: The seed of all random choices.
        """
        environ = {"ZAPIER_WEBHOOK_URL": COPIES_ONLY, "MAX_DELIVERY_ATTEMPTS": "45"}
        # A billion seconds: `_end_when_all_arrived` ends the simulation.
        super().__init__(seconds=1e9, environ=environ, seed=seed)
        self._act_after_repair = act_after_repair
        self._respond_after_repair = respond_after_repair
        self._limit_seconds = limit_seconds
        self._tenants = [f"repaired-{number}" for number in range(subscriptions)]
        self.repaired_at = self.began + self.repaired_after_seconds
        # How often each copy, by its id, was pushed to its target since the repair.
        self.pushes = Counter[str]()

        # The subscriptions are created 100 s before the outage begins, so that they are older than
        # all events.
        self.clock.now = self.began - self.outage_seconds - 100
        for number, tenant in enumerate(self._tenants):
            self.start().subscribe(f"{TARGET}/{number}", tenant=tenant)
        # The ids of the subscriptions whose targets are repaired.
        self.repaired = [*self.history.subscribed_at]
        self.start().subscribe(f"{TARGET}/healthy")
        self._post_during_the_outage(waiting_per_target)
        self.clock.now = self.began
        # The ids of the copies that wait at the start, and of those that are not delivered yet.
        self.waiting = self._let_copies_wait()
        self._not_arrived = {*self.waiting}

    def _post_during_the_outage(self, events_per_tenant: int) -> None:
        """Post events of each tenant at random times during the outage, by setting the clock to
        these times. The clock stays at the time of the last event, at least 5 s before the
        simulation begins.
        """
        ages = [self.random.uniform(5, self.outage_seconds) for _ in range(events_per_tenant)]
        for age in sorted(ages, reverse=True):
            self.clock.now = self.began - age
            for tenant in self._tenants:
                self.post(tenant)

    def _let_copies_wait(self) -> frozenset[str]:
        """Change the copies for the targets that are repaired later as if all their attempts had
        timed out, and mark their subscriptions as failing. Delete all queue messages, and the
        copies for the healthy subscription. Return the ids of the changed copies.
        """
        for url in (INBOX, SLOW):
            self.sqs.expire(url, retention_seconds=0)  # deletes all messages
        waiting = set()
        for key, item in [*self.dynamodb.items.items()]:
            if item.get("subscription_id") in self.repaired:
                self.dynamodb.store(key, self._time_out(item))
                waiting.add(key)
            elif key.startswith("cpy_"):  # of the healthy subscription
                self.dynamodb.store(key, None)
        # A subscription is marked at the tenth failed attempt of a copy: here 800 s after the
        # beginning of the outage.
        failing_since = rfc3339(self.began - 6400)
        for subscription_id in self.repaired:
            subscription = self.dynamodb.items[subscription_id]
            self.dynamodb.store(subscription_id, subscription | {"failing_since": failing_since})
        return frozenset(waiting)

    def _time_out(self, copy: Json) -> Json:
        """Return the item of a copy as it would be if each push since its creation had timed out:
        with the number of attempts that fit into its age, the last attempt, and the time of the
        next attempt, and without a claim.
        """
        created_at = copy["sort_key"].split("#")[0]
        age_seconds = self.began - unix_seconds(created_at)
        # The delay after attempt n is 0.75 * 2 ** (n - 1) s on average, so that n attempts have
        # taken 0.75 * 2 ** n s. At the age of two hours, no delay has reached its maximum yet.
        attempts = max(1, int(math.log2(age_seconds / 0.75)))
        delay = self.random.uniform(0.5, 1) * 2.0 ** (attempts - 1)
        last_at = self.began - self.random.uniform(0, delay)  # the delay has not passed yet
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
        """Return the response to a push: HEALTHY from the target that is never in trouble, which is
        not in `repaired`. From the others, which are repaired at the same time: HANGS before the
        repair; after it, the response of `respond_after_repair`, or HEALTHY if that is None. Count
        these pushes in `pushes`.
        """
        if event.subscription_id not in self.repaired:
            return HEALTHY
        is_before_repair = self.repaired_seconds < 0
        if is_before_repair:
            return HANGS
        self.pushes[event.event_id] += 1
        if self._respond_after_repair is None:
            return HEALTHY
        return self._respond_after_repair(self)

    def is_healthy(self, item: Json) -> bool:
        """Return whether an item is a copy without a tenant."""
        return "subscription_id" in item and "tenant" not in item

    def is_over(self) -> bool:
        """Return whether `ends_at` has come, which `_end_when_all_arrived` sets."""
        return self.clock() >= self.ends_at

    def _callers(self, every_seconds: float) -> None:
        """Post an event without a tenant every so many seconds, until `ends_at`. Beside that, let
        three actors post events of the tenants, call `act_after_repair` once the targets are
        repaired, and set `ends_at` to now once all waiting copies have arrived.
        """
        self.hub.spawn(self._end_when_all_arrived)
        self.hub.spawn(self._act_for_each_subscription)
        self.hub.spawn(self._post_to_repaired)
        super()._callers(every_seconds)

    def _post_to_repaired(self) -> None:
        """Post an event every 5 s, each time of the next tenant whose target is repaired, until
        `is_over`.
        """
        for tenant in itertools.cycle(self._tenants):
            if self.is_over():
                return
            self.hub.spawn(partial(self.post, tenant))
            self.hub.sleep(5)

    def _end_when_all_arrived(self) -> None:
        """Set `ends_at` to now, once all copies that waited at the start are delivered, or
        `limit_seconds` have passed since the repair.
        """
        while self._not_arrived and self.repaired_seconds < self._limit_seconds:
            items = self.dynamodb.items
            self._not_arrived = {
                key for key in self._not_arrived if "delivered_at" not in items[key]
            }
            self.hub.sleep(1)
        self.ends_at = self.clock()

    def _act_for_each_subscription(self) -> None:
        """Call `act_after_repair` for each subscription whose target is repaired, 5 s after the
        repair; do nothing if `act_after_repair` is None.
        """
        if self._act_after_repair:
            self.hub.sleep(self.repaired_after_seconds + 5)
            for subscription_id in self.repaired:
                self.hub.spawn(partial(self.use, self._act_after_repair, subscription_id))

    def arrivals(self) -> Arrivals:
        """Return after how many seconds from the repair half of the copies that waited at the start
        were delivered, and after how many all of them were; infinity: they were not. Copies that
        were delivered before the repair are left out.
        """
        seconds = []
        for key in self.waiting:
            delivered_at = self.dynamodb.items[key].get("delivered_at")
            if delivered_at is None:
                seconds.append(math.inf)
            elif delivered_at > rfc3339(self.repaired_at):
                seconds.append(unix_seconds(delivered_at) - self.repaired_at)
        seconds.sort()
        return Arrivals(half=seconds[len(seconds) // 2], last=seconds[-1])
