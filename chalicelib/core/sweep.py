"""Scheduled work: the sweep queues overdue events, check_dlq publishes queue depths and ages."""

from dataclasses import replace
from functools import partial
from itertools import islice

from chalicelib.core import messages
from chalicelib.core.event import Event, Status
from chalicelib.core.store import partitions
from chalicelib.deps import Services
from chalicelib.infra.clients import CALL_SECONDS
from chalicelib.infra.queue import BATCH_SIZE
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339, unix_seconds

PERIOD_SECONDS = 60  # of the sweep
MAX_SWEPT = 3000  # of each partition in a run
LONG_QUEUE = 1000  # visible messages; then most overdue events still have theirs, and are not lost
MAX_SWEPT_WHILE_LONG = 100
SEARCH_SECONDS = 20
PARTITIONS = partitions(Status.PENDING) + partitions(Status.PENDING, of_copies=True)


def sweep(services: Services, remaining_seconds: float) -> None:
    """Queue pending events that nobody will push, at most MAX_SWEPT of each partition; destinations take turns.

    The messages become visible at an even rate, MAX_SWEPT in PERIOD_SECONDS, so that new events need not wait for all.

    While the queue is long, queue at most MAX_SWEPT_WHILE_LONG of each, and postpone `requeue_at` so far that
    everything overdue is queued once before anything is queued twice. Raises StorageUnavailableError and
    QueueUnavailableError after all partitions were tried.
    """
    is_long = services.work_queue.depth() >= LONG_QUEUE
    deadline = services.clock() + remaining_seconds - 4 * CALL_SECONDS  # to mark, send, mark and query once more
    count = sum(services.map(partial(_sweep_partition, services, deadline, is_long=is_long), PARTITIONS))
    logger.info("swept", extra={"queued": count, "queue_is_long": is_long})


def publish_depths(services: Services) -> None:
    """Publish the depth of both queues and the age of the oldest pending event; warn if the DLQ is not empty.

    Copies, events that are not to be pushed and those with STALLED_ATTEMPTS do not count. The age is not published if
    the search takes longer than SEARCH_SECONDS.
    """
    metrics: dict[str, float] = {"DLQDepth": services.dlq.depth(), "InboxDepth": services.work_queue.depth()}
    if visible := metrics["DLQDepth"]:
        logger.warning("the dead letter queue is not empty", extra={"queue": services.dlq.name, "visible": visible})
    try:
        metrics["OldestPendingAge"] = _oldest_pending_age(services)
    finally:  # publish the depths even if DynamoDB fails
        logger.info("depths", extra=services.metrics(**metrics))


def _oldest_pending_age(services: Services) -> float:
    """Return seconds, 0 if nothing is pending; raise StorageUnavailableError."""
    deadline = services.clock() + SEARCH_SECONDS
    found = services.map(lambda key: services.store.oldest_scheduled(key, deadline), partitions(Status.PENDING))
    ages = [services.clock() - unix_seconds(event.created_at) for event in found if event]
    return round(max(0.0, *ages), 3) if ages else 0.0


def _sweep_partition(services: Services, deadline: float, partition_key: str, *, is_long: bool) -> int:
    limit, grace_seconds = MAX_SWEPT_WHILE_LONG if is_long else MAX_SWEPT, services.settings.message_grace_seconds
    events_in_turn, total = services.store.overdue(partition_key, limit, services.clock() + SEARCH_SECONDS)
    overdue, count = iter(events_in_turn), 0
    while (events := list(islice(overdue, BATCH_SIZE))) and services.clock() <= deadline:
        delay_seconds = PERIOD_SECONDS * count // MAX_SWEPT
        # Mark, then send: a crash in between costs a minute; the other way round, two sweeps would both send.
        marked = _postpone(events, delay_seconds + grace_seconds, services)
        if marked:
            services.work_queue.send_many([messages.push_message(event) for event in marked], delay_seconds)
            count += len(marked)
        if is_long:
            # Twice the time in which a run a minute gets through all of them: more become overdue meanwhile.
            _postpone(marked, max(grace_seconds, 2 * PERIOD_SECONDS * total / limit), services)
    return count


def _postpone(events: list[Event], seconds: float, services: Services) -> list[Event]:
    """Postpone `requeue_at` by `seconds` from now; return the events of which no other sweep or push changed it."""
    until = rfc3339(services.clock() + seconds)
    marks = services.map(lambda each: services.store.mark_requeued(each.event_id, each.requeue_at, until), events)
    return [replace(event, requeue_at=until) for event, mark in zip(events, marks, strict=True) if mark.applied]
