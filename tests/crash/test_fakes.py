"""The fakes prove as much as they are true: they do as moto does, and as AWS does where moto does not."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from chalicelib.events import Attempt, Event, Reason, Status, rfc3339
from chalicelib.queue import Queue
from chalicelib.store import SHARDS, EventStore, partition
from chalicelib.subscriptions import Subscriptions
from tests.support.fake_aws import FakeDynamoDB, FakeSQS
from tests.support.world import START, Clock, World

REDRIVE_AFTER = 5
REPEATABLE = settings(deadline=None, derandomize=True, phases=[Phase.generate])  # moto is too slow for shrinking
KEY = {"event_id": {"S": "evt_1"}}
ITEM = {**KEY, "s": {"S": "m"}, "n": {"N": "9"}}
AT_60, EXPIRES_AT = rfc3339(START + 60), int(START) + 900


def new_event(key: str, now: float, claim_id: str = "a", **fields: Any) -> Event:
    event = Event(
        event_id=key,
        event_type="order.created",
        status=Status.PENDING,
        created_at=rfc3339(now),
        created_by="acme",
        expires_at=int(now) + 86_400,
        size=40,
        payload='{"name":"Zoë"}',
        delivery_attempts=1,
        next_attempt_at=rfc3339(now),
        requeue_at=rfc3339(now + 60),
        claim_id=claim_id,
    )
    return replace(event, **fields)


def event_id(number: int) -> str:
    return f"evt_{number:032x}"


@dataclass
class Side:
    """The store on the fake or on moto."""

    client: Any
    table: str
    clock: Clock

    def __post_init__(self) -> None:
        self.store = EventStore(self.client, self.table, clock=self.clock)
        self.subscriptions = Subscriptions(self.client, self.table, clock=self.clock)


def both_sides(world: World) -> tuple[Side, Side]:
    """Empty moto's table, and return a fake that is like it, and moto."""
    world.clock.now = START
    table = world.environ["EVENTS_TABLE_NAME"]
    for key in moto_items(world):
        world.dynamodb.delete_item(TableName=table, Key={"event_id": {"S": key}})
    return Side(FakeDynamoDB(world.clock), table, world.clock), Side(world.dynamodb, table, world.clock)


def moto_items(world: World) -> dict[str, Any]:
    items = world.dynamodb.scan(TableName=world.environ["EVENTS_TABLE_NAME"])["Items"]
    return {item["event_id"]["S"]: item for item in items}


def record(side: Side, key: str, claim: str, outcome: str) -> Any:
    """Record the outcome of a push under the claim drawn, whoever holds the event."""
    event = side.store.get(key)
    if event is None:
        return None
    event = replace(event, claim_id=claim).with_attempt(Attempt("then", outcome, 503, None, 12))
    if outcome == "delivered":
        return side.store.record_delivered(event)
    if outcome == "retry":
        return side.store.record_retry(event, delay_seconds=5, is_queued=True)
    return side.store.record_failed(replace(event, reason=Reason.EXHAUSTED, failed_at="then"))


def unsubscribe(side: Side, key: str, claim: str) -> None:
    for subscription in side.subscriptions.all():
        side.subscriptions.delete(subscription.subscription_id)


URL = "https://hooks.zapier.com/1"
STEPS: dict[str, Callable[[Side, str, str], object]] = {
    "put": lambda side, key, claim: side.store.put(new_event(key, side.clock(), claim)),
    "put claimed": lambda side, key, claim: side.store.put(new_event(key, side.clock(), claim, claimed_until=AT_60)),
    "claim": lambda side, key, claim: side.store.claim(key, claim),
    "delivered": lambda side, key, claim: record(side, key, claim, "delivered"),
    "retry": lambda side, key, claim: record(side, key, claim, "retry"),
    "failed": lambda side, key, claim: record(side, key, claim, "failed"),
    "lease": lambda side, key, claim: side.store.lease(key, claim, 60),
    "release": lambda side, key, claim: side.store.release(key, claim),
    "acknowledge": lambda side, key, claim: side.store.acknowledge(key),
    "acknowledge leased": lambda side, key, claim: side.store.acknowledge(key, claim),
    "replay": lambda side, key, claim: side.store.replay(key, claim, expires_at=EXPIRES_AT),
    "redrive": lambda side, key, claim: side.store.replay(key, claim, expires_at=EXPIRES_AT, failed_at="then"),
    "requeue": lambda side, key, claim: side.store.mark_requeued(key, AT_60),
    "delete": lambda side, key, claim: side.store.delete(new_event(key, side.clock(), claim)),
    "get many": lambda side, key, claim: side.store.get_many([event_id(0), event_id(1)]),
    "subscribe": lambda side, key, claim: side.subscriptions.create(URL, None, claim),
    "unsubscribe": unsubscribe,
    "subscriptions": lambda side, key, claim: side.subscriptions.all(),
}
A_STEP = st.tuples(
    st.sampled_from(sorted(STEPS)), st.integers(0, 1), st.sampled_from("ab"), st.sampled_from([0, 0, 0.5, 61, 1000])
)


@settings(REPEATABLE, max_examples=6)
@given(steps=st.lists(A_STEP, min_size=10, max_size=20))
def test_a_life_of_events_goes_the_same_on_both(steps: list[tuple[str, int, str, float]], shared_world: World) -> None:
    fake, moto = both_sides(shared_world)
    for name, number, claim, seconds in steps:
        assert STEPS[name](fake, event_id(number), claim) == STEPS[name](moto, event_id(number), claim), name
        shared_world.clock.sleep(seconds)
    assert fake.client.items() == moto_items(shared_world)


