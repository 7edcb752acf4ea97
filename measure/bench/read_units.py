"""`python -m measure.bench.read_units`: count what calls read of 20,002 events, each with a copy:
of a tenant that has two, of one that has the others, and of a subscription without a tenant.
Most of the rows are in docs/scaling.md.
"""

import math
from collections.abc import Iterator
from dataclasses import replace

from chalicelib import deps
from chalicelib.core.event import Event, Status
from chalicelib.core.posting import copy_id
from chalicelib.core.store import compressed
from chalicelib.deps import Services
from chalicelib.infra.parsing import Json
from chalicelib.infra.times import DAY_SECONDS, rfc3339
from chalicelib.settings import load
from measure.bench.write_units import size
from tests.simulator.simulated_world import ENVIRON, INBOX
from tests.support.in_memory_aws import FakeDynamoDB, FakeSQS, Item
from tests.support.world import START, Clock, call

READ_UNIT_BYTES = 4096
PAGE_ROWS = 4_000  # of an index: about 1 MB
FAILED = 3  # how many copies of each tenant have failed: the newest
SINCE = rfc3339(START - DAY_SECONDS)
# The query of each list of events, besides `tenant`, by the name of its row.
LISTS = {
    "`GET /events?tenant=`": "",
    "`GET /events?tenant=&status=failed`": "&status=failed",
    "a page of `make erase TENANT=`": "&include=payload&limit=100&order=oldest",
}

# The name of a request, the tenant, how many events it examined or responded with, and the read
# units that it took.
Row = tuple[str, str, int, float]


def fill(services: Services, tenant: str, count: int, subscription_id: str) -> None:
    """Store delivered events of a tenant, one for each of the last seconds, and a copy of each.

    The newest FAILED copies have failed, and the others are delivered.

    :param count: How many events are stored. It is at least twice, or at most half, the count of
        any other tenant, because the ids of the events are `count` and the numbers after it.
    :param subscription_id: The subscription of the copies.
    """
    for number in range(count):
        event = Event(
            event_id=f"evt_{count + number:032x}",
            event_type="order.created",
            payload='{"order_id":"4711","total":"9.90"}',
            tenant=tenant,
            created_at=rfc3339(START - number),
            created_by="acme",
            claim_id="0" * 32,
            status=Status.DELIVERED,
            expires_at=int(START) + DAY_SECONDS,
            response_bytes=100,
        )
        id_of_copy = copy_id(event, subscription_id)
        copy = replace(
            event,
            event_id=id_of_copy,
            source_event_id=event.event_id,
            subscription_id=subscription_id,
            status=Status.FAILED if number < FAILED else Status.DELIVERED,
        )
        event_with_copy = replace(event, copies=(id_of_copy,))
        for stored in (copy, event_with_copy):
            services.store.put(stored, compressed(stored))


def _units(*items: Item) -> int:
    """Return the read units of one consistent read of items, or of the rows of one query: one unit
    for each begun 4 KB of the sum of their sizes.
    """
    return math.ceil(sum(map(size, items)) / READ_UNIT_BYTES)


def measure(many: int = 20_000) -> Iterator[Row]:
    """Store the events of two tenants, `few` and `many`, and yield a row for each request of the
    API. Its tenant is `none` if the request is about a subscription without a tenant.

    :param many: How many events the larger tenant has.
    """
    # How many events each tenant has.
    counts = {"few": 2, "many": many}
    clock = Clock()
    dynamodb = FakeDynamoDB(clock)
    dynamodb.page_rows = PAGE_ROWS
    sqs = FakeSQS(clock)
    sqs.queue(INBOX)
    clients = {"dynamodb": dynamodb, "sqs": sqs}
    services = Services(
        load({**ENVIRON, "SUBSCRIPTION_HOSTS": "*"}),
        make_client=clients.__getitem__,
        clock=clock,
    )
    deps.use(services)
    # The path of the subscription of each tenant.
    paths = {}
    for tenant in (*counts, "none"):
        body = {
            "target_url": "https://example.com/",
            "tenant": None if tenant == "none" else tenant,
        }
        created = call(clock, "POST", "/subscriptions", body)
        paths[tenant] = created.location
        if tenant in counts:
            fill(services, tenant, counts[tenant], created.json["subscription_id"])
    # The units of each read that a request makes.
    units: list[float] = []
    # Queries of an index are eventually consistent, and take half of the units.
    dynamodb.on_query = lambda rows: units.append(_units(*rows) / 2)
    dynamodb.on_get = lambda items: units.extend(map(_units, items))

    def read(name: str, tenant: str, path: str, body: Json | None = None) -> Row:
        """Make a request, and return its row.

        :param body: The body of a POST; None: the request is a GET.
        """
        units.clear()
        response = call(clock, "GET" if body is None else "POST", path, body).json
        if response.get("examined"):
            # `missed` and `recover` examine more events than their responses have.
            events = response["examined"]
        elif "events" in response:
            events = len(response["events"])
        else:  # one subscription, or a `recover` that found nothing to examine
            events = 1
        return name, tenant, events, sum(units)

    for tenant in counts:
        for name, query in LISTS.items():
            yield read(name, tenant, f"/events?tenant={tenant}{query}")
    for tenant, path in paths.items():
        yield read("`missed`", tenant, f"{path}/missed")
        yield read("`missed` with `since`", tenant, f"{path}/missed?since={SINCE}")
        yield read("`recover`", tenant, f"{path}/recover", {})
        yield read("`recover` with `since`", tenant, f"{path}/recover", {"since": SINCE})
        yield read("`include=deliveries` of one", tenant, f"{path}?include=deliveries")
        copies = f"/events?subscription_id={path.rpartition('/')[2]}"
        yield read("`status=undelivered` of one", tenant, f"{copies}&status=undelivered")


if __name__ == "__main__":
    for row in measure():
        print("| " + " | ".join(map(str, row)) + " |")
