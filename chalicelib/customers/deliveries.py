"""How the deliveries of a subscription go, at the cost of few read units."""

from chalicelib.core.event import RESERVED_PREFIX, Event, Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import COPY, NOT_EXPIRED, from_item
from chalicelib.customers.subscription import Subscription
from chalicelib.customers.verdicts import summarize
from chalicelib.infra.parsing import Json
from chalicelib.infra.table import BY_LOOKUP, UNDELIVERED
from chalicelib.pull.listing import NOT_SHOWN

NEWEST = 25  # copies whose status is told
# A function of 0.8 left a copy in the index when it recorded its delivery.
NOT_DELIVERED = "NOT begins_with(status_shard, :delivered)"
NO_REPORT = "NOT begins_with(event_type, :reserved)"


def read_deliveries(subscription: Subscription, services: CoreServices) -> Json:
    """Return what was not delivered to a subscription, and how its newest copies are.

    Two queries: 1 MB of the first index has some 3,000 copies; newer ones are not counted.
    """
    key = subscription.subscription_id
    values = {":delivered": f"{COPY}{Status.DELIVERED}", ":reserved": RESERVED_PREFIX}
    conditions = f"{NOT_EXPIRED} AND {NOT_DELIVERED} AND {NO_REPORT}"
    undelivered = services.store.pages(
        key, values, IndexName=UNDELIVERED, FilterExpression=conditions
    )
    newest = services.store.pages(
        key,
        IndexName=BY_LOOKUP,
        ScanIndexForward=False,
        Limit=NEWEST,
        FilterExpression=NOT_EXPIRED,
    )
    page = next(undelivered)
    summary = summarize(_copies(page), _copies(next(newest)))
    return {**summary, "has_more": "LastEvaluatedKey" in page}


def _copies(page: Json) -> list[Event]:
    """Return the copies of a page as its index shows them."""
    return [from_item(NOT_SHOWN | item) for item in page["Items"]]
