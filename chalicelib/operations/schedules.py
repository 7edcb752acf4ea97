"""Queue overdue events every minute (the sweep), and publish metrics of queues and events."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

# How late a queue message may be before the sweep sends another one: an event that is due when a
# sweep runs is overdue when the next sweep runs.
CHECK_DLQ_SECONDS = 300  # between two calls of `publish_depths`
MESSAGE_GRACE_SECONDS = SWEEP_PERIOD_SECONDS - 5
# How long a partition is searched; events that are not found by then are left to the next run.
SEARCH_SECONDS = 20
# After so many attempts, the event's receiver refuses the event: it is no sign of an outage.
STALLED_ATTEMPTS = 12
FEW_ATTEMPTS = "(attribute_not_exists(delivery_attempts) OR delivery_attempts < :stalled)"
AWAITED = f"{NOT_EXPIRED} AND attribute_exists(next_attempt_at) AND {FEW_ATTEMPTS}"

MAX_SWEPT = 3000  # events of a partition that one run queues
# `requeue_at` is the mark of the sweep: until then, no sweep queues the event again. A claim
# removes the mark.
UNMARKED = "(attribute_not_exists(requeue_at) OR requeue_at <= :now)"
# If the event had a queue message, the message would have been received by now. Expired events are
# found, too, so that the sweep deletes them.
OVERDUE = f"{EXPIRED} OR (next_attempt_at <= :late AND {UNCLAIMED} AND {UNMARKED})"
# No other sweep marked the event, and no push claimed or recorded it, since it was read.
SAME_MARK = "(attribute_not_exists(requeue_at) OR requeue_at = :seen)"
MARKABLE = f"{PENDING} AND next_attempt_at = :due AND {UNCLAIMED} AND {SAME_MARK}"


def publish_depths(services: CoreServices) -> None:
    """Publish metrics: the number of visible messages of each queue, and the age in seconds of the
    oldest pending event. Log a warning if the DLQ is not empty.

    The age leaves out copies, events that are not to be pushed, and events that had
    STALLED_ATTEMPTS attempts. It is not published if the search for the event takes longer than
    SEARCH_SECONDS. Without a webhook URL it is 0, and no event is searched for, because the search
    would read the whole inbox.

    :raises QueueUnavailableError: If SQS fails. The other metrics are published first.
    :raises StorageUnavailableError: If DynamoDB fails or the search takes too long. The other
        metrics are published first.
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
    """Return the age in seconds of the oldest event of a partition that waits for a push and had
    fewer than STALLED_ATTEMPTS attempts; 0: there is no such event.

    :param partition: A partition of pending events.
    :raises StorageUnavailableError: If DynamoDB fails, or no such event is found within
        SEARCH_SECONDS and there are more pages.
    """
    deadline = services.clock() + SEARCH_SECONDS
    values = {":stalled": STALLED_ATTEMPTS}
    for page in services.store.pages(partition, values, condition=AWAITED):
        if page["Items"]:
            oldest = from_item(page["Items"][0])
            return max(0.0, services.clock() - unix_seconds(oldest.created_at))
        if services.clock() > deadline:
            raise StorageUnavailableError
    return 0.0


LONG_QUEUE = 1000  # visible messages; then the messages of most overdue events only wait there
MAX_SWEPT_WHILE_LONG = 100


def sweep(services: CoreServices) -> None:
    """Send queue messages for overdue events, for at most MAX_SWEPT events of each partition.

    An event is overdue if its next attempt was due so long ago that its own queue message, if there
    was one, would have been received by now. Without a webhook URL, only copies are searched for:
    other events are not pushed.

    Destinations take turns. The messages become visible at an even rate, MAX_SWEPT in
    SWEEP_PERIOD_SECONDS, so that new events need not wait for all of them. While the work queue has
    LONG_QUEUE messages, at most MAX_SWEPT_WHILE_LONG events of each partition are queued in a run.
    An event that stays overdue is queued again after one, two, four and eight minutes, then every
    MAX_MARK_SECONDS.

    :raises StorageUnavailableError: If DynamoDB failed for a partition or an event. No message is
        sent for an event that could not be marked. All partitions are tried first.
    :raises QueueUnavailableError: If SQS failed. All partitions are tried first.
    """
    searched = partitions(Status.PENDING, of_copies=True)
    if services.settings.webhook_url:
        searched += partitions(Status.PENDING)
    # The depth of the slow queue does not count: slow destinations would limit every sweep.
    is_long = services.work_queue.depth() >= LONG_QUEUE
    limit = MAX_SWEPT_WHILE_LONG if is_long else MAX_SWEPT
    counts = services.map(partial(_sweep_partition, services, limit), searched)
    logger.info("swept", extra={"queued": sum(counts), "queue_is_long": is_long})


