"""Who got an event and who did not, and how it gets to a subscription later: send and recover."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum, auto
from functools import partial
from operator import attrgetter
from typing import NamedTuple

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
from chalicelib.infra.table import HIGHEST, LOWEST
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339
from chalicelib.subscriptions.outcomes import (
    SENDABLE,
    TROUBLE,
    MissReason,
    Recipient,
    judge,
    miss_members,
    state_of,
)
from chalicelib.subscriptions.subscription import Subscription
from chalicelib.subscriptions.subscriptions import Subscriptions, find_mismatch


def as_tenant_sees_them(
    events: Sequence[Event], tenant: str | None, subscriptions: Subscriptions
) -> Sequence[Event]:
    """Return events as a token of their tenant may see them: as if they were not
    pushed themselves, and without the copies for the operator's subscriptions.

    :param tenant: The tenant of a token, to which all events belong. None: an operator asks, and
        the events are returned unchanged.
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
    """Return the recipients of each event, by the event's id.

    The recipients of an event are the subscriptions of its tenant and the subscriptions without a
    tenant, the oldest first. After them come the deleted subscriptions that have a copy of the
    event: these recipients have no `subscription`.

    :param events: Events, not copies, each as the caller may see it: see `as_tenant_sees_them`.
    :param tenant: The tenant of a token, to which all events belong: subscriptions without a tenant
        are left out. None: an operator asks, for events of any tenants.
    """
    copy_ids = [copy_id for event in events for copy_id in event.copies]
    copies = services.store.get_many(copy_ids, with_content=False)
    # The tenants whose subscriptions are listed, each once. For an operator, None comes first: it
    # lists the subscriptions without a tenant, which get the events of all tenants.
    tenants = [*dict.fromkeys((tenant, *(event.tenant for event in events)))]
    lists = services.map(subscriptions.of_tenant, tenants)
    known = {listed.subscription_id: listed for found in lists for listed in found}
    # The index that lists subscriptions may lag behind the table, so owners of copies that it
    # does not list are read from the table.
    owner_ids = {str(copy.subscription_id) for copy in copies.values()}
    known |= subscriptions.get_many(owner_ids - known.keys())
    oldest_first = sorted(known.values(), key=attrgetter("sort_key"))
    recipients = {}
    for event in events:
        tenants_of_recipients = [event.tenant]
        if tenant is None:
            tenants_of_recipients.append(None)  # an operator sees subscriptions without a tenant
        possible = [
            subscription
            for subscription in oldest_first
            if subscription.tenant in tenants_of_recipients
        ]
        recipients[event.event_id] = _recipients_of(event, possible, copies, services)
    return recipients


def _recipients_of(
    event: Event,
    subscriptions: Sequence[Subscription],
    copies: Mapping[str, Event],
    services: CoreServices,
) -> list[Recipient]:
    """Return a recipient for each of the given subscriptions and, after them, for each copy of the
    event whose subscription is not among these because it was deleted.

    A recipient has the subscription's copy of the event or, without a copy, the reason.

    :param subscriptions: The subscriptions that have a copy of the event, or could have had one.
    :param copies: Copies by id, also of other events. A copy of the event that is not there was
        erased or has expired.
    """
    own = [copies[copy_id] for copy_id in event.copies if copy_id in copies]
    copy_by_owner = {str(copy.subscription_id): copy for copy in own}
    recipients = []
    for subscription in subscriptions:
        subscription_id = subscription.subscription_id
        copy = copy_by_owner.pop(subscription_id, None)
        missed = None if copy else _find_miss_reason(subscription, event, services)
        recipients.append(Recipient(subscription_id, subscription, copy, missed))
    for owner_id, copy in copy_by_owner.items():
        recipients.append(Recipient(owner_id, subscription=None, copy=copy, missed=None))
    return recipients


# The events of a page with outcomes have fewer copies together; no event alone has so many.
MAX_PAGE_COPIES = 1000


class PageWithOutcomes(NamedTuple):
    """A page of events, and what became of each."""

    page: Page
    # The member `outcome` of each event or copy of the page, by its id. A copy has the outcome of
    # its event, or None if that is no longer there.
    outcomes: dict[str, Json | None]


