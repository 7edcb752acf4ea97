"""`make outage`: destinations in trouble, in virtual time, and how long healthy events wait.

Five workers take batches of ten, a healthy target responds after 0.2 s, and a call to AWS takes 10
ms. The queue is not fair here, and there is no batching window.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from chalicelib.core.event import Event, Status
from chalicelib.infra.times import rfc3339, unix_seconds
from tests.simulator.simulated_world import NO_ENVIRON, WORKERS, Container, SimulatedWorld

WORKERS_OF_LANE = 5
SEEDS = 4
TARGET = "https://hooks.zapier.com/1"
Response = tuple[int | None, float]  # the status code, or None for a timeout, and seconds
Waits = tuple[float, float]  # of healthy events, in seconds: the median and the 95th percentile
HEALTHY: Response = (200, 0.2)
HANGS: Response = (None, 0.0)
SOMETIMES = "hangs at 5 % of its pushes"
SLOW_TO_FAIL = "answers 503 after 2 s"
# How a destination in trouble responds, by a random number.
TROUBLES: dict[str, Callable[[float], Response]] = {
    "answers 503": lambda random: (503, 0.1),
    "hangs": lambda random: HANGS,
    "answers 503 after 9 s": lambda random: (503, 9.0),
    SLOW_TO_FAIL: lambda random: (503, 2.0),
    SOMETIMES: lambda random: HANGS if random < 0.05 else HEALTHY,
}
MOST_WAIT_SECONDS = 600.0


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

    def answer(self, event: Event, url: str) -> Response:
        is_in_trouble = (
            self.clock() < self.ends_at and (event.subscription_id is None) == self.in_webhook
        )
        response = TROUBLES[self.trouble](self.random.random()) if is_in_trouble else HEALTHY
        if response is HANGS:
            self._hung.add(event.event_id)
        return response

    def latency(self) -> tuple[float, float]:
        return 0.0, 0.01

    def is_healthy(self, item: Mapping[str, Any]) -> bool:
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

    def healthy_waits(self, measured_from: float) -> Waits:
        """Return how long healthy events took that were posted `measured_from` seconds on or
        later.
        """
        now = rfc3339(self.clock())
        first = rfc3339(self.began + measured_from)
        waits = [
            unix_seconds(event.delivered_at or now) - unix_seconds(event.created_at)
            for key, event in self.items().items()
            if event.created_at >= first and self.is_healthy(self.dynamodb.items[key])
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


def waits_beside(
    trouble: str,
    *,
    per_second: float,
    in_webhook: bool = False,
    subscriptions: int = 1,
    seconds: float = 90,
    measured_from: float = 30,
    seed: int = 0,
) -> Waits:
    """Return the waits beside the webhook in trouble, or beside the targets of so many
    subscriptions.
    """
    world = OutageWorld(trouble, in_webhook=in_webhook, seconds=seconds, seed=seed)
    for number in range(0 if trouble == SOMETIMES else subscriptions):
        world.start().subscribe(f"{TARGET}/{number}")
    world.run(per_second=per_second, prefer="respond-async")
    return world.healthy_waits(measured_from)


class TwoTenantsWorld(OutageWorld):
    """The targets of one tenant hang all the time, and that of another tenant for the first
    `hangs_seconds`.
    """

    copies = 20  # for the other tenant

    def __init__(
        self, hanging: Sequence[str], other: str, *, hangs_seconds: float, seconds: float, seed: int
    ) -> None:
        super().__init__("hangs", in_webhook=False, seconds=seconds, seed=seed)
        self.hangs_seconds = hangs_seconds
        for url in hanging:
            self.start().subscribe(url, tenant="hanging")
        self.start().subscribe(other, tenant="other")

    def answer(self, event: Event, url: str) -> Response:
        ends_at = self.began + self.hangs_seconds if event.tenant == "other" else self.ends_at
        return HANGS if event.subscription_id and self.clock() < ends_at else HEALTHY

    def is_healthy(self, item: Mapping[str, Any]) -> bool:
        return "subscription_id" in item and item.get("tenant") == "other"

    def _callers(self, every_seconds: float, headers: dict[str, str]) -> None:
        for number in itertools.count():
            for tenant in ("hanging", "other") if number < self.copies else ("hanging",):
                self.hub.spawn(partial(self._post, headers, tenant))
            self.hub.sleep(every_seconds)
            if self.clock() >= self.ends_at or (number > self.copies and not self.is_waiting()):
                self.ends_at = self.clock()
                return


def beside_a_tenant(
    hanging: Sequence[str],
    other: str,
    *,
    hangs_seconds: float = 0,
    minutes: float = 15,
    seed: int = 0,
    **headers: str,
) -> list[float]:
    """Return how long the copies of the other tenant took that were delivered, in seconds; both get
    0.2 a second.
    """
    world = TwoTenantsWorld(
        hanging, other, hangs_seconds=hangs_seconds, seconds=60 * minutes, seed=seed
    )
    world.run(per_second=0.2, **headers)
    copies = [
        event for key, event in world.items().items() if world.is_healthy(world.dynamodb.items[key])
    ]
    return [
        unix_seconds(copy.delivered_at) - unix_seconds(copy.created_at)
        for copy in copies
        if copy.delivered_at and unix_seconds(copy.delivered_at) <= world.ends_at
    ]


TEN = [f"{TARGET}/{number}" for number in range(10)]


def cases() -> Iterator[tuple[str, tuple[float, ...], Callable[..., Waits]]]:
    """Yield what is in trouble, at how many events a second, and what returns the waits beside
    it.
    """
    for in_webhook, name in ((False, "subscription"), (True, "webhook")):
        for trouble in ("answers 503", SLOW_TO_FAIL, "answers 503 after 9 s", "hangs"):
            run = partial(waits_beside, trouble, in_webhook=in_webhook)
            yield f"{name} {trouble}", (5, 20), run
    yield f"webhook {SOMETIMES}", (5, 20), partial(waits_beside, SOMETIMES, in_webhook=True)
    for count in (10, 25):
        hang = partial(waits_beside, "hangs", subscriptions=count, seconds=300, measured_from=60)
        yield f"{count} subscriptions hang", (1,), hang


# What returns how long the copies of a tenant took beside targets of another that hang.
TENANTS: dict[str, Callable[..., list[float]]] = {
    "ten, and hung itself for a minute": partial(
        beside_a_tenant, TEN, f"{TARGET}/other", hangs_seconds=60, prefer="respond-async"
    ),
    "one, with the same URL; pushed inline": partial(beside_a_tenant, [TARGET], TARGET, minutes=2),
}


def main() -> None:
    with ProcessPoolExecutor() as pool:

        def of_seeds(run: Callable[..., Any]) -> list[Any]:
            runs = [pool.submit(run, seed=seed) for seed in range(SEEDS)]
            return [each.result() for each in runs]

        print(f"healthy events wait, in s: median, p95, worst p95 of {SEEDS} seeds")
        for name, rates, run in cases():
            for rate in rates:
                medians, p95s = zip(*of_seeds(partial(run, per_second=rate)), strict=True)
                told = statistics.median(medians), statistics.median(p95s), max(p95s)
                print(f"{name}, {rate:g}/s: ", *(f"{seconds:.1f}" for seconds in told), flush=True)
        print("a tenant's target beside those of another that hang: delivered, longest wait in s")
        for name, beside in TENANTS.items():
            waits = of_seeds(beside)
            print(f"{name}: ", min(map(len, waits)), f"{max(map(max, waits)):.1f}", flush=True)


if __name__ == "__main__":
    main()
