import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
)

from chalicelib import delivery
from chalicelib.backoff import Patience
from chalicelib.dynamodb import EventStore, Written
from chalicelib.errors import StorageUnavailableError
from chalicelib.events import Attempt, Event, Reason, Status, Via, rfc3339
from chalicelib.items import attributes, event_of, typed
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
        current = event_of(item)
        assert item == typed(attributes(current))
        return current

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
    "delivered": lambda table: {**DELIVERED, "delivered_at": table.at(-5), "delivered_via": Via.PUSH},
    "acknowledged during a push": lambda table: {
        **DELIVERED,
        "delivered_at": table.at(-5),
        "delivered_via": Via.PULL,
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


def assert_refused(written: Written, event: Event, state: str, before: object, table: Table) -> None:
    """A refused write says what is there, and has changed nothing."""
    there = None if state.startswith("expired") or state == "absent" else event
    assert written == Written(False, there)
    assert table.item(event.event_id) == before


# Put


@pytest.mark.parametrize("changes", [{}, {"delivery_attempts": 0, "attempts": (), "claimed_until": None}])
def test_an_event_that_was_not_there_is_stored_whole(changes: dict[str, Any], store: EventStore, table: Table) -> None:
    event = table.event(**changes)
    assert store.put(event) == Written(True, event)
    assert table.now(event) == store.get(event.event_id) == event


@pytest.mark.parametrize("state", ["due", "claimed", "delivered", "failed"])
def test_a_put_is_refused_by_what_is_there(state: str, store: EventStore, table: Table) -> None:
    event = table.in_state(state)
    before = table.item(event.event_id)
    # The same but for the claim: so look two requests with one idempotency key.
    assert_refused(store.put(replace(event, claim_id="d" * 32)), event, state, before, table)


@pytest.mark.parametrize("state", ["expired", "expired and failed"])
def test_a_put_overwrites_what_has_expired(state: str, store: EventStore, table: Table) -> None:
    expired = table.in_state(state)
    event = table.event(event_id=expired.event_id, attempts=(), delivery_attempts=1)
    assert store.put(event) == Written(True, event)
    assert table.now(event) == event


@pytest.mark.parametrize("state", ["absent", "expired"])
def test_a_put_whose_answer_was_lost_was_done(state: str, store: EventStore, table: Table, during: During) -> None:
    event = table.event(event_id=table.in_state(state).event_id)
    lose_an_answer(during, table)
    assert store.put(event) == Written(True, event)


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


# Claim


@pytest.mark.parametrize("state", ["due", "due at this moment", "claim ran out"])
def test_a_due_event_is_claimed_for_a_minute_and_the_attempt_is_counted(
    state: str, store: EventStore, table: Table
) -> None:
    event = table.in_state(state)
    claimed = replace(
        event, claim_id="d" * 32, claimed_until=table.at(60), requeue_at=table.at(60), delivery_attempts=4
    )
    assert store.claim(event.event_id, "d" * 32) == Written(True, claimed)
    assert table.now(event) == claimed


@pytest.mark.parametrize("state", sorted(STATES.keys() - {"due", "due at this moment", "claim ran out"}))
def test_a_claim_is_refused_by_what_is_not_to_be_pushed_now(state: str, store: EventStore, table: Table) -> None:
    event = table.in_state(state)
    before = table.item(event.event_id)
    assert_refused(store.claim(event.event_id, "d" * 32), event, state, before, table)


def test_of_many_who_claim_at_once_one_does(store: EventStore, table: Table) -> None:
    event = table.stored()
    claims = [f"{number:032x}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda claim: store.claim(event.event_id, claim), claims))
    (winner,) = [claim for claim, each in zip(claims, written, strict=True) if each.done]
    assert (table.now(event).claim_id, table.now(event).delivery_attempts) == (winner, 4)


def test_a_claim_whose_answer_was_lost_was_done_and_counts_once(
    store: EventStore, table: Table, during: During
) -> None:
    event = table.stored()
    lose_an_answer(during, table)
    written = store.claim(event.event_id, "d" * 32)
    assert (written.done, written.event) == (True, table.now(event))
    assert table.now(event).delivery_attempts == 4


def test_a_claim_whose_answer_was_lost_for_so_long_that_another_took_it_was_not_done(
    store: EventStore, table: Table, during: During
) -> None:
    def another() -> None:
        table.clock.sleep(60.1)
        assert store.claim(event.event_id, "e" * 32).done

    event = table.stored()
    lose_an_answer(during, table, another)
    written = store.claim(event.event_id, "d" * 32)
    assert (written.done, written.event) == (False, table.now(event))


def test_what_was_acknowledged_while_the_answer_of_its_claim_was_lost_is_not_pushed(
    shared_world: World, table: Table, during: During, receiver: Receiver, make_push: MakePush
) -> None:
    services = replace(shared_world.services, push=make_push(receiver.url))
    event = table.stored()
    lose_an_answer(during, table, lambda: services.store.acknowledge(event.event_id))
    delivery.deliver(event.event_id, services, Patience(wait_seconds=0, last_start=table.clock()))
    assert (table.now(event).delivered_via, receiver.requests) == (Via.PULL, [])


def test_what_was_acknowledged_while_the_answer_of_its_put_was_lost_is_not_pushed(
    shared_world: World, table: Table, during: During, receiver: Receiver, make_push: MakePush
) -> None:
    event_id = table.event().event_id
    ids = iter((event_id.removeprefix("evt_"), "d" * 32))
    services = replace(shared_world.services, push=make_push(receiver.url), new_id=lambda: next(ids))
    lose_an_answer(during, table, lambda: services.store.acknowledge(event_id))
    new = parse_new_event(b'{"event_type":"t","payload":{}}')
    accepted = delivery.accept(new, services, created_by="acme", idempotency_key=None, respond_async=False)
    assert (accepted.event.event_id, accepted.replayed, receiver.requests) == (event_id, False, [])


# Record

Record = Callable[[EventStore, Event], Written]
RECORDS: dict[str, Record] = {
    "delivered": lambda store, event: store.record_delivered(event),
    "retry": lambda store, event: store.record_retry(event, 90.5, message_follows=True),
    "retry by the sweep": lambda store, event: store.record_retry(event, 1000, message_follows=False),
    "failed": lambda store, event: store.record_failed(replace(event, reason=Reason.PERMANENT, failed_at="then")),
}


def recorded(name: str, event: Event, table: Table) -> Event:
    """Return what a record makes of an event under its claim."""
    changes: dict[str, dict[str, Any]] = {
        "delivered": {**DELIVERED, "delivered_at": table.at(0), "delivered_via": Via.PUSH},
        "retry": {"next_attempt_at": table.at(90.5), "requeue_at": table.at(150.5)},
        "retry by the sweep": {"next_attempt_at": table.at(1000), "requeue_at": table.at(1000)},
        "failed": {**FAILED, "reason": Reason.PERMANENT, "failed_at": "then"},
    }
    return replace(event, claimed_until=None, **changes[name])


def pushed(table: Table, **changes: Any) -> tuple[Event, Event]:
    """Store a claimed event; return it, and as it is after a push, with one attempt more."""
    event = table.stored(claimed_until=table.at(30), **changes)
    return event, event.with_attempt(replace(ATTEMPT, status_code=500))


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("late_seconds", [0, 31], ids=["in time", "late, but nobody else took it"])
def test_an_outcome_is_recorded_under_the_claim_which_ends(
    late_seconds: float, name: str, store: EventStore, table: Table
) -> None:
    event, after = pushed(table)
    table.clock.sleep(late_seconds)
    assert RECORDS[name](store, after) == Written(True, recorded(name, after, table))
    assert table.now(event) == recorded(name, after, table)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_whose_answer_was_lost_was_done(name: str, store: EventStore, table: Table, during: During) -> None:
    event, after = pushed(table)
    lose_an_answer(during, table)
    assert RECORDS[name](store, after) == Written(True, recorded(name, after, table))
    assert table.now(event) == recorded(name, after, table)


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_refused_once_another_has_the_claim_and_leaves_it_alone(
    name: str, store: EventStore, table: Table
) -> None:
    event, after = pushed(table)
    table.clock.sleep(30.1)
    theirs = store.claim(event.event_id, "e" * 32).event
    assert RECORDS[name](store, after) == Written(False, theirs)
    assert table.now(event) == theirs


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_is_refused_after_a_replay_and_leaves_it_alone(name: str, store: EventStore, table: Table) -> None:
    event, after = pushed(table)
    table.clock.sleep(30.1)
    replayed = store.replay(event.event_id, "e" * 32, expires_at=event.expires_at).event
    assert RECORDS[name](store, after) == Written(False, replayed)
    assert table.now(event) == replayed


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_after_an_acknowledgement_is_refused_and_gives_the_claim_up(
    name: str, store: EventStore, table: Table
) -> None:
    event, after = pushed(table)
    store.acknowledge(event.event_id)
    acknowledged = table.now(event)
    assert acknowledged.claimed_until == event.claimed_until
    assert RECORDS[name](store, after) == Written(False, acknowledged)
    assert table.now(event) == replace(acknowledged, claimed_until=None)
    assert store.replay(event.event_id, "e" * 32, expires_at=event.expires_at).done


# Acknowledge


@pytest.mark.parametrize("state", ["due", "not due yet", "claimed", "claim ran out", "failed"])
def test_what_is_undelivered_is_acknowledged_and_a_running_push_keeps_its_claim(
    state: str, store: EventStore, table: Table
) -> None:
    event = table.in_state(state)
    assert store.acknowledge(event.event_id).done
    delivered: dict[str, Any] = {
        **DELIVERED,
        "delivered_at": table.at(0),
        "delivered_via": Via.PULL,
        "failed_at": None,
        "reason": None,
    }
    assert table.now(event) == replace(event, **delivered)


@pytest.mark.parametrize(
    "state", ["delivered", "acknowledged during a push", "expired", "expired and failed", "absent"]
)
def test_nothing_else_is_acknowledged(state: str, store: EventStore, table: Table) -> None:
    event = table.in_state(state)
    before = table.item(event.event_id)
    assert_refused(store.acknowledge(event.event_id), event, state, before, table)


def test_an_acknowledgement_whose_answer_was_lost_finds_it_delivered_by_pull(
    store: EventStore, table: Table, during: During
) -> None:
    event = table.stored()
    lose_an_answer(during, table)
    assert store.acknowledge(event.event_id).event == table.now(event)
    assert table.now(event).delivered_via is Via.PULL


# Replay


def replayed_of(event: Event, table: Table) -> Event:
    nothing: dict[str, Any] = dict.fromkeys(("claimed_until", "delivered_at", "delivered_via", "failed_at", "reason"))
    return replace(
        event,
        status=Status.PENDING,
        claim_id="d" * 32,
        delivery_attempts=0,
        next_attempt_at=table.at(0),
        requeue_at=table.at(60),
        replayed_at=table.at(0),
        expires_at=2_000_000_000,
        **nothing,
    )


@pytest.mark.parametrize("state", ["due", "not due yet", "claim ran out", "delivered", "failed"])
def test_a_replay_makes_an_event_of_any_status_pending_anew(state: str, store: EventStore, table: Table) -> None:
    event = table.in_state(state)
    written = store.replay(event.event_id, "d" * 32, expires_at=2_000_000_000)
    assert written == Written(True, replayed_of(event, table))
    assert table.now(event) == replayed_of(event, table)


@pytest.mark.parametrize(
    "state",
    ["claimed", "claimed to this moment", "acknowledged during a push", "expired", "expired and failed", "absent"],
)
def test_a_replay_is_refused_while_a_push_is_running_or_when_there_is_no_event(
    state: str, store: EventStore, table: Table
) -> None:
    event = table.in_state(state)
    before = table.item(event.event_id)
    written = store.replay(event.event_id, "d" * 32, expires_at=2_000_000_000)
    assert_refused(written, event, state, before, table)


def test_a_replay_whose_answer_was_lost_was_done(store: EventStore, table: Table, during: During) -> None:
    event = table.in_state("failed")
    lose_an_answer(during, table)
    written = store.replay(event.event_id, "d" * 32, expires_at=2_000_000_000, failed_at=event.failed_at)
    assert written == Written(True, replayed_of(event, table))


def test_a_dead_letter_replays_the_failure_it_tells_of(store: EventStore, table: Table) -> None:
    event = table.in_state("failed")
    written = store.replay(event.event_id, "d" * 32, expires_at=2_000_000_000, failed_at=event.failed_at)
    assert written == Written(True, replayed_of(event, table))


@pytest.mark.parametrize("state", sorted(STATES.keys() - {"failed"}))
def test_a_dead_letter_replays_nothing_but_a_failed_event(state: str, store: EventStore, table: Table) -> None:
    event = table.in_state(state)
    before = table.item(event.event_id)
    failed_at = event.failed_at or table.at(-5)
    written = store.replay(event.event_id, "d" * 32, expires_at=2_000_000_000, failed_at=failed_at)
    assert_refused(written, event, state, before, table)


def test_a_dead_letter_of_an_earlier_failure_replays_nothing(store: EventStore, table: Table) -> None:
    event = table.in_state("failed")
    before = table.item(event.event_id)
    written = store.replay(event.event_id, "d" * 32, expires_at=2_000_000_000, failed_at=table.at(-6))
    assert_refused(written, event, "failed", before, table)


# The sweep's mark


@pytest.mark.parametrize("state", ["due", "not due yet", "claimed", "claim ran out"])
def test_a_mark_moves_the_time_to_queue_and_nothing_else(state: str, store: EventStore, table: Table) -> None:
    event = table.in_state(state)
    assert store.mark_requeued(event.event_id, event.requeue_at or "").done
    assert table.now(event) == replace(event, requeue_at=table.at(60))


@pytest.mark.parametrize("state", ["delivered", "failed", "expired", "expired and failed", "absent"])
def test_a_mark_is_refused_by_what_is_not_pending(state: str, store: EventStore, table: Table) -> None:
    event = table.in_state(state)
    before = table.item(event.event_id)
    assert_refused(store.mark_requeued(event.event_id, table.at(59)), event, state, before, table)


def test_of_many_sweeps_that_saw_the_same_one_marks(store: EventStore, table: Table) -> None:
    event = table.stored()
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda _: store.mark_requeued(event.event_id, event.requeue_at or ""), range(8)))
    assert [each.done for each in written].count(True) == 1


