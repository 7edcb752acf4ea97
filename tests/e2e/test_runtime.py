"""`make e2e`: the package under AWS's own runtime client, which gets events as AWS sends them.

A container is frozen from its response to its next event. A container is killed in the middle of a
push. AWS is moto, in a process of its own.
"""

import base64
import contextlib
import json
import os
import select
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zipfile import ZipFile

import boto3
import pytest

from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.settings import Scope
from tests.support.lambda_runtime import FunctionError, Lambda
from tests.support.receiver import Exchange, Receiver, hang, in_turn, is_signed, refused_url, status
from tests.support.world import Json
from tools import api_key, local_aws
from tools.package import package
from tools.stage import read_template

STAGE = "dev"
KEY = api_key.new_key()
SIGNING_SECRET = "whsec_" + base64.b64encode(b"the signing secret of make e2e").decode()
EVENT = {"event_type": "order.paid", "payload": {"order_id": "4711"}}
# More than a claim lasts, and than the sweep waits for a message.
MINUTES = 180
# Many servers close a connection that was idle for so long.
KEEP_ALIVE_SECONDS = 5

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not os.environ.get("E2E"), reason="takes minutes; `make e2e` sets E2E"),
]


def api_event(method: str, path: str, body: Json | None) -> Json:
    """Return a request as API Gateway's REST API passes it to a function.

    Source: https://docs.aws.amazon.com/apigateway/latest/developerguide/\
set-up-lambda-proxy-integrations.html
    """
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    event_id = path.removeprefix("/events").removeprefix("/")
    resource = "/events/{event_id}" if event_id else path
    return {
        "resource": resource,
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": {"event_id": event_id} if event_id else None,
        "stageVariables": None,
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "1234567890",
            "httpMethod": method,
            "identity": {"sourceIp": "203.0.113.1", "userAgent": "curl/8"},
            "path": f"/api{path}",
            "protocol": "HTTP/1.1",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "requestTimeEpoch": 1428582896000,
            "resourceId": "123456",
            "resourcePath": resource,
            "stage": "api",
        },
        "body": json.dumps(body) if body else None,
        "isBase64Encoded": False,
    }


def queue_event(messages: list[Json], queue_url: str) -> Json:
    """Return messages as the SQS trigger passes them to a function.

    Source: https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html
    """
    name = queue_url.rpartition("/")[2]
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": message["Attributes"],
                "messageAttributes": {
                    name: {
                        "stringValue": attribute["StringValue"],
                        "stringListValues": [],
                        "binaryListValues": [],
                        "dataType": attribute["DataType"],
                    }
                    for name, attribute in message.get("MessageAttributes", {}).items()
                },
                "md5OfBody": message["MD5OfBody"],
                "eventSource": "aws:sqs",
                "eventSourceARN": f"arn:aws:sqs:{local_aws.REGION}:123456789012:{name}",
                "awsRegion": local_aws.REGION,
            }
            for message in messages
        ]
    }


# Source: https://docs.aws.amazon.com/lambda/latest/dg/with-eventbridge-scheduler.html
SCHEDULED = {
    "version": "0",
    "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "123456789012",
    "time": "2026-12-01T12:00:00Z",
    "region": local_aws.REGION,
    "resources": [f"arn:aws:events:{local_aws.REGION}:123456789012:rule/sweep"],
    "detail": {},
}


class System:
    """The functions of the package and the AWS that they use, as a caller and AWS see them."""

    def __init__(self, functions: Lambda, settings: dict[str, str]) -> None:
        self.functions = functions
        self.sqs = boto3.client("sqs")
        self.table = boto3.resource("dynamodb").Table(settings["EVENTS_TABLE_NAME"])
        self.queue_url = settings["INBOX_QUEUE_URL"]

    def call(self, method: str, path: str, body: Json | None = None) -> Any:
        """Return the document of a response, whose status must be 2xx."""
        response = self.functions.container("APIHandler").invoke(api_event(method, path, body))
        assert response["statusCode"] < 300, response
        return json.loads(response["body"])

    def post(self) -> str:
        return str(self.call("POST", "/events", EVENT)["event_id"])

    def show(self, event_id: str) -> Any:
        return self.call("GET", f"/events/{event_id}")

    def receive(self) -> Json:
        """Return the event that Lambda makes of the messages that come next."""
        messages = self.sqs.receive_message(
            QueueUrl=self.queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=20,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return queue_event(messages["Messages"], self.queue_url)

    def work(self, event: Json) -> None:
        """Let the worker process messages, which Lambda deletes unless the worker raises."""
        self.functions.container("Worker").invoke(event)
        for record in event["Records"]:
            self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=record["receiptHandle"])

    def give_back(self, event: Json) -> None:
        """Let messages come again at once, as they do when their visibility timeout has passed."""
        for record in event["Records"]:
            self.sqs.change_message_visibility(
                QueueUrl=self.queue_url,
                ReceiptHandle=record["receiptHandle"],
                VisibilityTimeout=0,
            )

    def let_pass(self, seconds: int) -> None:
        """Set all times of the events earlier, as if so many seconds had passed since."""
        for item in self.table.scan()["Items"]:
            for name in ("claimed_until", "next_attempt_at"):
                if item.get(name):
                    item[name] = rfc3339(unix_seconds(item[name]) - seconds)
            self.table.put_item(Item=item)

    def sweep(self) -> None:
        self.functions.container("Sweep").invoke(SCHEDULED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the template of the package, and the package unpacked in `task`."""
    folder = tmp_path_factory.mktemp("runtime")
    package(STAGE, folder)
    with ZipFile(folder / "deployment.zip") as archive:
        archive.extractall(folder / "task")
    return folder


@pytest.fixture(scope="module")
def aws_url() -> str:
    return local_aws.start_moto()


@pytest.fixture
def system(
    folder: Path, aws_url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> Iterator[System]:
    """A stage whose events are pushed to the receiver, and that has no container yet."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", local_aws.REGION)
    for name, value in local_aws.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    settings = {
        **local_aws.ensure(STAGE),
        "ZAPIER_WEBHOOK_URL": receiver.url,
        "API_KEYS": api_key.entry("e2e", KEY, "+".join(Scope)),
        "WEBHOOK_SIGNING_SECRETS": SIGNING_SECRET,
    }
    store_secret("\n".join(f"{name}={value}" for name, value in settings.items()))
    with contextlib.closing(Lambda(folder, aws_url)) as functions:
        yield System(functions, settings)


