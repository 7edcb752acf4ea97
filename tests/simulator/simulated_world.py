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
from tests.simulator.invariants import History, Push, ViolationError, check
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

CACHE_SECONDS = 10  # how long a container caches its lists of subscriptions
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
    """A response of a receiver to a push."""

    # The status code; None: the receiver never responds.
    status_code: int | None
    # How long the receiver takes until it responds.
    seconds: float = 0.0
    # The seconds of its header `Retry-After`; 0: it has no such header.
    retry_after_seconds: float = 0.0


class Killed(BaseException):
    """The container was killed. Nothing in the code under test may catch this."""


class Fault(StrEnum):
    """What goes wrong at a call of a container to AWS or to a receiver."""

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
    """A container, in which one function or another runs at a time."""

    def __init__(
        self,
        world: "SimulatedWorld",
        fault_at: FaultAt = lambda label: None,
        environ: Mapping[str, str] = NO_ENVIRON,
        version: Version = PRESENT,
    ) -> None:
        """Start the container.

        :param fault_at: Called with the label of each call to AWS or to a receiver, such as
            `dynamodb.put_item` or `push`; returns the fault of the call, or None.
        :param environ: Environment variables in which the container differs from the others of its
            world.
        :param version: The version of its code.
        """
        self.world = world
        self.version = version
        self.is_killed = False
        # How far the clock of the container is ahead of that of the world.
        self.skew_seconds = 0.0
        self._fault_at = fault_at
        self._begin(API_SECONDS)
        # Those of the world have been loaded by the present version.
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
        # The breakers of the product draw from the module `random`, not from the world's seed.
        breakers = version.module("core.breaker")
        make_breaker = partial(breakers.Breaker, random=world.random.random)
        self.services.inline_breaker = make_breaker(breakers.INLINE_PATIENCE_SECONDS)
        self.services.worker_breaker = make_breaker(breakers.WORKER_PATIENCE_SECONDS)
        if own_settings.webhook == settings.COPIES_ONLY:
            world.history.pushes_copies_alone = True

    def clock(self) -> float:
        """Return the time in Unix seconds, as the container's clock shows it."""
        return self.world.clock() + self.skew_seconds

    def sleep(self, seconds: float) -> None:
        """Sleep, but not for longer than until the timeout of the function, at which the container
        is killed. Raise Killed if the timeout has come, or if the container was killed meanwhile.

        A function that runs into its timeout during a push has broken a promise, which is noted as
        a violation, unless other actors have moved the clock on beyond the timeout.
        """
        seconds_left = max(0.0, self.ends_at - self.world.clock())
        self.world.hub.sleep(min(seconds, seconds_left))
        is_beyond_timeout = self.world.clock() > self.ends_at
        is_timed_out = seconds > seconds_left or is_beyond_timeout
        if is_timed_out and not self.is_killed:
            self.is_killed = True
            if self._pushes and not is_beyond_timeout:
                self.world.history.violations.append(
                    "a function ran into its timeout during a push"
                )
        if self.is_killed:
            raise Killed

    def at(self, label: str, act: Callable[[], Any], fail: Callable[[Fault], Any]) -> Any:
        """Make a call to AWS or the receiver, which may have a fault; return its result. Raise
        Killed if the container is killed before, during or after the call.

        :param label: The service and the operation, or `push`.
        :param act: Makes the call, and returns its result.
        :param fail: Called with the fault; returns or raises what the caller of this method gets
            instead of the result.
        """
        fault = self._fault_at(label)  # None: the call succeeds
        # How long the call takes before it takes effect, and after that. A push sleeps by itself.
        before_seconds, after_seconds = (0.0, 0.0) if label == "push" else self.world.latency()
        try:
            if self.is_killed:  # by another of its threads
                raise Killed
            self.sleep(before_seconds)
            if fault is None:
                try:
                    return act()
                finally:
                    if after_seconds:
                        self.sleep(after_seconds)
            if fault in TAKES_EFFECT:
                # A failed condition, a ClientError, is a response that is lost, too.
                with contextlib.suppress(ClientError):
                    act()
            if fault in (Fault.DIES_BEFORE, Fault.DIES_AFTER):
                self.is_killed = True
            self.sleep(after_seconds)
            return fail(fault)
        except Killed:
            if fault is None:  # killed at the timeout, or by another thread
                fault = Fault.DIES_AFTER
            raise
        finally:
            if fault is not None:
                self.world.faults += 1
            # Shortly before its timeout, an invocation may leave undone what it has begun, as after
            # a fault: it makes no push then, even of an event that it has claimed.
            if fault is not None or self.world.clock() > self.ends_at - LAST_PUSH_SECONDS:
                self.world.history.see_fault(self.invocation)

    def _push(
        self, event: Event, target: Target, timestamp: int, timeout_seconds: float, *options: Any
    ) -> Any:
        """Push an event to a receiver, which is a part of the world, in place of the push client;
        return a PushResult of the container's version.

        :param timestamp: The time in the signature, which is not simulated.
        :param timeout_seconds: How long the push may take.
        :param options: Other arguments of the push client, which have no effect.
        """
        act = partial(self.world.respond, event, target.url, timeout_seconds, self)
        self._pushes += 1

        def fail(fault: Fault) -> PushResult:
            """Note that the response is lost; return a result after which the event is retried."""
            self.world.history.see_lost(event.event_id, self.invocation)
            return PushResult(Outcome.RETRY, error=fault)

        try:
            result = self.at("push", act, fail)
        finally:
            self._pushes -= 1
        return self._in_own_version(result)

    def _in_own_version(self, result: PushResult) -> Any:
        """Return the result of a push as an object of the container's version, which has no fields
        that later versions added.
        """
        outcomes = self.version.module("core.outcome")
        values = {
            member.name: getattr(result, member.name) for member in fields(outcomes.PushResult)
        }
        values["outcome"] = outcomes.Outcome(result.outcome)
        return outcomes.PushResult(**values)

    def _begin(self, timeout_seconds: float) -> None:
        """Begin an invocation, which ends with the function's timeout at the latest."""
        # An object by which the history tells this invocation from others.
        self.invocation = object()
        self.ends_at = self.world.clock() + timeout_seconds
        # The number of pushes that are under way.
        self._pushes = 0

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Call the API, and return its response; its status code is 0 if the container was killed
        meanwhile. Raise AssertionError for a status code that no caller expects.

        :param body: The body, which is sent as JSON; None: the request has none.
        """
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
        if answer.status_code == 503:
            self.world.unavailable += 1
        return answer

    def post(self, payload: str = "{}", *, tenant: str | None = None, **headers: str) -> str | None:
        """Post an event, and let the history expect its delivery. Return its id, or None if it was
        not accepted.

        :param payload: The payload, as JSON.
        :param tenant: The tenant of the event; None: it has none.
        """
        began = self.world.clock()
        body = {"event_type": "a", "payload": json.loads(payload), "tenant": tenant}
        answer = self.call("POST", "/events", body, **headers)
        if answer.status_code != 202:
            return None
        is_new = "idempotency-replayed" not in answer.headers
        return self._see_accepted(answer.json, payload, tenant, began, is_new=is_new)

    def post_batch(self, *payloads: str, has_keys: bool = False) -> bool:
        """Post an event for each payload in one call; return whether all were accepted.

        :param payloads: The payload of each event, as JSON.
        :param has_keys: Whether each event has an idempotency key, which is its payload.
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
        """Let the history expect the delivery of an event that was accepted, and a copy of it for
        each subscription that every container knew when the POST began. Return its id.

        :param event: The event as the API returned it.
        :param began: When the POST began, in Unix seconds.
        :param is_new: False: it was accepted before, with the same idempotency key, so no copy is
            expected.
        """
        known_since = began - CACHE_SECONDS - self.world.dynamodb.index_lag_seconds
        expected = self.world.history.subscriptions_at(known_since, tenant) if is_new else set()
        event_id = str(event["event_id"])
        self.world.history.see_accepted(event_id, payload, expected, began)
        return event_id

    def lease(self, *, limit: int = 10, seconds: int = 60) -> list[tuple[str, str]]:
        """Lease events; return the ids of each event and of its lease.

        :param limit: How many events are leased at most.
        :param seconds: How long the leases last.
        """
        answer = self.call("POST", "/inbox/lease", {"limit": limit, "lease_seconds": seconds})
        leased = [
            (str(event["event_id"]), str(event["lease_id"]))
            for event in answer.json.get("events", ())
        ]
        self.world.history.see_leased(leased)
        return leased

    def acknowledge(self, event_id: str, lease_id: str | None = None) -> None:
        """Acknowledge an event.

        :param lease_id: The lease of the event; None: the event is acknowledged without a lease.
        """
        # The call can take effect whatever its response is.
        self.world.history.acknowledged.add(event_id)
        self._end_lease("acknowledge", event_id, lease_id)

    def release(self, event_id: str, lease_id: str) -> None:
        """Release the lease of an event."""
        self._end_lease("release", event_id, lease_id)

    def _end_lease(self, verb: str, event_id: str, lease_id: str | None) -> None:
        """Acknowledge or release an event.

        :param verb: `acknowledge` or `release`.
        :param lease_id: The lease of the event; None: the call names no lease.
        """
        query = f"?lease_id={lease_id}" if lease_id else ""
        self.call("POST", f"/events/{event_id}/{verb}{query}")

    def replay(self, event_id: str) -> None:
        """Replay an event or a copy."""
        self.call("POST", f"/events/{event_id}/replay")

    def erase(self, event_id: str) -> bool:
        """Erase an event or a copy; after a 204, let the history check that it is gone, or was
        stored again meanwhile. Return whether the response was a 204.
        """
        # How often the event was stored or replayed: more often afterwards if it is stored again.
        replay_number = self.world.history.replays[event_id]
        answer = self.call("DELETE", f"/events/{event_id}")
        is_erased = answer.status_code == 204
        if is_erased:
            self.world.history.see_erased(event_id, replay_number)
        return is_erased

    def subscribe(self, url: str, *event_types: str, tenant: str | None = None) -> None:
        """Create a subscription.

        :param url: The target URL.
        :param event_types: The types of its events; without any, it gets events of all types.
        :param tenant: The tenant of its events; None: it gets events of all tenants.
        """
        self.call(
            "POST",
            "/subscriptions",
            {"target_url": url, "event_types": event_types or None, "tenant": tenant},
        )

    def unsubscribe(self, subscription_id: str) -> None:
        """Delete a subscription."""
        self.call("DELETE", f"/subscriptions/{subscription_id}")

    def enable(self, subscription_id: str) -> None:
        """Enable a subscription, and replay a page of its copies that failed, as operators do."""
        answer = self.call("POST", f"/subscriptions/{subscription_id}/enable")
        if answer.status_code != 200:
            return
        listed = self.call("GET", f"/events?subscription_id={subscription_id}&status=failed")
        for copy in listed.json.get("events", ()):  # none if the call was refused
            self.replay(copy["event_id"])

    def pause(self, subscription_id: str) -> None:
        """Disable a subscription."""
        self.call("POST", f"/subscriptions/{subscription_id}/disable")

    def send(self, subscription_id: str, event_id: str) -> None:
        """Send a stored event to a subscription."""
        self.call("POST", f"/subscriptions/{subscription_id}/send", {"event_id": event_id})

    def try_it(self, subscription_id: str) -> None:
        """Push a test event to a subscription."""
        self.call("POST", f"/subscriptions/{subscription_id}/test")

    def recover(self, subscription_id: str, since: str | None = rfc3339(0)) -> None:
        """Recover the events that a subscription missed, page by page, until the last page or until
        a call is refused.

        :param since: The creation of the oldest event that is recovered, in RFC 3339; None: only
            events with a copy that failed or waits are recovered.
        """
        body = {"since": since}
        while True:
            answer = self.call("POST", f"/subscriptions/{subscription_id}/recover", body)
            # The last page has null as its cursor, and the response to a refused call has none.
            body["cursor"] = answer.json.get("next_cursor")
            if body["cursor"] is None:
                return

    def work(self, *, max_messages: int = 10, queues: Sequence[str] = (INBOX, SLOW)) -> int:
        """Receive messages, call the worker with them, and delete them unless the worker fails, as
        Lambda's event source does. Return the number of messages; 0: no message is visible.

        :param max_messages: How many messages are received at most.
        :param queues: The URLs of the queues; the messages are those of the first queue that has
            any.
        """
        for queue_url in queues:
            received = self.world.receive(queue_url, max_messages)
            if received:
                self._work(queue_url, received)
                return len(received)
        return 0

    def _work(self, queue_url: str, received: list[Json]) -> None:
        """Call the worker of a queue with messages, and delete them unless the worker fails."""
        records = [sqs_record(message) for message in received]
        if self._invoke(WORKERS[queue_url], {"Records": records}, WORKER_SECONDS):
            for message in received:
                self.world.sqs.delete_message(
                    QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"]
                )

    def sweep(self) -> None:
        """Run the sweep once."""
        self._invoke("sweep", SCHEDULED, SCHEDULE_SECONDS)

    def _invoke(self, function: str, event: Json, timeout_seconds: float) -> bool:
        """Call a function by its name, as Lambda does. Return False if the container was killed, or
        if the function raised an error that it may raise; any other error is raised again.
        """
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
    # `dynamodb` or `sqs`: the name of the attribute of the world that has the service.
    service: str

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        """Return the method for an operation, such as `put_item`."""

        def make(**parameters: Any) -> Any:
            """Make the call, which may have a fault, and let the history see the messages that it
            sends and the record that it writes; return the response, or raise as boto3 does.
            """
            world = self.container.world
            event_ids = _event_ids(parameters)  # a put or an update has at most one
            if operation == "transact_write_items":  # as botocore does
                parameters["ClientRequestToken"] = world.new_id()
            if operation.startswith("send_message"):
                messages = parameters.get("Entries", [parameters])
                for event_id, message in zip(event_ids, messages, strict=False):
                    world.history.see_sent(event_id, message["MessageGroupId"])

            def act() -> Any:
                """Let the call take effect; return the response, or raise ClientError. Let the
                history see the call if it records an attempt, even if its condition fails: that is
                a response, too.
                """
                service = getattr(world, self.service)
                try:
                    return getattr(service, operation)(**parameters)
                finally:
                    # Of all updates, only the record of an attempt has the condition that the event
                    # is under the claim of the writer. (Another thread of the invocation may change
                    # the same event for a redrive.)
                    condition = parameters.get("ConditionExpression", "")
                    is_record = operation == "update_item" and ":mine" in condition
                    if is_record and event_ids:
                        [event_id] = event_ids  # an update changes one item
                        world.history.see_record(event_id, self.container.invocation)

            def fail(fault: Fault) -> Any:
                """Return or raise what the caller of boto3 gets of a fault."""
                if fault is Fault.ANSWER_LOST:
                    return act()  # boto3 sends the call again, and gets the response
                if fault is Fault.THROTTLED and operation == "transact_write_items":
                    reasons = [{"Code": "TransactionConflict"}, {"Code": "None"}]
                    canceled = {"Error": {"Code": "TransactionCanceledException"}}
                    raise ClientError({**canceled, "CancellationReasons": reasons}, operation)
                if fault is Fault.THROTTLED:
                    raise ClientError({"Error": {"Code": "ThrottlingException"}}, operation)
                # The call did not arrive, or its response was lost each time.
                raise ReadTimeoutError(endpoint_url=self.service)

            return self.container.at(f"{self.service}.{operation}", act, fail)

        return make


