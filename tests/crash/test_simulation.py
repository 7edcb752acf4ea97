"""Everybody at once, everything failing: the promises hold whatever the order of calls."""

import pytest

from tests.simulator.simulation import StormWorld


@pytest.mark.parametrize("seed", range(10))
def test_no_order_of_calls_faults_and_crashes_breaks_a_promise(seed: int) -> None:
    StormWorld(seed).live()
