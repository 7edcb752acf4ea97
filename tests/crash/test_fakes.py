"""The index and the queues in memory do as moto's do; `tests/unit/test_store_model.py` shows it of the table."""

from random import Random
from typing import Any

import pytest

from chalicelib.queue import Message, Queue
from chalicelib.store import Table, serialize
from tests.support.fake_aws import FakeDynamoDB, FakeSQS
from tests.support.world import World


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        ({}, {}),
        ({}, {"first_limit": 3}),
        ({":high": "05"}, {}),
        ({":low": "05"}, {"Select": "COUNT"}),
        ({":now": "1", ":then": 8}, {"FilterExpression": "requeue_at <= :now AND expires_at > :then"}),
        ({":prefix": "1"}, {"FilterExpression": "begins_with(requeue_at, :prefix)"}),
    ],
)
def test_the_index_shows_the_same_on_both(
    values: dict[str, Any], parameters: dict[str, Any], forward: bool, shared_world: World
) -> None:
    fake, name = FakeDynamoDB(shared_world.clock), shared_world.environ["EVENTS_TABLE_NAME"]
    fake.page_rows = 4
    for number in (*range(20), 0, 1, 2):  # the last ones move to another partition
        item = {
            "event_id": f"{number}",
            "sort_key": f"{number // 2:02}",
            "expires_at": number,
            "payload": "not projected",
        }
        item |= {"status_shard": f"{len(fake.items) % 2}", "requeue_at": f"{number}" if number % 3 else None}
        for client in (fake, shared_world.dynamodb):
            client.put_item(TableName=name, Item=serialize(item))
    ours, theirs = (Table(client, name, clock=shared_world.clock) for client in (fake, shared_world.dynamodb))
    for partition in ("0", "1", "2"):
        shown = []
        for table in (ours, theirs):
            query = table.pages(partition, values, ScanIndexForward=forward, **parameters)
            pages = list(query)
            rows = [row for page in pages for row in page.get("Items", ())]
            shown.append((sum(page["Count"] for page in pages), rows))
        assert shown[0] == shown[1]


def drain(queue: Queue, most: int) -> dict[str, str]:
    """Receive all that is visible; return receipt handles by what the message says. SQS promises no order."""
    drained: dict[str, str] = {}
    while received := queue.receive(most, 0):
        drained |= {
            f"{message.body} {message.attributes} {message.group_id}": message.receipt_handle for message in received
        }
    return drained


def test_a_life_of_messages_goes_the_same_on_both(shared_world: World) -> None:
    shared_world.forget()
    random, inbox, dlq = Random(1), shared_world.environ["INBOX_QUEUE_URL"], shared_world.environ["INBOX_DLQ_URL"]
    fake = FakeSQS(shared_world.clock)
    fake.queue(dlq, visibility_timeout=30)
    fake.queue(inbox, redrive=(dlq, 5))
    inboxes = [Queue(client, inbox) for client in (fake, shared_world.sqs)]
    dlqs = [Queue(client, dlq) for client in (fake, shared_world.sqs)]
    dead_letters = 0
    for number in range(20):
        delays = random.choices((0, 0, 5, 29.5, 900), k=3)
        for queue in inboxes:
            queue.send_many([Message(f"{number}", {})])
            for at, delay in enumerate(delays):
                queue.send(Message(f"{number}.{at}", {"Delay": f"{delay}"}, f"{at}"), delay)
        # No sum of these is a timeout or a delay: at that very moment a message is not visible in moto yet.
        shared_world.clock.sleep(random.choice((1.1, 60.3, 301.7, 301.7, 900.7)))
        most = random.choice((3, 10))
        received = [drain(queue, most) for queue in inboxes]
        assert received[0].keys() == received[1].keys()
        dead = [drain(queue, most) for queue in dlqs]
        assert dead[0].keys() == dead[1].keys()
        dead_letters += len(dead[0])
        for message in sorted(received[0])[: random.randrange(3)]:
            for queue, handles in zip(inboxes, received, strict=True):
                queue.delete_many([handles[message]])
        assert inboxes[0].depth() == inboxes[1].depth()
        assert dlqs[0].depth() == dlqs[1].depth()
    assert dead_letters
