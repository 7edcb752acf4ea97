"""`make bench`: measure the performance goals and print the table of docs/performance.md.

The exit status is 1 if a goal is missed.
"""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from timeit import timeit
from typing import Any

import boto3
import urllib3
from botocore import xform_name
from chalice.local import LambdaContext, LambdaEventConverter, RouteMatcher

import app
from chalicelib import delivery, services
from chalicelib.services import Services
from chalicelib.validation import LeaseRequest
from tools import standin

ROOT = Path(__file__).parent.parent
LINE = "| {:<53} | {:<20} | {:<40} | {:<5} | {:<12} | {:<3} |"
LINES = [{"sku": f"sku-{number}", "quantity": number, "price": "9.90"} for number in range(16)]
EVENT = json.dumps({"event_type": "order.created", "payload": {"order_id": "12345", "lines": LINES}})
ASYNC = {"prefer": "respond-async"}
CONVERTER = LambdaEventConverter(RouteMatcher(list(app.app.routes)))
# A cold start is a new process on the unpacked package, until it has read an event. Each imports at another depth of
# the stack, because CPython 3.11 loses up to 40 ms at one depth that nobody chooses.
AT_DEPTH = """import json, os, sys
def at(depth):
    at(depth - 1) if depth else exec(sys.argv[1], {"given": json.loads(sys.argv[2])})
at(int(sys.argv[3]))
os._exit(0)"""
COLD_APP = """import app
class Context: aws_request_id = "cold"
assert app.app(given, Context())["statusCode"] == 200"""
COLD_BOTO3 = """import boto3
from botocore.config import Config
retries = {"mode": "standard", "total_max_attempts": 2}
config = Config(connect_timeout=1, read_timeout=2, retries=retries, tcp_keepalive=True, max_pool_connections=64)
assert boto3.client("dynamodb", config=config).get_item(**given)["Item"]"""

Act = Callable[[], Any]
Prepare = Callable[[], Act]
Row = tuple[str, str, str, str, str, bool]  # what, measured, compared with, ratio, goal, met


def request(method: str, path: str, body: str = "", **headers: str) -> dict[str, Any]:
    """Return a request as API Gateway passes it to the function."""
    headers["authorization"] = f"Bearer {standin.API_KEY}"
    return {**CONVERTER.create_lambda_event(method, path, headers), "body": body}


def prepare_call(method: str, path: str, body: str = "", **headers: str) -> Act:
    """Return what calls the API."""
    return partial(app.app, request(method, path, body, **headers), LambdaContext("bench", 512, 30_000))


def call(method: str, path: str, body: str = "", **headers: str) -> Any:
    """Call the API and return its JSON."""
    response = prepare_call(method, path, body, **headers)()
    if response["statusCode"] >= 300:
        raise RuntimeError(response["body"])
    return json.loads(response["body"] or "null")


def prepare_batch() -> Act:
    """Store ten events without pushing them; return what calls the worker with a message for each."""
    ids = [call("POST", "/events", EVENT, **ASYNC)["event_id"] for _ in range(10)]
    records = [{"messageId": key, "receiptHandle": key, "body": json.dumps({"event_id": key})} for key in ids]
    return partial(app.worker, {"Records": records}, LambdaContext("bench", 512, 50_000))


def bare_calls(act: Act, push_url: str | None = None) -> Prepare:
    """Record the calls to AWS that `act` makes for an event; return what prepares them for another, by boto3 alone.

    With `push_url`, a request by urllib3 follows the first of them.
    """
    calls: list[tuple[str, str, str]] = []

    def record(params: dict[str, Any], model: Any, **_: object) -> None:
        calls.append((model.service_model.service_name, xform_name(model.name), json.dumps(params)))

    def recording_client(service: str) -> Any:
        client = services.client(service)
        client.meta.events.register("before-parameter-build", record)
        return client

    current = services.get()
    services.use(Services(current.settings, client=recording_client))
    act()  # reads the subscriptions, which are then kept for a while
    calls.clear()
    act()
    services.use(current)
    event_id = json.loads(calls[0][2])["Item"]["event_id"]["S"]
    clients = {service: boto3.client(service, config=services.CONFIG) for service, _, _ in calls}
    pool = urllib3.PoolManager()

    def prepare() -> Act:
        new_id = f"evt_{os.urandom(16).hex()}"
        acts: list[Act] = [
            partial(getattr(clients[service], operation), **json.loads(parameters.replace(event_id, new_id)))
            for service, operation, parameters in calls
        ]
        if push_url:
            headers = {"Content-Type": "application/json", "webhook-id": new_id, "webhook-signature": "v1,signature"}
            acts.insert(1, partial(pool.request, "POST", push_url, body=EVENT, headers=headers, retries=False))
        return lambda: [act() for act in acts]

    return prepare


def leases(table: str) -> Prepare:
    """Return what prepares leases of ten events of an inbox; each is given back before the next."""
    current = use_settings(EVENTS_TABLE_NAME=table)
    leased: list[dict[str, Any]] = []

    def prepare() -> Act:
        services.use(current)
        while leased:
            event = leased.pop()
            call("POST", f"/events/{event['event_id']}/release?lease_id={event['lease_id']}")
        return lambda: leased.extend(call("POST", "/inbox/lease", '{"limit": 10}')["events"])

    return prepare


