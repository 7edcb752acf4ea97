"""`make e2e`: deploy the package to ministack, and drive it through API Gateway, Lambda, SQS and
EventBridge.

Prints one line for each thing that was seen to work. What the emulator lacks is done by hand, and
the line says so.
"""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import urllib3
from botocore.exceptions import BotoCoreError, ClientError
from standardwebhooks import Webhook

from chalicelib.infra.times import rfc3339
from chalicelib.settings import Scope
from tests.support import ministack_process
from tests.support.ministack_process import Emulator, EmulatorError, without_metric_math
from tests.support.receiver import Receiver, Request, status
from tools import api_key
from tools.package import package

STAGE, STACK, BUCKET = "dev", "triggers-api-dev", "packages"
LOG_FILE = ministack_process.ROOT / ".local" / "e2e.log"
SIGNING_SECRET = "whsec_" + base64.b64encode(b"the signing secret of make e2e").decode()
PATH = "/hooks/secret-path?token=secret-query"
PAYLOAD = {"order_id": "12345", "note": "Grüße, 世界", "cents": 12345678901234567890}
SWEEP_SECONDS = 150.0  # EventBridge starts a rate one minute after its rule was created
WAIT: Any = {"Delay": 1, "MaxAttempts": 120}


class UnexpectedError(Exception):
    """Something is not as it was promised."""


