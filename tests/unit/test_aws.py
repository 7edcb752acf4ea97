"""Clients of AWS, and answers that no AWS gives."""

from typing import Any

import pytest

from chalicelib import aws
from chalicelib.store import EventStore
from chalicelib.errors import QueueUnavailableError, StorageUnavailableError
from chalicelib.queue import Queue
from tests.support import receiver as behave
from tests.support.receiver import Receiver
from tests.support.world import Clock

EVENT_ID = "evt_" + "0" * 32
CUT = b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"Item": {"event_id"'
ODD = {
    "cut short": CUT,
    "cut after the head": CUT.partition(b"{")[0],
    "null": b"HTTP/1.1 500 Odd\r\nContent-Length: 4\r\n\r\nnull",
    "a list": b"HTTP/1.1 500 Odd\r\nContent-Length: 2\r\n\r\n[]",
    "a text": b'HTTP/1.1 503 Odd\r\nContent-Length: 21\r\n\r\n"Service Unavailable"',
    "HTML": b"HTTP/1.1 502 Odd\r\nContent-Length: 13\r\n\r\n<html></html>",
    "HTML and 200": b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>",
    "nothing and 200": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "cut, of no length": CUT.replace(b"Content-Length: 500\r\n", b""),
    "not UTF-8": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{\xff}",
    "no number": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\n{}",
    "nothing": b"HTTP/1.1 500 Odd\r\nContent-Length: 0\r\n\r\n",
}


@pytest.fixture
def endpoint(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """Give what stands where AWS should be."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{receiver.port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    return receiver


@pytest.mark.parametrize("what", ODD)
def test_what_is_no_answer_of_aws_is_an_outage(what: str, endpoint: Receiver, clock: Clock) -> None:
    endpoint.default = behave.garbage(ODD[what])
    store = EventStore(aws.client("dynamodb"), "events", clock=clock)
    queue = Queue(aws.client("sqs"), "http://sqs.test/1/inbox")

    with pytest.raises(StorageUnavailableError):
        store.get(EVENT_ID)
    with pytest.raises(StorageUnavailableError):
        store.acknowledge(EVENT_ID)
    with pytest.raises(QueueUnavailableError):
        queue.send("{}", {})


def test_an_answer_that_was_cut_once_is_asked_for_again(endpoint: Receiver, clock: Clock) -> None:
    crc = b"x-amz-crc32: 2745614147\r\n"  # of `{}`
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + crc + b"\r\n{}"
    endpoint.script(behave.garbage(CUT.replace(b"\r\n\r\n", b"\r\n" + crc + b"\r\n")), behave.garbage(whole))

    client: Any = aws.client("dynamodb")

    assert EventStore(client, "events", clock=clock).get(EVENT_ID) is None
    assert len(endpoint.requests) == 2
