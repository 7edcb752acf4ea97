"""Everybody at once, everything failing: the promises hold whatever the order of calls."""

import pytest

from tests.simulator.simulation import StormWorld
from tests.support.versions import PRESENT, Version


@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_calls_faults_and_crashes_breaks_a_promise(seed: int) -> None:
    StormWorld(seed).live()


@pytest.mark.parametrize("seed", [5, 6])
def test_functions_of_1_0_0_beside_break_no_promise(seed: int, released: Version) -> None:
    StormWorld(seed, (PRESENT, released)).live()
