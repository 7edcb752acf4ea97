"""The life of one event, in every order in which its actors can take their steps.

Any actor may stop for ever after any step, so what must hold in the end has to hold in every state that is reached.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from chalicelib import delivery, settings
from chalicelib.events import Event, Reason, Status, rfc3339, unix_seconds
from chalicelib.services import Services
from chalicelib.store import CLAIM_SECONDS, MESSAGE_GRACE_SECONDS
from tests.support.fake_aws import FakeDynamoDB
from tests.support.world import START, Clock

EVENT_ID = f"evt_{1:032x}"
TICK_SECONDS = CLAIM_SECONDS + 1  # after a tick every claim and lease is over, and who pushed was killed
MAX_TICKS = 2
EXPIRES_AT = int(START) + 86_400
ENVIRON = {
    "EVENTS_TABLE_NAME": "events",
    "INBOX_QUEUE_URL": "https://sqs.test/inbox",
    "INBOX_DLQ_URL": "https://sqs.test/dlq",
    "ZAPIER_WEBHOOK_URL": "https://hooks.test/1",
    "API_KEYS": "",
}


EVENT = Event(
    event_id=EVENT_ID,
    event_type="a",
    status=Status.PENDING,
    created_at=rfc3339(START),
    created_by="acme",
    expires_at=EXPIRES_AT,
    response_bytes=2,
    delivery_attempts=1,
    claim_id="post",
    claimed_until=rfc3339(START + CLAIM_SECONDS),
    next_attempt_at=rfc3339(START),
    requeue_at=rfc3339(START + CLAIM_SECONDS),
)


@dataclass(frozen=True)
class Actor:
    """`step` is what it does next; `held` is the event as it claimed or leased it, if it did."""

    step: str
    held: Event = EVENT


@dataclass(frozen=True)
class State:
    """`dead_letters` are the `failed_at` of messages in the DLQ; `claims` counts those since the last replay."""

    actors: tuple[Actor, ...]
    item: tuple[tuple[str, Any], ...] = ()
    dead_letters: frozenset[str] = frozenset()
    claims: int = 0
    ticks: int = 0


class SingleEventWorld:
    """A table with one event that is put into any state and asked what can come next."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.dynamodb = FakeDynamoDB(self.clock)
        self.name = ""
        loaded = settings.load(ENVIRON)
        self.services = Services(
            loaded, make_client=lambda service: self.dynamodb, clock=self.clock, new_id=lambda: self.name
        )
        self.store = self.services.store

    def enter(self, state: State) -> None:
        self.clock.now = START + state.ticks * TICK_SECONDS
        self.dynamodb.items = {EVENT_ID: dict(state.item)}

    def event(self) -> Event:
        event = self.store.get(EVENT_ID)
        assert event
        return event

    def is_held(self, actor: Actor) -> bool:
        return actor.step in (*PUSHING, "leased") and actor.held.is_claimed(self.clock())

    def next_states(self, state: State) -> Iterator[State]:
        if state.ticks < MAX_TICKS:
            actors = tuple(actor if actor.step not in PUSHING else DONE for actor in state.actors)
            yield replace(state, actors=actors, ticks=state.ticks + 1)
        for number, actor in enumerate(state.actors):
            for step in STEPS.get(actor.step, ()):
                self.enter(state)
                self.name = f"{actor.step}-{number}"
                after, changes = step(self, actor, state)
                yield replace(
                    state,
                    actors=(*state.actors[:number], after, *state.actors[number + 1 :]),
                    item=tuple(sorted(self.dynamodb.items[EVENT_ID].items())),
                    **changes,
                )

    def check(self, state: State) -> None:
        self.enter(state)
        event = self.event()
        assert sum(map(self.is_held, state.actors)) <= 1, "two hold the event"
        assert event.delivery_attempts == state.claims, "attempts are not the claims for pushes"
        if event.status is Status.FAILED:
            assert event.failed_at in state.dead_letters, "failed without a dead letter"
        if event.status is Status.PENDING:
            assert event.next_attempt_at, "never due"
            assert unix_seconds(event.requeue_at or "") < self.clock() + 3 * TICK_SECONDS, "the sweep is too late"


