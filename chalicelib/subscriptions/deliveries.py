"""How the deliveries of a subscription go, at the cost of few read units."""

from collections import Counter
from collections.abc import Sequence
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
    oldest time and the latest error of these copies, and the states of its newest copies.

    For a subscription without undelivered copies, this takes two queries. Raises
    StorageUnavailableError.
    """
    undelivered, has_more = _oldest_undelivered(subscription, services)
    newest = services.store.pages(
        subscription.subscription_id,
        index=BY_LOOKUP,
        newest_first=True,
        first_rows=NEWEST,
        condition=NOT_EXPIRED,
    )
    recent = _copies(next(newest))
    counts = Counter(copy.status for copy in undelivered)
    return {
        "failed": counts[Status.FAILED],
        "waiting": counts[Status.PENDING],
        "has_more": has_more,
        "oldest_missed_at": undelivered[0].created_at if undelivered else None,
        "last_error": _latest_error(undelivered, services),
        "last_at": recent[0].created_at if recent else None,
        "recent": [copy.status for copy in recent],
    }


def _oldest_undelivered(
    subscription: Subscription, services: CoreServices
) -> tuple[list[Event], bool]:
    """Return the oldest copies of a subscription that failed or wait, and whether there may be more
    of them.

    Reports, expired copies and dismissed copies are left out. Pages of 1 MB, some 3,000 copies, are
    read until one has a copy that is not left out, at most MAX_PAGES.
    """
    pages = services.store.pages(
        subscription.subscription_id,
        {":low": subscription.wanted_after, ":reserved": RESERVED_PREFIX},  # behind the dismissed
        index=UNDELIVERED,
        condition=f"{NOT_EXPIRED} AND {NO_REPORT}",
    )
    has_more = True
    for page in islice(pages, MAX_PAGES):
        copies = _copies(page)
        has_more = "LastEvaluatedKey" in page
        if copies:
            return copies, has_more
    return [], has_more


def _latest_error(copies: Sequence[Event], services: CoreServices) -> str | None:
    """Return the error of the newest of some copies or, if an open breaker refused that copy, the
    error of the oldest: pushes that failed have opened the breaker.

    :param copies: Copies as the index has them, which is without errors, the oldest first; empty:
        there is no error.
    """
    error: str | None = None
    for copy in copies and (copies[-1], copies[0]):
        event = services.store.get(copy.event_id)
        error = event.last_error if event else None
        if error != BREAKER_OPEN:
            break
    return error


def _copies(page: Json) -> list[Event]:
    """Return the copies of a page of a query, with the attributes that the index has."""
    return [from_item(NOT_PROJECTED | item) for item in page["Items"]]
