"""Everybody at once, everything failing: the promises hold whatever the order of calls."""

from typing import Any

import pytest

from chalicelib.store import EventStore, WriteResult
from tests.crash.invariants import ViolationError
from tests.crash.rig import TABLE, Process
from tests.crash.simulation import Storm, run

SEEDS = range(20)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_order_of_calls_faults_and_crashes_breaks_a_promise(seed: int) -> None:
    run(seed)


def test_a_seed_repeats_its_run_exactly() -> None:
    one, other = run(3), run(3)
    assert one.items() == other.items()
    assert [push.started for pushes in one.witness.pushes.values() for push in pushes] == [
        push.started for pushes in other.witness.pushes.values() for push in pushes
    ]


class Miscounting(EventStore):
    """Counts one claim in four twice."""

    claims = 0

    def claim(self, event_id: str, claim_id: str) -> WriteResult:
        result = super().claim(event_id, claim_id)
        self.claims += result.applied
        if result.event and result.applied and self.claims % 4 == 0:
            return super().recount(result.event)
        return result


class MiscountingStorm(Storm):
    def start(self) -> Process:
        process = super().start()
        process.services.store = Miscounting(self.dynamodb, TABLE, clock=process.clock)
        return process


@pytest.mark.parametrize("seed", SEEDS)
def test_every_seed_sees_one_claim_in_four_counted_twice(seed: int) -> None:
    with pytest.raises(ViolationError, match="attempts counted"):
        run(seed, MiscountingStorm)