def drain(consumer: Services) -> list[str]:
    """Lease and acknowledge until the inbox is empty; return the id of each event leased."""
    seen: list[str] = []
    while events := delivery.lease(LeaseRequest(10, 300, None), consumer):
        for event in events:
            seen.append(event.event_id)
            delivery.acknowledge(event.event_id, consumer, event.claim_id)
    return seen


def use_settings(**environ: str) -> Services:
    """Make the app use these variables from now on."""
    os.environ |= environ
    services.use(None)
    return services.get()


def compare(what: str, rounds: int, ours: Prepare, beside: str, floor: Prepare, *, most: float) -> Row:
    """Time two things by turns; each is prepared first, untimed."""
    taken = [[timeit(prepare(), number=1) for prepare in (ours, floor)] for _ in range(rounds + 2)]
    measured, compared_with = map(median, zip(*taken[2:], strict=True))  # after warming up
    ratio, beside = measured / compared_with, f"{beside}: {compared_with * 1000:.1f} ms"
    return what, f"{measured * 1000:.1f} ms", beside, f"{ratio:.2f}", f"≤ {most}", ratio <= most


def measure() -> Iterator[Row]:
    """Yield the rows; the app's settings are in the environment."""
    event_id, hook = call("POST", "/events", EVENT, **ASYNC)["event_id"], os.environ["ZAPIER_WEBHOOK_URL"]
    post, bare = partial(prepare_call, "POST", "/events", EVENT), "the bare calls"
    queue = partial(post, **ASYNC)
    yield compare("POST /events, delivered", 400, post, bare, bare_calls(post(), hook), most=1.2)
    yield compare("POST /events, respond-async", 400, queue, bare, bare_calls(queue()), most=1.2)

    use_settings(ZAPIER_WEBHOOK_URL=hook + standin.SLOW)
    slowest, wait = "the slowest receiver", partial(time.sleep, standin.SLOW_SECONDS)
    yield compare("worker, batch of 10", 20, prepare_batch, slowest, lambda: wait, most=1.15)
    for number in range(3):
        call("POST", "/subscriptions", json.dumps({"target_url": f"{hook}/{number}{standin.SLOW}"}))
    yield compare("POST /events, 3 subscriptions", 20, post, slowest, lambda: wait, most=1.15)

    for count in (10, 1_000, 50_000):
        copies = {"event_id": event_id, "table": f"inbox_{count}", "count": count}
        urllib3.request("POST", f"{os.environ['AWS_ENDPOINT_URL']}/fill", json=copies, timeout=60)
    yield compare("lease of 10 from 50,000", 80, leases("inbox_50000"), "from 10", leases("inbox_10"), most=1.3)
    yield drained_row()
    yield from package_rows(event_id)


def drained_row() -> Row:
    """Have two consumers drain an inbox of 1,000 events at the same time."""
    consumers = [use_settings(EVENTS_TABLE_NAME="inbox_1000") for _ in range(2)]
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(drain, consumers)
    seconds, seen = time.perf_counter() - started, {*first, *second}
    twice = len(first) + len(second) - len(seen)
    what = f"two consumers drain 1,000 events, {len(first)} and {len(second)} of them"
    return what, f"{twice} seen twice, {seconds:.1f} s", "", "", "0 seen twice", len(seen) == 1_000 and not twice


def package_rows(event_id: str) -> Iterator[Row]:
    """Build the package and start it: with all settings in the environment, then with one of them in the secret."""
    with tempfile.TemporaryDirectory() as folder:
        chalice = Path(sys.executable).with_name("chalice")
        subprocess.run([chalice, "package", folder], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)  # noqa: S603
        package = Path(folder, "deployment.zip")
        kilobytes = package.stat().st_size / 1000
        yield "package, zipped", f"{kilobytes:.0f} kB", "", "", "≤ 300 kB", kilobytes <= 300
        zipfile.ZipFile(package).extractall(folder)
        environ = os.environ | {"EVENTS_TABLE_NAME": "events", "PYTHONPATH": folder}
        ours = cold_starts(COLD_APP, request("GET", f"/events/{event_id}"), environ)
        get = {"TableName": "events", "Key": {"event_id": {"S": event_id}}, "ConsistentRead": True}
        floor = cold_starts(COLD_BOTO3, get, environ)
        yield compare("cold start", 30, ours, "boto3 with the same client", floor, most=1.2)
        with_secret = environ | {"ZAPIER_WEBHOOK_URL": "", "SETTINGS_SECRET": "settings"}
        secret = cold_starts(COLD_APP, request("GET", f"/events/{event_id}"), with_secret)
        yield compare("cold start that reads the secret", 30, secret, "without it", ours, most=1.1)


def cold_starts(code: str, given: object, environ: dict[str, str]) -> Prepare:
    command, depths = [sys.executable, "-B", "-c", AT_DEPTH, code, json.dumps(given)], itertools.count()
    run = partial(subprocess.run, cwd="/", env=environ, stdout=subprocess.DEVNULL, check=True)
    return lambda: partial(run, [*command, str(next(depths))])


def main() -> int:
    screen, missed = sys.stdout, 0
    print(LINE.format("what", "measured", "compared with", "ratio", "goal", "met"))
    print(LINE.format(*["---"] * 6))
    standin.start()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):  # the app's log
        for *cells, met in measure():
            print(LINE.format(*cells, "yes" if met else "no"), file=screen, flush=True)
            missed += not met
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
