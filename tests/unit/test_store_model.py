"""The store's transitions in any order, with lost responses and passing time, against a model of one page.

Both moto and the in-memory AWS of other tests do what the model does, so each may stand for DynamoDB.
"""

import contextlib
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chalicelib.events import Attempt, DeliveredVia, Event, Reason, Status, rfc3339
from chalicelib.store import EventStore, WriteResult
from tests.support.fake_aws import FakeDynamoDB
from tests.support.world import Clock, World

DAY = 86_400
IDS = [f"evt_{number:032x}" for number in range(2)]


class Client:
    """A DynamoDB client that makes its next call twice if `lose`: the response is lost, and boto3 tries again."""

    def __init__(self, client: Any) -> None:
        self.lose = False
        self._client = client

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        return partial(self._call, getattr(self._client, operation))

    def _call(self, operation: Callable[..., Any], **parameters: Any) -> Any:
        if self.lose:
            self.lose = False
            with contextlib.suppress(ClientError):
                operation(**parameters)
        return operation(**parameters)


def changed(event: Event, *removed: str, **changes: Any) -> Event:
    return replace(event, **{**dict.fromkeys(removed), **changes})


class StoreModel:
    """Each step says in one condition whether a write must be applied, and what it makes of the event."""

    def __init__(self, client: Any, table: str, clock: Clock) -> None:
        self.client, self.clock, self.random = Client(client), clock, Random(1)
        self.store = EventStore(self.client, table, clock=clock)
        self.events: dict[str, Event] = {}
        self.pushes: deque[Event] = deque(maxlen=3)  # events as their latest holders have them
        self.leases: deque[Event] = deque(maxlen=3)
        self._numbers = itertools.count()

    def at(self, seconds: float = 0) -> str:
        return rfc3339(self.clock() + seconds)

    def new_id(self) -> str:
        return f"{next(self._numbers):032x}"

    def take_step(self) -> None:
        self.client.lose = self.random.random() < 0.2
        self.random.choice(STEPS)(self, self.random.choice(IDS))

    def event(self, event_id: str) -> Event | None:
        """Return an event unless it is absent or expired."""
        event = self.events.get(event_id)
        return event if event and event.expires_at > self.clock() else None

    def is_unclaimed(self, event: Event) -> bool:
        return event.claimed_until is None or event.claimed_until < self.at()

    def check(
        self, event_id: str, after: Event | None, write: Callable[[], WriteResult], *, returned: bool = True
    ) -> None:
        """Check a write that makes `after` of an event; None: the current event must refuse it."""
        refused = [WriteResult(False, self.event(event_id))]
        applied = [WriteResult(True, after if returned else None)]
        if self.client.lose and not returned:  # boto3's retry may be refused by what its first try wrote
            applied.append(WriteResult(False, after))
        assert write() in (applied if after else refused)
        if after:
            self.events[event_id] = after
        self.check_read(event_id)

    def check_read(self, event_id: str) -> None:
        assert self.store.get(event_id) == self.event(event_id)

    def wait(self, event_id: str) -> None:
        self.clock.sleep(self.random.choice((0.5, 1.5, 1.5, 30, 59.9, 60, 60.1, 1000, DAY)))
        assert self.store.get_many(IDS) == {key: event for key in IDS if (event := self.event(key))}

    def put(self, event_id: str) -> None:
        is_claimed = self.random.random() < 0.5
        event = Event(
            event_id=event_id,
            event_type="t",
            status=Status.PENDING,
            created_at=self.at(),
            created_by="acme",
            expires_at=int(self.clock()) + DAY,
            response_bytes=2,
            claim_id=self.new_id(),
            claimed_until=self.at(60) if is_claimed else None,
            delivery_attempts=int(is_claimed),
            next_attempt_at=self.at(),
            requeue_at=self.at(60),
        )
        after = None if self.event(event_id) else event
        self.check(event_id, after, lambda: self.store.put(event))
        if after and is_claimed:
            self.pushes.append(after)

    def claim(self, event_id: str) -> None:
        event, after, mine = self.event(event_id), None, self.new_id()
        is_due = event and event.status is Status.PENDING and (event.next_attempt_at or "z") <= self.at()
        if event and is_due and self.is_unclaimed(event):
            until, count = self.at(60), event.delivery_attempts + 1
            after = replace(event, claim_id=mine, claimed_until=until, requeue_at=until, delivery_attempts=count)
            self.pushes.append(after)
        self.check(event_id, after, lambda: self.store.claim(event_id, mine))

    def record(self, event_id: str) -> None:
        if not self.pushes:
            return
        outcome = self.random.choice(("delivered", "failed", "retry", "sweep", "unscheduled"))
        push = self.random.choice(self.pushes)
        self.pushes.remove(push)
        push = push.with_attempt(Attempt(self.at(), outcome, 500, None, 1))
        ended = changed(push, "claimed_until", "next_attempt_at", "requeue_at")
        if outcome == "delivered":
            write = partial(self.store.record_delivered, push)
            after = changed(ended, status=Status.DELIVERED, delivered_at=self.at(), delivered_via=DeliveredVia.PUSH)
        elif outcome == "failed":
            failure = {"reason": Reason.EXHAUSTED, "failed_at": self.at()}
            write = partial(self.store.record_failed, changed(push, **failure))
            after = changed(ended, status=Status.FAILED, **failure)
        elif outcome == "unscheduled":
            write = partial(self.store.cancel_attempt, push)
            after = changed(ended, delivery_attempts=push.delivery_attempts - 1)
        else:
            delay, grace = (1.5, 60) if outcome == "retry" else (1000, 0)
            write = partial(self.store.record_retry, push, delay_seconds=delay, will_be_queued=outcome == "retry")
            after = changed(ended, next_attempt_at=self.at(delay), requeue_at=self.at(delay + grace))
        current = self.event(push.event_id)
        is_mine = current is not None and current.claim_id == push.claim_id
        if current and is_mine and current.status is Status.PENDING:
            self.check(push.event_id, after, write)
            return
        assert write() == WriteResult(False, current)
        if current and is_mine:  # acknowledged during the push
            made = {"attempts": push.attempts, "delivery_attempts": after.delivery_attempts}
            self.events[push.event_id] = changed(current, "claimed_until", **made)
        self.check_read(push.event_id)

    def delete(self, event_id: str) -> None:
        if not self.pushes:
            return
        push = self.random.choice(self.pushes)
        if push.event_id in self.events and self.events[push.event_id].claim_id == push.claim_id:
            del self.events[push.event_id]
        self.store.delete(push)
        self.check_read(push.event_id)

    def lease(self, event_id: str) -> None:
        event, after, mine = self.event(event_id), None, f"lse_{self.new_id()}"
        seconds = self.random.choice((1, 60, 3600))
        if event and event.status is not Status.DELIVERED and self.is_unclaimed(event):
            until, count = self.at(seconds), event.lease_count + 1
            after = replace(event, claim_id=mine, claimed_until=until, requeue_at=until, lease_count=count)
            self.leases.append(after)
        self.check(event_id, after, lambda: self.store.lease(event_id, mine, seconds))

    def end_lease(self, event_id: str) -> None:
        if not self.leases:
            return
        lease, is_release = self.leases[-1 if self.random.random() < 0.5 else 0], self.random.random() < 0.5
        event, after = self.event(lease.event_id), None
        holds = event and event.claim_id == lease.claim_id and not self.is_unclaimed(event)
        if event and holds and event.status is not Status.DELIVERED:
            if is_release:
                after = changed(event, "claimed_until", requeue_at=self.at())
            else:
                after = changed(self.acknowledged(event), "claimed_until")
        write = self.store.release if is_release else self.store.acknowledge
        self.check(lease.event_id, after, partial(write, lease.event_id, str(lease.claim_id)), returned=False)

    def acknowledged(self, event: Event) -> Event:
        event = changed(event, "next_attempt_at", "requeue_at", "failed_at", "reason")
        return changed(event, status=Status.DELIVERED, delivered_at=self.at(), delivered_via=DeliveredVia.PULL)

    def acknowledge(self, event_id: str) -> None:
        event = self.event(event_id)
        after = self.acknowledged(event) if event and event.status is not Status.DELIVERED else None
        self.check(event_id, after, lambda: self.store.acknowledge(event_id), returned=False)

    def replay(self, event_id: str) -> None:
        event, after, token = self.event(event_id), None, self.new_id()
        expires_at = int(self.clock()) + 2 * DAY
        failed_at = self.random.choice((None, self.at(-0.5), event.failed_at if event else None))
        if event and self.is_unclaimed(event) and failed_at in (None, event.failed_at):
            again = changed(event, "claimed_until", "delivered_at", "delivered_via", "failed_at", "reason")
            again = changed(again, status=Status.PENDING, claim_id=token, delivery_attempts=0, expires_at=expires_at)
            after = changed(again, next_attempt_at=self.at(), replayed_at=self.at(), requeue_at=self.at(60))
        write = partial(self.store.replay, event_id, token, expires_at=expires_at, failed_at=failed_at)
        self.check(event_id, after, write)

    def mark_requeued(self, event_id: str) -> None:
        event = self.event(event_id)
        seen = self.random.choice((self.at(-0.25), event.requeue_at if event else None)) or self.at()
        is_pending = event is not None and event.status is Status.PENDING
        after = changed(event, requeue_at=self.at(600)) if event and is_pending and event.requeue_at == seen else None
        self.check(event_id, after, lambda: self.store.mark_requeued(event_id, seen, self.at(600)), returned=False)


