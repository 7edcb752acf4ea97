"""`make outage`: destinations in trouble, in virtual time: how long healthy events wait, and what the sweep does.

Five workers take batches of ten, a healthy target responds after 0.2 s, and a call to AWS takes 10 ms. The queue is not
fair here, and there is no batching window.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from chalicelib.events import Event, Status
from chalicelib.times import rfc3339, unix_seconds
from tests.simulator.simulated_world import SimulatedWorld

WORKERS = 5
TARGET = "https://hooks.zapier.com/1"
Response = tuple[int | None, float]  # the status code, or None for a timeout, and seconds
HEALTHY: Response = (200, 0.2)
HANGS: Response = (None, 0.0)
SOMETIMES = "hangs at 5 % of its pushes"
# How a destination in trouble responds, by a random number.
TROUBLES: dict[str, Callable[[float], Response]] = {
    "answers 503": lambda random: (503, 0.1),
    "refuses connections": lambda random: (503, 0.0),
    "hangs": lambda random: HANGS,
    "answers 503 after 9 s": lambda random: (503, 9.0),
    SOMETIMES: lambda random: HANGS if random < 0.05 else HEALTHY,
}
# Trouble, whether the webhook has it or the target of a subscription, and variables.
DEFAULTS: Mapping[str, str] = MappingProxyType({})
CASES: list[tuple[str, bool, Mapping[str, str]]] = [
    *((trouble, False, {}) for trouble in TROUBLES if trouble != SOMETIMES),
    *((trouble, True, {}) for trouble in TROUBLES),
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


class OutageWorld(SimulatedWorld):
    """Callers post at a steady rate for `seconds`; workers and sweeps go on until `is_over`.

    All that time one destination is in trouble: the webhook, or the target of the only subscription.
    """

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
        for _ in range(WORKERS):
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
        recoveries = pool.map(recovery, *zip(*RECOVERIES, strict=True))
        rows = track(waits, "outages", total=len(CASES), console=console)
        show(console, "wait of healthy events, median and p95", ["", *(f"{rate}/s" for rate in RATES)], rows)
        title = f"the same beside many that hang, for {MANY_MINUTES} minutes, from the second on"
        show(console, title, ["", *(f"{rate}/s" for rate in MANY_RATES)], many)
        columns = ["webhook", "events/s", "minutes", "events", "pushes", "messages", "all delivered after, min"]
        show(console, "outages of the webhook", columns, recoveries)
        events, messages, late = stopped_figures.result()
    console.print(f"no worker for {STOPPED_HOURS} h, 10 events/s: {events:,} events, {messages:,} messages")
    console.print("posted after, and queued by the sweep so much later:", *late, sep="\n  ")


if __name__ == "__main__":
    main()
