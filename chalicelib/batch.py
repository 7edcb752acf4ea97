"""The worker's batch: a thread for each message, all joined before the function returns."""

from collections.abc import Sequence
from functools import partial

from chalicelib import delivery, messages
from chalicelib.errors import QueueUnavailableError
from chalicelib.queue import Message
from chalicelib.services import CALL_SECONDS, Services
from chalicelib.telemetry import logger, request_id

RETURN_SECONDS = 1  # for joining threads and returning


class BatchError(Exception):
    """DynamoDB or SQS failed some messages of a batch, which must be received again."""


def process(batch: Sequence[Message], services: Services, remaining_seconds: float) -> None:
    """Process all messages of a batch within `remaining_seconds`.

    Raises BatchError if some failed, after the others were deleted: SQS returns only the failed ones. No thread
    outlives the call: one that is thawed with the next invocation would push after its claim ended.
    """
    deadline = services.clock() + remaining_seconds - RETURN_SECONDS
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
        wake_up = messages.parse(message.body, message.attributes)
        delay_seconds = delivery.redrive(wake_up, services) if wake_up.failed_at is not None else None
        if delay_seconds is None:
            delivery.deliver(wake_up, services, deadline)
        else:
            services.inbox.send(message.body, message.attributes, delay_seconds)
    except messages.MalformedMessageError:
        _move_to_dlq(message, "malformed", services)
    except delivery.UnknownEventError:
        if wake_up.subscription_id is None:  # else a copy, deleted because its subscription is gone
            _move_to_dlq(message, "unknown_event", services)


def _move_to_dlq(message: Message, reason: str, services: Services) -> None:
    logger.warning("message cannot be processed", extra={"reason": reason})
    services.dlq.send(message.body, {"Reason": reason})
