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

EARLY_SECONDS = 5  # how early a message may come, by the clock of another container


def deliver(event_id: str, invocation: Invocation) -> None:
    """Attempt to push an event or copy, and attempt it again while it is retried so soon that this
    invocation waits for that. Later retries are left to a queue message or the sweep.

    Does nothing if the event is absent, not due or claimed. Raises StorageUnavailableError and
    QueueUnavailableError.
    """
    services = invocation.services
    event = _attempt_due(event_id, invocation)
    while event and invocation.waits_for(event):
        services.sleep(event.seconds_until_due(services.clock()))
        event = _attempt_due(event_id, invocation)


def _attempt_due(event_id: str, invocation: Invocation) -> Event | None:
    """Claim an event, make an attempt to push it, and record what follows; return the event after
    that. Return None if the event is absent, not due, or claimed by somebody else.

    A claimed event that cannot be pushed now is not pushed, and the reason is recorded: its target
    is unknown or disabled, it has no attempts left, or it belongs in the slow lane. Raises
    StorageUnavailableError and QueueUnavailableError.
    """
    services = invocation.services
    claim = services.store.claim(event_id, services.new_id())
    event = claim.event
    if event is None:
        # Events are stored before their messages are sent: the event was there.
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
    if isinstance(target, NotPushed):  # a decision in place of a target
        return _record_unpushed(event, target, invocation)
    if event.delivery_attempts > services.settings.max_delivery_attempts:
        # The last attempt was not recorded: it killed its process, or its record failed.
        return _record_unpushed(event, DeadLetter(Reason.EXHAUSTED), invocation, target)
    if invocation.is_fast_lane and services.needs_slow_lane(event):
        # The message is sent after the record: before it, the slow worker would find the event
        # claimed.
        return _record_unpushed(event, Retry(delay_seconds=0), invocation)
    return _attempt(event, target, invocation)


def _record_unpushed(
    event: Event, decision: Decision, invocation: Invocation, target: Target | None = None
) -> Event:
    """Record a decision about a claimed event that was not pushed; return the event after that, or
    as it was claimed if the record was not applied and the event is absent.

    :param event: The claimed event; the claim has counted an attempt, which is not counted.
    :param target: The target of the event, whose subscription may be disabled after the decision;
        None: the subscription is not changed.
    """
    uncounted = replace(event, delivery_attempts=event.delivery_attempts - 1)
    return record(uncounted, decision, invocation, target).event or event


def _send_on(event: Event, invocation: Invocation) -> None:
    """Send the message of an event that could not be claimed once more to the same queue, to be
    received when the event is due, if the message was received up to EARLY_SECONDS too early.

    Otherwise send nothing. If the event is due later than that, the change that delayed the attempt
    sent another message. If the event is claimed by a push or a lease, or never due, no message is
    needed.
    """
    now = invocation.services.clock()
    if event.next_attempt_at and not event.is_claimed(now):
        delay_seconds = event.seconds_until_due(now)
        if delay_seconds <= EARLY_SECONDS:
            enqueue(event, delay_seconds, invocation.queue)


def enqueue(event: Event, delay_seconds: float, queue: Queue) -> None:
    """Send the queue message for the next attempt of an event, unless the delay exceeds
    MAX_DELAY_SECONDS: then the sweep sends it.

    Raises QueueUnavailableError.

    :param delay_seconds: After how many seconds the attempt is due, from 0.
    :param queue: The queue of the lane that the event belongs in.
    """
    if delay_seconds <= MAX_DELAY_SECONDS:
        queue.send(messages.push_message(event), delay_seconds)


def _attempt(event: Event, target: Target, invocation: Invocation) -> Event:
    """Push a claimed event in the worker, unless the breaker of its target refuses that, and record
    the decision that follows; return the event after that.

    If the breaker refuses the push, the attempt counts as failed. It does not count, and is only
    put off, if a push of the event was asked for (by a replay, send, recover or catch-up), and no
    push to the target has failed since.
    """
    services = invocation.services
    breaker = services.worker_breaker
    started = services.clock()
    # When somebody asked for this push (0: nobody did): the breaker then allows a trial, the one
    # push that is made while it is open, earlier than otherwise. A catch-up, which only expects
    # that the target works, gets none: a trial that fails keeps the breaker open for longer.
    asked_at = 0.0 if event.is_catching_up else event.asked_at
    wait_seconds = breaker.acquire(target, started, asked_at)  # 0: the push may be made
    if not wait_seconds:
        timeout_seconds = FAST_PUSH_SECONDS if invocation.is_fast_lane else math.inf
        return push_and_record(event, target, breaker, timeout_seconds, invocation)
    # Always so if no push of the event was asked for: then `event.asked_at` is 0.
    if breaker.has_failed_since(target, event.asked_at):
        refused = PushResult(Outcome.RETRY, error=BREAKER_OPEN, retry_after_seconds=wait_seconds)
        return _follow(event, target, started, refused, invocation)
    return _record_unpushed(event, _put_off(event, started, services), invocation)


