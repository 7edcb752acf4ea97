"""A system whose processes can be stopped at every call they make, and the witness who sees what comes of it.

AWS is in memory and time is virtual, so that thousands of lives of an event take seconds.
"""

import contextlib
import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from random import Random
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

import app
from chalicelib import log, services, settings
from chalicelib.batch import BatchError
from chalicelib.errors import QueueUnavailableError, StorageUnavailableError
from chalicelib.events import Event, Status
from chalicelib.store import Event.from_item
from chalicelib.telemetry import Metrics
from chalicelib.push import Outcome, PushResult, outcome_of
from tests.crash.invariants import Push, ViolationError, Witness, check
from tests.support.fake_aws import FakeDynamoDB, FakeSQS
from tests.support.world import KEY, Answer, Clock, LambdaContext, World, digest

TABLE, INBOX, DLQ = "events", "https://sqs.test/inbox", "https://sqs.test/dlq"
ENVIRON = {
    "EVENTS_TABLE_NAME": TABLE,
    "INBOX_QUEUE_URL": INBOX,
    "INBOX_DLQ_URL": DLQ,
    "ZAPIER_WEBHOOK_URL": "http://127.0.0.1:9/secret",
    "API_KEYS": f"acme:{digest(KEY)}",
    "MAX_DELIVERY_ATTEMPTS": "4",
    "LOG_LEVEL": "CRITICAL",
}


class Death(BaseException):
    """The process is gone. Nothing in the code under test may stop it from spreading."""


class Fault(StrEnum):
    DIES_BEFORE = "dies before the call"
    DIES_AFTER = "dies after it took effect"
    THROTTLED = "the call is throttled"
    UNREACHED = "the call does not arrive"
    ANSWER_LOST = "the first answer is lost, boto3 tries again"
    ALL_ANSWERS_LOST = "it took effect, no answer ever came"


FaultAt = Callable[[int, str], Fault | None]
SCHEDULED = ("version", "account", "region", "detail", "detail-type", "source", "time", "id", "resources")


