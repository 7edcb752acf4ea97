"""The worker's batch: all messages at the same time, and one's failure is not another's.

Knows nothing of Lambda but how long it may still run.
"""

from collections.abc import Sequence
from functools import partial

from chalicelib import aws, delivery, log, messages
from chalicelib.backoff import Patience
from chalicelib.errors import QueueUnavailableError
from chalicelib.services import Services
from chalicelib.sqs import Received

# A step of a delivery claims, tells the queue, and records.
STEP_AWS_SECONDS = 3 * aws.CALL_SECONDS


class BatchError(Exception):
    """DynamoDB or SQS failed some messages of a batch: they are to come back."""


def serve(batch: Sequence[Received], services: Services, remaining_seconds: float) -> None:
    """Serve all messages of a batch, and end before `remaining_seconds` are over.

    Raises BatchError when one could not be served, after all were tried and the others were deleted: SQS then gives
    back only what it should. No thread outlives the call: one that thawed later would push past its claim.
    """
    last_start = services.clock() + remaining_seconds - STEP_AWS_SECONDS - services.settings.push_timeout_seconds
    patience = Patience(services.settings.in_process_wait_seconds, last_start)
    with services.threads(len(batch)) as pool:
        served = list(pool.map(partial(_serve_one, services, patience), batch))
    if all(served):
        return
    done = [message.receipt_handle for message, succeeded in zip(batch, served, strict=True) if succeeded]
    if done:
        try:
            services.inbox.delete_many(done)
        except QueueUnavailableError:
            log.exception("served messages will come back")
    raise BatchError(f"{len(batch) - len(done)} of {len(batch)} messages could not be served")


def _serve_one(services: Services, patience: Patience, message: Received) -> bool:
    with log.request_id(message.message_id):
        try:
            _serve(message.body, services, patience)
        except Exception:  # the outer edge of a message: its fault is its own
            log.exception("message failed")
            return False
        return True


def _serve(body: str, services: Services, patience: Patience) -> None:
    try:
        message = messages.parse(body)
    except messages.MalformedMessageError:
        _set_aside(body, "malformed", services)
        return
    try:
        if message.failed_at is not None:
            delivery.redrive(message.event_id, message.failed_at, services)
        delivery.deliver(message.event_id, services, patience)
    except delivery.UnknownEventError:
        _set_aside(body, "unknown_event", services)


def _set_aside(body: str, reason: str, services: Services) -> None:
    log.warning("message cannot be served", reason=reason)
    services.dlq.send(body, {"Reason": reason})
