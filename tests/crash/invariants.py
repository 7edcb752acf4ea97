"""What is promised of every run, whatever died in it: the one place that says so.

A witness stands at the receiver, the callers and the consumers; at the end the store is compared with what it saw.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from chalicelib.events import Event, Status, DeliveredVia


class ViolationError(AssertionError):
    """A promise was broken."""


class Container(Protocol):
    """A process that pushes: it is `faults` that excuse a push that is made twice."""

    faults: list[str]


@dataclass(frozen=True)
class Push:
    """One push that reached the receiver; `status_code` None: no answer. `faults` is how many `by` had had by then."""

    event: Event
    started: float
    status_code: int | None
    by: Container
    faults: int

    @property
    def arrived(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


@dataclass
class Witness:
    """What callers, consumers and the receiver saw."""

    accepted: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    pushes: defaultdict[str, list[Push]] = field(default_factory=lambda: defaultdict(list))
    running: set[str] = field(default_factory=set)
    doubles: list[str] = field(default_factory=list)  # the fault that made an event be pushed again after a 2xx
    violations: list[str] = field(default_factory=list)  # kept: the code under test survives whatever is raised

    def see_begin(self, event: Event, stored: Event) -> None:
        """A push of `event` begins; `stored` is what the store holds at this moment."""
        if event.event_id in self.running:
            self.violations.append("two pushes of one event at the same time")
        if stored.claim_id != event.claim_id:
            self.violations.append("a push under a claim that is somebody else's")
        if stored.status is not Status.PENDING and stored.delivered_via is not DeliveredVia.PULL:
            self.violations.append(f"a push of an event that is {stored.status}")
        for earlier in self.pushes[event.event_id]:
            if earlier.arrived and earlier.event.replayed_at == event.replayed_at:
                after = earlier.by.faults[earlier.faults :]
                if after:
                    self.doubles.append(after[0])
                else:
                    self.violations.append("pushed again after a 2xx whose record was not lost")
        self.running.add(event.event_id)

    def see_end(self, push: Push) -> None:
        self.running.discard(push.event.event_id)
        self.pushes[push.event.event_id].append(push)


def check(witness: Witness, stored: Mapping[str, Event], letters: Iterable[Mapping[str, Any]], faults: int) -> None:
    """Raise ViolationError unless a settled system kept its promises. `faults` is how many were put into it."""
    for violation in witness.violations:
        raise ViolationError(violation)
    told = {(letter.get("event_id"), letter.get("failed_at")) for letter in letters}
    if missing := witness.accepted - stored.keys():
        raise ViolationError(f"accepted and not stored: {missing}")
    for event in stored.values():
        _check_end(event, witness, told)
        _check_attempts(event, witness, faults)


def _check_end(event: Event, witness: Witness, told: set[tuple[Any, Any]]) -> None:
    """Refused posts too: what is stored is delivered or failed in the end, and for a reason."""
    if event.status is Status.PENDING:
        raise ViolationError("pending for ever")
    if event.status is Status.FAILED and (event.event_id, event.failed_at) not in told:
        raise ViolationError("failed without a message in the dead letter queue")
    if event.delivered_via is DeliveredVia.PULL and event.event_id not in witness.acknowledged:
        raise ViolationError("delivered by pull, and nobody acknowledged")
    if event.delivered_via is DeliveredVia.PUSH and not any(push.arrived for push in witness.pushes[event.event_id]):
        raise ViolationError("delivered by push, and the receiver never said so")


def _check_attempts(event: Event, witness: Witness, faults: int) -> None:
    seen = [push for push in witness.pushes[event.event_id] if push.event.replayed_at == event.replayed_at]
    if not len(seen) <= event.delivery_attempts <= len(seen) + faults:
        raise ViolationError(f"{event.delivery_attempts} attempts counted, {len(seen)} seen, {faults} faults")
