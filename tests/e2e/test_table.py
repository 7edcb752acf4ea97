"""`make e2e`: the table of the simulations responds as the emulated AWS does."""

import os
from pathlib import Path

import pytest

from tests.simulator import table_requests
from tests.support.ministack import ministack

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not os.environ.get("E2E"), reason="takes minutes; `make e2e` sets E2E"),
]


def test_the_table_in_memory_responds_as_ministack_does(tmp_path: Path) -> None:
    with ministack(tmp_path / "log") as aws:
        assert table_requests.differences(table_requests.record(), aws.direct("dynamodb")) == []
