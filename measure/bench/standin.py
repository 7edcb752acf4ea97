"""DynamoDB, SQS, Secrets Manager and a receiver in a process of their own.

They respond at once, or after a set time, so that the time that the app takes shows. They count
what calls and pushes use.
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
from typing import Any, NamedTuple

import urllib3
from botocore import xform_name
from botocore.exceptions import ClientError

from chalicelib import deps
from measure.bench.write_units import consumed
from tests.support.in_memory_aws import FakeDynamoDB, Json
from tools import api_key, local_aws

API_KEY = "bench-key"
MAX_CALLS_OF_READING = 20


class Reading(NamedTuple):
    """What calls and pushes have used since the previous reading."""

    # `table_units`, `table_bytes`, `index_units` and `index_bytes` of writes; `sqs_requests`;
    # `pushed_bytes`; and `waited_us`, the microseconds in which a response was waited for.
    used: Counter[str]
    # The latest calls of AWS, MAX_CALLS_OF_READING at most, the oldest first: the operation and the
    # parameters.
    calls: list[tuple[str, Json]]


class StandIn:
    """Tables in memory and the responses to calls of AWS, with counts of what the calls use."""

    def __init__(self) -> None:
        """Begin without tables, and with all counts at 0."""
        self._tables: dict[str, FakeDynamoDB] = {}
        # The `used` and the `calls` of the next reading. Of the calls only the latest are kept, so
        # that many requests without a reading do not fill the memory.
        self._used = Counter[str]()
        self._calls: deque[tuple[str, Json]] = deque(maxlen=MAX_CALLS_OF_READING)
        # How many waits are under way, and the time.monotonic() since which there has been one
        # without an interruption.
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
            waited_seconds = time.monotonic() - self._waits_since
            self._used["waited_us"] += round(waited_seconds * 1e6)

    def count_push(self, size: int) -> None:
        """Count the bytes of a push."""
        self._used["pushed_bytes"] += size

    def meter(self) -> Reading:
        """Return what was used since the previous call of this method, and begin to count anew."""
        reading = Reading(self._used, [*self._calls])
        self._used = Counter()
        self._calls = deque(maxlen=MAX_CALLS_OF_READING)
        return reading

    def answer(self, operation: str, parameters: Json) -> tuple[int, Any]:
        """Let a call of AWS take effect, and count it; return the status code and the body of the
        response.

        Calls of DynamoDB have a table: by TableName or, in a batch, as the only member of
        RequestItems. (Transactions, which would have it elsewhere, are not measured.) Any other
        call is one of SQS or Secrets Manager, has no effect, and gets a response that serves for
        both.

        :param operation: The name of the operation, such as `PutItem`.
        """
        self._calls.append((operation, parameters))
        if "TableName" in parameters:
            table_name = parameters["TableName"]
        elif "RequestItems" in parameters:
            [table_name] = parameters["RequestItems"]
        else:
            table_name = None
        if table_name is None:
            if "QueueUrl" in parameters:
                self._used["sqs_requests"] += 1
            return 200, {"MessageId": "id", "SecretString": "ZAPIER_WEBHOOK_URL=none"}
        method = getattr(self._table(table_name), xform_name(operation))
        try:
            return 200, method(**parameters)
        except ClientError as error:
            return 400, {
                "__type": error.response["Error"]["Code"],
                "message": "",
                "Item": error.response.get("Item"),
            }

    def _table(self, name: str) -> FakeDynamoDB:
        """Return the table with a name, whose writes are counted; make it if it is missing."""
        if name not in self._tables:
            table = FakeDynamoDB(time.time)
            table.page_rows = 3_000  # about 1 MB, after which DynamoDB ends a page
            table.on_write = self._count_write
            self._tables[name] = table
        return self._tables[name]

    def _count_write(self, before: Json | None, after: Json | None) -> None:
        """Count the write units and stored bytes of a write.

        :param before: The item before the write; None: it did not exist.
        :param after: The item after the write; None: it was deleted.
        """
        self._used.update(consumed(before or {}, after or {}))


def decode(text: str | bytes) -> Any:
    """Parse the JSON of a call of DynamoDB; return it with binary values as bytes."""

    def decode_binary(json_object: Json) -> Json:
        """Return an object that is a binary value, `{"B": "<Base64>"}`, with bytes in place of the
        text; return any other object unchanged.
        """
        if json_object.keys() == {"B"}:
            return {"B": base64.b64decode(json_object["B"])}
        return json_object

    return json.loads(text, object_hook=decode_binary)


def encode(content: Any) -> bytes:
    """Return a value as JSON, with bytes in Base64 as DynamoDB has them."""
    return json.dumps(content, default=lambda value: base64.b64encode(value).decode()).encode()


async def serve(listener: socket.socket, call_seconds: float, push_seconds: float) -> None:
    """Serve HTTP for ever: respond to a request with X-Amz-Target as a call of AWS, to `POST
    /meter` with a `Reading`, and to any other request as a push, with 200.

    :param listener: A socket that listens.
    :param call_seconds: How long to wait before the response to a call of AWS.
    :param push_seconds: How long to wait before the response to a push.
    """
    stand_in = StandIn()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Respond to the requests of a connection, until the client closes it.

        The body of a response is JSON: that of the call, the reading, or `null` for a push.
        """
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1]) if length else 0)
                # `X-Amz-Target: DynamoDB_20120810.PutItem`
                operation = re.search(r"x-amz-target: *\S+\.(\w+)", head, re.IGNORECASE)
                status_code = 200
                answer: Any = None
                if operation:
                    await stand_in.wait(call_seconds)
                    status_code, answer = stand_in.answer(operation[1], decode(body))
                elif head.startswith("POST /meter"):
                    answer = stand_in.meter()
                else:
                    await stand_in.wait(push_seconds)
                    stand_in.count_push(len(head) + len(body))
                content = encode(answer)
                response_head = (
                    f"HTTP/1.1 {status_code} -\r\nContent-Length: {len(content)}\r\n\r\n"
                )
                writer.write(response_head.encode() + content)
        writer.close()

    server = await asyncio.start_server(handle, sock=listener)
    await server.serve_forever()


def start(*, call_seconds: float = 0, push_seconds: float = 0) -> None:
    """Start a stand-in in a process that ends with this one, and set the environment so that the
    app uses it.

    :param call_seconds: How long the stand-in waits before its response to a call of AWS.
    :param push_seconds: How long it waits before its response to a push.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)

    def run() -> None:
        """Serve in the new process."""
        asyncio.run(serve(listener, call_seconds, push_seconds))

    # Forked, because the process needs the listener, and a function like this cannot be sent to it.
    multiprocessing.get_context("fork").Process(target=run, daemon=True).start()
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
    # The app makes new clients at the next call, which use the stand-in.
    deps.use(None)


def meter() -> Reading:
    """Return what calls and pushes have used since the previous call of this function, as the
    process of the stand-in counts it.
    """
    response = urllib3.request("POST", f"{os.environ['AWS_ENDPOINT_URL']}/meter")
    used, calls = decode(response.data)
    return Reading(Counter(used), [(operation, parameters) for operation, parameters in calls])
