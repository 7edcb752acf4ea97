"""Where events go, and what follows from an attempt for a subscription."""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from chalicelib.core import delivery, posting
from chalicelib.core.event import Attempt, Event, NewEvent
from chalicelib.core.http_push import own_headers
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.core.outcome import (
    DeadLetter,
    Decision,
    Delivered,
    Dropped,
    KeptFailed,
    NotPushed,
    Outcome,
    Reason,
    Retry,
    Unscheduled,
)
from chalicelib.core.store import TESTED
from chalicelib.core.target import Target
from chalicelib.infra.connection import ADDRESS_NOT_ALLOWED
from chalicelib.infra.errors import ApiError, StorageUnavailableError
from chalicelib.infra.parsing import Json, dumps
from chalicelib.infra.queue import WEBHOOK
from chalicelib.infra.times import DAY_SECONDS, rfc3339, unix_seconds
from chalicelib.settings import COPIES_ONLY, decode_secret
from chalicelib.subscriptions import reports
from chalicelib.subscriptions.subscription import PAYLOAD, Subscription
from chalicelib.subscriptions.subscriptions import Subscriptions

FAILING_ATTEMPTS = 10  # of a copy, after which its subscription is shown as failing
HOST_NOT_ALLOWED = "host not allowed"
GONE_RETRY_SECONDS = 1.0
LEAST_SLOW_SECONDS = 60  # `slow_since` stays at least so long


@dataclass(frozen=True, kw_only=True)
class SubscriptionTarget(Target):
    """The target of a subscription, which is as a list or a read showed it."""

    subscription: Subscription


