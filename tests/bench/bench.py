"""Measure what the system adds to the calls that it cannot avoid: the table of
docs/performance.md.
"""

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from timeit import timeit
from typing import Any

import boto3
import urllib3
from botocore import xform_name
from botocore.config import Config
from chalice.local import LambdaContext, LambdaEventConverter, RouteMatcher

import app
from chalicelib import deps as services
from tests.bench import standin

LINE = "| {:<38} | {:<13} | {:<38} | {:<5} | {:<8} | {:<3} |"
COLUMNS = ("what", "measured", "compared with", "ratio", "goal", "met")
LINES = [{"sku": f"sku-{number}", "quantity": number, "price": "9.90"} for number in range(16)]
EVENT = json.dumps(
    {"event_type": "order.created", "payload": {"order_id": "12345", "lines": LINES}}
)
ASYNC = {"prefer": "respond-async"}
CONVERTER = LambdaEventConverter(RouteMatcher(list(app.app.routes)))
# What a user of boto3 would write: the app's timeouts and retries.
PLAIN = {
    "connect_timeout": 1,
    "read_timeout": 2,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}

Act = Callable[[], Any]
Prepare = Callable[[], Act]
Row = tuple[Any, ...]  # texts, and whether the goal is met


def prepare_call(method: str, path: str, body: str = "", **headers: str) -> partial[Any]:
    """Return what calls the API as API Gateway and Lambda do."""
    headers["authorization"] = f"Bearer {standin.API_KEY}"
    event = {**CONVERTER.create_lambda_event(method, path, headers), "body": body}
    return partial(app.app, event, LambdaContext("bench", 512, 30_000))


def call(method: str, path: str, body: str = "", **headers: str) -> Any:
    """Call the API and return its JSON."""
    response = prepare_call(method, path, body, **headers)()
    if response["statusCode"] >= 300:
        raise RuntimeError(response["body"])
    return json.loads(response["body"] or "null")


def bare_calls(act: Act, push_url: str | None = None) -> Prepare:
    """Record the calls to AWS that `act` makes for an event; return what prepares them for another,
    by boto3 alone.

    With `push_url`, a request by urllib3 follows the first of them.
    """
    act()  # reads the subscriptions, which are then kept for a while
    standin.meter()
    act()
    _, calls = standin.meter()
    event_id = calls[0][1]["Item"]["event_id"]["S"]
    clients = {name: boto3.client(name, config=Config(**PLAIN)) for name in ("dynamodb", "sqs")}

    def prepare() -> Act:
        new_id = f"evt_{os.urandom(16).hex()}"
        acts: list[Act] = []
        text = standin.encode(calls).replace(event_id.encode(), new_id.encode())
        for operation, parameters in standin.decode(text):
            client = clients["dynamodb" if "TableName" in parameters else "sqs"]
            acts.append(partial(getattr(client, xform_name(operation)), **parameters))
        if push_url:
            headers = {"Content-Type": "application/json", "webhook-id": new_id}
            push = partial(urllib3.request, body=EVENT, headers=headers, retries=False)
            acts.insert(1, partial(push, "POST", push_url))
        return lambda: [act() for act in acts]

    return prepare


def use_settings(**environ: str) -> None:
    """Make the app use these variables from now on."""
    os.environ |= environ
    services.use(None)


def compare(
    what: str, rounds: int, ours: Prepare, beside: str, floor: Prepare, *, most: float
) -> Row:
    """Time two things by turns; each is prepared first, untimed."""
    taken = [[timeit(prepare(), number=1) for prepare in (ours, floor)] for _ in range(rounds + 2)]
    measured, compared_with = map(median, zip(*taken[2:], strict=True))  # after warming up
    ratio = measured / compared_with
    beside = f"{beside}: {compared_with * 1000:.1f} ms"
    return what, f"{measured * 1000:.1f} ms", beside, f"{ratio:.2f}", f"≤ {most}", ratio <= most


def measure() -> Iterator[Row]:
    """Yield the rows; the app's settings are in the environment."""
    hook = os.environ["ZAPIER_WEBHOOK_URL"]
    bare = "the bare calls"
    post = partial(prepare_call, "POST", "/events", EVENT)
    queue = partial(post, **ASYNC)
    yield compare("POST /events, delivered", 400, post, bare, bare_calls(post(), hook), most=1.18)
    yield compare("POST /events, respond-async", 400, queue, bare, bare_calls(queue()), most=1.18)
