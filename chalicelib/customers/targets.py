"""Where events go: the webhook, and the targets of subscriptions, which answer for what follows
from an attempt.

Reports are events about events and subscriptions, made at best effort: the DLQ and its alarm are
the promise. Nothing that a report's copy causes is reported: ten subscriptions that get reports and
fail would make more and more of them.
"""

from dataclasses import dataclass, replace

from chalicelib.core import delivery, messages, outcome, posting
from chalicelib.core.event import RESERVED_PREFIX, Attempt, Event, NewEvent, dumps
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.core.target import Target
from chalicelib.customers.subscription import Subscription
from chalicelib.customers.subscriptions import FAILING_LONG, TARGET_ENABLED, Subscriptions
from chalicelib.infra.errors import ApiError
from chalicelib.infra.telemetry import logger
from chalicelib.settings import COPIES_ONLY, PULL_ONLY

CREATED_BY = "triggers:reports"  # no API key is named so: a name has no colon
FAILING_ATTEMPTS = 10  # of a copy, after which its subscription is shown as failing
DISABLED = "not pushed: the subscription is disabled"
HOST_NOT_ALLOWED = "host not allowed"
GONE, GONE_RETRY_SECONDS = "receiver responded 410", 1.0
NOT_PUSHED = "Copies alone are pushed here; replay its copies."
EVENT_MEMBERS = ("event_type", "subscription_id", "source_event_id", "created_at")


def event_failed(event: Event, tenant: str | None, services: CoreServices) -> None:
    """Tell of a dead letter. One about an event itself has no tenant: no customer learns of the
    operator's webhook.
    """
    payload = {**messages.failure(event), **{name: getattr(event, name) for name in EVENT_MEMBERS}}
    del payload["tenant"]
    _post(
        NewEvent(f"{RESERVED_PREFIX}event.failed", dumps(payload), "null", tenant), event, services
    )


def subscription_changed(
    change: str, subscription: Subscription, cause: Event, services: CoreServices
) -> None:
    """Tell that a subscription is `failing`, `disabled` or `ended` because of an event's
    attempt.
    """
    event_type = f"{RESERVED_PREFIX}subscription.{change}"
    _post(
        NewEvent(event_type, subscription.to_json(), "null", subscription.tenant), cause, services
    )


def _post(report: NewEvent, cause: Event, services: CoreServices) -> None:
    """Store a report and queue its copies, if a subscription matches and no report is the cause."""
    if cause.is_report:
        return
    try:
        event = posting.make_event(report, CREATED_BY, COPIES_ONLY, services)
        plan = posting.make_plan(event, services)
        if plan[1:]:  # a subscription asked for it
            invocation = Invocation(services, services.clock())  # without a second try of a write
            posting.start(posting.store(plan, invocation), invocation)
    except ApiError:
        extra = {"event_type": report.event_type, "event_id": cause.event_id}
        logger.warning("report not posted", extra=extra)


@dataclass
class Subscriber:
    """The owner of a subscription's target; the subscription is as a list or a read showed it."""

    subscription: Subscription
    services: CoreServices
    subscriptions: Subscriptions

    def gone(self, event: Event) -> outcome.Decision:
        """End a subscription, as Zapier's rule wants, or disable a tenant's, whose proxy may have
        said 410.

        If it was edited, disabled, or made anew since the push began, the next attempt reads that.
        """
        subscription = self.subscription
        if subscription.tenant is None and self.subscriptions.end(subscription):
            subscription_changed("ended", subscription, event, self.services)
            return outcome.Dropped()
        if subscription.tenant and (
            disabled := self.subscriptions.disable(subscription, GONE, TARGET_ENABLED)
        ):
            subscription_changed("disabled", disabled, event, self.services)
            return outcome.KeptFailed()
        return outcome.RetryLater(GONE_RETRY_SECONDS)

    def recorded(self, event: Event, decision: outcome.Decision) -> None:
        """Set and clear `failing_since`, disable what fails for days, and report that."""
        subscription, changed = self.subscription, None
        match decision:
            case outcome.Delivered():
                self.subscriptions.clear_failing(subscription)
            case outcome.RetryLater() if event.delivery_attempts == FAILING_ATTEMPTS:
                changed = self.subscriptions.set_failing(subscription, event.last_push_error)
            case outcome.DeadLetter():
                changed = self.subscriptions.set_failing(subscription, event.last_push_error)
                changed = changed or self.subscriptions.disable(
                    subscription, event.last_push_error, FAILING_LONG
                )
                event_failed(event, subscription.tenant, self.services)
        if changed:
            change = "disabled" if changed.disabled_at else "failing"
            subscription_changed(change, changed, event, self.services)


