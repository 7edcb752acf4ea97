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

# Programs that are timed from the start of the process to its end. Each imports, reads the secret,
# makes the clients of DynamoDB and SQS, and reads an event. AT_DEPTH runs one of them at a depth of
# the stack: CPython 3.11 takes up to 40 ms longer at a depth that cannot be foreseen, so each run
# has another depth.
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

Act = Callable[[], Any]  # does work whose time is measured
Prepare = Callable[[], Act]  # prepares work, untimed, and returns a function that does it once
# The texts of the columns but the last, and whether the goal is met; None: there is no goal.
Row = tuple[Any, ...]


def prepare_call(method: str, path: str, body: str = "", **headers: str) -> partial[Any]:
    """Return a function that makes one request to the API, as API Gateway and Lambda do: a partial
    with the event and the context of the Lambda function as its `args`.

    :param path: The path, with the query.
    :param body: The body as JSON; "": the request has none.
    :param headers: Headers of the request besides the authorization.
    """
    headers["authorization"] = f"Bearer {standin.API_KEY}"
    event = {**CONVERTER.create_lambda_event(method, path, headers), "body": body}
    return partial(app.app, event, LambdaContext("bench", memory_size=512, max_runtime_ms=30_000))


def call(method: str, path: str, body: str = "", **headers: str) -> Any:
    """Call the API; return the JSON of the response, or None if it has no body. Raise RuntimeError
    if the status code is 300 or more.

    :param path: The path, with the query.
    :param body: The body as JSON; "": the request has none.
    :param headers: Headers of the request besides the authorization.
    """
    response = prepare_call(method, path, body, **headers)()
    if response["statusCode"] >= 300:
        raise RuntimeError(response["body"])
    return json.loads(response["body"] or "null")


def prepare_worker(events: int = 10) -> Act:
    """Store new events, which are not pushed yet; return a function that calls the worker once with
    a queue message about each of them.

    :param events: How many events are stored.
    """
    event_ids = [call("POST", "/events", EVENT, **ASYNC)["event_id"] for _ in range(events)]
    records = [
        {"messageId": key, "receiptHandle": key, "body": json.dumps({"event_id": key})}
        for key in event_ids
    ]
    context = LambdaContext("bench", memory_size=512, max_runtime_ms=50_000)
    return partial(app.worker, {"Records": records}, context)


def bare_calls(ours: Prepare, push_at: int | None = None, *, untimed: int = 0) -> Prepare:
    """Do the app's work for one event once, and record the calls to AWS that it makes. Return a
    function that prepares the same calls for a new event, by boto3 without the app: the work with
    which that of the app is compared.

    :param ours: Prepares the app's work. Its first call must put the event.
    :param push_at: The index among the calls at which urllib3 makes a push; None: no push is made.
    :param untimed: How many of the first calls are made during the preparation, which is not timed.
    """
    standin.meter()  # leaves out the calls so far
    do_our_work = ours()
    do_our_work()
    calls = []
    for operation, parameters in standin.meter().calls:
        # A Query reads the subscriptions. The app makes it at most once in ten seconds, and not for
        # each event, so it is left out.
        if operation != "Query":
            calls.append((operation, parameters))
    _put, parameters_of_put = calls[0]
    event_id = parameters_of_put["Item"]["event_id"]["S"]
    clients = {name: boto3.client(name, config=Config(**PLAIN)) for name in ("dynamodb", "sqs")}
    http = urllib3.PoolManager(maxsize=10)

    def prepare() -> Act:
        """Replace the id of the recorded event (`event_id`) by a new one in all recorded calls
        (`calls`), insert the push if there is one, and make the first `untimed` of them; return a
        function that makes the others.
        """
        new_id = f"evt_{os.urandom(16).hex()}"
        acts: list[Act] = []
        text = standin.encode(calls).replace(event_id.encode(), new_id.encode())
        for operation, parameters in standin.decode(text):
            client = clients["dynamodb" if "TableName" in parameters else "sqs"]
            method = getattr(client, xform_name(operation))
            acts.append(partial(method, **parameters))
        if push_at is not None:
            headers = {"Content-Type": "application/json", "webhook-id": new_id}
            push = partial(http.request, body=EVENT, headers=headers, retries=False)
            acts.insert(push_at, partial(push, "POST", os.environ["ZAPIER_WEBHOOK_URL"]))
        call_each(acts[:untimed])
        return partial(call_each, acts[untimed:])

    return prepare


def call_each(acts: list[Act]) -> None:
    """Call functions one after another."""
    for act in acts:
        act()


def call_each_in_threads(acts: list[Act]) -> None:
    """Call functions at the same time, each in a thread; return when all have returned."""
    with ThreadPoolExecutor(len(acts)) as pool:
        list(pool.map(lambda act: act(), acts))


