"""What became of events and how deliveries go, judged once: the page and commands say the same."""

from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from math import ceil
from operator import attrgetter
from statistics import median
from typing import NamedTuple

from chalicelib.core.event import Event, Status
from chalicelib.customers.subscription import Subscription
from chalicelib.infra.parsing import Json
from chalicelib.infra.times import rfc3339, unix_seconds


class State(StrEnum):
    """What became of an event, as a whole or for one webhook; the worst first."""

    FAILED = "failed"
    RETRYING = "retrying"
    NOT_SENT = "not_sent"
    PENDING = "pending"
    DELIVERED = "delivered"
    NOT_ASKED = "not_asked"
    NO_WEBHOOK = "no_webhook"


SOON_SECONDS = 60  # a copy whose next attempt is later waits
COUNTED = ("delivered", "failed", "retrying", "pending", "not_asked", "not_sent")
NOT_SENT = ("later", "edited")  # the reasons for which a copy is missing that can be sent
WORST_FIRST = list(State)


class Missed(NamedTuple):
    """Why a subscription did not get an event; `reason` None: it did, should, or is about to.

    `member` is the path of the first member of its filter that does not match.
    """

    reason: str | None = None
    member: str | None = None


class Recipient(NamedTuple):
    """A subscription, None if it is gone, and its copy of an event, or why it has none."""

    subscription_id: str
    subscription: Subscription | None
    copy: Event | None
    missed: Missed


class Verdict(NamedTuple):
    """What became of an event for a webhook; `subscription_id` None: the operator's own."""

    state: State
    error: str | None = None
    subscription_id: str | None = None


def state_of(event: Event) -> State:
    """Return the state of an event or a copy alone: what failed and waits is retrying."""
    has_failed = event.last_error is not None and event.delivery_attempts > 0
    if event.status is Status.PENDING and has_failed:
        return State.RETRYING
    return State(event.status)


def judge(event: Event, recipients: Iterable[Recipient]) -> Json:
    """Return what became of an event, as callers see it.

    The webhooks of its tenant decide or, if that has none, those of the operator and the event's
    own push. Whose a webhook was that is gone, nobody knows: it counts as the operator's if the
    tenant has none.
    """
    tenant: list[Verdict] = []
    operator: list[Verdict] = []
    gone: list[Verdict] = []
    for recipient in recipients:
        side = gone
        if recipient.subscription:
            side = operator if recipient.subscription.tenant is None else tenant
        side.append(_judge_one(recipient))
    if not tenant:
        operator += gone
    own = Verdict(state_of(event), event.last_error) if event.is_pushed_itself else None
    side = tenant or ([*operator, own] if own else operator)
    deciding = min(
        side,
        key=lambda verdict: WORST_FIRST.index(verdict.state),
        default=Verdict(State.NO_WEBHOOK),
    )
    return {
        "state": deciding.state,
        "tenant": _count(tenant),
        "operator": _count(operator),
        "own": own and own.state,
        "error": deciding.error,
        "subscription_id": deciding.subscription_id,
    }


def _judge_one(recipient: Recipient) -> Verdict:
    subscription_id, _, copy, missed = recipient
    if copy:
        return Verdict(state_of(copy), copy.last_error, subscription_id)
    state = State.NOT_SENT if missed.reason in NOT_SENT else State.NOT_ASKED
    return Verdict(state, None, subscription_id)


def _count(verdicts: Iterable[Verdict]) -> Json:
    counts = Counter(verdict.state for verdict in verdicts)
    return {name: counts[State(name)] for name in COUNTED}


def is_waiting(copy: Event, now: float) -> bool:
    """Return whether a copy failed, and its next attempt is more than SOON_SECONDS ahead at `now`.

    An attempt that is later follows one that failed, and nobody holds the copy.
    """
    due_at = copy.next_attempt_at
    return due_at is not None and due_at > rfc3339(now + SOON_SECONDS)


def summarize(copies: Sequence[Event], now: float) -> Json:
    """Return how the deliveries of a subscription go, from copies of it, the newest first.

    Copies that are delivered may be known by their status alone. Times are of the others.
    """
    counts = Counter(copy.status for copy in copies)
    waiting = [copy for copy in copies if is_waiting(copy, now) and not copy.is_report]
    missed = [copy for copy in copies if copy.status is Status.FAILED]
    attempts = [copy.attempts[-1] for copy in copies if copy.attempts]
    newest = max(attempts, key=attrgetter("at"), default=None)
    delivered = [copy for copy in copies if copy.delivered_at]
    seconds = sorted(map(_delivery_seconds, delivered))
    return {
        "delivered": counts[Status.DELIVERED],
        "failed": counts[Status.FAILED],
        "pending": counts[Status.PENDING],
        "waiting": len(waiting),
        "oldest_missed_at": min((copy.created_at for copy in missed + waiting), default=None),
        "last_at": copies[0].created_at if copies else None,
        "last_delivered_at": max((copy.delivered_at or "" for copy in delivered), default=None),
        "last_error": newest and newest.error,
        "median_seconds": round(median(seconds), 3) if seconds else None,
        "p95_seconds": seconds[ceil(0.95 * len(seconds)) - 1] if seconds else None,
    }


def _delivery_seconds(copy: Event) -> float:
    """Return the seconds from creation, or the last replay, to delivery; clocks may differ."""
    begun_at = copy.replayed_at or copy.created_at
    seconds = unix_seconds(copy.delivered_at or begun_at) - unix_seconds(begun_at)
    return round(max(seconds, 0.0), 3)