# Reading


@pytest.mark.parametrize("state", STATES)
def test_what_is_absent_or_has_expired_is_not_read(state: str, store: EventStore, table: Table) -> None:
    event = table.in_state(state)
    there = not state.startswith("expired") and state != "absent"
    assert store.get(event.event_id) == (event if there else None)
    assert store.get_many([event.event_id]) == ({event.event_id: event} if there else {})


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

UPDATES: dict[str, Callable[[EventStore, Event], object]] = {
    **RECORDS,
    "claim": lambda store, event: store.claim(event.event_id, "d" * 32),
    "acknowledge": lambda store, event: store.acknowledge(event.event_id),
    "replay": lambda store, event: store.replay(event.event_id, "d" * 32, expires_at=2_000_000_000),
    "replay of a failure": lambda store, event: store.replay(event.event_id, "d", expires_at=1, failed_at="then"),
    "mark": lambda store, event: store.mark_requeued(event.event_id, event.requeue_at or ""),
}
METHODS: dict[str, Callable[[EventStore, Event], object]] = {
    **UPDATES,
    "put": lambda store, event: store.put(event),
    "get": lambda store, event: store.get(event.event_id),
    "get_many": lambda store, event: store.get_many([event.event_id]),
    "query": lambda store, event: store.query("pending#0", "", {}),
}


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_never_makes_an_event(name: str, store: EventStore, table: Table) -> None:
    event = table.event()
    UPDATES[name](store, event)
    assert table.item(event.event_id) is None


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "not now: secret-payload"}}, "SomeOperation")


