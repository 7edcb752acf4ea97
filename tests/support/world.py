"""The whole system in one process: the real app, an emulated AWS, and a clock that tests set.

The delays and visibility timeouts of SQS follow the same clock: an hour's retry takes milliseconds.
AWS is moto in this process.
"""

import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any
from urllib.parse import parse_qs

import boto3
import moto.sqs.models
import pytest
from botocore.config import Config
from moto import mock_aws
from moto.core import responses
from moto.core.botocore_stubber import BotocoreStubber
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.core.serialize import ResponseSerializer
from moto.core.utils import method_names_from_class
from moto.dynamodb.models import dynamodb_backends
from moto.sqs.models import sqs_backends

from chalicelib.core.http_push import PushClient
from chalicelib.deps import Services
from chalicelib.infra.clients import CONFIG
from tests.support import versions
from tests.support.versions import PRESENT, Version
from tools import local_aws

ROOT = versions.ROOT
KEY = "test-key"
PRODUCER_KEY = "producer-key"
CONSUMER_KEY = "consumer-key"
EVENT = '{"event_type": "a", "payload": {}}'
UNKNOWN = "evt_" + "0" * 32
SIGNING_SECRETS = [f"whsec_{letter * 32}" for letter in "ab"]
START = 1_795_000_000.0
REGION = "us-east-1"
NAMES = "version account region detail detail-type source time id resources"
SCHEDULED = dict.fromkeys(NAMES.split(), "")  # what EventBridge sends
MOTO_GET_VALUE = ResponseSerializer.get_value
VALIDATING = CONFIG.merge(Config(parameter_validation=True))


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


Json = dict[str, Any]
# `id`, `body`, `attributes` by name, and `delay_seconds`: what is left of the delay
Message = Json


class Clock:
    """Time that passes only when someone sleeps on it."""

    def __init__(self, now: float = START) -> None:
        self.now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


class LambdaContext:
    """The context that Lambda passes to a function."""

    def __init__(self, clock: Callable[[], float], timeout_seconds: float) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self._clock = clock
        self._end = clock() + timeout_seconds

    def get_remaining_time_in_millis(self) -> float:
        return (self._end - self._clock()) * 1000


@dataclass
class Answer:
    """A response of the API. `headers` have lower-case names."""

    status_code: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def location(self) -> str:
        """The path of what was made."""
        return f"/{self.headers['location']}"

    @property
    def problem(self) -> tuple[int, str]:
        """The status code and the code of a refused call."""
        return self.status_code, self.json["code"]

    @property
    def faults(self) -> list[str]:
        """The fields for which a call is refused with 400, in alphabetical order."""
        errors = self.json["errors"] if self.status_code == 400 else ()
        return sorted(fault["field"] for fault in errors)


def assert_has(shown: Json, **members: object) -> None:
    """Check some members of an object of JSON."""
    found = {name: shown[name] for name in members}
    assert found == members, found


def call(
    clock: Callable[[], float],
    method: str,
    path: str,
    body: bytes | str | Json | None = None,
    *,
    key: str | None = KEY,
    version: Version = PRESENT,
    **headers: str,
) -> Answer:
    """Call the API of a version as API Gateway does.

    :param headers: Names have `_` in place of `-`.
    """
    if isinstance(body, dict):
        body = json.dumps(body)
    path, _, query = path.partition("?")
    resource, parameters = find_route(path, version)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        given.setdefault("authorization", f"Bearer {key}")
    event = {
        "requestContext": {"httpMethod": method, "resourcePath": resource, "path": f"/api{path}"},
        "headers": given,
        "pathParameters": parameters,
        "multiValueQueryStringParameters": parse_qs(query, keep_blank_values=True) or None,
        "stageVariables": {},
        "body": body.encode() if isinstance(body, str) else body,
    }
    answer = version.app.app(event, LambdaContext(clock, 30))
    answered = {name.lower(): value for name, value in answer["headers"].items()}
    return Answer(answer["statusCode"], answered, answer["body"])


