"""Simulates what docs/scaling.md says: how even the index's shards are, and how a backlog drains after an outage.

Arithmetic only, the same at each run: no AWS, no threads, and the project's own shards, delays and limits.
"""

import heapq
import json
import math
import sys
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from rich.console import Console
from rich.table import Table

from chalicelib import backoff
from chalicelib.backoff import Patience
from chalicelib.batch import STEP_AWS_SECONDS
from chalicelib.dynamodb import MESSAGE_GRACE_SECONDS
from chalicelib.events import Status
from chalicelib.items import SHARDS, partition_of
from chalicelib.schedules import MOST_OF_A_SHARD, QUEUE_IS_LONG
from chalicelib.settings import load, load_event_source
from chalicelib.sqs import BATCH_SIZE, MAX_DELAY_SECONDS
from tools.stage import CONFIG, TABLE_AND_QUEUES, WEBHOOK_AND_KEYS

SETTINGS, SOURCE = load({**TABLE_AND_QUEUES, **WEBHOOK_AND_KEYS}), load_event_source({})
WORKER_SECONDS: float = json.loads(CONFIG.read_text())["lambda_functions"]["worker"]["lambda_timeout"]
PARTITION_WRITE_UNITS = 1000
# Put into its pending partition, and deleted from it again; the delivered partition takes one write.
PENDING_WRITES_OF_AN_EVENT = 2
SWEEP_SECONDS = 60
WINDOWS = 60


def worst_share(event_ids: Iterable[str]) -> float:
    """Return the share of the events that the fullest partition of the index gets."""
    counts = Counter(partition_of(event_id, Status.PENDING) for event_id in event_ids)
    return max(counts.values()) / counts.total()


def new_ids(count: int, random: Random) -> list[str]:
    return [f"evt_{random.getrandbits(128):032x}" for _ in range(count)]


def most_events_a_second(share: float) -> int:
    """Return how many events a second the index takes when its fullest partition gets `share` of them."""
    return int(PARTITION_WRITE_UNITS / (PENDING_WRITES_OF_AN_EVENT * share))


@dataclass(frozen=True)
class Outage:
    """A receiver that answers 503 for a while, with the worker's settings as they are by default."""

    events_a_second: float
    outage_seconds: float
    concurrency: int = SOURCE.maximum_concurrency
    is_gated: bool = True
    claim_seconds: float = 0.01
    push_seconds: float = 0.11  # and the record of it
    base_seconds: float = SETTINGS.backoff_base_seconds
    cap_seconds: float = SETTINGS.backoff_cap_seconds
    in_process_wait_seconds: float = SETTINGS.in_process_wait_seconds
    worker_seconds: float = WORKER_SECONDS
    push_timeout_seconds: float = SETTINGS.push_timeout_seconds
    breaker_open_seconds: float = SETTINGS.breaker_open_seconds


@dataclass
class Pending:
    """An event that waits."""

    shard: str
    requeue_at: float
    due: float
    attempts: int = 0
    claimed_until: float = 0
    delivered: bool = False