@dataclass(frozen=True)
class AllTargets:
    """The webhook and the targets of subscriptions."""

    services: CoreServices
    subscriptions: Subscriptions

    def gone(self, event: Event) -> outcome.Decision:
        return outcome.DeadLetter(outcome.Reason.PERMANENT)

    def recorded(self, event: Event, decision: outcome.Decision) -> None:
        if isinstance(decision, outcome.DeadLetter):
            event_failed(event, None, self.services)

    @property
    def webhook(self) -> Target:
        settings = self.services.settings
        url = settings.webhook_url or ""
        return Target(self, url, f"webhook {url}", settings.signing_secrets, is_enabled=bool(url))

    def _of(self, subscription: Subscription) -> Target:
        settings, url = self.services.settings, subscription.target_url
        return Target(
            Subscriber(subscription, self.services, self.subscriptions),
            url,
            f"{subscription.subscription_id} {url}",
            subscription.secrets(settings.signing_secrets),
            is_enabled=subscription.disabled_at is None,
            subscription_id=subscription.subscription_id,
            fault=None if settings.subscription_hosts.allows(url) else HOST_NOT_ALLOWED,
            public_only=not settings.subscription_hosts.names(url),
            headers=subscription.headers or {},
        )

    def matching(self, event: Event) -> list[Target]:
        return [self._of(subscription) for subscription in self.subscriptions.matching(event)]

    def find(self, event: Event) -> Target | outcome.NotPushed:
        if not event.is_copy:
            webhook = self.webhook
            return webhook if webhook.is_enabled else outcome.Unscheduled()
        subscription = self.subscriptions.get(str(event.subscription_id))
        if subscription is None:
            return outcome.Dropped()
        if subscription.disabled_at:
            return outcome.KeptFailed(DISABLED)
        return self._of(subscription)

    def replay_refusal(self, event: Event) -> ApiError | None:
        if not event.is_copy:
            is_pushed = self.services.settings.webhook != COPIES_ONLY and not event.is_report
            return None if is_pushed else ApiError(409, "not_pushed", NOT_PUSHED)
        match self.find(event):
            case outcome.Dropped():
                return ApiError(409, "subscription_gone", "The subscription of this copy is gone.")
            case outcome.KeptFailed():
                return ApiError(
                    409, "subscription_disabled", "The subscription of this copy is disabled."
                )
        return None

    def push_test_event(self, subscription: Subscription, invocation: Invocation) -> Attempt:
        """Push an event that is stored nowhere to a subscription alone; return the attempt, which
        changes nothing.
        """
        payload = dumps({"subscription_id": subscription.subscription_id})
        new_event = NewEvent("test", payload, "null", subscription.tenant)
        event = posting.make_event(new_event, subscription.created_by, PULL_ONLY, self.services)
        copy = replace(
            posting.make_copy(event, subscription.subscription_id, self.services),
            source_event_id=None,
        )
        started = self.services.clock()
        timeout_seconds = self.services.settings.inline_push_timeout_seconds
        return Attempt.of(
            started, delivery.push(copy, self._of(subscription), timeout_seconds, invocation)
        )
