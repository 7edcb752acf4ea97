"""What stands on the other side of the wire, each in a process of its own so that its CPU does not share our GIL.

`python -m tools.bench.servers moto|memory|receiver` prints one line of JSON that says where it is, and serves until its
standard input ends: it cannot outlive whoever started it.
"""

import asyncio
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from botocore.exceptions import ClientError

from chalicelib.events import Status, rfc3339
from chalicelib.items import partition_of
from tests.support.fake_aws import FakeDynamoDB, FakeSQS
from tools import aws, resources

TABLE, INBOX, DLQ = "events", "http://sqs.test/1/inbox", "http://sqs.test/1/dlq"
PAGE_BYTES = 1024 * 1024  # where DynamoDB ends a page of a query
ABSENT = "attribute_not_exists(event_id)"

# Path with query, header X-Amz-Target, and body of a request; status code and body of its answer.
Answer = Callable[[str, str, bytes], Awaitable[tuple[int, bytes]]]


class HttpServer:
    """The least that keeps connections and answers requests which have a Content-Length."""

    def __init__(self, answer: Answer) -> None:
        self.connections = 0
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
                target = re.search(r"^x-amz-target: *(\S+)", head, re.IGNORECASE | re.MULTILINE)
                body = await reader.readexactly(int(length[1]) if length else 0)
                status, content = await self._answer(head.split(" ", 2)[1], target[1] if target else "", body)
                start = f"HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\n"
                writer.write(f"{start}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


class Memory:
    """DynamoDB and SQS as tests/support/fake_aws.py has them (with indexes in order), behind their JSON protocols."""

    def __init__(self) -> None:
        self._dynamodb = FakeDynamoDB(time.time)
        self._sqs = FakeSQS(time.time)
        for url in (INBOX, DLQ):
            self._sqs.queue(url)

    async def answer(self, path: str, target: str, body: bytes) -> tuple[int, bytes]:
        asked = json.loads(body)
        if path == "/fill":
            return 200, json.dumps(self._fill(**asked)).encode()
        service, operation = target.split(".")
        call = getattr(
            self._sqs if service == "AmazonSQS" else self._dynamodb, re.sub(r"\B([A-Z])", r"_\1", operation).lower()
        )
        try:
            return 200, json.dumps(call(**asked)).encode()
        except ClientError as error:
            failure: dict[str, Any] = {**error.response}
            told = failure.pop("Error")
            return 400, json.dumps({"__type": told["Code"], "message": told["Message"], **failure}).encode()

    def _fill(self, item: dict[str, dict[str, str]], count: int, row_bytes: int) -> int:
        """Store `count` pending copies of `item`, each a millisecond younger, none of them overdue."""
        self._dynamodb.page_rows = PAGE_BYTES // row_bytes
        now = time.time()
        for number in range(count):
            event_id = f"evt_{uuid.uuid4().hex}"
            created_at = rfc3339(now + (number - count) / 1000)
            changed = {
                "event_id": event_id,
                "created_at": created_at,
                "sort_key": f"{created_at}#{event_id}",
                "status_shard": partition_of(event_id, Status.PENDING),
                "requeue_at": rfc3339(now + 86400),
            }
            copy = item | {name: {"S": value} for name, value in changed.items()}
            self._dynamodb.put_item(TableName=TABLE, Item=copy, ConditionExpression=ABSENT)
        return count


class Receiver:
    """Takes pushes, `?delay_ms=` late; one of type `hang` is never answered. `/connections` tells how many came."""

    def __init__(self) -> None:
        self.server = HttpServer(self.answer)

    async def answer(self, path: str, target: str, body: bytes) -> tuple[int, bytes]:
        if path == "/connections":
            return 200, str(self.server.connections).encode()
        if b'"event_type":"hang"' in body:
            await asyncio.Event().wait()
        if delay_ms := path.partition("delay_ms=")[2]:
            await asyncio.sleep(int(delay_ms) / 1000)
        return 200, b""


async def _serve(server: HttpServer, place: Callable[[str], dict[str, str]]) -> None:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=128)
    _say(place(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"))
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


def _say(place: dict[str, str]) -> None:
    print(json.dumps(place), flush=True)


def main(kind: str) -> None:
    if kind == "moto":
        aws.embed()
        _say({"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"], **resources.ensure("bench")})
        sys.stdin.read()
    elif kind == "memory":
        names = {"EVENTS_TABLE_NAME": TABLE, "INBOX_QUEUE_URL": INBOX, "INBOX_DLQ_URL": DLQ}
        asyncio.run(_serve(HttpServer(Memory().answer), lambda url: {"AWS_ENDPOINT_URL": url, **names}))
    else:
        asyncio.run(_serve(Receiver().server, lambda url: {"ZAPIER_WEBHOOK_URL": f"{url}/hook"}))


if __name__ == "__main__":
    main(sys.argv[1])
