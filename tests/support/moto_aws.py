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
# A dict with `id`; `body`; `attributes`, which are texts by name; and `delay_seconds`, the rest of
# the delay.
Message = dict[str, Any]


class MotoQueues:
    """The queues of moto, read and cleared without calls of SQS."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Refer to the queues that moto has until the end of the present block of `moto_aws`.

        :param clock: Returns the time of SQS in that block, in Unix seconds.
        """
        self._clock = clock

    def messages(self, queue_url: str) -> list[Message]:
        """Return all messages in a queue, including invisible and delayed ones."""
        return [self._to_dict(message) for message in self._queue(queue_url)._messages]

    def _to_dict(self, message: Any) -> Message:
        """Return a message of moto as a dict with `id`; `body`; `attributes`, which are texts by
        name; and `delay_seconds`, the rest of the delay, or 0.
        """
        attributes = {
            name: value["StringValue"] for name, value in message.message_attributes.items()
        }
        delayed_until = message.delayed_until / 1000  # moto has milliseconds
        delay_seconds = max(0.0, delayed_until - self._clock())
        return {
            "id": message.id,
            "body": message.body,
            "attributes": attributes,
            "delay_seconds": delay_seconds,
        }

    def clear(self, queue_url: str) -> None:
        """Delete all messages of a queue, also those that are invisible."""
        queue = self._queue(queue_url)
        for collection in (queue._messages, queue.pending_messages, queue.deleted_messages):
            collection.clear()

    def _queue(self, queue_url: str) -> moto.sqs.models.Queue:
        """Return the object in which moto has a queue."""
        return sqs_backends[DEFAULT_ACCOUNT_ID][REGION].queues[queue_url.rsplit("/", 1)[-1]]


def get_value(serializer: ResponseSerializer, value: Any, key: str, shape: Any) -> Any:
    """Return a member of an object of a response, or None if the object lacks it. This replaces the
    method of moto's serializer, which looks for each member under ten names.

    An attribute value of DynamoDB, such as `{"S": "text"}`, has its member under the name itself,
    and responses have so many attribute values that ten look-ups for each are slow.

    :param value: The object.
    :param key: The name of the member.
    :param shape: botocore's model of the member; its parent is that of the object.
    """
    is_attribute_value = shape.parent.name == "AttributeValue"
    if is_attribute_value:
        return value.get(key)
    return MOTO_GET_VALUE(serializer, value, key, shape)


@contextmanager
def moto_aws(clock: Callable[[], float]) -> Iterator[MotoQueues]:
    """Let moto respond to all calls of AWS in this process until the end of the block; yield its
    queues.

    Moto is patched, because it has no parameters for the clock of SQS, for making calls one at a
    time, and for less work in each call.

    :param clock: Returns the time of SQS, in Unix seconds.
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