def read_outcomes(
    page: Page, services: CoreServices, subscriptions: Subscriptions, tenant: str | None
) -> PageWithOutcomes:
    """Return a page of events and copies with the outcome of each, which is judged by all copies of
    its event.

    The page ends before the event with which the events of the page would have MAX_PAGE_COPIES
    copies or more together, so that not too many copies are read. Its cursor goes on there.

    :param page: The events and copies. A copy has the outcome of the event from which it was made,
        or None if that event is no longer there.
    :param tenant: The tenant of a token, whose events they are: they are returned and judged as the
        token may see them. None: an operator asks.
    """
    page = Page([*as_tenant_sees_them(page.events, tenant, subscriptions)], page.next_cursor)
    # The events and, for copies, the events from which they were made (`origin_id`).
    known = {event.event_id: event for event in page.events}
    missing = {event.origin_id for event in page.events} - known.keys()
    known |= services.store.get_many([*missing])
    originals: dict[str, Event] = {}
    copy_count = 0
    for number, event in enumerate(page.events):
        original = known.get(event.origin_id)
        if original and original.event_id not in originals:
            copy_count += len(original.copies)
            if copy_count >= MAX_PAGE_COPIES:
                # No event alone has so many copies, so there is an event before this one.
                page = Page(page.events[:number], page.events[number - 1].sort_key)
                break
            originals[original.event_id] = original
    recipients = read_recipients([*originals.values()], services, subscriptions, tenant)
    judged = {
        event_id: judge(original, recipients[event_id]) for event_id, original in originals.items()
    }
    outcomes = {event.event_id: judged.get(event.origin_id) for event in page.events}
    return PageWithOutcomes(page, outcomes)


def recipient_json(recipient: Recipient) -> str:
    """Return a recipient as an object of JSON, as callers see it.

    If its subscription was deleted, the `state` is `gone`, and the other members of the
    subscription are null.
    """
    members: Json = {"subscription_id": recipient.subscription_id}
    for name in ("name", "tenant", "target_host", "state"):
        members[name] = getattr(recipient.subscription, name, None)
    if recipient.subscription is None:
        members["state"] = "gone"
    return _join_copy(members | miss_members(recipient.missed), recipient.copy)


def _join_copy(members: Json, copy: Event | None) -> str:
    """Return an object of JSON with some members and, as the member `copy`, a copy as lists show it
    or, without a copy, null.
    """
    return join_object(members, copy=copy.summary_json() if copy else "null")


def _find_miss_reason(
    subscription: Subscription, event: Event, services: CoreServices
) -> MissReason:
    """Return why a subscription has no copy of an event.

    The reason is the first of these that applies: `deleted` (the event lists the copy, which was
    erased), `host` (the host of the target URL is not allowed), `event_types` or `filter` (they do
    not match the event), `later` (the subscription was made after the event), or `edited` (no other
    reason is left than that the subscription was changed after the event).
    """
    if posting.copy_id(event, subscription.subscription_id) in event.copies:
        return MissReason("deleted")
    excluded = find_exclusion(subscription, event, services)
    if excluded:
        return excluded
    return MissReason("later" if subscription.created_at > event.created_at else "edited")


def find_exclusion(
    subscription: Subscription, event: Event, services: CoreServices
) -> MissReason | None:
    """Return why a subscription would get no copy of an event that is posted now; None: it would
    get one.

    The reason is `host` if the host of its target URL is not allowed, or else `event_types` or
    `filter`, if these do not match the event.
    """
    if not services.settings.subscription_hosts.allows(subscription.target_url):
        return MissReason("host")
    return find_mismatch(subscription, event)


def send(
    event_id: str, subscription: Subscription, invocation: Invocation, *, is_bulk: bool = False
) -> Event:
    """Make the copy of an event for a subscription and queue it or, if the copy exists, replay it;
    return the copy.

    The event types and the filter of the subscription do not matter.

    :param is_bulk: Whether the copy may be one of thousands, which go through the slow lane.
    :raises EventNotFoundError: If there is no such event, if it belongs to another tenant than the
        subscription, or if the id is that of a copy.
    :raises ApiError: 409, if the subscription is disabled or its host is not allowed, the event is
        a report or has too many copies, or the copy is claimed.
    :raises StorageUnavailableError: If DynamoDB fails, or the invocation has no time left.
    """
    _require_pushable(subscription, invocation.services)
    event = _read_original(event_id, subscription, invocation.services)
    made = _make_copy(event, subscription, invocation, is_bulk=is_bulk)
    if made.is_new:
        return made.copy
    return replay.replay(made.copy, invocation, is_bulk=is_bulk)


def _require_pushable(subscription: Subscription, services: CoreServices) -> None:
    """Raise ApiError 409 if nothing can be pushed to a subscription now: it is disabled, its tenant
    is suspended, or its host is not allowed.
    """
    refusal = subscription.recover_refusal(services.settings)
    if refusal:
        raise refusal