@dataclass
class Backlog:
    """The inbox queue, its worker and the sweep, from the first event of an outage to the last that it delayed."""

    outage: Outage
    random: Random
    visible: deque[Pending] = field(default_factory=deque)
    delayed: list[tuple[float, int, Pending]] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    events: int = 0
    messages: int = 0
    pushes: int = 0
    most_visible: int = 0
    now: float = 0

    def run(self) -> float:
        """Return how many seconds after the end of the outage the last event is delivered."""
        slots = [0.0] * self.outage.concurrency
        arrivals_end = self.outage.outage_seconds + self.outage.breaker_open_seconds
        next_sweep, last_delivery = float(SWEEP_SECONDS), 0.0
        while self.now <= arrivals_end or self.pending:
            self._arrive(arrivals_end)
            self._wake()
            if self.now >= next_sweep:
                self._sweep()
                next_sweep += SWEEP_SECONDS
            self.most_visible = max(self.most_visible, len(self.visible))
            while self.visible and slots[0] <= self.now:
                batch = [self.visible.popleft() for _ in range(min(BATCH_SIZE, len(self.visible)))]
                end = max(self._serve(event) for event in batch)
                heapq.heapreplace(slots, end)
                last_delivery = max(last_delivery, end)
            self.now = self._next_moment(slots[0], next_sweep, arrivals_end)
        return last_delivery - self.outage.outage_seconds

    def _next_moment(self, slot: float, sweep: float, arrivals_end: float) -> float:
        moments = [sweep]
        if self.visible:
            moments.append(slot)
        if self.delayed:
            moments.append(self.delayed[0][0])
        if self.now <= arrivals_end:
            moments.append((self.events + 1) / self.outage.events_a_second)
        return max(self.now, min(moments))

    def _arrive(self, until: float) -> None:
        """The breaker is open: what is posted is queued at once, until a trial push finds the receiver well."""
        while (at := (self.events + 1) / self.outage.events_a_second) <= min(self.now, until):
            self.events += 1
            event = Pending(partition_of(new_ids(1, self.random)[0], Status.PENDING), at + MESSAGE_GRACE_SECONDS, at)
            self.pending.append(event)
            self._send(event)

    def _send(self, event: Pending, delay_seconds: float = 0) -> None:
        self.messages += 1
        heapq.heappush(self.delayed, (self.now + math.ceil(delay_seconds), self.messages, event))

    def _wake(self) -> None:
        while self.delayed and self.delayed[0][0] <= self.now:
            self.visible.append(heapq.heappop(self.delayed)[2])

    def _serve(self, event: Pending) -> float:
        """Do what the worker does with a message, from now on; return when it is done."""
        end = self.now
        outage = self.outage

        def clock() -> float:
            return end

        def sleep(seconds: float) -> None:
            nonlocal end
            end += seconds

        def step() -> float | None:
            sleep(outage.claim_seconds)
            if event.delivered or event.claimed_until > end:
                return None
            if end < event.due:
                return event.due - end
            event.attempts += 1
            self.pushes += 1
            sleep(outage.push_seconds)
            event.delivered = end >= outage.outage_seconds
            if event.delivered:
                return None
            base, cap = outage.base_seconds, outage.cap_seconds
            delay = backoff.delay_seconds(event.attempts, base=base, cap=cap, random=self.random.random)
            event.due = end + delay
            event.requeue_at = event.due + (MESSAGE_GRACE_SECONDS if delay <= MAX_DELAY_SECONDS else 0)
            return delay

        last_start = self.now + outage.worker_seconds - STEP_AWS_SECONDS - outage.push_timeout_seconds
        patience = Patience(outage.in_process_wait_seconds, last_start)
        delay = backoff.repeat(step, patience, clock=clock, sleep=sleep)
        event.claimed_until = end  # who looks at it before then finds it claimed
        if delay is not None and delay <= MAX_DELAY_SECONDS:
            self._send(event, end - self.now + delay)
        return end

    def _sweep(self) -> None:
        self.pending = [event for event in self.pending if not event.delivered]
        if self.outage.is_gated and len(self.visible) >= QUEUE_IS_LONG:
            return
        swept: Counter[str] = Counter()
        for event in self.pending:
            is_overdue = event.requeue_at <= self.now and event.claimed_until <= self.now
            if is_overdue and swept[event.shard] < MOST_OF_A_SHARD:
                swept[event.shard] += 1
                event.requeue_at = self.now + MESSAGE_GRACE_SECONDS
                self._send(event)


HOUR = 3600
OUTAGES = (
    Outage(1, HOUR),
    Outage(10, HOUR),
    Outage(10, HOUR, is_gated=False),
    Outage(10, HOUR, concurrency=50),
    Outage(100, HOUR / 4),
)


def shards_table() -> Table:
    table = Table(title=f"Evenness of {SHARDS} shards: random ids, {WINDOWS} seconds each (even: {1 / SHARDS:.1%})")
    titles = ("events a second", "fullest shard, mean", "fullest shard, worst", "events a second that the index takes")
    for title in titles:
        table.add_column(title, justify="right")
    for rate in (10, 1_000, 4_000):
        random = Random(rate)  # noqa: S311
        shares = [worst_share(new_ids(rate, random)) for _ in range(WINDOWS)]
        mean = sum(shares) / WINDOWS
        takes = "-" if rate < most_events_a_second(1) else f"{most_events_a_second(max(shares)):,}"
        table.add_row(f"{rate:,}", f"{mean:.1%}", f"{max(shares):.1%}", takes)
    return table


def outages_table() -> Table:
    table = Table(title="An outage: all events queued, then drained")
    titles = ("events a second", "outage, min", "concurrency", "gate", "events", "messages", "pushes", "most visible")
    for title in (*titles, "drained after, min"):
        table.add_column(title, justify="right")
    for outage in OUTAGES:
        backlog = Backlog(outage, Random(1))  # noqa: S311
        drained_seconds = backlog.run()
        table.add_row(
            f"{outage.events_a_second:g}",
            f"{outage.outage_seconds / 60:g}",
            str(outage.concurrency),
            "yes" if outage.is_gated else "no",
            *(f"{count:,}" for count in (backlog.events, backlog.messages, backlog.pushes, backlog.most_visible)),
            f"{drained_seconds / 60:,.1f}",
        )
    return table


def main() -> int:
    console = Console(width=max(120, Console().width))
    console.print(shards_table())
    console.print(outages_table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
