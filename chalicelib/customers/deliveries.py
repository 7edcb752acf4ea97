"""How the deliveries of a subscription go, at the cost of a few read units."""

from functools import partial

from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import COPY, NOT_EXPIRED, from_item
from chalicelib.customers.subscription import Subscription
from chalicelib.customers.verdicts import summarize
from chalicelib.infra.parsing import Json
from chalicelib.infra.table import BY_LOOKUP

NEWEST = 100  # copies that are counted, and of older ones as many that failed, and that are pending
READ_DELIVERED = 20  # delivered copies that are read: the index has no times
NOT_DELIVERED = f"{NOT_EXPIRED} AND NOT begins_with(status_shard, :delivered)"


def read_deliveries(subscription: Subscription, services: CoreServices) -> Json:
    """Return how the newest deliveries of a subscription go, and which of older ones are missing.

    Older ones are looked for in 1 MB of the index, some 3,000 copies, by one call. Copies are read
    as they are now, but for what was delivered before the newest READ_DELIVERED.
    """
    rows, has_more = _read_rows(subscription.subscription_id, services)
    delivered = [row.event_id for row in rows if row.status is Status.DELIVERED]
    known = set(delivered[READ_DELIVERED:])
    whole_ids = [row.event_id for row in rows if row.event_id not in known]
    whole = services.store.get_many(whole_ids, with_content=False, more=("attempts",))
    copies = [row if row.event_id in known else whole.get(row.event_id) for row in rows]
    summary = summarize([copy for copy in copies if copy], services.clock())
    return {**summary, "has_more": has_more}


def _read_rows(subscription_id: str, services: CoreServices) -> tuple[list[Event], bool]:
    """Return copies as the index has them, the newest first, and whether there are others."""
    pages = partial(
        services.store.pages, subscription_id, IndexName=BY_LOOKUP, ScanIndexForward=False
    )
    page = next(pages(FilterExpression=NOT_EXPIRED, Limit=NEWEST + 1))
    rows = [from_item(item) for item in page["Items"]]
    if len(rows) <= NEWEST:
        return rows, "LastEvaluatedKey" in page
    values = {":high": rows[NEWEST].sort_key, ":delivered": f"{COPY}{Status.DELIVERED}"}
    page = next(pages(values, FilterExpression=NOT_DELIVERED))
    older = [from_item(item) for item in page["Items"]]
    counted = rows[:NEWEST]
    for status in (Status.FAILED, Status.PENDING):
        counted += [row for row in older if row.status is status][:NEWEST]
    passed_over = page["ScannedCount"] - (len(counted) - NEWEST)
    return counted, passed_over > 0 or "LastEvaluatedKey" in page