def _read_original(event_id: str, subscription: Subscription, services: CoreServices) -> Event:
    """Return the event from which a copy for a subscription may be made, read consistently.

    :raises EventNotFoundError: If there is no such event, the id is that of a copy, or the
        subscription has a tenant and the event belongs to another one.
    :raises ApiError: 409, if the event is a report.
    """
    event = services.store.get(event_id) if EVENT_ID.fullmatch(event_id) else None
    if event is None or event.is_copy or subscription.tenant not in (None, event.tenant):
        raise EventNotFoundError
    if event.is_report:
        raise ApiError(409, "not_pushed", "Reports go to the subscriptions that name them.")
    return event


class MadeCopy(NamedTuple):
    """The copy of an event for a subscription."""

    copy: Event
    # Whether this call stored the copy; False: the copy was there.
    is_new: bool


MAX_COPIES = 500  # of an event, whose item may have 400 KB; the id of each takes 39 bytes
FIRST_WAIT_SECONDS = 0.05  # for another transaction with the same event
# To read the event again and store the copy; the message may be left to the sweep.
TRY_SECONDS = 2 * CALL_SECONDS


def _make_copy(
    event: Event,
    subscription: Subscription,
    invocation: Invocation,
    *,
    is_bulk: bool,
) -> MadeCopy:
    """Store the copy of an event for a subscription and queue it, unless the copy exists; return
    the copy, and whether this call stored it.

    While another call changes the event at the same time, wait, read the event again and try again,
    as long as the invocation has time.

    :param event: The event as it was read.
    :param is_bulk: Whether the copy may be one of thousands, which go through the slow lane.
    :raises ApiError: 409, if the copy exists but the event does not list it yet, or if the event
        has MAX_COPIES copies. Also what `_read_original` raises, if the event was read again.
    :raises StorageUnavailableError: If the time of the invocation does not suffice or DynamoDB
        fails.
    """
    services = invocation.services
    wait_seconds = FIRST_WAIT_SECONDS
    while True:
        copy = posting.make_copy(event, subscription.subscription_id, services)
        # The event may be weeks old. As after a replay, the time until the copy expires and the
        # latency of its delivery count from now.
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
        stored = result.event  # the copy, whether this call stored it or an earlier one
        if result.applied:
            logger.info("sent", extra={"event_id": copy.event_id})
            replay.queue(copy, services)
        elif stored and not is_listed:
            raise EventClaimedError("A POST that is in progress stored the copy; try again.")
        if stored:
            return MadeCopy(stored, is_new=result.applied)
        # There is no copy, and none was stored: another call changed the event since it was read.
        if invocation.seconds_left() - wait_seconds < TRY_SECONDS:
            raise StorageUnavailableError
        services.sleep(wait_seconds)
        wait_seconds *= 2
        event = _read_original(event.event_id, subscription, services)


class MissedEvent(NamedTuple):
    """An event that a subscription did not get or, if a subject was asked for, may have got."""

    # The place among what was examined of the page, from 1.
    number: int
    # The event or, where copies alone are read, its copy, which has the same type, subject and
    # time.
    examined: Event
    # The copy for the subscription; None: there is none.
    copy: Event | None
    # Why the subscription did not get the event; None: it got it, or is about to get it.
    missed: MissReason | None

    def to_json(self) -> str:
        """Return, as a JSON object, what callers see: the event, why the subscription did not get
        it (if it did not), and the subscription's copy of it (if there is one).
        """
        members: Json = {
            "event_id": self.examined.origin_id,
            "event_type": self.examined.event_type,
            "subject": self.examined.subject,
            "created_at": self.examined.created_at,
        }
        return _join_copy(members | miss_members(self.missed), self.copy)


class MissedPage(NamedTuple):
    """What a subscription did not get of a page of events or copies."""

    # The oldest first.
    missed: list[MissedEvent]
    # How many events or copies the page had.
    examined: int
    # The sort key after which the next page begins; None: this was the last page.
    next_cursor: str | None


ORIGINALS = replace(
    EVENTS, source="original", order="oldest", limit=100, include="payload", skips_reports=True
)
UNDELIVERED_COPIES = Query(UNSETTLED, order="oldest", limit=100, skips_reports=True)
RECOVERABLE = (*SENDABLE, *TROUBLE)


