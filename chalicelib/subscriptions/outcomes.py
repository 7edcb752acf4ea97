"""What became of events and how deliveries go, judged once: the page and commands say the same."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from chalicelib.core.event import Event
from chalicelib.infra.parsing import Json
from chalicelib.subscriptions.subscription import Subscription

WORST_FIRST = ("failed", "waiting", "not_sent", "pending", "delivered", "not_asked")
TROUBLE = ("failed", "waiting")
# The subscription would get the event if it were posted now: the copy that is missing can be sent.
SENDABLE = ("later", "edited")


class MissReason(NamedTuple):
    """Why a subscription did not get an event."""

    # The member `reason` of the API, such as `event_types`, `filter` or `failed`.
    reason: str
    # The path of the first member of the payload that the subscription's filter does not match;
    # None if the reason is another, or the payload is nested too deep for the filter.
    member: str | None = None


class Recipient(NamedTuple):
    """A subscription that has a copy of an event, or could have had one."""

    subscription_id: str
    # None: the subscription is gone.
    subscription: Subscription | None
    # None: the subscription has no copy of the event.
    copy: Event | None
    # Why the subscription has no copy; None: it has one.
    missed: MissReason | None


class WebhookOutcome(NamedTuple):
    """What became of an event for one webhook."""

    # A member of WORST_FIRST, or `no_webhook`.
    state: str
    # The error of the latest attempt; None: no attempt failed.
    error: str | None
    # The subscription; None: the webhook of the operator, to which events themselves are pushed.
    subscription_id: str | None
    # Whether the subscription was disabled by hand.
    is_paused: bool = False


def miss_members(missed: MissReason | None) -> Json:
    """Return the members `reason` and `member` of an answer.

    :param missed: Why a subscription did not get an event; None: it got the event, and both members
        are null.
    """
    if missed is None:
        return {"reason": None, "member": None}
    return {"reason": missed.reason, "member": missed.member}


def state_of(event: Event) -> str:
    """Return the state of an event's own push, or of a copy: its status, or `waiting` if an attempt
    failed and another one is due.
    """
    return "waiting" if event.is_waiting else event.status


def judge(event: Event, recipients: Iterable[Recipient]) -> Json:
    """Return the member `outcome` of an event: the state of the webhook that decides, and how many
    webhooks are in which state.

    Of the webhooks of the event's tenant, the webhook in the worst state decides. If the tenant has
    no webhook, one of the operator's webhooks decides: these are the subscriptions that have no
    tenant or were deleted, and the webhook in the settings, to which the event itself is pushed. If
    the push of the event itself failed or waits, it counts together with the tenant's webhooks,
    too: nobody may take such an event for delivered.

    :param event: The event, not a copy.
    :param recipients: All recipients of the event.
    :returns: A dict with the `state` of the webhook that decides (`no_webhook`: there is none), its
        `error` and its `subscription_id` (None: the webhook in the settings); the numbers of the
        `tenant`'s and the `operator`'s subscriptions by state; and `own`, the status of the event's
        own push (None: the event itself is not pushed).
    """
    of_tenant: list[WebhookOutcome] = []
    of_operator: list[WebhookOutcome] = []
    for recipient in recipients:
        subscription = recipient.subscription
        is_tenants = subscription is not None and subscription.tenant is not None
        outcomes = of_tenant if is_tenants else of_operator
        outcomes.append(_outcome_for(recipient))
    own: list[WebhookOutcome] = []
    if event.is_pushed_itself:
        own.append(WebhookOutcome(state_of(event), event.last_error, subscription_id=None))
    own_in_trouble = [outcome for outcome in own if outcome.state in TROUBLE]
    candidates = of_tenant + own_in_trouble if of_tenant else of_operator + own
    no_webhook = WebhookOutcome("no_webhook", error=None, subscription_id=None)
    # The worst state has the lowest rank.
    deciding = min(candidates, key=_severity, default=no_webhook)
    return {
        "state": deciding.state,
        "error": deciding.error,
        "subscription_id": deciding.subscription_id,
        "tenant": _count_states(of_tenant),
        "operator": _count_states(of_operator),
        "own": event.status if own else None,
    }


def _outcome_for(recipient: Recipient) -> WebhookOutcome:
    """Return what became of an event for the subscription of a recipient.

    Without a copy, the state is `not_sent` if the event can be sent to the subscription as it is
    now, and `not_asked` if its event types, filter or host exclude the event, or the copy was
    erased.
    """
    subscription = recipient.subscription
    is_paused = subscription is not None and subscription.state == "paused"
    copy = recipient.copy
    if copy:
        state = state_of(copy)
        error = copy.last_error
    else:
        # A recipient without a copy has the reason in `missed`.
        reason = recipient.missed.reason if recipient.missed else None
        state = "not_sent" if reason in SENDABLE else "not_asked"
        error = None
    return WebhookOutcome(state, error, recipient.subscription_id, is_paused)


def _severity(outcome: WebhookOutcome) -> tuple[int, bool]:
    """Return the sort key of an outcome; the outcome with the lowest key decides about the event.

    The worst state comes first. Of webhooks in the same state, paused ones come last: their owner
    paused them and knows that their copies are not pushed.
    """
    return WORST_FIRST.index(outcome.state), outcome.is_paused


def _count_states(outcomes: Iterable[WebhookOutcome]) -> Json:
    """Return how many outcomes have each state of WORST_FIRST, by state."""
    counts = Counter(outcome.state for outcome in outcomes)
    return {state: counts[state] for state in WORST_FIRST}
