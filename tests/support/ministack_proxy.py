"""ministack, behind a proxy that responds as AWS does where ministack does not, and that a test can
watch.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import boto3
import urllib3

from tests.support import ministack_process
from tests.support.ministack_process import ACCOUNT, Emulator

MAPPINGS = "/2015-03-31/event-source-mappings"
# Chalice's waiters poll every five seconds
SETTLED = {b'"Pending"': b'"Active"', b'"InProgress"': b'"Successful"'}


class Ministack:
    """`seen` is called with each operation and its status, such as `CreateRole / 200` or `POST
    /restapis 201`.

    `replaced` has texts that do not reach the caller, and what does. CreateDeployment is refused
    for `deployment_seconds` after each success.
    """

    def __init__(self, direct: Emulator) -> None:
        self.direct = direct
        self.seen: Callable[[str], None] = lambda operation: None
        self.replaced: dict[bytes, bytes] = {}
        self.deployment_seconds, self.deployed_at = 0.0, -math.inf
        handler = type("Handler", (Proxy,), {"ministack": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def client(self, service: str) -> Any:
        return boto3.client(service, endpoint_url=self.url, **ACCOUNT)

    def reset(self) -> None:
        self.seen, self.replaced, self.deployment_seconds = lambda operation: None, {}, 0.0
        urllib3.request("POST", f"http://127.0.0.1:{self.direct.port}/_ministack/reset", timeout=30)


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ministack: Ministack

    def respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = (
            self._event_source_fault(body)
            if (self.command, self.path) == ("POST", MAPPINGS)
            else None
        )
        changed = self._changed_indexes(body) if b"Action=CreateChangeSet" in body else frozenset()
        is_deployment = self.command == "POST" and self.path.endswith("/deployments")
        if (
            is_deployment
            and time.monotonic() < self.ministack.deployed_at + self.ministack.deployment_seconds
        ):
            fault = "TooManyRequestsException"
        if fault:
            headers, content = {"x-amzn-errortype": fault}, json.dumps({"Message": fault}).encode()
            status = 429 if is_deployment else 409
        elif len(changed) > 1:
            error = (
                "<Error><Code>ValidationError</Code><Message>only 1 index can be "
                "changed at a time</Message></Error>"
            )
            status, headers, content = 400, {}, f"<ErrorResponse>{error}</ErrorResponse>".encode()
        # PutRestApi is missing
        elif self.command == "PUT" and re.fullmatch(r"/restapis/\w+(\?.*)?", self.path):
            status, headers, content = 200, {}, b"{}"
        else:
            # its body is ignored, and with it the name
            if self.path.startswith("/restapis?mode=import"):
                self.path, body = (
                    "/restapis",
                    json.dumps({"name": json.loads(body)["info"]["title"]}).encode(),
                )
                del self.headers["Content-Length"]
                # needs no signature
                root = re.sub(r"Credential=\w+", "Credential=test", self.headers["Authorization"])
                self.headers.replace_header("Authorization", root)
            status, headers, content = self._forward(body)
        if is_deployment and not fault:
            self.ministack.deployed_at = time.monotonic()
        for text, replacement in self.ministack.replaced.items():
            content = content.replace(text, replacement)
        action = re.search(
            r"(?:Action=|DynamoDB_\d+\.)(\w+)",
            self.headers.get("X-Amz-Target") or body.decode("latin-1"),
        )
        self.ministack.seen(f"{action[1] if action else self.command} {self.path} {status}")
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() in (
                "content-type",
                "x-amzn-errortype",
                "x-amzn-requestid",
                "x-amz-crc32",
            ):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = respond

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        url, headers = (
            f"http://127.0.0.1:{self.ministack.direct.port}{self.path}",
            dict(self.headers),
        )
        response = urllib3.request(
            self.command, url, body=body, headers=headers, retries=False, timeout=60
        )
        content = response.data
        if self.path.startswith("/2015-03-31/functions"):
            for word, settled in SETTLED.items():
                content = content.replace(word, settled)
        elif self.path.startswith("/restapis"):  # an integer to botocore
            content = re.sub(rb'("minimumCompressionSize": ?)""', rb"\1null", content)
        return response.status, dict(response.headers), content

    def _changed_indexes(self, body: bytes) -> Set[str]:
        """Return the indexes of a stack's table that a change set would create or delete; AWS takes
        one.
        """
        form = parse_qs(body.decode())
        table = json.loads(form["TemplateBody"][0])["Resources"]["EventsTable"]["Properties"]
        dynamodb = self.ministack.direct.client("dynamodb")
        try:
            current = dynamodb.describe_table(TableName=table["TableName"])["Table"]
        except dynamodb.exceptions.ResourceNotFoundException:
            return frozenset()
        ours, theirs = (
            {index["IndexName"] for index in each["GlobalSecondaryIndexes"]}
            for each in (table, current)
        )
        return ours ^ theirs

    def _event_source_fault(self, body: bytes) -> str | None:
        """Return the error of AWS for an event source whose queue is missing, or that exists
        already.
        """
        arn = json.loads(body)["EventSourceArn"]
        sqs = self.ministack.direct.client("sqs")
        try:
            sqs.get_queue_url(QueueName=arn.rsplit(":", 1)[-1])
        except sqs.exceptions.QueueDoesNotExist:
            return "InvalidParameterValueException"
        sources = self.ministack.direct.client("lambda").list_event_source_mappings()[
            "EventSourceMappings"
        ]
        return (
            "ResourceConflictException"
            if arn in [source["EventSourceArn"] for source in sources]
            else None
        )

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def ministack(log_file: Path) -> Iterator[Ministack]:
    with ministack_process.running(ministack_process.install(), log_file) as direct:
        served = Ministack(direct)
        thread = Thread(target=served.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            served.server.shutdown()
            thread.join()
            served.server.server_close()
