"""A world in memory and in virtual time, whose containers can be failed or killed at every call
that they make.
"""

import contextlib
import itertools
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from random import Random
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

from botocore.exceptions import ClientError, ReadTimeoutError

from chalicelib import settings
from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import AFTER_PUSH_SECONDS
from chalicelib.core.outcome import Outcome, PushResult
from chalicelib.core.store import CLAIM_SECONDS, from_item
from chalicelib.core.target import Target
from chalicelib.infra import telemetry
from chalicelib.infra.times import rfc3339, unix_seconds
from tests.simulator.hub import Hub
from tests.simulator.invariants import NEVER, History, Push, ViolationError, check
from tests.support.in_memory_aws import FakeDynamoDB, FakeSQS, typed
from tests.support.versions import PRESENT, Version
from tests.support.world import (
    KEY,
    SCHEDULED,
    Answer,
    Clock,
    Json,
    LambdaContext,
    call,
    digest,
    sqs_record,
)

CACHE_SECONDS = 10  # how long a container keeps its lists of subscriptions
TABLE = "events"
INBOX = "https://sqs.test/inbox"
SLOW = "https://sqs.test/slow"
WORKERS = {INBOX: "worker", SLOW: "slow_worker"}  # the names of the functions
DLQ = "https://sqs.test/dlq"
ENVIRON = {
    "EVENTS_TABLE_NAME": TABLE,
    "INBOX_QUEUE_URL": INBOX,
    "INBOX_DLQ_URL": DLQ,
    "SLOW_QUEUE_URL": SLOW,
    "LOG_LEVEL": "CRITICAL",
    "API_KEYS": f"acme:{digest(KEY)}:produce+consume+erase",
    "MAX_DELIVERY_ATTEMPTS": "4",
    "ZAPIER_WEBHOOK_URL": "http://127.0.0.1:9/secret",
}
# The timeouts of .chalice/config.json.
API_SECONDS = 30.0
WORKER_SECONDS = 50.0
SCHEDULE_SECONDS = 60.0
# So long before a timeout no push begins, even of an event that is claimed.
LAST_PUSH_SECONDS = 4 + AFTER_PUSH_SECONDS
MAX_BATCHES = 1000  # while no time passes


class Response(NamedTuple):
    """What a receiver does with a push."""

    # None: it never responds.
    status_code: int | None
    # How long it takes.
    seconds: float = 0.0
    # What its `Retry-After` says; 0: it has none.
    retry_after_seconds: float = 0.0


class Killed(BaseException):
    """The container is gone. Nothing in the code under test may catch it."""


class Fault(StrEnum):
    DIES_BEFORE = "dies before the call"
    DIES_AFTER = "dies after it took effect"
    THROTTLED = "the call is throttled"
    UNREACHED = "the call does not arrive"
    ANSWER_LOST = "the first answer is lost, boto3 tries again"
    ALL_ANSWERS_LOST = "it took effect, no answer ever came"


TAKES_EFFECT = (Fault.DIES_AFTER, Fault.ANSWER_LOST, Fault.ALL_ANSWERS_LOST)

FaultAt = Callable[[str], Fault | None]
NO_ENVIRON: Mapping[str, str] = MappingProxyType({})


