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
from urllib.parse import parse_qs, urlencode

import boto3
import pytest
from botocore.config import Config

from chalicelib.core.event import Event, NewEvent, Status
from chalicelib.core.http_push import PushClient
from chalicelib.core.posting import make_event
from chalicelib.core.store import compressed
from chalicelib.deps import Services
from chalicelib.infra.clients import CONFIG
from chalicelib.infra.times import rfc3339
from tests.support import versions
from tests.support.moto_aws import REGION, Message, MotoQueues, empty_table, moto_aws
from tests.support.receiver import Receiver
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
NAMES = "version account region detail detail-type source time id resources"
SCHEDULED = dict.fromkeys(NAMES.split(), "")  # what EventBridge sends
VALIDATING = CONFIG.merge(Config(parameter_validation=True))


def digest(key: str) -> str:
    """Return the SHA-256 of an API key in hexadecimal, as API_KEYS has it."""
    return hashlib.sha256(key.encode()).hexdigest()


Json = dict[str, Any]


class Clock:
    """A clock, in Unix seconds, that stands still until a caller of `sleep` moves it forward."""

    def __init__(self, now: float = START) -> None:
        self.now = now
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the time in Unix seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move the clock forward, without waiting."""
        with self._lock:
            self.now += seconds


class LambdaContext:
    """The context object that Lambda passes to a function."""

    def __init__(self, clock: Callable[[], float], timeout_seconds: float) -> None:
        """Make the context of a new invocation.

        :param clock: Returns the time in Unix seconds.
        :param timeout_seconds: How long the function may run from now on.
        """
        self.aws_request_id = str(uuid.uuid4())
        self._clock = clock
        self._end = clock() + timeout_seconds

    def get_remaining_time_in_millis(self) -> float:
        """Return how long the function may still run, in milliseconds."""
        return (self._end - self._clock()) * 1000


@dataclass
class Answer:
    """A response of the API."""

    status_code: int
    # Values by lower-case name.
    headers: dict[str, str]
    # The body.
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def location(self) -> str:
        """The path of the event or subscription that the call created."""
        return f"/{self.headers['location']}"

    @property
    def new_id(self) -> str:
        """The id of the event or subscription that the call created."""
        return self.location.rpartition("/")[2]

    @property
    def event_ids(self) -> list[str]:
        """The ids of the events in a list or a lease."""
        return [event["event_id"] for event in self.json["events"]]

    @property
    def problem(self) -> tuple[int, str]:
        """The status code and the code of a refused call."""
        return self.status_code, self.json["code"]

    @property
    def faults(self) -> list[str]:
        """The fields of the request that the API refuses, sorted; empty unless the status code is
        400.
        """
        errors = self.json["errors"] if self.status_code == 400 else ()
        return sorted(fault["field"] for fault in errors)


def assert_has(json_object: Json, **members: object) -> None:
    """Assert that some members of a JSON object have these values."""
    actual = {name: json_object[name] for name in members}
    assert actual == members, actual


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
    """Call the API in this process, with the event that API Gateway would pass to its function;
    return the response. The function has a timeout of 30 seconds.

    :param clock: The clock of the function's timeout.
    :param path: The path, with the query.
    :param body: The body; a dict is sent as JSON. None: the request has none.
    :param key: The API key, which is sent unless `headers` has `authorization`; None: no API key
        is sent.
    :param version: The version of the code that responds.
    :param headers: Values by name, with `_` in place of `-`.
    """
    if isinstance(body, dict):
        body = json.dumps(body)
    path, _, query = path.partition("?")
    resource, parameters = find_route(path, version)
    sent_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        sent_headers.setdefault("authorization", f"Bearer {key}")
    query_parameters = parse_qs(query, keep_blank_values=True)
    event = {
        "requestContext": {"httpMethod": method, "resourcePath": resource, "path": f"/api{path}"},
        "headers": sent_headers,
        "pathParameters": parameters,
        # API Gateway passes null for a request without a query.
        "multiValueQueryStringParameters": query_parameters or None,
        "stageVariables": {},
        "body": body.encode() if isinstance(body, str) else body,
    }
    response = version.app.app(event, LambdaContext(clock, 30))
    response_headers = {name.lower(): value for name, value in response["headers"].items()}
    return Answer(response["statusCode"], response_headers, response["body"])


def find_route(path: str, version: Version = PRESENT) -> tuple[str, dict[str, str]]:
    """Return the route of a path, such as `/events/{event_id}`, and the values of its parameters by
    name; if no route fits, return the path without a slash at its end, and no parameters.
    """
    path = path.rstrip("/") or "/"
    for route in version.app.app.routes:
        pattern = re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", route)
        match = re.fullmatch(pattern, path)
        if match:
            return route, match.groupdict()
    return path, {}


def sqs_record(message: Json) -> Json:
    """Return a message that boto3 received, in the form of a record that Lambda passes to the
    worker.
    """
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


# The name of the function that reads each queue, by the variable of the queue.
WORKERS = {"INBOX_QUEUE_URL": "worker", "SLOW_QUEUE_URL": "slow_worker"}
QUEUES = (*WORKERS, "INBOX_DLQ_URL")


def close_connections(push: PushClient) -> None:
    """Close the idle connections of a push client."""
    for manager in push._managers.values():
        manager.clear()


class Caller:
    """A method for each call of the API that tests make. Subclasses define how calls are made.

    In all methods, `headers` are values by name, with `_` in place of `-`.
    """

    def call(
        self,
        method: str,
        path: str,
        body: bytes | str | Json | None = None,
        *,
        key: str | None = KEY,
        **headers: str,
    ) -> Answer:
        """Call the API, and return its response.

        :param path: The path, with the query.
        :param body: The body; a dict is sent as JSON. None: the request has none.
        :param key: The API key; None: the request has none.
        """
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        raise NotImplementedError

    def get(self, path: str, **headers: str) -> Any:
        """Return the JSON of the response to a GET."""
        return self.call("GET", path, **headers).json

    def offer(
        self, body: bytes | str | Json = EVENT, *, key: str | None = KEY, **headers: str
    ) -> Answer:
        """Post an event, which the API may refuse; return the response.

        :param body: The event; a dict is sent as JSON.
        :param key: The API key; None: the request has none.
        """
        return self.call("POST", "/events", body, key=key, **headers)

    def post(
        self, payload: object = None, *, event_type: str = "order.created", **headers: str
    ) -> Any:
        """Post an event; return the event as the API shows it, and raise AssertionError unless the
        API accepts it.

        :param payload: The payload of the event; None: an empty object.
        """
        if payload is None:
            payload = {}
        answer = self.offer(json.dumps({"event_type": event_type, "payload": payload}), **headers)
        assert answer.status_code == 202, answer.text
        return answer.json

    def post_for(self, tenant: str | None) -> Any:
        """Post an event of a tenant, or of no tenant with None; return the event."""
        body = {"event_type": "order.created", "payload": {"price": "12 €"}, "tenant": tenant}
        return self.offer(body).json

    def post_later(self, payload: Json | None = None, **members: object) -> Any:
        """Post an event, and let a second pass; return the event.

        :param payload: The payload of the event; None: an empty object.
        :param members: Members of the event in addition to its type and payload.
        """
        body = {"event_type": "order.created", "payload": payload or {}, **members}
        event = self.offer(body).json
        self.sleep(1)
        return event

    def queued(self, **options: str) -> str:
        """Post an event that is not pushed inline but waits in the queue; return its id.

        :param options: Arguments of `post`.
        """
        return str(self.post(prefer="respond-async", **options)["event_id"])

    def event(self, event_id: str) -> Any:
        """Return an event or a copy as it is now."""
        return self.get(f"/events/{event_id}")

    def copies(self, event: Json) -> list[Json]:
        """Return the copies of an event as they are now."""
        return [self.event(event_id) for event_id in event["copies"]]

    def states(self, event: Json) -> list[str]:
        """Return the status of each copy of an event."""
        return [copy["status"] for copy in self.copies(event)]

    def listed(self, path: str = "/inbox") -> list[str]:
        """Return the ids of the events on the first page of a list."""
        return self.call("GET", path).event_ids

    def recipients(self, event: Json) -> Any:
        """Return the recipients of an event."""
        return self.get(f"/events/{event['event_id']}/recipients")["recipients"]

    def replay(self, event_id: str, *, key: str = KEY) -> Answer:
        """Replay an event or a copy; return the response."""
        return self.call("POST", f"/events/{event_id}/replay", key=key)

    def acknowledge(self, event_id: str, *, key: str = KEY) -> Answer:
        """Acknowledge an event without a lease; return the response."""
        return self.call("POST", f"/events/{event_id}/acknowledge", key=key)

    def erase(self, event_id: str) -> Answer:
        """Erase an event or a copy."""
        return self.call("DELETE", f"/events/{event_id}")

    def make_token(self, tenant: str, *, key: str = CONSUMER_KEY, **members: int) -> str:
        """Create a token for a tenant, and return it.

        :param members: More members of the request, such as `expires_in_seconds`.
        """
        answer = self.call("POST", "/tokens", {"tenant": tenant, **members}, key=key)
        assert answer.status_code == 201, answer.text
        return str(answer.json["token"])

    def subscribe(
        self,
        target: str | Receiver,
        *event_types: str,
        key: str = CONSUMER_KEY,
        **members: Any,
    ) -> Answer:
        """Create a subscription; return the response.

        :param target: The target URL, or the receiver that has it.
        :param event_types: The types of the events that are sent to the subscription; without any,
            events of all types are.
        :param members: More members of the subscription.
        """
        url = target.url if isinstance(target, Receiver) else target
        body = {"target_url": url, "event_types": event_types or None, **members}
        return self.call("POST", "/subscriptions", body, key=key)

    def subscribe_later(self, target: str | Receiver, *event_types: str, **members: Any) -> str:
        """Let a second pass, and create a subscription; return its id."""
        self.sleep(1)
        return self.subscribe(target, *event_types, **members).new_id

    def subscriptions(self, tenant: str | None = None) -> Any:
        """Return the subscriptions on the first page of the list.

        :param tenant: The tenant of the subscriptions; None: subscriptions without a tenant; `*`:
            all subscriptions.
        """
        path = f"/subscriptions?tenant={tenant}" if tenant else "/subscriptions"
        return self.get(path)["subscriptions"]

    def deliveries(self, subscription_id: str) -> Any:
        """Return the member `deliveries` of a subscription."""
        return self.get(f"/subscriptions/{subscription_id}?include=deliveries")["deliveries"]

    def send_to(self, subscription_id: str, event_id: Any, *, key: str = KEY) -> Answer:
        """Send a stored event to one subscription; return the response."""
        path = f"/subscriptions/{subscription_id}/send"
        return self.call("POST", path, {"event_id": event_id}, key=key)

    def recover(self, subscription_id: str, *, key: str = KEY, **members: Any) -> Answer:
        """Recover the events that a subscription missed; return the response.

        :param members: More members of the request. Without `since`, all events since 1970 are
            recovered; if `since` is None, only events with a delivery that failed or waits are.
        """
        body = {"since": rfc3339(0), **members}
        return self.call("POST", f"/subscriptions/{subscription_id}/recover", body, key=key)

    def missed(self, subscription_id: str, *, key: str = KEY, **query: Any) -> Answer:
        """List the events that a subscription missed; return the response.

        :param query: Parameters of the query; a parameter whose value is None is left out of the
            request. `since` is the beginning of 1970 unless `since` or `subject` is among them.
        """
        if "subject" not in query:
            query.setdefault("since", rfc3339(0))
        sent = urlencode({name: value for name, value in query.items() if value is not None})
        return self.call("GET", f"/subscriptions/{subscription_id}/missed?{sent}", key=key)


@dataclass
class World(Caller):
    """A deployed system: its API, worker, schedules, table and queues."""

    # The clock of the functions and of SQS.
    clock: Clock
    # The environment variables of the functions.
    environ: dict[str, str]
    # The queues, from the inside of moto.
    queues: MotoQueues
    # The DynamoDB client of the functions.
    dynamodb: Any
    # The SQS client of the functions.
    sqs: Any
    # The DynamoDB client of the test itself.
    outside_dynamodb: Any
    # The SQS client of the test itself.
    outside: Any
    # The services of the running container.
    services: Services = field(init=False)
    # The version of the running container's code.
    version: Version = field(init=False, default=PRESENT)

    def __post_init__(self) -> None:
        self._first_environ = {**self.environ}
        self._start()

    def restart(self, *, version: Version = PRESENT, **environ: str) -> None:
        """Stop the container, and start a new one.

        :param version: The version of the code of the new container.
        :param environ: The environment variables that change; the others stay as they are.
        """
        self.stop()
        self.version = version
        self.environ |= environ
        self._start()

    def _start(self) -> None:
        """Start a container with the present version and environment variables."""
        deps = self.version.module("deps")
        telemetry = self.version.module("infra.telemetry")
        settings = self.version.module("settings").load(self.environ)
        telemetry.logger.handlers.clear()  # those of a version that ran before
        telemetry.configure(settings.log_level, settings.stage)
        # Services calls this with the names of its clients, `dynamodb` and `sqs`. They are
        # attributes of this object.
        make_client = partial(getattr, self)
        self.services = deps.Services(
            settings, make_client=make_client, clock=self.clock, sleep=self.clock.sleep
        )
        deps.use(self.services)

    def stop(self) -> None:
        """Close the container's idle connections to receivers."""
        close_connections(self.services.push)

    def forget(self, **environ: str) -> None:
        """Empty the table and the queues, set the clock to START, and start a new container of the
        present version. This is faster than creating another world.

        :param environ: Environment variables that differ from those with which the world was
            created.
        """
        self.environ = {**self._first_environ}
        empty_table(self.environ["EVENTS_TABLE_NAME"])
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
        """Call the API of the running container; see `Caller.call`."""
        return call(self.clock, method, path, body, key=key, version=self.version, **headers)

    def run_worker(self, *, timeout_seconds: float = 50) -> int:
        """Receive a batch of messages, call the worker with it, and delete the messages unless the
        worker raises, as Lambda's event source does. Return the number of messages; 0: no message
        is visible.

        If the queue of the fast lane has no visible message, the batch is received from the queue
        of the slow lane, and passed to the worker of that lane.

        :param timeout_seconds: The timeout of the function.
        """
        for variable, worker in WORKERS.items():
            function = getattr(self.version.app, worker)
            received = self._run_worker(function, self.environ.get(variable), timeout_seconds)
            if received:
                return received
        return 0

    def _run_worker(self, worker: Any, queue_url: str | None, timeout_seconds: float) -> int:
        """Receive at most ten messages of a queue, call a worker with them, and delete them. Return
        the number of messages; without any, the worker is not called. An error of the worker is
        raised, and the messages are not deleted.

        :param worker: The handler of the function.
        :param queue_url: The URL of the queue; None: this version has no such queue.
        :param timeout_seconds: The timeout of the function.
        """
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
        """Move the clock forward, without running the worker or the sweep."""
        self.clock.sleep(seconds)

    def sweep(self) -> None:
        """Run the sweep once."""
        self.version.app.sweep(SCHEDULED, LambdaContext(self.clock, 60))

    def check_dlq(self) -> None:
        """Run the function that publishes the depth of the dead letter queue."""
        self.version.app.check_dlq(SCHEDULED, LambdaContext(self.clock, 60))

    def settle(self, *, hours: float = 24) -> None:
        """Move the clock forward, and run the worker and the sweep, until no event is pending and
        no message is left in the queues of both lanes.

        Raise AssertionError if that takes longer than `hours` by the world's clock.
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
        """Move every message of the dead letter queue back to the work queue, as SQS's own redrive
        does.
        """
        for message in self.dead_letters():
            self.send_message(message["body"], **message["attributes"])
        self.queues.clear(self.environ["INBOX_DLQ_URL"])

    def lose_messages(self) -> None:
        """Delete every message of both lanes."""
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
        """Change an item of the table directly, not by a call of the API.

        :param update: An update expression.
        :param values: The expression's values by their names without `:`, in DynamoDB's format.
        """
        options = {}
        if values:  # DynamoDB refuses a parameter without values
            options["ExpressionAttributeValues"] = {f":{k}": value for k, value in values.items()}
        self.outside_dynamodb.update_item(
            TableName=self.environ["EVENTS_TABLE_NAME"],
            Key={"event_id": {"S": event_id}},
            UpdateExpression=update,
            **options,
        )

    def send_message(self, body: str, **attributes: str) -> None:
        """Send a message to the work queue, with these message attributes."""
        typed = {
            name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
        }
        self.outside.send_message(
            QueueUrl=self.environ["INBOX_QUEUE_URL"], MessageBody=body, MessageAttributes=typed
        )

    def store_copy(self, subscription_id: str, number: int, state: Status, **members: Any) -> None:
        """Store a copy, the event made for one subscription, without its event. It expires a day
        after the start of the clock.

        :param number: How many seconds after the start of the clock the copy was created.
        :param state: The status of the copy.
        :param members: Other fields of the copy; its type is "a" unless `event_type` is one.
        """
        fields: Json = {"event_type": "a", **members}
        copy = Event(
            event_id=f"cpy_{self.services.new_id()}",
            created_at=rfc3339(START + number),
            created_by="acme",
            status=state,
            subscription_id=subscription_id,
            response_bytes=len("{}"),  # as for an empty payload
            claim_id=self.services.new_id(),
            expires_at=int(START) + 86400,
            **fields,
        )
        self.services.store.put(copy, compressed(copy))


def read_lists(services: Services, tenant: str | None = None) -> None:
    """Let a container read the subscriptions to which an event of a tenant could be sent, as it
    does for an event every ten seconds, and cache them.

    :param tenant: None: the event has no tenant.
    """
    posted = NewEvent(event_type="a", payload="{}", metadata="null", tenant=tenant)
    event = make_event(posted, "acme", services)
    services.subscriptions.matching(event)


@cache
def _session() -> boto3.Session:
    """Return a session of boto3 for all tests, which reads each service model only once."""
    return boto3.Session("test", "test", region_name=REGION)


@contextmanager
def world(webhook_url: str, *, kind: type[World] = World, **environ: str) -> Iterator[World]:
    """Create a system in an emulated AWS, and yield it; stop it at the end of the block.

    Its API keys are KEY, which has all scopes, PRODUCER_KEY and CONSUMER_KEY. The variable of
    boto3's default session is patched, because boto3 has no other place for it.

    :param webhook_url: The URL to which events are pushed.
    :param kind: The class of the system.
    :param environ: Other environment variables of its functions; they replace those set here.
    """
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
        system = kind(
            clock,
            variables,
            queues,
            # The functions disable the validation of parameters, and tests enable it again.
            dynamodb=session.client("dynamodb", config=VALIDATING),
            sqs=session.client("sqs", config=VALIDATING),
            outside_dynamodb=session.client("dynamodb"),
            outside=session.client("sqs"),
        )
        try:
            yield system
        finally:
            system.stop()
            # So that later code makes services of its own.
            PRESENT.module("deps").use(None)
