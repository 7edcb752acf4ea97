"""What became of an event, judged from its copies: lists, the page and commands say the same."""

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from chalicelib.core.event import Event, Status
from chalicelib.customers.subscription import Subscription
from chalicelib.infra.parsing import Json


class State(StrEnum):
    """What became of an event, as a whole or for one webhook; the worst first."""

    FAILED = "failed"
    RETRYING = "retrying"
    NOT_SENT = "not_sent"
    PENDING = "pending"
    DELIVERED = "delivered"
    NOT_ASKED = "not_asked"
    NO_WEBHOOK = "no_webhook"


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
