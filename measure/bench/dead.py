"""`python -m measure.bench.dead`: compute what a receiver that stays dead costs, and what a stage
takes beside it: the tables of docs/cost.md and docs/scaling.md. Takes about a minute.

An event of 1,000 bytes fails all of its attempts, by the real handlers in virtual time. Each write
is counted by `write_units`.
"""

import base64
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import Any

from chalicelib.core.event import COPY_PREFIX, DeliveredVia, Event, Status
from chalicelib.core.outcome import PushResult
from chalicelib.core.store import SHARDS, SWEEP_PERIOD_SECONDS, partitions, to_attributes
from chalicelib.infra.parsing import Json
from chalicelib.infra.table import BY_STATUS
from chalicelib.infra.times import DAY_SECONDS
from chalicelib.operations.schedules import MAX_SWEPT
from chalicelib.subscriptions.catch_up import MAX_EVENTS
from measure.bench import write_units
from measure.bench.cost import PRICES, order
from tests.simulator.simulated_world import Container, Response, SimulatedWorld
from tests.support.in_memory_aws import Item, indexes
from tests.support.world import START

PARTITION_UNITS = 1_000  # write units a second that DynamoDB gives a partition
HOUR = 3600
# How many attempts a second the fast lane ends while the breaker is open, which makes no push.
# `make bench` measures 250 with a receiver that takes 100 ms: each of 50 threads takes 200 ms for
# an attempt, half of which is the push.
REFUSED_A_SECOND = 500
PAGE = (
    "<html><head><title>503 Service Temporarily Unavailable</title></head><body><center>"
    "<h1>503 Service Temporarily Unavailable</h1></center><hr><center>nginx/1.25.3</center></body>"
    "</html>"
).ljust(200)
Headers = Callable[[Random], Json]


def no_headers(random: Random) -> Json:
    """Return the headers of a response without headers: an empty dict."""
    return {}


def api_gateway(random: Random) -> Json:
    """Return the headers that API Gateway sends, with random ids."""
    return {
        "via": f"1.1 {random.randbytes(16).hex()}.cloudfront.net (CloudFront)",
        "content-type": "application/json",
        "x-amzn-requestid": _uuid(random),
        "x-amz-cf-id": base64.urlsafe_b64encode(random.randbytes(42)).decode(),
    }


def cloudflare(random: Random) -> Json:
    """Return the headers that Cloudflare sends for an application behind it, with random ids."""
    return {
        "server": "cloudflare",
        "content-type": "text/html; charset=UTF-8",
        "retry-after": "120",
        "x-request-id": _uuid(random),
        "cf-ray": f"{random.randbytes(8).hex()}-FRA",
    }


def _uuid(random: Random) -> str:
    """Return a random UUID as text."""
    return str(uuid.UUID(bytes=random.randbytes(16)))