@pytest.mark.parametrize("forward", [True, False])
def test_the_index_shows_the_same_on_both(shared_world: World, forward: bool) -> None:
    fake, moto = both_sides(shared_world)
    fake.client.page_rows = 2
    for number in range(24):
        event = new_event(event_id(number), START + number % 20 * 1.5, status=list(Status)[number % 7 % 3])
        for side in (fake, moto):
            side.store.put(event)
            if number % 4 == 0:
                side.store.acknowledge(event.event_id)

    def rows(side: Side, condition: str, values: dict[str, str], **parameters: Any) -> list[Any]:
        places = [partition(status, shard) for status in Status for shard in range(SHARDS)]
        found = (side.store.rows(place, condition, values, ScanIndexForward=forward, **parameters) for place in places)
        return [row for rows_of_place in found for row in rows_of_place]

    bound = {":after": f"{rfc3339(START + 15)}#{event_id(10)}"}
    now = {":now": rfc3339(START + 75)}
    due = {"FilterExpression": "requeue_at <= :now", "ProjectionExpression": "event_id, requeue_at"}
    assert rows(fake, "", {}) == rows(moto, "", {})
    assert rows(fake, " AND sort_key < :after", bound) == rows(moto, " AND sort_key < :after", bound)
    assert rows(fake, " AND sort_key > :after", bound) == rows(moto, " AND sort_key > :after", bound)
    assert rows(fake, "", now, **due) == rows(moto, "", now, **due) != []


def write(client: Any, table: str, condition: str, update: str, values: dict[str, str | int]) -> Any:
    """Put ITEM and update it; return it as it is after that, or the code of the error."""
    client.put_item(TableName=table, Item=ITEM, ConditionExpression="attribute_not_exists(never)")
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


@pytest.mark.parametrize(
    ("condition", "update", "values"),
    [
        ("attribute_exists(s) AND attribute_not_exists(#absent)", "SET #s = :v, m = :w", {"v": "z", "w": 1}),
        ("n < :w", "SET done = :v", {"v": 1, "w": 10}),  # as text it would not be
        ("n = :w", "SET done = :v", {"v": 1, "w": "9"}),
        ("absent < :w OR absent >= :w", "SET done = :v", {"v": 1, "w": "x"}),
        ("#s IN (:v, :w)", "REMOVE #s, absent", {"v": "a", "w": "m"}),
        ("s IN (:v)", "ADD n :w", {"v": "mm", "w": 1}),
        ("s = :v OR n = :w AND absent = :w", "ADD n :w", {"v": "m", "w": 2}),
        ("(s = :v OR n = :w) AND absent = :w", "ADD n :w", {"v": "m", "w": 0}),
        ("s = :m AND (attribute_not_exists(absent) OR absent < :m)", "ADD absent :w", {"m": "m", "w": 2}),
        ("n >= :w", "SET #s = :v REMOVE s", {"v": "z", "w": 1}),
        ("n >= :w", "SET event_id = :v", {"v": "z", "w": 1}),
        ("n >= :w", "SET s = :v", {"v": "z" * 409_600, "w": 1}),
    ],
)
def test_an_update_does_the_same_on_both(
    condition: str, update: str, values: dict[str, str | int], shared_world: World
) -> None:
    fake, moto = both_sides(shared_world)
    assert write(fake.client, fake.table, condition, update, values) == write(
        moto.client, moto.table, condition, update, values
    )


def drain(queue: Queue, most: int, handles: dict[str, str]) -> dict[str, Any]:
    """Receive all that is visible, by body: SQS promises no order."""
    drained: dict[str, Any] = {}
    while received := queue.receive(most, 0):
        drained |= {message.body: dict(message.attributes) for message in received}
        handles.update({message.body: message.receipt_handle for message in received})
    return drained


# No sum of these seconds is a timeout or a delay: at that very moment a message is not visible in moto yet.
A_ROUND = st.tuples(
    st.lists(st.sampled_from([0, 0, 5, 29.5, 900]), max_size=4),
    st.sampled_from([1.1, 60.3, 301.7, 301.7, 900.7]),
    st.sampled_from([3, 10]),
    st.integers(0, 2),
)


@settings(REPEATABLE, max_examples=4)
@given(rounds=st.lists(A_ROUND, min_size=7, max_size=9))
def test_a_life_of_messages_goes_the_same_on_both(
    rounds: list[tuple[list[float], float, int, int]], shared_world: World
) -> None:
    world = shared_world
    inbox, dlq = world.environ["INBOX_QUEUE_URL"], world.environ["INBOX_DLQ_URL"]
    fake = FakeSQS(world.clock)
    fake.queue(dlq, visibility_timeout=30)
    fake.queue(inbox, visibility_timeout=300, redrive=(dlq, REDRIVE_AFTER))
    world.clock.sleep(60)  # a queue is purged once a minute at most
    for url in (inbox, dlq):
        world.sqs.purge_queue(QueueUrl=url)
    queues = [(Queue(client, inbox), Queue(client, dlq)) for client in (fake, world.sqs)]
    (our_inbox, our_dlq), (their_inbox, their_dlq) = queues
    for number, (delays, seconds, most, deletions) in enumerate(rounds):
        for queue, _ in queues:
            queue.send_many([(f"{number}", {})])
            for at, delay in enumerate(delays):
                queue.send(f"{number}.{at}", {"Delay": f"{delay}"}, delay)
        world.clock.sleep(seconds)
        ours: dict[str, str] = {}
        theirs: dict[str, str] = {}
        assert drain(our_inbox, most, ours) == drain(their_inbox, most, theirs)
        assert drain(our_dlq, most, {}) == drain(their_dlq, most, {})
        for body in list(ours)[:deletions]:
            our_inbox.delete(ours[body])
            their_inbox.delete_many([theirs[body]])
        assert our_inbox.depth() == their_inbox.depth()
        assert our_dlq.depth() == their_dlq.depth()
