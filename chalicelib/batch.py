"""The worker's batch: a thread for each message, all joined before the function returns."""

from collections.abc import Sequence
from functools import partial

from chalicelib import delivery, messages
from chalicelib.aws import CALL_SECONDS
from chalicelib.errors import QueueUnavailableError
from chalicelib.queue import Message
from chalicelib.services import Services
from chalicelib.telemetry import logger, request_id

JOIN_SECONDS = 1  # reserved for joining the threads and returning


class BatchError(Exception):
    """DynamoDB or SQS failed some messages of a batch, which must be received again."""


def process(batch: Sequence[Message], services: Services, remaining_seconds: float) -> None:
    """Process all messages of a batch within `remaining_seconds`.

    Raises BatchError if some failed, after the others were deleted: SQS returns only the failed ones. No thread
    outlives the call: one that is thawed with the next invocation would push after its claim ended.
    """
    deadline = services.clock() + remaining_seconds - JOIN_SECONDS
    succeeded = services.map(partial(_process_message, services, deadline), batch)
    if all(succeeded):
        return
    handles = [message.receipt_handle for message, done in zip(batch, succeeded, strict=True) if done]
    if handles and services.clock() + CALL_SECONDS <= deadline:
        try:
            services.inbox.delete_many(handles)
        except QueueUnavailableError:
            logger.exception("processed messages will be received again")
    raise BatchError(f"{len(batch) - len(handles)} of {len(batch)} messages failed")


def _process_message(services: Services, deadline: float, message: Message) -> bool:
    with request_id(message.message_id):
        try:
            _handle(message, services, deadline)
        except Exception:  # one message's error must not cost another
            logger.exception("message failed")
            return False
        return True


def _handle(message: Message, services: Services, deadline: float) -> None:
    try:
        request = messages.parse(message.body)
        claim_ends_in = delivery.redrive(request, services) if request.failed_at is not None else None
        if claim_ends_in is None:
            delivery.deliver(request.event_id, services, deadline)
        else:
            services.inbox.send(message, claim_ends_in)
    except messages.MalformedMessageError:
        logger.warning("message cannot be read")
        services.dlq.send(Message(message.body, {"Reason": "malformed"}, message.group_id))
    except delivery.UnknownEventError:  # an event is stored before any message names it
        logger.warning("message dropped: its event expired or was deleted", extra={"event_id": request.event_id})