class DeadWorld(SimulatedWorld):
    """A simulated stage whose webhook fails each push. It counts writes and pushes."""

    def __init__(self, status_code: int | None, page: str, headers: Headers) -> None:
        """Make a stage without events.

        :param status_code: The status code of each response; None: each push times out.
        :param page: The body of each response.
        :param headers: Returns the headers of a response.
        """
        super().__init__({"MAX_DELIVERY_ATTEMPTS": "45"}, seed=1)
        self._status_code = status_code
        self._page = page
        self._headers = headers
        # The write units and stored bytes of all writes, as `write_units.consumed` returns them.
        self.units = Counter[str]()
        # For each write, its seconds since START and its write units of the indexes.
        self.index_writes: list[tuple[float, int]] = []
        # The seconds since START of each push.
        self.attempted: list[float] = []
        observe_write = self.dynamodb.on_write  # the base class checks the promises with it

        def observe_and_count(before: Item | None, after: Item | None) -> None:
            """Let the base class check a write of the table, and count the units that it uses.

            :param before: The item before the write; None: it did not exist.
            :param after: The item after the write; None: it was deleted.
            """
            observe_write(before, after)
            used = write_units.consumed(before or {}, after or {})
            self.units.update(used)
            seconds_since_start = self.clock() - START
            self.index_writes.append((seconds_since_start, used["index_units"]))

        self.dynamodb.on_write = observe_and_count

    def answer(self, event: Event, url: str) -> Response:
        """Return a response with the status code; without one, it times out."""
        return Response(self._status_code, 0.05)

    def respond(self, *push: Any) -> PushResult:
        """Note when a push is made; return its result. Unless the push timed out, it has a random
        duration, an error, and the body and the headers of the response.

        :param push: The arguments of the method of the base class.
        """
        self.attempted.append(self.clock() - START)
        result = super().respond(*push)
        if self._status_code is None:
            return result
        return replace(
            result,
            duration_ms=self.random.randint(20, 400),
            error=f"receiver responded {self._status_code}",
            response=self._page,
            response_headers=self._headers(self.random),
        )

    def fail(self) -> Item:
        """Post an event with a payload of 1,000 bytes, let all of its attempts fail, and return its
        item.
        """
        payload = order(1_000, Random(5))
        event_id = Container(self).post(payload, prefer="respond-async")
        self.settle()  # runs the workers and the sweep until nothing is left to do
        return self.dynamodb.items[str(event_id)]

    def attempts_within(self, seconds: float) -> int:
        """Return how many pushes were made in the first seconds after the event."""
        return sum(age <= seconds for age in self.attempted)

    def index_units_within(self, seconds: float) -> int:
        """Return the write units of the indexes in the first seconds after the event."""
        return sum(units for age, units in self.index_writes if age <= seconds)


def cost_rows() -> Iterator[Sequence[object]]:
    """Yield a row for each kind of dead receiver: its name; the write units of the table, of the
    indexes and of both for an event that fails all of its attempts; the bytes of its item; and the
    price of the write units of a million such events, in dollars.
    """
    kinds: list[tuple[str, int | None, str, Headers]] = [
        ("503 without a body", 503, "", no_headers),
        ("503 with a page of 200 characters", 503, PAGE, no_headers),
        ("the page, and headers of API Gateway", 503, PAGE, api_gateway),
        ("the page, and headers of Cloudflare", 503, PAGE, cloudflare),
        ("no response in time", None, "", no_headers),
    ]
    for name, status_code, page, headers in kinds:
        world = DeadWorld(status_code, page, headers)
        item_bytes = write_units.size(world.fail())
        table = world.units["table_units"]
        index = world.units["index_units"]
        together = table + index
        dollars = together * PRICES["table_units"] * 1_000_000  # units of both have one price
        yield name, table, index, together, f"{item_bytes:,}", f"{dollars:.0f}"


def outage_rows() -> Iterator[Sequence[object]]:
    """Yield a row for each length of an outage of the webhook:

    - its name
    - how many attempts of an event fail during the outage
    - how many events a second can be posted until the fast lane is full of attempts
    - how many write units of the index an event takes during the outage
    - how many events a second can be posted until DynamoDB throttles the shards of pending events
    - half of that
    - how many events a second can be delivered beside that half
    """
    world = DeadWorld(503, page="", headers=no_headers)
    world.fail()  # one event, whose attempts and writes are counted below
    # The write units a second of all shards (partitions of the index) of pending events.
    shards_units = SHARDS * PARTITION_UNITS
    for name, seconds in (
        ("a minute", 60),
        ("an hour", HOUR),
        ("a day", DAY_SECONDS),
        ("three days", 3 * DAY_SECONDS),
    ):
        # Each event takes these units within the outage. So at this rate, on average, all units of
        # the shards are taken.
        units = world.index_units_within(seconds)
        fills_shards = shards_units / units
        # With half of that rate, the other half of the units is left. An event that is delivered at
        # once takes two: it writes its row and deletes it.
        delivered = shards_units / 2 / 2
        # Each event takes these attempts within the outage. At this rate the workers do nothing but
        # attempts, without a push, because the breaker of the webhook is open.
        attempts = world.attempts_within(seconds)
        fills_lane = REFUSED_A_SECOND / attempts
        yield (
            name,
            attempts,
            f"{fills_lane:.0f}",
            units,
            f"{fills_shards:.0f}",
            f"{fills_shards / 2:.0f}",
            f"{delivered:,.0f}",
        )


