"""One push, if it may be made now, and what it tells of its destination."""

from chalicelib.core.event import Event
from chalicelib.core.http_push import PushResult
from chalicelib.core.outcome import Outcome
from chalicelib.core.planning import Destination
from chalicelib.deps import Invocation, Pusher, Services
from chalicelib.infra.times import rfc3339, unix_seconds

AFTER_PUSH_CALLS = 2  # the record, then the message of a retry or the `failing_since` of a subscription
HOST_NOT_ALLOWED = "host not allowed"


class OutOfTimeError(Exception):
    """The function ends too soon for a push; the sweep queues the event when its claim ends."""


def push_once(event: Event, destination: Destination, pusher: Pusher, invocation: Invocation) -> PushResult:
    """Push an event, unless its destination may not be pushed to now. Raises OutOfTimeError."""
    services, settings, subscription = invocation.services, invocation.services.settings, destination.subscription
    timeout_seconds = min(settings.push_timeout_seconds, invocation.seconds_left(AFTER_PUSH_CALLS))
    if pusher is not Pusher.WORKER:  # a caller waits
        timeout_seconds = min(settings.inline_push_timeout_seconds, timeout_seconds)
    if timeout_seconds <= 0:
        raise OutOfTimeError
    if subscription and not settings.subscription_hosts.allows(destination.url):
        return PushResult(Outcome.FAILED, error=HOST_NOT_ALLOWED, is_made=False)
    if pusher is Pusher.WORKER and (refusal := _refusal(destination, services)):
        return PushResult(Outcome.RETRY, error=refusal, is_made=False, hung=True)
    started = services.clock()
    result = services.push.send(
        event,
        destination.url,
        timestamp=int(started),
        timeout_seconds=timeout_seconds,
        connect_timeout_seconds=settings.push_connect_timeout_seconds,
        secrets=subscription.secrets(settings.signing_secrets) if subscription else settings.signing_secrets,
        public_only=bool(subscription and not settings.subscription_hosts.names(destination.url)),
    )
    if pusher is Pusher.INLINE:
        failed = result.outcome is Outcome.RETRY
        services.breaker.record(destination.url, services.clock(), failed=failed, timed_out=result.timed_out)
    elif pusher is Pusher.WORKER:
        _record_push(result, started, destination, invocation)
    return result


def _refusal(destination: Destination, services: Services) -> str | None:
    """Return why the worker does not push now; None: it does."""
    until = destination.subscription and destination.subscription.next_attempt_at
    not_before, now = unix_seconds(until) if until else None, services.clock()
    return services.worker_breaker.refusal(destination.url, now, services.settings, not_before=not_before)


def _record_push(result: PushResult, started: float, destination: Destination, invocation: Invocation) -> None:
    """Count a push of the worker; tell other containers if a subscription's target hangs, or no longer does."""
    services, now, subscription = invocation.services, invocation.services.clock(), destination.subscription
    open_seconds = services.settings.breaker_open_seconds
    hangs = services.worker_breaker.record(
        destination.url,
        started,
        now,
        failed=result.outcome is Outcome.RETRY or result.hung,  # a fast 422 shows that the receiver works
        hung=result.hung,
        pause_seconds=open_seconds * (1 + services.random()),  # not all containers wait for it at the same time
    )
    changed = subscription and (hangs or (subscription.next_attempt_at and not result.hung))
    if subscription and changed and invocation.has_time(1 + AFTER_PUSH_CALLS):
        services.subscriptions.postpone_pushes(subscription, rfc3339(now + open_seconds) if hangs else None)