class Process:
    """One container. It dies, or is let down, where `fault_at` says so; `calls` are the labels of all it made."""

    def __init__(self, rig: "Rig", fault_at: FaultAt = lambda number, label: None) -> None:
        self.rig = rig
        self.calls: list[str] = []
        self.faults: list[str] = []
        self.dead = False
        self._fault_at = fault_at
        built = services.build(
            rig.settings,
            _Client(self, "dynamodb", rig.dynamodb),
            _Client(self, "sqs", rig.sqs),
            push=_Push(self),  # type: ignore[arg-type]
            clock=rig.clock,
            sleep=rig.sleep,
            random=rig.random.random,
            new_id=rig.new_id,
            thread_pool=rig.threads,
        )
        self.services = dataclasses.replace(built, metrics=Metrics("", "", clock=rig.clock, write=lambda line: None))

    def at(self, label: str, act: Callable[[], Any], fail: Callable[[Fault], Any]) -> Any:
        """Make a call, or what a fault makes of it; `fail` raises or returns what the caller sees of a failure."""
        self.rig.pause()
        if self.dead:  # another of its threads died
            self.faults.append(f"{label}: {Fault.DIES_BEFORE}")
            raise Death
        fault = self._fault_at(len(self.calls), label)
        self.calls.append(label)
        if fault is None:
            return act()
        if fault in (Fault.DIES_AFTER, Fault.ANSWER_LOST, Fault.ALL_ANSWERS_LOST):
            with contextlib.suppress(ClientError):  # a refusal is an answer too, and lost
                act()
        self.faults.append(f"{label}: {fault}")
        self.rig.faults += 1
        if fault in (Fault.DIES_BEFORE, Fault.DIES_AFTER):
            self.dead = True
            raise Death
        return fail(fault)

    def call(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer | None:
        """Call the API; None when the process died over it."""
        services.use(self.services)
        try:
            return World.call(self.rig, method, path, body, **headers)  # type: ignore[arg-type]
        except Death:
            return None

    def post(self, **headers: str) -> str | None:
        """Post an event; return its id if it was accepted."""
        answer = self.call("POST", "/events", json.dumps({"event_type": "a", "payload": {}}), **headers)
        if answer is None or answer.status_code != 202:
            assert answer is None or answer.status_code == 503, answer
            return None
        event_id = str(answer.json["event_id"])
        self.rig.witness.accepted.add(event_id)
        return event_id

    def acknowledge(self, event_id: str) -> None:
        self.rig.witness.acknowledged.add(event_id)  # from now on it may be, whatever is answered
        self.call("POST", f"/events/{event_id}/acknowledge")

    def replay(self, event_id: str) -> None:
        self.call("POST", f"/events/{event_id}/replay")

    def work(self, *, most: int = 10) -> int:
        """Serve a batch as Lambda's event source has it served; return how many messages there were."""
        received = self.rig.sqs.receive_message(QueueUrl=INBOX, MaxNumberOfMessages=most).get("Messages", [])
        records = [
            {"messageId": message["MessageId"], "receiptHandle": message["ReceiptHandle"], "body": message["Body"]}
            for message in received
        ]
        if records and self._invoke(app.worker, {"Records": records}, 50):
            for message in received:
                self.rig.sqs.delete_message(QueueUrl=INBOX, ReceiptHandle=message["ReceiptHandle"])
        return len(records)

    def sweep(self) -> None:
        self._invoke(app.sweep, dict.fromkeys(SCHEDULED, ""), 60)

    def check_dlq(self) -> None:
        self._invoke(app.check_dlq, dict.fromkeys(SCHEDULED, ""), 60)

    def _invoke(self, function: Any, event: dict[str, Any], timeout_seconds: float) -> bool:
        """Call a function as Lambda does; return whether it ended well."""
        services.use(self.services)
        try:
            function(event, LambdaContext(self.rig.clock, timeout_seconds))
        except (Death, BatchError, StorageUnavailableError, QueueUnavailableError):
            return False
        return True


class _Client:
    """A boto3 client of a process: every call is a point where something may happen."""

    def __init__(self, process: Process, service: str, client: Any) -> None:
        self._process = process
        self._service = service
        self._client = client

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def make(**parameters: Any) -> Any:
            if operation.startswith("send_message"):
                self._process.rig.sent += len(parameters.get("Entries", (None,)))

            def act() -> Any:
                return getattr(self._client, operation)(**parameters)

            def fail(fault: Fault) -> Any:
                if fault is Fault.ANSWER_LOST:
                    return act()  # boto3's second try
                if fault is Fault.THROTTLED:
                    raise ClientError({"Error": {"Code": "ThrottlingException"}}, operation)
                raise ReadTimeoutError(endpoint_url=self._service)

            return self._process.at(f"{self._service}.{operation}", act, fail)

        return make


class _Push:
    """The push client of a process, without the network: the receiver is a part of the rig."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def send(self, event: Event, timeout_seconds: float) -> PushResult:
        def act() -> PushResult:
            return self._process.rig.receive(event, timeout_seconds, self._process)

        outcome: Outcome = self._process.at("push", act, lambda fault: PushResult(Outcome.RETRY, 0, error=str(fault)))
        return outcome


class SerialPool:
    """A pool of threads that are one after another, so that a run can be repeated."""

    def __init__(self, size: int) -> None:
        del size

    def __enter__(self) -> "SerialPool":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def map(self, function: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
        return [function(value) for value in values]


class Rig:
    """One deployed system in memory. `answers` are the receiver's next status codes, then 200; None is a hang."""

    threads: Any = SerialPool

    def __init__(self, environ: Mapping[str, str], *, seed: int = 0) -> None:
        self.settings = settings.load({**ENVIRON, **environ})
        self.clock = Clock()
        self.random = Random(seed)
        self.dynamodb = FakeDynamoDB(self.clock)
        self.sqs = FakeSQS(self.clock, shuffle=self.random)
        self.sqs.queue(DLQ)
        self.sqs.queue(INBOX, redrive=(DLQ, 5))
        self.witness = Witness()
        self.answers: list[int | None] = []
        self.while_pushing: list[Callable[[str], None]] = []
        self.faults = 0
        self.sent = 0  # messages that processes put into queues
        telemetry.configure("CRITICAL")
        self._ids = itertools.count(1)

    def pause(self) -> None:
        """Let others go first: nobody here."""

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def new_id(self) -> str:
        return f"{next(self._ids):032x}"

    def items(self) -> dict[str, Event]:
        return {key: Event.from_item(item) for key, item in self.dynamodb.items().items()}

    def item(self, event_id: str) -> Event:
        key = {"event_id": {"S": event_id}}
        return Event.from_item(self.dynamodb.get_item(TableName=TABLE, Key=key, ConsistentRead=True)["Item"])

    def answer(self, event: Event) -> tuple[int | None, float]:
        """Return the status code of the receiver's next answer, and the seconds it takes."""
        status_code = self.answers.pop(0) if self.answers else 200
        return status_code, 0.05

    def receive(self, event: Event, timeout_seconds: float, process: Process) -> PushResult:
        """Be the receiver of one push, and see whether it may be."""
        witness = self.witness
        witness.see_begin(event, self.item(event.event_id))
        status_code, seconds = self.answer(event)
        started = self.clock()
        for act in self.while_pushing:
            act(event.event_id)
        self.sleep(min(seconds if status_code else timeout_seconds, timeout_seconds))
        witness.see_end(Push(event, started, status_code, process, len(process.faults)))
        if status_code is None:
            return PushResult(Outcome.RETRY, 0, error="hangs", timed_out=True)
        return Outcome(outcome_of(status_code), 0, status_code, None if status_code < 300 else "refused")

    def settle(self, *, hours: float = 72) -> None:
        """Let time pass, with healthy workers and sweeps, until no event is pending and no message is left."""
        end = self.clock() + hours * 3600
        while self.clock() < end:
            while Process(self).work():
                pass
            pending = any(event.status is Status.PENDING for event in self.items().values())
            if not pending and not self.sqs.messages(INBOX):
                return
            self.clock.sleep(60)
            Process(self).sweep()
        raise ViolationError("something stays pending for ever, or a message stays in the queue")

    def letters(self) -> list[dict[str, Any]]:
        """Return the dead letters' notices: not the messages that could not be read."""
        bodies = [message["Body"] for message in self.sqs.messages(DLQ)]
        return [json.loads(body) for body in bodies if body.startswith("{")]

    def check(self) -> None:
        """Raise ViolationError unless everything promised of a settled system is so."""
        check(self.witness, self.items(), self.letters(), self.faults)