def test_a_claim_whose_response_was_lost_is_not_held_if_the_event_was_acknowledged_since(clock: Clock) -> None:
    dynamodb = FakeDynamoDB(clock)
    model = StoreModel(dynamodb, "events", clock)
    while not (event := model.event(IDS[0])) or not model.is_unclaimed(event):
        model.put(IDS[0])
        clock.sleep(61)
    update_item = dynamodb.update_item

    def lose_response(**parameters: Any) -> Any:
        dynamodb.update_item = update_item  # type: ignore[method-assign]
        update_item(**parameters)
        assert EventStore(dynamodb, "events", clock=clock).acknowledge(IDS[0]).applied
        return update_item(**parameters)

    dynamodb.update_item = lose_response  # type: ignore[method-assign]
    result = EventStore(dynamodb, "events", clock=clock).claim(IDS[0], "mine")
    assert (result.applied, result.event and result.event.status) == (False, Status.DELIVERED)


STEPS: tuple[Callable[[StoreModel, str], None], ...] = (
    StoreModel.wait,
    StoreModel.put,
    StoreModel.claim,
    StoreModel.claim,
    StoreModel.record,
    StoreModel.record,
    StoreModel.delete,
    StoreModel.lease,
    StoreModel.lease,
    StoreModel.end_lease,
    StoreModel.end_lease,
    StoreModel.acknowledge,
    StoreModel.replay,
    StoreModel.mark_requeued,
)


@pytest.mark.parametrize(("aws", "steps"), [("moto", 250), ("fake", 5000)])
def test_transitions_in_any_order_do_what_the_model_does(aws: str, steps: int, shared_world: World) -> None:
    shared_world.forget()
    client = shared_world.dynamodb if aws == "moto" else FakeDynamoDB(shared_world.clock)
    model = StoreModel(client, shared_world.environ["EVENTS_TABLE_NAME"], shared_world.clock)
    for _ in range(steps):
        model.take_step()
