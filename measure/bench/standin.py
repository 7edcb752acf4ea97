"""DynamoDB, SQS, Secrets Manager and a receiver in a process of their own.

They answer at once, so that our own time shows, and count what they are asked for.
"""

import asyncio
import base64
import contextlib
import json
import multiprocessing
import os
import re
import socket
import time
from collections import Counter, deque
from typing import Any

import urllib3
from botocore import xform_name
from botocore.exceptions import ClientError

from chalicelib import deps
from measure.bench.write_units import consumed
from tests.support.in_memory_aws import FakeDynamoDB, Json
from tools import api_key, local_aws

API_KEY = "bench-key"


class StandIn:
    """Tables in memory and the responses to calls of AWS, with counts of what the calls use."""

    def __init__(self) -> None:
        self._tables: dict[str, FakeDynamoDB] = {}
        self._calls: deque[tuple[str, Json]] = deque(maxlen=20)
        self._used = Counter[str]()
        self._waiting = 0
        self._waits_since = 0.0

    async def wait(self, seconds: float) -> None:
        """Wait before a response, and count the time in `waited_us`; the time of several waits that
        overlap is counted once.
        """
        if not self._waiting:
            self._waits_since = time.monotonic()
        self._waiting += 1
        await asyncio.sleep(seconds)
        self._waiting -= 1
        if not self._waiting:
            self._used["waited_us"] += round((time.monotonic() - self._waits_since) * 1e6)

    def take_push(self, size: int) -> None:
        """Count the bytes of a push."""
        self._used["pushed_bytes"] += size

    def meter(self) -> tuple[Counter[str], list[Any]]:
        """Return the counts since the previous call of this method, and at most 20 of the latest
        calls of AWS since then, each as its operation and parameters; begin to count anew.
        """
        used = self._used
        calls = [*self._calls]
        self._used = Counter()
        self._calls = deque(maxlen=20)
        return used, calls

    def answer(self, operation: str, parameters: Json) -> tuple[int, Any]:
        """Return the status code and the body of the response to a call."""
        self._calls.append((operation, parameters))
        table = parameters.get("TableName") or next(iter(parameters.get("RequestItems", ())), None)
        if table is None:  # SQS or Secrets Manager
            self._used["sqs_requests"] += "QueueUrl" in parameters
            return 200, {"MessageId": "id", "SecretString": "ZAPIER_WEBHOOK_URL=none"}
        try:
            return 200, getattr(self._table(table), xform_name(operation))(**parameters)
        except ClientError as error:
            return 400, {
                "__type": error.response["Error"]["Code"],
                "message": "",
                "Item": error.response.get("Item"),
            }

    def _table(self, name: str) -> FakeDynamoDB:
        """Return the table of a name, and count its writes; make the table if it is missing."""
        if name not in self._tables:
            self._tables[name] = FakeDynamoDB(time.time)
            self._tables[name].page_rows = 3_000  # about 1 MB
            self._tables[name].on_write = lambda before, after: self._used.update(
                consumed(before or {}, after or {})
            )
        return self._tables[name]


def decode(text: str | bytes) -> Any:
    """Parse JSON as DynamoDB has it: return it with binary values as bytes."""
    return json.loads(
        text,
        object_hook=lambda part: {"B": base64.b64decode(part["B"])} if [*part] == ["B"] else part,
    )


def encode(content: Any) -> bytes:
    """Return a value as JSON, with bytes in Base64 as DynamoDB has them."""
    return json.dumps(content, default=lambda value: base64.b64encode(value).decode()).encode()


async def serve(listener: socket.socket, call_seconds: float, push_seconds: float) -> None:
    """Serve HTTP for ever: calls of AWS by their X-Amz-Target, `POST /meter` with the counts, and
    any other request as a push, to which the response is 200.

    :param listener: A socket that listens.
    :param call_seconds: How long to wait before the response to a call of AWS.
    :param push_seconds: How long to wait before the response to a push.
    """
    stand_in = StandIn()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Respond to the requests of a connection, until the client closes it."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1]) if length else 0)
                status_code = 200
                answer = None
                if target := re.search(r"x-amz-target: *\S+\.(\w+)", head, re.IGNORECASE):
                    await stand_in.wait(call_seconds)
                    status_code, answer = stand_in.answer(target[1], decode(body))
                elif head.startswith("POST /meter"):
                    answer = stand_in.meter()
                else:
                    await stand_in.wait(push_seconds)
                    stand_in.take_push(len(head) + len(body))
                content = encode(answer)
                writer.write(
                    f"HTTP/1.1 {status_code} -\r\nContent-Length: {len(content)}\r\n\r\n".encode()
                    + content
                )
        writer.close()

    await (await asyncio.start_server(handle, sock=listener)).serve_forever()


def start(*, call_seconds: float = 0, push_seconds: float = 0) -> None:
    """Start a stand-in in a process that ends with this one, and set the environment so that the
    app uses it.

    :param call_seconds: How long the stand-in waits before its response to a call of AWS.
    :param push_seconds: How long it waits before its response to a push.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    multiprocessing.get_context("fork").Process(
        target=lambda: asyncio.run(serve(listener, call_seconds, push_seconds)), daemon=True
    ).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    local_aws.use(url)
    os.environ |= {
        "EVENTS_TABLE_NAME": "events",
        "INBOX_QUEUE_URL": f"{url}/1/inbox",
        "INBOX_DLQ_URL": f"{url}/1/dlq",
        "SLOW_QUEUE_URL": f"{url}/1/slow",
        "ZAPIER_WEBHOOK_URL": f"{url}/hook",
        "API_KEYS": api_key.entry("bench", API_KEY),
        "WEBHOOK_SIGNING_SECRETS": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3",
        "SUBSCRIPTION_HOSTS": "127.0.0.1",
    }
    deps.use(None)


def meter() -> Any:
    """Return the pair that `StandIn.meter` of the stand-in's process returns: the counts since the
    previous call of this function, and at most 20 of the latest calls of AWS since then, each as
    its operation and parameters.
    """
    return decode(urllib3.request("POST", f"{os.environ['AWS_ENDPOINT_URL']}/meter").data)