def find_route(path: str, version: Version = PRESENT) -> tuple[str, dict[str, str]]:
    """Return the route of a path, which may end with a slash, and its path parameters."""
    path = path.rstrip("/") or "/"
    for route in version.app.app.routes:
        if match := re.fullmatch(re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", route), path):
            return route, match.groupdict()
    return path, {}


def sqs_record(message: Json) -> Json:
    """Return a received message as Lambda passes it to the worker."""
    attributes = {}
    for name, value in message.get("MessageAttributes", {}).items():
        attributes[name] = {"stringValue": value["StringValue"], "dataType": value["DataType"]}
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "messageAttributes": attributes,
        "attributes": message.get("Attributes", {}),
    }


WORKERS = {"INBOX_QUEUE_URL": "worker", "SLOW_QUEUE_URL": "slow_worker"}
QUEUES = (*WORKERS, "INBOX_DLQ_URL")


def close_connections(push: PushClient) -> None:
    """Close the connections of a client that no push uses."""
    for manager in push._managers.values():
        manager.clear()


@dataclass
class World:
    """A deployed system: call its API, run its worker and schedules, look into its queues.

    `dynamodb` and `sqs` are the system's own clients; `outside` and `outside_dynamodb` are others.
    `version` is that of the container that runs.
    """

    clock: Clock
    environ: dict[str, str]
    queues: "MotoQueues"
    dynamodb: Any
    sqs: Any
    outside_dynamodb: Any
    outside: Any
    services: Services = field(init=False)
    version: Version = field(init=False, default=PRESENT)

    def __post_init__(self) -> None:
        self._first_environ = {**self.environ}
        self._start()

    def restart(self, *, version: Version = PRESENT, **environ: str) -> None:
        """Start a new container, of this version, with these variables changed."""
        self.stop()
        self.version = version
        self.environ |= environ
        self._start()

    def _start(self) -> None:
        deps, telemetry = map(self.version.module, ("deps", "infra.telemetry"))
        settings = self.version.module("settings").load(self.environ)
        telemetry.logger.handlers.clear()  # of another version
        telemetry.configure(settings.log_level, settings.stage)
        self.services = deps.Services(
            settings, make_client=partial(getattr, self), clock=self.clock, sleep=self.clock.sleep
        )
        deps.use(self.services)

    def stop(self) -> None:
        """Close the connections to the receiver."""
        close_connections(self.services.push)

    def forget(self, **environ: str) -> None:
        """Empty the table and the queues, and start a new container: faster than making another
        world.
        """
        self.environ = {**self._first_environ}
        table_name = self.environ["EVENTS_TABLE_NAME"]
        dynamodb_backends[DEFAULT_ACCOUNT_ID][REGION].tables[table_name].items.clear()
        for variable in QUEUES:
            self.queues.clear(self.environ[variable])
        self.clock.now = START
        self.restart(version=PRESENT, **environ)

    def call(
        self,
        method: str,
        path: str,
        body: bytes | str | Json | None = None,
        *,
        key: str | None = KEY,
        **headers: str,
    ) -> Answer:
        return call(self.clock, method, path, body, key=key, version=self.version, **headers)

    def offer(
        self, body: bytes | str | Json = EVENT, *, key: str | None = KEY, **headers: str
    ) -> Answer:
        """Post a body, which may be refused."""
        return self.call("POST", "/events", body, key=key, **headers)

    def post(
        self, payload: object = None, *, event_type: str = "order.created", **headers: str
    ) -> Any:
        """Post an event, which must be accepted; return it."""
        body = json.dumps({"event_type": event_type, "payload": {} if payload is None else payload})
        answer = self.offer(body, **headers)
        assert answer.status_code == 202, answer.text
        return answer.json

    def queued(self, **options: str) -> str:
        """Post an event without a push, so that it waits in the queue; return its id."""
        return str(self.post(prefer="respond-async", **options)["event_id"])

    def get(self, path: str, **headers: str) -> Any:
        return self.call("GET", path, **headers).json

    def event(self, event_id: str) -> Any:
        return self.get(f"/events/{event_id}")

    def replay(self, event_id: str, *, key: str = KEY) -> Answer:
        return self.call("POST", f"/events/{event_id}/replay", key=key)

    def acknowledge(self, event_id: str, *, key: str = KEY) -> Answer:
        return self.call("POST", f"/events/{event_id}/acknowledge", key=key)

    def run_worker(self, *, timeout_seconds: float = 50) -> int:
        """Receive a batch, call the worker and delete the batch unless it raised, as Lambda's event
        source does; return how many messages there were.

        The worker of the slow lane comes when there is nothing for the other.
        """
        for variable, worker in WORKERS.items():
            function = getattr(self.version.app, worker)
            received = self._run_worker(function, self.environ.get(variable), timeout_seconds)
            if received:
                break
        return received

    def _run_worker(self, worker: Any, queue_url: str | None, timeout_seconds: float) -> int:
        if queue_url is None:
            return 0
        # No long poll: it would wait for a clock that stands still.
        received = self.outside.receive_message(
            QueueUrl=queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=0,
            MessageAttributeNames=["All"],
        ).get("Messages", [])
        if not received:
            return 0
        records = [sqs_record(message) for message in received]
        worker({"Records": records}, LambdaContext(self.clock, timeout_seconds))
        for message in received:
            self.outside.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
        return len(received)

    def empty_inbox(self) -> None:
        """Run the worker until no message is visible."""
        while self.run_worker():
            pass

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def sweep(self) -> None:
        self.version.app.sweep(SCHEDULED, LambdaContext(self.clock, 60))

    def check_dlq(self) -> None:
        self.version.app.check_dlq(SCHEDULED, LambdaContext(self.clock, 60))

    def settle(self, *, hours: float = 24) -> None:
        """Let time pass, running the worker and the sweep, until nothing is pending and no message
        is left.
        """
        end = self.clock() + hours * 3600
        while self.clock() < end:
            self.empty_inbox()
            is_pending = any(item.get("status") == {"S": "pending"} for item in self.items())
            if not is_pending and not self.messages():
                return
            self.clock.sleep(60)
            self.sweep()
        raise AssertionError("still not settled")

    def messages(self) -> list[Message]:
        """Return every message in the queues of both lanes, hidden or not."""
        return self.queues.messages(self.environ["INBOX_QUEUE_URL"]) + self.slow_messages()

    def slow_messages(self) -> list[Message]:
        """Return every message in the queue of slow destinations, hidden or not."""
        return self.queues.messages(self.environ["SLOW_QUEUE_URL"])

    def dead_letters(self) -> list[Message]:
        """Return every message in the dead letter queue."""
        return self.queues.messages(self.environ["INBOX_DLQ_URL"])

    def move_back(self) -> None:
        """Move every message of the dead letter queue to the inbox queue, as SQS's own redrive
        does.
        """
        for message in self.dead_letters():
            self.send(message["body"], **message["attributes"])
        self.queues.clear(self.environ["INBOX_DLQ_URL"])

    def lose_messages(self) -> None:
        """Drop every message of both lanes."""
        for variable in WORKERS:
            self.queues.clear(self.environ[variable])

    def items(self) -> list[Json]:
        """Return all items of the table."""
        scan = self.outside_dynamodb.get_paginator("scan")
        pages = scan.paginate(TableName=self.environ["EVENTS_TABLE_NAME"], ConsistentRead=True)
        return [item for page in pages for item in page["Items"]]

    def item(self, event_id: str) -> Json:
        """Return an item of the table."""
        [item] = [item for item in self.items() if item["event_id"]["S"] == event_id]
        return item

    def change_item(self, event_id: str, update: str, **values: Json) -> None:
        """Change an item of the table, as no call does."""
        given = {f":{name}": value for name, value in values.items()}
        self.outside_dynamodb.update_item(
            TableName=self.environ["EVENTS_TABLE_NAME"],
            Key={"event_id": {"S": event_id}},
            UpdateExpression=update,
            **({"ExpressionAttributeValues": given} if given else {}),
        )

    def send(self, body: str, **attributes: str) -> None:
        """Send a message to the inbox queue."""
        typed = {
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        }
        self.outside.send_message(
            QueueUrl=self.environ["INBOX_QUEUE_URL"], MessageBody=body, MessageAttributes=typed
        )


