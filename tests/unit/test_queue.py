import pytest
from botocore.exceptions import ClientError

from chalicelib.infra.errors import QueueUnavailableError
from chalicelib.infra.queue import Message, Queue
from tests.conftest import During, Output
from tests.support.world import World, assert_has

BODY = '{"text":"secret é \U0001f511"}'


@pytest.fixture
def queue(shared_world: World) -> Queue:
    shared_world.forget()
    return shared_world.services.work_queue


@pytest.mark.parametrize("operation", ["SendMessageBatch", "DeleteMessageBatch"])
def test_a_refused_entry_of_a_batch_is_an_error(
    queue: Queue, during: During, operation: str
) -> None:
    queue.send_many([Message(BODY, {})] * 3)
    handles = [message.receipt_handle for message in queue.receive(wait_seconds=0)]
    refused = [{"Id": "0", "SenderFault": True, "Code": "InternalError"}]
    during(
        queue._client,
        f"after-call.sqs.{operation}",
        lambda parsed, **_: parsed.update(Failed=refused),
    )

    def use_both() -> None:
        queue.delete_many(handles)
        queue.send_many([Message(BODY, {})] * 3)

    with pytest.raises(QueueUnavailableError):
        use_both()


def test_each_operation_logs_a_line_without_bodies_and_failures(
    queue: Queue, during: During, output: Output
) -> None:
    message = Message(BODY, {"EventId": "evt_1"})
    queue.send(message)
    [line] = output.lines()
    assert_has(line, level="INFO", event_id="evt_1")
    assert line["message_id"]

    def fail(**_: object) -> None:
        raise ClientError({"Error": {"Code": "ServiceUnavailable", "Message": BODY}}, "SendMessage")

    during(queue._client, "before-call.sqs", fail)
    for operation in (
        lambda: queue.send(message),
        lambda: queue.send_many([message]),
        lambda: queue.receive(wait_seconds=0),
        lambda: queue.delete("handle"),
        lambda: queue.delete_many(["handle"]),
        queue.depth,
    ):
        with pytest.raises(QueueUnavailableError) as raised:
            operation()
        [line] = output.lines()
        assert_has(line, level="ERROR", error="ServiceUnavailable")
        assert "secret" not in f"{line}{raised.value}"
