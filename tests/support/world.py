"""The whole system in one process: AWS by moto, the real app, and a clock that tests turn.

SQS' delays and visibility follow the same clock, so that a retry an hour away is a matter of milliseconds.
"""

import hashlib
import json
import re
import threading
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import moto.sqs.models
import pytest
from moto import mock_aws

import app
from chalicelib import services, settings

ROOT = Path(__file__).parent.parent.parent
KEY = "test-key"
PRODUCER_KEY = "producer-key"
CONSUMER_KEY = "consumer-key"
START = 1_795_000_000.0  # any moment will do


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Clock:
    """Time that passes only when somebody sleeps or a test says so."""

    def __init__(self, now: float = START) -> None:
        self.now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


class LambdaContext:
    """What Lambda hands to a function: an id, and the time that is left on the world's clock."""

    def __init__(self, clock: Callable[[], float], timeout_seconds: float) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self._clock = clock
        self._end = clock() + timeout_seconds

    def get_remaining_time_in_millis(self) -> float:
        return (self._end - self._clock()) * 1000


@dataclass
class Answer:
    """One answer of the API. `headers` have lower-case names."""

    status_code: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class World:
    """A deployed system: call its API, run its worker and its schedules, look into its queues."""

    clock: Clock
    environ: dict[str, str]
    dynamodb: Any
    sqs: Any
    services: services.Services = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self, **environ: str) -> None:
        """Start anew as a fresh container would, with other variables too."""
        self.environ |= environ
        self.services = services.build(
            settings.load(self.environ), self.dynamodb, self.sqs, clock=self.clock, sleep=self.clock.sleep
        )
        services.use(self.services)

    def call(
        self, method: str, path: str, body: bytes | str | None = None, *, key: str | None = KEY, **headers: str
    ) -> Answer:
        """Call the API as API Gateway does; header names have `_` for `-`."""
        path, _, query = path.partition("?")
        event_id = re.match(r"/events/([^/]+)", path)
        raw = body.encode() if isinstance(body, str) else body
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            given["authorization"] = f"Bearer {key}"
        event = {
            "requestContext": {"httpMethod": method, "resourcePath": re.sub(r"^/events/[^/]+", "/events/{event_id}", path)},
            "headers": given,
            "pathParameters": {"event_id": event_id[1]} if event_id else {},
            "multiValueQueryStringParameters": urllib.parse.parse_qs(query, keep_blank_values=True) or None,
            "stageVariables": {},
            "body": raw,
        }
        answer = app.app(event, LambdaContext(self.clock, 30))
        headers = {name.lower(): value for name, value in answer["headers"].items()}
        return Answer(answer["statusCode"], headers, answer["body"])

    def post(self, payload: object = None, *, event_type: str = "order.created", **headers: str) -> dict[str, Any]:
        """Post an event that must be accepted, and return the answer."""
        body = json.dumps({"event_type": event_type, "payload": {} if payload is None else payload})
        answer = self.call("POST", "/events", body, **headers)
        assert answer.status_code == 202, answer.text
        event: dict[str, Any] = answer.json
        return event

    def event(self, event_id: str) -> dict[str, Any]:
        event: dict[str, Any] = self.call("GET", f"/events/{event_id}").json
        return event

    def run_worker(self) -> int:
        """Do once what Lambda's event source does: receive a batch, call the worker, delete it unless it raised."""
        queue_url = self.environ["INBOX_QUEUE_URL"]
        received = self.sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages", [])
        if not received:
            return 0
        records = [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "eventSource": "aws:sqs",
            }
            for message in received
        ]
        app.worker({"Records": records}, LambdaContext(self.clock, 50))
        for message in received:
            self.sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
        return len(received)

    def run_schedule(self, schedule: Any) -> None:
        """Call `app.sweep` or `app.check_dlq` as EventBridge does."""
        names = ("version", "account", "region", "detail", "detail-type", "source", "time", "id", "resources")
        schedule(dict.fromkeys(names, ""), LambdaContext(self.clock, 60))

    def settle(self, *, hours: float = 24) -> None:
        """Let time pass, with the worker and the sweep at work, until nothing is pending and no message is left."""
        end = self.clock() + hours * 3600
        while self.clock() < end:
            while self.run_worker():
                pass
            if not self.call("GET", "/events?status=pending").json["events"] and not any(vars(self.depth()).values()):
                return
            self.clock.sleep(60)
            self.run_schedule(app.sweep)
        raise AssertionError("still not settled")

    def depth(self) -> Any:
        return self.services.inbox.depth()

    def dead_letters(self) -> list[dict[str, Any]]:
        """Return every message in the dead letter queue: `body` as text, `attributes` by name."""
        queue = self.environ["INBOX_DLQ_URL"]
        letters: list[dict[str, Any]] = []
        while received := self.sqs.receive_message(
            QueueUrl=queue, MaxNumberOfMessages=10, MessageAttributeNames=["All"], VisibilityTimeout=0
        ).get("Messages"):
            if any(letter["id"] == received[0]["MessageId"] for letter in letters):
                break
            letters += [
                {
                    "id": message["MessageId"],
                    "body": message["Body"],
                    "attributes": {k: v["StringValue"] for k, v in message.get("MessageAttributes", {}).items()},
                }
                for message in received
            ]
        return letters

    def send(self, body: str, **attributes: str) -> None:
        """Put a message into the inbox queue as anybody might."""
        typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        self.sqs.send_message(QueueUrl=self.environ["INBOX_QUEUE_URL"], MessageBody=body, MessageAttributes=typed)


@contextmanager
def world(webhook_url: str, **environ: str) -> Iterator[World]:
    """A system that pushes to `webhook_url`, made from resources.json; `environ` adds to its variables."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setattr(moto.sqs.models, "unix_time", clock)
        patch.setattr(moto.sqs.models, "unix_time_millis", lambda: clock() * 1000)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.delenv("AWS_PROFILE", raising=False)
        region = {"region_name": "us-east-1"}
        cloudformation = boto3.client("cloudformation", **region)
        cloudformation.create_stack(StackName="resources", TemplateBody=(ROOT / "resources.json").read_text())
        stack = cloudformation.describe_stacks(StackName="resources")["Stacks"][0]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
        yield World(
            clock,
            {
                "EVENTS_TABLE_NAME": outputs["EventsTableName"],
                "INBOX_QUEUE_URL": outputs["InboxQueueUrl"],
                "INBOX_DLQ_URL": outputs["InboxDLQUrl"],
                "ZAPIER_WEBHOOK_URL": webhook_url,
                "API_KEYS": ",".join(
                    (
                        f"acme:{digest(KEY)}",
                        f"shop:{digest(PRODUCER_KEY)}:produce",
                        f"reader:{digest(CONSUMER_KEY)}:consume",
                    )
                ),
                **environ,
            },
            boto3.client("dynamodb", **region),
            boto3.client("sqs", **region),
        )
        services.use(None)
