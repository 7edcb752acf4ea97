"""An emulated AWS, ministack, in a venv and a process of its own, behind a proxy that responds as
AWS does where ministack does not, and that a test can watch.

IAM is enforced: a function may do what the policies of its role allow. No AWS account is used.
"""

import contextlib
import json
import math
import os
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import boto3
import urllib3

from tests.support.packages import install

# The root user of ministack's account.
ACCOUNT = {
    "region_name": "us-east-1",
    "aws_access_key_id": "test",
    "aws_secret_access_key": "test",
}
MAPPINGS = "/2015-03-31/event-source-mappings"
# Chalice's waiters poll every five seconds
SETTLED = {b'"Pending"': b'"Active"', b'"InProgress"': b'"Successful"'}
Response = tuple[int, dict[str, str], bytes]  # the status code, headers and the body


class Call(NamedTuple):
    """A request to AWS."""

    # The region for which it is signed.
    region: str
    # The service for which it is signed, such as `dynamodb`.
    service: str
    # Its HTTP method.
    method: str
    # The path of its URL, with the query.
    path: str
    # Its header X-Amz-Target; None: it has none.
    target: str | None
    body: bytes


class Ministack:
    """A running ministack and the proxy before it.

    :param port: The port on which ministack listens.
    """

    def __init__(self, port: int) -> None:
        self.direct_url = f"http://127.0.0.1:{port}"
        self._forget()
        handler = type("Handler", (Proxy,), {"ministack": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def client(self, service: str) -> Any:
        """Return a boto3 client of a service, whose calls pass the proxy."""
        return boto3.client(service, endpoint_url=self.url, **ACCOUNT)

    def direct(self, service: str, region: str = ACCOUNT["region_name"]) -> Any:
        """Return a boto3 client of a service, whose calls do not pass the proxy."""
        account = {**ACCOUNT, "region_name": region}
        return boto3.client(service, endpoint_url=self.direct_url, **account)

    def create_stack(self, name: str, template: str, parameters: dict[str, str]) -> None:
        """Create a CloudFormation stack without the proxy, and wait until it is complete; raise
        WaiterError if it fails.

        :param template: The text of the template.
        :param parameters: The values of the template's parameters by their names.
        """
        s3 = self.direct("s3")
        s3.create_bucket(Bucket="templates")
        s3.put_object(Bucket="templates", Key=name, Body=template.encode())
        cloudformation = self.direct("cloudformation")
        cloudformation.create_stack(
            StackName=name,
            # in a call at most 51,200 bytes
            TemplateURL=f"{self.direct_url}/templates/{name}",
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
            ],
        )
        waiter = cloudformation.get_waiter("stack_create_complete")
        waiter.wait(StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120})

    def api_url(self, api_id: str) -> str:
        """Return the URL at which ministack serves a REST API, without the proxy."""
        return f"{self.direct_url}/restapis/{api_id}/api/_user_request_"

    def _forget(self) -> None:
        """Set all that a test can set or look at to its first value."""
        # Called with each operation and its status: `CreateRole / 200`, `POST /restapis 201`.
        self.seen: Callable[[str], None] = lambda operation: None
        self.calls = list[Call]()
        # While this is true, no call takes effect, and no response arrives.
        self.is_cut_off = False
        # Texts of responses, and the texts that the caller gets in their place.
        self.replaced = dict[bytes, bytes]()
        # How long CreateDeployment is refused after each success, and when the last one was.
        self.deployment_seconds = 0.0
        self.deployed_at = -math.inf
        # After a change set, how many calls of DescribeTable see an index that is not active.
        self.index_looks = 0
        self.looks_left = 0
        # Names of functions whose update goes on until one of them has been looked at.
        self.unfinished = set[str]()

    def reset(self) -> None:
        """Delete all resources in ministack, and all that a test has set in the proxy."""
        self._forget()
        urllib3.request("POST", f"{self.direct_url}/_ministack/reset", timeout=30)


