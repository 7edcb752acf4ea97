"""The SQS client: send, receive, delete, depth.

Each operation logs one line; bodies are never logged.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib.infra.errors import AWS_ERRORS, QueueUnavailableError, error_code
from chalicelib.infra.parsing import NO_MEMBERS, Json
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import ms_since

BATCH_SIZE = 10
MAX_DELAY_SECONDS = 900  # of a message; the sweep queues events that are due later
GROUP_ID = "MessageGroupId"
WEBHOOK = "webhook"  # the destination, and message group, of events themselves


@dataclass(frozen=True)
class Message:
    """A message to send, or a message that was received.

    A received message is hidden from other consumers until its visibility timeout ends.
    """

    body: str
    # The texts of the message attributes, by name.
    attributes: Json
    # The message group. SQS prefers messages of groups with few messages in flight (fair queues).
    group_id: str = WEBHOOK
    # The id that SQS gave the message; empty in a message to send.
    message_id: str = ""
    # With which a received message is deleted; empty in a message to send.
    receipt_handle: str = ""

    @classmethod
    def from_record(cls, record: Json) -> "Message":
        """Return the message of a record of a Lambda event, or of an entry of an SQS response.

        The two spell the names of members differently (`messageId`, `MessageId`). A binary
        attribute becomes an empty text. A message without a message group belongs to WEBHOOK.

        :param record: The record or entry as AWS sends it.
        """
        members = _lowered(record)
        attributes = members.get("messageattributes", {})
        return cls(
            body=members["body"],
            attributes={
                name: _lowered(value).get("stringvalue", "") for name, value in attributes.items()
            },
            group_id=members.get("attributes", {}).get(GROUP_ID, WEBHOOK),
            message_id=members["messageid"],
            receipt_handle=members["receipthandle"],
        )


class Queue:
    """One SQS queue.

    Every method raises QueueUnavailableError when SQS fails; whether the call took effect is
    unknown then.
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url
        self.name = url.rsplit("/", 1)[-1]

    def send(self, message: Message, delay_seconds: float = 0) -> None:
        """Send a message.

        :param delay_seconds: After how many seconds consumers see it: 0 to 900, rounded up.
        """
        fields = {"event_id": message.attributes.get("EventId")}
        self._call("send_message", _parameters(message, math.ceil(delay_seconds)), fields)

    def send_many(self, messages: Sequence[Message], delay_seconds: int = 0) -> None:
        """Send up to BATCH_SIZE messages in one call.

        Raises QueueUnavailableError, also if SQS refused one of them.

        :param delay_seconds: After how many seconds consumers see them: 0 to 900.
        """
        entries = [
            {"Id": str(number), **_parameters(message, delay_seconds)}
            for number, message in enumerate(messages)
        ]
        self._call("send_message_batch", {"Entries": entries}, {"count": len(entries)})

    def receive(self, max_messages: int = BATCH_SIZE, wait_seconds: int = 20) -> list[Message]:
        """Receive up to `max_messages` (1 to 10) messages.

        :param wait_seconds: How long to wait for the first message if there is none: 0 to 20.
        """
        parameters = {
            "MaxNumberOfMessages": max_messages,
            "WaitTimeSeconds": wait_seconds,
            "MessageAttributeNames": ["All"],
            "MessageSystemAttributeNames": [GROUP_ID],
        }
        response = self._call("receive_message", parameters)
        return [Message.from_record(message) for message in response.get("Messages", ())]

    def delete(self, receipt_handle: str) -> None:
        """Delete a received message, by its `receipt_handle`."""
        self._call("delete_message", {"ReceiptHandle": receipt_handle})

    def delete_many(self, receipt_handles: Sequence[str]) -> None:
        """Delete received messages in one call, and log how many they are.

        Raises QueueUnavailableError, also if SQS refused to delete one of them.

        :param receipt_handles: The `receipt_handle` of each message, from 1 to BATCH_SIZE.
        """
        entries = [
            {"Id": str(number), "ReceiptHandle": handle}
            for number, handle in enumerate(receipt_handles)
        ]
        fields = {"count": len(entries)}
        self._call("delete_message_batch", {"Entries": entries}, fields)

    def depth(self) -> int:
        """Return the approximate number of messages that a consumer could receive now."""
        name = "ApproximateNumberOfMessages"
        response = self._call("get_queue_attributes", {"AttributeNames": [name]})
        return int(response["Attributes"].get(name, 0))

    def _call(self, operation: str, parameters: Json, fields: Json = NO_MEMBERS) -> Json:
        """Call SQS and return its response; log one line with the queue, the message's id, the
        duration and the error.

        Raises QueueUnavailableError, also if SQS refused an entry of a batch.

        :param operation: The name of a method of boto3's client.
        :param parameters: Its parameters, but for the queue's URL.
        :param fields: Further fields to log.
        """
        started = time.monotonic()
        response: Json = {}
        error: str | None = None
        try:
            response = getattr(self._client, operation)(QueueUrl=self._url, **parameters)
            if refused := response.get("Failed"):
                error = f"{len(refused)} entries refused: {refused[0].get('Code')}"
        except AWS_ERRORS as failure:
            error = error_code(failure)
        extra = {
            "queue": self.name,
            **fields,
            "message_id": response.get("MessageId"),
            "duration_ms": ms_since(started),
            "error": error,
        }
        if error:
            logger.error("sqs %s", operation, extra=extra)
            raise QueueUnavailableError(f"{self.name}: {operation} failed: {error}")
        logger.info("sqs %s", operation, extra=extra)
        return response


def _parameters(message: Message, delay_seconds: int) -> Json:
    """Return the parameters of SendMessage for a message, or of its entry in SendMessageBatch.

    :param delay_seconds: Whole seconds, 0 to 900.
    """
    attributes = {
        name: {"DataType": "String", "StringValue": value}
        for name, value in message.attributes.items()
    }
    return {
        "MessageBody": message.body,
        "MessageAttributes": attributes,
        GROUP_ID: message.group_id,
        "DelaySeconds": delay_seconds,
    }


def _lowered(record: Json) -> Json:
    """Return an object with its names in lower case."""
    return {name.lower(): value for name, value in record.items()}