def store_secret(value: str) -> None:
    client = boto3.client("secretsmanager")
    name = read_template(STAGE)["Resources"]["Settings"]["Properties"]["Name"]
    try:
        client.create_secret(Name=name, SecretString=value)
    except client.exceptions.ResourceExistsException:
        client.put_secret_value(SecretId=name, SecretString=value)


def relay(url: str, connection: socket.socket) -> None:
    """Pass what arrives on a connection on to a URL's server, and its answers back, until either
    side closes its connection, or nothing was passed on for KEEP_ALIVE_SECONDS.
    """
    address = urlsplit(url)
    with connection, socket.create_connection((address.hostname, address.port)) as server:
        while ready := select.select([connection, server], [], [], KEEP_ALIVE_SECONDS)[0]:
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                (server if source is connection else connection).sendall(data)


def pushed_ids(receiver: Receiver) -> list[str]:
    return [push.headers["webhook-id"] for push in receiver.requests]


def test_an_event_is_pushed_while_it_is_posted(system: System, receiver: Receiver) -> None:
    event_id = system.post()

    [push] = receiver.requests
    assert push.headers["webhook-id"] == event_id
    assert is_signed(push, SIGNING_SECRET)
    assert system.show(event_id)["status"] == "delivered"
    lines = system.functions.container("APIHandler").log_lines()
    assert [line["event_id"] for line in lines if line.get("outcome") == "delivered"] == [event_id]


def test_a_push_that_failed_is_retried_by_the_worker(system: System, receiver: Receiver) -> None:
    receiver.script(503)
    event_id = system.post()

    system.work(system.receive())

    assert pushed_ids(receiver) == [event_id, event_id]
    assert system.show(event_id)["status"] == "delivered"


def test_the_sweep_finds_an_event_whose_container_was_killed_in_the_push(
    system: System, receiver: Receiver
) -> None:
    receiver.script(hang)
    post = api_event("POST", "/events", EVENT)
    system.functions.container("APIHandler").kill_during(post, lambda: receiver.wait_for(1))

    system.let_pass(MINUTES)
    system.sweep()
    system.work(system.receive())

    [first_id, second_id] = pushed_ids(receiver)
    assert first_id == second_id
    assert system.show(first_id)["status"] == "delivered"


def test_a_message_whose_container_was_killed_in_the_push_is_processed_again(
    system: System, receiver: Receiver
) -> None:
    receiver.script(503, hang)
    event_id = system.post()
    messages = system.receive()
    system.functions.container("Worker").kill_during(messages, lambda: receiver.wait_for(2))

    system.let_pass(MINUTES)
    system.give_back(messages)
    system.work(system.receive())

    assert pushed_ids(receiver) == [event_id] * 3
    assert system.show(event_id)["status"] == "delivered"


def test_a_message_that_a_worker_without_aws_raises_for_is_processed_again(
    system: System, receiver: Receiver
) -> None:
    receiver.script(503)
    event_id = system.post()
    messages = system.receive()
    container = system.functions.container("Worker", refused_url())
    with pytest.raises(FunctionError, match="SettingsError"):
        container.invoke(messages)
    container.close()

    system.give_back(messages)
    system.work(system.receive())

    assert pushed_ids(receiver) == [event_id, event_id]
    assert system.show(event_id)["status"] == "delivered"


def test_connections_that_were_closed_while_the_container_was_frozen_cost_nothing(
    system: System, receiver: Receiver, aws_url: str
) -> None:
    receiver.default = in_turn(
        status(200), lambda exchange: exchange.pause(KEEP_ALIVE_SECONDS), Exchange.close
    )
    with Receiver(on_accept=partial(relay, aws_url)) as aws:
        system.functions.container("APIHandler", f"http://127.0.0.1:{aws.port}")
        first_id = system.post()
        aws_connections = aws.connections
        receiver.wait_until_left()
        aws.wait_until_left()

        second_id = system.post()
        shown = [system.show(event_id) for event_id in (first_id, second_id)]

    assert aws.connections > aws_connections > 0
    assert receiver.connections == 2
    assert pushed_ids(receiver) == [first_id, second_id]
    assert [event["delivery_attempts"] for event in shown] == [1, 1]