def _put_off(event: Event, now: float, services: CoreServices) -> Retry:
    """Return the retry of an event whose push was asked for, but is refused by an open breaker
    because another push is the trial (the one push that is made while the breaker is open).

    The delay is twice the time since the push was asked for, or the setting `breaker_open_seconds`
    if that is longer. It is lengthened at random, up to twice, because thousands of events may be
    put off together; MAX_DELAY_SECONDS is the limit. A catch-up never makes the event due later
    than it was before.

    :param now: Unix seconds.
    """
    waited_seconds = now - event.asked_at
    seconds = max(services.settings.breaker_open_seconds, 2 * waited_seconds)
    delay_seconds = min(seconds * (1 + services.random()), MAX_DELAY_SECONDS)
    # The time at which the attempt was due before a catch-up made it due earlier.
    if event.is_catching_up and event.seconds_until_resumed(now) > 0:
        delay_seconds = min(delay_seconds, event.seconds_until_resumed(now))
    return Retry(delay_seconds)


def push_and_record(
    event: Event, target: Target, breaker: Breaker, timeout_seconds: float, invocation: Invocation
) -> Event:
    """Push a claimed event once, count the result in a breaker and in the lanes, and record the
    decision that follows; return the event after that.

    If the invocation has no time left for a push, the attempt does not count, and the event is
    retried.

    :param breaker: The breakers of all targets, whose `acquire` has returned 0 for this target: the
        push is allowed, and may be a trial (the one push to a target whose breaker is open).
    :param timeout_seconds: The longest time for the push, which the settings and the time that is
        left may shorten; infinite: they alone limit it.
    """
    services = invocation.services
    started = services.clock()
    try:
        result = push(event, target, started, invocation, timeout_seconds)
    except OutOfTimeError:
        # If this push was to be a trial, the container would make no other trial for
        # MAX_TRIAL_SECONDS.
        breaker.release_trial(target, started)
        return _record_unpushed(event, Retry(UNPUSHED_RETRY_SECONDS), invocation)
    ended = services.clock()
    # Also for a target with a fault, to which no push is made: a trial would not end otherwise.
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
    """Push an event once and return the result, also of a push that failed.

    If its target has a fault (`Target.fault`, an error for which no push can be made), return this
    error as a failure without a push. Raises OutOfTimeError if the invocation has no time left for
    a push.

    :param started: The time now (Unix seconds), for which the push is signed.
    :param timeout_seconds: The longest time for the push, which the settings and the time that is
        left may shorten; infinite: they alone limit it.
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
    """Decide what follows from the result of an attempt, record the decision, and log one line,
    even if the record fails; return the event after that.

    After a 410 (Gone), the subscription of the target is disabled or deleted. A failed attempt that
    a catch-up had made due does not count if it is retried. Raises what `record` raises.

    :param event: The claimed event; the claim has counted the attempt.
    :param started: When the attempt began (Unix seconds).
    :param result: The result of the push, or of a push that an open breaker refused.
    """
    services = invocation.services
    claimed = event
    event = event.with_attempt(Attempt.of(started, result))
    if result.status_code == HTTPStatus.GONE:
        # Disables or deletes the subscription; an event for the webhook becomes a dead letter.
        decision = services.targets.on_gone(target, event)
    elif claimed.is_catching_up and result.outcome is Outcome.RETRY:
        # A catch-up made this attempt due before its time: it does not count.
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
    # A record that was not applied carries the current event; None: the event is absent.
    return recorded.event or event


def _resume(
    claimed: Event, counted_attempts: int, result: PushResult, services: CoreServices
) -> Retry:
    """Return the retry after a failed attempt that a catch-up had made due early.

    The retry is due when the attempt was due before the catch-up, or after the time that the
    receiver's `Retry-After` asks for if that is later. If the time before the catch-up has passed,
    the retry is due after the backoff.

    :param claimed: The event before the attempt, whose `resume_at` is the time before the catch-up.
    :param counted_attempts: How many attempts of the event count; the failed one does not.
    """
    seconds = claimed.seconds_until_resumed(services.clock())
    if seconds <= 0:
        return back_off(result, counted_attempts, services.settings, services.random)
    # The time of an open breaker is not counted: the receiver did not ask for it, and the breaker
    # may close earlier.
    asked_seconds = 0.0 if result.error == BREAKER_OPEN else result.retry_after_seconds
    if asked_seconds > seconds:
        return Retry(asked_seconds)
    # With `due_at`, no message is sent: one was sent before the catch-up, or the sweep sends it.
    return Retry(seconds, due_at=claimed.resume_at)


def record(
    event: Event, decision: Decision, invocation: Invocation, target: Target | None = None
) -> WriteResult:
    """Record a decision about a claimed event by one write, which ends the claim, and do what the
    decision asks for.

    A dead letter is sent to the DLQ before the write, unless the target is a customer's. After the
    write, the queue message of a retry is sent, and the subscription of the target may be marked as
    failing or slow, or be disabled (`Targets.on_recorded`). A copy whose subscription is gone is
    deleted. Raises StorageUnavailableError and QueueUnavailableError.

    :param event: The claimed event, with the attempt if there was one.
    :param target: The target of the event; None: no subscription is changed, and a failure is the
        operator's.
    :returns: The result of the write, with the event after it. If the write was not applied,
        because a consumer acknowledged the event or the claim expired, nothing follows the write,
        and the result has the current event, or None if that is absent.
    """
    services = invocation.services
    store = services.store
    event = event.after(decision, services.clock())
    is_dead_letter = isinstance(decision, DeadLetter)
    is_customers = target is not None and target.is_customers
    # Before the record: after a crash in between, the failure is sent to the DLQ or logged twice.
    # The other way round, neither might happen. For a customer's target, only the log line shows
    # the failure.
    if is_dead_letter and not is_customers:
        services.dlq.send(messages.dead_letter(event))
    elif is_dead_letter:
        _log_dead_letter(event)
    write = store.delete_claimed if isinstance(decision, Dropped) else store.record
    recorded = invocation.retry_write(write, event)
    if not recorded.applied:
        return recorded
    # After the record, so that the metric in the log line counts the failure once. If the line is
    # missing after a crash, the message in the DLQ shows the failure.
    if is_dead_letter and not is_customers:
        _log_dead_letter(event)
    # With `due_at`, the event was due at this time before the attempt, too: its message was sent
    # then, or the sweep sends it.
    if isinstance(decision, Retry) and decision.due_at is None:
        _enqueue_retry(event, decision.delay_seconds, invocation)
    if target:
        services.targets.on_recorded(target, event, decision)
    return WriteResult(applied=True, event=event)


def _enqueue_retry(event: Event, delay_seconds: float, invocation: Invocation) -> None:
    """Send the queue message of a retry, unless this invocation waits for the retry and makes the
    attempt itself. If there is no time for the call, send nothing: the sweep sends the message.

    :param delay_seconds: After how many seconds the retry is due.
    """
    has_time = invocation.seconds_left() >= CALL_SECONDS
    if has_time and not invocation.waits_for(event):
        enqueue(event, delay_seconds, invocation.services.queue_for(event))


def _log_dead_letter(event: Event) -> None:
    """Log one line with the metric of an event or copy that failed for good."""
    metrics = {"CopyFailure" if event.is_copy else "DeliveryFailure": 1}
    extra = {"event_id": event.event_id, "reason": event.reason, "metrics": metrics}
    logger.warning("dead letter", extra=extra)


def _log_attempt(
    event: Event, decision: Decision, services: CoreServices, *, is_recorded: bool
) -> None:
    """Log one line with the metrics of an event's latest attempt.

    :param decision: The decision after the attempt.
    :param is_recorded: Whether the decision was recorded; False: a delivery has no metrics, because
        the event is pushed again, or a consumer acknowledged it.
    """
    attempt = event.attempts[-1]
    metrics: Json = {}
    retry_seconds = None
    if isinstance(decision, Retry):
        retry_seconds = round(decision.delay_seconds, 3)
        metrics["DeliveryRetry"] = 1
    elif isinstance(decision, Delivered) and is_recorded:
        since = event.replayed_at or event.created_at  # of a replayed event, since the replay
        latency_seconds = services.clock() - unix_seconds(since)
        metrics["DeliverySuccess"] = 1
        # In milliseconds. The container that stored the event may have a clock that is ahead.
        metrics["DeliveryLatency"] = max(0, round(latency_seconds * 1000))
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
    """Return a context manager that logs any error of its block instead of raising it.

    :param events: The events that the block pushes or queues, for the log. They are stored already,
        so nothing is lost: the sweep queues them when they are overdue and nobody has claimed them.
    """
    try:
        yield
    except Exception:
        event_ids = " ".join(event.event_id for event in events)
        logger.exception("delivery left to the sweep", extra={"event_id": event_ids})
