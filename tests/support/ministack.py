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
# States of a function in responses, and the states that the caller gets in their place: Chalice's
# waiters would poll every five seconds until a function is ready, though ministack's always are.
READY = {b'"Pending"': b'"Active"', b'"InProgress"': b'"Successful"'}
Response = tuple[int, dict[str, str], bytes]  # the status code, the headers and the body


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
    """A running ministack and the proxy before it."""

    def __init__(self, port: int) -> None:
        """Listen on a free port as the proxy. The caller runs `server.serve_forever`.

        :param port: The port on which ministack listens.
        """
        # The URL of ministack itself.
        self.direct_url = f"http://127.0.0.1:{port}"
        self._forget()
        # A subclass whose instances, one for each connection, refer to this object.
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
            # CloudFormation allows at most 51,200 bytes for a template within the call.
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
        """Set all attributes that a test can set or read, and those that depend on them, to their
        first values.
        """
        # Called with the operation, the path and the status code of each call once it has taken
        # effect, before the response is sent: `CreateRole / 200`, `POST /restapis 201`.
        self.seen: Callable[[str], None] = lambda operation: None
        # The calls that were made so far.
        self.calls = list[Call]()
        # While this is true, no call takes effect, and no response arrives.
        self.is_cut_off = False
        # Texts of responses, and the texts that the caller gets in their place.
        self.replaced = dict[bytes, bytes]()
        # For how many seconds after each CreateDeployment another one is refused.
        self.deployment_seconds = 0.0
        # The time.monotonic() of the latest CreateDeployment; -inf: there was none.
        self.deployed_at = -math.inf
        # How many calls of DescribeTable after a change set show that an index is being created.
        self.index_looks = 0
        # How many of these calls are left since the latest change set.
        self.looks_left = 0
        # Names of functions whose update goes on: they cannot be changed. The first call that gets
        # the configuration of one of them shows that its update is in progress, and ends the
        # updates of all.
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
        """Let a call take effect, record it in `calls`, call `seen`, and send the response.

        If `is_cut_off` is true before the call takes effect, or becomes true in `seen`, close the
        connection without a response.
        """
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.ministack.is_cut_off:
            self.close_connection = True
            return
        if b"Action=ExecuteChangeSet" in body:
            # The next calls of DescribeTable show that an index is being created.
            self.ministack.looks_left = self.ministack.index_looks
        status, headers, content = self._respond_instead(body) or self._forward(body)
        if self._is_deployment() and status == 201:
            self.ministack.deployed_at = time.monotonic()
        for text, replacement in self.ministack.replaced.items():
            content = content.replace(text, replacement)
        self._record(body, status)
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

    def _record(self, body: bytes, status: int) -> None:
        """Record a call in `calls`, and call `seen` with its operation, path and status code.

        :param body: The body of the call.
        :param status: The status code of the response.
        """
        # X-Amz-Target has the operation of the JSON protocol (`DynamoDB_20120810.PutItem`), and the
        # body that of the query protocol (`Action=CreateStack&…`). A REST API has neither.
        target = self.headers.get("X-Amz-Target")
        # `AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, …`
        scope = self.headers["Authorization"].partition("/aws4_request")[0]
        _, region, service = scope.rsplit("/", 2)
        self.ministack.calls.append(Call(region, service, self.command, self.path, target, body))
        in_target = re.search(r"^\w+\.(\w+)$", target or "")
        in_body = re.search(r"(?:^|&)Action=(\w+)", body.decode("latin-1"))
        match = in_target if target else in_body
        operation = match[1] if match else self.command
        self.ministack.seen(f"{operation} {self.path} {status}")

    def _is_deployment(self) -> bool:
        """Return whether the call is CreateDeployment of API Gateway."""
        return self.command == "POST" and self.path.endswith("/deployments")

    def _respond_instead(self, body: bytes) -> Response | None:
        """Return the response of AWS to a call that ministack must not get, because it would
        respond differently; None: ministack can get the call.

        - CreateDeployment within `deployment_seconds` after the last one: 429
        - the creation of an event source that AWS would refuse: 409
        - a change of a function that is in `unfinished`: 409
        - PutRestApi, which ministack does not have: 200, without an effect

        :param body: The body of the call.
        """
        refused_until = self.ministack.deployed_at + self.ministack.deployment_seconds
        if self._is_deployment() and time.monotonic() < refused_until:
            return _error(429, "TooManyRequestsException")
        if (self.command, self.path) == ("POST", MAPPINGS):
            return self._find_refusal_of_event_source(json.loads(body)["EventSourceArn"])
        function = re.match(r"/2015-03-31/functions/([^/?]+)", self.path)
        if function and function[1] in self.ministack.unfinished and self.command != "GET":
            return _error(409, "ResourceConflictException")
        if self.command == "PUT" and re.fullmatch(r"/restapis/\w+(\?.*)?", self.path):
            return 200, {}, b"{}"
        return None

    def _forward(self, body: bytes) -> Response:
        """Forward the call to ministack; return its response, changed where AWS responds
        differently.

        :param body: The body of the call.
        """
        if self.path.startswith("/restapis?mode=import"):
            # ImportRestApi: ministack would make an API without a name. So it gets CreateRestApi
            # instead. The signature does not fit this call; that of the root user, whose key is
            # `test`, is not checked.
            self.path = "/restapis"
            body = json.dumps({"name": json.loads(body)["info"]["title"]}).encode()
            del self.headers["Content-Length"]
            root = re.sub(r"Credential=\w+", "Credential=test", self.headers["Authorization"])
            self.headers.replace_header("Authorization", root)
        url = self.ministack.direct_url + self.path
        headers = dict(self.headers)
        response = urllib3.request(
            self.command, url, body=body, headers=headers, retries=False, timeout=60
        )
        content = response.data
        if self.path.startswith("/2015-03-31/functions"):
            content = self._correct_states(content)
        elif self.headers.get("X-Amz-Target", "").endswith(".DescribeTable"):
            # For some calls after a change set, show that the last index is still being created.
            if self.ministack.looks_left:
                self.ministack.looks_left -= 1
                described = json.loads(content)
                described["Table"]["GlobalSecondaryIndexes"][-1]["IndexStatus"] = "CREATING"
                content = json.dumps(described).encode()
                response.headers.discard("x-amz-crc32")  # the checksum of the unchanged content
        elif self.path.startswith("/restapis"):
            # botocore expects an integer or null.
            content = re.sub(rb'("minimumCompressionSize": ?)""', rb"\1null", content)
        return response.status, dict(response.headers), content

    def _correct_states(self, content: bytes) -> bytes:
        """Return a response of Lambda in which each function is ready and its last update is
        successful, except for a function in `unfinished` whose configuration is got: its update is
        in progress. In this case, empty `unfinished`.

        :param content: The body of ministack's response.
        """
        for state, ready_state in READY.items():
            content = content.replace(state, ready_state)
        got = re.fullmatch(r"/2015-03-31/functions/([^/]+)/configuration", self.path)
        if got and self.command == "GET" and got[1] in self.ministack.unfinished:
            self.ministack.unfinished.clear()
            content = content.replace(b'"Successful"', b'"InProgress"')
        return content

    def _find_refusal_of_event_source(self, arn: str) -> Response | None:
        """Return the error with which AWS refuses to create an event source, because its queue is
        missing or it exists already; None: AWS creates it.

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
        """Log nothing."""


def _error(status: int, name: str) -> Response:
    """Return the response of a REST API of AWS for an error with a name."""
    return status, {"x-amzn-errortype": name}, json.dumps({"Message": name}).encode()


def without_metric_math(template: str) -> str:
    """Return a CloudFormation template in which each alarm with metric math has the first of its
    metrics instead, because ministack has no metric math.

    :param template: The template as JSON.
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
    """Return a free port, chosen at random below the ports that the system gives to processes which
    ask for any port (32,768 and up on Linux), so that no process gets it meanwhile.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def _running(log_file: Path, state: Path | None) -> Iterator[int]:
    """Run ministack until the end of the block; yield its port, once it responds. Raise urllib3's
    MaxRetryError if it does not respond within about 30 s.

    :param log_file: The file to which its output is written.
    :param state: The folder from which it loads its resources at the start, and in which it stores
        them at the end; None: it starts without resources, and stores none.
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
                process.terminate()  # lets it store its resources before it ends
                process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also the functions that it runs
            process.wait()


@contextlib.contextmanager
def ministack(log_file: Path, state: Path | None = None) -> Iterator[Ministack]:
    """Run ministack and its proxy until the end of the block; yield both.

    :param log_file: The file to which the output of ministack is written.
    :param state: A folder from which the resources are loaded at the start, and in which they are
        stored at the end; None: there are no resources at the start, and none are stored.
    """
    with _running(log_file, state) as port:
        aws = Ministack(port)
        thread = Thread(target=aws.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield aws
        finally:
            aws.server.shutdown()
            thread.join()
            aws.server.server_close()