class Container:
    """A container, in which one function or another runs at a time.

    :param fault_at: Returns the fault of a call with a label, or None.
    :param environ: Variables in which the container differs from the others of its world.
    :param version: The version of its code.
    """

    def __init__(
        self,
        world: "SimulatedWorld",
        fault_at: FaultAt = lambda label: None,
        environ: Mapping[str, str] = NO_ENVIRON,
        version: Version = PRESENT,
    ) -> None:
        self.world = world
        self.version = version
        self.is_killed = False
        self.skew_seconds = 0.0
        self._fault_at = fault_at
        self._begin(API_SECONDS)
        own_settings: Any = world.settings
        if environ or version != PRESENT:
            own_settings = version.module("settings").load({**world.environ, **environ})
        self.services = version.module("deps").Services(
            own_settings,
            make_client=partial(_Client, self),
            clock=self.clock,
            sleep=self.sleep,
            random=world.random.random,
            new_id=world.new_id,
            thread_pool=world.hub.pool,
            push=SimpleNamespace(send=self._push),
        )
        breakers = version.module("core.breaker")
        make_breaker = partial(breakers.Breaker, random=world.random.random)
        self.services.inline_breaker = make_breaker(breakers.INLINE_PATIENCE_SECONDS)
        self.services.worker_breaker = make_breaker(breakers.WORKER_PATIENCE_SECONDS)
        world.history.pushes_copies_alone |= own_settings.webhook == settings.COPIES_ONLY

    def clock(self) -> float:
        return self.world.clock() + self.skew_seconds

    def sleep(self, seconds: float) -> None:
        """Sleep, at most until the function's timeout, which kills it; raise Killed if it is killed
        by then.
        """
        left = max(0.0, self.ends_at - self.world.clock())
        self.world.hub.sleep(min(seconds, left))
        is_over = self.world.clock() > self.ends_at  # time went on without it
        if (seconds > left or is_over) and not self.is_killed:
            self.is_killed = True
            if self._pushes and not is_over:
                self.world.history.violations.append(
                    "a function ran into its timeout during a push"
                )
        if self.is_killed:
            raise Killed

    def at(self, label: str, act: Callable[[], Any], fail: Callable[[Fault], Any]) -> Any:
        """Make a call to AWS or the receiver, which may have a fault.

        :param label: The service and the operation, or `push`.
        :param act: Makes the call.
        :param fail: Returns or raises what the caller sees of a fault.
        """
        fault = self._fault_at(label)
        before, after = (0.0, 0.0) if label == "push" else self.world.latency()
        try:
            if self.is_killed:  # by another of its threads
                raise Killed
            self.sleep(before)
            if fault is None:
                try:
                    return act()
                finally:
                    if after:
                        self.sleep(after)
            if fault in TAKES_EFFECT:
                # a failed condition is an answer too, and lost
                with contextlib.suppress(ClientError):
                    act()
            if fault in (Fault.DIES_BEFORE, Fault.DIES_AFTER):
                self.is_killed = True
            self.sleep(after)
            return fail(fault)
        except Killed:
            fault = fault or Fault.DIES_AFTER
            raise
        finally:
            self.world.faults += fault is not None
            if fault is not None or self.world.clock() > self.ends_at - LAST_PUSH_SECONDS:
                self.world.history.see_fault(self.invocation)

    def _push(
        self, event: Event, target: Target, timestamp: int, timeout_seconds: float, *options: Any
    ) -> Any:
        """Push an event to the receiver, which is a part of the world, as the push client does."""
        act = partial(self.world.respond, event, target.url, timeout_seconds, self)
        self._pushes += 1

        def fail(fault: Fault) -> PushResult:
            self.world.history.see_lost(event.event_id, self.invocation)
            return PushResult(Outcome.RETRY, error=fault)

        try:
            result = self.at("push", act, fail)
        finally:
            self._pushes -= 1
        return self._in_own_version(result)

    def _in_own_version(self, result: PushResult) -> Any:
        """Return the result of a push as the container's version has it, perhaps without members
        that came later.
        """
        own = self.version.module("core.outcome")
        members = {member.name: getattr(result, member.name) for member in fields(own.PushResult)}
        return own.PushResult(**{**members, "outcome": own.Outcome(result.outcome)})

    def _begin(self, timeout_seconds: float) -> None:
        """Begin an invocation, which ends with the function's timeout at the latest."""
        self.invocation = object()
        self.ends_at = self.world.clock() + timeout_seconds
        self._pushes = 0

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Call the API; the status code is 0 when the container died over it."""
        self._begin(API_SECONDS)
        self.version.module("deps").use(self.services)
        try:
            answer = call(
                self.world.clock,
                method,
                path,
                None if body is None else json.dumps(body),
                version=self.version,
                **headers,
            )
        except Killed:
            return Answer(0, {}, "{}")
        assert answer.status_code in (200, 201, 202, 204, 404, 409, 422, 503), answer
        self.world.unavailable += answer.status_code == 503
        return answer

    def post(self, payload: str = "{}", *, tenant: str | None = None, **headers: str) -> str | None:
        """Post an event; return its id if it was accepted."""
        began = self.world.clock()
        body = {"event_type": "a", "payload": json.loads(payload), "tenant": tenant}
        answer = self.call("POST", "/events", body, **headers)
        if answer.status_code != 202:
            return None
        is_new = "idempotency-replayed" not in answer.headers
        return self._see_accepted(answer.json, payload, tenant, began, is_new=is_new)

    def post_batch(self, *payloads: str, has_keys: bool = False) -> bool:
        """Post an event for each payload in one call; return whether all were accepted.

        The keys are the payloads.
        """
        began = self.world.clock()
        events = [
            {
                "event_type": "a",
                "payload": json.loads(payload),
                "tenant": None,
                "idempotency_key": payload if has_keys else None,
            }
            for payload in payloads
        ]
        answer = self.call("POST", "/events/batch", {"events": events})
        if answer.status_code != 200:
            return False
        for payload, entry in zip(payloads, answer.json["events"], strict=True):
            if entry["status"] == 202:
                is_new = not entry["replayed"]
                self._see_accepted(entry["event"], payload, None, began, is_new=is_new)
        return bool(answer.json["failed_count"] == 0)

    def _see_accepted(
        self, event: Json, payload: str, tenant: str | None, began: float, *, is_new: bool
    ) -> str:
        known_since = began - CACHE_SECONDS - self.world.dynamodb.index_lag_seconds
        expected = self.world.history.subscriptions_at(known_since, tenant) if is_new else set()
        event_id = str(event["event_id"])
        self.world.history.see_accepted(event_id, payload, expected, began)
        return event_id

    def lease(self, *, limit: int = 10, seconds: int = 60) -> list[tuple[str, str]]:
        """Lease events; return each with the id of the lease."""
        answer = self.call("POST", "/inbox/lease", {"limit": limit, "lease_seconds": seconds})
        leased = [
            (str(event["event_id"]), str(event["lease_id"]))
            for event in answer.json.get("events", ())
        ]
        self.world.history.see_leased(leased)
        return leased

    def acknowledge(self, event_id: str, lease_id: str | None = None) -> None:
        # from now on it may be, whatever the response
        self.world.history.acknowledged.add(event_id)
        self._end("acknowledge", event_id, lease_id)

    def release(self, event_id: str, lease_id: str) -> None:
        self._end("release", event_id, lease_id)

    def _end(self, verb: str, event_id: str, lease_id: str | None) -> None:
        query = f"?lease_id={lease_id}" if lease_id else ""
        self.call("POST", f"/events/{event_id}/{verb}{query}")

    def replay(self, event_id: str) -> None:
        self.call("POST", f"/events/{event_id}/replay")

    def erase(self, event_id: str) -> None:
        replay_number = self.world.history.replays[event_id]
        answer = self.call("DELETE", f"/events/{event_id}")
        if answer.status_code == 204:
            self.world.history.see_erased(event_id, replay_number)

    def subscribe(self, url: str, *event_types: str, tenant: str | None = None) -> None:
        """Subscribe a target to events of some types, or of all, of a tenant, or of all."""
        self.call(
            "POST",
            "/subscriptions",
            {"target_url": url, "event_types": event_types or None, "tenant": tenant},
        )

    def unsubscribe(self, subscription_id: str) -> None:
        self.call("DELETE", f"/subscriptions/{subscription_id}")

    def enable(self, subscription_id: str) -> None:
        """Enable a subscription and replay what it missed, as operators do."""
        if self.call("POST", f"/subscriptions/{subscription_id}/enable").status_code == 200:
            listed = self.call("GET", f"/events?subscription_id={subscription_id}&status=failed")
            for event in listed.json.get("events", ()):
                self.replay(event["event_id"])

    def pause(self, subscription_id: str) -> None:
        self.call("POST", f"/subscriptions/{subscription_id}/disable")

    def send(self, subscription_id: str, event_id: str) -> None:
        self.call("POST", f"/subscriptions/{subscription_id}/send", {"event_id": event_id})

    def try_it(self, subscription_id: str) -> None:
        """Push a test event to a subscription."""
        self.call("POST", f"/subscriptions/{subscription_id}/test")

    def recover(self, subscription_id: str, since: str | None = rfc3339(0)) -> None:
        """Recover what a subscription missed, page by page until a call is refused.

        :param since: From when on it missed events; None: only what was made for it, and failed or
            waits.
        """
        body = {"since": since}
        while True:
            answer = self.call("POST", f"/subscriptions/{subscription_id}/recover", body)
            body["cursor"] = answer.json.get("next_cursor")
            if body["cursor"] is None:
                return

    def work(self, *, max_messages: int = 10, queues: Sequence[str] = (INBOX, SLOW)) -> int:
        """Process a batch as Lambda's event source does; return how many messages there were.

        The batch is of the first queue that has messages.
        """
        for queue_url in queues:
            received = self.world.receive(queue_url, max_messages)
            if received:
                self._work(queue_url, received)
                return len(received)
        return 0

    def _work(self, queue_url: str, received: list[Json]) -> None:
        records = [sqs_record(message) for message in received]
        if self._invoke(WORKERS[queue_url], {"Records": records}, WORKER_SECONDS):
            for message in received:
                self.world.sqs.delete_message(
                    QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"]
                )

    def sweep(self) -> None:
        self._invoke("sweep", SCHEDULED, SCHEDULE_SECONDS)

    def _invoke(self, function: str, event: Json, timeout_seconds: float) -> bool:
        """Call a function by its name, as Lambda does; return whether it succeeded."""
        errors = self.version.module("infra.errors")
        handler = getattr(self.version.app, function)
        self._begin(timeout_seconds)
        self.version.module("deps").use(self.services)
        try:
            handler(event, LambdaContext(self.world.clock, timeout_seconds))
        except (
            Killed,
            self.version.module("operations.batch").BatchError,
            errors.StorageUnavailableError,
            errors.QueueUnavailableError,
        ):
            return False
        return True


@dataclass
class _Client:
    """A boto3 client of a container: at each call a fault may happen."""

    container: Container
    service: str

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def make(**parameters: Any) -> Any:
            world = self.container.world
            event_ids = _event_ids(parameters)
            if operation == "transact_write_items":  # as botocore does
                parameters["ClientRequestToken"] = world.new_id()
            if operation.startswith("send_message"):
                messages = parameters.get("Entries", [parameters])
                for event_id, message in zip(event_ids, messages, strict=False):
                    world.history.see_sent(event_id, message["MessageGroupId"])

            def act() -> Any:
                try:
                    return getattr(getattr(world, self.service), operation)(**parameters)
                # A failed condition is a response, too. Only a record asks for its own claim: a
                # redrive in another thread of the invocation may change the same event.
                finally:
                    condition = parameters.get("ConditionExpression", "")
                    if event_ids and operation == "update_item" and ":mine" in condition:
                        world.history.see_record(event_ids[0], self.container.invocation)

            def fail(fault: Fault) -> Any:
                if fault is Fault.ANSWER_LOST:
                    return act()  # boto3's second try
                if fault is Fault.THROTTLED and operation == "transact_write_items":
                    reasons = [{"Code": "TransactionConflict"}, {"Code": "None"}]
                    canceled = {"Error": {"Code": "TransactionCanceledException"}}
                    raise ClientError({**canceled, "CancellationReasons": reasons}, operation)
                if fault is Fault.THROTTLED:
                    raise ClientError({"Error": {"Code": "ThrottlingException"}}, operation)
                raise ReadTimeoutError(endpoint_url=self.service)

            return self.container.at(f"{self.service}.{operation}", act, fail)

        return make


def _event_ids(parameters: Json) -> list[str]:
    """Return the ids of the events that a call to AWS writes or sends messages about."""
    if item := parameters.get("Item") or parameters.get("Key"):
        key = item["event_id"]["S"]
        return [key] if key.startswith(("evt_", "cpy_")) else []
    bodies = [entry.get("MessageBody", "") for entry in parameters.get("Entries", [parameters])]
    return [json.loads(body)["event_id"] for body in bodies if body.startswith("{")]


class DeadLetterLines(logging.Handler):
    """Notes the ids of events with a line of the log that says "dead letter"."""

    def __init__(self, event_ids: set[str]) -> None:
        super().__init__()
        self._event_ids = event_ids

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "dead letter":
            self._event_ids.add(record.event_id)  # type: ignore[attr-defined]


class SimulatedWorld:
    """One deployed system in memory.

    :param versions: The versions of its code. Each call is made by a container of one of them.
    """

    def __init__(
        self, environ: Mapping[str, str], *, seed: int = 0, versions: Sequence[Version] = (PRESENT,)
    ) -> None:
        self.environ = {**ENVIRON, **environ}
        self.settings = settings.load(self.environ)
        self.clock = Clock()
        self.hub = Hub(self.clock, self.choose)
        self.random = Random(seed)
        self.dynamodb = FakeDynamoDB(self.clock)
        self.history = History(self.dynamodb.items.get)
        self.dynamodb.on_write = lambda before, after: self.history.see_write(
            before, after, self.clock()
        )
        self.sqs = FakeSQS(self.clock, shuffle=self.random)
        self.sqs.queue(DLQ)
        for queue_url in WORKERS:
            self.sqs.queue(queue_url, redrive=(DLQ, 5))
        # The next status codes of the receiver, which then responds 200; None: it hangs.
        self.answers: list[int | None] = []
        self.faults = 0
        self.unavailable = 0  # how many calls of the API were answered with 503
        telemetry.logger.handlers = [DeadLetterLines(self.history.logged)]
        telemetry.logger.setLevel("WARNING")
        telemetry.logger.propagate = False
        self._ids = itertools.count(1)
        self._idle = defaultdict[Version, list[Container]](list)
        self.draw_version = partial(Random(seed).choice, versions)

    def choose(self, count: int) -> int:
        """Return which of so many actors goes on."""
        return 0

    def start(self, version: Version = PRESENT) -> Container:
        """Start a container."""
        return Container(self, version=version)

    def use(self, act: Callable[..., Any], *parameters: Any, **options: Any) -> Any:
        """Let an idle container act, or a new one; return what `act` returns.

        It is the container that was used last, of the version that is drawn.

        :param act: A method of Container.
        """
        version = self.draw_version()
        idle = self._idle[version]
        container = idle.pop() if idle else self.start(version)
        result = act(container, *parameters, **options)
        if not container.is_killed:
            self._idle[version].append(container)
        return result

    def latency(self) -> tuple[float, float]:
        """Return how many seconds the next call takes before and after it takes effect."""
        return 0.0, 0.0

    def new_id(self) -> str:
        return f"{next(self._ids):032x}"

    def items(self) -> dict[str, Event]:
        """Return all events by id, without the marks of erased ones."""
        return {
            key: event for key, event in self._events().items() if event.status is not Status.ERASED
        }

    def _events(self) -> dict[str, Event]:
        items = self.dynamodb.items.items()
        return {
            key: from_item(typed(item)) for key, item in items if key.startswith(("evt_", "cpy_"))
        }

    def answer(self, event: Event, url: str) -> Response:
        """Return the next response of a destination."""
        return Response(self.answers.pop(0) if self.answers else 200)

    def respond(
        self, event: Event, url: str, timeout_seconds: float, container: Container
    ) -> PushResult:
        """Receive a push, check that it may be made, and return its result."""
        push = Push(event, container.invocation, self.clock())
        self.history.see_push(push, self.dynamodb.items.get(event.event_id))
        response = self.answer(event, url)
        if response.status_code is None or response.seconds > timeout_seconds:
            response = Response(None, timeout_seconds)
        try:
            container.sleep(response.seconds)
        finally:
            push.status_code = response.status_code
            self.history.running.discard(event.event_id)
        if response.status_code is None:
            return PushResult(Outcome.RETRY, 0, error="timed out")
        outcome = Outcome.of(response.status_code)
        return PushResult(
            outcome,
            0,
            response.status_code,
            None if outcome is Outcome.DELIVERED else "refused",
            retry_after_seconds=response.retry_after_seconds,
        )

    def receive(self, url: str, max_messages: int = 10) -> list[Json]:
        """Receive messages from a queue, as a consumer that never fails."""
        response = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=max_messages)
        return list(response["Messages"])

    def move_back(self, message: Json) -> None:
        """Send a dead letter to the inbox queue, as SQS's own redrive does."""
        body = message["Body"]
        attributes = message["MessageAttributes"]
        self.history.see_moved_back(body, self.clock())
        self.sqs.send_message(
            QueueUrl=INBOX, MessageBody=body, MessageAttributes=attributes, **message["Attributes"]
        )

    def settle(self, *, hours: float = 72) -> None:
        """Let time pass, in which nothing fails, until nothing is pending and no message is
        left.
        """
        end = self.clock() + hours * 3600
        while self.clock() < end:
            batches = 0
            while Container(self).work():
                batches += 1
                if batches > MAX_BATCHES:
                    raise ViolationError("a message is sent again and again")
            pending = [
                item
                for item in self.dynamodb.items.values()
                if item.get("status") == Status.PENDING
            ]
            if not pending and not any(map(self.sqs.messages, WORKERS)):
                break
            self.clock.sleep(max(60, self._next_due_at(pending) - self.clock()))
            late = rfc3339(self.clock() - 50)
            if any(item.get("next_attempt_at", "~") < late for item in pending):
                Container(self).sweep()
            is_scheduled = any("next_attempt_at" in item for item in pending)
            if not (is_scheduled and self.settings.webhook_url):  # pull-only
                consumer = Container(self)
                for event_id, lease_id in consumer.lease(limit=100):
                    consumer.acknowledge(event_id, lease_id)
        else:
            raise ViolationError(
                "something stays pending for ever, or a message stays in the queue"
            )
        self.complete_erasures()

    def _next_due_at(self, pending: Sequence[Json]) -> float:
        """Return when a message can be received, a push is due, or an event can be leased."""
        moments = [unix_seconds(item.get("next_attempt_at", NEVER)) for item in pending]
        return min([*moments, *map(self.sqs.next_visible_at, WORKERS)])

    def complete_erasures(self) -> None:
        """Repeat the DELETE of each erased event once all claims have ended, as callers do who were
        answered 409, or not at all.
        """
        self.clock.sleep(CLAIM_SECONDS + 1)
        for event_id, event in self._events().items():
            if event.status is Status.ERASED:
                Container(self).erase(event_id)

    def check(self) -> None:
        """Raise ViolationError unless a settled world kept its promises."""
        bodies = [message["Body"] for message in self.sqs.messages(DLQ)]
        dead_letters = [json.loads(body) for body in bodies if body.startswith("{")]
        check(self.history, self.items(), dead_letters)
