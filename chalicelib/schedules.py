"""What runs by the clock: the sweep that finds what everybody forgot, and the eyes on the dead letters."""

from functools import partial

from chalicelib import listing, log, messages
from chalicelib.events import epoch_seconds
from chalicelib.items import SHARDS
from chalicelib.services import AWS_CALL_SECONDS, Services
from chalicelib.sqs import BATCH_SIZE, Outgoing

QUEUE_IS_LONG = 1000  # visible messages: pending events wait in line then, and more messages would feed the pile
MOST_OF_A_SHARD = 500


def sweep(services: Services, remaining_seconds: float) -> None:
    """Queue pending events that nobody will push; a few thousand at most.

    Nothing while the inbox queue is long. Raises StorageUnavailableError and QueueUnavailableError, after all shards
    were tried.
    """
    visible = services.inbox.depth()
    if visible >= QUEUE_IS_LONG:
        log.info("sweep waits for the queue", visible=visible)
        return
    deadline = services.clock() + remaining_seconds - 2 * AWS_CALL_SECONDS
    with services.threads(SHARDS) as pool:
        count = sum(pool.map(log.carried(partial(_sweep_shard, services, deadline)), range(SHARDS)))
    log.info("swept", queued=count)


def check_dlq(services: Services) -> None:
    """Publish the depth of both queues and the age of the oldest pending event; warn while there are dead letters."""
    dead, waiting = services.dlq.depth(), services.inbox.depth()
    oldest = listing.oldest_pending(services.store, now=services.clock())
    age_seconds = max(0.0, services.clock() - epoch_seconds(oldest.created_at)) if oldest else 0.0
    services.metrics.emit(DLQDepth=dead, InboxDepth=waiting, OldestPendingAge=round(age_seconds, 3))
    if dead:
        log.warning("dead letters are waiting", queue=services.dlq.name, visible=dead)


def _sweep_shard(services: Services, deadline: float, shard: int) -> int:
    count = 0
    for overdue in listing.overdue(services.store, shard, now=services.clock()):
        if services.clock() > deadline:
            break
        for start in range(0, len(overdue), BATCH_SIZE):
            if count >= MOST_OF_A_SHARD or services.clock() > deadline:
                return count
            # Marked, then sent: a crash in between costs a minute, the other way round it would send twice.
            marked = [
                event_id
                for event_id, requeue_at in overdue[start : start + BATCH_SIZE]
                if services.store.mark_requeued(event_id, requeue_at).done
            ]
            wake_ups = [Outgoing(messages.inbox_body(event_id), {"EventId": event_id}) for event_id in marked]
            services.inbox.send_many(wake_ups)
            count += len(marked)
    return count
