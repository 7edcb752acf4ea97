"""Measures what AWS would bill for the real handlers, run in this process against moto and a real little receiver.

Time is a clock that calls to AWS and the receiver turn by as much as they are assumed to take; threads run one after
another, each from the same moment. Knows nothing of prices: a Usage counts units under the names of prices.json, and a
few that have no price.
"""

import io
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import boto3
import pytest
from moto.core.botocore_stubber import BotocoreStubber

import app
from chalicelib import log, services
from tests.support.receiver import Behaviour, Exchange, Receiver, status
from tests.support.world import REGION, Answer, Clock, World, world
from tools.sizes import Item, index, index_write_units, item_bytes, projected, read_units, write_units

ROOT = Path(__file__).parent.parent
GB = 1024**3

# "Configure Lambda function memory", AWS Lambda Developer Guide: at 1,769 MB a function has one vCPU.
ONE_VCPU_MB = 1769
# "DynamoDB item sizes and formats", Amazon DynamoDB Developer Guide: for storage each item, of an index too, has 100.
STORAGE_OVERHEAD_BYTES = 100
# "PutLogEvents", Amazon CloudWatch Logs API Reference: an event counts as its message and 26 bytes.
LOG_EVENT_BYTES = 26
SQS_REQUEST_BYTES = 64 * 1024
# What Lambda itself logs of each invocation.
REQUEST_ID = "3604209a-e9a3-11e6-939a-754dd98c7be3"
DURATIONS = "Duration: 123.45 ms\tBilled Duration: 124 ms\tMemory Size: 512 MB\tMax Memory Used: 99 MB"
PLATFORM_LINES = (
    f"START RequestId: {REQUEST_ID} Version: $LATEST\n",
    f"END RequestId: {REQUEST_ID}\n",
    f"REPORT RequestId: {REQUEST_ID}\t{DURATIONS}\t\n",
)


@dataclass(frozen=True)
class Assumptions:
    """What cannot be measured here: how long AWS and the receiver take, and how often a container starts."""

    receiver_ms: float = 100
    aws_call_ms: float = 10
    cold_percent: float = 1
    init_ms: float = 500
    payload_bytes: int = 1000
    memory_mb: int = 0  # of every function; 0: as in .chalice/config.json


@dataclass(frozen=True)
class Usage:
    """How many units of what is billed."""

    units: Mapping[str, float]

    def __add__(self, other: "Usage") -> "Usage":
        names = [*self.units, *(name for name in other.units if name not in self.units)]
        return Usage({name: self.units.get(name, 0) + other.units.get(name, 0) for name in names})

    def __mul__(self, times: float) -> "Usage":
        return Usage({name: count * times for name, count in self.units.items()})


NOTHING = Usage({})


def sqs_requests(message_bytes: int) -> int:
    return max(1, math.ceil(message_bytes / SQS_REQUEST_BYTES))


def billed_seconds(waited_seconds: float, cpu_seconds: float, memory_mb: int) -> float:
    """Return the duration of an invocation, rounded up to a millisecond: CPU takes longer with a part of a vCPU."""
    share = min(1.0, memory_mb / ONE_VCPU_MB)
    return math.ceil((waited_seconds + cpu_seconds / share) * 1000) / 1000


def log_bytes(lines: Iterable[str]) -> int:
    return sum(len(line.encode()) + LOG_EVENT_BYTES for line in lines)


