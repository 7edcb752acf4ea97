"""A destination that is down, hangs, is slow, or hangs now and then: who waits for it, and how
long, in virtual time.
"""

import itertools
import statistics

import pytest

from chalicelib.core.event import Event
from measure.outage import (
    FLAKY,
    NEARLY_SLOW,
    SLOW_TO_DELIVER,
    SLOW_TO_FAIL,
    SOMETIMES,
    TENANTS,
    THROTTLES,
    USUAL,
    RecoveryWorld,
    TenantsWorld,
    for_some_slow,
    run_beside,
    waits_beside,
)
from measure.repair import RepairWorld, dies_again
from tests.simulator.simulated_world import INBOX, SLOW, Container, SimulatedWorld

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


def test_a_usual_receiver_that_gets_much_holds_up_no_other() -> None:
    _, p95 = waits_beside(USUAL, per_second=20, seconds=30)
    assert p95 < 2


class ShortRecoveryWorld(RecoveryWorld):
    missed = 500


def test_what_a_tenant_recovers_holds_up_no_other_and_leaves_its_new_events_alone() -> None:
    world = run_beside(NEARLY_SLOW, per_second=5, seconds=40, kind=ShortRecoveryWorld)
    _, p95 = world.healthy_waits()
    assert p95 < 2
    recovering, _ = world.history.subscribed_at
    subscription = world.start().call("GET", f"/subscriptions/{recovering}").json
    assert subscription["slow_since"] is None


class SecondsWorld(SimulatedWorld):
    """Every push takes 1.1 s."""

    def answer(self, event: Event, url: str) -> tuple[int | None, float]:
        return 200, 1.1


def test_a_batch_of_ten_leaves_a_webhook_that_takes_a_second_in_the_fast_lane() -> None:
    world = SecondsWorld({"ZAPIER_WEBHOOK_URL": "subscriptions"})
    container = Container(world)
    container.subscribe("https://hooks.zapier.com/a")
    world.clock.sleep(20)
    for _ in range(3):
        assert container.post_batch(*["{}"] * 10)
        world.clock.sleep(1)
    container.post(prefer="respond-async")
    assert world.sqs.messages(INBOX)
    assert not world.sqs.messages(SLOW)


def test_many_destinations_that_hang_hold_up_no_other() -> None:
    _, p95 = waits_beside("hangs", subscriptions=25, per_second=1, seconds=90, measured_from=60)
    assert p95 < 1


@pytest.mark.parametrize("beside", list(TENANTS)[:1] + list(TENANTS)[-1:])
def test_targets_of_another_tenant_that_hang_hold_up_none(beside: str) -> None:
    waits = TENANTS[beside](seed=1)
    assert len(waits) == TenantsWorld.copies
    assert statistics.median(waits) < (180 if "minute" in beside else 1)
    assert max(waits) < 900


def test_what_is_slow_for_some_events_delivers_all() -> None:
    assert for_some_slow().endswith(" 0 not delivered")


@pytest.mark.parametrize("recovers", [False, True])
def test_what_waits_for_a_destination_that_hung_for_hours_arrives_within_minutes_of_its_repair(
    *, recovers: bool
) -> None:
    world = RepairWorld(12, recovers=recovers)
    world.run(per_second=1, prefer="respond-async")
    half, last = world.arrivals()
    assert half < (105 if recovers else 450)  # *Recover* comes 5 s after the repair
    assert last < (305 if recovers else 700)
    assert world.healthy_waits()[1] < 3


def test_a_destination_that_dies_again_is_left_alone() -> None:
    world = RepairWorld(100, responds=dies_again, limit_seconds=600)
    world.run(per_second=1, prefer="respond-async")
    assert max(world.pushes[key] for key in world.old) <= 3
    assert world.healthy_waits()[1] < 3
