"""The targets of events and copies, and what an attempt changes in a subscription."""

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

FAILING_ATTEMPTS = 10  # of a copy that fail before its subscription is shown as failing
HOST_NOT_ALLOWED = "host not allowed"
MIN_MARK_SECONDS = 60  # how long `slow_since` stays at least


@dataclass(frozen=True, kw_only=True)
class SubscriptionTarget(Target):
    """The target of the copies for a subscription."""

    # The subscription as it was read.
    subscription: Subscription


@dataclass(frozen=True)
class AllTargets:
    """The webhook and the targets of subscriptions: the `Targets` of the core."""

    services: CoreServices
    subscriptions: Subscriptions

    @cached_property
    def webhook(self) -> Target:
        """The target of events themselves: the webhook in the settings. If the settings have no
        webhook URL, its URL is empty, and it is not enabled.
        """
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
        """Return the target of a subscription, also if it is disabled, and remember in the lanes
        whether the subscription is stored as slow.

        If the host of its URL is no longer allowed, each push to the target fails with
        HOST_NOT_ALLOWED.
        """
        now = self.services.clock()
        hosts = self.services.settings.subscription_hosts
        url = subscription.target_url
        target = SubscriptionTarget(
            url=url,
            destination=subscription.subscription_id,
            # Destinations with the same owner share the rests of the breaker: the subscriptions of
            # a tenant, or all subscriptions without a tenant. The word before the tenant's name
            # keeps it apart from the owner WEBHOOK.
            owner=f"tenant {subscription.tenant or ''}",
            secrets=tuple(map(decode_secret, subscription.secrets(now))),
            is_enabled=subscription.refusal(self.services.settings) is None,
            is_customers=subscription.tenant is not None,
            fault=None if hosts.allows(url) else HOST_NOT_ALLOWED,
            # A host that the operator allowed by its name may have a private address.
            public_only=not hosts.names(url),
            headers=subscription.headers or {},
            has_payload_alone=subscription.body == PAYLOAD,
            header_prefix=subscription.header_prefix,
            subscription=subscription,
        )
        slow_since = unix_seconds(subscription.slow_since) if subscription.slow_since else None
        self.services.lanes.remember(target, now, slow_since)
        return target

    def matching(self, event: Event) -> list[Target]:
        """Return the targets of the subscriptions that get a copy of a new event."""
        return [self.of(subscription) for subscription in self.subscriptions.matching(event)]

    def find(self, event: Event) -> Target | NotPushed:
        """Return the target to which a stored event or copy is pushed or, if it must not be pushed,
        the decision to record instead.

        An event stays in the inbox if there is no webhook (Unscheduled). A copy is deleted if its
        subscription is gone (Dropped), and failed if its subscription is disabled or its tenant
        suspended (KeptFailed). The subscription of a copy is read consistently.
        """
        if not event.is_copy:
            return self.webhook if self.webhook.is_enabled else Unscheduled()
        subscription = self.subscriptions.get(event.subscription_id)
        if subscription is None:
            return Dropped()
        refusal = subscription.refusal(self.services.settings)
        return KeptFailed(str(refusal)) if refusal else self.of(subscription)

    def push_body(self, event: Event) -> str | None:
        """Return the body with which an event or copy would be pushed now.

        Return None for an event that is not pushed itself, because there is no webhook or only its
        copies are pushed, and for a copy whose subscription is gone. A copy has a body also while
        its subscription is disabled.
        """
        if event.is_copy:
            subscription = self.subscriptions.get(event.subscription_id)
            return self.of(subscription).body_of(event).decode() if subscription else None
        is_pushed = event.is_pushed_itself and self.webhook.is_enabled
        return event.push_body().decode() if is_pushed else None

    def replay_refusal(self, event: Event) -> ApiError | None:
        """Return the error 409 for which an event or copy cannot be replayed now; None: it can be
        replayed.

        A report and, if the setting says that only copies are pushed, any event cannot be replayed
        itself. A copy cannot be replayed if its subscription is gone or disabled, or the tenant of
        its subscription is suspended. The subscription is read consistently.
        """
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
        """Delete or disable the subscription whose target responded 410 Gone; return the decision
        for the event or copy.

        A subscription without a tenant is deleted, as Zapier asks for, with the copy. A tenant's
        subscription is disabled, because a proxy may have sent the 410, and the copy is kept as
        failed. If this call neither deleted nor disabled it, because the subscription was changed
        since the push began or DynamoDB failed, the copy is retried after a second, and that
        attempt reads the subscription as it is then. An event for the webhook becomes a dead
        letter. Raises nothing.

        :param event: The event or copy, with the attempt.
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
        return Retry(delay_seconds=1.0)

    def on_recorded(self, target: Target, event: Event, decision: Decision) -> None:
        """Do what follows from a decision about an event or copy that was recorded. Raises nothing:
        errors are logged.

        For a copy, see `_on_copy_recorded`. If an event failed for good at the webhook, this is
        reported. If an event was delivered to the webhook after more than FAILING_ATTEMPTS
        attempts, the webhook was in trouble, and a catch-up pushes the events that wait for it.

        :param event: The event or copy after the decision.
        """
        if isinstance(target, SubscriptionTarget):
            self._on_copy_recorded(target.subscription, event, decision)
            return
        match decision:
            case DeadLetter():
                reports.event_failed(event, tenant=None, services=self.services)
            case Delivered() if event.delivery_attempts > FAILING_ATTEMPTS:
                with suppress(StorageUnavailableError):
                    self.services.store.start_catch_up(target.destination)

    def _on_copy_recorded(
        self, subscription: Subscription, copy: Event, decision: Decision
    ) -> None:
        """Do what follows from a decision about a copy that was recorded.

        The delivery of a copy for a subscription with `failing_since` clears that and starts a
        catch-up. A retry after FAILING_ATTEMPTS or more attempts sets `failing_since`, unless one
        of the newest copies was delivered; copies that are older than this copy do not count. A
        dead letter sets it, too, unless one of the newest copies of the last day was delivered; if
        the subscription is failing already, and for many days, the dead letter disables it.
        `slow_since` is set or cleared. These changes, except of `slow_since` and of a delivery, are
        reported, and so is the dead letter.

        :param subscription: The subscription as it was read for the push.
        :param copy: The copy after the decision.
        """
        error = copy.last_error
        changed = None
        match decision:
            case Delivered() if subscription.failing_since:
                # Start, then clear: after a crash in between, the next delivery does both.
                with suppress(StorageUnavailableError):
                    self.services.store.start_catch_up(subscription.subscription_id)
                    self.subscriptions.clear_failing(subscription)
            case Retry() if copy.delivery_attempts >= FAILING_ATTEMPTS:
                changed = self.subscriptions.set_failing(subscription, error, copy.created_at)
            case DeadLetter():
                day_ago = rfc3339(self.services.clock() - DAY_SECONDS)
                changed = self.subscriptions.set_failing(subscription, error, day_ago)
                changed = changed or self.subscriptions.disable_broken(subscription, error)
                reports.event_failed(copy, subscription.tenant, self.services)
        self._store_pace(subscription)
        if changed:
            reports.subscription_changed(changed.state, changed, copy, self.services)

    def make_test_event(self, subscription: Subscription, new_event: NewEvent | None) -> Event:
        """Return a copy for a subscription, made of a new event. Neither is stored.

        :param new_event: The event; None: an event of type `test`, whose payload has the
            subscription's id.
        """
        if new_event is None:
            payload = dumps({"subscription_id": subscription.subscription_id})
            new_event = NewEvent("test", payload, metadata="null", tenant=subscription.tenant)
        event = posting.make_event(new_event, subscription.created_by, self.services)
        copy = posting.make_copy(event, subscription.subscription_id, self.services)
        # Nobody could read the source event, which is not stored. The tenant is that of the
        # subscription, whatever event the caller gives.
        return replace(copy, source_event_id=None, tenant=subscription.tenant)

    def _store_pace(self, subscription: Subscription) -> None:
        """Set `slow_since` of a subscription to now if this container treats it as slow and it is
        not set; clear it if it is set and this container does not.

        A `slow_since` younger than MIN_MARK_SECONDS stays, because another container set it just
        now.
        """
        now = self.services.clock()
        is_slow = self.services.lanes.is_slow(subscription.subscription_id, now)
        slow_since = subscription.slow_since or ""
        is_old = slow_since <= rfc3339(now - MIN_MARK_SECONDS)  # also if it is not set
        if is_old and is_slow != bool(slow_since):
            self.subscriptions.set_slow(subscription, rfc3339(now) if is_slow else None)

    def push_test_event(
        self, event: Event, subscription: Subscription, invocation: Invocation
    ) -> Json:
        """Push a test copy to a subscription once; return what happened.

        The attempt is not recorded. But if the test copy is delivered, and copies can be pushed to
        the subscription, a catch-up is started, which pushes the copies that wait for the
        subscription, unless a test started one within RESTART_SECONDS.

        :param event: The copy, which is not stored: see `make_test_event`.
        :returns: A dict with the members of an attempt, `sent` (the headers and the body of the
            request; None: no request was made), and `catches_up` (whether a catch-up of the
            subscription is under way now).
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
        # These two errors are found before a request is made.
        if result.error not in (HOST_NOT_ALLOWED, ADDRESS_NOT_ALLOWED):
            body = target.body_of(event)
            headers = own_headers(event, target, int(started), body)
            sent = {"headers": headers, "body": body.decode()}
        attempt = vars(Attempt.of(started, result))
        return {**attempt, "sent": sent, "catches_up": catches_up}
