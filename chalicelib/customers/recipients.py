"""Who got an event and who did not, and how it gets to a subscription later: send and recover."""

import json
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from chalicelib.core import messages
from chalicelib.core.delivery import errors_left_to_sweep
from chalicelib.core.event import Event, dumps
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.core.posting import Stored, copy_id, make_copy
from chalicelib.customers import filters
from chalicelib.customers.subscription import Subscription
from chalicelib.customers.subscriptions import Subscriptions
from chalicelib.infra.clients import CALL_SECONDS
from chalicelib.infra.errors import (
    ApiError,
    EventClaimedError,
    EventNotFoundError,
    StorageUnavailableError,
)
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339
from chalicelib.operations import recovery
from chalicelib.pull.listing import EVENTS, read_page

MAX_COPIES = 500  # 39 bytes each in the event's item, which may have 400 KB
FIRST_WAIT_SECONDS = 0.05  # for another transaction with the same event
TRY_SECONDS = 3 * CALL_SECONDS  # to read the event again, store the copy, and send the message

MAX_RECOVERED_AT_ONCE = 8
LAST_BATCH_SECONDS = 12  # of the time that is left: with less, no batch begins
ORIGINALS = replace(EVENTS, source="original", order="oldest", limit=100)


class Missed(NamedTuple):
    """Why a subscription got no copy of an event; `member` is the path of the member of its filter
    that does not match.
    """

    reason: str
    member: str | None = None


@dataclass(frozen=True)
class Recipient:
    """A subscription that got a copy of an event, or could have: one that is gone is None."""

    subscription_id: str
    subscription: Subscription | None
    copy: Event | None = None
    missed: Missed | None = None

    def to_json(self) -> str:
        subscription = self.subscription
        members = {
            "subscription_id": self.subscription_id,
            "name": subscription and subscription.name,
            "tenant": subscription and subscription.tenant,
            "target_host": subscription and urlsplit(subscription.target_url).hostname,
            "state": subscription.state if subscription else "gone",
            "reason": self.missed and self.missed.reason,
            "member": self.missed and self.missed.member,
        }
        copy = self.copy.summary() if self.copy else "null"
        return f'{dumps(members)[:-1]},"copy":{copy}}}'


def find(event: Event, services: CoreServices, subscriptions: Subscriptions) -> list[Recipient]:
    """Return who got a copy of an event, and who did not, the oldest subscription first.

    Raises EventNotFoundError for a copy.
    """
    if event.is_copy:
        raise EventNotFoundError
    known = {
        subscription.subscription_id: subscription
        for tenant in dict.fromkeys((None, event.tenant))
        for subscription in subscriptions.of_tenant(tenant)
    }
    copies = {
        str(copy.subscription_id): copy
        for copy in services.store.get_many(event.copies, with_content=False).values()
    }
    # An index may not have the latest yet.
    known |= subscriptions.get_many(copies.keys() - known.keys())
    found = []
    for subscription in sorted(known.values(), key=lambda known: known.sort_key):
        copy = copies.pop(subscription.subscription_id, None)
        missed = None if copy else _why_missed(subscription, event, services)
        found.append(Recipient(subscription.subscription_id, subscription, copy, missed))
    gone = [Recipient(subscription_id, None, copy) for subscription_id, copy in copies.items()]
    return found + gone


def _why_missed(subscription: Subscription, event: Event, services: CoreServices) -> Missed:
    """Return the first reason that applies for which a subscription has no copy of an event."""
    if copy_id(event, subscription.subscription_id) in event.copies:
        return Missed("deleted")
    if not services.settings.subscription_hosts.allows(subscription.target_url):
        return Missed("host")
    mismatch = why_not_taken(subscription, event)
    if mismatch:
        return mismatch
    return Missed("later" if subscription.created_at > event.created_at else "edited")


def why_not_taken(subscription: Subscription, event: Event) -> Missed | None:
    """Return why the types or the filter of a subscription do not take an event; None: they do."""
    if not subscription.matches(event.event_type):
        return Missed("event_types")
    if subscription.filter is None or event.is_report:
        return None
    try:
        member = filters.mismatch(subscription.filter, json.loads(event.payload))
    except RecursionError:  # the payload is nested too deep for a filter
        return Missed("filter")
    return None if member is None else Missed("filter", member)


def send(event_id: str, subscription: Subscription, invocation: Invocation) -> Event:
    """Make the copy of an event for a subscription and queue it; replay one that is there.

    The types and the filter of the subscription do not matter. Raises EventNotFoundError; ApiError
    409 if the subscription, the event or the copy is in no state for it; StorageUnavailableError.
    """
    _require_usable(subscription, invocation.services)
    event = _find_original(event_id, subscription, invocation.services)
    stored = _store_copy(event, subscription, invocation)
    if not stored.is_new:
        return recovery.replay(stored.event, invocation)
    return _queue(stored.event, invocation)


