"""Measure what the system adds to the calls that it cannot avoid: the table of
docs/performance.md.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import quantiles
from timeit import timeit
from typing import Any
from zipfile import ZipFile

import boto3
import urllib3
from botocore import xform_name
from botocore.config import Config
from chalice.local import LambdaContext, LambdaEventConverter, RouteMatcher

import app
from measure.bench import standin
from tests.support.packages import install

LINE = "| {:<32} | {:<9} | {:<38} | {:<7} | {:<9} | {:<3} |"
COLUMNS = ("what", "measured", "compared with", "by", "goal", "met")
LINES = [{"sku": f"sku-{number}", "quantity": number, "price": "9.90"} for number in range(16)]
EVENT = json.dumps(
    {"event_type": "order.created", "payload": {"order_id": "12345", "lines": LINES}}
)
ASYNC = {"prefer": "respond-async"}
CONVERTER = LambdaEventConverter(RouteMatcher(list(app.app.routes)))
# What a user of boto3 would write: the app's timeouts and retries.
PLAIN = {
    "connect_timeout": 1,
    "read_timeout": 1,
    "retries": {"mode": "standard", "total_max_attempts": 2},
}

# A process imports, reads its secret, makes the clients of DynamoDB and SQS, and reads an event; at
# another depth of the stack each time: CPython 3.11 loses up to 40 ms at one that nobody chooses.
AT_DEPTH = """import json, os, sys
at = lambda depth: at(depth - 1) if depth else exec(sys.argv[1], {"given": json.loads(sys.argv[2])})
at(int(sys.argv[3]))
os._exit(0)"""
COLD_APP = """import app
class Context:
    aws_request_id = "cold"
    get_remaining_time_in_millis = lambda self: 30_000
