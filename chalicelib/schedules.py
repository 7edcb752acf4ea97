"""Scheduled work: the sweep queues overdue events, check_dlq publishes queue depths and ages."""

from functools import partial
from itertools import islice

from chalicelib import listing, messages
from chalicelib.events import unix_seconds
from chalicelib.queue import BATCH_SIZE
from chalicelib.services import CALL_SECONDS, Services
from chalicelib.store import SHARDS
from chalicelib.telemetry import logger

MAX_VISIBLE_MESSAGES = 1000  # above this, pending events wait in the queue and more messages would only lengthen it
MAX_SWEPT_PER_SHARD = 1000


def sweep(services: Services, remaining_seconds: float) -> None:
    """Queue pending events that nobody will push, at most MAX_SWEPT_PER_SHARD of each shard.

    Raises StorageUnavailableError and QueueUnavailableError after all shards were tried.
    """
    visible = services.inbox.depth()
    if visible >= MAX_VISIBLE_MESSAGES:
        logger.info("sweep skipped: the queue is long", extra={"visible": visible})
        return
    deadline = services.clock() + remaining_seconds - 3 * CALL_SECONDS  # to mark, send and query once more
    count = sum(services.map(partial(_sweep_shard, services, deadline), range(SHARDS)))
    logger.info("swept", extra={"queued": count})


def check_dlq(services: Services) -> None:
    """Publish the depth of both queues and the age of the oldest pending event; warn if the DLQ is not empty."""
    metrics: dict[str, float] = {"DLQDepth": services.dlq.depth(), "InboxDepth": services.inbox.depth()}
    if visible := metrics["DLQDepth"]:
        logger.warning("the dead letter queue is not empty", extra={"queue": services.dlq.name, "visible": visible})
    try:
        oldest = listing.oldest_pending(services)
        age = services.clock() - unix_seconds(oldest.created_at) if oldest else 0.0
        metrics["OldestPendingAge"] = round(max(0.0, age), 3)
    finally:  # publish the depths even if DynamoDB fails
        services.metrics.emit(**metrics)


def _sweep_shard(services: Services, deadline: float, shard: int) -> int:
    count = 0
    overdue = islice(listing.overdue(services, shard), MAX_SWEPT_PER_SHARD)
    while (events := list(islice(overdue, BATCH_SIZE))) and services.clock() <= deadline:
        # Mark, then send: a crash in between costs a minute; the other way round, two sweeps would both send.
        marks = services.map(lambda each: services.store.mark_requeued(each.event_id, each.requeue_at), events)
        marked = [messages.wake_up(event) for event, mark in zip(events, marks, strict=True) if mark.applied]
        if marked:
            services.inbox.send_many(marked)
            count += len(marked)
    return count
