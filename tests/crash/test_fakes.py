"""The fakes are worth what is proven with them: they answer as moto does, and as AWS does where moto does not."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from chalicelib import listing
from chalicelib.store import EventStore
from chalicelib.errors import StorageUnavailableError
from chalicelib.events import Attempt, Event, Reason, Status, rfc3339
from chalicelib.store import SHARDS, partition, partition_of
from chalicelib.listing import Query
from chalicelib.queue import Queue
from tests.support.fake_aws import DELAYED, IN_FLIGHT, VISIBLE, FakeDynamoDB, FakeSQS
from tests.support.world import START, Clock, World

INBOX, DLQ = "https://sqs.test/inbox", "https://sqs.test/dlq"
REDRIVE_AFTER = 5
REPEATABLE = settings(deadline=None, derandomize=True, phases=[Phase.generate])  # moto is too slow for shrinking
KEY = {"event_id": {"S": "evt_1"}}


# ---- DynamoDB, the store and the listings on both


def new_event(number: int, now: float, **fields: Any) -> Event:
    event = Event(
        event_id=f"evt_{number:032x}",
        event_type="order.created" if number % 3 else "order.paid",
        status=Status.PENDING,
        created_at=rfc3339(now),
        created_by="acme",
        expires_at=int(now) + 86_400,
        size=40,
        payload='{"name":"Zoë"}',
        body_hash="0" * 64,
        delivery_attempts=1,
        next_attempt_at=rfc3339(now),
        requeue_at=rfc3339(now + 60),
        claim_id="a",
    )
    return replace(event, **fields)


def empty_table(world: World) -> FakeDynamoDB:
    """Empty moto's table, and return a fake that is like it."""
    world.clock.now = START
    table = world.environ["EVENTS_TABLE_NAME"]
    for event_id in moto_items(world):
        world.dynamodb.delete_item(TableName=table, Key={"event_id": {"S": event_id}})
    return FakeDynamoDB(world.clock)


def stores(world: World) -> tuple[FakeDynamoDB, EventStore, EventStore]:
    fake, table = empty_table(world), world.environ["EVENTS_TABLE_NAME"]
    on_fake, on_moto = (EventStore(client, table, clock=world.clock) for client in (fake, world.dynamodb))
    return fake, on_fake, on_moto


def moto_items(world: World) -> dict[str, Any]:
    items = world.dynamodb.scan(TableName=world.environ["EVENTS_TABLE_NAME"])["Items"]
    return {item["event_id"]["S"]: item for item in items}


def recorded(record: Callable[[EventStore, Event], Any]) -> Callable[..., Any]:
    """Return a step that records the outcome of a push under the claim drawn, whoever holds the event's."""

    def step(store: EventStore, now: float, number: int, claim: str) -> Any:
        event = store.get(f"evt_{number:032x}")
        attempt = Attempt(rfc3339(now), "retry", 503, None, 12)
        return event and record(store, replace(event, claim_id=claim).with_attempt(attempt))

    return step


STEPS: dict[str, Callable[[EventStore, float, int, str], Any]] = {
    "put": lambda store, now, number, claim: store.put(new_event(number, now, claim_id=claim)),
    "put claimed": lambda store, now, number, claim: store.put(
        new_event(number, now, claim_id=claim, claimed_until=rfc3339(now + 60))
    ),
    "claim": lambda store, now, number, claim: store.claim(f"evt_{number:032x}", claim),
    "delivered": recorded(lambda store, event: store.record_delivered(event)),
    "retry": recorded(lambda store, event: store.record_retry(event, 5, message_follows=True)),
    "failed": recorded(
        lambda store, event: store.record_failed(replace(event, reason=Reason.EXHAUSTED, failed_at="then"))
    ),
    "acknowledge": lambda store, now, number, claim: store.acknowledge(f"evt_{number:032x}"),
    "replay": lambda store, now, number, claim: store.replay(f"evt_{number:032x}", claim, expires_at=int(now) + 900),
    "replay a failure": lambda store, now, number, claim: store.replay(
        f"evt_{number:032x}", claim, expires_at=int(now) + 900, failed_at="then"
    ),
    "requeue": lambda store, now, number, claim: store.mark_requeued(f"evt_{number:032x}", rfc3339(START + 60)),
    "get many": lambda store, now, number, claim: store.get_many([f"evt_{each:032x}" for each in range(number + 1)]),
}
A_STEP = st.tuples(
    st.sampled_from(sorted(STEPS)), st.integers(0, 1), st.sampled_from("ab"), st.sampled_from([0, 0, 0.5, 61, 1000])
)


