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
# Attempts that the fast lane ends while the breaker is open. `make bench` measures 250 with a
# receiver that takes 100 ms: 50 threads take 200 ms for each, half of which is the push.
REFUSED_A_SECOND = 500
PAGE = (
    "<html><head><title>503 Service Temporarily Unavailable</title></head><body><center>"
    "<h1>503 Service Temporarily Unavailable</h1></center><hr><center>nginx/1.25.3</center></body>"
    "</html>"
).ljust(200)
Headers = Callable[[Random], Json]


def no_headers(random: Random) -> Json:
    """Return no headers."""
    return {}


def api_gateway(random: Random) -> Json:
    """Return headers as API Gateway sends them, with new ids."""
    return {
        "via": f"1.1 {random.randbytes(16).hex()}.cloudfront.net (CloudFront)",
        "content-type": "application/json",
        "x-amzn-requestid": _uuid(random),
        "x-amz-cf-id": base64.urlsafe_b64encode(random.randbytes(42)).decode(),
    }


def cloudflare(random: Random) -> Json:
    """Return headers as Cloudflare sends them before an application, with new ids."""
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
    """A simulated stage whose webhook fails each push.

    :param status_code: The status code of each response; None: each push times out.
    :param page: The body of each response.
    :param headers: Returns the headers of each response.
    """

    def __init__(self, status_code: int | None, page: str, headers: Headers) -> None:
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
        see = self.dynamodb.on_write

        def count(before: Item | None, after: Item | None) -> None:
            see(before, after)
            used = write_units.consumed(before or {}, after or {})
            self.units.update(used)
            self.index_writes.append((self.clock() - START, used["index_units"]))

        self.dynamodb.on_write = count

    def answer(self, event: Event, url: str) -> Response:
        return Response(self._status_code, 0.05)

    def respond(self, *push: Any) -> PushResult:
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
        """Post an event and let all of its attempts fail; return its item."""
        event_id = Container(self).post(order(1_000, Random(5)), prefer="respond-async")
        self.settle()
        return self.dynamodb.items[str(event_id)]

    def attempts_within(self, seconds: float) -> int:
        """Return how many pushes were made in the first seconds after the event."""
        return sum(age <= seconds for age in self.attempted)

    def index_units_within(self, seconds: float) -> int:
        """Return the write units of `status-index` in the first seconds after the event."""
        return sum(units for age, units in self.index_writes if age <= seconds)


def cost_rows() -> Iterator[Sequence[object]]:
    """Yield, for each kind of dead receiver, the write units, the item size and the price of a
    million events that fail.
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
        table, index = world.units["table_units"], world.units["index_units"]
        dollars = (table + index) * PRICES["table_units"] * 1_000_000
        yield name, table, index, table + index, f"{item_bytes:,}", f"{dollars:.0f}"


def outage_rows() -> Iterator[Sequence[object]]:
    """Yield, for each length of an outage of the webhook, how often each event is tried, and how
    many events a second may be posted until the fast lane is full, and until DynamoDB throttles
    the shards of pending events.

    The last two cells have half of the latter, and how many events a second can be delivered
    beside them.
    """
    world = DeadWorld(503, "", no_headers)
    world.fail()
    shards_units = SHARDS * PARTITION_UNITS
    for name, seconds in (
        ("a minute", 60),
        ("an hour", HOUR),
        ("a day", DAY_SECONDS),
        ("three days", 3 * DAY_SECONDS),
    ):
        units = world.index_units_within(seconds)
        alone = shards_units / units
        # An event that is delivered at once writes its row and deletes it.
        delivered = shards_units / 2 / 2
        attempts = world.attempts_within(seconds)
        fills_lane = REFUSED_A_SECOND / attempts
        yield (
            name,
            attempts,
            f"{fills_lane:.0f}",
            units,
            f"{alone:.0f}",
            f"{alone / 2:.0f}",
            f"{delivered:,.0f}",
        )


def backlog_rows() -> Iterator[Sequence[object]]:
    """Yield, for each rate of events, how many wait after an outage of an hour, and how many hours
    the sweep and a catch-up take to queue them.
    """
    swept = SHARDS * MAX_SWEPT / SWEEP_PERIOD_SECONDS
    caught_up = MAX_EVENTS / SWEEP_PERIOD_SECONDS
    for events_a_second in (1, 10, 100, 1_000, 2_000):
        waiting = events_a_second * HOUR
        by_sweep, by_catch_up = (waiting / rate / HOUR for rate in (swept, caught_up))
        yield f"{events_a_second:,}", f"{waiting:,}", f"{by_sweep:.1f}", f"{by_catch_up:.1f}"


def shard_rows() -> Iterator[Sequence[object]]:
    """Yield, for several numbers of shards, how many events a second they can store, and how many
    queries a page of all events makes.
    """
    statuses = (Status.PENDING, Status.DELIVERED, Status.FAILED)
    keys = len(partitions(*statuses)) + len(partitions(*statuses, of_copies=True))
    replayed = keys % SHARDS
    for times in (1, 10, 100, 1_000):
        queries = (keys - replayed) * times + replayed
        yield f"{2_000 * times:,}", f"{SHARDS * times:,}", f"{queries:,}"


def copies_rows() -> Iterator[Sequence[object]]:
    """Yield each number of copies of an event at which its index row begins to take more write
    units, with these units, and the same for 200 copies.
    """
    _, projected = indexes()[BY_STATUS]
    known = 0
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
        if units != known or copies == 200:
            yield copies, units
        known = units


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
