"""The schedules: sweep every minute for events that nobody will push; publish depths and ages."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from heapq import nsmallest
from operator import itemgetter

from chalicelib.core import messages
from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.outcome import TIMED_OUT
from chalicelib.core.store import (
    EXPIRED,
    MAX_EXPIRED,
    MAX_MARK_SECONDS,
    NOT_EXPIRED,
    PENDING,
    SWEEP_PERIOD_SECONDS,
    UNCLAIMED,
    from_item,
    partitions,
)
from chalicelib.infra.errors import QueueUnavailableError, StorageUnavailableError
from chalicelib.infra.parsing import Json
from chalicelib.infra.queue import BATCH_SIZE
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339, unix_seconds

# How late a message may be before the sweep sends another: what is due when a sweep runs is
# overdue at the next one.
MESSAGE_GRACE_SECONDS = SWEEP_PERIOD_SECONDS - 5
SEARCH_SECONDS = 20  # of a partition; what a search that took longer did not find is left out
# An event that had so many attempts is refused by its receiver, and does not tell of an outage.
STALLED_ATTEMPTS = 12
FEW_ATTEMPTS = "(attribute_not_exists(delivery_attempts) OR delivery_attempts < :stalled)"
AWAITED = f"{NOT_EXPIRED} AND attribute_exists(next_attempt_at) AND {FEW_ATTEMPTS}"

MAX_SWEPT = 3000  # of each partition in a run
LONG_QUEUE = 1000  # visible messages; then most overdue events still have theirs, and are not lost
MAX_SWEPT_WHILE_LONG = 100
# The sweep queues nothing twice before its mark, `requeue_at`. Who takes an event removes the mark.
UNMARKED = "(attribute_not_exists(requeue_at) OR requeue_at <= :now)"
# Its message, if there is one, would have come by now. What has expired is shown to be deleted.
OVERDUE = f"{EXPIRED} OR (next_attempt_at <= :late AND {UNCLAIMED} AND {UNMARKED})"
# No other sweep marked the event, and no push claimed or recorded it, since it was read.
SAME_MARK = "(attribute_not_exists(requeue_at) OR requeue_at = :seen)"
MARKABLE = f"{PENDING} AND next_attempt_at = :due AND {UNCLAIMED} AND {SAME_MARK}"


def publish_depths(services: CoreServices) -> None:
    """Publish the depths of the queues and the age of the oldest pending event.

    Copies, events that are not to be pushed and those with STALLED_ATTEMPTS do not count. The age
    is not published if the search takes longer than SEARCH_SECONDS. Without a URL to push to it is
    0 without a search: all that waits in the inbox would be read. Warns if the DLQ is not empty.
    Raises QueueUnavailableError or StorageUnavailableError after what could be read was published.
    """
    metrics: Json = {}
    failure: QueueUnavailableError | None = None
    queues = {
        "DLQDepth": services.dlq,
        "InboxDepth": services.work_queue,
        "SlowDepth": services.slow_queue,
    }
    for name, queue in queues.items():
        try:
            metrics[name] = queue.depth()
        except QueueUnavailableError as error:
            failure = failure or error
    visible = metrics.get("DLQDepth")
    if visible:
        extra = {"queue": services.dlq.name, "visible": visible}
        logger.warning("the dead letter queue is not empty", extra=extra)
    try:
        searched = partitions(Status.PENDING) if services.settings.webhook_url else []
        ages = services.map(partial(_oldest_age, services), searched)
        metrics["OldestPendingAge"] = round(max(ages, default=0.0), 3)
    finally:  # publish the depths even if DynamoDB fails
        logger.info("depths", extra={"metrics": metrics})
    if failure:
        raise failure


def _oldest_age(services: CoreServices, partition: str) -> float:
    """Return the seconds since the oldest awaited event of a partition was created, 0 without one.

    Raises StorageUnavailableError if the search does not end within SEARCH_SECONDS.
    """
    deadline = services.clock() + SEARCH_SECONDS
    values = {":stalled": STALLED_ATTEMPTS}
    for page in services.store.pages(partition, values, FilterExpression=AWAITED):
        if page["Items"]:
            oldest = from_item(page["Items"][0])
            return max(0.0, services.clock() - unix_seconds(oldest.created_at))
        if services.clock() > deadline:
            raise StorageUnavailableError
    return 0.0


def sweep(services: CoreServices) -> None:
    """Queue pending events that nobody will push, at most MAX_SWEPT of each partition.

    Destinations take turns. The messages become visible at an even rate, MAX_SWEPT in
    SWEEP_PERIOD_SECONDS, so that new events need not wait for all. Without a URL to push to, only
    copies are looked for.

    What nobody pushes is queued again after one, two, four, eight minutes, then every
    MAX_MARK_SECONDS; while the work queue is long, at most MAX_SWEPT_WHILE_LONG of each partition
    in a run. Raises StorageUnavailableError and QueueUnavailableError after all partitions were
    tried, also if a single event could not be marked: no message is sent for that one.
    """
    searched = partitions(Status.PENDING, of_copies=True)
    if services.settings.webhook_url:
        searched += partitions(Status.PENDING)
    # Not that of the slow lane: slow destinations would cut the sweep for everybody.
    is_long = services.work_queue.depth() >= LONG_QUEUE
    limit = MAX_SWEPT_WHILE_LONG if is_long else MAX_SWEPT
    counts = services.map(partial(_sweep_partition, services, limit), searched)
    logger.info("swept", extra={"queued": sum(counts), "queue_is_long": is_long})


def _sweep_partition(services: CoreServices, limit: int, partition: str) -> int:
    """Queue up to `limit` overdue events of a partition; return how many.

    What timed out goes to the slow lane, where it belongs: the fast lane's worker would claim it,
    give it back and send it on, which are two writes more. The others go to the fast lane, whose
    worker sends on what belongs in the slow one, too.
    """
    expired: list[str] = []
    search = _search_overdue(services, partition, expired)
    overdue = [event for _, event in nsmallest(limit, search, key=itemgetter(0))]
    services.map(services.store.delete_expired, expired[:MAX_EXPIRED])
    queued = 0
    failure: StorageUnavailableError | None = None
    for start in range(0, len(overdue), BATCH_SIZE):
        batch = overdue[start : start + BATCH_SIZE]
        delay_seconds = SWEEP_PERIOD_SECONDS * queued // MAX_SWEPT
        # Mark, then send: the other way round, two sweeps would both send. If the message is not
        # sent, the event waits once more as long as it did.
        results, error = services.try_map(partial(_mark, services, delay_seconds), batch)
        failure = failure or error
        marked = [event for event in results if event]
        timed_out = [event for event in marked if event.last_error == TIMED_OUT]
        others = [event for event in marked if event.last_error != TIMED_OUT]
        for queue, events in ((services.work_queue, others), (services.slow_queue, timed_out)):
            if events:
                queue.send_many([*map(messages.push_message, events)], delay_seconds)
        queued += len(marked)
    if failure:
        raise failure
    return queued


def _search_overdue(
    services: CoreServices, partition: str, expired: list[str]
) -> Iterator[tuple[int, Event]]:
    """Yield overdue events for SEARCH_SECONDS, the oldest first.

    Each comes with its number among its destination's, by which destinations take turns. The ids of
    events that have expired are added to `expired`.
    """
    turns = Counter[str]()
    now = services.clock()
    deadline = now + SEARCH_SECONDS
    # A message may wait in Lambda for the batch window.
    grace_seconds = MESSAGE_GRACE_SECONDS + services.settings.worker_batch_window_seconds
    times = {":late": rfc3339(now - grace_seconds)}
    for page in services.store.pages(partition, times, FilterExpression=OVERDUE):
        for event in map(from_item, page["Items"]):
            if event.expires_at <= now:
                expired.append(event.event_id)
                continue
            turns[event.group_id] += 1
            yield turns[event.group_id], event
        if services.clock() > deadline:
            return


def _mark(services: CoreServices, delay_seconds: int, event: Event) -> Event | None:
    """Mark an overdue event, so that no sweep queues it again before `requeue_at`: as long after
    its message as it is overdue now, MAX_MARK_SECONDS at most.

    Returns the event, or None if it was changed since it was read. Raises StorageUnavailableError.
    """
    now = services.clock()
    overdue_seconds = now - unix_seconds(str(event.next_attempt_at))
    requeue_at = rfc3339(now + delay_seconds + min(overdue_seconds, MAX_MARK_SECONDS))
    seen = {":due": event.next_attempt_at, ":seen": event.requeue_at or ""}
    result = services.store.change(event.event_id, MARKABLE, {"requeue_at": requeue_at}, seen)
    return event if result.applied else None
