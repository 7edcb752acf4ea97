"""The store's transitions in any order, with lost responses and passing time, against a model of one page.

Both moto and the in-memory AWS of other tests do what the model does, so each may stand for DynamoDB.
"""

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from chalicelib.events import Attempt, DeliveredVia, Event, Reason, Status, rfc3339
from chalicelib.store import EventStore, WriteResult
from tests.support.fake_aws import FakeDynamoDB
from tests.support.world import Clock, World

numbers = itertools.count()
LOST = st.integers(0, 3).map(lambda number: number == 0)  # whether the response is lost, and boto3 tries again
DAY = 86_400


def changed(event: Event, *removed: str, **changes: Any) -> Event:
    return replace(event, **{**dict.fromkeys(removed), **changes})


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


class StoreModel(RuleBasedStateMachine):
    """Each rule says in one condition whether a write must be applied, and what it makes of the event."""

    store: EventStore
    client: Client
    clock: Clock
    ids = Bundle("ids")
    pushes = Bundle("pushes")  # events as their holders have them
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Event] = {}
        self.held: dict[str, Event] = {}  # to see, apart from the model, that no two hold an event at once
        self.delivered: set[str] = set()

    def teardown(self) -> None:
        present = {event_id: event for event_id in self.model if (event := self.present(event_id))}
        assert self.store.get_many(list(self.model)) == present

    def at(self, seconds: float = 0) -> str:
        return rfc3339(self.clock() + seconds)

    def present(self, event_id: str) -> Event | None:
        event = self.model.get(event_id)
        return event if event and event.expires_at > self.clock() else None

    def is_unclaimed(self, event: Event) -> bool:
        return event.claimed_until is None or event.claimed_until < self.at()

    def check(self, event_id: str, after: Event | None, result: WriteResult, *, returned: bool = True) -> None:
        """Check a write that makes `after` of an event; None: the current event must refuse it."""
        current = self.present(event_id)
        assert result == (WriteResult(True, after if returned else None) if after else WriteResult(False, current))
        if after:
            self.model[event_id] = after
        assert self.store.get(event_id) == self.present(event_id)  # its status is read from the index key

    def hold(self, event: Event) -> Event:
        other = self.held.get(event.event_id)
        assert other is None or (other.claimed_until or "") < self.at()
        assert event.event_id not in self.delivered
        self.held[event.event_id] = event
        return event

    def let_go(self, event: Event) -> None:
        if self.held.get(event.event_id) == event:
            del self.held[event.event_id]

    @rule(target=pushes, event_id=ids, claimed=st.booleans(), lose=LOST)
    def put(self, event_id: str, claimed: bool, lose: bool) -> Any:
        event = Event(
            event_id=event_id,
            event_type="t",
            status=Status.PENDING,
            created_at=self.at(),
            created_by="acme",
            expires_at=int(self.clock()) + DAY,
            size=2,
            claim_id=f"{next(numbers):032x}",
            claimed_until=self.at(60) if claimed else None,
            delivery_attempts=int(claimed),
            next_attempt_at=self.at(),
            requeue_at=self.at(60),
        )
        current = self.present(event_id)
        self.client.lose = lose
        self.check(event_id, None if current else event, self.store.put(event))
        if current:
            return multiple()
        self.delivered.discard(event_id)  # the other had expired
        return self.hold(event) if claimed else multiple()

    @precondition(lambda self: len(self.model) < 2)  # so that much is done to the same events
    @rule(target=ids)
    def put_new(self) -> str:
        event_id = f"evt_{next(numbers):032x}"
        self.put(event_id, claimed=False, lose=False)
        return event_id

    @rule(target=pushes, event_id=ids, lose=LOST)
    def claim(self, event_id: str, lose: bool) -> Any:
        event, after, mine = self.present(event_id), None, f"{next(numbers):032x}"
        due = event and event.status is Status.PENDING and (event.next_attempt_at or "z") <= self.at()
        if event and due and self.is_unclaimed(event):
            until, count = self.at(60), event.delivery_attempts + 1
            after = replace(event, claim_id=mine, claimed_until=until, requeue_at=until, delivery_attempts=count)
        self.client.lose = lose
        self.check(event_id, after, self.store.claim(event_id, mine))
        return self.hold(after) if after else multiple()

    @rule(push=consumes(pushes), outcome=st.sampled_from(["delivered", "failed", "retry", "sweep", "none"]), lose=LOST)
    def record(self, push: Event, outcome: str, lose: bool) -> None:
        self.let_go(push)
        push = push.with_attempt(Attempt(self.at(), outcome, 500, None, 1))
        ended = changed(push, "claimed_until", "next_attempt_at", "requeue_at")
        current = self.present(push.event_id)
        mine = current is not None and current.claim_id == push.claim_id
        applied = mine and current is not None and current.status is Status.PENDING
        self.client.lose = lose
        if outcome == "delivered":
            result = self.store.record_delivered(push)
            after = changed(ended, status=Status.DELIVERED, delivered_at=self.at(), delivered_via=DeliveredVia.PUSH)
            self.delivered |= {push.event_id} if applied else set()
        elif outcome == "failed":
            failure = {"reason": Reason.EXHAUSTED, "failed_at": self.at()}
            result = self.store.record_failed(changed(push, **failure))
            after = changed(ended, status=Status.FAILED, **failure)
        elif outcome == "none":
            result = self.store.record_unscheduled(push)
            after = changed(ended, delivery_attempts=push.delivery_attempts - 1)
        else:
            delay, grace = (1.5, 60) if outcome == "retry" else (1000, 0)
            result = self.store.record_retry(push, delay_seconds=delay, is_queued=outcome == "retry")
            after = changed(ended, next_attempt_at=self.at(delay), requeue_at=self.at(delay + grace))
        if applied:
            self.check(push.event_id, after, result)
            return
        assert result == WriteResult(False, current)
        if current and mine:  # acknowledged during the push
            self.model[push.event_id] = changed(current, "claimed_until", attempts=push.attempts)
        assert self.store.get(push.event_id) == self.present(push.event_id)

    @rule(push=consumes(pushes))
    def delete(self, push: Event) -> None:
        self.let_go(push)
        if push.event_id in self.model and self.model[push.event_id].claim_id == push.claim_id:
            del self.model[push.event_id]
        self.store.delete(push)
        assert self.store.get(push.event_id) == self.present(push.event_id)

    @rule(target=leases, event_id=ids, seconds=st.sampled_from([1, 60, 3600]), lose=LOST)
    def lease(self, event_id: str, seconds: int, lose: bool) -> Any:
        event, after, mine = self.present(event_id), None, f"lse_{next(numbers):032x}"
        if event and event.status is not Status.DELIVERED and self.is_unclaimed(event):
            until, count = self.at(seconds), event.lease_count + 1
            after = replace(event, claim_id=mine, claimed_until=until, requeue_at=until, lease_count=count)
        self.client.lose = lose
        self.check(event_id, after, self.store.lease(event_id, mine, seconds))
        return self.hold(after) if after else multiple()

    @rule(lease=leases, how=st.sampled_from(["release", "acknowledge"]))
    def end_lease(self, lease: Event, how: str) -> None:
        event, after = self.present(lease.event_id), None
        holds = event and event.claim_id == lease.claim_id and (event.claimed_until or "") >= self.at()
        if event and holds and event.status is not Status.DELIVERED:
            self.let_go(lease)
            if how == "release":
                after = changed(event, "claimed_until", requeue_at=self.at())
            else:
                after = changed(self.acknowledged(event), "claimed_until")
        lease_id = lease.claim_id or ""
        write = self.store.release if how == "release" else self.store.acknowledge
        self.check(lease.event_id, after, write(lease.event_id, lease_id), returned=False)

    def acknowledged(self, event: Event) -> Event:
        self.delivered.add(event.event_id)
        event = changed(event, "next_attempt_at", "requeue_at", "failed_at", "reason")
        return changed(event, status=Status.DELIVERED, delivered_at=self.at(), delivered_via=DeliveredVia.PULL)

    @rule(event_id=ids, lose=LOST)
    def acknowledge(self, event_id: str, lose: bool) -> None:
        event = self.present(event_id)
        after = self.acknowledged(event) if event and event.status is not Status.DELIVERED else None
        self.client.lose = lose
        result = self.store.acknowledge(event_id)
        if lose and after:  # boto3's retry is refused by what its first try wrote
            assert result == WriteResult(False, after)
            result = WriteResult(True)
        self.check(event_id, after, result, returned=False)

    @rule(event_id=ids, told=st.sampled_from(["nothing", "the failure", "another failure"]), lose=LOST)
    def replay(self, event_id: str, told: str, lose: bool) -> None:
        event, after, token = self.present(event_id), None, f"{next(numbers):032x}"
        expires_at = int(self.clock()) + 2 * DAY
        the_failure = event.failed_at if event and told == "the failure" else None
        failed_at = None if told == "nothing" else the_failure or self.at(-0.5)
        if event and self.is_unclaimed(event) and failed_at in (None, event.failed_at):
            again = changed(event, "claimed_until", "delivered_at", "delivered_via", "failed_at", "reason")
            again = changed(again, status=Status.PENDING, claim_id=token, delivery_attempts=0, expires_at=expires_at)
            after = changed(again, next_attempt_at=self.at(), replayed_at=self.at(), requeue_at=self.at(60))
            self.delivered.discard(event_id)
        self.client.lose = lose
        result = self.store.replay(event_id, token, expires_at=expires_at, failed_at=failed_at)
        self.check(event_id, after, result)

    @rule(event_id=ids, stale=st.booleans(), lose=LOST)
    def mark_requeued(self, event_id: str, stale: bool, lose: bool) -> None:
        event = self.present(event_id)
        seen = self.at(-0.25) if stale or not event or not event.requeue_at else event.requeue_at
        is_pending = event is not None and event.status is Status.PENDING
        after = changed(event, requeue_at=self.at(60)) if event and is_pending and event.requeue_at == seen else None
        self.client.lose = lose
        result = self.store.mark_requeued(event_id, seen)
        if lose and after and after.requeue_at != seen:  # as above: it costs another minute
            assert result == WriteResult(False, after)
            result = WriteResult(True)
        self.check(event_id, after, result, returned=False)

    @rule(seconds=st.sampled_from([0.5, 1.5, 30, 59.9, 60, 60.1, 1000, DAY]))
    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)


@pytest.mark.parametrize(("aws", "examples"), [("moto", 4), ("fake", 30)])
def test_transitions_in_any_order_do_what_the_model_does(aws: str, examples: int, shared_world: World) -> None:
    clock = shared_world.clock
    client = Client(shared_world.dynamodb if aws == "moto" else FakeDynamoDB(clock))
    store = EventStore(client, shared_world.environ["EVENTS_TABLE_NAME"], clock=clock)
    machine = type("Machine", (StoreModel,), {"store": store, "client": client, "clock": clock})
    options = settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take longer than a test may
    )
    run_state_machine_as_test(machine, settings=options)
