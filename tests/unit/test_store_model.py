"""The store's transitions in any order, with answers lost and time passing, against a model that fits on a page."""

import itertools
from dataclasses import replace
from typing import Any

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

from chalicelib.store import WriteResult
from chalicelib.events import Attempt, Event, Reason, Status, DeliveredVia, rfc3339
from chalicelib.store import attributes, typed
from tests.support.world import World

numbers = itertools.count()
LOST = st.integers(0, 3).map(lambda number: number == 0)  # whether the answer is lost, and boto3 tries again
DAY = 86_400


def changed(event: Event, *gone: str, **changes: Any) -> Event:
    return replace(event, **{**dict.fromkeys(gone), **changes})


class StoreModel(RuleBasedStateMachine):
    """What every event is, as plain values: each rule says in one condition whether a write must take effect."""

    world: World
    ids = Bundle("ids")
    pushes = Bundle("pushes")  # events as those hold them who claimed them

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.store, self.client = self.world.clock, self.world.services.store, self.world.dynamodb
        self.model: dict[str, Event] = {}
        # Told apart from the model, what must never happen: two pushes at once, or one after a delivery.
        self.pushing: dict[str, Event] = {}
        self.done_with: set[str] = set()
        self.lose = False
        self.client.meta.events.register_first("needs-retry.dynamodb", self.again)

    def teardown(self) -> None:
        self.client.meta.events.unregister("needs-retry.dynamodb", self.again)
        assert all(self.store.get(event_id) == self.present(event_id) for event_id in self.model)

    def again(self, **_: Any) -> int | None:
        again, self.lose = self.lose, False
        return 0 if again else None

    def at(self, seconds: float = 0) -> str:
        return rfc3339(self.clock() + seconds)

    def present(self, event_id: str) -> Event | None:
        event = self.model.get(event_id)
        return event if event and event.expires_at > self.clock() else None

    def unclaimed(self, event: Event) -> bool:
        return event.claimed_until is None or event.claimed_until < self.at()

    def check(self, event_id: str) -> None:
        table, key = self.world.environ["EVENTS_TABLE_NAME"], typed({"event_id": event_id})
        item = self.client.get_item(TableName=table, Key=key)["Item"]
        assert item == typed(attributes(self.model[event_id]))  # the index's keys too

    def check_write(self, event_id: str, after: Event | None, written: WriteResult, *, tells: bool = True) -> None:
        """Check a write that makes `after` of an event; None: it must be refused by what is there."""
        assert written == (WriteResult(True, after if tells else None) if after else WriteResult(False, self.present(event_id)))
        if after:
            self.model[event_id] = after
        self.check(event_id)

    def begin_push(self, claimed: Event) -> Event:
        other = self.pushing.get(claimed.event_id)
        assert other is None or (other.claimed_until or "") < self.at()
        assert claimed.event_id not in self.done_with
        self.pushing[claimed.event_id] = claimed
        return claimed

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
        there = self.present(event_id)
        self.lose = lose
        self.check_write(event_id, None if there else event, self.store.put(event))
        if there:
            return multiple()
        self.done_with.discard(event_id)  # it had expired: this is another event
        return self.begin_push(event) if claimed else multiple()

    @precondition(lambda self: len(self.model) < 2)  # so that what is done is done to the same again and again
    @rule(target=ids)
    def put_new(self) -> str:
        event_id = f"evt_{next(numbers):032x}"
        self.put(event_id, claimed=False, lose=False)
        return event_id

    @rule(target=pushes, event_id=ids, lose=LOST)
    def claim(self, event_id: str, lose: bool) -> Any:
        event, after, mine = self.present(event_id), None, f"{next(numbers):032x}"
        due = event and event.status is Status.PENDING and (event.next_attempt_at or "") <= self.at()
        if event and due and self.unclaimed(event):
            until, count = self.at(60), event.delivery_attempts + 1
            after = replace(event, claim_id=mine, claimed_until=until, requeue_at=until, delivery_attempts=count)
        self.lose = lose
        self.check_write(event_id, after, self.store.claim(event_id, mine))
        return self.begin_push(after) if after else multiple()

    @rule(push=consumes(pushes), result=st.sampled_from(["delivered", "failed", "retry", "sweep"]), lose=LOST)
    def record(self, push: Event, result: str, lose: bool) -> None:
        if self.pushing.get(push.event_id) == push:
            del self.pushing[push.event_id]
        push = push.with_attempt(Attempt(self.at(), result, 500, None, 1))
        over = changed(push, "claimed_until", "next_attempt_at", "requeue_at")
        there = self.present(push.event_id)
        mine = there is not None and there.claim_id == push.claim_id
        done = mine and there is not None and there.status is Status.PENDING
        self.lose = lose
        if result == "delivered":
            written = self.store.record_delivered(push)
            after = changed(over, status=Status.DELIVERED, delivered_at=self.at(), delivered_via=DeliveredVia.PUSH)
            self.done_with |= {push.event_id} if done else set()
        elif result == "failed":
            dead = {"reason": Reason.EXHAUSTED, "failed_at": self.at()}
            written = self.store.record_failed(changed(push, **dead))
            after = changed(over, status=Status.FAILED, **dead)
        else:
            delay, grace = (1.5, 60) if result == "retry" else (1000, 0)
            written = self.store.record_retry(push, delay, message_follows=result == "retry")
            after = changed(over, next_attempt_at=self.at(delay), requeue_at=self.at(delay + grace))
        if done:
            self.check_write(push.event_id, after, written)
            return
        assert written == WriteResult(False, there)
        if there and mine:  # acknowledged meanwhile
            self.model[push.event_id] = changed(there, "claimed_until", attempts=push.attempts)
        self.check(push.event_id)

    @rule(event_id=ids, lose=LOST)
    def acknowledge(self, event_id: str, lose: bool) -> None:
        event, after = self.present(event_id), None
        if event and event.status is not Status.DELIVERED:
            over = changed(event, "next_attempt_at", "requeue_at", "failed_at", "reason")
            after = changed(over, status=Status.DELIVERED, delivered_at=self.at(), delivered_via=DeliveredVia.PULL)
            self.done_with.add(event_id)
        self.lose = lose
        written = self.store.acknowledge(event_id)
        if lose and after:  # refused by what its first try made of the event
            assert written == WriteResult(False, after)
            written = WriteResult(True)
        self.check_write(event_id, after, written, tells=False)

    @rule(event_id=ids, told=st.sampled_from(["nothing", "the failure", "another failure"]), lose=LOST)
    def replay(self, event_id: str, told: str, lose: bool) -> None:
        event, after, token = self.present(event_id), None, f"{next(numbers):032x}"
        expires_at = int(self.clock()) + 2 * DAY
        the_failure = event.failed_at if event and told == "the failure" else None
        failed_at = None if told == "nothing" else the_failure or self.at(-0.5)
        if event and self.unclaimed(event) and failed_at in (None, event.failed_at):
            anew = changed(event, "claimed_until", "delivered_at", "delivered_via", "failed_at", "reason")
            anew = changed(anew, status=Status.PENDING, claim_id=token, delivery_attempts=0, expires_at=expires_at)
            after = changed(anew, next_attempt_at=self.at(), replayed_at=self.at(), requeue_at=self.at(60))
            self.done_with.discard(event_id)
        self.lose = lose
        written = self.store.replay(event_id, token, expires_at=expires_at, failed_at=failed_at)
        self.check_write(event_id, after, written)

    @rule(event_id=ids, stale=st.booleans(), lose=LOST)
    def mark(self, event_id: str, stale: bool, lose: bool) -> None:
        event = self.present(event_id)
        seen = self.at(-0.25) if stale or not event or not event.requeue_at else event.requeue_at
        after = changed(event, requeue_at=self.at(60)) if event and event.requeue_at == seen else None
        self.lose = lose
        written = self.store.mark_requeued(event_id, seen)
        if lose and after and after.requeue_at != seen:  # refused by its own first try: another minute
            assert written == WriteResult(False, after)
            written = WriteResult(True)
        self.check_write(event_id, after, written, tells=False)

    @rule(seconds=st.sampled_from([0.5, 1.5, 30, 59.9, 60, 60.1, 1000, DAY]))
    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)


def test_any_order_of_transitions_does_to_the_store_what_it_does_to_the_model(shared_world: World) -> None:
    machine = type("Machine", (StoreModel,), {"world": shared_world})
    how = settings(
        max_examples=10,
        stateful_step_count=50,
        deadline=None,
        derandomize=True,  # what fails must fail again
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.reuse, Phase.generate),  # to shrink what failed would take longer than a test may
    )
    run_state_machine_as_test(machine, settings=how)
