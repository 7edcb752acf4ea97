"""What became of events and how deliveries go, judged once: the page and commands say the same."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from chalicelib.core.event import Event
from chalicelib.infra.parsing import Json
from chalicelib.subscriptions.subscription import Subscription

WORST_FIRST = ("failed", "waiting", "not_sent", "pending", "delivered", "not_asked")
TROUBLE = ("failed", "waiting")
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


class WebhookOutcome(NamedTuple):
    """What became of an event for a webhook; `subscription_id` None: the operator's own."""

    state: str
    error: str | None
    subscription_id: str | None


def state_of(event: Event) -> str:
    """Return the state of an event or a copy alone."""
    return "waiting" if event.is_waiting else event.status


def judge(event: Event, recipients: Iterable[Recipient]) -> Json:
    """Return what became of an event, as callers see it.

    The webhooks of its tenant decide or, if that has none, those of the operator, among which those
    that are gone count. The event's own push counts beside those of the operator, and beside those
    of the tenant, too, while it failed or waits: nobody may take such an event for delivered. Of
    those in the same state a paused webhook decides last: what it keeps waits for a person.
    """
    paused_ids: set[str | None] = set()
    tenant: list[WebhookOutcome] = []
    operator: list[WebhookOutcome] = []
    for subscription_id, subscription, copy, missed in recipients:
        state = "not_sent" if missed.reason in NOT_SENT else "not_asked"
        outcome = WebhookOutcome(state, None, subscription_id)
        if copy:
            outcome = WebhookOutcome(state_of(copy), copy.last_error, subscription_id)
        if subscription and subscription.state == "paused":
            paused_ids.add(subscription_id)
        side = tenant if subscription and subscription.tenant else operator
        side.append(outcome)
    own = (
        [WebhookOutcome(state_of(event), event.last_error, None)] if event.is_pushed_itself else []
    )
    in_trouble = [outcome for outcome in own if outcome.state in TROUBLE]
    deciding = min(
        tenant + in_trouble if tenant else operator + own,
        key=lambda outcome: (
            WORST_FIRST.index(outcome.state),
            outcome.subscription_id in paused_ids,
        ),
        default=WebhookOutcome("no_webhook", None, None),
    )
    return {
        **deciding._asdict(),
        "tenant": _count(tenant),
        "operator": _count(operator),
        "own": event.status if own else None,
    }


def _count(outcomes: Iterable[WebhookOutcome]) -> Json:
    counts = Counter(outcome.state for outcome in outcomes)
    return {state: counts[state] for state in WORST_FIRST}
