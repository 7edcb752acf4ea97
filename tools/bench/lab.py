"""Servers in processes of their own, the real app on top of them, and the bare calls beside it.

The bare calls are not made up: what the app sends to AWS is recorded once, and sent again with another event's id.
"""

import contextlib
import gc
import hashlib
import json
import os
import re
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import boto3
import urllib3
from chalice.local import LambdaContext

import app
from chalicelib import aws, log, services, settings
from chalicelib.items import event_of
from tools.aws import DUMMY, REGION

KEY = "bench-key"
EVENT = {
    "event_type": "order.created",
    "payload": {"order_id": "12345", "lines": [{"sku": f"sku-{n}", "quantity": n, "price": "9.90"} for n in range(16)]},
    "metadata": {"source": "shop"},
}
OWN_VARIABLES = {
    "API_KEYS": f"bench:{hashlib.sha256(KEY.encode()).hexdigest()}",
    "STAGE": "bench",
    "WEBHOOK_SIGNING_SECRETS": "whsec_YmVuY2g=",
    # Botocore looks for credentials, profiles and regions in many places: here each is answered at once.
    **DUMMY,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}

Parameters = dict[str, Any]


@contextlib.contextmanager
def serving(*kinds: str) -> Iterator[dict[str, str]]:
    """Start servers of tools/bench/servers.py, and give the variables that name what they hold."""
    with contextlib.ExitStack() as stack:
        names: dict[str, str] = {}
        for kind in kinds:
            command = [sys.executable, "-m", "tools.bench.servers", kind]
            process = subprocess.Popen(  # noqa: S603  # our own code
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.callback(process.wait)
            stack.callback(process.communicate)  # the end of its input ends it
            assert process.stdout  # noqa: S101
            names |= json.loads(process.stdout.readline())
        yield names


def ask(url: str, path: str, body: object = None) -> Any:
    """Ask a server of tools/bench/servers.py what no client of AWS asks."""
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.parse.urljoin(url, path), content, timeout=120) as answer:  # noqa: S310
        return json.load(answer)


def function_context(timeout_seconds: int = 50) -> LambdaContext:
    return LambdaContext("bench", 512, timeout_seconds * 1000)


def proxy_event(method: str, path: str, body: str | None = None, **headers: str) -> dict[str, Any]:
    """Return a call of the API as API Gateway hands it to the function; header names have `_` for `-`."""
    path, _, query = path.partition("?")
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    event_id = re.match(r"/events/([^/]+)", path)
    return {
        "requestContext": {"httpMethod": method, "resourcePath": re.sub(r"^/events/[^/]+", "/events/{event_id}", path)},
        "headers": {"authorization": f"Bearer {KEY}", "content-type": "application/json", **given},
        "pathParameters": {"event_id": event_id[1]} if event_id else {},
        "multiValueQueryStringParameters": urllib.parse.parse_qs(query) or None,
        "stageVariables": {},
        "body": body,
        "isBase64Encoded": False,
    }


def sqs_event(event_ids: list[str]) -> dict[str, Any]:
    """Return a batch of wake-ups as SQS hands it to the worker."""
    records = [
        {
            "messageId": str(uuid.uuid4()),
            "receiptHandle": "receipt",
            "body": json.dumps({"event_id": event_id}),
            "eventSource": "aws:sqs",
        }
        for event_id in event_ids
    ]
    return {"Records": records}