def _sweep_partition(services: CoreServices, limit: int, partition: str) -> int:
    """Queue up to `limit` overdue events of a partition, and delete up to MAX_EXPIRED expired ones;
    return the number of queued events.

    An event is marked (`requeue_at`) before its message is sent, so that the next sweep does not
    queue it again. An event that was changed since it was read is neither marked nor queued.

    :raises StorageUnavailableError: If DynamoDB fails. If it fails for the mark of an event, the
        other events are queued first.
    :raises QueueUnavailableError: If SQS fails.
    """
    found = _find_overdue(services, limit, partition)
    services.map(services.store.delete_expired, found.expired_ids[:MAX_EXPIRED])
    queued = 0
    failure: StorageUnavailableError | None = None
    for start in range(0, len(found.overdue), BATCH_SIZE):
        batch = found.overdue[start : start + BATCH_SIZE]
        # MAX_SWEPT events become visible evenly within SWEEP_PERIOD_SECONDS.
        delay_seconds = SWEEP_PERIOD_SECONDS * queued // MAX_SWEPT
        # Mark, then send: in the other order, two sweeps would both send a message. If the message
        # is not sent, the event waits once more for as long as it has been overdue.
        results, error = services.try_map(partial(_mark, services, delay_seconds), batch)
        failure = failure or error
        marked = [event for event in results if event]
        _send_messages(marked, delay_seconds, services)
        queued += len(marked)
    if failure:
        raise failure
    return queued


def _send_messages(events: Sequence[Event], delay_seconds: int, services: CoreServices) -> None:
    """Send the queue messages of up to BATCH_SIZE overdue events to the work queue or, for events
    whose latest attempt timed out, to the slow queue.

    The fast lane would not push an event that timed out there: its worker would claim the event,
    release it, and send its message to the slow queue, which costs two more writes.

    :param delay_seconds: After how many seconds SQS makes the messages visible.
    """
    timed_out = [event for event in events if event.last_error == TIMED_OUT]
    others = [event for event in events if event.last_error != TIMED_OUT]
    for queue, queued in ((services.work_queue, others), (services.slow_queue, timed_out)):
        if queued:
            queue.send_many([*map(messages.push_message, queued)], delay_seconds)


@dataclass
class FoundEvents:
    """The events of a partition that a sweep has found."""

    # Overdue events, in the order in which they are queued.
    overdue: list[Event]
    # The ids of expired events.
    expired_ids: list[str]


def _find_overdue(services: CoreServices, limit: int, partition: str) -> FoundEvents:
    """Search a partition for up to `limit` overdue events, and for expired events; return the
    overdue events and the ids of the expired ones.

    Destinations take turns: the oldest overdue event of each destination comes first, then the
    second oldest of each, and so on.
    """
    now = services.clock()
    expired_ids: list[str] = []

    def number_by_destination() -> Iterator[tuple[int, Event]]:
        """Yield each overdue event with its number among the events of its destination, from 1 for
        the oldest; collect the ids of expired events in `expired_ids`.
        """
        counts = Counter[str]()
        # `group_id` names the destination: its messages are one group of the SQS queue.
        for event in _search_overdue(services, partition):
            if event.expires_at <= now:
                expired_ids.append(event.event_id)
                continue
            counts[event.group_id] += 1
            yield counts[event.group_id], event

    # `nsmallest` keeps the order of events that have the same number.
    in_turn = nsmallest(limit, number_by_destination(), key=itemgetter(0))
    return FoundEvents([event for _, event in in_turn], expired_ids)


def _search_overdue(services: CoreServices, partition: str) -> Iterator[Event]:
    """Yield the overdue and the expired events of a partition, the oldest first, until the search
    has taken SEARCH_SECONDS. OVERDUE is the condition for both.

    An event is overdue if its next attempt was due so long ago that its own queue message would
    have been received by now, nobody holds a claim of it, and no sweep marked it. An event has
    expired if its retention period is over, and DynamoDB has not deleted it yet.
    """
    now = services.clock()
    deadline = now + SEARCH_SECONDS
    # How late a message may be. Lambda may hold a received message for the batch window before it
    # invokes the worker.
    grace_seconds = MESSAGE_GRACE_SECONDS + services.settings.worker_batch_window_seconds
    times = {":late": rfc3339(now - grace_seconds)}
    for page in services.store.pages(partition, times, condition=OVERDUE):
        yield from map(from_item, page["Items"])
        if services.clock() > deadline:
            return


def _mark(services: CoreServices, delay_seconds: int, event: Event) -> Event | None:
    """Mark an overdue event: set its `requeue_at`, before which no sweep queues the event again.

    From the moment at which its message becomes visible, the mark lasts as long as the event has
    been overdue, MAX_MARK_SECONDS at most. So the sweep waits twice as long after each message.

    :param delay_seconds: After how many seconds the event's message will become visible.
    :returns: The event as it was read; None: it is not marked, because another sweep marked it, or
        a push claimed or recorded it, since it was read.
    :raises StorageUnavailableError: If DynamoDB fails.
    """
    now = services.clock()
    overdue_seconds = now - unix_seconds(str(event.next_attempt_at))
    requeue_at = rfc3339(now + delay_seconds + min(overdue_seconds, MAX_MARK_SECONDS))
    # The placeholders in MARKABLE: when the event was due, and its mark, if any, as it was read.
    seen = {":due": event.next_attempt_at, ":seen": event.requeue_at or ""}
    result = services.store.change(event.event_id, MARKABLE, {"requeue_at": requeue_at}, seen)
    return event if result.applied else None
