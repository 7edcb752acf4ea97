"""How the deliveries of a subscription go, at the cost of few read units."""

from collections import Counter
from itertools import islice

from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.outcome import BREAKER_OPEN
from chalicelib.core.store import NOT_EXPIRED, from_item
from chalicelib.events.listing import NOT_PROJECTED
from chalicelib.infra.parsing import RESERVED_PREFIX, Json
from chalicelib.infra.table import BY_LOOKUP, UNDELIVERED
from chalicelib.subscriptions.subscription import Subscription

NEWEST = 25  # copies whose status is shown
MAX_PAGES = 10  # of 1 MB, with nothing that counts: a list has 25 subscriptions
NO_REPORT = "NOT begins_with(event_type, :reserved)"


def read_deliveries(subscription: Subscription, services: CoreServices) -> Json:
    """Return how many copies were not delivered to a subscription, and the states of its newest
    copies.

    The oldest undelivered copies in 1 MB of the index are counted, which are some 3,000; `has_more`
    says whether there are more. While a page has no copy that counts, up to MAX_PAGES are read. For
    a subscription without trouble, this takes two queries.
    """
    key = subscription.subscription_id
    pages = services.store.pages(
        key,
        {":low": subscription.wanted_after, ":reserved": RESERVED_PREFIX},
        IndexName=UNDELIVERED,
        FilterExpression=f"{NOT_EXPIRED} AND {NO_REPORT}",
    )
    undelivered: list[Event] = []
    has_more = True
    for page in islice(pages, MAX_PAGES):  # a page may have nothing that counts
        undelivered = _copies(page)
        has_more = "LastEvaluatedKey" in page
        if undelivered:
            break
    newest = services.store.pages(
        key,
        IndexName=BY_LOOKUP,
        ScanIndexForward=False,
        Limit=NEWEST,
        FilterExpression=NOT_EXPIRED,
    )
    recent = _copies(next(newest))
    counts = Counter(copy.status for copy in undelivered)
    oldest_missed_at = last_error = None
    if undelivered:
        oldest_missed_at = undelivered[0].created_at
        for copy in (undelivered[-1], undelivered[0]):
            latest = services.store.get(copy.event_id)
            last_error = latest and latest.last_error
            # else the newest was never pushed: the pushes of the oldest opened the breaker
            if last_error != BREAKER_OPEN:
                break
    return {
        "failed": counts[Status.FAILED],
        "waiting": counts[Status.PENDING],
        "has_more": has_more,
        "oldest_missed_at": oldest_missed_at,
        "last_error": last_error,
        "last_at": recent[0].created_at if recent else None,
        "recent": [copy.status for copy in recent],
    }


def _copies(page: Json) -> list[Event]:
    """Return the copies of a page as its index shows them."""
    return [from_item(NOT_PROJECTED | item) for item in page["Items"]]
