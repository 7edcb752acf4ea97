"""What a container costs before it does anything: the package, the first answer after a cold start, and memory.

A cold start is a new Python process on this machine, on the package as it is deployed: unpacked. Lambda keeps no
compiled files but those that are in it. boto3 comes from where it is installed, as from Lambda's runtime.

Each start imports from another depth of calls: CPython 3.11 loses up to 40 ms in a loop of calls that makes its stack
of frames grow by a chunk each time, and nobody chooses at which depth that is.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import urllib3

from tools import package
from tools.bench.lab import EVENT, System, bare_of, proxy_event, serving, sqs_event
from tools.bench.measure import Pairs, Row

MEGABYTE = 1024 * 1024
BIG_TEXT = "x" * (256 * 1024 - 1024)

# Real webhooks are https. None is made here, but a client that prepares for it prepares for that.
COLD = {"ZAPIER_WEBHOOK_URL": "https://hooks.example.com/hooks/catch/1/2"}

CONTEXT = """
class Context:
    aws_request_id = "request"
    def get_remaining_time_in_millis(self):
        return 50_000
"""
API = f"{CONTEXT}\nimport json, sys, app\nassert app.app(json.load(sys.stdin), Context())['statusCode'] == 200"
WORKER = f"{CONTEXT}\nimport json, sys, app\napp.worker(json.load(sys.stdin), Context())"
BARE = """
import json, sys, boto3
from botocore.config import Config
retries = {"mode": "standard", "total_max_attempts": 2}
config = Config(connect_timeout=1, read_timeout=2, retries=retries, tcp_keepalive=True, max_pool_connections=64)
client = boto3.client("dynamodb", config=config)
operation, parameters = json.load(sys.stdin)
try:
    getattr(client, operation)(**parameters)
except client.exceptions.ConditionalCheckFailedException:
    pass
"""
AT_DEPTH = """
import sys
def at(depth):
    if depth:
        at(depth - 1)
    else:
        exec(sys.argv[2], {})
at(int(sys.argv[1]))
"""
ANSWERED = "\nprint('answered', file=sys.stderr, flush=True)"
# Of the process alone: what getrusage tells begins with the memory of whoever started it.
PEAK = "\nimport re\nprint(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)"


def rows(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        zipped = _package(place)
        unpacked = place / "task"
        with zipfile.ZipFile(zipped) as file:
            file.extractall(unpacked)
        table = [pairs.row(what, most=1.2) for what, pairs in _starts(unpacked, rounds).items()]
        return [*table, _size(zipped), _memory(unpacked)]


def _package(out: Path) -> Path:
    """Build what is deployed, as `make package` does."""
    os.environ["STAGE"] = "dev"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        package.package("dev", {}, out)
    return out / "deployment.zip"


def _size(zipped: Path) -> Row:
    with zipfile.ZipFile(zipped) as file:
        chalice = sum(info.compress_size for info in file.infolist() if info.filename.startswith("chalice/"))
    floor = _zipped_bytes(Path(urllib3.__file__).parent)
    ratio = zipped.stat().st_size / floor
    ours = f"{zipped.stat().st_size / 1000:.0f} kB, {chalice / 1000:.0f} kB of it Chalice's"
    return Row(
        "package, zipped; floor: urllib3 alone", ours, f"{floor / 1000:.0f} kB", ratio, None, "≤ 1.3", ratio <= 1.3
    )


def _zipped_bytes(package_folder: Path) -> int:
    """Return the size of a zip with a package's sources."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for source in package_folder.rglob("*.py"):
            file.write(source)
    return len(content.getvalue())


def _starts(task: Path, rounds: int) -> dict[str, Pairs]:
    """Measure until one event is read, and until the worker has asked for one that needs no push any more."""
    with serving("memory", "receiver") as names:
        system = System(names)
        bare = bare_of(system)
        environ = {**system.environ, **COLD, "STAGE": "dev"}
        read = proxy_event("GET", f"/events/{bare.event_id}")
        get = {
            "TableName": names["EVENTS_TABLE_NAME"],
            "Key": {"event_id": {"S": bare.event_id}},
            "ConsistentRead": True,
        }
        (claim, _) = bare.prepared(bare.worked, bare.event_id)
        return {
            "cold start of the API, until it has read an event": _pairs(
                rounds, (task, API, read, environ), ("get_item", get)
            ),
            "cold start of the worker, until it was refused a claim": _pairs(
                rounds, (task, WORKER, sqs_event([bare.event_id]), environ), ("update_item", claim)
            ),
        }


def _pairs(rounds: int, ours: tuple[Path, str, object, Mapping[str, str]], floor: tuple[str, object]) -> Pairs:
    task, code, event, environ = ours
    series: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        taken = (
            _seconds_to_answer(code, event, {**environ, "PYTHONPATH": str(task)}, number),
            _seconds_to_answer(BARE, floor, environ, number),
        )
        for seconds, values in zip(taken, series, strict=True):
            if number:
                values.append(seconds)
    return Pairs(*series)


def _seconds_to_answer(code: str, given: object, environ: Mapping[str, str], depth: int) -> float:
    started = time.perf_counter()
    with _python(code + ANSWERED, environ, depth) as process:
        assert process.stdin and process.stderr  # noqa: S101, PT018
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        line = process.stderr.readline()
        seconds = time.perf_counter() - started
        if line != "answered\n":
            raise RuntimeError(line + process.stderr.read())
    return seconds


def _python(code: str, environ: Mapping[str, str], depth: int = 0) -> "subprocess.Popen[str]":
    """Start Python anywhere but here, where `import app` would find this directory's."""
    return subprocess.Popen(  # noqa: S603  # our own code
        [sys.executable, "-B", "-c", AT_DEPTH, str(depth), code],
        cwd="/",
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _memory(task: Path) -> Row:
    """Return the most memory that a worker ever held which delivered ten events of 256 KiB."""
    with serving("memory", "receiver") as names:
        system = System(names)
        big = json.dumps({**EVENT, "payload": {"text": BIG_TEXT}})
        event_ids = [
            json.loads(system.call(proxy_event("POST", "/events", big, prefer="respond-async"))["body"])["event_id"]
            for _ in range(10)
        ]
        with _python(WORKER + PEAK, {**system.environ, "STAGE": "dev", "PYTHONPATH": str(task)}) as process:
            peak = int(process.communicate(json.dumps(sqs_event(event_ids)))[1]) * 1024
    return Row(
        "worker, ten events of 256 KiB: peak memory",
        f"{peak / MEGABYTE:.0f} MiB",
        "-",
        goal="< 128 MB",
        met=peak < 128_000_000,
    )
