"""The promises, checked for every run, whatever failed in it.

A witness watches the table, the receiver, callers and consumers; at the end the store is compared with what it saw.
A fault excuses only what happened to the event that it struck.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chalicelib.events import DeliveredVia, Event, Status, unix_seconds

MAX_SKEW_SECONDS = 5.0  # how far the clock of a container is off, either way

Item = Mapping[str, Any]


class ViolationError(AssertionError):
    """A promise was broken."""


@dataclass
class Push:
    """A push that reached the receiver. `status_code` None: no response.

    `lost`: the sender never saw the response. `is_recorded` and `fault` tell what became of the record that its
    `invocation` owed.
    """

    event: Event
    invocation: object
    started: float
    status_code: int | None = None
    lost: bool = False
    is_recorded: bool = False
    fault: str | None = None

    @property
    def arrived(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


@dataclass
class Witness:
    """What callers, consumers, the receiver and the table saw."""

    accepted: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    pushes: defaultdict[str, list[Push]] = field(default_factory=lambda: defaultdict(list))
    running: set[str] = field(default_factory=set)
    # By event and life: an event lives again with each replay.
    faults: Counter[tuple[str, str | None]] = field(default_factory=Counter)
    doubles: list[str] = field(default_factory=list)  # for each event pushed again after a 2xx: the fault behind it
    violations: list[str] = field(default_factory=list)  # kept, not raised: the code under test catches exceptions

    def see_write(self, before: Item | None, after: Item | None, now: float) -> None:
        """Check a write to the table."""
        if before is None or after is None or "status" not in after:
            return
        held_until = before.get("claimed_until")
        taken = after["claim_id"] != before["claim_id"]
        if taken and held_until and now < unix_seconds(held_until) - MAX_SKEW_SECONDS:
            self.violations.append("an event was taken from who held it")
        if before["status"] != Status.PENDING == after["status"] and before.get("replayed_at") == after["replayed_at"]:
            self.violations.append(f"{before['status']} became pending without a replay")

    def see_push(self, push: Push, stored: Event | None) -> None:
        """Check a push that begins; `stored` is the event in the table at this moment."""
        event = push.event
        if event.event_id in self.running:
            self.violations.append("two pushes of one event at the same time")
        if stored is None or stored.claim_id != event.claim_id:
            self.violations.append("a push under a claim that is not held")
        elif stored.status is not Status.PENDING and stored.delivered_via is not DeliveredVia.PULL:
            self.violations.append(f"a push of a {stored.status} event")
        for earlier in self.pushes[event.event_id]:
            if earlier.arrived and earlier.event.replayed_at == event.replayed_at:
                if earlier.fault and not earlier.is_recorded:
                    self.doubles.append(earlier.fault)
                else:
                    self.violations.append("pushed again after a 2xx that could be recorded")
        self.running.add(event.event_id)
        self.pushes[event.event_id].append(push)

    def see_record(self, event_id: str, invocation: object) -> None:
        """Note a write that took effect: what the invocation pushed, and had the response of, is recorded or refused."""
        for push in self.pushes.get(event_id, ()):
            if push.invocation is invocation and event_id not in self.running and not push.lost:
                push.is_recorded = True

    def see_fault(
        self, event_id: str, stored: Event | None, invocation: object, fault: str, *, is_push: bool
    ) -> None:
        self.faults[event_id, stored.replayed_at if stored else None] += 1
        for push in self.pushes.get(event_id, ()):
            if push.invocation is invocation:
                push.fault = fault
                push.lost = push.lost or is_push


def check(witness: Witness, stored: Mapping[str, Event], dead_letters: Iterable[Mapping[str, Any]]) -> None:
    """Raise ViolationError unless a settled system kept its promises."""
    for violation in witness.violations:
        raise ViolationError(violation)
    told = {(letter.get("event_id"), letter.get("failed_at")) for letter in dead_letters}
    if missing := witness.accepted - stored.keys():
        raise ViolationError(f"accepted and not stored: {missing}")
    for event in stored.values():
        _check_end(event, witness, told)
        _check_attempts(event, witness)


def _check_end(event: Event, witness: Witness, told: set[tuple[Any, Any]]) -> None:
    """Check the end of an event, also of one whose caller was told 503: whatever is stored is delivered or failed."""
    if event.status is Status.PENDING:
        raise ViolationError("pending for ever")
    if event.status is Status.FAILED and (event.event_id, event.failed_at) not in told:
        raise ViolationError(f"{event.event_id} failed without a message in the dead letter queue")
    if event.delivered_via is DeliveredVia.PULL and event.event_id not in witness.acknowledged:
        raise ViolationError("delivered by pull, and nobody acknowledged")
    if event.delivered_via is DeliveredVia.PUSH and not any(push.arrived for push in witness.pushes[event.event_id]):
        raise ViolationError("delivered by push, and the receiver never answered 2xx")


def _check_attempts(event: Event, witness: Witness) -> None:
    seen = sum(push.event.replayed_at == event.replayed_at for push in witness.pushes[event.event_id])
    faults = witness.faults[event.event_id, event.replayed_at]
    if not seen <= event.delivery_attempts <= seen + faults:
        raise ViolationError(f"{event.delivery_attempts} attempts counted, {seen} seen, {faults} faults of that event")
