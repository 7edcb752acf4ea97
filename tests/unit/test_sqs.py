from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from chalicelib.errors import QueueUnavailableError
from chalicelib.queue import Queue
from tests.conftest import During, LogLines
from tests.support.world import World

BODY = '{"text":"secret é \U0001f511"}'


@pytest.fixture
def queue(shared_world: World) -> Queue:
    """Give the inbox queue, empty."""
    shared_world._queue("INBOX_QUEUE_URL")._messages.clear()
    return shared_world.services.inbox


def receive(queue: Queue, most: int = 10) -> list[dict[str, Any]]:
    """Receive as Lambda does for the worker; attributes by name."""
    parameters = {"QueueUrl": queue._url, "MaxNumberOfMessages": most, "MessageAttributeNames": ["All"]}
    received: list[dict[str, Any]] = queue._client.receive_message(**parameters, WaitTimeSeconds=0).get("Messages", [])
    for message in received:
        attributes = message.get("MessageAttributes", {})
        message["MessageAttributes"] = {name: value["StringValue"] for name, value in attributes.items()}
    return received


def test_a_message_arrives_as_it_was_sent(queue: Queue) -> None:
    queue.send(BODY, {"EventId": "evt_1", "Reason": "permanent"})
    (message,) = receive(queue)
    assert message["Body"] == BODY
    assert message["MessageAttributes"] == {"EventId": "evt_1", "Reason": "permanent"}


def test_a_message_needs_no_attributes(queue: Queue) -> None:
    queue.send(BODY, {})
    queue.send_many([(BODY, {})])
    assert [message["MessageAttributes"] for message in receive(queue)] == [{}, {}]


@pytest.mark.parametrize(("delay_seconds", "hidden_seconds"), [(0, 0), (0.001, 1), (1, 1), (29.2, 30), (900, 900)])
def test_a_delay_is_rounded_up_to_whole_seconds(
    delay_seconds: float, hidden_seconds: int, queue: Queue, shared_world: World
) -> None:
    queue.send(BODY, {}, delay_seconds)
    if hidden_seconds:
        shared_world.clock.sleep(hidden_seconds - 0.01)
        assert receive(queue) == []
        shared_world.clock.sleep(0.02)
    assert len(receive(queue)) == 1


def test_ten_messages_are_sent_in_one_call(queue: Queue, shared_world: World, log_lines: LogLines) -> None:
    queue.send_many([(f"body {number}", {"EventId": f"evt_{number}"}) for number in range(10)])
    sent = [(message["body"], message["attributes"]) for message in shared_world.messages()]
    assert sent == [(f"body {number}", {"EventId": f"evt_{number}"}) for number in range(10)]
    assert len(log_lines()) == 1


def test_a_refused_message_is_an_error(queue: Queue, shared_world: World, during: During) -> None:
    def refuse_one(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Failed"] = [{"Id": "0", "SenderFault": True, "Code": "InternalError"}]

    during(queue._client, "after-call.sqs.SendMessageBatch", refuse_one)
    with pytest.raises(QueueUnavailableError, match="refused 1 of 3 messages"):
        queue.send_many([(f"body {number}", {}) for number in range(3)])


def test_a_batch_that_fails_is_an_error(queue: Queue, during: During) -> None:
    during(queue._client, "before-call.sqs.SendMessageBatch", fail_with(client_error("ServiceUnavailable")))
    with pytest.raises(QueueUnavailableError):
        queue.send_many([(BODY, {})])


def test_what_was_deleted_does_not_come_back(queue: Queue, shared_world: World) -> None:
    queue.send_many([(f"body {number}", {}) for number in range(3)])
    handles = {message["Body"]: message["ReceiptHandle"] for message in receive(queue)}
    queue.delete_many([handles["body 0"], handles["body 2"]])
    shared_world.clock.sleep(300.1)
    assert [message["Body"] for message in receive(queue)] == ["body 1"]


def test_a_refused_deletion_is_an_error(queue: Queue, during: During) -> None:
    def refuse(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Failed"] = [{"Id": "0", "SenderFault": True, "Code": "ReceiptHandleIsInvalid"}]

    queue.send(BODY, {})
    (message,) = receive(queue)
    during(queue._client, "after-call.sqs.DeleteMessageBatch", refuse)
    with pytest.raises(QueueUnavailableError, match="refused to delete 1 messages"):
        queue.delete_many([message["ReceiptHandle"]])


def test_depth_tells_what_waits_and_neither_is_worked_on_nor_delayed(queue: Queue) -> None:
    assert queue.depth() == 0
    queue.send_many([(BODY, {})] * 5)
    receive(queue, 2)
    queue.send(BODY, {}, 10)
    assert queue.depth() == 3


# Faults


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": f"not now: {BODY}"}}, "SomeOperation")


def fail_with(error: Exception) -> Callable[..., None]:
    def fail(**_: Any) -> None:
        raise error

    return fail


URL = "https://sqs.example/"
FAULTS = [
    *map(
        client_error,
        ("RequestThrottled", "ServiceUnavailable", "AccessDenied", "AWS.SimpleQueueService.NonExistentQueue"),
    ),
    ConnectTimeoutError(endpoint_url=URL),
    ReadTimeoutError(endpoint_url=URL),
    EndpointConnectionError(endpoint_url=URL),
    ResponseParserError("not what AWS says"),
    ConnectionClosedError(endpoint_url=URL),
]
OPERATIONS: dict[str, Callable[[Queue], object]] = {
    "send": lambda queue: queue.send(BODY, {}),
    "send_many": lambda queue: queue.send_many([(BODY, {})]),
    "delete": lambda queue: queue.delete_many(["handle"]),
    "depth": lambda queue: queue.depth(),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault)[:50].replace(URL, ""))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_fails_in_sqs_is_one_error_and_one_line_without_the_body(
    operation: str, fault: Exception, queue: Queue, during: During, log_lines: LogLines
) -> None:
    during(queue._client, "before-call.sqs", fail_with(fault))
    with pytest.raises(QueueUnavailableError) as caught:
        OPERATIONS[operation](queue)
    (line,) = log_lines()
    code = fault.response["Error"]["Code"] if isinstance(fault, ClientError) else type(fault).__name__
    assert (line["message"], line["error"]) == (f"sqs {operation.removesuffix('_many')}", code)
    assert "secret" not in str(caught.value) + str(line)


def test_each_operation_is_one_line_without_the_body(queue: Queue, log_lines: LogLines) -> None:
    queue.send(BODY, {"EventId": "evt_1"})
    queue.send_many([(BODY, {"EventId": "evt_2"})] * 2)
    messages = receive(queue)
    queue.delete_many([message["ReceiptHandle"] for message in messages])
    queue.depth()
    first = next(message for message in messages if message["MessageAttributes"]["EventId"] == "evt_1")
    lines = log_lines()
    assert [line["message"] for line in lines] == ["sqs send", "sqs send", "sqs delete", "sqs depth"]
    assert {(line["level"], line["queue"], line["error"]) for line in lines} == {("INFO", queue.name, None)}
    assert all(line["duration_ms"] >= 0 for line in lines)
    assert (lines[0]["EventId"], lines[0]["message_id"]) == ("evt_1", first["MessageId"])
    assert "secret" not in str(lines)