@settings(REPEATABLE, max_examples=15)
@given(steps=st.lists(A_STEP, min_size=8, max_size=16))
def test_a_life_of_events_goes_the_same_on_both(steps: list[tuple[str, int, str, float]], shared_world: World) -> None:
    fake, on_fake, on_moto = stores(shared_world)
    for name, number, claim, seconds in steps:
        now = shared_world.clock()
        assert STEPS[name](on_fake, now, number, claim) == STEPS[name](on_moto, now, number, claim), name
        shared_world.clock.sleep(seconds)
    assert fake.items() == moto_items(shared_world)


@pytest.fixture(scope="module")
def filled(shared_world: World) -> tuple[FakeDynamoDB, EventStore, EventStore]:
    """Both stores with 48 events of every status and either type, some of them delivered since they were stored."""
    fake, *both = stores(shared_world)
    for number in range(48):
        claimed_until = rfc3339(START + 60) if number % 5 == 0 else None
        status = list(Status)[number % 7 % 3]
        event = new_event(number, START + number % 40 * 1.5, status=status, claimed_until=claimed_until)
        for store in both:
            store.put(event)
            if number % 4 == 0:
                store.acknowledge(event.event_id)
    return fake, both[0], both[1]


def walk(page: Callable[..., listing.Page], store: EventStore, query: Query) -> list[Event]:
    """Return all that a listing holds, page by page."""
    events: list[Event] = []
    while True:
        found = page(store, query, now=START + 30)
        events += found.events
        if found.next_cursor is None:
            return events
        query = replace(query, after=listing._decode_cursor(found.next_cursor))


