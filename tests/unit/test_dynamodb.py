import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)
from botocore.parsers import ResponseParserError

from chalicelib import delivery
from chalicelib.backoff import Patience
from chalicelib.store import EventStore, WriteResult
from chalicelib.errors import StorageUnavailableError
from chalicelib.events import Attempt, Event, Reason, Status, DeliveredVia, rfc3339
from chalicelib.store import attributes, Event.from_item, typed
from chalicelib.validation import parse_new_event
from tests.conftest import During, LogLines, MakePush
from tests.support.receiver import Receiver
from tests.support.world import World

numbers = itertools.count()
ATTEMPT = Attempt("2026-11-25T00:00:00.000000Z", "retry", 503, "the receiver answered 503", 12)


DELIVERED: dict[str, Any] = {"status": Status.DELIVERED, "next_attempt_at": None, "requeue_at": None}
FAILED: dict[str, Any] = {
    "status": Status.FAILED,
    "next_attempt_at": None,
    "requeue_at": None,
    "reason": Reason.EXHAUSTED,
}


@pytest.fixture
def store(shared_world: World) -> EventStore:
    return shared_world.services.store


class Table:
    """The table past the store: puts events there as a test wants them, and sees what became of them."""

    def __init__(self, world: World) -> None:
        self.client = world.dynamodb
        self.name = world.environ["EVENTS_TABLE_NAME"]
        self.clock = world.clock

    def at(self, seconds: float) -> str:
        return rfc3339(self.clock() + seconds)

    def event(self, **changes: Any) -> Event:
        """Return an event that is due and that nobody has claimed, unless `changes` says otherwise."""
        due = Event(
            event_id=f"evt_{next(numbers):032x}",
            event_type="order.created",
            status=Status.PENDING,
            created_at=self.at(-100),
            created_by="acme",
            expires_at=int(self.clock()) + 1000,
            size=7,
            payload='{"secret-payload":1}',
            metadata='{"source":"shop"}',
            body_hash="0" * 64,
            delivery_attempts=3,
            attempts=(ATTEMPT,),
            next_attempt_at=self.at(-1),
            requeue_at=self.at(59),
            claim_id="c" * 32,
        )
        return replace(due, **changes)

    def stored(self, **changes: Any) -> Event:
        event = self.event(**changes)
        self.client.put_item(TableName=self.name, Item=typed(attributes(event)))
        return event

    def item(self, event_id: str) -> dict[str, Any] | None:
        key = typed({"event_id": event_id})
        item: dict[str, Any] | None = self.client.get_item(TableName=self.name, Key=key).get("Item")
        return item

    def now(self, event: Event) -> Event:
        """Return what has become of an event, and check that the index and the item say the same."""
        item = self.item(event.event_id)
        assert item is not None
        current = Event.from_item(item)
        assert item == typed(attributes(current))
        return current

    def present(self, event: Event) -> Event | None:
        """Return the event as `in_state` stored it, if it counts as there."""
        there = self.item(event.event_id) and event.expires_at > self.clock()
        return event if there else None

    def in_state(self, name: str) -> Event:
        """Store and return an event of STATES; an absent one is not stored."""
        event = self.event(**STATES[name](self))
        return event if name == "absent" else self.stored(**vars(event))


STATES: dict[str, Callable[[Table], dict[str, Any]]] = {
    "due": lambda table: {},
    "due at this moment": lambda table: {"next_attempt_at": table.at(0)},
    "not due yet": lambda table: {"next_attempt_at": table.at(0.000001)},
    "claimed": lambda table: {"claimed_until": table.at(30)},
    "claimed to this moment": lambda table: {"claimed_until": table.at(0)},
    "claim ran out": lambda table: {"claimed_until": table.at(-0.000001)},
    "delivered": lambda table: {**DELIVERED, "delivered_at": table.at(-5), "delivered_via": DeliveredVia.PUSH},
    "acknowledged during a push": lambda table: {
        **DELIVERED,
        "delivered_at": table.at(-5),
        "delivered_via": DeliveredVia.PULL,
        "claimed_until": table.at(30),
    },
    "failed": lambda table: {**FAILED, "failed_at": table.at(-5)},
    "expired": lambda table: {"expires_at": int(table.clock())},
    "expired and failed": lambda table: {**FAILED, "failed_at": table.at(-5), "expires_at": int(table.clock()) - 9},
    "absent": lambda table: {},
}