assert app.app(given, Context())["statusCode"] == 200"""
COLD_BOTO3 = f"""import boto3, chalice.app
from botocore.config import Config
make_client = lambda name: boto3.client(name, config=Config(**{PLAIN}))
assert make_client("secretsmanager").get_secret_value(SecretId="settings")
dynamodb, sqs = map(make_client, ("dynamodb", "sqs"))
assert dynamodb.get_item(**given)["Item"]"""
ROOT = Path(__file__).parent.parent.parent

Act = Callable[[], Any]
Prepare = Callable[[], Act]
Row = tuple[Any, ...]  # texts, and whether the goal is met


def prepare_call(method: str, path: str, body: str = "", **headers: str) -> partial[Any]:
    """Return a function that makes one request to the API, as API Gateway and Lambda do."""
    headers["authorization"] = f"Bearer {standin.API_KEY}"
    event = {**CONVERTER.create_lambda_event(method, path, headers), "body": body}
    return partial(app.app, event, LambdaContext("bench", 512, 30_000))


def call(method: str, path: str, body: str = "", **headers: str) -> Any:
    """Call the API; return the JSON of the response, or None without a body. Raise RuntimeError if
    the status code is 300 or more.
    """
    response = prepare_call(method, path, body, **headers)()
    if response["statusCode"] >= 300:
        raise RuntimeError(response["body"])
    return json.loads(response["body"] or "null")


def prepare_worker(events: int = 10) -> Act:
    """Store new events; return a function that calls the worker once with a queue message about
    each of them.

    :param events: How many events are stored.
    """
    event_ids = [call("POST", "/events", EVENT, **ASYNC)["event_id"] for _ in range(events)]
    records = [
        {"messageId": key, "receiptHandle": key, "body": json.dumps({"event_id": key})}
        for key in event_ids
    ]
    return partial(app.worker, {"Records": records}, LambdaContext("bench", 512, 50_000))


def bare_calls(ours: Prepare, push_at: int | None = None, *, untimed: int = 0) -> Prepare:
    """Record the calls to AWS that the app makes for an event; return a function that prepares the
    same calls for a new event, by boto3 alone.

    :param ours: Prepares the work of the app whose calls are recorded.
    :param push_at: The index among the calls at which urllib3 makes a push; None: no push is made.
    :param untimed: How many of the first calls are made during the preparation, which is not timed.
    """
    standin.meter()
    ours()()
    # Lists of subscriptions are read once in ten seconds.
    calls = [(name, parameters) for name, parameters in standin.meter()[1] if name != "Query"]
    event_id = calls[0][1]["Item"]["event_id"]["S"]
    clients = {name: boto3.client(name, config=Config(**PLAIN)) for name in ("dynamodb", "sqs")}
    http = urllib3.PoolManager(maxsize=10)

    def prepare() -> Act:
        new_id = f"evt_{os.urandom(16).hex()}"
        acts: list[Act] = []
        text = standin.encode(calls).replace(event_id.encode(), new_id.encode())
        for operation, parameters in standin.decode(text):
            client = clients["dynamodb" if "TableName" in parameters else "sqs"]
            acts.append(partial(getattr(client, xform_name(operation)), **parameters))
        if push_at is not None:
            headers = {"Content-Type": "application/json", "webhook-id": new_id}
            push = partial(http.request, body=EVENT, headers=headers, retries=False)
            acts.insert(push_at, partial(push, "POST", os.environ["ZAPIER_WEBHOOK_URL"]))
        make(acts[:untimed])
        return partial(make, acts[untimed:])

    return prepare


def make(acts: list[Act]) -> None:
    """Call functions one after another."""
    for act in acts:
        act()


def make_in_threads(acts: list[Act]) -> None:
    """Call functions at the same time, each in a thread; return when all have returned."""
    with ThreadPoolExecutor(len(acts)) as pool:
        list(pool.map(lambda act: act(), acts))


def unpack(folder: Path) -> None:
    """Package the functions, and unpack the zip that `make package` writes into a folder."""
    command = [sys.executable, "-m", "tools.package", "dev"]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    with ZipFile(ROOT / "build" / "package" / "deployment.zip") as archive:
        archive.extractall(folder)


def prepare_process(package: Path, code: str, given: object) -> Prepare:
    """Return a function that prepares the start of a Python process, which imports from an unpacked
    package and from the boto3 that Lambda has, both with bytecode.

    :param package: The folder of the unpacked package.
    :param code: The Python code that the process runs.
    :param given: The value of the variable `given` in the code; it must be JSON.
    """
    environ = {
        **os.environ,
        "AWS_LAMBDA_FUNCTION_NAME": "api",  # clients are made while a function initializes
        "PYTHONPATH": str(package),
        "SETTINGS_SECRET": "settings",
        "ZAPIER_WEBHOOK_URL": "",
    }
    environ.pop("PYTHONPYCACHEPREFIX", None)  # the bytecode is beside the source
    python = install("lambda")
    command = [python, "-c", AT_DEPTH, code, json.dumps(given)]
    depths = itertools.count()
    start = partial(subprocess.run, cwd="/", env=environ, stdout=subprocess.DEVNULL, check=True)
    return lambda: partial(start, [*command, str(next(depths))])


def compare(
    what: str,
    ours: Prepare,
    beside: str,
    floor: Prepare,
    most: float,
    *,
    rounds: int = 1_000,
    cpu: bool = False,
) -> Row:
    """Measure the time of the app's work and of the work with which it is compared; return a row
    for the table.

    Both are prepared untimed, and timed by turns. The 20th percentile counts: other work on the
    machine moves it less than the median.

    :param what: The name of the app's work.
    :param ours: Prepares the app's work.
    :param beside: The name of the work with which it is compared.
    :param floor: Prepares the work with which it is compared.
    :param most: The goal: the largest ratio of the times or, with `cpu`, the largest difference in
        milliseconds.
    :param rounds: How often each is timed, after two rounds that do not count.
    :param cpu: Whether the CPU time of all threads is measured instead of the time that passes.
    """
    timer = time.process_time if cpu else time.perf_counter
    taken = [
        [timeit(prepare(), timer=timer, number=1) * 1000 for prepare in (ours, floor)]
        for _ in range(rounds + 2)
    ]
    warm = zip(*taken[2:], strict=True)
    measured, compared_with = (quantiles(side, n=5)[0] for side in warm)
    by = round(measured - compared_with if cpu else measured / compared_with, 2)
    unit = " ms" if cpu else ""
    beside = f"{beside}: {compared_with:.2f} ms"
    return what, f"{measured:.2f} ms", beside, f"{by:.2f}{unit}", f"≤ {most:.2f}{unit}", by <= most


def measure() -> Iterator[Row]:
    """Measure the app on the stand-in, and yield the rows of the table."""
    standin.start()
    bare = "the bare calls"
    post = partial(prepare_call, "POST", "/events", EVENT)
    queue = partial(post, **ASYNC)
    event_id = call("POST", "/events", EVENT)["event_id"]
    for name, ours, push_at, most, most_cpu_ms in (
        ("POST /events, delivered", post, 1, 1.22, 0.50),
        ("POST /events, respond-async", queue, None, 1.19, 0.33),
    ):
        floor = bare_calls(ours, push_at)
        yield compare(name, ours, bare, floor, most)
        yield compare(f"{name}: CPU", ours, bare, floor, most_cpu_ms, cpu=True)

    get = {"TableName": "events", "Key": {"event_id": {"S": event_id}}, "ConsistentRead": True}
    read = prepare_call("GET", f"/events/{event_id}").args[0]
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder)
        unpack(package)
        cold = prepare_process(package, COLD_APP, read)
        floor = prepare_process(package, COLD_BOTO3, get)
        yield compare("cold start", cold, "boto3, chalice, clients", floor, 1.15, rounds=40)

    standin.start(push_seconds=0.2)
    # put and message are untimed; the push follows the claim
    one = bare_calls(partial(prepare_worker, 1), 3, untimed=2)

    def ten() -> Act:
        return partial(make_in_threads, [one() for _ in range(10)])

    what = "worker, ten pushes of 200 ms"
    yield compare(what, prepare_worker, f"{bare}, ten threads", ten, 1.20, rounds=30)
