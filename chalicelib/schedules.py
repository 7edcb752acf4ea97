"""Scheduled work: the sweep queues overdue events, check_dlq publishes queue depths and ages."""

from functools import partial

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
    depths = {"DLQDepth": services.dlq.depth(), "InboxDepth": services.inbox.depth()}
    if depths["DLQDepth"]:
        extra = {"queue": services.dlq.name, "visible": depths["DLQDepth"]}
        logger.warning("the dead letter queue is not empty", extra=extra)
    age: dict[str, float] = {}
    try:
        oldest = listing.oldest_pending(services)
        age["OldestPendingAge"] = (
            round(max(0.0, services.clock() - unix_seconds(oldest.created_at)), 3) if oldest else 0.0
        )
    finally:  # publish the depths even if DynamoDB fails
        services.metrics.emit(**depths, **age)


def _sweep_shard(services: Services, deadline: float, shard: int) -> int:
    count = 0
    for overdue in listing.overdue(services, shard):
        for start in range(0, len(overdue), BATCH_SIZE):
            if count >= MAX_SWEPT_PER_SHARD or services.clock() > deadline:
                return count
            batch = overdue[start : start + BATCH_SIZE]
            # Mark, then send: a crash in between costs a minute; the other way round, two sweeps would both send.
            marks = services.map(lambda row: services.store.mark_requeued(row[0].event_id, row[1]), batch)
            marked = [messages.wake_up(event) for (event, _), mark in zip(batch, marks, strict=True) if mark.applied]
            if marked:
                services.inbox.send_many(marked)
                count += len(marked)
    return count
