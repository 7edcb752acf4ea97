"""`make bench`: measure the performance goals, print them as a table and write it into docs/performance.md.

`--quick` takes a tenth of the rounds and writes nothing. The exit status is 1 if a goal is missed.
"""

import contextlib
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from timeit import timeit
from typing import Any

import boto3
import click
import urllib3
from botocore import xform_name
from chalice.local import LambdaContext
from rich.console import Console
from rich.progress import track
from rich.table import Table

from chalicelib import delivery, services
from chalicelib.validation import LeaseRequest
from tools import standin

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "performance.md"
MARKER = "<!-- make bench writes what is between these two lines -->"
VERDICT = {True: "yes", False: "no"}
HEADINGS = ("what", "measured", "compared with", "ratio", "goal", "met")
SLOW_SECONDS = 0.2
SLOW = f"?delay_ms={SLOW_SECONDS * 1000:.0f}"
LINES = [{"sku": f"sku-{number}", "quantity": number, "price": "9.90"} for number in range(16)]
EVENT = json.dumps({"event_type": "order.created", "payload": {"order_id": "12345", "lines": LINES}})
# A cold start is a new process on the unpacked package, until it has read an event. Each imports at another depth of
# the stack, because CPython 3.11 loses up to 40 ms at one depth that nobody chooses.
AT_DEPTH = """import json, os, sys
def at(depth):
    at(depth - 1) if depth else exec(sys.argv[1], {"given": json.load(sys.stdin)})
at(int(sys.argv[2]))
os._exit(0)"""
COLD_APP = """import app
class Context: aws_request_id = "cold"
assert app.app(given, Context())["statusCode"] == 200"""
COLD_BOTO3 = """import boto3
from botocore.config import Config
retries = {"mode": "standard", "total_max_attempts": 2}
config = Config(connect_timeout=1, read_timeout=2, retries=retries, tcp_keepalive=True, max_pool_connections=64)
assert boto3.client("dynamodb", config=config).get_item(**given)["Item"]"""

Act = Callable[[], object]
Prepare = Callable[[], Act]
Row = tuple[str, ...]


def api_event(method: str, path: str, body: str = "", **headers: str) -> dict[str, Any]:
    """Return a request as API Gateway passes it to the function."""
    path, _, query = path.partition("?")
    event_id = re.search("evt_[0-9a-f]+", path)
    return {
        "requestContext": {"httpMethod": method, "resourcePath": re.sub("evt_[0-9a-f]+", "{event_id}", path)},
        "headers": {"authorization": f"Bearer {standin.API_KEY}", **headers},
        "pathParameters": {"event_id": event_id[0]} if event_id else {},
        "multiValueQueryStringParameters": {name: [value] for name, value in re.findall(r"(\w+)=(\w+)", query)},
        "stageVariables": {},
        "body": body,
        "isBase64Encoded": False,
    }


def call(method: str, path: str, body: str = "", **headers: str) -> Any:
    """Call the API and return its JSON."""
    import app

    response = app.app(api_event(method, path, body, **headers), LambdaContext("bench", 512, 30_000))
    if response["statusCode"] >= 300:
        raise RuntimeError(response["body"])
    return json.loads(response["body"] or "null")


def store_events(count: int) -> list[str]:
    """Store events without pushing them; return their ids."""
    return [call("POST", "/events", EVENT, prefer="respond-async")["event_id"] for _ in range(count)]


def batch(event_ids: list[str]) -> Act:
    """Return what calls the worker with a message for each event."""
    import app

    records = [{"messageId": key, "receiptHandle": key, "body": json.dumps({"event_id": key})} for key in event_ids]
    return partial(app.worker, {"Records": records}, LambdaContext("bench", 512, 50_000))


