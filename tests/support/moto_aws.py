"""AWS as moto emulates it in this process, with the clock of a test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import moto.sqs.models
import pytest
from moto import mock_aws
from moto.core import responses
from moto.core.botocore_stubber import BotocoreStubber
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.serialize import ResponseSerializer
from moto.core.utils import method_names_from_class
from moto.dynamodb.models import dynamodb_backends
from moto.sqs.models import sqs_backends

REGION = "us-east-1"
MOTO_GET_VALUE = ResponseSerializer.get_value
# `id`, `body`, `attributes` by name, and `delay_seconds`: what is left of the delay
Message = dict[str, Any]


class MotoQueues:
    """The queues of moto, read and cleared without calls of SQS."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def messages(self, queue_url: str) -> list[Message]:
        """Return all messages in a queue, including invisible and delayed ones."""
        return [self._shown(message) for message in self._queue(queue_url)._messages]

    def _shown(self, message: Any) -> Message:
        attributes = {
            name: value["StringValue"] for name, value in message.message_attributes.items()
        }
        delay_seconds = max(0.0, message.delayed_until / 1000 - self._clock())
        return {
            "id": message.id,
            "body": message.body,
            "attributes": attributes,
            "delay_seconds": delay_seconds,
        }

    def clear(self, queue_url: str) -> None:
        """Delete all messages of a queue."""
        queue = self._queue(queue_url)
        for held in (queue._messages, queue.pending_messages, queue.deleted_messages):
            held.clear()

    def _queue(self, queue_url: str) -> moto.sqs.models.Queue:
        return sqs_backends[DEFAULT_ACCOUNT_ID][REGION].queues[queue_url.rsplit("/", 1)[-1]]


def get_value(serializer: ResponseSerializer, value: Any, key: str, shape: Any) -> Any:
    """Return a member of a response, in place of a method of moto that looks for each type of each
    attribute value under ten names, which is slow.
    """
    is_typed = shape.parent.name == "AttributeValue"
    return value.get(key) if is_typed else MOTO_GET_VALUE(serializer, value, key, shape)


@contextmanager
def moto_aws(clock: Callable[[], float]) -> Iterator[MotoQueues]:
    """Let moto be AWS until the end of the block.

    Moto is patched, because it has no parameters for a clock, for calls one at a time, and for
    less work in each call.
    """
    lock = threading.Lock()
    process_request = BotocoreStubber.process_request

    def process_one_request(stubber: BotocoreStubber, request: Any) -> Any:
        """Serialize calls: moto checks a condition and writes in two steps, AWS in one."""
        with lock:
            return process_request(stubber, request)

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setattr(BotocoreStubber, "process_request", process_one_request)
        patch.setattr(responses, "method_names_from_class", cache(method_names_from_class))
        patch.setattr(ResponseSerializer, "get_value", get_value)
        patch.setattr(moto.sqs.models, "unix_time", clock)
        patch.setattr(moto.sqs.models, "unix_time_millis", lambda: clock() * 1000)
        yield MotoQueues(clock)


def empty_table(name: str) -> None:
    """Delete all items of a table."""
    dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[name].items.clear()