@pytest.fixture
def table(shared_world: World) -> Table:
    return Table(shared_world)


def lose_an_answer(during: During, table: Table, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Let boto3 make its next call twice, as it does when the answer was lost; `meanwhile` happens in between."""
    lost: list[int] = []

    def again(**_: Any) -> int | None:
        if lost:
            return None
        lost.append(1)
        meanwhile()
        return 0  # seconds to wait

    during(table.client, "needs-retry.dynamodb", again)


# Each transition: who may make it, and what it makes of an event


def becomes(event: Event, *gone: str, **changes: Any) -> Event:
    return replace(event, **{**dict.fromkeys(gone), **changes})


@dataclass(frozen=True)
class Transition:
    """One write; `granted` names the states where it takes effect. `tells`: it returns the event after it."""

    write: Callable[[EventStore, Event], WriteResult]
    granted: tuple[str, ...]
    after: Callable[[Table, Event], Event]
    tells: bool = True


FAR = 2_000_000_000
PENDING = ("due", "due at this moment", "not due yet", "claimed", "claimed to this moment", "claim ran out")
UNCLAIMED = ("due", "due at this moment", "not due yet", "claim ran out", "delivered", "failed")
OVER = ("claimed_until", "next_attempt_at", "requeue_at")


def replayed(table: Table, event: Event) -> Event:
    gone = ("claimed_until", "delivered_at", "delivered_via", "failed_at", "reason")
    event = becomes(event, *gone, status=Status.PENDING, claim_id="d" * 32, delivery_attempts=0, expires_at=FAR)
    return becomes(event, next_attempt_at=table.at(0), requeue_at=table.at(60), replayed_at=table.at(0))


RECORDS = {
    "record delivered": Transition(
        lambda store, event: store.record_delivered(event),
        PENDING,
        lambda table, event: becomes(
            event, *OVER, status=Status.DELIVERED, delivered_at=table.at(0), delivered_via=DeliveredVia.PUSH
        ),
    ),
    "record retry": Transition(
        lambda store, event: store.record_retry(event, 90.5, message_follows=True),
        PENDING,
        lambda table, event: becomes(
            event, "claimed_until", next_attempt_at=table.at(90.5), requeue_at=table.at(150.5)
        ),
    ),
    "record retry by the sweep": Transition(
        lambda store, event: store.record_retry(event, 1000, message_follows=False),
        PENDING,
        lambda table, event: becomes(event, "claimed_until", next_attempt_at=table.at(1000), requeue_at=table.at(1000)),
    ),
    "record failed": Transition(
        lambda store, event: store.record_failed(replace(event, reason=Reason.PERMANENT, failed_at="then")),
        PENDING,
        lambda table, event: becomes(event, *OVER, status=Status.FAILED, reason=Reason.PERMANENT, failed_at="then"),
    ),
}
TRANSITIONS = RECORDS | {
    "claim": Transition(
        lambda store, event: store.claim(event.event_id, "d" * 32),
        ("due", "due at this moment", "claim ran out"),
        lambda table, event: becomes(
            event, claim_id="d" * 32, claimed_until=table.at(60), requeue_at=table.at(60), delivery_attempts=4
        ),
    ),
    "acknowledge": Transition(
        lambda store, event: store.acknowledge(event.event_id),
        (*PENDING, "failed"),
        lambda table, event: becomes(
            event,
            *("next_attempt_at", "requeue_at", "failed_at", "reason"),  # the claim stays: a push may be running
            status=Status.DELIVERED,
            delivered_at=table.at(0),
            delivered_via=DeliveredVia.PULL,
        ),
        tells=False,
    ),
    "replay": Transition(
        lambda store, event: store.replay(event.event_id, "d" * 32, expires_at=FAR), UNCLAIMED, replayed
    ),
    "replay of that failure": Transition(
        lambda store, event: store.replay(
            event.event_id, "d" * 32, expires_at=FAR, failed_at=event.failed_at or event.created_at
        ),
        ("failed",),
        replayed,
    ),
    "replay of an earlier failure": Transition(
        lambda store, event: store.replay(event.event_id, "d" * 32, expires_at=FAR, failed_at=event.created_at),
        (),
        replayed,
    ),
    "mark": Transition(
        lambda store, event: store.mark_requeued(event.event_id, event.requeue_at or event.created_at),
        PENDING,
        lambda table, event: becomes(event, requeue_at=table.at(60)),
        tells=False,
    ),
    "mark of another moment": Transition(
        lambda store, event: store.mark_requeued(event.event_id, event.created_at), (), lambda table, event: event
    ),
}
GRANTED = [(name, state) for name, transition in TRANSITIONS.items() for state in transition.granted]
REFUSED = [(name, state) for name, transition in TRANSITIONS.items() for state in STATES.keys() - transition.granted]


@pytest.mark.parametrize(("name", "state"), GRANTED)
def test_a_transition_that_is_granted_changes_what_it_should_and_nothing_else(
    name: str, state: str, store: EventStore, table: Table
) -> None:
    event, transition = table.in_state(state), TRANSITIONS[name]
    after = transition.after(table, event)
    assert transition.write(store, event) == WriteResult(True, after if transition.tells else None)
    assert table.now(event) == after


@pytest.mark.parametrize(("name", "state"), sorted(REFUSED))
def test_a_transition_that_is_refused_says_what_is_there_and_changes_nothing(
    name: str, state: str, store: EventStore, table: Table
) -> None:
    event = table.in_state(state)
    before = table.item(event.event_id)
    mine = replace(event, claim_id="e" * 32) if name in RECORDS else event
    assert TRANSITIONS[name].write(store, mine) == WriteResult(False, table.present(event))
    assert table.item(event.event_id) == before


@pytest.mark.parametrize("name", [name for name in TRANSITIONS if TRANSITIONS[name].granted])
def test_a_transition_whose_answer_was_lost_was_made_once(
    name: str, store: EventStore, table: Table, during: During
) -> None:
    transition = TRANSITIONS[name]
    event = table.in_state(transition.granted[-1])
    after = transition.after(table, event)
    lose_an_answer(during, table)
    # A transition that begins nothing is refused by what it has made itself, and says so.
    assert transition.write(store, event) == WriteResult(transition.tells, after)
    assert table.now(event) == after


# A put


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "answer lost"])
@pytest.mark.parametrize("state", ["absent", "expired", "expired and failed"])
def test_an_event_is_stored_whole_where_there_is_none(
    state: str, lost: bool, store: EventStore, table: Table, during: During
) -> None:
    event = table.event(event_id=table.in_state(state).event_id, attempts=(), delivery_attempts=1)
    if lost:
        lose_an_answer(during, table)
    assert store.put(event) == WriteResult(True, event)
    assert table.now(event) == store.get(event.event_id) == event


@pytest.mark.parametrize("state", ["due", "claimed", "delivered", "failed"])
def test_a_put_is_refused_by_an_event_that_looks_the_same_but_for_the_claim(
    state: str, store: EventStore, table: Table
) -> None:
    event = table.in_state(state)
    before = table.item(event.event_id)
    assert store.put(replace(event, claim_id="d" * 32)) == WriteResult(False, event)
    assert table.item(event.event_id) == before


PAYLOADS = [
    "{}",
    '{"z":1,"a":2,"a2":""}',
    '{"n":[1e5,1.0,0.1,-0.0,1E+300]}',
    f'{{"n":{"9" * 4300}}}',
    '{"t":"é \U0001f511 \\u0000 \\" \u2028 \x7f"}',
    '{"t":"' + "x" * 256 * 1024 + '"}',
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_payload_and_metadata_come_back_byte_for_byte(payload: str, store: EventStore, table: Table) -> None:
    event = table.event(payload=payload, metadata=payload if len(payload) < 9999 else "null")
    store.put(event)
    claimed = store.claim(event.event_id, "d" * 32).event
    found = [claimed, store.get(event.event_id), store.get_many([event.event_id])[event.event_id]]
    assert [each and (each.payload, each.metadata) for each in found] == [(event.payload, event.metadata)] * 3


# Meanwhile


def test_of_many_who_claim_at_once_one_does(store: EventStore, table: Table) -> None:
    event = table.stored()
    claims = [f"{number:032x}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda claim: store.claim(event.event_id, claim), claims))
    (winner,) = [claim for claim, each in zip(claims, written, strict=True) if each.applied]
    assert (table.now(event).claim_id, table.now(event).delivery_attempts) == (winner, 4)


def test_of_many_sweeps_that_saw_the_same_one_marks(store: EventStore, table: Table) -> None:
    event = table.stored()
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda _: store.mark_requeued(event.event_id, event.requeue_at or ""), range(8)))
    assert [each.applied for each in written].count(True) == 1


def test_a_claim_whose_answer_was_lost_until_another_took_it_was_not_made(
    store: EventStore, table: Table, during: During
) -> None:
    def another() -> None:
        table.clock.sleep(60.1)
        assert store.claim(event.event_id, "e" * 32).applied

    event = table.stored()
    lose_an_answer(during, table, another)
    written = store.claim(event.event_id, "d" * 32)
    assert (written.applied, written.event) == (False, table.now(event))


def test_what_was_acknowledged_while_the_answer_of_its_claim_was_lost_is_not_pushed(
    shared_world: World, table: Table, during: During, receiver: Receiver, make_push: MakePush
) -> None:
    services = replace(shared_world.services, push=make_push(receiver.url))
    event = table.stored()
    lose_an_answer(during, table, lambda: services.store.acknowledge(event.event_id))
    delivery.deliver(event.event_id, services, Patience(wait_seconds=0, last_start=table.clock()))
    assert (table.now(event).delivered_via, receiver.requests) == (DeliveredVia.PULL, [])


def test_what_was_acknowledged_while_the_answer_of_its_put_was_lost_is_not_pushed(
    shared_world: World, table: Table, during: During, receiver: Receiver, make_push: MakePush
) -> None:
    event_id = table.event().event_id
    ids = iter((event_id.removeprefix("evt_"), "d" * 32))
    services = replace(shared_world.services, push=make_push(receiver.url), new_id=lambda: next(ids))
    lose_an_answer(during, table, lambda: services.store.acknowledge(event_id))
    new = parse_new_event(b'{"event_type":"t","payload":{}}')
    accepted, is_repeated = delivery.accept(new, services, created_by="acme", idempotency_key=None, respond_async=False)
    assert (accepted.event_id, is_repeated, receiver.requests) == (event_id, False, [])


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("other", ["claim", "replay"])
def test_a_record_is_refused_once_another_took_over_and_leaves_it_alone(
    other: str, name: str, store: EventStore, table: Table
) -> None:
    event = table.in_state("claim ran out")
    theirs = TRANSITIONS[other].write(store, event).event
    assert RECORDS[name].write(store, event.with_attempt(ATTEMPT)) == WriteResult(False, theirs)
    assert table.now(event) == theirs


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_after_an_acknowledgement_is_refused_but_tells_of_the_attempt_and_gives_the_claim_up(
    name: str, store: EventStore, table: Table
) -> None:
    event = table.in_state("acknowledged during a push")
    after = event.with_attempt(replace(ATTEMPT, status_code=500))
    assert RECORDS[name].write(store, after) == WriteResult(False, event)
    assert table.now(event) == replace(after, claimed_until=None)


def test_a_record_carries_the_attempts(store: EventStore, table: Table) -> None:
    event = table.in_state("claimed").with_attempt(replace(ATTEMPT, status_code=500))
    store.record_retry(event, 1, message_follows=True)
    assert table.now(event).attempts == event.attempts


# Reading


@pytest.mark.parametrize("state", STATES)
def test_what_is_absent_or_has_expired_is_not_read(state: str, store: EventStore, table: Table) -> None:
    event = table.in_state(state)
    there = table.present(event)
    assert store.get(event.event_id) == there
    assert store.get_many([event.event_id]) == ({event.event_id: there} if there else {})


def test_a_hundred_are_read_at_once_and_none_too(store: EventStore, table: Table) -> None:
    events = {event.event_id: event for event in (table.stored() for _ in range(100))}
    assert store.get_many(list(events)) == events
    assert store.get_many([]) == {}


def test_what_dynamodb_left_unread_is_asked_for_again(store: EventStore, table: Table, during: During) -> None:
    def leave_all_but_one(parsed: dict[str, Any], **_: Any) -> None:
        left = parsed["Responses"][table.name][1:]
        parsed["Responses"][table.name][1:] = []
        if left:
            parsed["UnprocessedKeys"] = {table.name: {"Keys": [{"event_id": item["event_id"]} for item in left]}}

    during(table.client, "after-call.dynamodb.BatchGetItem", leave_all_but_one)
    events = {event.event_id: event for event in (table.stored() for _ in range(4))}
    assert store.get_many(list(events)) == events


def test_a_table_that_gives_nothing_is_not_asked_for_ever(store: EventStore, table: Table, during: During) -> None:
    def leave_all(parsed: dict[str, Any], **_: Any) -> None:
        keys = [{"event_id": item["event_id"]} for item in parsed["Responses"][table.name]]
        parsed |= {"Responses": {}, "UnprocessedKeys": {table.name: {"Keys": keys}}}

    during(table.client, "after-call.dynamodb.BatchGetItem", leave_all)
    with pytest.raises(StorageUnavailableError):
        store.get_many([table.stored().event_id])


# All of them

METHODS: dict[str, Callable[[EventStore, Event], object]] = {
    **{name: transition.write for name, transition in TRANSITIONS.items()},
    "put": lambda store, event: store.put(event),
    "get": lambda store, event: store.get(event.event_id),
    "get_many": lambda store, event: store.get_many([event.event_id]),
    "query": lambda store, event: store.query("pending#0", "", {}),
}


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "not now: secret-payload"}}, "SomeOperation")


CODES = (
    *("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "InternalServerError"),
    *("ServiceUnavailable", "ResourceNotFoundException", "ValidationException", "AccessDeniedException"),
)
URL = "https://dynamodb.example/"
FAULTS: dict[str, Exception] = {code: client_error(code) for code in CODES} | {
    kind.__name__: kind(endpoint_url=URL)
    for kind in (ConnectTimeoutError, ReadTimeoutError, EndpointConnectionError, ConnectionClosedError)
}
FAULTS["ResponseParserError"] = ResponseParserError("not what AWS says")


@pytest.mark.parametrize(
    ("name", "fault"), [*((name, "ThrottlingException") for name in METHODS), *(("claim", fault) for fault in FAULTS)]
)
def test_whatever_fails_in_dynamodb_is_one_error_and_one_line(
    name: str, fault: str, store: EventStore, table: Table, during: During, log_lines: LogLines
) -> None:
    def fail(**_: Any) -> None:
        raise FAULTS[fault]

    event = table.stored()
    during(table.client, "before-call.dynamodb", fail)
    with pytest.raises(StorageUnavailableError) as caught:
        METHODS[name](store, event)
    (line,) = log_lines()
    assert (line["level"], line["message"], line["error"]) == ("WARNING", "dynamodb failed", fault)
    assert "secret" not in str(caught.value) + str(line)


@pytest.mark.parametrize(
    ("state", "name", "fields"),
    [
        ("claimed", "record delivered", {"to": "delivered", "via": "push"}),
        ("claimed", "record failed", {"to": "failed", "reason": "permanent"}),
        ("due", "acknowledge", {"to": "delivered", "via": "pull"}),
        ("failed", "replay", {"to": "pending", "reason": "replay"}),
    ],
)
def test_each_change_of_status_is_a_line_and_none_is_told_twice(
    state: str, name: str, fields: dict[str, str], store: EventStore, table: Table, log_lines: LogLines
) -> None:
    event = table.in_state(state)
    TRANSITIONS[name].write(store, event)
    (line,) = log_lines()
    assert (line["message"], line["event_id"]) == ("status changed", event.event_id)
    assert fields.items() <= line.items()
    TRANSITIONS[name].write(store, table.in_state("acknowledged during a push"))  # refused
    lines = [line, *log_lines()]
    assert [line["message"] for line in lines].count("status changed") == 1
    assert "secret" not in str(lines)
