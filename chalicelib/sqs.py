"""One SQS queue: send, delete, depth; every operation leaves one line in the log.

Knows nothing of events. Bodies are never logged.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from chalicelib import log
from chalicelib.errors import QueueUnavailableError

MAX_DELAY_SECONDS = 900
BATCH_SIZE = 10


@dataclass(frozen=True)
class Outgoing:
    """A message to send. `delay_seconds` is 0 to 900 and rounded up; attributes are strings."""

    body: str
    attributes: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0


@dataclass(frozen=True)
class Received:
    """A message that Lambda received for the worker, hidden from others; `receipt_handle` deletes it."""

    message_id: str
    receipt_handle: str
    body: str


class Queue:
    """A queue. Every method raises QueueUnavailableError when SQS fails: what took effect is not known then."""

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url
        self.name = url.rsplit("/", 1)[-1]

    def send(self, message: Outgoing) -> None:
        self._call("send", self._client.send_message, message.attributes, **_parameters(message))

    def send_many(self, messages: Sequence[Outgoing]) -> None:
        """Send any number, ten a call. All are tried before a refused one raises."""
        refused = 0
        for start in range(0, len(messages), BATCH_SIZE):
            batch = messages[start : start + BATCH_SIZE]
            entries = [{"Id": str(number), **_parameters(message)} for number, message in enumerate(batch)]
            answer = self._call("send", self._client.send_message_batch, {"count": len(batch)}, Entries=entries)
            refused += len(answer.get("Failed", ()))
        if refused:
            raise QueueUnavailableError(f"{self.name} refused {refused} of {len(messages)} messages")

    def delete_many(self, receipt_handles: Sequence[str]) -> None:
        """Delete up to ten received messages."""
        entries = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(receipt_handles)]
        answer = self._call("delete", self._client.delete_message_batch, {"count": len(entries)}, Entries=entries)
        if answer.get("Failed"):
            raise QueueUnavailableError(f"{self.name} refused to delete {len(answer['Failed'])} messages")

    def depth(self) -> int:
        """Return how many messages wait, neither being worked on nor delayed; SQS calls the number approximate."""
        name = "ApproximateNumberOfMessages"
        answer = self._call("depth", self._client.get_queue_attributes, {}, AttributeNames=[name])
        return int(answer["Attributes"].get(name, 0))

    def _call(self, operation: str, call: Callable[..., Any], fields: dict[str, Any], **parameters: Any) -> Any:
        started = time.monotonic()
        answer, error = {}, None
        try:
            answer = call(QueueUrl=self._url, **parameters)
            return answer
        except (ClientError, BotoCoreError, ResponseParserError) as failure:
            error = type(failure).__name__
            raise QueueUnavailableError(f"{self.name}: {operation} failed") from failure
        finally:
            log.info(
                f"sqs {operation}",
                queue=self.name,
                **fields,
                message_id=answer.get("MessageId"),  # the request id of whoever receives it
                duration_ms=round((time.monotonic() - started) * 1000),
                error=error,
            )


def _parameters(message: Outgoing) -> dict[str, Any]:
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in message.attributes.items()}
    return {
        "MessageBody": message.body,
        "MessageAttributes": attributes,
        "DelaySeconds": math.ceil(message.delay_seconds),
    }
