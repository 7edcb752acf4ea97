"""The functions of a package as Lambda runs them: under AWS's own runtime client, awslambdaric, in
containers that are frozen between events and killed at their timeout.

Each container is a process that gets its events from Lambda's Runtime API, which is served here.
Source: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from tests.support.packages import install
from tests.support.world import Json
from tools import local_aws

VERSION = "2018-06-01"
# Lambda allows 10 s; here other processes may keep a container from starting.
INIT_SECONDS = 60
ARN = f"arn:aws:lambda:{local_aws.REGION}:123456789012:function"
# The kinds of reports about a container. The first two are also the last part of the path of the
# call that the runtime client makes.
RESPONSE = "response"
ERROR = "error"
INIT_ERROR = "init error"
HANDED_OVER = "handed over"  # the runtime client asked for an event, and got one


class FunctionError(Exception):
    """A function raised, or its container was killed at its timeout."""


class Container:
    """A process of one function, which is started at once and handles one event at a time."""

    def __init__(self, folder: Path, name: str, configuration: Json, aws_url: str) -> None:
        """Start the server of the Runtime API, and the process of a function, which imports the
        function and then asks for an event. Do not wait for that.

        :param folder: The folder that has the unpacked package in `task`, and gets the log of the
            container.
        :param name: The name of the function in the template.
        :param configuration: The function's properties in the template.
        :param aws_url: The URL at which the function finds all AWS services.
        """
        self.timeout_seconds: float = configuration["Timeout"]
        # The events that the runtime client has not got yet; None: it gets no more.
        self._events: Queue[Json | None] = Queue()
        # The kind and the content of each report that no caller has read yet.
        self._reports: Queue[tuple[str, bytes]] = Queue()
        # A subclass whose instances, one for each connection, refer to this container.
        handler = type("Handler", (RuntimeApi,), {"container": self})
        self._server = Server(("127.0.0.1", 0), handler)
        Thread(target=self._server.serve_forever, daemon=True).start()
        self.arn = f"{ARN}:{configuration['FunctionName']}"
        environ = {
            **configuration["Environment"]["Variables"],
            **local_aws.CREDENTIALS,
            "AWS_DEFAULT_REGION": local_aws.REGION,
            "AWS_ENDPOINT_URL": aws_url,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{configuration['Runtime']}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(configuration["MemorySize"]),
            "AWS_LAMBDA_FUNCTION_NAME": configuration["FunctionName"],
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_LOG_FORMAT": configuration["LoggingConfig"]["LogFormat"],
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{configuration['FunctionName']}",
            "AWS_LAMBDA_LOG_STREAM_NAME": "2026/12/01/[$LATEST]0",
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            "AWS_REGION": local_aws.REGION,
            "LAMBDA_TASK_ROOT": str(folder / "task"),
            "LANG": "en_US.UTF-8",
            "PATH": os.environ["PATH"],
            "TZ": ":UTC",
            "_HANDLER": configuration["Handler"],
        }
        self.log = folder / f"{name}-{uuid.uuid4()}.log"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [install("lambda"), "-m", "awslambdaric", environ["_HANDLER"]],
                cwd=folder / "task",
                env=environ,
                stdout=log,
                stderr=log,
            )

    def log_lines(self) -> list[Json]:
        """Return the lines that the function logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def is_alive(self) -> bool:
        """Whether the process runs or is frozen."""
        return self._process.poll() is None

    def invoke(self, event: Json) -> Any:
        """Hand over an event, and return the function's response to it.

        :raises FunctionError: If the function raises or cannot be imported, or if its timeout
            passes; in this case the container is killed before.
        """
        self._hand_over(event)
        try:
            kind, content = self._reports.get(timeout=self.timeout_seconds)
        except Empty:
            self.close()
            raise FunctionError(f"timed out after {self.timeout_seconds} s") from None
        if kind != RESPONSE:
            raise FunctionError(content.decode())
        return json.loads(content)

    def kill_during(self, event: Json, wait: Callable[[], object]) -> None:
        """Hand over an event, and kill the container, as at a timeout, once `wait` returns. Raise
        AssertionError if the function has responded by then.

        :param wait: Waits for the moment at which the container is killed.
        """
        self._hand_over(event)
        wait()
        has_ended = not self._reports.empty()  # a response or an error was reported
        assert not has_ended, "the invocation has ended before it was killed"
        self.close()

    def _hand_over(self, event: Json) -> None:
        """Unfreeze the container, and wait until its runtime client has got an event. Raise
        FunctionError if the function cannot be imported.
        """
        self._process.send_signal(signal.SIGCONT)
        self._events.put(event)
        kind, content = self._reports.get(timeout=INIT_SECONDS)
        if kind != HANDED_OVER:
            raise FunctionError(content.decode())

    def next_event(self) -> Json | None:
        """Wait for the next event, report that it was handed over, and return it; None: there are
        no more events, because the container is closed.
        """
        event = self._events.get()
        self._reports.put((HANDED_OVER, b""))
        return event

    def report(self, kind: str, content: bytes) -> None:
        """Freeze the container, and let `invoke` or `_hand_over` read a report of the runtime
        client.

        :param kind: RESPONSE or ERROR at the end of an invocation, or INIT_ERROR if the function
            cannot be imported.
        :param content: The function's response, or the error, as JSON.
        """
        self._process.send_signal(signal.SIGSTOP)
        self._reports.put((kind, content))

    def close(self) -> None:
        """Kill the container, and stop the server of its Runtime API."""
        self._process.kill()
        self._process.wait()
        self._events.put(None)  # ends a thread of the server that waits in `next_event`
        self._server.shutdown()
        self._server.server_close()