def _event_ids(parameters: Json) -> list[str]:
    """Return the ids of the events and copies that a call to AWS writes or reads by their key, or
    about which it sends messages; an empty list for any other call.
    """
    item = parameters.get("Item") or parameters.get("Key")
    if item:
        key = item["event_id"]["S"]
        return [key] if key.startswith(("evt_", "cpy_")) else []
    entries = parameters.get("Entries", [parameters])  # of a batch, or the only message
    bodies = [entry.get("MessageBody", "") for entry in entries]
    return [json.loads(body)["event_id"] for body in bodies if body.startswith("{")]


class DeadLetterLines(logging.Handler):
    """Notes the ids of events with a line of the log that says "dead letter"."""

    def __init__(self, event_ids: set[str]) -> None:
        """Handle the lines of a logger.

        :param event_ids: The set to which the ids are added.
        """
        super().__init__()
        self._event_ids = event_ids

    def emit(self, record: logging.LogRecord) -> None:
        """Note the id of the event, if the line says "dead letter"."""
        if record.getMessage() == "dead letter":
            self._event_ids.add(record.event_id)  # type: ignore[attr-defined]


class SimulatedWorld:
    """One deployed system in memory: its table, its queues and its containers, a receiver, and the
    history in which the promises are checked.
    """

    def __init__(
        self, environ: Mapping[str, str], *, seed: int = 0, versions: Sequence[Version] = (PRESENT,)
    ) -> None:
        """Deploy a system without events and subscriptions.

        :param environ: Environment variables of its functions, besides those in ENVIRON.
        :param seed: The seed of all random choices.
        :param versions: The versions of its code. Each call that `use` makes is made by a container
            of one of them, which is chosen at random.
        """
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
            self.sqs.queue(queue_url, redrive=(DLQ, 5))  # moved to the DLQ after five receives
        # The next status codes of the receiver, which responds 200 after that; None: it hangs.
        self.answers: list[int | None] = []
        # How many calls of containers had a fault.
        self.faults = 0
        # How many calls of the API were answered with 503.
        self.unavailable = 0
        telemetry.logger.handlers = [DeadLetterLines(self.history.logged)]
        telemetry.logger.setLevel("WARNING")
        telemetry.logger.propagate = False
        self._ids = itertools.count(1)
        # The containers in which no function runs, by their version.
        self._idle = defaultdict[Version, list[Container]](list)
        # Returns a version at random.
        self.draw_version = partial(Random(seed).choice, versions)

    def choose(self, count: int) -> int:
        """Return the index of the actor that goes on, of so many that are ready: 0, the actor that
        has been ready for longest.
        """
        return 0

    def start(self, version: Version = PRESENT) -> Container:
        """Start a container."""
        return Container(self, version=version)

    def use(self, act: Callable[..., Any], *parameters: Any, **options: Any) -> Any:
        """Call a method of a container of a version that is chosen at random; return its result.

        The container is, of those in which no function runs, the one that was used last. If there
        is none, a new container is started.

        :param act: The method, as a function of Container.
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
        """Return a new id: numbers in order, in hexadecimal."""
        return f"{next(self._ids):032x}"

    def items(self) -> dict[str, Event]:
        """Return all events and copies by their ids, without those that were erased."""
        return {
            key: event for key, event in self._events().items() if event.status is not Status.ERASED
        }

    def _events(self) -> dict[str, Event]:
        """Return all events and copies by their ids, including the marks of erased ones."""
        items = self.dynamodb.items.items()
        return {
            key: from_item(typed(item)) for key, item in items if key.startswith(("evt_", "cpy_"))
        }

    def answer(self, event: Event, url: str) -> Response:
        """Return the response of a destination to a push: that with the next of the status codes in
        `answers`, or 200 if there are no more.
        """
        status_code = self.answers.pop(0) if self.answers else 200
        return Response(status_code)

    def respond(
        self, event: Event, url: str, timeout_seconds: float, container: Container
    ) -> PushResult:
        """Receive a push, let the history check that it may be made, and return its result once the
        response has arrived or the push has timed out. Raise Killed if the container is killed by
        then.

        :param url: The URL to which the event is pushed.
        :param timeout_seconds: How long the push may take.
        :param container: The container that makes the push.
        """
        push = Push(event, container.invocation, started=self.clock())
        self.history.see_push(push, self.dynamodb.items.get(event.event_id))
        response = self.answer(event, url)
        if response.status_code is None or response.seconds > timeout_seconds:
            response = Response(status_code=None, seconds=timeout_seconds)
        try:
            container.sleep(response.seconds)
        finally:
            push.status_code = response.status_code
            self.history.running.discard(event.event_id)
        if response.status_code is None:
            return PushResult(Outcome.RETRY, duration_ms=0, error="timed out")
        outcome = Outcome.of(response.status_code)
        return PushResult(
            outcome,
            duration_ms=0,
            status_code=response.status_code,
            error=None if outcome is Outcome.DELIVERED else "refused",
            retry_after_seconds=response.retry_after_seconds,
        )

    def receive(self, url: str, max_messages: int = 10) -> list[Json]:
        """Receive messages from a queue, as a consumer that never fails."""
        response = self.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=max_messages)
        return list(response["Messages"])

    def move_back(self, message: Json) -> None:
        """Send a message of the DLQ to the work queue, as SQS's own redrive does. It is not deleted
        from the DLQ.
        """
        body = message["Body"]
        attributes = message["MessageAttributes"]
        system_attributes = message["Attributes"]  # such as MessageGroupId
        self.history.see_moved_back(body, self.clock())
        self.sqs.send_message(
            QueueUrl=INBOX, MessageBody=body, MessageAttributes=attributes, **system_attributes
        )

    def settle(self, *, hours: float = 72) -> None:
        """Let time pass, in which nothing fails, until no event is pending and no message is left
        in the queues of the workers. Run workers, and the sweep if an event is overdue; lease and
        acknowledge events that are not pushed. Then repeat the erasures.

        Raise ViolationError if that takes longer than `hours` of simulated time, or if messages are
        sent again and again while no time passes.
        """
        ends_at = self.clock() + hours * 3600
        while self.clock() < ends_at:
            self._handle_visible_messages()
            pending = [
                item
                for item in self.dynamodb.items.values()
                if item.get("status") == Status.PENDING
            ]
            has_messages = any(map(self.sqs.messages, WORKERS))
            if not pending and not has_messages:
                self.complete_erasures()
                return
            self.clock.sleep(max(60, self._next_due_at(pending) - self.clock()))
            # The sweep leaves events alone that have been due for less than a minute or so.
            overdue_before = rfc3339(self.clock() - 50)
            scheduled_at = [
                item["next_attempt_at"] for item in pending if "next_attempt_at" in item
            ]
            if any(due_at < overdue_before for due_at in scheduled_at):
                Container(self).sweep()
            if not scheduled_at or not self.settings.webhook_url:
                # No pending event will be pushed, or there is no webhook, to which events without
                # copies would be pushed: they wait for a consumer.
                consumer = Container(self)
                for event_id, lease_id in consumer.lease(limit=100):
                    consumer.acknowledge(event_id, lease_id)
        raise ViolationError("something stays pending for ever, or a message stays in the queue")

    def _handle_visible_messages(self) -> None:
        """Let workers handle all messages that are visible now, and those that they send without a
        delay; raise ViolationError if there is no end of them.
        """
        batches = 0
        while Container(self).work():
            batches += 1
            if batches > MAX_BATCHES:
                raise ViolationError("a message is sent again and again")

    def _next_due_at(self, pending: Sequence[Json]) -> float:
        """Return when the next message can be received or the next push is due, in Unix seconds;
        0, which is in the past, if an event is pending that is not pushed, since it can be leased.

        :param pending: The items of all pending events; an event that is pushed has the time of its
            next push, `next_attempt_at`.
        """
        due_at = [self.sqs.next_visible_at(queue_url) for queue_url in WORKERS]
        for item in pending:
            is_pushed = "next_attempt_at" in item
            due_at.append(unix_seconds(item["next_attempt_at"]) if is_pushed else 0.0)
        return min(due_at)

    def complete_erasures(self) -> None:
        """Let a claim's time pass, so that all claims have ended; then repeat the DELETE of each
        event that was erased, as callers do whose call was answered with 409, or not at all.
        """
        self.clock.sleep(CLAIM_SECONDS + 1)
        for event_id, event in self._events().items():
            if event.status is Status.ERASED:
                Container(self).erase(event_id)

    def check(self) -> None:
        """Check that the world kept its promises, after `settle`; raise ViolationError with the
        first violation if it did not.
        """
        bodies = [message["Body"] for message in self.sqs.messages(DLQ)]
        dead_letters = [json.loads(body) for body in bodies if body.startswith("{")]
        check(self.history, self.items(), dead_letters)
