from typing import Any

import boto3
import pytest

from chalicelib.core.store import EventStore
from chalicelib.infra import clients as aws
from chalicelib.infra.errors import QueueUnavailableError, StorageUnavailableError
from chalicelib.infra.queue import Message, Queue
from chalicelib.settings import load
from tests.simulator.simulated_world import ENVIRON
from tests.support import receiver as receivers
from tests.support.receiver import Receiver
from tests.support.world import Clock

EVENT_ID = "evt_" + "0" * 32


@pytest.mark.usefixtures("shared_world")
def test_calls_of_a_function_are_without_the_header_that_detects_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "triggers-api-dev-worker")
    monkeypatch.setenv("_X_AMZN_TRACE_ID", "Root=1-5759e988-bd862e3fe1be46a994272793;Lineage=1:a87bd80c:15")
    sent: list[bool] = []

    for client in (boto3.client("sqs"), aws.make_client("sqs")):
        client.meta.events.register_first(
            "before-send", lambda request, **_: sent.append("X-Amzn-Trace-Id" in request.headers)
        )
        client.list_queues()

    assert sent == [True, False]


def test_a_call_takes_at_most_call_seconds() -> None:
    config: Any = aws.CONFIG
    tries = config.retries["total_max_attempts"]
    assert config.retries["mode"] == "standard"
    assert tries * (config.connect_timeout + config.read_timeout) + 1 <= aws.CALL_SECONDS
    assert config.max_pool_connections >= 64  # the threads of a batch do not wait for each other's connections


# Responses that are not those of AWS

TRUNCATED = b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"Item": {"event_id"'
ODD = {
    "truncated": TRUNCATED,
    "without a body": TRUNCATED.partition(b"{")[0],
    "truncated, without a length": TRUNCATED.replace(b"Content-Length: 500\r\n", b""),
    "HTML": b"HTTP/1.1 502 Odd\r\nContent-Length: 13\r\n\r\n<html></html>",
    "null and 500": b"HTTP/1.1 500 Odd\r\nContent-Length: 4\r\n\r\nnull",
    "HTML and 200": b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
    "empty and 200": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "cut off at a brace": b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"Item": {"a": null}',
}


@pytest.mark.parametrize("response", ODD.values(), ids=ODD)
def test_a_response_that_is_not_json_is_an_outage(
    response: bytes, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{receiver.port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "x")
    receiver.default = receivers.garbage(response)
    store = EventStore(aws.make_client("dynamodb"), load(ENVIRON), clock=clock)
    queue = Queue(aws.make_client("sqs"), "http://sqs.test/1/inbox")

    for read_or_write in (store.get, store.mark_erased):
        with pytest.raises(StorageUnavailableError):
            read_or_write(EVENT_ID)
    with pytest.raises(QueueUnavailableError):
        queue.send(Message("{}", {}))
