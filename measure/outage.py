"""`make outage`: destinations in trouble, in virtual time, and how long healthy events wait.

Five workers of each lane take batches of ten, a healthy target responds after 0.2 s, and a call to
AWS takes 10 ms. The queues are not fair here, and there is no batching window.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from chalicelib.core.event import Event, Status
from chalicelib.core.outcome import PushResult
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.settings import COPIES_ONLY
from tests.simulator.simulated_world import NO_ENVIRON, WORKERS, Container, SimulatedWorld
from tests.support.world import Json

WORKERS_OF_LANE = 5
TARGET = "https://hooks.zapier.com/1"
Response = tuple[int | None, float]  # the status code, or None for a timeout, and seconds
Waits = tuple[float, float]  # of healthy events, in seconds: the median and the 95th percentile
HEALTHY: Response = (200, 0.2)
HANGS: Response = (None, 0.0)
SOMETIMES = "hangs at 5 % of its pushes"
REFUSES = "answers 503"
SLOW_TO_FAIL = "answers 503 after 2 s"
SLOW_TO_DELIVER = "answers 200 after 9 s"
THROTTLES = "answers 429"
THROTTLES_LONG = "answers 429 with Retry-After: 8"
FLAKY = "answers 503, 503, 200 by turns"
AFTER_A_SECOND = "answers 200 after 1 s"
NEARLY_SLOW = "answers 200 after 1.9 s"
USUAL = "answers 200 after 0.4 to 2 s at random"
JUST_QUICK = "answers 200 after 0.9 s"
# How a destination in trouble responds, by a random number and the number of the push.
TROUBLES: dict[str, Callable[[float, int], Response]] = {
    REFUSES: lambda random, number: (503, 0.1),
    "hangs": lambda random, number: HANGS,
    SLOW_TO_FAIL: lambda random, number: (503, 2.0),
    THROTTLES: lambda random, number: (429, 0.1),
    THROTTLES_LONG: lambda random, number: (429, 0.1),
    FLAKY: lambda random, number: (200 if number % 3 == 2 else 503, 0.1),
    "answers 429 after 9 s": lambda random, number: (429, 9.0),
    AFTER_A_SECOND: lambda random, number: (200, 1.0),
    NEARLY_SLOW: lambda random, number: (200, 1.9),
    USUAL: lambda random, number: (200, 0.4 + 1.6 * random),
    JUST_QUICK: lambda random, number: (200, 0.9),
    SLOW_TO_DELIVER: lambda random, number: (200, 9.0),
    SOMETIMES: lambda random, number: HANGS if random < 0.05 else HEALTHY,
}
OFTEN = ("hangs", SLOW_TO_FAIL, SLOW_TO_DELIVER, SOMETIMES, THROTTLES, THROTTLES_LONG, FLAKY)
RATES = {
    **dict.fromkeys(OFTEN, (5, 20)),
    **dict.fromkeys((NEARLY_SLOW, USUAL), (20, 40)),
    JUST_QUICK: (40,),
}
MOST_WAIT_SECONDS = 600.0
SEEDS = range(4)  # what is printed is the worst of them


class OutageWorld(SimulatedWorld):
    """Callers post at a steady rate for `seconds`; workers and sweeps go on until `is_over`.

    All that time one destination is in trouble: the webhook, or the target of the only
    subscription.
    """

    workers = WORKERS_OF_LANE

    def __init__(
        self,
        trouble: str,
        *,
        in_webhook: bool,
        seconds: float,
        environ: Mapping[str, str] = NO_ENVIRON,
        seed: int = 0,
    ) -> None:
        super().__init__({"MAX_DELIVERY_ATTEMPTS": "20", **environ}, seed=seed)
        self.trouble = trouble
        self.in_webhook = in_webhook
        self.began = self.clock()
        self.ends_at = self.began + seconds
        self._hung: set[str] = set()
        self._numbers = itertools.count()

    def answer(self, event: Event, url: str) -> Response:
        is_in_trouble = (
            self.clock() < self.ends_at and (event.subscription_id is None) == self.in_webhook
        )
        response = HEALTHY
        if is_in_trouble:
            response = TROUBLES[self.trouble](self.random.random(), next(self._numbers))
        if response is HANGS:
            self._hung.add(event.event_id)
        return response

    def respond(
        self, event: Event, url: str, timeout_seconds: float, container: Container
    ) -> PushResult:
        result = super().respond(event, url, timeout_seconds, container)
        asks_to_wait = self.trouble == THROTTLES_LONG and result.status_code == 429
        return replace(result, retry_after_seconds=8) if asks_to_wait else result

    def latency(self) -> tuple[float, float]:
        return 0.0, 0.01

    def is_healthy(self, item: Json) -> bool:
        """Return whether nothing is wrong with the destination of an event, or at least was not
        with its pushes.
        """
        if self.trouble == SOMETIMES:
            return item["event_id"] not in self._hung
        return ("subscription_id" in item) == self.in_webhook

    def is_over(self) -> bool:
        """Return whether nobody posts any more, and every healthy event is settled or waited too
        long.
        """
        if self.clock() < self.ends_at:
            return False
        return self.clock() > self.ends_at + MOST_WAIT_SECONDS or not self.is_waiting()

    def is_waiting(self) -> bool:
        """Return whether a healthy event is not settled."""
        items = self.dynamodb.items.values()
        return any(item.get("status") == Status.PENDING and self.is_healthy(item) for item in items)

    def run(self, *, per_second: float, **headers: str) -> None:
        self.hub.spawn(partial(self._callers, 1 / per_second, headers))
        for queue_url in WORKERS:
            for _ in range(self.workers):
                self.hub.spawn(partial(self._worker, queue_url))
        self.hub.spawn(self._sweeps)
        self.hub.run()

    def healthy_waits(self, measured_from: float = 0, until: float = 1e9) -> Waits:
        """Return how long healthy events took that were posted between these seconds."""
        now = rfc3339(self.clock())
        first = rfc3339(self.began + measured_from)
        last = rfc3339(self.began + until)
        waits = [
            unix_seconds(event.delivered_at or now) - unix_seconds(event.created_at)
            for key, event in self.items().items()
            if first <= event.created_at < last and self.is_healthy(self.dynamodb.items[key])
        ]
        return statistics.median(waits), statistics.quantiles(waits, n=20)[-1]

    def _callers(self, every_seconds: float, headers: dict[str, str]) -> None:
        while self.clock() < self.ends_at:
            self.hub.spawn(partial(self._post, headers))
            self.hub.sleep(every_seconds)

    def _post(self, headers: dict[str, str], tenant: str | None = None) -> None:
        assert self.use(Container.post, tenant=tenant, **headers)

    def _worker(self, queue_url: str) -> None:
        container = self.start()
        while not self.is_over():
            if not container.work(queues=[queue_url]):
                self.hub.sleep(0.1)

    def _sweeps(self) -> None:
        while not self.is_over():
            self.start().sweep()
            self.hub.sleep(60)


def run_beside(
    trouble: str,
    *,
    per_second: float,
    in_webhook: bool = False,
    subscriptions: int = 1,
    seconds: float = 90,
    seed: int = 0,
    kind: type[OutageWorld] = OutageWorld,
) -> OutageWorld:
    """Run the webhook in trouble, or the targets of so many subscriptions."""
    world = kind(trouble, in_webhook=in_webhook, seconds=seconds, seed=seed)
    for number in range(0 if trouble == SOMETIMES else subscriptions):
        world.start().subscribe(f"{TARGET}/{number}")
    world.run(per_second=per_second, prefer="respond-async")
    return world


def waits_beside(
    trouble: str, *, measured_from: float = 0, until: float = 1e9, **options: Any
) -> Waits:
    """Return the waits beside the webhook in trouble, or beside the targets of subscriptions."""
    return run_beside(trouble, **options).healthy_waits(measured_from, until)


class SomeSlowWorld(OutageWorld):
    """The only subscription takes 9 s for every second event, and 0.2 s for the others."""

    def answer(self, event: Event, url: str) -> Response:
        is_slow = event.is_copy and not self.is_healthy({"event_id": event.event_id})
        return (200, 9.0) if is_slow else HEALTHY

    def is_healthy(self, item: Json) -> bool:
        return str(item["event_id"])[-1] in "01234567"


class RecoveryWorld(OutageWorld):
    """A tenant's subscription in trouble recovers what it missed, and lists it again and again.

    Healthy are the events for another subscription; nothing else is pushed.
    """

    missed = 5000

    def __init__(self, trouble: str, *, seconds: float, **options: Any) -> None:
        environ = {"ZAPIER_WEBHOOK_URL": COPIES_ONLY}
        super().__init__(trouble, seconds=seconds, environ=environ, **options)
        for _ in range(self.missed):
            self._post({}, "recovering")
        self.start().subscribe(TARGET, tenant="recovering")
        [self.recovering] = self.history.subscribed_at
        self.began = self.clock()
        self.ends_at = self.began + seconds

    def answer(self, event: Event, url: str) -> Response:
        return HEALTHY if event.tenant is None else TROUBLES[self.trouble](0, 0)

    def is_healthy(self, item: Json) -> bool:
        return "subscription_id" in item and "tenant" not in item

    def _callers(self, every_seconds: float, headers: dict[str, str]) -> None:
        self.hub.spawn(partial(self.use, Container.recover, self.recovering))
        self.hub.spawn(self._list_missed)
        super()._callers(every_seconds, headers)

    def _list_missed(self) -> None:
        path = f"/subscriptions/{self.recovering}/missed?since={rfc3339(0)}"
        while self.clock() < self.ends_at:
            self.use(Container.call, "GET", path)
            self.hub.sleep(1)


class LongRecoveryWorld(RecoveryWorld):
    missed = 12_000


class HiccupWorld(OutageWorld):
    """One push of each worker to the webhook, which is well, takes 2.2 s, the first after 3 s."""

    _had: frozenset[int] = frozenset()

    def respond(
        self, event: Event, url: str, timeout_seconds: float, container: Container
    ) -> PushResult:
        is_due = self.clock() > self.began + 3 and id(container) not in self._had
        if is_due and not event.is_copy:
            self._had |= {id(container)}
            container.sleep(2)
        return super().respond(event, url, timeout_seconds, container)


class TenantsWorld(OutageWorld):
    """The targets of some tenants hang all the time, and that of another for `hangs_seconds`.

    `pushes` are the times of the pushes of each container to the former.
    """

    copies = 20  # for the other tenant
    edits = 0  # of the first subscription of those that hang, one in ten seconds

    def __init__(
        self, tenants: int, each: int, *, hangs_seconds: float, seconds: float, seed: int
    ) -> None:
        super().__init__("hangs", in_webhook=False, seconds=seconds, seed=seed)
        self.hangs_seconds = hangs_seconds
        self.tenants = [f"hanging-{number}" for number in range(tenants)]
        self.pushes: dict[int, list[float]] = {}
        for tenant in self.tenants:
            for number in range(each):
                self.start().subscribe(f"{TARGET}/{number}", tenant=tenant)
        self.edited = next(iter(self.history.subscribed_at))
        self.start().subscribe(f"{TARGET}/0", tenant="other")

    def answer(self, event: Event, url: str) -> Response:
        ends_at = self.began + self.hangs_seconds if event.tenant == "other" else self.ends_at
        return HANGS if event.subscription_id and self.clock() < ends_at else HEALTHY

    def respond(
        self, event: Event, url: str, timeout_seconds: float, container: Container
    ) -> PushResult:
        if event.tenant in self.tenants and event.is_copy:
            self.pushes.setdefault(id(container), []).append(self.clock() - self.began)
        return super().respond(event, url, timeout_seconds, container)

    def is_healthy(self, item: Json) -> bool:
        return "subscription_id" in item and item.get("tenant") == "other"

    def _callers(self, every_seconds: float, headers: dict[str, str]) -> None:
        self.hub.spawn(self._edit)
        for number in itertools.count():
            tenants = [*self.tenants, "other"] if number < self.copies else self.tenants
            for tenant in tenants:
                self.hub.spawn(partial(self._post, headers, tenant))
            self.hub.sleep(every_seconds)
            is_done = 0 < self.copies < number and not self.is_waiting()
            if self.clock() >= self.ends_at or is_done:
                self.ends_at = self.clock()
                return

    def _edit(self) -> None:
        for number in range(self.edits):
            url = f"{TARGET}/edited/{number}"
            self.use(Container.call, "PATCH", f"/subscriptions/{self.edited}", {"target_url": url})
            self.hub.sleep(10)


class EditedWorld(TenantsWorld):
    edits = 70


class LongWorld(TenantsWorld):
    copies = 0


def beside_tenants(
    tenants: int,
    each: int,
    *,
    hangs_seconds: float = 60,
    minutes: float = 20,
    seed: int = 0,
    kind: type[TenantsWorld] = TenantsWorld,
    **headers: str,
) -> list[float]:
    """Return how long the copies of the other tenant took that were delivered, in seconds.

    Each tenant gets 0.2 events a second.
    """
    seconds = 60 * minutes
    world = kind(tenants, each, hangs_seconds=hangs_seconds, seconds=seconds, seed=seed)
    world.run(per_second=0.2, **headers)
    copies = [
        event for key, event in world.items().items() if world.is_healthy(world.dynamodb.items[key])
    ]
    return [
        unix_seconds(copy.delivered_at) - unix_seconds(copy.created_at)
        for copy in copies
        if copy.delivered_at and unix_seconds(copy.delivered_at) <= world.ends_at
    ]


def trial_gaps(hours: int, *, seed: int = 0) -> list[float]:
    """Return the median of a container's gaps between trials in each hour, in seconds.

    Ten targets of one tenant hang, and get an event in 200 s each.
    """
    world = LongWorld(1, 10, hangs_seconds=0, seconds=3600 * hours, seed=seed)
    world.run(per_second=0.005, prefer="respond-async")
    medians = []
    for hour in range(hours):
        gaps = [
            later - earlier
            for times in world.pushes.values()
            for earlier, later in itertools.pairwise(times)
            if 3600 * hour <= earlier < 3600 * (hour + 1)
        ]
        medians.append(statistics.median(gaps))
    return medians


# What returns how long the copies of a tenant took beside targets of others that hang.
TENANTS: dict[str, Callable[..., list[float]]] = {
    f"{tenants} of {each} targets, and hung itself for a minute": partial(
        beside_tenants, tenants, each, prefer="respond-async"
    )
    for tenants, each in ((1, 10), (1, 70), (1, 100), (20, 1))
}
TENANTS["one that was edited 70 times, and hung itself for a minute"] = partial(
    beside_tenants, 1, 1, kind=EditedWorld, prefer="respond-async"
)
TENANTS["one with the same URL; pushed inline"] = partial(
    beside_tenants, 1, 1, hangs_seconds=0, minutes=2
)


def for_ten_minutes(per_second: float) -> str:
    """Return what ten minutes of a subscription that delivers slowly take, for a person."""
    world = run_beside(SLOW_TO_DELIVER, per_second=per_second, seconds=600)
    _, p95 = world.healthy_waits()
    copies = [event for event in world.items().values() if event.is_copy]
    pending = sum(event.status is Status.PENDING for event in copies)
    sent = world.history.messages.total()
    return f"p95 {p95:.1f} s, {len(copies)} copies, {pending} wait, {sent} messages for all events"


def for_some_slow() -> str:
    """Return what becomes of a subscription that is slow for some events, for a person."""
    world = run_beside(REFUSES, per_second=5, kind=SomeSlowWorld)
    world.settle()
    failed = [event for event in world.items().values() if event.status is not Status.DELIVERED]
    return f"p95 of the quick ones {world.healthy_waits()[1]:.1f} s, {len(failed)} not delivered"


def all_away() -> str:
    """Return how long it takes until all is delivered after all targets were away, for a person."""
    world = LongWorld(20, 1, hangs_seconds=600, seconds=600, seed=0)
    world.run(per_second=0.2, prefer="respond-async")
    world.settle()
    last = max(str(event.delivered_at) for event in world.items().values())
    return f"the last of {len(world.items())} after {unix_seconds(last) - world.ends_at:.0f} s"


def told_of_tenants(beside: Callable[..., list[float]]) -> str:
    """Return how the copies of a tenant fared beside those that hang, for a person: the worst."""
    runs = [beside(seed=seed) for seed in SEEDS]
    fewest = min(map(len, runs))
    median, longest = max(map(statistics.median, runs)), max(map(max, runs))
    return f"{fewest} delivered, median {median:.0f} s, longest wait {longest:.0f} s"


def told_of_waits(run: Callable[..., Waits], per_second: float) -> str:
    runs = [run(per_second=per_second, seed=seed) for seed in SEEDS]
    median, p95 = map(max, zip(*runs, strict=True))
    return f"healthy events wait {median:.1f} s (median), {p95:.1f} s (p95)"


def figures() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each figure's name, and what returns it, those first that take longest."""
    yield "20 targets away for ten minutes", all_away
    yield "median gap between a container's trials, each of 6 hours", partial(trial_gaps, 6)
    yield "slow for every second event", for_some_slow
    for slow_rate in (5, 20):
        act: Callable[[], object] = partial(for_ten_minutes, slow_rate)
        yield f"{SLOW_TO_DELIVER}, {slow_rate}/s for ten minutes", act
    for name, beside in TENANTS.items():
        yield f"beside {name}", partial(told_of_tenants, beside)
    for name, trouble, rate, options in troubles():
        run = partial(waits_beside, trouble, **options)
        yield f"{name}, {rate}/s", partial(told_of_waits, run, rate)


