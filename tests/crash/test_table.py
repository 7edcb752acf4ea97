"""The table of the simulations responds as DynamoDB does, as far as moto shows it."""

from collections.abc import Sequence

import pytest

from tests.simulator import table_requests
from tests.simulator.table_requests import Request
from tests.support.world import World


@pytest.fixture(scope="module")
def recorded() -> Sequence[Request]:
    return table_requests.record()


def test_every_condition_of_the_source_is_compared(recorded: Sequence[Request]) -> None:
    assert table_requests.missing(recorded) == []


def test_the_table_in_memory_responds_as_moto_does(
    recorded: Sequence[Request], shared_world: World
) -> None:
    assert table_requests.differences(recorded, shared_world.outside_dynamodb) == []
