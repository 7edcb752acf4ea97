"""A destination that is down, hangs, or hangs now and then: who waits for it, and how long, in
virtual time.
"""

import itertools

import pytest

from tests.simulator.outage import (
    SOMETIMES,
    TENANTS,
    TwoTenantsWorld,
    waits_beside,
)

TROUBLES = [
    ("answers 503", False),
    *itertools.product(("hangs", "answers 503 after 9 s"), (False, True)),
    (SOMETIMES, True),
]


@pytest.mark.parametrize(("trouble", "in_webhook"), TROUBLES)
def test_a_destination_in_trouble_holds_up_no_other(trouble: str, in_webhook: bool) -> None:
    _, p95 = waits_beside(trouble, in_webhook=in_webhook, per_second=5, seconds=50)
    assert p95 <= (10 if trouble == SOMETIMES else 5)


def test_many_destinations_that_hang_hold_up_no_other() -> None:
    median, p95 = waits_beside(
        "hangs", subscriptions=10, per_second=1, seconds=120, measured_from=60
    )
    assert median <= 1
    assert p95 <= 5


@pytest.mark.parametrize("beside", TENANTS)
def test_targets_of_another_tenant_that_hang_hold_up_none(beside: str) -> None:
    waits = TENANTS[beside](seed=1)
    assert len(waits) == TwoTenantsWorld.copies
    assert max(waits) < 1 or "minute" in beside