class Floor:
    """The calls that cannot be avoided, recorded once from the app, then made directly with boto3 and urllib3."""

    def __init__(self, act: Act, push_url: str | None = None) -> None:
        self._calls: list[tuple[str, dict[str, Any]]] = []
        self._clients = {name: boto3.client(name, config=services.CONFIG) for name in ("dynamodb", "sqs")}
        self._pool = urllib3.PoolManager()
        self._push_url = push_url
        current = services.get()
        services.use(services.Services(current.settings, client=self._recording_client))
        act()  # reads the subscriptions, which are then kept for a while
        self._calls.clear()
        act()
        services.use(current)

    def prepare(self) -> Act:
        """Return what makes the calls for a new event, the push after the first of them."""
        event_id = self._calls[0][1]["Item"]["event_id"]["S"]
        calls = json.loads(json.dumps(self._calls).replace(event_id, f"evt_{uuid.uuid4().hex}"))
        acts: list[Act] = [partial(self._call, operation, parameters) for operation, parameters in calls]
        if self._push_url:
            headers = {"Content-Type": "application/json", "webhook-id": event_id, "webhook-signature": "v1,signature"}
            request = partial(self._pool.request, body=EVENT, headers=headers, retries=False)
            acts.insert(1, partial(request, "POST", self._push_url))
        return lambda: [act() for act in acts]

    def _recording_client(self, service: str) -> Any:
        def record(params: dict[str, Any], model: Any, **_: object) -> None:
            self._calls.append((xform_name(model.name), json.loads(json.dumps(params))))

        client = services.client(service)
        client.meta.events.register("before-parameter-build", record)
        return client

    def _call(self, operation: str, parameters: dict[str, Any]) -> None:
        getattr(self._clients["sqs" if operation.startswith("send") else "dynamodb"], operation)(**parameters)


class Lease:
    """Leases of ten events of one inbox; each is given back before the next."""

    def __init__(self, table: str) -> None:
        self._services = use_settings(EVENTS_TABLE_NAME=table)
        self._held: list[dict[str, Any]] = []

    def prepare(self) -> Act:
        services.use(self._services)
        for event in self._held:
            call("POST", f"/events/{event['event_id']}/release?lease_id={event['lease_id']}")
        return self._lease

    def _lease(self) -> None:
        self._held = call("POST", "/inbox/lease", '{"limit": 10}')["events"]


def drain(consumer: services.Services) -> list[str]:
    """Lease and acknowledge until the inbox is empty; return the id of each event leased."""
    seen: list[str] = []
    while events := delivery.lease(LeaseRequest(10, 300, None), consumer):
        for event in events:
            seen.append(event.event_id)
            delivery.acknowledge(event.event_id, consumer, event.claim_id)
    return seen


def use_settings(**environ: str) -> services.Services:
    """Make the app use these variables from now on."""
    os.environ |= environ
    services.use(None)
    return services.get()


