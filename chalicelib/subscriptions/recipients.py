"""Who got an event and who did not, and how it gets to a subscription later: send and recover."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

from chalicelib.core import posting
from chalicelib.core.event import EVENT_ID, Event
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.core.outcome import Reason
from chalicelib.core.store import UNSETTLED
from chalicelib.events import replay
from chalicelib.events.listing import EVENTS, FIRST_ID, Page, Query, read_page
from chalicelib.infra.clients import CALL_SECONDS
from chalicelib.infra.errors import (
    ApiError,
    EventClaimedError,
    EventNotFoundError,
    FieldFault,
    InvalidRequestError,
    StorageUnavailableError,
)
from chalicelib.infra.parsing import Json, join_object
from chalicelib.infra.table import LOWEST
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339
from chalicelib.subscriptions.outcomes import TROUBLE, Missed, Recipient, judge, state_of
from chalicelib.subscriptions.subscription import Subscription
from chalicelib.subscriptions.subscriptions import Subscriptions, why_not_taken

# Of the events of a page with outcomes: it ends before. No event alone has so many.
MAX_PAGE_COPIES = 1000
MAX_COPIES = 500  # 39 bytes each in the event's item, which may have 400 KB
FIRST_WAIT_SECONDS = 0.05  # for another transaction with the same event
# To read the event again and store the copy; the message may be left to the sweep.
TRY_SECONDS = 2 * CALL_SECONDS

AT_ONCE = 8
LAST_BATCH_SECONDS = 12  # of the time that is left: with less, no batch begins

ORIGINALS = replace(
    EVENTS, source="original", order="oldest", limit=100, include="payload", skips_reports=True
)
UNDELIVERED_COPIES = Query(UNSETTLED, order="oldest", limit=100, skips_reports=True)
RECOVERABLE = ("later", "edited", "failed", "waiting")
LEFT_SECONDS = 60  # what was tried or asked for so recently waits: a loop would be a flood


SHOWN = ("event_id", "event_type", "subject", "created_at")
KNOWN = ("name", "tenant", "target_host", "state")


def as_tenant_sees_them(
    events: Sequence[Event], tenant: str | None, subscriptions: Subscriptions
) -> Sequence[Event]:
    """Return a tenant's events as a token may see them: without the operator's copies and without
    anything of the events' own pushes.

    :param tenant: Whose events they are; None: an operator asks, and they are returned as they are.
    """
    if tenant is None:
        return events
    own = [subscription.subscription_id for subscription in subscriptions.of_tenant(tenant)]
    return [
        event.as_tenant_sees_it({posting.copy_id(event, owner_id) for owner_id in own})
        for event in events
    ]


def read_recipients(
    events: Sequence[Event],
    services: CoreServices,
    subscriptions: Subscriptions,
    tenant: str | None = None,
) -> dict[str, list[Recipient]]:
    """Return the recipients of each event by its id, those of the oldest subscriptions first.

    Copies are read without content, by one call for a hundred.

    :param tenant: With a token, its tenant: the subscriptions of that alone are recipients, and
        `events` are as `as_tenant_sees_them` returns them. None: those without a tenant are
        recipients, too.
    """
    copy_ids = [copy_id for event in events for copy_id in event.copies]
    copies = services.store.get_many(copy_ids, with_content=False)
    tenants = [*dict.fromkeys((tenant, *(event.tenant for event in events)))]
    listed = services.map(subscriptions.of_tenant, tenants)
    known = {row.subscription_id: row for rows in listed for row in rows}
    # An index may not have the latest yet.
    owner_ids = {str(copy.subscription_id) for copy in copies.values()}
    known |= subscriptions.get_many(owner_ids - known.keys())
    in_order = sorted(known.values(), key=attrgetter("sort_key"))
    found = {}
    for event in events:
        own = [copies[copy_id] for copy_id in event.copies if copy_id in copies]
        copy_of = {str(copy.subscription_id): copy for copy in own}
        recipients = []
        for subscription in in_order:
            if subscription.tenant in (tenant, event.tenant):
                subscription_id = subscription.subscription_id
                copy = copy_of.pop(subscription_id, None)
                missed = Missed() if copy else _why_missed(subscription, event, services)
                recipients.append(Recipient(subscription_id, subscription, copy, missed))
        gone = [Recipient(row_id, None, copy, Missed()) for row_id, copy in copy_of.items()]
        found[event.event_id] = recipients + gone
    return found


def read_outcomes(
    page: Page, services: CoreServices, subscriptions: Subscriptions, tenant: str | None
) -> tuple[Page, Json]:
    """Return a page, which may end earlier, and for the id of each of its events the member
    `outcome`: what became of the event.

    A copy has the outcome of its event, which is None if the event was erased a moment ago.

    :param tenant: With a token, its tenant, whose events they are: they are returned, and judged,
        as it may see them. None: an operator asks.
    """
    page = Page([*as_tenant_sees_them(page.events, tenant, subscriptions)], page.next_cursor)
    known = {event.event_id: event for event in page.events}
    missing = {event.origin_id for event in page.events} - known.keys()
    known |= services.store.get_many([*missing])
    originals: dict[str, Event] = {}
    copies = 0
    for number, event in enumerate(page.events):
        original = known.get(event.origin_id)
        if original and original.event_id not in originals:
            copies += len(original.copies)
            if copies >= MAX_PAGE_COPIES:
                page = Page(page.events[:number], page.events[number - 1].sort_key)
                break
            originals[original.event_id] = original
    found = read_recipients([*originals.values()], services, subscriptions, tenant)
    outcomes = {event_id: judge(known[event_id], rows) for event_id, rows in found.items()}
    return page, {
        event.event_id: {"outcome": outcomes.get(event.origin_id)} for event in page.events
    }


def show(recipient: Recipient) -> str:
    """Return a recipient as callers see it."""
    subscription_id, subscription, copy, missed = recipient
    told: Json = {"subscription_id": subscription_id}
    told |= {name: getattr(subscription, name, None) for name in KNOWN}
    if subscription is None:
        told["state"] = "gone"
    return _to_json(copy, told | missed._asdict())


def _to_json(copy: Event | None, members: Json) -> str:
    """Return members, and a copy as lists show it."""
    shown = copy.summary_json() if copy else "null"
    return join_object(members, copy=shown)


def _why_missed(subscription: Subscription, event: Event, services: CoreServices) -> Missed:
    """Return the first reason that applies for which a subscription has no copy of an event."""
    if posting.copy_id(event, subscription.subscription_id) in event.copies:
        return Missed("deleted")
    not_sent = why_not_sent(subscription, event, services)
    if not_sent.reason:
        return not_sent
    return Missed("later" if subscription.created_at > event.created_at else "edited")


def why_not_sent(subscription: Subscription, event: Event, services: CoreServices) -> Missed:
    """Return why an event that is posted now makes no copy for a subscription, if so."""
    if not services.settings.subscription_hosts.allows(subscription.target_url):
        return Missed("host")
    return why_not_taken(subscription, event)


def send(
    event_id: str, subscription: Subscription, invocation: Invocation, *, is_bulk: bool = False
) -> Event:
    """Make the copy of an event for a subscription and queue it; replay one that is there.

    The types and the filter of the subscription do not matter. Raises EventNotFoundError; ApiError
    409 if the subscription, the event or the copy is in no state for it; StorageUnavailableError.

    :param is_bulk: Whether the copy may be one of thousands, which go through the slow lane.
    """
    _require_usable(subscription, invocation.services)
    event = _find_original(event_id, subscription, invocation.services)
    copy, is_new = _make_copy(event, subscription, invocation, is_bulk=is_bulk)
    return copy if is_new else replay.replay(copy, invocation, is_bulk=is_bulk)


def _require_usable(subscription: Subscription, services: CoreServices) -> None:
    """Raise ApiError 409 if nothing can be pushed to a subscription."""
    refusal = subscription.recover_refusal(services.settings)
    if refusal:
        raise refusal


def _find_original(event_id: str, subscription: Subscription, services: CoreServices) -> Event:
    """Return an event that a subscription may get.

    Raises EventNotFoundError, also for a copy, and ApiError 409 for a report.
    """
    event = services.store.get(event_id) if EVENT_ID.fullmatch(event_id) else None
    if event is None or event.is_copy or subscription.tenant not in (None, event.tenant):
        raise EventNotFoundError
    if event.is_report:
        raise ApiError(409, "not_pushed", "Reports go to the subscriptions that name them.")
    return event


def _make_copy(
    event: Event,
    subscription: Subscription,
    invocation: Invocation,
    *,
    is_bulk: bool,
) -> tuple[Event, bool]:
    """Store the copy of an event for a subscription and queue it, or find the one that is there;
    return it, and whether this call stored it.

    Each time that others list copies in the event, or a transaction of others holds it, it is read
    again, while there is time. Raises what `_find_original` raises; ApiError 409 for a copy that is
    there and not listed, and for an event with MAX_COPIES; StorageUnavailableError.
    """
    services = invocation.services
    wait_seconds = FIRST_WAIT_SECONDS
    while True:
        copy = posting.make_copy(event, subscription.subscription_id, services)
        # As after a replay: it is kept long enough for its retries, and its latency begins now.
        copy = replace(
            copy,
            replayed_at=rfc3339(services.clock()),
            expires_at=services.expires_at(),
        )
        if is_bulk:
            copy = replace(copy, **replay.bulk_members(services))
        is_listed = copy.event_id in event.copies
        if len(event.copies) >= MAX_COPIES and not is_listed:
            raise ApiError(409, "too_many_copies", f"The event has {MAX_COPIES} copies.")
        result = services.store.put_listed(copy, event)
        if result.applied:
            logger.info("sent", extra={"event_id": copy.event_id})
            replay.queue(copy, services)
        elif result.event and not is_listed:
            raise EventClaimedError("A POST that is in progress stored the copy; try again.")
        if result.event:
            return result.event, result.applied
        if invocation.seconds_left() - wait_seconds < TRY_SECONDS:
            raise StorageUnavailableError
        services.sleep(wait_seconds)
        wait_seconds *= 2
        event = _find_original(event.event_id, subscription, services)


class Row(NamedTuple):
    """An event that a subscription did not get, its copy, if that is there, and why.

    `number`: of what was `examined` on its page, from 1: the event or, where copies alone are read,
    its copy, which has the same type, subject and time.
    """

    number: int
    examined: Event
    copy: Event | None
    missed: Missed

    def to_json(self) -> str:
        event = {name: getattr(self.examined, name) for name in SHOWN}
        event["event_id"] = self.examined.origin_id
        return _to_json(self.copy, event | self.missed._asdict())


class Rows(NamedTuple):
    """What a subscription did not get of a page of events or copies, of which so many were
    `examined`.

    `next_cursor` is the sort key to go on after, if any.
    """

    rows: list[Row]
    examined: int
    next_cursor: str | None


def find_missed(subscription: Subscription, services: CoreServices, **asked: Any) -> Rows:
    """Return what a subscription did not get and may recover, the oldest first: the copies that
    `deliveries` counts.

    With `since`, its tenant's events are looked through for those that were never sent, too. With
    a subject, all events that have it, also what it got or did not ask for, and what was dismissed.
    `asked` has fields of `listing.Query`. Reports are left out. Raises InvalidRequestError.
    """
    looks_at_events = "since" in asked or "subject" in asked
    ids = "#evt_" if looks_at_events else "#cpy_"
    cursor = asked.get("cursor")
    if cursor and not (ids in cursor or cursor.endswith(FIRST_ID)):
        expected = "must be that of a call with since, if there is one, else of one without"
        raise InvalidRequestError(FieldFault("cursor", expected))
    if "subject" not in asked:
        asked["since"] = max(asked.get("since", LOWEST), subscription.wanted_after)
    subscription_id = subscription.subscription_id
    copies: Sequence[Event | None]
    if looks_at_events:
        page = read_page(services, replace(ORIGINALS, tenant=subscription.tenant, **asked))
        copy_ids = [posting.copy_id(event, subscription_id) for event in page.events]
        found = services.store.get_many(copy_ids, with_content=False)
        copies = [*map(found.get, copy_ids)]
    else:
        query = replace(UNDELIVERED_COPIES, subscription_id=subscription_id, **asked)
        page = read_page(services, query)
        copies = page.events
    rows = []
    for number, (event, copy) in enumerate(zip(page.events, copies, strict=True), 1):
        if copy is None:
            missed = _why_missed(subscription, event, services)
        else:
            state = state_of(copy)
            missed = Missed(state if state in TROUBLE else None)
        if missed.reason in RECOVERABLE or "subject" in asked:
            rows.append(Row(number, event, copy, missed))
    return Rows(rows, len(page.events), page.next_cursor)


class Recovered(NamedTuple):
    """How many events or copies were looked at, how many copies were made, are pushed again, and
    are left, and the sort key to go on after, if any.
    """

    examined: int
    sent: int
    replayed: int
    left: int
    next_cursor: str | None


def recover(subscription: Subscription, invocation: Invocation, **period: Any) -> Recovered:
    """Get a subscription up to 100 of what `find_missed` finds, the oldest first.

    Pushes again the copies that failed or wait and, with `since`, makes those that are missing, all
    in the slow lane: thousands in the fast lane would make everybody else wait. Those that
    were tried within LEFT_SECONDS are `left`, and due after as long at most. So are those that are
    being pushed, or were recovered within LEFT_SECONDS: nothing changes for them. `period` may
    have `since`, `until` and `cursor`. Raises InvalidRequestError; ApiError 409;
    StorageUnavailableError: then a repeated call completes what this one began.
    """
    services = invocation.services
    _require_usable(subscription, services)
    missed = find_missed(subscription, services, **period)
    recover_row = partial(_recover_row, subscription, invocation, services.clock())
    done = Counter[Any]()
    examined = missed.examined
    next_cursor = missed.next_cursor
    for start in range(0, len(missed.rows), AT_ONCE):
        if start and invocation.seconds_left() < LAST_BATCH_SECONDS:
            last = missed.rows[start - 1]
            examined = last.number
            next_cursor = last.examined.sort_key
            break
        done.update(services.map(recover_row, missed.rows[start : start + AT_ONCE]))
    return Recovered(examined, done["sent"], done["replayed"], done["left"], next_cursor)


def _recover_row(
    subscription: Subscription, invocation: Invocation, now: float, row: Row
) -> str | None:
    """Send or replay what a row of `find_missed` names; return `sent`, `replayed`, `left`, or None
    if nothing was done: others were faster, there are too many copies, or a POST is in progress.

    Raises StorageUnavailableError.
    """
    copy = row.copy
    try:
        if copy is None:
            _, is_new = _make_copy(row.examined, subscription, invocation, is_bulk=True)
            return "sent" if is_new else None
        just_now = rfc3339(now - LEFT_SECONDS)
        # What failed because the subscription was disabled was not pushed.
        tried_at = "" if copy.reason is Reason.DISABLED else copy.attempted_at
        recovered_at = copy.recovered_at or ""
        is_due = copy.is_waiting and recovered_at > max(tried_at, just_now)
        if copy.is_claimed(now) or is_due:
            return "left"
        if tried_at > just_now:
            replay.push_later(copy, LEFT_SECONDS, invocation.services)
            return "left"
        replay.push_later(copy, 0, invocation.services)
        return "replayed"
    except StorageUnavailableError:
        raise
    except ApiError:
        return None
