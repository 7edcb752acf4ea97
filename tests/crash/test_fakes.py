"""The table in memory does what moto's does, so that what the simulations show holds there, too."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import methodcaller
from random import Random
from types import SimpleNamespace
from typing import Any

from chalicelib.core.event import Event, Status
from chalicelib.core.outcome import Reason
from chalicelib.core.store import ERASED_SECONDS, EventStore, WriteResult
from chalicelib.infra.errors import ApiError
from chalicelib.infra.table import BY_SUBSCRIPTION
from chalicelib.infra.times import rfc3339
from chalicelib.pull import inbox
from tests.support.in_memory_aws import FakeDynamoDB
from tests.support.world import World

IDS = [f"evt_{0:032}", *(f"cpy_{number:032}" for number in range(2))]
CLAIMS = "abc"
TYPE = "of.this.test"
DUE_OR_LATER = "begins_with(next_attempt_at, :prefix) OR expires_at <= :now_seconds"


def new_event(event_id: str, claim_id: str, now: float, *, is_pushed: bool) -> Event:
    return Event(
        event_id=event_id,
        event_type=TYPE,
        status=Status.PENDING,
        created_at=rfc3339(now),
        created_by="acme",
        subscription_id="sub" if event_id != IDS[0] else None,
        source_event_id=IDS[0] if event_id != IDS[0] else None,
        next_attempt_at=rfc3339(now) if is_pushed else None,
        claim_id=claim_id,
        expires_at=int(now) + 300,
        response_bytes=10,
    )


def rows(store: EventStore, partition: str) -> list[list[object]]:
    """Return what the indexes show of a partition, and of a subscription page by page in both directions."""
    pages = [
        store.pages(partition),
        store.pages(partition, {":prefix": "2"}, FilterExpression=DUE_OR_LATER),
        *(store.pages("sub", IndexName=BY_SUBSCRIPTION, Limit=1, ScanIndexForward=way) for way in (True, False)),
    ]
    return [[row for page in each for row in page["Items"]] for each in pages]


def consume(act: Callable[[Any], object], clock: Callable[[], float]) -> Callable[[EventStore], WriteResult]:
    """Return what a consumer does as a change of a store; a lease of nothing is one that was refused."""

    def change(store: EventStore) -> WriteResult:
        in_turn = SimpleNamespace(store=store, clock=clock, new_id=lambda: "0" * 32, map=lambda *each: [*map(*each)])
        try:
            return WriteResult(act(in_turn) != [])
        except ApiError:
            return WriteResult(False)

    return change


def test_every_transition_does_the_same_on_both(shared_world: World) -> None:
    random, clock, settings = Random(1), shared_world.clock, shared_world.services.settings
    memory = FakeDynamoDB(clock)
    stores = [EventStore(client, settings, clock=clock) for client in (memory, shared_world.dynamodb)]
    applied, refused = Counter[str](), Counter[str]()
    for _ in range(1500):
        event_id, claim_id, now = random.choice(IDS), random.choice(CLAIMS), clock()
        new = new_event(event_id, claim_id, now, is_pushed=random.random() < 0.8)
        current = stores[0].get(event_id) or new
        mine = replace(current, claim_id=random.choice((claim_id, current.claim_id)))
        failed = replace(mine, reason=Reason.PERMANENT, failed_at=rfc3339(now))
        delay, lease_id = random.choice((0, 5, 100)), random.choice((None, mine.claim_id))
        acts: dict[str, Callable[[EventStore], Any]] = {
            "put": methodcaller("put", new, new.content()),
            "claim": methodcaller("claim", event_id, claim_id),
            "lease": consume(
                lambda services: inbox.lease(services, limit=1, lease_seconds=100, event_type=TYPE), clock
            ),
            "release": consume(partial(inbox.release, event_id, str(mine.claim_id)), clock),
            "acknowledge": consume(partial(inbox.acknowledge, event_id, lease_id=lease_id), clock),
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
        partition = str(memory.items.get(event_id, {}).get("status_shard"))
        if random.random() < 0.05:
            assert rows(stores[0], partition) == rows(stores[1], partition)
        clock.sleep(random.choice((0, 0, 1, 61)) if act != "erase" else random.choice((0, ERASED_SECONDS)))
    assert applied.keys() == refused.keys() == acts.keys()