def find_missed(
    subscription: Subscription,
    services: CoreServices,
    *,
    since: str | None = None,
    until: str = HIGHEST,
    subject: str | None = None,
    cursor: str = "",
    limit: int | None = None,
) -> MissedPage:
    """Return a page of the events that a subscription did not get and may recover, the oldest
    first.

    Without `since` and `subject`, the copies for the subscription that failed or wait are examined.
    With `since` or `subject`, all events of the subscription's tenant are examined (without a
    tenant, all events), so that events without a copy for the subscription are found, too. Reports
    are left out.

    :param since: The creation time of the oldest event (RFC 3339); None: any time. Events up to the
        subscription's `dismissed_until` are left out anyway, unless `subject` is given.
    :param until: The creation time before which events are found (RFC 3339).
    :param subject: Return all events of this subject: also events that the subscription got, that
        its event types or filter exclude, or that were dismissed. None: return only events that
        can be recovered.
    :param cursor: The sort key after which the page begins; empty: at the oldest.
    :param limit: How many events or copies are examined at most, from 1 to 100; None: 100.
    :returns: The events, how many were examined, and the cursor of the next page.
    :raises InvalidRequestError: If the cursor is of a call that examined copies and this call
        examines events, or the other way round.
    """
    examines_events = since is not None or subject is not None
    _check_cursor(cursor, examines_events=examines_events)
    since = since or LOWEST
    if subject is None:
        # Leave out events that the owner dismissed.
        since = max(since, subscription.wanted_after)
    if examines_events:
        query = replace(ORIGINALS, tenant=subscription.tenant)
    else:
        query = replace(UNDELIVERED_COPIES, subscription_id=subscription.subscription_id)
    query = replace(query, since=since, until=until, subject=subject, cursor=cursor)
    if limit is not None:
        query = replace(query, limit=limit)
    page = read_page(services, query)
    copies: Sequence[Event | None] = page.events
    if examines_events:
        copies = _read_copies(page.events, subscription, services)
    found = []
    for number, (event, copy) in enumerate(zip(page.events, copies, strict=True), 1):
        missed = _find_why_missed(subscription, event, copy, services)
        is_recoverable = missed is not None and missed.reason in RECOVERABLE
        if is_recoverable or subject is not None:
            found.append(MissedEvent(number, event, copy, missed))
    return MissedPage(found, len(page.events), page.next_cursor)


def _check_cursor(cursor: str, *, examines_events: bool) -> None:
    """Raise InvalidRequestError if a cursor of `find_missed` is of a call that examined copies and
    this call examines events, or the other way round.

    :param cursor: The sort key after which the page begins; empty: the call has no cursor.
    :param examines_events: Whether this call examines events; False: it examines copies.
    """
    # A sort key is `<creation time>#<id>`. If the time of a search ended before it found an event,
    # the cursor has the lowest id, FIRST_ID, whatever was examined.
    id_prefix = "#evt_" if examines_events else "#cpy_"
    if cursor and not (id_prefix in cursor or cursor.endswith(FIRST_ID)):
        expected = "must be that of a call with since, if there is one, else of one without"
        raise InvalidRequestError(FieldFault("cursor", expected))


def _find_why_missed(
    subscription: Subscription, event: Event, copy: Event | None, services: CoreServices
) -> MissReason | None:
    """Return why a subscription did not get an event; None: it got the event, or is about to.

    :param copy: The subscription's copy of the event, whose state is the reason if it failed or
        waits for another attempt; None: there is no copy.
    """
    if copy is None:
        return _find_miss_reason(subscription, event, services)
    # A copy that was delivered, or waits for its first attempt, is not missed.
    state = state_of(copy)
    return MissReason(state) if state in TROUBLE else None


def _read_copies(
    events: Sequence[Event], subscription: Subscription, services: CoreServices
) -> list[Event | None]:
    """Return, for each event in order, its copy for a subscription, without the payload, or None if
    there is no copy.
    """
    copy_ids = [posting.copy_id(event, subscription.subscription_id) for event in events]
    copies = services.store.get_many(copy_ids, with_content=False)
    return [copies.get(copy_id) for copy_id in copy_ids]


class Recovered(NamedTuple):
    """What a call of `recover` did; the members of its answer."""

    # How many events or copies were examined.
    examined: int
    # How many copies were made.
    sent: int
    # How many copies are pushed again.
    replayed: int
    # How many copies were left, because they were tried or recovered just now.
    left: int
    # The sort key after which the next call goes on; None: everything was examined.
    next_cursor: str | None


class Recovery(Enum):
    """What was done for one missed event."""

    SENT = auto()  # its copy was made
    REPLAYED = auto()  # its copy is pushed again
    LEFT = auto()  # its copy is being pushed, or was tried or recovered just now
    NOTHING = auto()  # another call was faster, there are too many copies, or a POST is in progress