class Proxy(BaseHTTPRequestHandler):
    """A handler that forwards calls of AWS to ministack, and corrects its responses."""

    protocol_version = "HTTP/1.1"
    ministack: Ministack

    def respond(self) -> None:
        """Respond to a call, record it in `calls`, and call `seen`; close the connection without a
        response if `is_cut_off` is true by then.
        """
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.ministack.is_cut_off:
            self.close_connection = True
            return
        if b"Action=ExecuteChangeSet" in body:
            self.ministack.looks_left = self.ministack.index_looks
        status, headers, content = self._corrected(body) or self._forward(body)
        if self._is_deployment() and status == 201:
            self.ministack.deployed_at = time.monotonic()
        for text, replacement in self.ministack.replaced.items():
            content = content.replace(text, replacement)
        target = self.headers.get("X-Amz-Target")
        scope = self.headers["Authorization"].partition("/aws4_request")[0]
        _, region, service = scope.rsplit("/", 2)
        self.ministack.calls.append(Call(region, service, self.command, self.path, target, body))
        called = target or body.decode("latin-1")
        action = re.search(r"(?:^|&)Action=(\w+)|^\w+\.(\w+)$", called)
        operation = (action[1] or action[2]) if action else self.command
        self.ministack.seen(f"{operation} {self.path} {status}")
        if self.ministack.is_cut_off:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            if name.lower().startswith(("content-type", "x-amz")):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = respond

    def _is_deployment(self) -> bool:
        """Return whether the call is CreateDeployment of API Gateway."""
        return self.command == "POST" and self.path.endswith("/deployments")

    def _corrected(self, body: bytes) -> Response | None:
        """Return the response of AWS to a call to which ministack would respond differently; None:
        the call is to be forwarded to ministack.
        """
        free_at = self.ministack.deployed_at + self.ministack.deployment_seconds
        if self._is_deployment() and time.monotonic() < free_at:
            return _error(429, "TooManyRequestsException")
        if (self.command, self.path) == ("POST", MAPPINGS):
            return self._refusal_of_event_source(json.loads(body)["EventSourceArn"])
        function = re.match(r"/2015-03-31/functions/([^/?]+)", self.path)
        if function and function[1] in self.ministack.unfinished and self.command != "GET":
            return _error(409, "ResourceConflictException")
        if self.command == "PUT" and re.fullmatch(r"/restapis/\w+(\?.*)?", self.path):
            return 200, {}, b"{}"  # PutRestApi, which ministack does not have
        return None

    def _forward(self, body: bytes) -> Response:
        """Forward the call to ministack; return its response, changed where AWS responds
        differently.
        """
        if self.path.startswith("/restapis?mode=import"):  # its body is ignored, also the name
            self.path = "/restapis"
            body = json.dumps({"name": json.loads(body)["info"]["title"]}).encode()
            del self.headers["Content-Length"]
            # needs no signature
            root = re.sub(r"Credential=\w+", "Credential=test", self.headers["Authorization"])
            self.headers.replace_header("Authorization", root)
        url = self.ministack.direct_url + self.path
        headers = dict(self.headers)
        response = urllib3.request(
            self.command, url, body=body, headers=headers, retries=False, timeout=60
        )
        content = response.data
        if self.path.startswith("/2015-03-31/functions"):
            for word, settled in SETTLED.items():
                content = content.replace(word, settled)
            looked_at = re.fullmatch(r"/2015-03-31/functions/([^/]+)/configuration", self.path)
            if looked_at and self.command == "GET" and looked_at[1] in self.ministack.unfinished:
                self.ministack.unfinished.clear()
                content = content.replace(b'"Successful"', b'"InProgress"')
        elif self.headers.get("X-Amz-Target", "").endswith(".DescribeTable"):
            if self.ministack.looks_left:
                self.ministack.looks_left -= 1
                described = json.loads(content)
                described["Table"]["GlobalSecondaryIndexes"][-1]["IndexStatus"] = "CREATING"
                content = json.dumps(described).encode()
                response.headers.discard("x-amz-crc32")
        elif self.path.startswith("/restapis"):  # an integer to botocore
            content = re.sub(rb'("minimumCompressionSize": ?)""', rb"\1null", content)
        return response.status, dict(response.headers), content

    def _refusal_of_event_source(self, arn: str) -> Response | None:
        """Return the error of AWS to the creation of an event source whose queue is missing or that
        exists already; None: it can be created.

        :param arn: The ARN of the queue.
        """
        sqs = self.ministack.direct("sqs")
        try:
            sqs.get_queue_url(QueueName=arn.rsplit(":", 1)[-1])
        except sqs.exceptions.QueueDoesNotExist:
            return _error(409, "InvalidParameterValueException")
        listed = self.ministack.direct("lambda").list_event_source_mappings()
        if arn in [source["EventSourceArn"] for source in listed["EventSourceMappings"]]:
            return _error(409, "ResourceConflictException")
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


def _error(status: int, name: str) -> Response:
    """Return the response of a REST API of AWS for an error with a name."""
    return status, {"x-amzn-errortype": name}, json.dumps({"Message": name}).encode()


def without_metric_math(template: str) -> str:
    """Return a CloudFormation template in which each alarm with metric math watches its first
    metric instead, because ministack has no metric math.
    """
    parsed = json.loads(template)
    for resource in parsed["Resources"].values():
        properties = resource.get("Properties", {})
        metrics = properties.pop("Metrics", [])
        stats = [metric["MetricStat"] for metric in metrics if "MetricStat" in metric]
        if stats:
            first = stats[0]
            watched = {"Period": first["Period"], "Statistic": first["Stat"]}
            properties.update({**first["Metric"], **watched})
    return json.dumps(parsed)


def free_port() -> int:
    """Return a free port below the ephemeral range, so that no other process is given it
    meanwhile.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def _running(log_file: Path, state: Path | None) -> Iterator[int]:
    """Run ministack until the end of the block; yield its port, once it responds.

    :param log_file: The file to which its output is written.
    :param state: As in `ministack`.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, log_file.open("w") as log:
        # Functions inherit this environment, so it has nothing that the template should set.
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "TMPDIR": home,
            "AUTH": "true",
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
        }
        if state:
            environ |= {"PERSIST_STATE": "1", "STATE_DIR": str(state)}
        command = [str(install()), "-m", "ministack"]
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=home, env=environ, start_new_session=True
        )
        try:
            retries = urllib3.Retry(300, backoff_factor=0.1, backoff_max=0.1)
            health = f"http://127.0.0.1:{port}/_ministack/health"
            urllib3.request("GET", health, retries=retries, timeout=5)
            yield port
            if state:
                process.terminate()  # it saves its state
                process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the functions that run
            process.wait()


@contextlib.contextmanager
def ministack(log_file: Path, state: Path | None = None) -> Iterator[Ministack]:
    """Run ministack and its proxy until the end of the block.

    :param state: A folder from which the resources are read at the start, and in which they are
        stored at the end; None: there are none, and none are kept.
    """
    with _running(log_file, state) as port:
        served = Ministack(port)
        thread = Thread(target=served.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield served
        finally:
            served.server.shutdown()
            thread.join()
            served.server.server_close()
