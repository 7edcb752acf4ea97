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

NO_REPORT = "NOT begins_with(event_type, :reserved)"
MAX_PAGES = 10  # of 1 MB, with no copy that counts: a list has 25 subscriptions
NEWEST = 25  # copies whose states are returned


def read_deliveries(subscription: Subscription, services: CoreServices) -> Json:
    """Return the member `deliveries` of a subscription: how many of its copies failed or wait, the
    oldest time and the latest error of these, and the states of its newest copies.

    The oldest undelivered copies in 1 MB of the index are counted, some 3,000; `has_more` says
    whether there may be more. Up to MAX_PAGES are read until one has a copy that counts, which
    reports, expired copies and dismissed copies do not. For a subscription without undelivered
    copies, this takes two queries. Raises StorageUnavailableError.
    """
    key = subscription.subscription_id
    pages = services.store.pages(
        key,
        {":low": subscription.wanted_after, ":reserved": RESERVED_PREFIX},
        index=UNDELIVERED,
        condition=f"{NOT_EXPIRED} AND {NO_REPORT}",
    )
    undelivered: list[Event] = []
    has_more = True
    for page in islice(pages, MAX_PAGES):
        undelivered = _copies(page)
        has_more = "LastEvaluatedKey" in page
        if undelivered:
            break
    newest = services.store.pages(
        key,
        index=BY_LOOKUP,
        newest_first=True,
        first_rows=NEWEST,
        condition=NOT_EXPIRED,
    )
    recent = _copies(next(newest))
    counts = Counter(copy.status for copy in undelivered)
    oldest_missed_at = last_error = None
    if undelivered:
        oldest_missed_at = undelivered[0].created_at
        for copy in (undelivered[-1], undelivered[0]):
            latest = services.store.get(copy.event_id)
            last_error = latest and latest.last_error
            # The newest copy may never have been pushed: then the error of the oldest says why the
            # breaker is open.
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
    """Return the copies of a page of a query, with the attributes that the index has."""
    return [from_item(NOT_PROJECTED | item) for item in page["Items"]]
