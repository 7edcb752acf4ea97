"""The table in memory does what moto's does, so that what the simulations show holds there, too."""

from collections import Counter
from dataclasses import replace
from operator import methodcaller
from random import Random
from typing import Any

import pytest

from chalicelib.events import Event, Reason, Status
from chalicelib.store import ERASED_SECONDS, EventStore
from chalicelib.table import BY_STATUS, BY_SUBSCRIPTION, Table, serialize
from chalicelib.times import rfc3339
from tests.support.in_memory_aws import FakeDynamoDB
from tests.support.world import World

IDS = [f"{kind}_{0:032}" for kind in ("evt", "cpy")]
CLAIMS = "abc"


def new_event(event_id: str, claim_id: str, now: float, *, is_pushed: bool) -> Event:
    return Event(
        event_id=event_id,
        event_type="a",
        status=Status.PENDING,
        created_at=rfc3339(now),
        created_by="acme",
        copies=(IDS[1],) if event_id == IDS[0] else (),
        source_event_id=IDS[0] if event_id == IDS[1] else None,
        next_attempt_at=rfc3339(now) if is_pushed else None,
        claim_id=claim_id,
        expires_at=int(now) + 300,
        response_bytes=10,
    )


def test_every_transition_does_the_same_on_both(shared_world: World) -> None:
    random, clock, settings = Random(1), shared_world.clock, shared_world.services.settings
    stores = [EventStore(client, settings, clock=clock) for client in (FakeDynamoDB(clock), shared_world.dynamodb)]
    applied, refused = Counter[str](), Counter[str]()
    for _ in range(1500):
        event_id, claim_id, now = random.choice(IDS), random.choice(CLAIMS), clock()
        new = new_event(event_id, claim_id, now, is_pushed=random.random() < 0.8)
        current = stores[0].get(event_id) or new
        mine = replace(current, claim_id=random.choice((claim_id, current.claim_id)))
        failed = replace(mine, reason=Reason.PERMANENT, failed_at=rfc3339(now))
        delay, lease_id = random.choice((0, 5, 100)), random.choice((None, mine.claim_id))
        acts = {
            "put": methodcaller("put", new, new.content()),
            "claim": methodcaller("claim", event_id, claim_id),
            "lease": methodcaller("lease", event_id, claim_id, 100),
            "release": methodcaller("release", event_id, mine.claim_id),
            "acknowledge": methodcaller("acknowledge", event_id, lease_id),
            "delivered": methodcaller("record_delivered", mine),
            "retry": methodcaller("record_retry", mine, delay_seconds=delay, will_be_queued=True),
            "failed": methodcaller("record_failed", failed),
            "cancel": methodcaller("cancel_attempt", mine),
            "replay": methodcaller("replay", event_id, claim_id, expires_at=int(now) + 300),
            "redrive": methodcaller("replay", event_id, claim_id, expires_at=1, failed_at=mine.failed_at or ""),
            "requeue": methodcaller("mark_requeued", event_id, mine.requeue_at or "", rfc3339(now + 60)),
            "delete": methodcaller("delete", mine),
            "erase": methodcaller("mark_erased", event_id),
        }
        act = random.choice(list(acts))
        ours, theirs = map(acts[act], stores)
        assert ours == theirs
        (applied if ours.applied else refused)[act] += 1
        assert stores[0].read(event_id) == stores[1].read(event_id)
        clock.sleep(random.choice((0, 0, 1, 61)) if act != "erase" else random.choice((0, ERASED_SECONDS)))
    assert applied.keys() == refused.keys() == acts.keys()


@pytest.mark.parametrize("index", [BY_STATUS, BY_SUBSCRIPTION])
@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize(
    ("values", "parameters"),
    [
        ({}, {}),
        ({}, {"Limit": 3}),
        ({":high": "05"}, {}),
        ({":low": "05"}, {"Select": "COUNT"}),
        ({":now": "1", ":then": 8}, {"FilterExpression": "next_attempt_at <= :now AND expires_at > :then"}),
        ({":prefix": "1"}, {"FilterExpression": "begins_with(next_attempt_at, :prefix)"}),
    ],
)
def test_an_index_shows_the_same_on_both(
    values: dict[str, Any], parameters: dict[str, Any], forward: bool, index: str, shared_world: World
) -> None:
    fake, name = FakeDynamoDB(shared_world.clock), shared_world.environ["EVENTS_TABLE_NAME"]
    fake.page_rows = 4
    for number in (*range(20), 0, 1, 2):  # the last ones move to another partition
        item = {"event_id": f"{number}", "sort_key": f"{number // 2:02}", "expires_at": number, "payload": "left out"}
        item |= {"status_shard": f"{len(fake.items) % 2}", "next_attempt_at": f"{number}" if number % 3 else None}
        item |= {"subscription_id": f"{len(fake.items) % 2}"} if number % 4 else {}
        for client in (fake, shared_world.dynamodb):
            client.put_item(TableName=name, Item=serialize(item))
    for partition in ("0", "1", "2"):
        shown = []
        for client in (fake, shared_world.dynamodb):
            table = Table(client, name, clock=shared_world.clock)
            pages = list(table.pages(partition, values, IndexName=index, ScanIndexForward=forward, **parameters))
            rows = [row for page in pages for row in page.get("Items", ())]
            shown.append((sum(page["Count"] for page in pages), rows))
        assert shown[0] == shown[1]