class Abreast(Executor):
    """Runs tasks one after another, each from the same moment; then it is as late as after the slowest of them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def map(self, fn: Callable[..., Any], *iterables: Iterable[Any], **_: Any) -> Iterator[Any]:
        start = end = self._clock.now
        results = []
        for arguments in zip(*iterables, strict=False):
            self._clock.now = start
            results.append(fn(*arguments))
            end = max(end, self._clock.now)
        self._clock.now = end
        return iter(results)


class Meter:
    """A whole system in this process, and what its invocations have used since `taken` was last called."""

    def __init__(self, system: World, receiver: Receiver, assumptions: Assumptions) -> None:
        self.world = system
        self.clock = system.clock
        self.assumptions = assumptions
        self.metric_names: set[str] = set()
        self.last_seconds = 0.0
        self._receiver = receiver
        self._memory_mb = _memory_mb()
        self._table = index()
        self._outside: Any = boto3.client("dynamodb", region_name=REGION)
        self._usage = NOTHING
        self._pushes = 0
        self._aside_seconds = 0.0
        self._is_aside = False
        for client in (system.dynamodb, system.sqs):
            client.meta.events.register("before-parameter-build", self._before_call)
            client.meta.events.register("after-call", self._after_call)

    def start_anew(self) -> None:
        """Be as if just made: an empty table, empty queues, and one container that has served one event."""
        self.world.forget()
        self._receiver.default = answers(self.clock, self.assumptions, 200)
        ours = replace(self.world.services, threads=self.pool, random=Random(0).random)  # noqa: S311
        services.use(ours)
        self.post()  # what is built at first use is built now
        self.taken()
        self.metric_names.clear()

    def pool(self, size: int) -> Abreast:
        del size
        return Abreast(self.clock)

    def taken(self) -> Usage:
        """Return what was used since the last time, with what the receiver was sent."""
        pushes = self._receiver.requests[self._pushes :]
        self._pushes += len(pushes)
        sent = sum(
            len(push.path) + len(push.body) + sum(len(name) + len(value) + 4 for name, value in push.headers.items())
            for push in pushes
        )
        usage, self._usage = self._usage + Usage({"transfer_out_gb": sent / GB}), NOTHING
        return usage

    def post(self) -> None:
        """Post one event whose payload is as large as assumed."""
        payload = {"order_id": "12345", "note": ""}
        payload["note"] = "x" * max(0, self.assumptions.payload_bytes - len(json.dumps(payload, separators=(",", ":"))))
        body = json.dumps({"event_type": "order.created", "payload": payload})
        with self.invocation("api_handler"):
            answer = self.world.call("POST", "/events", body)
        if answer.status_code != 202:
            raise RuntimeError(answer.text)
        self._use(api_requests=1, transfer_out_gb=_answer_bytes(answer) / GB)

    def run_worker(self) -> int:
        """Receive a batch and run the worker on it; return how many messages it had."""
        count = self.world.run_worker()
        self._use(sqs_requests=2)  # Lambda receives the batch, and deletes it as one
        return count

    def run_schedule(self, name: str) -> None:
        def schedule(event: Any, context: Any) -> None:
            with self.invocation(name):
                getattr(app, name)(event, context)

        self.world.run_schedule(schedule)

    def stored(self) -> tuple[float, float]:
        """Return the bytes that an event takes in the table, and in the index, on average."""
        items: list[Item] = self._outside.scan(TableName=self.world.environ["EVENTS_TABLE_NAME"])["Items"]
        indexed = [projected(item, self._table.index_attributes) for item in items]
        return (
            sum(map(item_bytes, items)) / len(items) + STORAGE_OVERHEAD_BYTES,
            sum(map(item_bytes, indexed)) / len(items) + STORAGE_OVERHEAD_BYTES,
        )

    @contextmanager
    def invocation(self, function: str) -> Iterator[None]:
        """Count what happens inside as one invocation of `function`."""
        memory_mb, output = self.assumptions.memory_mb or self._memory_mb[function], io.StringIO()
        started_at, self._aside_seconds, cpu_started = self.clock.now, 0.0, time.thread_time()
        with redirect_stdout(output):
            yield
        cpu_seconds = time.thread_time() - cpu_started - self._aside_seconds
        self.last_seconds = billed_seconds(self.clock.now - started_at, cpu_seconds, memory_mb)
        init_seconds = self.assumptions.cold_percent / 100 * self.assumptions.init_ms / 1000
        lines = output.getvalue().splitlines(keepends=True)
        self._use(
            billed_ms=self.last_seconds * 1000,
            lambda_requests=1,
            lambda_gb_seconds=(self.last_seconds + init_seconds) * memory_mb / 1024,
            log_gb=log_bytes((*lines, *PLATFORM_LINES)) / GB,
        )
        for directive in (json.loads(line)["_aws"]["CloudWatchMetrics"][0] for line in lines if '"_aws"' in line):
            self.metric_names |= {metric["Name"] for metric in directive["Metrics"]}

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the CPU time of what happens inside out of the invocation: it is not the handler's."""
        started, outer, self._is_aside = time.thread_time(), self._is_aside, True
        try:
            yield
        finally:
            self._is_aside = outer
            if not outer:
                self._aside_seconds += time.thread_time() - started

    def _use(self, **units: float) -> None:
        self._usage += Usage(units)

    def _before_call(self, params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        with self.aside():
            self.clock.sleep(self.assumptions.aws_call_ms / 1000)
            context["params"] = params
            context["before"] = self._item(params)

    def _after_call(self, model: Any, context: dict[str, Any], **_: object) -> None:
        with self.aside():
            self._use(aws_calls=1)
            params = context["params"]
            match model.name:
                case "PutItem" | "UpdateItem":
                    self._count_write(context["before"], self._item(params))
                case "Query":
                    self._use(dynamodb_read_units=read_units(self._bytes_read(params)))
                case "SendMessage" | "SendMessageBatch" | "GetQueueAttributes":
                    self._use(sqs_requests=sqs_requests(len(json.dumps(params))))
                case name:
                    raise NotImplementedError(f"{name} is not counted here")

    def _count_write(self, before: Item, after: Item) -> None:
        index_before, index_after = (projected(item, self._table.index_attributes) for item in (before, after))
        self._use(
            dynamodb_write_units=write_units(before, after),
            dynamodb_index_write_units=index_write_units(index_before, index_after, self._table.index_key),
        )

    def _item(self, params: dict[str, Any]) -> Item:
        """Return the item that a write is about, as it is at this moment; empty when there is none."""
        keyed = params.get("Key") or params.get("Item")
        if not keyed:
            return {}
        key = {"event_id": keyed["event_id"]}
        item: Item = self._outside.get_item(TableName=params["TableName"], Key=key).get("Item", {})
        return item

    def _bytes_read(self, params: dict[str, Any]) -> int:
        """Return the size of all that a query reads: a filter and a projection come after."""
        asked = ("TableName", "IndexName", "KeyConditionExpression", "Limit", "ScanIndexForward")
        values = {name: value for name, value in params["ExpressionAttributeValues"].items() if name == ":partition"}
        again = {name: params[name] for name in asked if name in params}
        return sum(map(item_bytes, self._outside.query(**again, ExpressionAttributeValues=values)["Items"]))


@contextmanager
def meter(assumptions: Assumptions) -> Iterator[tuple[Meter, Receiver]]:
    """Make a system that pushes to a receiver which takes its time, both counted."""
    logging.getLogger("moto").setLevel(logging.CRITICAL)  # it makes no alarms, and says so
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        system = stack.enter_context(world(receiver.url))
        made = Meter(system, receiver, assumptions)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(log, "pool", made.pool)
        patch.setattr(BotocoreStubber, "process_request", _aside(made, BotocoreStubber.process_request))
        patch.setattr(app, "worker", _invoked(made, "worker", app.worker))
        yield made, receiver


def answers(clock: Clock, assumptions: Assumptions, code: int) -> Behaviour:
    """Answer with `code` after the time that a receiver is assumed to take."""

    def behave(exchange: Exchange) -> None:
        clock.sleep(assumptions.receiver_ms / 1000)
        status(code)(exchange)

    return behave


def _memory_mb() -> dict[str, int]:
    config = json.loads((ROOT / ".chalice" / "config.json").read_text(encoding="utf-8"))
    return {name: function["lambda_memory_size"] for name, function in config["lambda_functions"].items()}


def _answer_bytes(answer: Answer) -> int:
    return len(answer.text.encode()) + sum(len(name) + len(value) + 4 for name, value in answer.headers.items())


def _aside(made: Meter, process_request: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def process(stubber: Any, request: Any) -> Any:
        with made.aside():
            return process_request(stubber, request)

    return process


def _invoked(made: Meter, function: str, handler: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def invoke(event: Any, context: Any) -> Any:
        with made.invocation(function):
            return handler(event, context)

    return invoke