def _require_usable(subscription: Subscription, services: CoreServices) -> None:
    """Raise ApiError 409 if nothing can be pushed to a subscription."""
    if subscription.disabled_at:
        raise ApiError(
            409, "subscription_disabled", "The subscription is disabled; enable it first."
        )
    if not services.settings.subscription_hosts.allows(subscription.target_url):
        raise ApiError(409, "host_not_allowed", "The host of the target URL is no longer allowed.")


def _find_original(event_id: str, subscription: Subscription, services: CoreServices) -> Event:
    """Return an event that a subscription may get; raise EventNotFoundError, or ApiError 409 for a
    report.
    """
    event = services.store.get(event_id)
    if event is None or event.is_copy or subscription.tenant not in (None, event.tenant):
        raise EventNotFoundError
    if event.is_report:
        raise ApiError(409, "not_pushed", "Reports go to the subscriptions that name them.")
    return event


def _store_copy(event: Event, subscription: Subscription, invocation: Invocation) -> Stored:
    """Store the copy of an event for a subscription, or return the one that the event lists.

    Each time that others change the event, or list copies in it, it is read again and tried again,
    while there is time. Raises what `_find_original` raises; EventClaimedError for a copy that is
    there and not listed; ApiError 409 for an event with MAX_COPIES; StorageUnavailableError.
    """
    services = invocation.services
    wait_seconds = FIRST_WAIT_SECONDS
    while True:
        # As after a replay: it expires late enough for its retries, and its latency begins now.
        copy = replace(
            make_copy(event, subscription.subscription_id, services),
            replayed_at=rfc3339(services.clock()),
        )
        is_listed = copy.event_id in event.copies
        if not is_listed and len(event.copies) >= MAX_COPIES:
            raise ApiError(409, "too_many_copies", f"The event has {MAX_COPIES} copies.")
        result = services.store.put_listed(copy, event)
        if result.event:
            if not result.applied and not is_listed:
                raise EventClaimedError("A POST that is in progress stored the copy; try again.")
            return Stored(result.event, is_new=result.applied)
        if invocation.seconds_left() - wait_seconds < TRY_SECONDS:
            raise StorageUnavailableError
        services.sleep(wait_seconds)
        wait_seconds *= 2
        event = _find_original(event.event_id, subscription, services)


def _queue(copy: Event, invocation: Invocation) -> Event:
    """Queue a copy that was stored; return it."""
    logger.info("sent", extra={"event_id": copy.event_id})
    with errors_left_to_sweep(copy):
        invocation.services.work_queue.send(messages.push_message(copy))
    return copy


@dataclass(frozen=True)
class Recovered:
    """How many events were looked at, how many copies were made, and the sort key to go on after,
    if any.
    """

    examined: int
    sent: int
    next_cursor: str | None


def recover(
    subscription: Subscription, invocation: Invocation, *, only_count: bool, **period: Any
) -> Recovered:
    """Make the copies that a subscription missed, of up to 100 events, the oldest first.

    Those are events that its types and filter take now and that list no copy for it. `period` has
    `since`, and perhaps `until` and `cursor`, as in `listing.Query`. With `only_count` nothing is
    made: `sent` is what would be. Raises ApiError 409, and StorageUnavailableError: then a repeated
    call completes what this one began.
    """
    services = invocation.services
    _require_usable(subscription, services)
    page = read_page(services, replace(ORIGINALS, tenant=subscription.tenant, **period))
    recover_one = partial(
        _recover_one, subscription=subscription, invocation=invocation, only_count=only_count
    )
    sent = 0
    for start in range(0, len(page.events), MAX_RECOVERED_AT_ONCE):
        if start and invocation.seconds_left() < LAST_BATCH_SECONDS:
            return Recovered(start, sent, page.events[start - 1].sort_key)
        batch = page.events[start : start + MAX_RECOVERED_AT_ONCE]
        sent += sum(services.map(recover_one, batch))
    return Recovered(len(page.events), sent, page.next_cursor)


def _recover_one(
    row: Event, subscription: Subscription, invocation: Invocation, *, only_count: bool
) -> bool:
    """Make the copy of an event, if the subscription missed it; return whether it is made, or would
    be. Raises StorageUnavailableError.
    """
    if not subscription.matches(row.event_type):
        return False
    try:
        event = _find_original(row.event_id, subscription, invocation.services)
        is_listed = copy_id(event, subscription.subscription_id) in event.copies
        if is_listed or why_not_taken(subscription, event):
            return False
        if only_count:
            return True
        stored = _store_copy(event, subscription, invocation)
    except StorageUnavailableError:
        raise
    except ApiError:  # erased meanwhile, a report, too many copies, or a POST is in progress
        return False
    if stored.is_new:
        _queue(stored.event, invocation)
    return stored.is_new
