"""Process a batch of queue messages: push, redrive or set aside the event of each message."""

from collections.abc import Sequence
from functools import partial

from chalicelib.core import delivery, messages
from chalicelib.core.invocation import CoreServices, Invocation
from chalicelib.events import replay
from chalicelib.infra.queue import Message
from chalicelib.infra.telemetry import logger, request_id


class BatchError(Exception):
    """Some messages of a batch could not be processed, because DynamoDB or SQS failed."""


JOIN_SECONDS = 1  # reserved for joining the threads and returning


def process(
    batch: Sequence[Message],
    services: CoreServices,
    remaining_seconds: float,
    *,
    is_fast_lane: bool,
) -> None:
    """Process the queue messages of one invocation of a worker in parallel: push their events.

    All threads end before the function returns: Lambda would freeze a thread that is still running
    and thaw it at the next invocation, when its claim has ended.

    :param remaining_seconds: The time until Lambda ends the invocation.
    :param is_fast_lane: True: the messages are from the work queue; False: from the slow queue.
    :raises BatchError: If a message failed. The other messages are deleted first, so that SQS
        delivers only the failed messages again.
    """
    deadline = services.clock() + remaining_seconds - JOIN_SECONDS
    # How long a thread may wait for a retry and make it itself. A batch ends when its last message
    # is processed, so a wait would delay the other messages.
    wait_seconds = services.settings.in_process_wait_seconds if len(batch) == 1 else 0.0
    waits_until = services.clock() + wait_seconds
    invocation = Invocation(services, deadline, is_fast_lane=is_fast_lane, waits_until=waits_until)
    succeeded = services.map(partial(_process_message, invocation), batch)
    if all(succeeded):
        return
    outcomes = zip(batch, succeeded, strict=True)
    handles = [message.receipt_handle for message, is_done in outcomes if is_done]
    if handles:
        # If SQS fails, these messages are received again, and have no effect.
        invocation.queue.delete_many(handles)
    raise BatchError(f"{len(batch) - len(handles)} of {len(batch)} messages failed")


def _process_message(invocation: Invocation, message: Message) -> bool:
    """Process a queue message; return True, or False if an error prevented that, which is logged.

    The event of the message is pushed if it is due. A dead letter that was moved back to the queue
    replays its event. A message that cannot be read is sent to the DLQ. In the fast lane, a message
    for a destination that is known to be slow is sent to the slow queue, and its event is not
    claimed.

    :param message: Its `group_id` names the destination.
    """
    services = invocation.services
    with request_id(message.message_id):
        try:
            is_slow = services.lanes.is_slow(message.group_id, services.clock())
            if is_slow and invocation.is_fast_lane:
                services.slow_queue.send(message)
                return True
            content = messages.parse(message.body)  # empty: the body cannot be read
            if "reason" in content:  # only dead letters have it
                replay.redrive(message, content["event_id"], invocation)
            elif content:
                delivery.deliver(content["event_id"], invocation)
            else:
                logger.warning("message cannot be read")
                services.dlq.send(Message(message.body, {"Reason": "malformed"}, message.group_id))
        except Exception:  # an error must not stop the other messages
            logger.exception("message failed")
            return False
        return True
