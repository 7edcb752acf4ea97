"""Where events go: the webhook, and the targets of subscriptions, which answer for what follows from an attempt."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from chalicelib.core import delivery, posting
from chalicelib.core.decision import (
    DeadLetter,
    Decision,
    Delivered,
    Dropped,
    KeptFailed,
    NotPushed,
    RetryLater,
    Unscheduled,
)
from chalicelib.core.event import Attempt, Event, NewEvent, Reason, dumps
from chalicelib.core.invocation import CoreServices, Invocation, Target
from chalicelib.customers import reports
from chalicelib.customers.subscriptions import Subscription, Subscriptions
from chalicelib.infra.errors import ApiError
from chalicelib.settings import COPIES_ONLY, PULL_ONLY

FAILING_ATTEMPTS = 10  # of a copy, after which its subscription is shown as failing
DISABLED = "not pushed: the subscription is disabled"
HOST_NOT_ALLOWED = "host not allowed"
GONE_RETRY_SECONDS = 1.0
NOT_PUSHED = ApiError(409, "not_pushed", "Copies alone are pushed here; replay its copies.")


@dataclass(frozen=True)
class Webhook:
    """The target of events themselves. Without a URL nothing is pushed there."""

    services: CoreServices
    subscription_id: str | None = None
    public_only: bool = False

    @property
    def url(self) -> str:
        return self.services.settings.webhook_url or ""

    @property
    def destination(self) -> str:
        return f"webhook {self.url}"

    @property
    def is_open(self) -> bool:
        return bool(self.url)

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return self.services.settings.signing_secrets

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    def fault(self) -> str | None:
        return None

    def gone(self) -> Decision:
        return DeadLetter(Reason.PERMANENT)

    def settled(self, event: Event, decision: Decision) -> None:
        if isinstance(decision, DeadLetter):
            reports.event_failed(event, None, self.services)


@dataclass
class SubscriptionTarget:
    """The target of a subscription, as a list or a read showed it."""

    subscription: Subscription
    services: CoreServices
    subscriptions: Subscriptions

    @property
    def url(self) -> str:
        return self.subscription.target_url

    @property
    def destination(self) -> str:
        return f"{self.subscription_id} {self.url}"

    @property
    def subscription_id(self) -> str:
        return self.subscription.subscription_id

    @property
    def is_open(self) -> bool:
        return self.subscription.disabled_at is None

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return self.subscription.secrets(self.services.settings.signing_secrets)

    @property
    def headers(self) -> Mapping[str, str]:
        return {}

    @property
    def public_only(self) -> bool:
        return not self.services.settings.subscription_hosts.names(self.url)

    def fault(self) -> str | None:
        return None if self.services.settings.subscription_hosts.allows(self.url) else HOST_NOT_ALLOWED

    def gone(self) -> Decision:
        """End a subscription, as Zapier's rule wants, or disable a tenant's, whose proxy may have said 410.

        If it was edited, disabled, or made anew since the push began, the next attempt reads that.
        """
        if self.subscription.tenant is None:
            return Dropped() if self.subscriptions.end(self.subscription) else RetryLater(GONE_RETRY_SECONDS)
        disabled = self.subscriptions.disable(self.subscription)
        self.subscription = disabled or self.subscription
        return KeptFailed() if disabled else RetryLater(GONE_RETRY_SECONDS)

    def settled(self, event: Event, decision: Decision) -> None:
        """Set and clear `failing_since`, disable what fails for days, and report that."""
        subscription, changed = self.subscription, None
        match decision:
            case Delivered():
                self.subscriptions.clear_failing(subscription)
            case RetryLater() if event.delivery_attempts == FAILING_ATTEMPTS:
                changed = self.subscriptions.set_failing(subscription)
            case DeadLetter():
                changed = self.subscriptions.set_failing(subscription) or self.subscriptions.disable_failing(
                    subscription
                )
                reports.event_failed(event, subscription.tenant, self.services)
            case KeptFailed():
                changed = subscription
            case Dropped():
                reports.subscription_changed("ended", subscription, event, self.services)
        if changed:
            change = "disabled" if changed.disabled_at else "failing"
            reports.subscription_changed(change, changed, event, self.services)


@dataclass(frozen=True)
class AllTargets:
    """The webhook and the subscriptions of a stage."""

    services: CoreServices
    subscriptions: Subscriptions

    @cached_property
    def webhook(self) -> Target:
        return Webhook(self.services)

    def matching(self, event: Event) -> list[Target]:
        found = self.subscriptions.matching(event.event_type, event.tenant)
        return [SubscriptionTarget(subscription, self.services, self.subscriptions) for subscription in found]

    def find(self, event: Event) -> Target | NotPushed:
        if not event.is_copy:
            return self.webhook if self.webhook.is_open else Unscheduled()
        subscription = self.subscriptions.get(str(event.subscription_id))
        if subscription is None:
            return Dropped()
        if subscription.disabled_at:
            return KeptFailed(DISABLED)
        return SubscriptionTarget(subscription, self.services, self.subscriptions)

    def replay_refusal(self, event: Event) -> ApiError | None:
        if not event.is_copy:
            is_pushed = self.services.settings.webhook != COPIES_ONLY and not event.is_report
            return (
                None if is_pushed else ApiError(409, "not_pushed", "Copies alone are pushed here; replay its copies.")
            )
        match self.find(event):
            case Dropped():
                return ApiError(409, "subscription_gone", "The subscription of this copy is gone.")
            case KeptFailed():
                return ApiError(409, "subscription_disabled", "The subscription of this copy is disabled.")
        return None

    def push_test_event(self, subscription: Subscription, invocation: Invocation) -> Attempt:
        """Push an event that is stored nowhere to a subscription alone; return the attempt, which changes nothing."""
        target = SubscriptionTarget(subscription, self.services, self.subscriptions)
        payload = dumps({"subscription_id": subscription.subscription_id})
        new_event = NewEvent("test", payload, "null", subscription.tenant)
        event = posting.make_event(new_event, subscription.created_by, PULL_ONLY, self.services)
        copy = replace(posting.make_copy(event, target.subscription_id, self.services), source_event_id=None)
        started = self.services.clock()
        timeout_seconds = self.services.settings.inline_push_timeout_seconds
        return delivery.push(copy, target, timeout_seconds, invocation).to_attempt(started)