class System:
    """What is deployed, as a caller, a receiver and an operator see it."""

    def __init__(self, aws: Emulator, receiver: Receiver, key: str) -> None:
        stack = aws.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        self.table = outputs["EventsTableName"]
        self.inbox, self.dlq = outputs["InboxQueueUrl"], outputs["InboxDLQUrl"]
        self.client, self.sqs = aws.client, aws.client("sqs")
        self.url = f"http://127.0.0.1:{aws.port}/restapis/{outputs['RestAPIId']}/api/_user_request_"
        self.receiver, self._key = receiver, key

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Return the status and the document of a response."""
        headers = {"Authorization": f"Bearer {self._key}", **headers}
        response = urllib3.request(
            method, self.url + path, json=body, headers=headers, timeout=40, retries=False
        )
        return response.status, response.json() if response.data else None

    def post(self, event_type: str, payload: Any = None, **headers: str) -> Any:
        body = {"event_type": event_type, "payload": payload or {}}
        status, event = self.call("POST", "/events", body, **headers)
        expect("POST /events", status, 202)
        return event

    def event(self, event_id: str) -> Any:
        return self.call("GET", f"/events/{event_id}")[1]

    def delivered(self, event_id: str, within_seconds: float = 30) -> Any:
        until(
            "it is delivered", lambda: self.event(event_id)["status"] == "delivered", within_seconds
        )
        return self.event(event_id)

    def pushes(self, event_id: str) -> list[Request]:
        return [push for push in self.receiver.requests if push.headers["webhook-id"] == event_id]

    def depth(self, queue_url: str) -> int:
        names = [f"ApproximateNumberOfMessages{state}" for state in ("", "NotVisible", "Delayed")]
        attributes = self.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)[
            "Attributes"
        ]
        return sum(int(attributes[name]) for name in names)


def expect(what: str, found: object, expected: object) -> None:
    if found != expected:
        raise UnexpectedError(f"{what}: {found!r} instead of {expected!r}")


def until(what: str, condition: Callable[[], bool], within_seconds: float = 30) -> None:
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise UnexpectedError(f"not within {within_seconds:g} s: {what}")
        time.sleep(0.25)


def say(text: str) -> None:
    print("ok ", text, flush=True)


def deploy(aws: Emulator, webhook_url: str, api_keys: str) -> None:
    """Create one stack of the package, as the AWS CLI would."""
    with tempfile.TemporaryDirectory() as directory:
        package(STAGE, Path(directory))
        s3 = aws.client("s3")
        s3.create_bucket(Bucket=BUCKET)
        s3.upload_file(f"{directory}/deployment.zip", BUCKET, "deployment.zip")
        template = (
            Path(directory, "sam.json")
            .read_text()
            .replace("./deployment.zip", f"s3://{BUCKET}/deployment.zip")
        )
    # In AWS, a permission for a single call of SQS is one for its batch call, too.
    template = re.sub(r'"(sqs:(?:Send|Delete)Message)"', r'"\1", "\1Batch"', template)
    parameters = {
        "ZapierWebhookUrl": webhook_url,
        "ApiKeys": api_keys,
        "WebhookSigningSecrets": SIGNING_SECRET,
    }
    cloudformation = aws.client("cloudformation")
    cloudformation.create_stack(
        StackName=STACK,
        TemplateBody=without_metric_math(template),  # without the spaces, which count to the limit
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName=STACK, WaiterConfig=WAIT)
    say("the package is deployed as one stack")


def passes_smoke(system: System, key: str) -> None:
    environ = {**os.environ, "TRIGGERS_URL": system.url, "TRIGGERS_API_KEY": key}
    command = [sys.executable, "-m", "tools.smoke"]
    run = subprocess.run(
        command,
        cwd=ministack_process.ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    expect(f"make smoke\n{run.stdout}{run.stderr}", run.returncode, 0)
    say(f"make smoke: {len(run.stdout.splitlines())} checks")


def stores_without_sqs(system: System) -> str:
    """Return the id of an event that was stored while SQS refused its message."""
    until("the inbox queue is empty", lambda: system.depth(system.inbox) == 0)
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["sqs:SendMessage", "sqs:SendMessageBatch"],
        "Resource": "*",
    }
    policy = {"Version": "2012-10-17", "Statement": [deny]}
    system.sqs.set_queue_attributes(
        QueueUrl=system.inbox, Attributes={"Policy": json.dumps(policy)}
    )
    event_id: str = system.post("e2e.forgotten", Prefer="respond-async")["event_id"]
    expect("messages in the inbox queue", system.depth(system.inbox), 0)
    system.sqs.set_queue_attributes(QueueUrl=system.inbox, Attributes={"Policy": ""})
    say("POST while SQS refuses messages: 202, and the event is stored")
    return event_id


def delivers(system: System) -> None:
    event = system.post("order.created", PAYLOAD)
    expect("status", event["status"], "delivered")
    [push] = system.pushes(event["event_id"])
    expect("the URL", push.path, PATH)
    expect("the payload", push.json()["payload"], PAYLOAD)
    Webhook(SIGNING_SECRET).verify(push.body, dict(push.headers))
    say("POST: 202 and delivered; the signature of the push verifies")


def retries(system: System) -> None:
    system.receiver.script(status(503), status(503))
    event_id = system.post("order.paid")["event_id"]
    attempts = system.delivered(event_id)["attempts"]
    expect("attempts", [attempt["status_code"] for attempt in attempts], [503, 503, 200])
    until("the inbox queue is empty", lambda: system.depth(system.inbox) == 0)
    say(
        "503 twice: the worker, invoked by its event source, retries and delivers; the "
        "queue is empty"
    )


def dead_letters(system: System) -> None:
    """Move the dead letter by hand: the emulator lacks the move task of SQS."""
    system.receiver.script(status(422))
    event_id = system.post("order.lost")["event_id"]
    expect("status", system.event(event_id)["status"], "failed")
    [letter] = system.sqs.receive_message(QueueUrl=system.dlq, MessageAttributeNames=["All"])[
        "Messages"
    ]
    body, attributes = letter["Body"], letter["MessageAttributes"]
    expect(
        "the dead letter",
        [json.loads(body)[name] for name in ("event_id", "reason")],
        [event_id, "permanent"],
    )
    system.sqs.send_message(QueueUrl=system.inbox, MessageBody=body, MessageAttributes=attributes)
    system.sqs.delete_message(QueueUrl=system.dlq, ReceiptHandle=letter["ReceiptHandle"])
    expect("attempts since the redrive", system.delivered(event_id)["delivery_attempts"], 1)
    say("422: a dead letter; moved back to the inbox queue by hand, its event is delivered")


def sweeps(system: System, event_id: str) -> None:
    """Make the event overdue in the table, rather than wait another minute."""
    key, now = {"event_id": {"S": event_id}}, {":now": {"S": rfc3339(time.time())}}
    change = {"UpdateExpression": "SET requeue_at = :now", "ExpressionAttributeValues": now}
    system.client("dynamodb").update_item(TableName=system.table, Key=key, **change)
    system.delivered(event_id, SWEEP_SECONDS)
    expect("pushes", len(system.pushes(event_id)), 1)
    say("the sweep, invoked by its rule: the event that was never queued is delivered")


def run() -> None:
    LOG_FILE.parent.mkdir(exist_ok=True)
    key, receiver = api_key.new_key(), Receiver()
    with ministack_process.running(ministack_process.install(), LOG_FILE) as aws:
        deploy(
            aws,
            f"http://127.0.0.1:{receiver.port}{PATH}",
            api_key.entry("e2e", key, "+".join(Scope)),
        )
        system = System(aws, receiver, key)
        passes_smoke(system, key)
        delivers(system)
        retries(system)
        dead_letters(system)
        sweeps(system, stores_without_sqs(system))


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends ministack, too
    try:
        run()
    except KeyboardInterrupt:
        return 130
    except (
        UnexpectedError,
        EmulatorError,
        BotoCoreError,
        ClientError,
        urllib3.exceptions.HTTPError,
    ) as error:
        print(
            f"make e2e: {error}\n(the log of the emulator is {os.path.relpath(LOG_FILE)})",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