AT_ONCE = 8
LAST_BATCH_SECONDS = 12  # of the time that is left: with less, no batch begins


def recover(
    subscription: Subscription,
    invocation: Invocation,
    *,
    since: str | None = None,
    until: str = HIGHEST,
    cursor: str = "",
) -> Recovered:
    """Queue events that a subscription missed for a push to it: the events of a page of
    `find_missed`, the oldest first.

    Up to 100 events or copies are examined. Copies that failed or wait are pushed again and, with
    `since`, missing copies are made. All go through the slow lane: thousands in the fast lane would
    make everybody else wait. If the time of the invocation does not suffice, the result ends before
    the end of the page, and the next call goes on at its `next_cursor`.

    :param since: The creation time of the oldest event (RFC 3339), also of events without a copy.
        None: only copies that failed or wait are examined.
    :param until: The creation time before which events are pushed (RFC 3339).
    :param cursor: The sort key after which the page begins; empty: at the oldest.
    :returns: How many events or copies were examined, how many copies were made (`sent`), are
        pushed again (`replayed`), or were left because they were tried or recovered a moment ago
        (`left`), and the cursor of the next call.
    :raises InvalidRequestError: If the cursor is of a call with `since` and this call has none, or
        the other way round.
    :raises ApiError: 409, if nothing can be pushed to the subscription.
    :raises StorageUnavailableError: If DynamoDB fails; a repeated call completes what this one
        began.
    """
    services = invocation.services
    _require_pushable(subscription, services)
    page = find_missed(subscription, services, since=since, until=until, cursor=cursor)
    recover_event = partial(_recover_event, subscription, invocation, services.clock())
    done = Counter[Recovery]()
    examined = page.examined
    next_cursor = page.next_cursor
    for start in range(0, len(page.missed), AT_ONCE):
        # The first batch always begins, so that each call makes progress.
        if start and invocation.seconds_left() < LAST_BATCH_SECONDS:
            last = page.missed[start - 1]
            examined = last.number
            next_cursor = last.examined.sort_key
            break
        done.update(services.map(recover_event, page.missed[start : start + AT_ONCE]))
    return Recovered(
        examined,
        sent=done[Recovery.SENT],
        replayed=done[Recovery.REPLAYED],
        left=done[Recovery.LEFT],
        next_cursor=next_cursor,
    )


LEFT_SECONDS = 60  # a copy that was tried so recently waits: a loop of calls would be a flood


def _recover_event(
    subscription: Subscription, invocation: Invocation, now: float, missed_event: MissedEvent
) -> Recovery:
    """Make the missing copy of an event for a subscription or, if there is a copy, let it be pushed
    again, in both cases in the slow lane; return what was done.

    The result is NOTHING if the copy could not be made or changed, because another call was faster
    for example.

    :param now: Unix seconds.
    :raises StorageUnavailableError: If DynamoDB fails.
    """
    copy = missed_event.copy
    try:
        if copy:
            return _recover_copy(copy, now, invocation.services)
        made = _make_copy(missed_event.examined, subscription, invocation, is_bulk=True)
        return Recovery.SENT if made.is_new else Recovery.NOTHING
    except StorageUnavailableError:  # an ApiError, too, but not for this event alone
        raise
    except ApiError:
        return Recovery.NOTHING


def _recover_copy(copy: Event, now: float, services: CoreServices) -> Recovery:
    """Let a copy that failed or waits be pushed again, in the slow lane; return REPLAYED if it is
    due now, or LEFT if it must wait.

    A copy that is being pushed, or that was recovered within the last LEFT_SECONDS and not tried
    since, is not changed. A copy that was tried within the last LEFT_SECONDS is pushed after
    LEFT_SECONDS, or earlier if it was due earlier.

    :param now: Unix seconds.
    """
    # Texts in RFC 3339, which compare as times do; empty: never.
    just_now = rfc3339(now - LEFT_SECONDS)
    tried_at = copy.attempted_at
    if copy.reason is Reason.DISABLED:
        tried_at = ""  # it failed because the subscription was disabled, and was not pushed
    recovered_at = copy.recovered_at or ""
    was_just_recovered = copy.is_waiting and recovered_at > max(tried_at, just_now)
    if copy.is_claimed(now) or was_just_recovered:
        return Recovery.LEFT
    if tried_at > just_now:
        replay.push_later(copy, LEFT_SECONDS, services)
        return Recovery.LEFT
    replay.push_later(copy, 0, services)
    return Recovery.REPLAYED