@pytest.mark.parametrize("page_rows", [None, 2])
@pytest.mark.parametrize(
    ("page", "query"),
    [
        (listing.events_page, Query(tuple(Status), newest_first=True, limit=10)),
        (listing.events_page, Query((Status.DELIVERED,), newest_first=False, limit=3)),
        (listing.events_page, Query((Status.FAILED,), newest_first=True, limit=1)),
        (listing.events_page, Query(tuple(Status), newest_first=False, event_type="order.paid")),
        (listing.inbox_page, Query((Status.PENDING, Status.FAILED), newest_first=False, limit=7)),
    ],
)
def test_a_listing_shows_the_same_on_both(
    filled: tuple[FakeDynamoDB, EventStore, EventStore],
    page: Callable[..., listing.Page],
    query: Query,
    page_rows: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake, on_fake, on_moto = filled
    if page_rows:
        monkeypatch.setattr(fake, "page_rows", page_rows)
    found = walk(page, on_fake, query)
    assert len(found) > 5
    assert found == walk(page, on_moto, query)


@pytest.mark.parametrize("seconds", [30, 90, 110])
def test_a_sweep_finds_the_same_on_both(filled: tuple[FakeDynamoDB, EventStore, EventStore], seconds: float) -> None:
    _, *both = filled
    ours, theirs = (
        [found for shard in range(SHARDS) for found in listing.overdue(store, shard, now=START + seconds)]
        for store in both
    )
    assert ours == theirs
    assert any(ours) == (seconds > 60)


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("comparison", ["<", ">"])
def test_a_page_of_the_index_is_the_same_on_both(
    filled: tuple[FakeDynamoDB, EventStore, EventStore], comparison: str, forward: bool
) -> None:
    _, *both = filled
    for shard in range(SHARDS):
        bound = {":after": f"{rfc3339(START + 30)}#evt_{20:032x}"}
        ours, theirs = (
            store.query(
                partition(Status.PENDING, shard), f" AND sort_key {comparison} :after", bound, ScanIndexForward=forward
            )
            for store in both
        )
        assert ours["Items"] == theirs["Items"]
        assert (ours["Count"], ours["ScannedCount"]) == (theirs["Count"], theirs["ScannedCount"])


@pytest.mark.parametrize("forward", [True, False])
def test_page_after_page_shows_every_row_of_the_index_once(
    filled: tuple[FakeDynamoDB, EventStore, EventStore], forward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, on_fake, on_moto = filled
    monkeypatch.setattr(fake, "page_rows", 2)
    for shard in range(SHARDS):
        place = partition(Status.DELIVERED, shard)
        pages = [on_fake.query(place, "", {}, ScanIndexForward=forward)]
        while "LastEvaluatedKey" in pages[-1]:
            position = pages[-1]["LastEvaluatedKey"]
            pages.append(on_fake.query(place, "", {}, ScanIndexForward=forward, ExclusiveStartKey=position))
        assert max(page["Count"] for page in pages) <= 2
        rows = [row for page in pages for row in page["Items"]]
        assert rows == on_moto.query(place, "", {}, ScanIndexForward=forward)["Items"]


# ---- DynamoDB, call by call

ITEM = {**KEY, "s": {"S": "m"}, "n": {"N": "9"}}


def write(client: Any, table: str, condition: str, update: str, values: Mapping[str, str | int]) -> Any:
    """Put ITEM and update it; return it as it is after that, or the error's code."""
    client.put_item(TableName=table, Item=ITEM, ConditionExpression="attribute_not_exists(#never)", **NEVER)
    expressions = f"{condition} {update}"
    names = {f"#{name}": name for name in ("s", "n", "absent") if f"#{name}" in expressions}
    used = {f":{name}": {"N": str(value)} if isinstance(value, int) else {"S": value} for name, value in values.items()}
    try:
        return client.update_item(
            TableName=table,
            Key=KEY,
            ConditionExpression=condition,
            UpdateExpression=update,
            ExpressionAttributeValues=used,
            ReturnValues="ALL_NEW",
            **({"ExpressionAttributeNames": names} if names else {}),
        )["Attributes"]
    except ClientError as error:
        return error.response["Error"]["Code"]


NEVER = {"ExpressionAttributeNames": {"#never": "never"}}
HOLDS, REFUSED, INVALID = {**ITEM, "done": {"S": "x"}}, "ConditionalCheckFailedException", "ValidationException"


@pytest.mark.parametrize(
    ("condition", "values", "expected"),
    [
        ("attribute_exists(s)", {}, HOLDS),
        ("attribute_exists(absent)", {}, REFUSED),
        ("attribute_not_exists(#absent)", {}, HOLDS),
        ("attribute_not_exists(#s)", {}, REFUSED),
        ("s = :v", {"v": "m"}, HOLDS),
        ("s = :v", {"v": "M"}, REFUSED),
        ("n < :v", {"v": 10}, HOLDS),  # as text it would not be
        ("n < :v", {"v": 9}, REFUSED),
        ("n <= :v", {"v": 9}, HOLDS),
        ("n > :v", {"v": 10}, REFUSED),
        ("n >= :v", {"v": 9}, HOLDS),
        ("#s > :v", {"v": "l"}, HOLDS),
        ("absent < :v", {"v": "x"}, REFUSED),
        ("absent >= :v", {"v": "x"}, REFUSED),
        ("n = :v", {"v": "9"}, REFUSED),
        ("#s IN (:v, :w)", {"v": "a", "w": "m"}, HOLDS),
        ("s IN (:v)", {"v": "mm"}, REFUSED),
        ("absent IN (:v)", {"v": "m"}, REFUSED),
        ("s = :v OR n = :w AND absent = :w", {"v": "m", "w": 0}, HOLDS),
        ("(s = :v OR n = :w) AND absent = :w", {"v": "m", "w": 0}, REFUSED),
        ("s = :v AND (attribute_not_exists(absent) OR absent < :v)", {"v": "m"}, HOLDS),
    ],
)
def test_a_condition_means_the_same_on_both(
    condition: str, values: dict[str, str | int], expected: Any, shared_world: World
) -> None:
    fake, table = empty_table(shared_world), shared_world.environ["EVENTS_TABLE_NAME"]
    assert write(fake, table, condition, "SET done = :done", {"done": "x", **values}) == expected
    assert write(shared_world.dynamodb, table, condition, "SET done = :done", {"done": "x", **values}) == expected


@pytest.mark.parametrize(
    ("update", "values", "expected"),
    [
        ("SET #s = :v, more = :w", {"v": "z", "w": 1}, {**ITEM, "s": {"S": "z"}, "more": {"N": "1"}}),
        ("REMOVE #s, absent", {}, {**KEY, "n": {"N": "9"}}),
        ("ADD n :v", {"v": 2}, {**ITEM, "n": {"N": "11"}}),
        ("ADD absent :v", {"v": 2}, {**ITEM, "absent": {"N": "2"}}),
        ("SET a = :v REMOVE s ADD n :w", {"v": "z", "w": 1}, {**KEY, "a": {"S": "z"}, "n": {"N": "10"}}),
        ("SET #s = :v REMOVE s", {"v": "z"}, INVALID),
        ("SET event_id = :v", {"v": "z"}, INVALID),
        ("SET s = :v", {"v": "z" * 409_600}, INVALID),
    ],
)
def test_an_update_does_the_same_on_both(
    update: str, values: dict[str, str | int], expected: Any, shared_world: World
) -> None:
    fake, table = empty_table(shared_world), shared_world.environ["EVENTS_TABLE_NAME"]
    assert write(fake, table, "n = :nine", update, {"nine": 9, **values}) == expected
    assert write(shared_world.dynamodb, table, "n = :nine", update, {"nine": 9, **values}) == expected


@pytest.mark.parametrize(
    "expressions",
    [
        {"ConditionExpression": "s = :v", "ExpressionAttributeValues": {":v": {"S": "x"}, ":unused": {"S": "x"}}},
        {"ConditionExpression": "s = :v AND n = :w", "ExpressionAttributeValues": {":v": {"S": "x"}}},
        {"ConditionExpression": "s = :v"},
        {"ConditionExpression": "attribute_exists(s)", "ExpressionAttributeNames": {"#unused": "n"}},
        {"ConditionExpression": "attribute_exists(#s)"},
        {"ConditionExpression": "attribute_exists(s)", "ExpressionAttributeValues": {}},
        {"ConditionExpression": "attribute_exists(s)", "ExpressionAttributeNames": {}},
    ],
)
def test_placeholders_must_be_exactly_those_that_are_used(expressions: dict[str, Any], clock: Clock) -> None:
    """DynamoDB says so; moto does not always."""
    with pytest.raises(ClientError, match=INVALID):
        FakeDynamoDB(clock).put_item(TableName="t", Item=KEY, **expressions)


@pytest.mark.parametrize(
    "condition", ["begins_with(s, :v)", "NOT s = :v", "s <> :v", "s BETWEEN :v AND :v", "size(s) > :v"]
)
def test_what_the_fake_does_not_know_is_refused_and_not_guessed(condition: str, clock: Clock) -> None:
    values = {":v": {"S": "x"}}
    with pytest.raises(NotImplementedError):
        FakeDynamoDB(clock).put_item(
            TableName="t", Item=KEY, ConditionExpression=condition, ExpressionAttributeValues=values
        )


def test_an_item_over_400_kb_is_refused_before_its_condition_is_looked_at(clock: Clock) -> None:
    store = EventStore(FakeDynamoDB(clock), "t", clock=clock)
    store.put(new_event(1, clock(), payload="ë" * 204_000))
    with pytest.raises(StorageUnavailableError):
        store.put(new_event(1, clock(), payload="ë" * 205_000))


def test_an_update_that_would_make_an_item_too_large_changes_nothing(clock: Clock) -> None:
    fake = FakeDynamoDB(clock)
    assert write(fake, "t", "n = :nine", "SET s = :v", {"nine": 9, "v": "z" * 409_600}) == INVALID
    assert fake.items() == {"evt_1": ITEM}


def test_a_refused_write_shows_the_item_only_to_who_asks(clock: Clock) -> None:
    fake = FakeDynamoDB(clock)
    fake.put_item(TableName="t", Item=ITEM, ConditionExpression="attribute_not_exists(event_id)")
    shown = []
    for wanted in ("ALL_OLD", "NONE"):
        with pytest.raises(ClientError) as refused:
            fake.put_item(
                TableName="t",
                Item=KEY,
                ConditionExpression="attribute_not_exists(event_id)",
                ReturnValuesOnConditionCheckFailure=wanted,
            )
        shown.append(refused.value.response.get("Item"))
    assert shown == [ITEM, None]


def test_what_is_given_and_what_is_answered_is_not_what_is_stored(clock: Clock) -> None:
    fake, given = FakeDynamoDB(clock), {**KEY, "s": {"S": "m"}}
    fake.put_item(TableName="t", Item=given, ConditionExpression="attribute_not_exists(event_id)")
    given["s"]["S"] = "changed"
    fake.get_item(TableName="t", Key=KEY, ConsistentRead=True)["Item"]["s"]["S"] = "changed"
    fake.items()["evt_1"]["s"]["S"] = "changed"
    assert fake.items() == {"evt_1": {**KEY, "s": {"S": "m"}}}


def test_a_batch_of_keys_holds_none_twice_and_at_most_100(clock: Clock) -> None:
    store = EventStore(FakeDynamoDB(clock), "t", clock=clock)
    for keys in (["evt_1", "evt_1"], [f"evt_{number}" for number in range(101)]):
        with pytest.raises(StorageUnavailableError):
            store.get_many(keys)


@pytest.fixture
def row(clock: Clock) -> tuple[FakeDynamoDB, EventStore, str]:
    """A table with one event, and the partition of the index that it is in."""
    fake = FakeDynamoDB(clock)
    store = EventStore(fake, "t", clock=clock)
    store.put(new_event(1, clock()))
    return fake, store, partition_of(f"evt_{1:032x}", Status.PENDING)


def test_the_index_shows_what_it_projects_and_refuses_to_be_asked_for_more(
    row: tuple[FakeDynamoDB, EventStore, str],
) -> None:
    _, store, place = row
    (shown,) = store.query(place, "", {})["Items"]
    assert {"event_id", "status_shard", "sort_key", "event_type", "requeue_at"} <= shown.keys()
    assert shown.keys().isdisjoint({"payload", "metadata", "attempts"})
    with pytest.raises(StorageUnavailableError):
        store.query(place, "", {}, ProjectionExpression="event_id, payload")


def test_a_query_names_what_it_wants_and_gets_no_more(row: tuple[FakeDynamoDB, EventStore, str]) -> None:
    _, store, place = row
    answer = store.query(
        place,
        "",
        {":type": "order.created"},
        FilterExpression="#type = :type",
        ProjectionExpression="event_id, #type, delivered_at",
        ExpressionAttributeNames={"#type": "event_type"},
    )
    assert answer["Items"] == [{"event_id": {"S": f"evt_{1:032x}"}, "event_type": {"S": "order.created"}}]


def test_a_page_that_is_just_full_says_that_there_may_be_more(row: tuple[FakeDynamoDB, EventStore, str]) -> None:
    """DynamoDB does; moto does not."""
    _, store, place = row
    assert "LastEvaluatedKey" not in store.query(place, "", {}, Limit=2)
    full = store.query(place, "", {}, Limit=1)
    rest = store.query(place, "", {}, Limit=1, ExclusiveStartKey=full["LastEvaluatedKey"])
    assert rest == {"Items": [], "Count": 0, "ScannedCount": 0}


def test_rows_that_the_filter_drops_count_for_the_limit(row: tuple[FakeDynamoDB, EventStore, str]) -> None:
    _, store, place = row
    answer = store.query(place, "", {":none": "no.such"}, FilterExpression="event_type = :none", Limit=1)
    assert (answer["Count"], answer["ScannedCount"]) == (0, 1)
    assert "LastEvaluatedKey" in answer


def test_an_index_that_lags_shows_the_table_as_it_was(row: tuple[FakeDynamoDB, EventStore, str], clock: Clock) -> None:
    fake, store, place = row
    fake.index_lag_seconds = 5
    store.acknowledge(f"evt_{1:032x}")
    clock.sleep(4.9)
    assert store.query(place, "", {})["Count"] == 1
    clock.sleep(0.1)
    assert store.query(place, "", {})["Count"] == 0


class Turnstile:
    """A clock that lets other threads run while it is asked, and counts who asks at the same time."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0

    def __call__(self) -> float:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0)
        self.inside -= 1
        return START


def test_threads_take_turns() -> None:
    clocks = Turnstile(), Turnstile()
    fake, sqs = FakeDynamoDB(clocks[0]), FakeSQS(clocks[1])
    sqs.queue(INBOX)

    def call(_: int) -> None:
        fake.update_item(
            TableName="t",
            Key=KEY,
            UpdateExpression="ADD n :one",
            ConditionExpression="attribute_not_exists(never)",
            ExpressionAttributeValues={":one": {"N": "1"}},
        )
        sqs.send_message(QueueUrl=INBOX, MessageBody="x")
        received.extend(sqs.receive_message(QueueUrl=INBOX)["Messages"])

    received: list[dict[str, Any]] = []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(400)))
    assert [clock.most for clock in clocks] == [1, 1]
    assert fake.items()["evt_1"]["n"] == {"N": "400"}
    assert len({message["MessageId"] for message in received}) == len(sqs.messages(INBOX)) == 400


# ---- SQS, the queue on both


@dataclass
class Side:
    """A queue and its DLQ on one of both, and the last receipt handle of every body."""

    inbox: Queue
    dlq: Queue
    handles: dict[str, str] = field(default_factory=dict)

    def drain(self, queue: Queue, most: int) -> list[tuple[str, str]]:
        """Receive all that is visible: SQS promises no order, and which it gives first is its own affair."""
        drained: list[dict[str, Any]] = []
        parameters = {"QueueUrl": queue._url, "MaxNumberOfMessages": most, "MessageAttributeNames": ["All"]}
        while received := queue._client.receive_message(**parameters, WaitTimeSeconds=0).get("Messages"):
            drained += received
        self.handles |= {message["Body"]: message["ReceiptHandle"] for message in drained}
        return sorted((message["Body"], message["MessageAttributes"]["Delay"]["StringValue"]) for message in drained)

    def depths(self) -> list[dict[str, str]]:
        """Return how many messages either queue holds that are visible, in flight, delayed."""
        names = [VISIBLE, IN_FLIGHT, DELAYED]
        answers = [
            queue._client.get_queue_attributes(QueueUrl=queue._url, AttributeNames=names)
            for queue in (self.inbox, self.dlq)
        ]
        return [answer["Attributes"] for answer in answers]

    def delete(self, bodies: Sequence[str]) -> None:
        if bodies:
            self.inbox.delete_many([self.handles.pop(body) for body in bodies])


def sides(world: World) -> tuple[FakeSQS, Side, Side]:
    """Empty moto's queues, and return a fake that is like them, and both to be asked."""
    inbox, dlq = world.environ["INBOX_QUEUE_URL"], world.environ["INBOX_DLQ_URL"]
    fake = FakeSQS(world.clock)
    fake.queue(dlq, visibility_timeout=30)
    fake.queue(inbox, visibility_timeout=300, redrive=(dlq, REDRIVE_AFTER))
    world.clock.sleep(60)  # a queue is purged once a minute at most
    for url in (inbox, dlq):
        world.sqs.purge_queue(QueueUrl=url)
    ours, theirs = (Side(Queue(client, inbox), Queue(client, dlq)) for client in (fake, world.sqs))
    return fake, ours, theirs


# No sum of these seconds is a timeout or a delay: at that very moment a message is not visible in moto yet.
A_ROUND = st.tuples(
    st.lists(st.sampled_from([0, 0, 5, 29.5, 900]), max_size=4),
    st.sampled_from([1.1, 60.3, 301.7, 301.7, 900.7]),
    st.sampled_from([3, 10]),
    st.integers(0, 2),
)


@settings(REPEATABLE, max_examples=15)
@given(rounds=st.lists(A_ROUND, min_size=7, max_size=9))
def test_a_life_of_messages_goes_the_same_on_both(
    rounds: list[tuple[list[float], float, int, int]], shared_world: World
) -> None:
    fake, *both = sides(shared_world)
    ours, theirs = both
    for number, (delays, seconds, most, deletions) in enumerate(rounds):
        messages = [(f"{number}.{at}", {"Delay": f"{delay}"}, delay) for at, delay in enumerate(delays)]
        for side in both:
            for message in messages[:-1]:
                side.inbox.send(*message)
            if messages:
                side.inbox.send_many([message[:2] for message in messages[-1:]])
        shared_world.clock.sleep(seconds)
        assert ours.drain(ours.inbox, most) == theirs.drain(theirs.inbox, most)
        assert ours.drain(ours.dlq, most) == theirs.drain(theirs.dlq, most)
        # With the latest handle, and what is still there: of others moto thinks otherwise than SQS.
        there = {message["Body"] for message in fake.messages(shared_world.environ["INBOX_QUEUE_URL"])}
        gone = [body for body in ours.handles if body in there][:deletions]
        for side in both:
            side.delete(gone)
        assert ours.depths() == theirs.depths()


# ---- SQS, call by call


@pytest.fixture
def sqs(clock: Clock) -> FakeSQS:
    fake = FakeSQS(clock)
    fake.queue(DLQ)
    fake.queue(INBOX, redrive=(DLQ, REDRIVE_AFTER))
    return fake


def receive(sqs: FakeSQS, url: str = INBOX, **parameters: Any) -> list[dict[str, Any]]:
    received: list[dict[str, Any]] = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, **parameters).get(
        "Messages", []
    )
    return received


def test_a_message_is_as_boto3_gives_it(sqs: FakeSQS) -> None:
    attributes = {"EventId": {"DataType": "String", "StringValue": "evt_1"}}
    sent = sqs.send_message(QueueUrl=INBOX, MessageBody="x", MessageAttributes=attributes)
    (bare,) = receive(sqs, VisibilityTimeout=0)
    (whole,) = receive(sqs, MessageAttributeNames=["All"])
    assert (bare["MessageId"], bare["Body"]) == (sent["MessageId"], "x")
    assert "MessageAttributes" not in bare
    assert whole["MessageAttributes"] == attributes
    assert bare["ReceiptHandle"] != whole["ReceiptHandle"]


def test_an_empty_answer_has_no_messages(sqs: FakeSQS) -> None:
    assert sqs.receive_message(QueueUrl=INBOX, WaitTimeSeconds=20) == {}


def test_a_delayed_message_becomes_visible_at_its_moment(sqs: FakeSQS, clock: Clock) -> None:
    sqs.send_message(QueueUrl=INBOX, MessageBody="x", DelaySeconds=900)
    assert sqs.next_change() == START + 900
    clock.sleep(899.9)
    assert receive(sqs) == []
    clock.sleep(0.1)
    assert len(receive(sqs)) == 1


def test_a_message_that_is_not_deleted_comes_back_after_the_visibility_timeout(sqs: FakeSQS, clock: Clock) -> None:
    sqs.send_message(QueueUrl=INBOX, MessageBody="x")
    assert sqs.next_change() is None
    (first,) = receive(sqs)
    assert sqs.next_change() == START + 300
    clock.sleep(299.9)
    assert receive(sqs) == []
    clock.sleep(0.1)
    (second,) = receive(sqs)
    assert first["MessageId"] == second["MessageId"]


def test_a_message_received_five_times_goes_to_the_dead_letter_queue_with_the_sixth(sqs: FakeSQS, clock: Clock) -> None:
    attributes = {"EventId": {"DataType": "String", "StringValue": "evt_1"}}
    sqs.send_message(QueueUrl=INBOX, MessageBody="x", MessageAttributes=attributes)
    for _ in range(REDRIVE_AFTER):
        assert len(receive(sqs)) == 1
        clock.sleep(300)
    assert sqs.messages(DLQ) == []
    assert receive(sqs) == sqs.messages(INBOX) == []
    (dead,) = receive(sqs, DLQ, MessageAttributeNames=["All"])
    assert (dead["Body"], dead["MessageAttributes"]) == ("x", attributes)


def test_a_receipt_handle_that_is_not_the_latest_deletes_nothing(sqs: FakeSQS, clock: Clock) -> None:
    sqs.send_message(QueueUrl=INBOX, MessageBody="x")
    (stale,) = receive(sqs)
    clock.sleep(300)
    (latest,) = receive(sqs)
    sqs.delete_message(QueueUrl=INBOX, ReceiptHandle=stale["ReceiptHandle"])
    assert len(sqs.messages(INBOX)) == 1
    sqs.delete_message(QueueUrl=INBOX, ReceiptHandle=latest["ReceiptHandle"])
    sqs.delete_message(QueueUrl=INBOX, ReceiptHandle=latest["ReceiptHandle"])
    assert sqs.messages(INBOX) == []
    assert sqs.next_change() is None


def test_a_message_that_is_visible_again_can_still_be_deleted(sqs: FakeSQS, clock: Clock) -> None:
    sqs.send_message(QueueUrl=INBOX, MessageBody="x")
    (received,) = receive(sqs)
    clock.sleep(300)
    assert Queue(sqs, INBOX).depth() == 1
    sqs.delete_message(QueueUrl=INBOX, ReceiptHandle=received["ReceiptHandle"])
    assert receive(sqs) == []


def test_a_fault_in_one_entry_of_a_batch_costs_no_other(sqs: FakeSQS) -> None:
    entries: list[dict[str, Any]] = [
        {"Id": "good", "MessageBody": "x"},
        {"Id": "late", "MessageBody": "y", "DelaySeconds": 901},
        {"Id": "empty", "MessageBody": ""},
    ]
    answer = sqs.send_message_batch(QueueUrl=INBOX, Entries=entries)
    assert [entry["Id"] for entry in answer["Successful"]] == ["good"]
    assert [entry["Id"] for entry in answer["Failed"]] == ["late", "empty"]
    (received,) = receive(sqs)
    handles = [{"Id": "good", "ReceiptHandle": received["ReceiptHandle"]}, {"Id": "bad", "ReceiptHandle": "?"}]
    answer = sqs.delete_message_batch(QueueUrl=INBOX, Entries=handles)
    assert ([entry["Id"] for entry in answer["Failed"]], sqs.messages(INBOX)) == (["bad"], [])


@pytest.mark.parametrize("count", [0, 11])
def test_a_batch_holds_one_to_ten(sqs: FakeSQS, count: int) -> None:
    entries = [{"Id": str(number), "MessageBody": "x"} for number in range(count)]
    with pytest.raises(ClientError):
        sqs.send_message_batch(QueueUrl=INBOX, Entries=entries)
    with pytest.raises(ClientError):
        sqs.receive_message(QueueUrl=INBOX, MaxNumberOfMessages=count)


def test_a_queue_that_was_not_made_is_not_there(sqs: FakeSQS) -> None:
    with pytest.raises(ClientError, match="NonExistentQueue"):
        sqs.send_message(QueueUrl="https://sqs.test/other", MessageBody="x")


def unreliable(clock: Clock, seed: int) -> list[str]:
    """Send 40 messages through a queue that reorders and repeats; return the bodies as they were received."""
    sqs = FakeSQS(clock, shuffle=Random(seed), duplicate_probability=0.3)
    sqs.queue(DLQ)
    sqs.queue(INBOX, redrive=(DLQ, REDRIVE_AFTER))
    for number in range(40):
        sqs.send_message(QueueUrl=INBOX, MessageBody=str(number))
    bodies = []
    while sqs.messages(INBOX):
        for message in receive(sqs):
            bodies.append(message["Body"])
            sqs.delete_message(QueueUrl=INBOX, ReceiptHandle=message["ReceiptHandle"])
        moment = sqs.next_change()
        clock.now = clock.now if moment is None else moment
    assert sqs.messages(DLQ) == []
    return bodies


def test_an_unreliable_queue_reorders_and_repeats_and_loses_nothing(clock: Clock) -> None:
    bodies = unreliable(clock, seed=1)
    assert set(bodies) == {str(number) for number in range(40)}
    assert len(bodies) > 45
    assert bodies[:40] != sorted(bodies[:40], key=int)


def test_an_unreliable_queue_repeats_itself_with_its_seed() -> None:
    assert unreliable(Clock(), seed=1) == unreliable(Clock(), seed=1) != unreliable(Clock(), seed=2)


def test_a_message_in_flight_may_come_to_another_as_well(clock: Clock) -> None:
    """Whoever had it first can then not delete it."""
    sqs = FakeSQS(clock, shuffle=Random(0), duplicate_probability=0.999)
    sqs.queue(INBOX)
    sqs.send_message(QueueUrl=INBOX, MessageBody="x")
    (first,) = receive(sqs)
    moment = sqs.next_change()
    assert moment is not None
    assert moment < START + 300
    clock.now = moment
    (second,) = receive(sqs)
    assert first["MessageId"] == second["MessageId"]
    sqs.delete_message(QueueUrl=INBOX, ReceiptHandle=first["ReceiptHandle"])
    assert len(sqs.messages(INBOX)) == 1


class Drawn(Random):
    """Draws what it is told to, over and over."""

    def __init__(self, *draws: float) -> None:
        super().__init__(0)
        self._draws = itertools.cycle(draws)

    def random(self) -> float:
        return next(self._draws)


def test_a_message_that_was_deleted_may_come_again_and_is_no_nearer_to_the_dead_letter_queue(clock: Clock) -> None:
    which, received_once, deleted_and_comes_again, half_the_timeout = 0.0, 0.9, 0.1, 0.5
    draws = Drawn(which, received_once, deleted_and_comes_again, half_the_timeout)
    sqs = FakeSQS(clock, shuffle=draws, duplicate_probability=0.2)
    sqs.queue(DLQ)
    sqs.queue(INBOX, redrive=(DLQ, REDRIVE_AFTER))
    sqs.send_message(QueueUrl=INBOX, MessageBody="x")
    for _ in range(2 * REDRIVE_AFTER):
        (message,) = receive(sqs)
        for _ in range(2):  # the second time it is gone for all that SQS knows
            sqs.delete_message(QueueUrl=INBOX, ReceiptHandle=message["ReceiptHandle"])
        assert sqs.next_change() == clock() + 150
        clock.sleep(150)
    assert sqs.messages(DLQ) == []