def compare(
    what: str, rounds: int, ours: Prepare, beside: str, floor: Prepare | float, *, most: float | None = None
) -> Row:
    """Time two things by turns, or one beside a number of seconds; each is prepared first, untimed."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 2):
        for prepare, values in zip((ours, floor), taken, strict=True):
            seconds = prepare if isinstance(prepare, float) else timeit(prepare(), number=1)
            if number >= 2:  # after warming up
                values.append(seconds)
    measured, compared_with = map(median, taken)
    ratio = measured / compared_with
    goal, met = (f"≤ {most}", VERDICT[ratio <= most]) if most else ("", "")
    return what, f"{measured * 1000:.1f} ms", f"{beside}: {compared_with * 1000:.1f} ms", f"{ratio:.2f}", goal, met


def measure(rounds: int, starts: int) -> Iterator[Row]:
    """Yield the rows; the app's settings are in the environment."""
    import app

    event_id, hook = store_events(1)[0], os.environ["ZAPIER_WEBHOOK_URL"]

    def post(**headers: str) -> object:
        return app.app(api_event("POST", "/events", EVENT, **headers), LambdaContext("bench", 512, 30_000))

    queue = partial(post, prefer="respond-async")
    bare = "the bare calls"
    yield compare("POST /events, delivered", rounds, lambda: post, bare, Floor(post, hook).prepare, most=1.2)
    yield compare("POST /events, respond-async", rounds, lambda: queue, bare, Floor(queue).prepare, most=1.2)

    use_settings(ZAPIER_WEBHOOK_URL=hook + SLOW)
    slowest, few = "the slowest receiver", rounds // 20
    yield compare("worker, batch of 10", few, lambda: batch(store_events(10)), slowest, SLOW_SECONDS, most=1.15)
    for number in range(3):
        call("POST", "/subscriptions", json.dumps({"target_url": f"{hook}/{number}{SLOW}"}))
    yield compare("POST /events, 3 subscriptions", few, lambda: post, slowest, SLOW_SECONDS, most=1.15)

    for count in (10, 1_000, 50_000):
        copies = {"source": "events", "event_id": event_id, "table": f"inbox_{count}", "count": count}
        urllib3.request("POST", f"{os.environ['AWS_ENDPOINT_URL']}/fill", json=copies, timeout=60)
    small, large = Lease("inbox_10"), Lease("inbox_50000")
    yield compare("lease of 10 from 50,000", rounds // 5, large.prepare, "from 10", small.prepare, most=1.3)
    yield drained_row(*(use_settings(EVENTS_TABLE_NAME="inbox_1000") for _ in range(2)))
    use_settings(EVENTS_TABLE_NAME="events")
    yield from package_rows(event_id, starts)


def drained_row(*consumers: services.Services) -> Row:
    """Have two consumers drain an inbox of 1,000 events at the same time."""
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(drain, consumers)
    seconds = time.perf_counter() - started
    different = len({*first, *second})
    twice = len(first) + len(second) - different
    what = f"two consumers drain 1,000 events, {len(first)} and {len(second)} of them"
    met = VERDICT[different == 1_000 and not twice]
    return what, f"{twice} seen twice, {seconds:.1f} s", "", "", "0 seen twice", met


def package_rows(event_id: str, starts: int) -> Iterator[Row]:
    """Build the package and start it: with all settings in the environment, then with those of the secret."""
    with tempfile.TemporaryDirectory() as folder:
        chalice = Path(sys.executable).with_name("chalice")
        subprocess.run([chalice, "package", folder], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)  # noqa: S603
        package = Path(folder, "deployment.zip")
        kilobytes = package.stat().st_size / 1000
        yield "package, zipped", f"{kilobytes:.0f} kB", "", "", "≤ 300 kB", VERDICT[kilobytes <= 300]
        zipfile.ZipFile(package).extractall(folder)
        url = os.environ["AWS_ENDPOINT_URL"]
        aws = standin.AWS | {"PATH": os.environ["PATH"], "PYTHONPATH": folder, "AWS_ENDPOINT_URL": url}
        request = api_event("GET", f"/events/{event_id}")
        get = {"TableName": "events", "Key": {"event_id": {"S": event_id}}, "ConsistentRead": True}
        start, bare = cold_start(COLD_APP, request, aws | standin.settings(url)), cold_start(COLD_BOTO3, get, aws)
        yield compare("cold start", starts, start, "boto3 with the same client", bare, most=1.2)
        secret = cold_start(COLD_APP, request, aws | {"SETTINGS_SECRET": "settings"})
        yield compare("cold start that reads the secret", starts, secret, "cold start without it", start)


def cold_start(code: str, given: object, environ: dict[str, str]) -> Prepare:
    depths = itertools.count()
    options: dict[str, Any] = {"cwd": "/", "env": environ, "stdout": subprocess.DEVNULL, "text": True, "check": True}
    command = [sys.executable, "-B", "-c", AT_DEPTH, code]
    return lambda: partial(subprocess.run, [*command, str(next(depths))], input=json.dumps(given), **options)


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the rounds; docs/performance.md is not written.")
def main(quick: bool) -> None:
    """Measure the performance goals; exit with 1 if one is missed."""
    screen = Console(file=sys.stdout)  # the app logs to what replaces sys.stdout
    standin.start()
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        rows = list(track(measure(*((40, 3) if quick else (400, 30))), console=screen, total=9))
    table = Table(*HEADINGS)
    for row in rows:
        table.add_row(*row)
    screen.print(table)
    if not quick:
        lines = "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADINGS, ["---"] * len(HEADINGS), *rows))
        machine = (
            f"Measured on {os.cpu_count()} cores, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}."
        )
        before, _, after = re.split(f"({MARKER}\n.*{MARKER})", DOCUMENT.read_text(), flags=re.DOTALL)
        DOCUMENT.write_text(f"{before}{MARKER}\n{lines}\n\n{machine}\n{MARKER}{after}")
    sys.exit(any("no" in row for row in rows))


if __name__ == "__main__":
    main()