class Server(ThreadingHTTPServer):
    """A server of the Runtime API."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of an error, unless it is an OSError: a container that is killed
        causes one when it does not read its response.
        """
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class RuntimeApi(BaseHTTPRequestHandler):
    """The calls that a runtime client makes."""

    protocol_version = "HTTP/1.1"
    container: Container

    def do_GET(self) -> None:
        """Respond with the next event, once there is one; close the connection without a response
        if the container is closed.
        """
        assert self.path == f"/{VERSION}/runtime/invocation/next"
        event = self.container.next_event()
        if event is None:
            self.close_connection = True
            return
        deadline = time.time() + self.container.timeout_seconds
        headers = {
            "Lambda-Runtime-Aws-Request-Id": str(uuid.uuid4()),
            "Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": self.container.arn,
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
        }
        self._respond(200, json.dumps(event).encode(), headers)

    def do_POST(self) -> None:
        """Accept the function's response, its error, or the error of its import, each of which
        freezes the container.
        """
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == f"/{VERSION}/runtime/init/error":
            kind = INIT_ERROR
        else:
            kind = self.path.rpartition("/")[2]
        assert kind in (RESPONSE, ERROR, INIT_ERROR)
        self.container.report(kind, content)
        self._respond(202, b'{"status": "OK"}', {})

    def _respond(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        """Send a response.

        :param content: The body, as JSON.
        :param headers: The headers in addition to Content-Type and Content-Length.
        """
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


class Lambda:
    """The functions of a package, each with one container at a time."""

    def __init__(self, folder: Path, aws_url: str) -> None:
        """Read the template. No container is started.

        :param folder: The folder that has the template sam.json, and the unpacked package in
            `task`, and gets the logs of the containers.
        :param aws_url: The URL at which the functions find all AWS services.
        """
        self._folder = folder
        self._aws_url = aws_url
        template = json.loads((folder / "sam.json").read_text())
        self._functions = {
            name: resource["Properties"]
            for name, resource in template["Resources"].items()
            if resource["Type"] == "AWS::Serverless::Function"
        }
        self._containers: dict[str, Container] = {}

    def container(self, name: str, aws_url: str | None = None) -> Container:
        """Return the container of a function; start one if there is none, or if it was killed.

        :param name: The function's name in the template.
        :param aws_url: The URL at which a container that is started finds AWS; None: that of this
            object. A container that runs keeps its URL.
        """
        container = self._containers.get(name)
        if container is None or not container.is_alive:
            configuration = self._functions[name]
            container = Container(self._folder, name, configuration, aws_url or self._aws_url)
            self._containers[name] = container
        return container

    def close(self) -> None:
        """Kill all containers."""
        for container in self._containers.values():
            if container.is_alive:
                container.close()
