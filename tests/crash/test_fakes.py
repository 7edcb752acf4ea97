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
from chalicelib.core.invocation import Invocation
from chalicelib.core.outcome import Reason
from chalicelib.core.store import EventStore, WriteResult, status_attributes
from chalicelib.deps import Services
from chalicelib.infra.errors import ApiError
from chalicelib.infra.table import BY_LOOKUP
from chalicelib.infra.times import rfc3339
from chalicelib.operations import recovery
from chalicelib.operations.recovery import ERASED_SECONDS, REDRIVABLE
from chalicelib.operations.schedules import UNCHANGED
from chalicelib.pull import inbox
from tests.support.in_memory_aws import FakeDynamoDB
from tests.support.world import World

IDS = [f"evt_{0:032}", *(f"cpy_{number:032}" for number in range(2))]
CLAIMS = "abc"
TYPE = "of.this.test"
WEIGHTS = {"put": 3, "release": 3, "erase": 0.6, "delete": 0.4}  # of acts, so that each is applied and refused
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
        *(store.pages("sub", IndexName=BY_LOOKUP, Limit=1, ScanIndexForward=way) for way in (True, False)),
    ]
    return [[row for page in each for row in page["Items"]] for each in pages]


def asked(act: Callable[[Any], object], services: Services) -> Callable[[EventStore], WriteResult]:
    """Return what somebody asks for as a change of a store; a lease of nothing is one that was refused."""

    def change(store: EventStore) -> WriteResult:
        of_store = replace(services, new_id=lambda: "0" * 32)
        vars(of_store).update(store=store, work_queue=SimpleNamespace(send=str))
        of_store.map = lambda function, items: [*map(function, items)]  # type: ignore[method-assign]
        vars(of_store)["targets"] = SimpleNamespace(replay_refusal=lambda event: None)
        try:
            return WriteResult(act(of_store) != [])
        except ApiError:
            return WriteResult(False)

    return change


def replay(event: Event, services: Services) -> Event:
    return recovery.replay(event, Invocation(services, services.clock()))


def test_every_transition_does_the_same_on_both(shared_world: World) -> None:
    random, clock, services = Random(0), shared_world.clock, shared_world.services
    memory = FakeDynamoDB(clock)
    stores = [EventStore(client, services.settings, clock=clock) for client in (memory, shared_world.dynamodb)]
    applied, refused = Counter[str](), Counter[str]()
    for _ in range(800):
        event_id, claim_id, now = random.choice(IDS), random.choice(CLAIMS), clock()
        new = new_event(event_id, claim_id, now, is_pushed=random.random() < 0.8)
        current = stores[0].get(event_id) or new
        mine = replace(current, claim_id=random.choice((claim_id, current.claim_id)))
        failed = replace(mine, reason=Reason.PERMANENT, failed_at=rfc3339(now))
        seen = {":seen": mine.requeue_at or ""}
        delay, lease_id = random.choice((0, 5, 100)), random.choice((None, mine.claim_id))
        acts: dict[str, Callable[[EventStore], Any]] = {
            "put": methodcaller("put", new, new.content()),
            "claim": methodcaller("claim", event_id, claim_id),
            "lease": asked(partial(inbox.lease, limit=1, lease_seconds=100, event_type=TYPE), services),
            "release": asked(partial(inbox.release, event_id, str(mine.claim_id)), services),
            "acknowledge": asked(partial(inbox.acknowledge, event_id, lease_id=lease_id), services),
            "delivered": methodcaller("record_delivered", mine),
            "retry": methodcaller("record_retry", mine, delay_seconds=delay, is_queued=True),
            "failed": methodcaller("record_failed", failed),
            "unscheduled": methodcaller("record_unscheduled", mine),
            "no attempt": methodcaller("record_no_attempt", mine),
            "replay": asked(partial(replay, new), services),
            "redrive": methodcaller("change", event_id, REDRIVABLE, status_attributes(event_id, Status.PENDING)),
            "requeue": methodcaller("change", event_id, UNCHANGED, {"requeue_at": rfc3339(now + 60)}, seen),
            "delete": methodcaller("delete_claimed", mine),
            "erase": asked(partial(recovery.erase, event_id), services),
        }
        act = random.choices(list(acts), [WEIGHTS.get(name, 1) for name in acts])[0]
        ours, theirs = map(acts[act], stores)
        assert ours == theirs
        (applied if ours.applied else refused)[act] += 1
        assert stores[0].read(event_id) == stores[1].read(event_id)
        partition = str(memory.items.get(event_id, {}).get("status_shard"))
        if random.random() < 0.05:
            assert rows(stores[0], partition) == rows(stores[1], partition)
        clock.sleep(random.choice((0, 0, 1, 61)) if act != "erase" else random.choice((0, ERASED_SECONDS)))
    assert applied.keys() == refused.keys() == acts.keys()