@cache
def _session() -> boto3.Session:
    """Return a session, which keeps the service models that it has read."""
    return boto3.Session("test", "test", region_name=REGION)


class MotoQueues:
    """The queues of moto."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def messages(self, queue_url: str) -> list[Message]:
        return [self._shown(message) for message in self._queue(queue_url)._messages]

    def _shown(self, message: Any) -> Message:
        attributes = {
            name: value["StringValue"] for name, value in message.message_attributes.items()
        }
        delay_seconds = max(0.0, message.delayed_until / 1000 - self._clock())
        return {
            "id": message.id,
            "body": message.body,
            "attributes": attributes,
            "delay_seconds": delay_seconds,
        }

    def clear(self, queue_url: str) -> None:
        queue = self._queue(queue_url)
        for held in (queue._messages, queue.pending_messages, queue.deleted_messages):
            held.clear()

    def _queue(self, queue_url: str) -> moto.sqs.models.Queue:
        return sqs_backends[DEFAULT_ACCOUNT_ID][REGION].queues[queue_url.rsplit("/", 1)[-1]]


def get_value(serializer: ResponseSerializer, value: Any, key: str, shape: Any) -> Any:
    """Return a member of a response; moto looks for each type of each attribute's value under ten
    names.
    """
    is_typed = shape.parent.name == "AttributeValue"
    return value.get(key) if is_typed else MOTO_GET_VALUE(serializer, value, key, shape)


@contextmanager
def moto_aws(clock: Clock) -> Iterator[MotoQueues]:
    """Let moto be AWS until the end of the block."""
    lock = threading.Lock()
    process_request = BotocoreStubber.process_request

    def process_one_request(stubber: BotocoreStubber, request: Any) -> Any:
        """Serialize calls: moto checks a condition and writes in two steps, AWS in one."""
        with lock:
            return process_request(stubber, request)

    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setattr(BotocoreStubber, "process_request", process_one_request)
        patch.setattr(responses, "method_names_from_class", cache(method_names_from_class))
        patch.setattr(ResponseSerializer, "get_value", get_value)
        patch.setattr(moto.sqs.models, "unix_time", clock)
        patch.setattr(moto.sqs.models, "unix_time_millis", lambda: clock() * 1000)
        yield MotoQueues(clock)


@contextmanager
def world(webhook_url: str, *, kind: type[World] = World, **environ: str) -> Iterator[World]:
    """Create a system that pushes to `webhook_url`; `environ` adds to its variables."""
    clock = Clock()
    session = _session()
    with pytest.MonkeyPatch.context() as patch, moto_aws(clock) as queues:
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        patch.setattr(boto3, "DEFAULT_SESSION", session)
        keys = (
            f"acme:{digest(KEY)}:produce+consume+erase",
            f"shop:{digest(PRODUCER_KEY)}:produce",
            f"reader:{digest(CONSUMER_KEY)}:consume",
        )
        defaults = {
            "API_KEYS": ",".join(keys),
            "SUBSCRIPTION_HOSTS": "127.0.0.1,hooks.zapier.com",
            "WEBHOOK_SIGNING_SECRETS": " ".join(SIGNING_SECRETS),
        }
        variables = {
            **local_aws.ensure("dev"),
            "ZAPIER_WEBHOOK_URL": webhook_url,
            **defaults,
            **environ,
        }
        clients = [
            session.client(name, config=own)
            for own in (VALIDATING, None)
            for name in ("dynamodb", "sqs")
        ]
        made = kind(clock, variables, queues, *clients)
        try:
            yield made
        finally:
            made.stop()
            PRESENT.module("deps").use(None)
