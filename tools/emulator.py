"""An emulated AWS, ministack, in a venv and a process of its own, that a package is deployed to.

IAM is evaluated: a function may do what the policies of its role allow, and no more. Nothing of a person's own AWS
account is used or reached. Knows nothing of the application.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import boto3
from botocore.config import Config

ROOT = Path(__file__).parent.parent
REQUIREMENTS = ROOT / "requirements-e2e.txt"
VENV = ROOT / ".local" / "e2e-venv"
REGION = "us-east-1"
ROOT_KEY = "test"  # ministack takes whoever signs with it for the account's root user
BUCKET = "packages"
BATCHED = ("sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility")
START_SECONDS = 30.0
DEPLOY_SECONDS = 60.0
POLL_SECONDS = 0.2


class EmulatorError(Exception):
    """It cannot be installed, does not start or refuses the package: `str()` is for a person."""


@dataclass(frozen=True)
class Stack:
    """What was deployed: outputs by key, and physical ids by logical id."""

    outputs: dict[str, str]
    resources: dict[str, str]


class Emulator:
    """A running ministack."""

    def __init__(self, port: int) -> None:
        self.port = port

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name=REGION,
            aws_access_key_id=ROOT_KEY,
            aws_secret_access_key=ROOT_KEY,
            config=Config(connect_timeout=3, read_timeout=60, retries={"total_max_attempts": 1}, proxies={}),
        )

    def deploy(self, name: str, package: Path, parameters: dict[str, str]) -> Stack:
        """Make the stack `name` of the template and the zip in `package`, as the AWS CLI would; raise EmulatorError."""
        template = with_batch_actions(json.loads((package / "sam.json").read_text()))
        s3, cloudformation = self.client("s3"), self.client("cloudformation")
        s3.create_bucket(Bucket=BUCKET)
        s3.upload_file(str(package / "deployment.zip"), BUCKET, "deployment.zip")
        cloudformation.create_stack(
            StackName=name,
            TemplateBody=json.dumps(with_code_at(template, f"s3://{BUCKET}/deployment.zip")),
            Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        )
        status = self._settled(cloudformation, name)
        if status["StackStatus"] != "CREATE_COMPLETE":
            raise EmulatorError(f"the stack came to {status['StackStatus']}: {_first_failure(cloudformation, name)}")
        resources = cloudformation.get_paginator("list_stack_resources").paginate(StackName=name)
        return Stack(
            {output["OutputKey"]: output["OutputValue"] for output in status["Outputs"]},
            {
                resource["LogicalResourceId"]: resource["PhysicalResourceId"]
                for page in resources
                for resource in page["StackResourceSummaries"]
            },
        )

    def delete(self, name: str) -> None:
        """Delete the stack `name`, and return when it is gone; raise EmulatorError if it stays."""
        cloudformation = self.client("cloudformation")
        stack_id = cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackId"]
        cloudformation.delete_stack(StackName=name)
        status = self._settled(cloudformation, stack_id)  # a deleted stack is still known by its id
        if status["StackStatus"] != "DELETE_COMPLETE":
            raise EmulatorError(f"the stack came to {status['StackStatus']}: {_first_failure(cloudformation, name)}")

    def _settled(self, cloudformation: Any, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + DEPLOY_SECONDS
        while time.monotonic() < deadline:
            stack: dict[str, Any] = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
            if not stack["StackStatus"].endswith("_IN_PROGRESS"):
                return stack
            time.sleep(POLL_SECONDS)
        raise EmulatorError(f"the stack is not settled within {DEPLOY_SECONDS:g} s")


def with_batch_actions(template: dict[str, Any]) -> dict[str, Any]:
    """Return `template` with rights to batch calls of SQS where there are those to single calls.

    To AWS a right to the single calls is one to both (Amazon SQS Developer Guide, "Amazon SQS batch actions").
    """
    resources = {
        logical_id: _with_batch_actions(resource) if resource["Type"] == "AWS::IAM::Role" else resource
        for logical_id, resource in template["Resources"].items()
    }
    return {**template, "Resources": resources}


def _with_batch_actions(part: Any) -> Any:
    match part:
        case dict():
            return {key: _with_batch_actions(value) for key, value in part.items()}
        case list():
            batches = [f"{action}Batch" for action in part if action in BATCHED]
            return [*(_with_batch_actions(value) for value in part), *batches]
    return part


def with_code_at(template: dict[str, Any], uri: str) -> dict[str, Any]:
    """Return `template` with the code of every function at `uri`, as `aws cloudformation package` writes it."""
    return {
        **template,
        "Resources": {
            logical_id: {**resource, "Properties": {**resource["Properties"], "CodeUri": uri}}
            if resource["Type"] == "AWS::Serverless::Function"
            else resource
            for logical_id, resource in template["Resources"].items()
        },
    }


def install() -> Path:
    """Return the Python of a venv that has what requirements-e2e.txt names; raise EmulatorError."""
    python, made_from = VENV / "bin" / "python", VENV / ".made-from"
    wanted = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    if made_from.is_file() and made_from.read_text() == wanted:
        return python
    print(f"setting up {VENV.relative_to(ROOT)} (once)", flush=True)
    _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(VENV))
    options = ("--quiet", "--disable-pip-version-check", "--no-compile")
    _run(sys.executable, "-m", "pip", "--python", str(python), "install", *options, "-r", str(REQUIREMENTS))
    made_from.write_text(wanted)
    return python


@contextlib.contextmanager
def running(python: Path, log_file: Path) -> Iterator[Emulator]:
    """Run ministack until the end of the block; raise EmulatorError if it does not start. It keeps nothing."""
    port = _free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, log_file.open("w") as log:
        # The functions get this environment below their own, so it holds nothing that the template should.
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "TMPDIR": home,
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "AUTH": "true",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
        }
        with process_group([str(python), "-m", "ministack"], log, environment, home) as process:
            _await_health(process, port)
            yield Emulator(port)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _await_health(process: subprocess.Popen[bytes], port: int) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise EmulatorError(f"ministack ended with status {process.returncode}")
        with contextlib.suppress(OSError):
            with opener.open(f"http://127.0.0.1:{port}/_ministack/health", timeout=5) as answer:
                health = json.load(answer)
            if health["auth"] != "enabled":
                raise EmulatorError("ministack does not evaluate IAM")
            return
        time.sleep(POLL_SECONDS)
    raise EmulatorError(f"ministack does not answer within {START_SECONDS:g} s")


def _first_failure(cloudformation: Any, name: str) -> str:
    events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]  # newest first
    failed = [event for event in events if event["ResourceStatus"].endswith("_FAILED")]
    return (
        f"{failed[-1]['LogicalResourceId']}: {failed[-1]['ResourceStatusReason']}" if failed else "no reason is given"
    )


def _run(*command: str) -> None:
    with tempfile.TemporaryFile() as output, process_group(command, output, dict(os.environ), ROOT) as process:
        if process.wait() != 0:
            output.seek(0)
            raise EmulatorError(f"{' '.join(command)}\n{output.read().decode(errors='replace')}".rstrip())


@contextlib.contextmanager
def process_group(
    command: list[str] | tuple[str, ...], output: IO[Any], environment: dict[str, str], directory: str | Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `command` as the first of a group; if it still runs at the end of the block, the whole group is killed."""
    process = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd=directory,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # ministack keeps nothing that it could lose
            process.wait()