def troubles() -> Iterator[tuple[str, str, float, Json]]:
    """Yield a name, what is in trouble, how many events a second there are, and options."""
    for in_webhook, name in ((False, "subscription"), (True, "webhook")):
        for trouble in TROUBLES:
            if trouble == SOMETIMES and not in_webhook:
                continue
            for rate in RATES.get(trouble, (5,)):
                yield f"{name} {trouble}", trouble, rate, {"in_webhook": in_webhook}
    for kind, trouble in (
        (LongRecoveryWorld, AFTER_A_SECOND),
        (LongRecoveryWorld, REFUSES),
        (RecoveryWorld, NEARLY_SLOW),
    ):
        name = f"a subscription that {trouble} recovers {kind.missed} events"
        yield name, trouble, 5, {"kind": kind, "seconds": 300}
    for count, rate in ((10, 5), (25, 1)):
        for when, bound in (("first 40 s", {"until": 40}), ("then", {"measured_from": 60})):
            options: Json = {"subscriptions": count, "seconds": 150, **bound}
            yield f"{count} subscriptions hang, {when}", "hangs", rate, options
    name = "10 subscriptions hang, and a push of each worker to the webhook takes 2.2 s, first 40 s"
    yield name, "hangs", 5, {"kind": HiccupWorld, "subscriptions": 10, "seconds": 150, "until": 40}


def main() -> None:
    from measure.repair import repairs  # noqa: PLC0415 - it needs this module

    with ProcessPoolExecutor() as pool:
        acts = itertools.chain(repairs(), figures())
        results = {name: pool.submit(act) for name, act in acts}
        for name, result in results.items():
            print(f"{name}: ", result.result(), flush=True)


if __name__ == "__main__":
    main()
