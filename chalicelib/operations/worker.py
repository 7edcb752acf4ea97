"""The worker's batch: a thread for each message, all joined before the function returns."""

from collections.abc import Sequence
from functools import partial

from chalicelib.core import delivery, messages
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.infra.errors import QueueUnavailableError
from chalicelib.infra.queue import Message
from chalicelib.infra.telemetry import logger, request_id
from chalicelib.operations import recovery

JOIN_SECONDS = 1  # reserved for joining the threads and returning


class BatchError(Exception):
    """DynamoDB or SQS failed some messages of a batch, which must be received again."""


def process(batch: Sequence[Message], services: CoreServices, remaining_seconds: float) -> None:
    """Process all messages of a batch within `remaining_seconds`.

    Raises BatchError if some failed, after the others were deleted: SQS returns only the failed ones. No thread
    outlives the call: one that is thawed with the next invocation would push after its claim ended.
    """
    invocation = Invocation(services, services.clock() + remaining_seconds - JOIN_SECONDS)
    succeeded = services.map(partial(_process_message, invocation), batch)
    if all(succeeded):
        return
    handles = [message.receipt_handle for message, done in zip(batch, succeeded, strict=True) if done]
    if handles:
        try:
            services.work_queue.delete_many(handles)
        except QueueUnavailableError:
            logger.exception("processed messages will be received again")
    raise BatchError(f"{len(batch) - len(handles)} of {len(batch)} messages failed")


def _process_message(invocation: Invocation, message: Message) -> bool:
    with request_id(message.message_id):
        try:
            match messages.parse(message.body):
                case event_id, False:
                    delivery.deliver(event_id, invocation)
                case event_id, True:
                    recovery.redrive(message, event_id, invocation)
                case _:
                    logger.warning("message cannot be read")
                    invocation.services.dlq.send(Message(message.body, {"Reason": "malformed"}, message.group_id))
        except Exception:  # one message's error must not cost another
            logger.exception("message failed")
            return False
        return True
