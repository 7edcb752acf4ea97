"""How the deliveries of a subscription go, at the cost of few read units."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

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
    """Return the member `deliveries` of a subscription, which says how its deliveries go.

    For a subscription without undelivered copies, this takes two queries.

    :returns: A dict. The numbers of copies that `failed` or are `waiting` are those of the oldest
        page; `has_more` says whether there may be more of them. `oldest_missed_at` is the creation
        time of the oldest such copy, and `last_error` the error of the newest one counted (both
        None without such a copy). `last_at` is the creation time of the subscription's newest copy
        (None: it has none), and `recent` has the statuses of its newest copies, the newest first.
    :raises StorageUnavailableError: If DynamoDB fails.
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


class UndeliveredCopies(NamedTuple):
    """The oldest copies of a subscription that failed or wait."""

    # The oldest first, without errors, which the index does not have.
    copies: list[Event]
    # Whether there may be more of them.
    has_more: bool


def _oldest_undelivered(subscription: Subscription, services: CoreServices) -> UndeliveredCopies:
    """Return the oldest copies of a subscription that failed or wait, and whether there may be more
    of them.

    Reports, expired copies and dismissed copies are left out. Pages of 1 MB, some 3,000 copies, are
    read until one has a copy that is not left out, at most MAX_PAGES.
    """
    pages = services.store.pages(
        subscription.subscription_id,
        # The rows begin after the last copy that the owner dismissed.
        {":low": subscription.wanted_after, ":reserved": RESERVED_PREFIX},
        index=UNDELIVERED,
        condition=f"{NOT_EXPIRED} AND {NO_REPORT}",
    )
    has_more = True
    for page in islice(pages, MAX_PAGES):
        copies = _copies(page)
        has_more = "LastEvaluatedKey" in page
        if copies:
            return UndeliveredCopies(copies, has_more)
    return UndeliveredCopies([], has_more)


def _latest_error(copies: Sequence[Event], services: CoreServices) -> str | None:
    """Return the latest error of some copies that failed or wait; None: there are no copies, or the
    copy that was read is gone or has no error.

    It is the error of the newest copy. If an open breaker refused that copy, it is the error of the
    oldest copy, which says more: failed pushes opened the breaker.

    :param copies: Copies, the oldest first. The index does not have errors, so a copy is read from
        the table.
    """
    if not copies:
        return None
    error: str | None = None
    for copy in (copies[-1], copies[0]):
        event = services.store.get(copy.event_id)
        error = event.last_error if event else None
        if error != BREAKER_OPEN:
            break
    return error


def _copies(page: Json) -> list[Event]:
    """Return the copies of a page of a query, with the attributes that the index has."""
    return [from_item(NOT_PROJECTED | item) for item in page["Items"]]
