"""One SQS queue: send, delete, depth; every operation leaves one line in the log.

Knows nothing of events. Bodies are never logged.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib import aws, log
from chalicelib.errors import QueueUnavailableError

MAX_DELAY_SECONDS = 900
BATCH_SIZE = 10


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

    def send(self, body: str, attributes: Mapping[str, str], delay_seconds: float = 0) -> None:
        """Send a message, to be seen after a delay of 0 to MAX_DELAY_SECONDS, which is rounded up."""
        message = _message(body, attributes) | {"DelaySeconds": math.ceil(delay_seconds)}
        self._call("send", "send_message", attributes, **message)

    def send_many(self, messages: Sequence[tuple[str, Mapping[str, str]]]) -> None:
        """Send up to BATCH_SIZE messages, each a body and attributes."""
        entries = [{"Id": str(number), **_message(*message)} for number, message in enumerate(messages)]
        answer = self._call("send", "send_message_batch", {"count": len(entries)}, Entries=entries)
        if answer.get("Failed"):
            raise QueueUnavailableError(f"{self.name} refused {len(answer['Failed'])} of {len(entries)} messages")

    def delete_many(self, receipt_handles: Sequence[str]) -> None:
        """Delete up to BATCH_SIZE received messages."""
        entries = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(receipt_handles)]
        answer = self._call("delete", "delete_message_batch", {"count": len(entries)}, Entries=entries)
        if answer.get("Failed"):
            raise QueueUnavailableError(f"{self.name} refused to delete {len(answer['Failed'])} messages")

    def depth(self) -> int:
        """Return how many messages wait, neither being worked on nor delayed; SQS calls the number approximate."""
        name = "ApproximateNumberOfMessages"
        answer = self._call("depth", "get_queue_attributes", {}, AttributeNames=[name])
        return int(answer["Attributes"].get(name, 0))

    def _call(self, what: str, operation: str, fields: Mapping[str, Any], **parameters: Any) -> Any:
        started = time.monotonic()
        answer, error = {}, None
        try:
            answer = getattr(self._client, operation)(QueueUrl=self._url, **parameters)
            return answer
        except aws.FAILURES as failure:
            error = aws.code(failure)
            raise QueueUnavailableError(f"{self.name}: {what} failed: {error}") from None
        finally:
            log.info(
                f"sqs {what}",
                queue=self.name,
                **fields,
                message_id=answer.get("MessageId"),  # the request id of whoever receives it
                duration_ms=round((time.monotonic() - started) * 1000),
                error=error,
            )


def _message(body: str, attributes: Mapping[str, str]) -> dict[str, Any]:
    typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    return {"MessageBody": body, "MessageAttributes": typed}
