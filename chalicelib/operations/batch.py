"""The worker's batch of messages: deliver, redrive or set aside what each names."""

from collections.abc import Sequence
from functools import partial

from chalicelib.core import delivery, messages
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.events import replay
from chalicelib.infra.queue import Message
from chalicelib.infra.telemetry import logger, request_id

JOIN_SECONDS = 1  # reserved for joining the threads and returning


class BatchError(Exception):
    """DynamoDB or SQS failed some messages of a batch, which must be received again."""


def process(
    batch: Sequence[Message],
    services: CoreServices,
    remaining_seconds: float,
    *,
    is_fast_lane: bool,
) -> None:
    """Process all messages of a batch of one lane within `remaining_seconds`.

    Raises BatchError if some failed, after the others were deleted: SQS returns only the failed
    ones. No thread outlives the call: one that is thawed with the next invocation would push after
    its claim ended.
    """
    deadline = services.clock() + remaining_seconds - JOIN_SECONDS
    # A batch ends with its last message, so that a wait delays the others.
    wait_seconds = services.settings.in_process_wait_seconds if len(batch) == 1 else 0.0
    waits_until = services.clock() + wait_seconds
    invocation = Invocation(services, deadline, is_fast_lane=is_fast_lane, waits_until=waits_until)
    succeeded = services.map(partial(_process_message, invocation), batch)
    if all(succeeded):
        return
    outcomes = zip(batch, succeeded, strict=True)
    handles = [message.receipt_handle for message, is_done in outcomes if is_done]
    if handles:
        invocation.queue.delete_many(handles)  # if that fails, they come again, and are dropped
    raise BatchError(f"{len(batch) - len(handles)} of {len(batch)} messages failed")


def _process_message(invocation: Invocation, message: Message) -> bool:
    """Deliver, redrive or set aside what a message names; return whether that succeeded.

    A message of a destination that is known to be slow is sent on before anything is claimed.
    """
    services = invocation.services
    with request_id(message.message_id):
        try:
            is_slow = services.lanes.is_slow(message.group_id, services.clock())
            if is_slow and invocation.is_fast_lane:
                services.slow_queue.send(message)
                return True
            content = messages.parse(message.body)
            if "reason" in content:
                replay.redrive(message, content["event_id"], invocation)
            elif content:
                delivery.deliver(content["event_id"], invocation)
            else:
                logger.warning("message cannot be read")
                services.dlq.send(Message(message.body, {"Reason": "malformed"}, message.group_id))
        except Exception:  # one message's error must not cost another
            logger.exception("message failed")
            return False
        return True
