"""What waits: the depths of the queues and the age of the oldest pending event, published as metrics."""

from functools import partial

from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import NOT_EXPIRED, partitions
from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import unix_seconds

SEARCH_SECONDS = 20
STALLED_ATTEMPTS = 12  # an event that had so many is refused by its receiver, and does not tell of an outage
FEW_ATTEMPTS = "(attribute_not_exists(delivery_attempts) OR delivery_attempts < :stalled)"
AWAITED = f"{NOT_EXPIRED} AND attribute_exists(next_attempt_at) AND {FEW_ATTEMPTS}"


def publish_depths(services: CoreServices) -> None:
    """Publish the depth of both queues and the age of the oldest pending event; warn if the DLQ is not empty.

    Copies, events that are not to be pushed and those with STALLED_ATTEMPTS do not count. The age is not published if
    the search takes longer than SEARCH_SECONDS.
    """
    metrics: dict[str, float] = {"DLQDepth": services.dlq.depth(), "InboxDepth": services.work_queue.depth()}
    if visible := metrics["DLQDepth"]:
        logger.warning("the dead letter queue is not empty", extra={"queue": services.dlq.name, "visible": visible})
    try:
        ages = services.map(partial(_oldest_age, services), partitions(Status.PENDING))
        metrics["OldestPendingAge"] = round(max(ages), 3)
    finally:  # publish the depths even if DynamoDB fails
        logger.info("depths", extra=services.metrics(**metrics))


def _oldest_age(services: CoreServices, partition: str) -> float:
    """Return the seconds since the oldest awaited event of a partition was created, 0 without one.

    Raises StorageUnavailableError if the search does not end within SEARCH_SECONDS.
    """
    deadline = services.clock() + SEARCH_SECONDS
    for page in services.store.pages(partition, {":stalled": STALLED_ATTEMPTS}, FilterExpression=AWAITED):
        if page["Items"]:
            return max(0.0, services.clock() - unix_seconds(Event.from_item(page["Items"][0]).created_at))
        if services.clock() > deadline:
            raise StorageUnavailableError
    return 0.0