@dataclass(frozen=True)
class AllTargets:
    """The webhook and the targets of subscriptions."""

    services: CoreServices
    subscriptions: Subscriptions

    @cached_property
    def webhook(self) -> Target:
        settings = self.services.settings
        url = settings.webhook_url or ""
        return Target(
            url=url,
            destination=WEBHOOK,
            owner=WEBHOOK,
            secrets=settings.signing_secrets,
            is_enabled=bool(url),
        )

    def of(self, subscription: Subscription) -> SubscriptionTarget:
        """Return the target of a subscription; the container remembers whether that is slow."""
        now = self.services.clock()
        hosts = self.services.settings.subscription_hosts
        url = subscription.target_url
        target = SubscriptionTarget(
            url=url,
            destination=subscription.subscription_id,
            owner=f"tenant {subscription.tenant or ''}",
            secrets=tuple(map(decode_secret, subscription.secrets(now))),
            is_enabled=subscription.refusal(self.services.settings) is None,
            is_customers=subscription.tenant is not None,
            fault=None if hosts.allows(url) else HOST_NOT_ALLOWED,
            public_only=not hosts.names(url),
            headers=subscription.headers or {},
            has_payload_alone=subscription.body == PAYLOAD,
            header_prefix=subscription.header_prefix,
            subscription=subscription,
        )
        slow_since = subscription.slow_since
        since = unix_seconds(slow_since) if slow_since else None
        self.services.lanes.remember(target, now, since)
        return target

    def matching(self, event: Event) -> list[Target]:
        return [self.of(subscription) for subscription in self.subscriptions.matching(event)]

    def find(self, event: Event) -> Target | NotPushed:
        if not event.is_copy:
            return self.webhook if self.webhook.is_enabled else Unscheduled()
        subscription = self.subscriptions.get(event.subscription_id)
        if subscription is None:
            return Dropped()
        refusal = subscription.refusal(self.services.settings)
        return KeptFailed(str(refusal)) if refusal else self.of(subscription)

    def push_body(self, event: Event) -> str | None:
        """Return the body with which an event would be pushed now.

        None: the event is not pushed, or its subscription is gone. Whether the subscription is
        disabled makes no difference.
        """
        if event.is_copy:
            subscription = self.subscriptions.get(event.subscription_id)
            return self.of(subscription).body_of(event).decode() if subscription else None
        is_pushed = event.is_pushed_itself and self.webhook.is_enabled
        return event.push_body().decode() if is_pushed else None

    def replay_refusal(self, event: Event) -> ApiError | None:
        if not event.is_copy:
            if self.services.settings.webhook != COPIES_ONLY and not event.is_report:
                return None
            detail = "Copies alone are pushed here; replay its copies."
            return ApiError(409, "not_pushed", detail)
        subscription = self.subscriptions.get(event.subscription_id)
        if subscription is None:
            return ApiError(409, "subscription_gone", "The subscription of this copy is gone.")
        return subscription.refusal(self.services.settings)

    def on_gone(self, target: Target, event: Event) -> Decision:
        """End a subscription, as Zapier's rule wants, or disable a tenant's: a proxy may say 410.

        If the subscription was edited, disabled, or made anew since the push began, the next
        attempt reads that. The webhook stays, and its event is a dead letter.
        """
        if not isinstance(target, SubscriptionTarget):
            return DeadLetter(Reason.PERMANENT)
        subscription = target.subscription
        if subscription.tenant is None:
            if self.subscriptions.end(subscription):
                reports.subscription_changed("ended", subscription, event, self.services)
                return Dropped()
        elif disabled := self.subscriptions.disable(subscription, event.last_error):
            reports.subscription_changed("disabled", disabled, event, self.services)
            return KeptFailed()
        return Retry(GONE_RETRY_SECONDS)

    def on_recorded(self, target: Target, event: Event, decision: Decision) -> None:
        """Set and clear `failing_since`, disable what fails for days, and report that."""
        if isinstance(target, SubscriptionTarget):
            self._on_copy_recorded(target.subscription, event, decision)
            return
        match decision:
            case DeadLetter():
                reports.event_failed(event, None, self.services)
            case Delivered() if event.delivery_attempts > FAILING_ATTEMPTS:
                with suppress(StorageUnavailableError):
                    self.services.store.start_catch_up(target.destination)

    def _on_copy_recorded(
        self, subscription: Subscription, event: Event, decision: Decision
    ) -> None:
        error = event.last_error
        changed = None
        match decision:
            case Delivered() if subscription.failing_since:
                # Mark, then clear: a crash in between is made up for by the next delivery.
                with suppress(StorageUnavailableError):
                    self.services.store.start_catch_up(subscription.subscription_id)
                    self.subscriptions.clear_failing(subscription)
            case Retry() if event.delivery_attempts >= FAILING_ATTEMPTS:
                changed = self.subscriptions.set_failing(subscription, error, event.created_at)
            case DeadLetter():
                day_ago = rfc3339(self.services.clock() - DAY_SECONDS)
                changed = self.subscriptions.set_failing(subscription, error, day_ago)
                changed = changed or self.subscriptions.disable_broken(subscription, error)
                reports.event_failed(event, subscription.tenant, self.services)
        self._note_pace(subscription)
        if changed:
            reports.subscription_changed(changed.state, changed, event, self.services)

    def make_test_event(self, subscription: Subscription, new_event: NewEvent | None) -> Event:
        """Return the copy of an event that is stored nowhere: of `new_event`, or of type `test`."""
        if new_event is None:
            payload = dumps({"subscription_id": subscription.subscription_id})
            new_event = NewEvent("test", payload, "null", subscription.tenant)
        event = posting.make_event(new_event, subscription.created_by, self.services)
        copy = posting.make_copy(event, subscription.subscription_id, self.services)
        return replace(copy, source_event_id=None, tenant=subscription.tenant)

    def _note_pace(self, subscription: Subscription) -> None:
        """Set or clear `slow_since` of a subscription, if this container has measured otherwise."""
        now = self.services.clock()
        is_slow = self.services.lanes.is_slow(subscription.subscription_id, now)
        slow_since = subscription.slow_since or ""
        is_old = slow_since <= rfc3339(now - LEAST_SLOW_SECONDS)
        if is_old and is_slow != bool(slow_since):
            self.subscriptions.set_slow(subscription, rfc3339(now) if is_slow else None)

    def push_test_event(
        self, event: Event, subscription: Subscription, invocation: Invocation
    ) -> Json:
        """Push an event to a subscription alone; return the attempt, what was `sent`, and whether
        what waits for the subscription is pushed now, too (`catches_up`).

        It changes nothing but that a catch-up begins if the event is delivered, if anything may be
        pushed there, and if no test began one within RESTART_SECONDS.
        """
        started = self.services.clock()
        target = self.of(subscription)
        result = delivery.push(event, target, started, invocation)
        refusal = subscription.recover_refusal(self.services.settings)
        catches_up = False
        if result.outcome is Outcome.DELIVERED and refusal is None:
            with suppress(StorageUnavailableError):
                store = self.services.store
                catches_up = store.start_catch_up(target.destination, TESTED)
                catches_up = catches_up or store.is_catching_up(target.destination)
        sent = None
        if result.error not in (HOST_NOT_ALLOWED, ADDRESS_NOT_ALLOWED):
            body = target.body_of(event)
            headers = own_headers(event, target, int(started), body)
            sent = {"headers": headers, "body": body.decode()}
        attempt = vars(Attempt.of(started, result))
        return {**attempt, "sent": sent, "catches_up": catches_up}
