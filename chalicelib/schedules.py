"""What runs by the clock: the sweep queues overdue events again, check_dlq publishes depths and age."""

from functools import partial

from chalicelib import aws, listing, log, messages
from chalicelib.events import epoch_seconds
from chalicelib.items import SHARDS
from chalicelib.services import Services
from chalicelib.sqs import BATCH_SIZE

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
    deadline = services.clock() + remaining_seconds - 2 * aws.CALL_SECONDS
    with services.threads(SHARDS) as pool:
        count = sum(pool.map(partial(_sweep_shard, services, deadline), range(SHARDS)))
    log.info("swept", queued=count)


def check_dlq(services: Services) -> None:
    """Publish the depth of both queues and the age of the oldest pending event; warn while there are dead letters."""
    depths = {"DLQDepth": services.dlq.depth(), "InboxDepth": services.inbox.depth()}
    if depths["DLQDepth"]:
        log.warning("dead letters are waiting", queue=services.dlq.name, visible=depths["DLQDepth"])
    age: dict[str, float] = {}
    try:
        oldest = listing.oldest_pending(services.store, now=services.clock())
        age_seconds = max(0.0, services.clock() - epoch_seconds(oldest.created_at)) if oldest else 0.0
        age["OldestPendingAge"] = round(age_seconds, 3)
    finally:  # the depths are known though the store may fail
        services.metrics.emit(**depths, **age)


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
            wake_ups = [(messages.inbox_body(event_id), {"EventId": event_id}) for event_id in marked]
            if wake_ups:
                services.inbox.send_many(wake_ups)
            count += len(wake_ups)
    return count
