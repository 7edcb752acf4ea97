"""Destinations that were in trouble for two hours are mended: how long until what waits arrives."""

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from chalicelib.core.event import Event
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.settings import COPIES_ONLY
from measure.outage import HANGS, HEALTHY, TARGET, OutageWorld, Response, Waits
from tests.simulator.simulated_world import INBOX, SLOW, Container
from tests.support.world import Json

OUTAGE_SECONDS = 7200.0
MENDED_AFTER_SECONDS = 150.0
Answer = Callable[["RepairWorld"], Response]


def flaps(world: "RepairWorld") -> Response:
    return HEALTHY if int(world.mended_seconds // 60) % 2 == 0 else (500, 0.1)


def dies_again(world: "RepairWorld") -> Response:
    return HEALTHY if world.mended_seconds < 40 else HANGS


def takes_ten_a_second(world: "RepairWorld") -> Response:
    second = int(world.clock())
    world.taken[second] += 1
    return HEALTHY if world.taken[second] <= 10 else (503, 0.1)


class RepairWorld(OutageWorld):
    """So many copies of each of some subscriptions, one of a tenant each, wait as after two hours
    of hanging; those are mended after MENDED_AFTER_SECONDS, and answer then as `responds` says.

    Healthy are the copies of a subscription without a tenant.
    """

    def __init__(
        self,
        waiting: int,
        *,
        subscriptions: int = 1,
        recovers: bool = False,
        responds: Answer | None = None,
        limit_seconds: float = 9000.0,
        seed: int = 0,
    ) -> None:
        environ = {"ZAPIER_WEBHOOK_URL": COPIES_ONLY, "MAX_DELIVERY_ATTEMPTS": "45"}
        super().__init__("hangs", in_webhook=False, seconds=1e9, environ=environ, seed=seed)
        self.recovers = recovers
        self.responds = responds
        self.limit_seconds = limit_seconds
        self.taken = Counter[int]()
        self.pushes = Counter[str]()
        start = self.clock()
        self.clock.now = start - OUTAGE_SECONDS - 100
        self.tenants = [f"mended-{number}" for number in range(subscriptions)]
        for number, tenant in enumerate(self.tenants):
            self.start().subscribe(f"{TARGET}/{number}", tenant=tenant)
        self.mended = [*self.history.subscribed_at]
        self.start().subscribe(f"{TARGET}/healthy")
        ages = [self.random.uniform(5, OUTAGE_SECONDS) for _ in range(waiting)]
        for age in sorted(ages, reverse=True):
            self.clock.now = start - age
            for tenant in self.tenants:
                self._post({"prefer": "respond-async"}, tenant)
        self.clock.now = start
        for url in (INBOX, SLOW):
            self.sqs.expire(url, 0)
        self.left: set[str] = set()
        for key, item in [*self.dynamodb.items.items()]:
            if item.get("subscription_id") in self.mended:
                self.dynamodb._store([(key, self._failed(item, start))])
                self.left.add(key)
            elif key.startswith("cpy_"):
                self.dynamodb._store([(key, None)])
        for subscription_id in self.mended:
            item = self.dynamodb.items[subscription_id] | {"failing_since": rfc3339(start - 6400)}
            self.dynamodb._store([(subscription_id, item)])
        self.old = frozenset(self.left)
        self.mended_at = self.began + MENDED_AFTER_SECONDS

    def _failed(self, item: Json, now: float) -> Json:
        """Return a copy that hung since it was made, with the backoff that it has by now."""
        age = now - unix_seconds(item["sort_key"].split("#")[0])
        number = max(1, int(math.log2(age / 0.75)))
        delay = self.random.uniform(0.5, 1) * min(7200, 2.0 ** (number - 1))
        last_at = now - self.random.uniform(0, delay)
        attempt = {
            "at": rfc3339(last_at),
            "outcome": "retry",
            "status_code": None,
            "error": "timed out",
            "duration_ms": 3000,
            "response": None,
        }
        kept = {name: value for name, value in item.items() if name != "claimed_until"}
        return kept | {
            "delivery_attempts": number,
            "attempts": json.dumps([attempt]),
            "last_error": "timed out",
            "next_attempt_at": rfc3339(last_at + delay),
            "undelivered_key": item["subscription_id"],
        }

    @property
    def mended_seconds(self) -> float:
        return self.clock() - self.mended_at

    def answer(self, event: Event, url: str) -> Response:
        if event.subscription_id not in self.mended:
            return HEALTHY
        if self.mended_seconds < 0:
            return HANGS
        self.pushes[event.event_id] += 1
        return self.responds(self) if self.responds else HEALTHY

    def is_healthy(self, item: Json) -> bool:
        return "subscription_id" in item and "tenant" not in item

    def is_over(self) -> bool:
        return self.clock() >= self.ends_at

    def _callers(self, every_seconds: float, headers: dict[str, str]) -> None:
        self.hub.spawn(self._watch)
        self.hub.spawn(self._mend)
        self.hub.spawn(self._post_to_mended)
        super()._callers(every_seconds, headers)

    def _post_to_mended(self) -> None:
        for tenant in itertools.cycle(self.tenants):
            if self.is_over():
                return
            self.hub.spawn(partial(self._post, {"prefer": "respond-async"}, tenant))
            self.hub.sleep(5)

    def _watch(self) -> None:
        """End once all has arrived."""
        while self.left and self.mended_seconds < self.limit_seconds:
            items = self.dynamodb.items
            self.left = {key for key in self.left if "delivered_at" not in items[key]}
            self.hub.sleep(1)
        self.ends_at = self.clock()

    def _mend(self) -> None:
        self.hub.sleep(MENDED_AFTER_SECONDS + 5)
        for subscription_id in self.mended if self.recovers else ():
            self.hub.spawn(partial(self.use, Container.recover, subscription_id))

    def arrivals(self) -> Waits:
        """Return how long half, and the last, of what waited when they were mended took."""
        delivered = [str(self.dynamodb.items[key].get("delivered_at", "~")) for key in self.old]
        waits = sorted(
            unix_seconds(at) - self.mended_at if at != "~" else math.inf
            for at in delivered
            if at > rfc3339(self.mended_at)
        )
        return waits[len(waits) // 2], waits[-1]


def run_repair(waiting: int, **options: Any) -> RepairWorld:
    world = RepairWorld(waiting, **options)
    world.run(per_second=5, prefer="respond-async")
    return world


def told_of_repair(waiting: int, **options: Any) -> str:
    """Return what became of what waited, for a person."""
    world = run_repair(waiting, **options)
    half, last = world.arrivals()
    pushes = sum(world.pushes[key] for key in world.old) / len(world.old)
    _, p95 = world.healthy_waits(MENDED_AFTER_SECONDS, MENDED_AFTER_SECONDS + 1200)
    arrived = f"half after {half:.0f} s, the last after {last:.0f} s"
    return f"{arrived}; {pushes:.1f} pushes of each; p95 of others {p95:.1f} s"


def repairs() -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield each figure's name, and what returns it."""
    for waiting in (12, 114, 2000, 12_000):
        for recovers in (False, True):
            name = f"{waiting} wait, mended after two hours{', Recover' * recovers}"
            yield name, partial(told_of_repair, waiting, recovers=recovers)
    for name, responds in (
        ("then down every other minute", flaps),
        ("dead again after 40 s", dies_again),
        ("then takes ten a second", takes_ten_a_second),
    ):
        act = partial(told_of_repair, 2000, responds=responds, limit_seconds=1800)
        yield f"2000 wait, {name}", act
    for subscriptions, waiting in ((100, 20), (2000, 3)):
        name = f"{waiting} wait for each of {subscriptions} that are mended at once"
        yield name, partial(told_of_repair, waiting, subscriptions=subscriptions)