CODES = (
    *("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded", "InternalServerError"),
    *("ServiceUnavailable", "ResourceNotFoundException", "ValidationException", "AccessDeniedException"),
)
URL = "https://dynamodb.example/"
FAULTS = {code: client_error(code) for code in CODES} | {
    kind.__name__: kind(endpoint_url=URL)
    for kind in (ConnectTimeoutError, ReadTimeoutError, EndpointConnectionError, ConnectionClosedError)
}


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


CHANGES = [
    ("claimed", "delivered", {"to": "delivered", "via": "push"}),
    ("claimed", "failed", {"to": "failed", "reason": "permanent"}),
    ("due", "acknowledge", {"to": "delivered", "via": "pull"}),
    ("failed", "replay", {"to": "pending", "reason": "replay"}),
]


@pytest.mark.parametrize(("state", "name", "fields"), CHANGES)
def test_each_change_of_status_is_a_line(
    state: str, name: str, fields: dict[str, str], store: EventStore, table: Table, log_lines: LogLines
) -> None:
    event = table.in_state(state)
    UPDATES[name](store, event)
    (line,) = log_lines()
    assert (line["message"], line["event_id"]) == ("status changed", event.event_id)
    assert fields.items() <= line.items()
    assert "secret" not in str(line)


@pytest.mark.parametrize(
    ("state", "name"), [("delivered", "acknowledge"), ("claimed", "replay"), ("absent", "delivered")]
)
def test_a_refused_change_of_status_is_not_told_as_one(
    state: str, name: str, store: EventStore, table: Table, log_lines: LogLines
) -> None:
    UPDATES[name](store, table.in_state(state))
    assert "status changed" not in [line["message"] for line in log_lines()]
