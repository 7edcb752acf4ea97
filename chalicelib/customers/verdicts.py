"""What became of events and how deliveries go, judged once: the page and commands say the same."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from chalicelib.core.event import Event, Status
from chalicelib.customers.subscription import Subscription
from chalicelib.infra.parsing import Json
from chalicelib.infra.times import rfc3339

SOON_SECONDS = 60  # a copy whose next attempt is later waits
WORST_FIRST = ("failed", "retrying", "not_sent", "pending", "delivered", "not_asked")
TROUBLE = ("failed", "retrying")
NOT_SENT = ("later", "edited")  # the reasons for which a copy is missing that can be sent


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

    state: str
    error: str | None
    subscription_id: str | None


def state_of(event: Event) -> str:
    """Return the state of an event or a copy alone: what failed and waits is retrying."""
    if event.status is Status.PENDING and event.last_error and event.delivery_attempts:
        return "retrying"
    return event.status


def judge(event: Event, recipients: Iterable[Recipient]) -> Json:
    """Return what became of an event, as callers see it.

    The webhooks of its tenant decide or, if that has none, those of the operator, among which those
    that are gone count. The event's own push counts beside those of the operator, and beside those
    of the tenant, too, while it is failed or retried: nobody may take such an event for delivered.
    """
    tenant: list[Verdict] = []
    operator: list[Verdict] = []
    for subscription_id, subscription, copy, missed in recipients:
        state = "not_sent" if missed.reason in NOT_SENT else "not_asked"
        verdict = Verdict(state, None, subscription_id)
        if copy:
            verdict = Verdict(state_of(copy), copy.last_error, subscription_id)
        side = tenant if subscription and subscription.tenant else operator
        side.append(verdict)
    own = [Verdict(state_of(event), event.last_error, None)] if event.is_pushed_itself else []
    in_trouble = [verdict for verdict in own if verdict.state in TROUBLE]
    deciding = min(
        tenant + in_trouble if tenant else operator + own,
        key=lambda verdict: WORST_FIRST.index(verdict.state),
        default=Verdict("no_webhook", None, None),
    )
    return {
        **deciding._asdict(),
        "tenant": _count(tenant),
        "operator": _count(operator),
        "own": event.status if own else None,
    }


def _count(verdicts: Iterable[Verdict]) -> Json:
    counts = Counter(verdict.state for verdict in verdicts)
    return {state: counts[state] for state in WORST_FIRST}


def is_waiting(copy: Event, now: float) -> bool:
    """Return whether a copy failed, and its next attempt is more than SOON_SECONDS ahead at `now`.

    An attempt that is later follows one that failed, and nobody holds the copy.
    """
    due_at = copy.next_attempt_at
    return due_at is not None and due_at > rfc3339(now + SOON_SECONDS)