class System:
    """The real app on given servers, with clients made as it makes them, and hooks to see what they are asked."""

    def __init__(self, names: Mapping[str, str], **environ: str) -> None:
        self.environ = {**OWN_VARIABLES, **names, **environ}
        os.environ |= {"AWS_ENDPOINT_URL": self.environ["AWS_ENDPOINT_URL"]}
        self.dynamodb, self.sqs = aws.client("dynamodb"), aws.client("sqs")
        loaded = settings.load(self.environ)
        log.configure(loaded.log_level)
        self.services = services.build(loaded, self.dynamodb, self.sqs)
        gc.freeze()  # as services.get does

    def call(self, event: Parameters) -> Parameters:
        """Call the API's function; it must succeed."""
        services.use(self.services)
        answer: Parameters = app.app(event, function_context(30))
        if answer["statusCode"] >= 300:
            raise RuntimeError(answer["body"])
        return answer

    def work(self, event_ids: list[str]) -> None:
        """Call the worker with a batch."""
        services.use(self.services)
        app.worker(sqs_event(event_ids), function_context())

    def sweep(self) -> None:
        services.use(self.services)
        names = ("version", "account", "region", "detail", "detail-type", "source", "time", "id", "resources")
        app.sweep(dict.fromkeys(names, ""), function_context(60))

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[tuple[str, Parameters]]]:
        """Collect every call to AWS made inside: operation and parameters."""
        calls: list[tuple[str, Parameters]] = []

        def record(params: Parameters, model: Any, **_: object) -> None:
            calls.append((model.name, json.loads(json.dumps(params))))

        for client in (self.dynamodb, self.sqs):
            client.meta.events.register("before-parameter-build", record)
        try:
            yield calls
        finally:
            for client in (self.dynamodb, self.sqs):
                client.meta.events.unregister("before-parameter-build", record)


@dataclass
class Bare:
    """The calls that cannot be avoided, made directly: nothing is decided, validated, logged or counted between them.

    Clients are made once with the app's own configuration, and connections are kept, as in the app.
    """

    system: System
    posted: list[tuple[str, Parameters]]  # the calls of a delivered post
    queued: list[tuple[str, Parameters]]  # of one with respond-async
    worked: list[tuple[str, Parameters]]  # of a delivery by the worker
    event_id: str = field(init=False)  # the event of `posted` and, in its place, of the others
    push_body: bytes = field(init=False)

    def __post_init__(self) -> None:
        environ = self.system.environ
        self._dynamodb: Any = boto3.client("dynamodb", config=aws.CONFIG)
        self._sqs: Any = boto3.client("sqs", config=aws.CONFIG)
        url = urllib3.util.parse_url(environ["ZAPIER_WEBHOOK_URL"])
        self._pool = urllib3.HTTPConnectionPool(url.host or "", url.port, maxsize=16)
        self._target = url.request_uri
        item = self.posted[0][1]["Item"]
        self.event_id = item["event_id"]["S"]
        self.push_body = event_of(item).push_body()

    def prepared(self, calls: list[tuple[str, Parameters]], event_id: str) -> list[Parameters]:
        """Return the parameters of `calls` for another event."""
        return [json.loads(json.dumps(parameters).replace(self.event_id, event_id)) for _, parameters in calls]

    def post(self, put: Parameters, update: Parameters) -> None:
        self._dynamodb.put_item(**put)
        self.push(put["Item"]["event_id"]["S"])
        self._dynamodb.update_item(**update)

    def queue(self, put: Parameters, send: Parameters) -> None:
        self._dynamodb.put_item(**put)
        self._sqs.send_message(**send)

    def work(self, claim: Parameters, record: Parameters) -> None:
        self._dynamodb.update_item(**claim)
        self.push(claim["Key"]["event_id"]["S"])
        self._dynamodb.update_item(**record)

    def push(self, event_id: str) -> None:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "triggers-api/0.1.0",
            "webhook-id": event_id,
            "webhook-timestamp": "1795000000",
            "webhook-signature": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
        }
        self._pool.urlopen("POST", self._target, self.push_body, headers, retries=False, redirect=False, timeout=10)

    def store(self, event_id: str, event_type: str = "order.created") -> None:
        """Store a pending event that nobody has claimed."""
        text = json.dumps(self.prepared(self.queued, event_id)[0]).replace("order.created", event_type)
        self._dynamodb.put_item(**json.loads(text))


def bare_of(system: System) -> Bare:
    """Record what the app asks AWS for, and return that as bare calls."""
    body = json.dumps(EVENT)
    with system.recording() as posted:
        first = json.loads(system.call(proxy_event("POST", "/events", body))["body"])["event_id"]
    with system.recording() as queued:
        second = json.loads(system.call(proxy_event("POST", "/events", body, prefer="respond-async"))["body"])
    with system.recording() as worked:
        system.work([second["event_id"]])
    renamed = [
        [(name, json.loads(json.dumps(parameters).replace(second["event_id"], first))) for name, parameters in calls]
        for calls in (queued, worked)
    ]
    return Bare(system, posted, *renamed)


def new_event_id() -> str:
    return f"evt_{uuid.uuid4().hex}"