Step = Callable[[SingleEventWorld, Actor, State], tuple[Actor, dict[str, Any]]]
PUSHING = ("push", "record", "fail")
DONE = Actor("done")


def claim(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    result = world.store.claim(EVENT_ID, world.name)
    if not (result.applied and result.event):
        return DONE, {}
    return Actor("push", result.event), {"claims": state.claims + 1}


def push(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    assert world.event().claim_id == actor.held.claim_id, "a push under a claim that is lost"
    return Actor("record", actor.held), {}


def record_delivered(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    world.store.record_delivered(actor.held)
    return DONE, {}


def record_retry(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    world.store.record_retry(actor.held, delay_seconds=0, will_be_queued=True)
    return DONE, {}


def send_dead_letter(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    failed = replace(actor.held, reason=Reason.PERMANENT, failed_at=f"{rfc3339(world.clock())} {actor.held.claim_id}")
    return Actor("fail", failed), {"dead_letters": state.dead_letters | {failed.failed_at}}


def record_failed(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    world.store.record_failed(actor.held)
    return DONE, {}


def lease(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    result = world.store.lease(EVENT_ID, world.name, 30)
    if not (result.applied and result.event):
        return DONE, {}
    return Actor("leased", result.event), {}


def acknowledge_leased(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    applied = world.store.acknowledge(EVENT_ID, actor.held.claim_id).applied
    assert not applied or world.is_held(actor), "acknowledged with a lease that is lost"
    return DONE, {}


def release(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    applied = world.store.release(EVENT_ID, str(actor.held.claim_id)).applied
    assert not applied or world.is_held(actor), "released with a lease that is lost"
    return DONE, {}


def acknowledge(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    world.store.acknowledge(EVENT_ID)
    return DONE, {}


def replay(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    result = world.store.replay(EVENT_ID, world.name, expires_at=EXPIRES_AT)
    return (Actor("claim"), {"claims": 0}) if result.applied else (DONE, {})


def redrive(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    """Handle the oldest dead letter as the worker does; it is gone unless it is sent on."""
    if not state.dead_letters:
        return DONE, {}
    dead_letter, before = min(state.dead_letters), world.event()
    delay_seconds = delivery.redrive(EVENT_ID, dead_letter, world.services)
    changes: dict[str, Any] = {} if delay_seconds else {"dead_letters": state.dead_letters - {dead_letter}}
    if world.event().claim_id != before.claim_id:
        changes["claims"] = 0
    return Actor("done" if delay_seconds else "claim"), changes


def sweep(world: SingleEventWorld, actor: Actor, state: State) -> tuple[Actor, dict[str, Any]]:
    requeue_at = world.event().requeue_at
    if requeue_at is None or requeue_at > rfc3339(world.clock()):
        return DONE, {}
    return Actor(
        "claim"
        if world.store.mark_requeued(EVENT_ID, requeue_at, rfc3339(world.clock() + MESSAGE_GRACE_SECONDS)).applied
        else "done"
    ), {}


STEPS: dict[str, tuple[Step, ...]] = {
    "claim": (claim,),
    "push": (push,),
    "record": (record_delivered, record_retry, send_dead_letter),
    "fail": (record_failed,),
    "lease": (lease,),
    "leased": (acknowledge_leased, release),
    "acknowledge": (acknowledge,),
    "replay": (replay,),
    "redrive": (redrive,),
    "sweep": (sweep,),
}


@pytest.mark.parametrize(
    "others",
    [
        ("claim", "acknowledge", "replay"),
        ("claim", "sweep", "replay"),
        ("lease", "lease", "claim"),
        ("lease", "redrive", "claim"),
        ("lease", "acknowledge", "replay"),
        ("redrive", "redrive", "replay"),
        ("lease", "sweep", "replay"),
    ],
)
def test_no_order_of_steps_loses_an_event_or_lets_two_hold_it(others: tuple[str, ...]) -> None:
    world = SingleEventWorld()
    world.store.put(EVENT)
    item = tuple(sorted(world.dynamodb.items[EVENT_ID].items()))
    first = State((Actor("push"), *map(Actor, others)), item, claims=1)
    seen, todo = {first}, [first]
    while todo:
        state = todo.pop()
        world.check(state)
        new = set(world.next_states(state)) - seen
        seen |= new
        todo += new
    assert len(seen) > 1000
