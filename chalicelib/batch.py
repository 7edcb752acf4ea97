"""The worker's batch: a thread for each message, all joined before the function returns."""

from collections.abc import Sequence
from functools import partial

from chalicelib import delivery, messages
from chalicelib.errors import QueueUnavailableError
from chalicelib.queue import Message
from chalicelib.services import Run, Services
from chalicelib.telemetry import logger, request_id

JOIN_SECONDS = 1  # reserved for joining the threads and returning


class BatchError(Exception):
    """DynamoDB or SQS failed some messages of a batch, which must be received again."""


def process(batch: Sequence[Message], services: Services, remaining_seconds: float) -> None:
    """Process all messages of a batch within `remaining_seconds`.

    Raises BatchError if some failed, after the others were deleted: SQS returns only the failed ones. No thread
    outlives the call: one that is thawed with the next invocation would push after its claim ended.
    """
    run = Run(services, services.clock() + remaining_seconds - JOIN_SECONDS)
    succeeded = services.map(partial(_process_message, run), batch)
    if all(succeeded):
        return
    handles = [message.receipt_handle for message, done in zip(batch, succeeded, strict=True) if done]
    if handles and run.has_time():
        try:
            services.inbox.delete_many(handles)
        except QueueUnavailableError:
            logger.exception("processed messages will be received again")
    raise BatchError(f"{len(batch) - len(handles)} of {len(batch)} messages failed")


def _process_message(run: Run, message: Message) -> bool:
    with request_id(message.message_id):
        try:
            _handle(message, run)
        except Exception:  # one message's error must not cost another
            logger.exception("message failed")
            return False
        return True


def _handle(message: Message, run: Run) -> None:
    try:
        event_id, failed_at = messages.parse(message.body)
        claim_ends_in = delivery.redrive(event_id, failed_at, run.services) if failed_at is not None else None
        if claim_ends_in is None:
            delivery.deliver(event_id, run)
        else:
            run.services.inbox.send(message, claim_ends_in)
    except messages.MalformedMessageError:
        logger.warning("message cannot be read")
        run.services.dlq.send(Message(message.body, {"Reason": "malformed"}, message.group_id))
