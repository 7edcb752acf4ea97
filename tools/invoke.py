"""Calls the worker and the scheduled functions as Lambda does: same events, a real deadline, delete on success.

Lambda's own clock is missing: a function that overruns its timeout is not killed.
"""

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Semaphore, Thread
from typing import Any

from chalice.app import ScheduleExpression
from chalice.local import LambdaContext

from chalicelib import aws, log
from chalicelib.events import rfc3339

# Brief, for ministack hands messages to long polls whose client is gone.
WAIT_SECONDS = 1
DELETE_TRIES = 3
UNIT_SECONDS: dict[str, float] = {"minute": 60, "hour": 3600, "day": 86400}


@dataclass(frozen=True)
class Function:
    """A handler and what Lambda would add to it."""

    name: str
    handler: Callable[[Any, Any], Any]
    timeout_seconds: int

    def invoke(self, event: dict[str, Any]) -> bool:
        """Return whether the handler took `event` without raising."""
        context = LambdaContext(self.name, 256, self.timeout_seconds * 1000)
        with log.request_id(context.aws_request_id):
            try:
                self.handler(event, context)
            except Exception:  # the edge: Lambda itself would log it and go on
                log.exception(f"{self.name} raised")
                return False
        return True


class EventSource:
    """Stands between a queue and its function.

    One thread receives, and each batch gets a thread of its own, `concurrency` at most. No batch window: on a laptop
    a message should be seen at once.
    """

    def __init__(self, sqs: Any, queue_url: str, function: Function, *, batch_size: int, concurrency: int) -> None:
        self._sqs = sqs
        self._queue_url = queue_url
        self._function = function
        self._batch_size = batch_size
        self._concurrency = concurrency
        self._slots = Semaphore(concurrency)
        self._stopping = Event()
        attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
        self._arn: str = attributes["Attributes"]["QueueArn"]

    def start(self) -> None:
        Thread(target=self._poll, name="event source", daemon=True).start()

    def stop(self, grace_seconds: float) -> None:
        """Take no more messages, and give the batches that run a while to finish."""
        self._stopping.set()
        deadline = time.monotonic() + grace_seconds
        for _ in range(self._concurrency):
            self._slots.acquire(timeout=max(0.0, deadline - time.monotonic()))

    def _poll(self) -> None:
        unwell = False
        while not self._stopping.is_set():
            self._slots.acquire()
            messages = []
            try:
                messages = self._receive()
                unwell = False
            except aws.FAILURES as error:
                if not unwell:
                    log.warning("queue cannot be read, trying on", error=aws.code(error))
                unwell = True
                self._stopping.wait(1)
            if messages:
                Thread(target=self._handle, args=(messages,), name="batch", daemon=True).start()
            else:
                self._slots.release()

    def _receive(self) -> list[dict[str, Any]]:
        answer = self._sqs.receive_message(
            QueueUrl=self._queue_url,
            MaxNumberOfMessages=self._batch_size,
            WaitTimeSeconds=WAIT_SECONDS,
            MessageAttributeNames=["All"],
            AttributeNames=["All"],
        )
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        return messages

    def _handle(self, messages: list[dict[str, Any]]) -> None:
        try:
            if self._function.invoke({"Records": [_record(message, self._arn) for message in messages]}):
                self._delete([message["ReceiptHandle"] for message in messages])
        finally:
            self._slots.release()

    def _delete(self, receipt_handles: list[str]) -> None:
        entries = [{"Id": str(number), "ReceiptHandle": handle} for number, handle in enumerate(receipt_handles)]
        for _ in range(DELETE_TRIES):
            try:
                answer = self._sqs.delete_message_batch(QueueUrl=self._queue_url, Entries=entries)
            except aws.FAILURES:
                continue
            refused = {failure["Id"] for failure in answer.get("Failed", ())}
            entries = [entry for entry in entries if entry["Id"] in refused]
            if not entries:
                return
        log.warning("messages not deleted, they will come again", count=len(entries))


def start_schedule(function: Function, every_seconds: float) -> None:
    """Call `function` now and at its rate from then on: what a crash left behind should not wait."""

    def run() -> None:
        while True:
            function.invoke(_scheduled_event())
            time.sleep(every_seconds)

    Thread(target=run, name=function.name, daemon=True).start()


def rate_seconds(expression: str | ScheduleExpression) -> float:
    """Return the seconds between two runs of an EventBridge `rate(...)`; raise ValueError for anything else."""
    text = expression if isinstance(expression, str) else expression.to_string()
    rate = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", text)
    if not rate:
        raise ValueError(f"not a rate: {text}")
    return int(rate[1]) * UNIT_SECONDS[rate[2]]


def _record(message: dict[str, Any], queue_arn: str) -> dict[str, Any]:
    """Return `message` as Lambda shows it: the same names in another case."""
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {}),
        "messageAttributes": {
            name: {f"{member[0].lower()}{member[1:]}": content for member, content in value.items()}
            for name, value in message.get("MessageAttributes", {}).items()
        },
        "md5OfBody": message.get("MD5OfBody", ""),
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": queue_arn.split(":")[3],
    }


def _scheduled_event() -> dict[str, Any]:
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "123456789012",
        "time": rfc3339(time.time()),
        "region": "us-east-1",
        "resources": [],
        "detail": {},
    }
