"""A destination that is down, hangs, is slow, or hangs now and then: who waits for it, and how
long, in virtual time.
"""

import itertools

import pytest

from tests.simulator.outage import (
    FLAKY,
    SLOW_TO_DELIVER,
    SLOW_TO_FAIL,
    SOMETIMES,
    TENANTS,
    THROTTLES,
    TenantsWorld,
    for_some_slow,
    waits_beside,
)

TROUBLES = [
    ("answers 503", False),
    ("answers 429 after 9 s", False),
    (SLOW_TO_FAIL, False),
    (THROTTLES, False),
    (FLAKY, False),
    *itertools.product(("hangs", SLOW_TO_DELIVER), (False, True)),
    (SOMETIMES, True),
]


@pytest.mark.parametrize("trouble, in_webhook", TROUBLES)
def test_a_destination_in_trouble_holds_up_no_other_from_the_first_second_on(
    trouble: str, in_webhook: bool
) -> None:
    _, p95 = waits_beside(trouble, in_webhook=in_webhook, per_second=5, seconds=50)
    assert p95 < 2


def test_many_destinations_that_hang_hold_up_no_other() -> None:
    _, p95 = waits_beside("hangs", subscriptions=25, per_second=1, seconds=90, measured_from=60)
    assert p95 < 1


@pytest.mark.parametrize("beside", list(TENANTS)[:1] + list(TENANTS)[-1:])
def test_targets_of_another_tenant_that_hang_hold_up_none(beside: str) -> None:
    waits = TENANTS[beside](seed=1)
    assert len(waits) == TenantsWorld.copies
    assert max(waits) < (180 if "minute" in beside else 1)


def test_what_is_slow_for_some_events_delivers_all() -> None:
    assert for_some_slow().endswith(" 0 not delivered")
