"""`make third`: make, change and delete the stack of a stage on LocalStack, a third emulated AWS,
and move dead letters there.

LocalStack runs without Docker, from PyPI, in a venv of its own. Its DynamoDB, which would be Java,
is ministack's. No function is deployed.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from shutil import copy
from types import SimpleNamespace
from typing import Any

import boto3
import urllib3

from tests.support.checkout import Checkout, copy_repository
from tests.support.ministack import ACCOUNT, free_port, ministack
from tests.support.packages import install
from tests.support.world import ROOT
from tools import api_key

# A Python program that runs LocalStack, but forwards the calls of DynamoDB to another server.
START = """
import os
from localstack.aws import handlers
from localstack.aws.forwarder import AwsRequestProxy
from localstack.runtime.main import main

dynamodb = AwsRequestProxy(os.environ["DYNAMODB_URL"], parse_response=False)

def forward(chain, context, response):
    if context.service and context.service.service_name == "dynamodb":
        response.update_from(dynamodb.forward(context))
        chain.stop()

handlers.serve_custom_service_request_handlers.append(forward)
main()
"""
MESSAGES = 28  # more than two calls of ReceiveMessage


@contextlib.contextmanager
def localstack(folder: Path, dynamodb_url: str) -> Iterator[str]:
    """Run LocalStack until the end of the block; yield its URL, once it responds. Raise urllib3's
    MaxRetryError if it does not respond within about a minute.

    :param folder: An existing folder for the log and the files of LocalStack.
    :param dynamodb_url: The URL of the server to which LocalStack forwards the calls of DynamoDB.
    """
    address = f"127.0.0.1:{free_port()}"
    python = install("third")
    environ = {
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "DYNAMODB_URL": dynamodb_url,
        "GATEWAY_LISTEN": address,
        "FILESYSTEM_ROOT": str(folder / "files"),
        # No calls to the internet, and no DNS server.
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DISABLE_EVENTS": "1",
        "DNS_ADDRESS": "0",
    }
    command = [str(python), "-c", START]
    with (
        (folder / "localstack.log").open("w") as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=environ, start_new_session=True
        ) as process,
    ):
        try:
            retries = urllib3.Retry(600, backoff_factor=0.1, backoff_max=0.1)
            health = f"http://{address}/_localstack/health"
            urllib3.request("GET", health, retries=retries, timeout=30)
            yield f"http://{address}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def check(step: str, expected: str, output: str) -> None:
    """Check that the output of a command has an expected text, and print that its step is done;
    raise AssertionError if the output lacks the text.

    :param step: What the command did, in words.
    """
    assert expected in output, output
    print(f"done  {step}", flush=True)


def run_steps(checkout: Checkout, sqs: Any) -> None:
    """Make, change and delete the stack of the stage `dev` by commands of make, and move MESSAGES
    messages from its DLQ to its work queue; raise AssertionError at the first step that fails.

    :param sqs: A boto3 client of SQS for the emulated AWS that the checkout uses.
    """
    settings: Any = {
        "ZAPIER_WEBHOOK_URL": "none",
        "API_KEYS": api_key.entry("a", api_key.new_key()),
    }
    made = checkout.make("resources", **settings)
    check("the stack is made", "  Add     EventsTable  AWS::DynamoDB::Table", made)
    again = checkout.make("resources")
    check("made again, it stays", "stack triggers-api-dev-resources: no changes", again)
    changed = checkout.make("resources", "QUIET_ALARM_HOURS=24", "GO=1")
    check("it is changed", "  Add     QuietAlarm  AWS::CloudWatch::Alarm", changed)
    dlq_url = sqs.get_queue_url(QueueName="triggers-api-dev-inbox-dlq")["QueueUrl"]
    queue_url = sqs.get_queue_url(QueueName="triggers-api-dev-inbox-queue")["QueueUrl"]
    for number in range(MESSAGES):
        body = json.dumps({"event_id": f"evt_{number:032}", "reason": "permanent"})
        sqs.send_message(QueueUrl=dlq_url, MessageBody=body)
    shown = checkout.make("dlq")
    check("make dlq shows the messages", f"holds {MESSAGES} messages, 0 of them in", shown)
    moved = checkout.make("redrive")
    check("make redrive moves them", f"{MESSAGES} of {MESSAGES} messages: {MESSAGES} moved", moved)
    attribute = "ApproximateNumberOfMessages"
    response = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=[attribute])
    assert response["Attributes"][attribute] == str(MESSAGES)
    check("and none is left", "inbox-dlq is empty", checkout.make("dlq"))
    check("the stack is deleted", "stack deleted", checkout.make("destroy", "CONFIRM=dev"))
    assert "QueueUrls" not in sqs.list_queues()


def main() -> None:
    """Run the steps in a new checkout on a new LocalStack, and print how many minutes they took."""
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        dynamodb = stack.enter_context(ministack(folder / "dynamodb.log"))
        url = stack.enter_context(localstack(folder, dynamodb.direct_url))
        path = folder / "checkout"
        copy_repository(path)
        # `copy_repository` has simplified the alarms, for emulators without metric math. LocalStack
        # has metric math, so it gets the original alarms.
        copy(ROOT / "resources.json", path)
        aws: Any = SimpleNamespace(url=url)  # in place of a Ministack; make uses its URL alone
        run_steps(Checkout(path, aws), boto3.client("sqs", endpoint_url=url, **ACCOUNT))
    print(f"{(time.monotonic() - started) / 60:.1f} min")


if __name__ == "__main__":
    main()
