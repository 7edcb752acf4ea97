"""Everybody at once, everything failing: the promises hold whatever the order of calls."""

import itertools
from typing import Any

import pytest

from tests.crash.invariants import ViolationError
from tests.crash.simulation import StormWorld, run

SEEDS = range(10)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_order_of_calls_faults_and_crashes_breaks_a_promise(seed: int) -> None:
    run(seed)


def test_a_seed_repeats_its_run_exactly() -> None:
    one, other = run(4), run(4)
    assert one.items() == other.items()
    assert [push.started for pushes in one.history.pushes.values() for push in pushes] == [
        push.started for pushes in other.history.pushes.values() for push in pushes
    ]


class MiscountingWorld(StormWorld):
    """One claim in four counts twice."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        claims = itertools.count(1)
        update_item = self.dynamodb.update_item

        def miscount(**parameters: Any) -> dict[str, Any]:
            if "ADD delivery_attempts" in parameters["UpdateExpression"] and next(claims) % 4 == 0:
                parameters["ExpressionAttributeValues"] |= {":one": {"N": "2"}}
            return update_item(**parameters)

        self.dynamodb.update_item = miscount  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", SEEDS[::2])
def test_every_seed_sees_one_claim_in_four_counted_twice(seed: int) -> None:
    with pytest.raises(ViolationError, match="attempts counted"):
        run(seed, MiscountingWorld)