def unpack(folder: Path) -> None:
    """Package the functions as `make package` does, and unpack the zip file into a folder."""
    command = [sys.executable, "-m", "tools.package", "dev"]
    subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    with ZipFile(ROOT / "build" / "package" / "deployment.zip") as archive:
        archive.extractall(folder)


def prepare_process(package: Path, code: str, given: object) -> Prepare:
    """Return a function that prepares the run of a new Python process, which imports from an
    unpacked package and from the boto3 that Lambda has, both with bytecode. Each process runs its
    code at another depth of the stack, because CPython takes longer at some depths.

    :param package: The folder of the unpacked package.
    :param code: The Python code that the process runs.
    :param given: The value of the variable `given` in the code, which is passed as JSON.
    """
    environ = {
        **os.environ,
        "AWS_LAMBDA_FUNCTION_NAME": "api",  # clients are made while a function initializes
        "PYTHONPATH": str(package),
        # The app reads the webhook URL from the secret of this name, as the variable is empty.
        "SETTINGS_SECRET": "settings",
        "ZAPIER_WEBHOOK_URL": "",
    }
    environ.pop("PYTHONPYCACHEPREFIX", None)  # the bytecode is beside the source
    python = install("lambda")
    command = [python, "-c", AT_DEPTH, code, json.dumps(given)]
    depths = itertools.count()
    run = partial(subprocess.run, cwd="/", env=environ, stdout=subprocess.DEVNULL, check=True)

    def prepare() -> Act:
        """Return a function that runs the process at the next depth, until it ends."""
        return partial(run, [*command, str(next(depths))])

    return prepare


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
    for the table: both names with the times in milliseconds, the ratio or difference of the times,
    the goal, and whether it is met.

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
    our_times = []
    floor_times = []
    for _ in range(rounds + 2):
        our_times.append(timeit(ours(), timer=timer, number=1) * 1000)
        floor_times.append(timeit(floor(), timer=timer, number=1) * 1000)
    # The first of four values that divide the times into fifths; the first two rounds warm up.
    our_ms = quantiles(our_times[2:], n=5)[0]
    floor_ms = quantiles(floor_times[2:], n=5)[0]
    by = round(our_ms - floor_ms if cpu else our_ms / floor_ms, 2)
    unit = " ms" if cpu else ""
    return (
        what,
        f"{our_ms:.2f} ms",
        f"{beside}: {floor_ms:.2f} ms",
        f"{by:.2f}{unit}",
        f"≤ {most:.2f}{unit}",
        by <= most,
    )


def measure() -> Iterator[Row]:
    """Measure the app on the stand-in, and yield the rows of the table: a POST whose event is
    pushed at once and one whose event is queued, each with its CPU time, a cold start, and a
    worker with a batch of ten events.
    """
    standin.start()
    bare = "the bare calls"
    post = partial(prepare_call, "POST", "/events", EVENT)
    queue = partial(post, **ASYNC)
    event_id = call("POST", "/events", EVENT)["event_id"]
    # For each request: its name, the app's work, the index of the push among the bare calls (after
    # the put; None: no push), the goal for the ratio of the times, and the goal for the difference
    # of the CPU times in milliseconds.
    for name, ours, push_at, most, most_cpu_ms in (
        ("POST /events, delivered", post, 1, 1.22, 0.50),
        ("POST /events, respond-async", queue, None, 1.19, 0.33),
    ):
        floor = bare_calls(ours, push_at)
        yield compare(name, ours, bare, floor, most=most)
        yield compare(f"{name}: CPU", ours, bare, floor, most=most_cpu_ms, cpu=True)

    get_item = {"TableName": "events", "Key": {"event_id": {"S": event_id}}, "ConsistentRead": True}
    # The Lambda event of a GET of the same event.
    get_event, _context = prepare_call("GET", f"/events/{event_id}").args
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder)
        unpack(package)
        cold = prepare_process(package, COLD_APP, get_event)
        floor = prepare_process(package, COLD_BOTO3, get_item)
        yield compare("cold start", cold, "boto3, chalice, clients", floor, most=1.15, rounds=40)

    standin.start(push_seconds=0.2)
    # The bare calls for one event are: put the event, send its message, claim the event, push it
    # (the index 3), and record the result. The first two are those of the POST, and not timed.
    prepare_one = bare_calls(partial(prepare_worker, events=1), push_at=3, untimed=2)

    def prepare_ten() -> Act:
        """Prepare the calls for ten events; return a function that makes them in ten threads."""
        return partial(call_each_in_threads, [prepare_one() for _ in range(10)])

    what = "worker, ten pushes of 200 ms"
    yield compare(what, prepare_worker, f"{bare}, ten threads", prepare_ten, most=1.20, rounds=30)