def backlog_rows() -> Iterator[Sequence[object]]:
    """Yield a row for each rate of events: the rate, how many events wait after an outage of an
    hour, how many hours the sweep takes to queue them, and how many hours the catch-ups of all
    destinations together take to push them.
    """
    # The sweep runs every SWEEP_PERIOD_SECONDS, and queues up to MAX_SWEPT events of each shard.
    # Catch-ups run as often, and push up to MAX_EVENTS events together.
    swept_a_second = SHARDS * MAX_SWEPT / SWEEP_PERIOD_SECONDS
    caught_up_a_second = MAX_EVENTS / SWEEP_PERIOD_SECONDS
    for events_a_second in (1, 10, 100, 1_000, 2_000):
        waiting = events_a_second * HOUR
        sweep_hours = waiting / swept_a_second / HOUR
        catch_up_hours = waiting / caught_up_a_second / HOUR
        yield f"{events_a_second:,}", f"{waiting:,}", f"{sweep_hours:.1f}", f"{catch_up_hours:.1f}"


def shard_rows() -> Iterator[Sequence[object]]:
    """Yield a row for each of several numbers of shards, which are the partitions of the index for
    one status: how many events a second can be stored with so many shards, the number of shards,
    and how many queries read a page of all events.
    """
    statuses = (Status.PENDING, Status.DELIVERED, Status.FAILED)
    # A page of all events takes a query of each partition: those of events and those of copies.
    present_queries = len(partitions(*statuses)) + len(partitions(*statuses, of_copies=True))
    # There are SHARDS partitions for each status, and fewer than SHARDS for replayed events, whose
    # number does not grow with the number of shards: the remainder.
    of_replayed = present_queries % SHARDS
    for times in (1, 10, 100, 1_000):
        queries = (present_queries - of_replayed) * times + of_replayed
        # The present number of shards stores 2,000 events a second.
        yield f"{2_000 * times:,}", f"{SHARDS * times:,}", f"{queries:,}"


def copies_rows() -> Iterator[Sequence[object]]:
    """Yield a row for each number of copies at which the row of a delivered event in the index of
    statuses takes more write units than with one copy less: the number of copies, and the units.
    The first row is for an event without copies, and the last one for 200 copies.
    """
    # The names of the attributes in this index.
    _partition, projected = indexes()[BY_STATUS]
    previous_units = 0
    for copies in range(201):
        event = Event(
            event_id=f"evt_{0:032x}",
            event_type="order.created",
            created_at="2026-12-01T10:00:00.000000Z",
            created_by="shop",
            claim_id=f"{0:032x}",
            tenant="customer-42",
            status=Status.DELIVERED,
            delivery_attempts=1,
            delivered_at="2026-12-01T10:00:00.100000Z",
            delivered_via=DeliveredVia.PUSH,
            copies=tuple(f"{COPY_PREFIX}{number:032x}" for number in range(copies)),
            response_bytes=2_000,
            expires_at=int(START),
        )
        present: Item = {
            name: value for name, value in to_attributes(event).items() if value is not None
        }
        units = write_units.units(write_units.row(present, "status_shard", projected))
        if units != previous_units or copies == 200:
            yield copies, units
        previous_units = units


TABLES: list[tuple[Sequence[str], Callable[[], Iterator[Sequence[object]]]]] = [
    (
        (
            "an event that fails",
            "table units",
            "index units",
            "together",
            "item bytes",
            "million $",
        ),
        cost_rows,
    ),
    (
        (
            "the webhook is dead for",
            "attempts of an event",
            "a second that fill the fast lane",
            "index units of an event",
            "a second that fill the shards",
            "half of that",
            "delivered a second beside that half",
        ),
        outage_rows,
    ),
    (
        ("events a second in an outage of an hour", "waiting", "sweep, hours", "catch-up, hours"),
        backlog_rows,
    ),
    (("events a second", "shards", "queries of a page"), shard_rows),
    (("copies of an event", "units of its index row"), copies_rows),
]


def main() -> None:
    """Compute and print all tables."""
    for columns, rows in TABLES:
        print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
        for row in rows():
            print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
