"""Attempts, top down: claim an event, push it, decide what follows, record that.

Each step may be the last before a crash: the sweep goes on from the state that is stored by then.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from http import HTTPStatus

from chalicelib.core import messages
from chalicelib.core.breaker import Breaker
from chalicelib.core.event import Attempt, Event
from chalicelib.core.invocation import AFTER_PUSH_SECONDS, CoreServices, Invocation
from chalicelib.core.lanes import FAST_PUSH_SECONDS
from chalicelib.core.outcome import (
    BREAKER_OPEN,
    UNPUSHED_RETRY_SECONDS,
    DeadLetter,
    Decision,
    Delivered,
    Dropped,
    NotPushed,
    Outcome,
    PushResult,
    Reason,
    Retry,
    back_off,
    decide,
)
from chalicelib.core.store import WriteResult
from chalicelib.core.target import Target
from chalicelib.infra.clients import CALL_SECONDS
from chalicelib.infra.errors import OutOfTimeError, StorageUnavailableError
from chalicelib.infra.parsing import Json
from chalicelib.infra.queue import MAX_DELAY_SECONDS, Queue
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import unix_seconds

EARLY_SECONDS = 5  # by the clock of another container


def deliver(event_id: str, invocation: Invocation) -> None:
    """Push an event until it is settled, or the next attempt is left to a message or the sweep.

    Raises StorageUnavailableError and QueueUnavailableError.
    """
    services = invocation.services
    event = _attempt_due(event_id, invocation)
    while event and invocation.waits_for(event):
        services.sleep(event.seconds_until_due(services.clock()))
        event = _attempt_due(event_id, invocation)


def _attempt_due(event_id: str, invocation: Invocation) -> Event | None:
    """Claim an event and make an attempt; return the event after that, or None if it is absent, not
    due, or held by another.
    """
    services = invocation.services
    claim = services.store.claim(event_id, services.new_id())
    event = claim.event
    if event is None:
        # Events are stored before their messages are sent: it was there.
        extra = {"event_id": event_id}
        logger.warning("message dropped: its event expired or was deleted", extra=extra)
        return None
    if not claim.applied:
        _send_on(event, invocation)
        return None
    try:
        target = services.targets.find(event)
    except StorageUnavailableError:  # an outage of reads must not end events
        return _record_unpushed(event, Retry(UNPUSHED_RETRY_SECONDS), invocation)
    if isinstance(target, NotPushed):
        return _record_unpushed(event, target, invocation)
    if event.delivery_attempts > services.settings.max_delivery_attempts:
        # The last attempt was not recorded: it killed its process, or its record failed.
        return _record_unpushed(event, DeadLetter(Reason.EXHAUSTED), invocation, target)
    if invocation.is_fast_lane and services.needs_slow_lane(event):
        # Recorded, then sent: a message that came first would find the event claimed.
        return _record_unpushed(event, Retry(delay_seconds=0), invocation)
    return _attempt(event, target, invocation)


def _record_unpushed(
    event: Event, decision: Decision, invocation: Invocation, target: Target | None = None
) -> Event:
    """Record a decision without a push, and take back the attempt that the claim counted; return
    the event after that.
    """
    uncounted = replace(event, delivery_attempts=event.delivery_attempts - 1)
    return record(uncounted, decision, invocation, target).event or event


def _send_on(event: Event, invocation: Invocation) -> None:
    """Replace a message that came up to EARLY_SECONDS too early, in the same queue.

    A message that came earlier than that is dropped: whatever delayed the attempt sent another one.
    """
    now = invocation.services.clock()
    if event.next_attempt_at and not event.is_claimed(now):
        delay_seconds = event.seconds_until_due(now)
        if delay_seconds <= EARLY_SECONDS:
            enqueue(event, delay_seconds, invocation.queue)


def enqueue(event: Event, delay_seconds: float, queue: Queue) -> None:
    """Send a message for the next attempt; if it is due after MAX_DELAY_SECONDS, leave that to the
    sweep.
    """
    if delay_seconds <= MAX_DELAY_SECONDS:
        queue.send(messages.push_message(event), delay_seconds)


def _attempt(event: Event, target: Target, invocation: Invocation) -> Event:
    """Make an attempt of the worker, or count one if the breaker is open; return the event after
    that.
    """
    services = invocation.services
    breaker = services.worker_breaker
    started = services.clock()
    # A catch-up asks for no trial: one that fails would keep the destination open for longer.
    asked_at = 0.0 if event.is_catching_up else event.asked_at
    open_seconds = breaker.acquire(target, started, asked_at)
    if not open_seconds:
        timeout_seconds = FAST_PUSH_SECONDS if invocation.is_fast_lane else math.inf
        return push_and_record(event, target, breaker, timeout_seconds, invocation)
    if not breaker.has_failed_since(target, event.asked_at):
        # Nobody has tried since somebody asked for it: another push is the trial. It may succeed
        # long before the rest ends. The longer that takes, the longer it waits: thousands may.
        seconds = max(services.settings.breaker_open_seconds, 2 * (started - event.asked_at))
        delay_seconds = min(seconds * (1 + services.random()), MAX_DELAY_SECONDS)
        if event.is_catching_up and event.seconds_until_resumed(started) > 0:
            delay_seconds = min(delay_seconds, event.seconds_until_resumed(started))
        return _record_unpushed(event, Retry(delay_seconds), invocation)
    result = PushResult(Outcome.RETRY, error=BREAKER_OPEN, retry_after_seconds=open_seconds)
    return _follow(event, target, started, result, invocation)


def push_and_record(
    event: Event, target: Target, breaker: Breaker, timeout_seconds: float, invocation: Invocation
) -> Event:
    """Push a claimed event once, count the result in a breaker and in the lanes, and record what
    follows; return the event after that.
    """
    services = invocation.services
    started = services.clock()
    try:
        result = push(event, target, started, invocation, timeout_seconds)
    except OutOfTimeError:
        # The container would make no other trial for MAX_TRIAL_SECONDS.
        breaker.release_trial(target, started)
        return _record_unpushed(event, Retry(UNPUSHED_RETRY_SECONDS), invocation)
    ended = services.clock()
    # Also for a target with a fault: a trial that was not made has ended, too.
    breaker.record(target, started, ended, result, services.settings.breaker_open_seconds)
    services.lanes.record(target, started, ended, result, in_fast_lane=invocation.is_fast_lane)
    return _follow(event, target, started, result, invocation)


def push(
    event: Event,
    target: Target,
    started: float,
    invocation: Invocation,
    timeout_seconds: float = math.inf,
) -> PushResult:
    """Push an event once, unless its target has a fault.

    The push is signed for `started`, now in Unix seconds. The settings and the time that is left
    bound `timeout_seconds`. Raises OutOfTimeError.
    """
    settings = invocation.services.settings
    time_left = invocation.seconds_left() - AFTER_PUSH_SECONDS
    timeout_seconds = min(settings.push_timeout_seconds, timeout_seconds, time_left)
    if timeout_seconds <= 0:
        raise OutOfTimeError
    if target.fault:
        return PushResult(Outcome.FAILED, error=target.fault)
    return invocation.services.push.send(
        event, target, int(started), timeout_seconds, settings.push_connect_timeout_seconds
    )


def _follow(
    event: Event, target: Target, started: float, result: PushResult, invocation: Invocation
) -> Event:
    """Decide what follows from an attempt, record that, and log one line even if the record fails;
    return the event after that.
    """
    services = invocation.services
    claimed = event
    event = event.with_attempt(Attempt.of(started, result))
    if result.status_code == HTTPStatus.GONE:
        decision = services.targets.on_gone(target, event)
    elif claimed.is_catching_up and result.outcome is Outcome.RETRY:
        event = replace(event, delivery_attempts=event.delivery_attempts - 1)
        decision = _resume(claimed, event.delivery_attempts, result, services)
    else:
        decision = decide(result, event.delivery_attempts, services.settings, services.random)
    is_recorded = False
    try:
        recorded = record(event, decision, invocation, target)
        is_recorded = recorded.applied
    finally:
        _log_attempt(event, decision, services, is_recorded=is_recorded)
    return recorded.event or event


def _resume(
    claimed: Event, counted_attempts: int, result: PushResult, services: CoreServices
) -> Retry:
    """Return when the next attempt is due after one of a catch-up failed, which does not count:
    when it was due before the catch-up, or after `Retry-After` if that is later.

    If that time has passed, it is due after the backoff of the attempts that count.
    """
    seconds = claimed.seconds_until_resumed(services.clock())
    if seconds <= 0:
        return back_off(result, counted_attempts, services.settings, services.random)
    # An open breaker is no answer of the receiver: it may close before the time comes.
    asked_seconds = 0.0 if result.error == BREAKER_OPEN else result.retry_after_seconds
    if asked_seconds > seconds:
        return Retry(asked_seconds)
    return Retry(seconds, claimed.resume_at)


def record(
    event: Event, decision: Decision, invocation: Invocation, target: Target | None = None
) -> WriteResult:
    """Record a decision by one write, then send the message of a retry, and let the targets follow
    up (`Targets.on_recorded`).

    If the write is not applied, nothing follows: a consumer acknowledged the event, or its claim
    expired. Raises StorageUnavailableError and QueueUnavailableError.
    """
    services = invocation.services
    store = services.store
    event = event.after(decision, services.clock())
    is_customers = target is not None and target.is_customers
    is_operators_failure = isinstance(decision, DeadLetter) and not is_customers
    # Announce, then record: a crash in between announces a failure twice, never not at all.
    if is_operators_failure:
        services.dlq.send(messages.dead_letter(event))
    elif isinstance(decision, DeadLetter):
        _log_dead_letter(event)
    write = store.delete_claimed if isinstance(decision, Dropped) else store.record
    recorded = invocation.retry_write(write, event)
    if not recorded.applied:
        return recorded
    if is_operators_failure:
        _log_dead_letter(event)
    if isinstance(decision, Retry) and decision.due_at is None:
        _enqueue_retry(event, decision.delay_seconds, invocation)
    if target:
        services.targets.on_recorded(target, event, decision)
    return WriteResult(True, event)


def _enqueue_retry(event: Event, delay_seconds: float, invocation: Invocation) -> None:
    """Send the message of a retry, unless this invocation makes it; without time for the call, the
    sweep sends it.
    """
    has_time = invocation.seconds_left() >= CALL_SECONDS
    if has_time and not invocation.waits_for(event):
        enqueue(event, delay_seconds, invocation.services.queue_for(event))


def _log_dead_letter(event: Event) -> None:
    """Log one line with the metric of a dead letter."""
    metrics = {"CopyFailure" if event.is_copy else "DeliveryFailure": 1}
    extra = {"event_id": event.event_id, "reason": event.reason, "metrics": metrics}
    logger.warning("dead letter", extra=extra)


def _log_attempt(
    event: Event, decision: Decision, services: CoreServices, *, is_recorded: bool
) -> None:
    """Log one line with the metrics of an event's latest attempt."""
    attempt = event.attempts[-1]
    metrics: Json = {}
    retry_seconds = None
    if isinstance(decision, Retry):
        retry_seconds = round(decision.delay_seconds, 3)
        metrics["DeliveryRetry"] = 1
    elif isinstance(decision, Delivered) and is_recorded:
        latency_seconds = services.clock() - unix_seconds(event.replayed_at or event.created_at)
        metrics["DeliverySuccess"] = 1
        metrics["DeliveryLatency"] = max(0, round(latency_seconds * 1000))  # by another clock
    if attempt.duration_ms:
        metrics["PushDuration"] = attempt.duration_ms
    extra = {
        "event_id": event.event_id,
        "attempt": event.delivery_attempts,
        "retry_in_seconds": retry_seconds,
        "outcome": attempt.outcome,
        "status_code": attempt.status_code,
        "error": attempt.error,
        "duration_ms": attempt.duration_ms,
        "metrics": metrics,
    }
    logger.info("attempt", extra=extra)


@contextlib.contextmanager
def errors_left_to_sweep(*events: Event) -> Iterator[None]:
    """Log an error of the block instead of raising it: its events are stored, and the sweep queues
    them once nobody holds them.
    """
    try:
        yield
    except Exception:
        event_ids = " ".join(event.event_id for event in events)
        logger.exception("delivery left to the sweep", extra={"event_id": event_ids})
