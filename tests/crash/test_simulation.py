"""Everybody at once, everything failing: the promises hold whatever the order of things."""

import pytest

from tests.crash.simulation import live_through

SEEDS = 200


@pytest.mark.parametrize("first", range(0, SEEDS, 10))
def test_no_order_of_calls_faults_and_crashes_breaks_a_promise(first: int) -> None:
    for seed in range(first, first + 10):
        live_through(seed)


def test_a_seed_repeats_its_run_exactly() -> None:
    one, other = live_through(30), live_through(30)
    assert one.items() == other.items()
    assert [push.started for pushes in one.witness.pushes.values() for push in pushes] == [
        push.started for pushes in other.witness.pushes.values() for push in pushes
    ]
