"""`make outage`: destinations in trouble, in virtual time: how long healthy events wait, and what the sweep does.

Five workers take batches of ten, a healthy target responds after 0.2 s, and a call to AWS takes 10 ms. The queue is not
fair here, and there is no batching window.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any
from unittest import mock

from rich.console import Console
from rich.progress import track
from rich.table import Table

from chalicelib import schedules
from chalicelib.events import Event, Reason, Status
from chalicelib.store import EventStore
from chalicelib.times import DAY_SECONDS, rfc3339, unix_seconds
from tests.simulator.simulated_world import DLQ, SimulatedWorld

WORKERS = 5
TARGET = "https://hooks.zapier.com/1"
Response = tuple[int | None, float]  # the status code, or None for a timeout, and seconds
HEALTHY: Response = (200, 0.2)
HANGS: Response = (None, 0.0)
SOMETIMES, SLOW_TO_FAIL = "hangs at 5 % of its pushes", "answers 503 after 2 s"
# How a destination in trouble responds, by a random number.
TROUBLES: dict[str, Callable[[float], Response]] = {
    "answers 503": lambda random: (503, 0.1),
    "refuses connections": lambda random: (503, 0.0),
    "hangs": lambda random: HANGS,
    "answers 503 after 9 s": lambda random: (503, 9.0),
    SLOW_TO_FAIL: lambda random: (503, 2.0),
    SOMETIMES: lambda random: HANGS if random < 0.05 else HEALTHY,
}
# Trouble, whether the webhook has it or the target of a subscription, and variables.
DEFAULTS: Mapping[str, str] = MappingProxyType({})
CASES: list[tuple[str, bool, Mapping[str, str]]] = [
    *((trouble, False, {}) for trouble in TROUBLES if trouble not in (SOMETIMES, SLOW_TO_FAIL)),
    *((trouble, True, {}) for trouble in TROUBLES if trouble != SLOW_TO_FAIL),
    (SOMETIMES, True, {"PUSH_TIMEOUT_SECONDS": "3"}),
]
RATES = (5, 20, 50)  # events a second
# Hanging subscriptions, and on how many hosts.
MANY: list[tuple[int, int]] = [(3, 3), (10, 10), (40, 1), (40, 40)]
MANY_RATES = (0.5, 1.0)  # events a second
MANY_MINUTES = 15
RECOVERIES = [("answers 503", 1, 20), ("answers 503", 10, 5), ("hangs", 10, 5)]  # events a second, minutes
MEASURED_FROM = 30.0
MOST_WAIT_SECONDS = 600.0
STOPPED_HOURS, LOST_EVERY_MINUTES = 4, 30
# A destination that answers 503 for days: whether it is the webhook, and events a second.
DEAD: list[tuple[bool, int]] = [(in_webhook, rate) for in_webhook in (False, True) for rate in (1, 5)]
DAYS, SCALE = 3, 500  # rates, and what sweep and worker can do, are divided by SCALE
LIMITS = ("MAX_SWEPT", "MAX_SWEPT_WHILE_LONG", "LONG_QUEUE")
LATE_MINUTES = 2
SWEPT_AFTER = 11  # attempts: from then on the next comes more than 900 s later
LATE = [(trouble, in_webhook) for in_webhook in (False, True) for trouble in ("answers 503", SLOW_TO_FAIL)]


class OutageWorld(SimulatedWorld):
    """Callers post at a steady rate for `seconds`; workers and sweeps go on until `is_over`.

    All that time one destination is in trouble: the webhook, or the target of the only subscription.
    """

    workers = WORKERS

    def __init__(
        self, trouble: str, *, in_webhook: bool, seconds: float, environ: Mapping[str, str] = DEFAULTS
    ) -> None:
        super().__init__({"MAX_DELIVERY_ATTEMPTS": "20", **environ})
        self.trouble = trouble
        self.in_webhook = in_webhook
        self.began = self.clock()
        self.ends_at = self.began + seconds
        self.caller_waits: list[float] = []
        self._hung: set[str] = set()

    def answer(self, event: Event, url: str) -> Response:
        is_in_trouble = self.clock() < self.ends_at and (event.subscription_id is None) == self.in_webhook
        response = TROUBLES[self.trouble](self.random.random()) if is_in_trouble else HEALTHY
        if response is HANGS:
            self._hung.add(event.event_id)
        return response

    def latency(self) -> tuple[float, float]:
        return 0.0, 0.01

    def is_healthy(self, item: Mapping[str, Any]) -> bool:
        """Return whether nothing is wrong with the destination of an event, or at least was not with its pushes."""
        if self.trouble == SOMETIMES:
            return item["event_id"] not in self._hung
        return ("subscription_id" in item) == self.in_webhook

    def is_over(self) -> bool:
        """Return whether nobody posts any more, and every healthy event is settled or waited too long."""
        if self.clock() < self.ends_at:
            return False
        return self.clock() > self.ends_at + MOST_WAIT_SECONDS or not any(
            item.get("status") == Status.PENDING and self.is_healthy(item) for item in self.dynamodb.items.values()
        )

    def run(self, *, per_second: float, **headers: str) -> None:
        self.hub.spawn(partial(self._callers, 1 / per_second, headers))
        for _ in range(self.workers):
            self.hub.spawn(self._worker)
        self.hub.spawn(self._sweeps)
        self.hub.run()

    def healthy_waits(self, measured_from: float) -> list[float]:
        """Return how long healthy events took to be delivered that were posted `measured_from` seconds on or later."""
        now, first = rfc3339(self.clock()), rfc3339(self.began + measured_from)
        return [
            unix_seconds(event.delivered_at or now) - unix_seconds(event.created_at)
            for key, event in self.items().items()
            if event.created_at >= first and self.is_healthy(self.dynamodb.items[key])
        ]

    def _callers(self, every_seconds: float, headers: dict[str, str]) -> None:
        while self.clock() < self.ends_at:
            self.hub.spawn(partial(self._post, headers))
            self.hub.sleep(every_seconds)

    def _post(self, headers: dict[str, str]) -> None:
        with self.any_container() as container:
            started = self.clock()
            assert container.post(**headers)
            self.caller_waits.append(self.clock() - started)

    def _worker(self) -> None:
        container = self.start()
        while not self.is_over():
            if not container.work():
                self.hub.sleep(0.1)

    def _sweeps(self) -> None:
        while not self.is_over():
            self.hub.sleep(60)
            self.start().sweep()


def waits_beside(
    trouble: str,
    *,
    in_webhook: bool,
    per_second: float,
    seconds: float = 90,
    measured_from: float = MEASURED_FROM,
    targets: Sequence[str] = (TARGET,),
    environ: Mapping[str, str] = DEFAULTS,
) -> tuple[float, float]:
    """Return the median and 95th percentile of the wait of events that have nothing to do with a trouble."""
    world = OutageWorld(trouble, in_webhook=in_webhook, seconds=seconds, environ=environ)
    for target in targets if trouble != SOMETIMES else ():
        world.start().subscribe(target)
    world.run(per_second=per_second, prefer="respond-async")
    waits = world.healthy_waits(measured_from)
    return statistics.median(waits), statistics.quantiles(waits, n=20)[-1]


def waits_beside_many(subscriptions: int, hosts: int, per_second: float, minutes: float = MANY_MINUTES) -> Any:
    """Return the same for a healthy webhook beside hanging subscriptions, from the second minute on."""
    targets = [f"https://{number % hosts}.example/{number}" for number in range(subscriptions)]
    environ = {"SUBSCRIPTION_HOSTS": "*"}
    seconds = 60 * minutes
    return waits_beside(
        "hangs",
        in_webhook=False,
        per_second=per_second,
        seconds=seconds,
        measured_from=60,
        targets=targets,
        environ=environ,
    )


class RecoveringWorld(OutageWorld):
    """The webhook is in trouble for a time, and then delivers everything."""

    def is_healthy(self, item: Mapping[str, Any]) -> bool:
        return True


def recovery(trouble: str, per_second: float, minutes: float) -> list[str]:
    """Return a row about an outage of the webhook: what it takes, and after how many minutes all is delivered."""
    world = RecoveringWorld(trouble, in_webhook=True, seconds=60 * minutes)
    world.run(per_second=per_second)
    pushes = sum(map(len, world.history.pushes.values()))
    counts = (len(world.items()), pushes, world.sent)
    after = f"{(world.clock() - world.ends_at) / 60:.0f}"
    return [trouble, f"{per_second}", f"{minutes}", *(f"{count:,}" for count in counts), after]


class DeadWorld(OutageWorld):
    """The webhook, or the target of the only subscription, is dead until the last of its events has ended.

    One worker takes a message at a time, and rests so long after it that it does what WORKERS do divided by SCALE.
    """

    workers = 1

    def __init__(self, *, in_webhook: bool, days: float) -> None:
        environ = {"MAX_DELIVERY_ATTEMPTS": "45", "SUBSCRIPTION_DISABLE_DAYS": "3650"}
        super().__init__("answers 503", in_webhook=in_webhook, seconds=DAY_SECONDS * days, environ=environ)
        self.late_seconds: list[float] = []  # how long the event that waits longest is overdue, in each minute
        self._is_over = False

    def answer(self, event: Event, url: str) -> Response:
        is_dead = (event.subscription_id is None) == self.in_webhook
        return TROUBLES[self.trouble](0.0) if is_dead else HEALTHY

    def is_over(self) -> bool:
        return self._is_over

    def _worker(self) -> None:
        container = self.start()
        while not self.is_over():
            started = self.clock()
            worked = container.work(max_messages=1)
            self.hub.sleep((self.clock() - started) * (SCALE / (WORKERS * 10) - 1) if worked else 1.0)

    def _sweeps(self) -> None:
        container = self.start()
        while not self.is_over():
            self.hub.sleep(60)
            due = [item["requeue_at"] for item in self.dynamodb.items.values() if "requeue_at" in item]
            self.late_seconds.append(self.clock() - unix_seconds(min(due)) if due else 0.0)
            self._is_over = self.clock() > self.ends_at and not due
            container.sweep()


def dead_for_days(in_webhook: bool, per_second: float, days: float = DAYS) -> list[str]:
    """Return a row about a destination that never answers again: when its events end, and what the sweep does."""
    world = DeadWorld(in_webhook=in_webhook, days=days)
    world.start().subscribe(TARGET)
    limits = {name: max(1, getattr(schedules, name) // SCALE) for name in LIMITS}
    with mock.patch.multiple(schedules, **limits):
        world.run(per_second=per_second / SCALE, prefer="respond-async")
    world.check()
    dead = [event for event in world.items().values() if (event.subscription_id is None) == in_webhook]
    assert all(event.failed_at and event.reason is Reason.EXHAUSTED for event in dead)
    hours = [(unix_seconds(str(event.failed_at)) - unix_seconds(event.created_at)) / 3600 for event in dead]
    waits = statistics.quantiles(world.healthy_waits(MEASURED_FROM), n=20)
    name = f"{'webhook' if in_webhook else 'subscription'}, {per_second}/s"
    attempts = sum(event.delivery_attempts for event in dead)
    figures = [len(dead), len(world.sqs.messages(DLQ)), attempts]
    lasted = f"{min(hours):.0f} to {max(hours):.0f} h"
    return [
        name,
        *(f"{figure:,}" for figure in figures),
        lasted,
        f"{max(world.late_seconds):.0f} s",
        f"{waits[-1]:.1f} s",
    ]


class LateWorld(OutageWorld):
    """An OutageWorld in which as many events are due as when the destination was dead for days before."""

    def seed(self, per_second: float) -> None:
        """Store what had SWEPT_AFTER attempts or more, and is due from a minute before until the end."""
        store = EventStore(self.dynamodb, self.settings, clock=self.clock)
        assert self.start().post(prefer="respond-async")
        [model] = [event for event in self.items().values() if (event.subscription_id is None) == self.in_webhook]
        attempts = range(SWEPT_AFTER, self.settings.max_delivery_attempts)
        seconds = self.ends_at - self.began + 60
        for made in attempts:
            for _ in range(round(per_second * seconds)):
                due = rfc3339(self.began - 60 + seconds * self.random.random())
                key = f"{model.event_id[:4]}{self.random.getrandbits(128):032x}"
                created_at = rfc3339(self.began - 5400 * made)
                event = replace(model, event_id=key, created_at=created_at, next_attempt_at=due, requeue_at=due)
                store.put(replace(event, delivery_attempts=made), model.content())

    def _sweeps(self) -> None:
        self.start().sweep()
        super()._sweeps()


def late_waits(
    trouble: str, *, in_webhook: bool, per_second: float, workers: int = WORKERS, minutes: float = LATE_MINUTES
) -> tuple[float, float]:
    """Return the median and 95th percentile of the wait of healthy events in the second half of the time."""
    environ = {"MAX_DELIVERY_ATTEMPTS": "45"}
    world = LateWorld(trouble, in_webhook=in_webhook, seconds=60 * minutes, environ=environ)
    world.start().subscribe(TARGET)
    world.seed(per_second)
    world.workers = workers
    world.run(per_second=per_second, prefer="respond-async")
    waits = world.healthy_waits(30 * minutes)
    return statistics.median(waits), statistics.quantiles(waits, n=20)[-1]


class StoppedWorld(OutageWorld):
    """No worker takes a message, and now and then one is lost."""

    def __init__(self, *, hours: float, lost_every_minutes: float) -> None:
        super().__init__("hangs", in_webhook=True, seconds=3600 * hours)
        self.dynamodb.page_rows = 2500  # about 1 MB
        self.queued_at: dict[str, float] = {}  # when messages of forgotten events were sent, 0: not yet
        self._lost_every_seconds = 60 * lost_every_minutes
        send_many = self.sqs.send_message_batch

        def lose_or_send(**parameters: Any) -> dict[str, Any]:
            ids = [entry["MessageAttributes"]["EventId"]["StringValue"] for entry in parameters["Entries"]]
            for event_id in self.queued_at.keys() & ids:
                self.queued_at[event_id] = self.queued_at[event_id] or self.clock()
            is_posted = len(ids) == 1  # the sweep sends tens
            if is_posted and self.clock() - self.began >= self._lost_every_seconds * (len(self.queued_at) + 1):
                self.queued_at[ids[0]] = 0.0
                return {"Successful": []}
            return send_many(**parameters)

        self.sqs.send_message_batch = lose_or_send  # type: ignore[method-assign]

    def is_over(self) -> bool:
        return self.clock() >= self.ends_at

    def _worker(self) -> None:
        """Take no message."""


def stopped() -> tuple[int, int, list[str]]:
    """Return how many events and messages there are when nobody reads the queue, and how late lost ones are queued."""
    world = StoppedWorld(hours=STOPPED_HOURS, lost_every_minutes=LOST_EVERY_MINUTES)
    world.run(per_second=10, prefer="respond-async")
    late = []
    for event_id, queued_at in world.queued_at.items():
        created_at = unix_seconds(world.items()[event_id].created_at)
        minutes = f"{(queued_at - created_at) / 60:.0f} min" if queued_at else f"not in {STOPPED_HOURS} h"
        late.append(f"{(created_at - world.began) / 60:.0f} min: {minutes}")
    return len(world.items()), world.sent, late


def wait_row(case: tuple[str, bool, Mapping[str, str]]) -> list[str]:
    trouble, in_webhook, environ = case
    figures = [waits_beside(trouble, in_webhook=in_webhook, per_second=rate, environ=environ) for rate in RATES]
    variables = "".join(f", {name}={value}" for name, value in environ.items())
    name = f"{'webhook' if in_webhook else 'subscription'} {trouble}{variables}"
    return [name, *(f"{median:.1f}, {p95:.1f} s" for median, p95 in figures)]


def many_row(case: tuple[int, int]) -> list[str]:
    subscriptions, hosts = case
    figures = [waits_beside_many(subscriptions, hosts, rate) for rate in MANY_RATES]
    name = f"{subscriptions} subscriptions on {hosts} hosts hang"
    return [name, *(f"{median:.1f}, {p95:.1f} s" for median, p95 in figures)]


def late_row(trouble: str, in_webhook: bool) -> list[str]:
    figures = [late_waits(trouble, in_webhook=in_webhook, per_second=rate) for rate in (1, 5)]
    name = f"{'webhook' if in_webhook else 'subscription'} {trouble}"
    return [name, *(f"{median:.1f}, {p95:.1f} s" for median, p95 in figures)]


def show(console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def main() -> None:
    console = Console()
    with ProcessPoolExecutor() as pool:
        stopped_figures = pool.submit(stopped)
        waits = pool.map(wait_row, CASES)
        many = pool.map(many_row, MANY)
        late = pool.map(late_row, *zip(*LATE, strict=True))
        dead = pool.map(dead_for_days, *zip(*DEAD, strict=True))
        recoveries = pool.map(recovery, *zip(*RECOVERIES, strict=True))
        rows = track(waits, "outages", total=len(CASES), console=console)
        show(console, "wait of healthy events, median and p95", ["", *(f"{rate}/s" for rate in RATES)], rows)
        title = f"the same beside many that hang, for {MANY_MINUTES} minutes, from the second on"
        show(console, title, ["", *(f"{rate}/s" for rate in MANY_RATES)], many)
        columns = ["webhook", "events/s", "minutes", "events", "pushes", "messages", "all delivered after, min"]
        show(console, "outages of the webhook", columns, recoveries)
        title = f"the same beside one that was dead for days, of {LATE_MINUTES} minutes the second half"
        show(console, title, ["", "1/s", "5/s"], late)
        columns = ["dead", "events", "dead letters", "attempts", "ended after", "most overdue", "p95 of healthy"]
        show(console, f"dead for {DAYS} days and more, all divided by {SCALE}", columns, dead)
        events, messages, lost = stopped_figures.result()
    console.print(f"no worker for {STOPPED_HOURS} h, 10 events/s: {events:,} events, {messages:,} messages")
    console.print("posted after, and queued by the sweep so much later:", *lost, sep="\n  ")


if __name__ == "__main__":
    main()
