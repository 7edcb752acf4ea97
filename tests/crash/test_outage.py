"""A destination that is down, hangs, is slow, or hangs now and then: who waits for it, and how
long, in virtual time.
"""

import itertools
import statistics

import pytest

from chalicelib.core.event import Event, Status
from measure.trouble import (
    FLAKY,
    HANGING,
    NEARLY_SLOW,
    REFUSES,
    SLOW_TO_DELIVER,
    SLOW_TO_FAIL,
    SLOW_TO_THROTTLE,
    SOMETIMES,
    THROTTLES,
    USUAL,
    Outage,
    RecoveryWorld,
    RepairWorld,
    SomeSlowWorld,
    TenantsWorld,
    dies_again,
)
from tests.simulator.simulated_world import INBOX, SLOW, Container, Response, SimulatedWorld

CASES = [
    *itertools.product((REFUSES, SLOW_TO_THROTTLE, SLOW_TO_FAIL, THROTTLES, FLAKY), (False,)),
    *itertools.product((HANGING, SLOW_TO_DELIVER), (False, True)),
    (SOMETIMES, True),
]


@pytest.mark.parametrize("trouble, in_webhook", CASES)
def test_a_destination_in_trouble_holds_up_no_other_from_the_first_second_on(
    trouble: str, in_webhook: bool
) -> None:
    assert Outage(trouble, 5, seconds=50, in_webhook=in_webhook).waits().p95 < 2


def test_a_usual_receiver_that_gets_much_holds_up_no_other() -> None:
    assert Outage(USUAL, 20, seconds=30).waits().p95 < 2


class ShortRecoveryWorld(RecoveryWorld):
    missed = 500


def test_what_a_tenant_recovers_holds_up_no_other_and_leaves_its_new_events_alone() -> None:
    world = Outage(NEARLY_SLOW, 5, seconds=40, kind=ShortRecoveryWorld).run()
    assert world.healthy_waits().p95 < 2
    recovering, _ = world.history.subscribed_at
    subscription = world.start().call("GET", f"/subscriptions/{recovering}").json
    assert subscription["slow_since"] is None


class SecondsWorld(SimulatedWorld):
    """Every push takes 1.1 s."""

    def answer(self, event: Event, url: str) -> Response:
        return Response(200, 1.1)


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
    assert Outage(HANGING, 1, subscriptions=25, first_second=60).waits().p95 < 1


def test_a_target_that_hung_is_not_held_up_by_another_tenants_that_hang() -> None:
    world = TenantsWorld(1, 10, hangs_seconds=60, seconds=1200, posts=20, seed=1)
    world.run(per_second=0.2)
    waits = world.delivery_seconds()
    assert len(waits) == 20
    assert statistics.median(waits) < 180
    assert max(waits) < 900


def test_a_target_with_the_url_of_another_tenants_that_hangs_gets_its_copies_inline() -> None:
    world = TenantsWorld(1, 1, hangs_seconds=0, seconds=120, posts=20, seed=1)
    world.run(per_second=0.2, queues_posts=False)
    waits = world.delivery_seconds()
    assert len(waits) == 20
    assert statistics.median(waits) < 1
    assert max(waits) < 900


def test_what_is_slow_for_some_events_delivers_all() -> None:
    world = Outage(REFUSES, 5, kind=SomeSlowWorld).run()
    world.settle()
    assert {event.status for event in world.items().values()} == {Status.DELIVERED}


@pytest.mark.parametrize("recovers", [False, True])
def test_what_waits_for_a_destination_arrives_within_minutes_of_its_repair(
    *, recovers: bool
) -> None:
    world = RepairWorld(12, act_after_repair=Container.recover if recovers else None)
    world.run(per_second=1)
    half, last = world.arrivals()
    assert half < (105 if recovers else 450)  # *Recover* comes 5 s after the repair
    assert last < (305 if recovers else 700)
    assert world.healthy_waits().p95 < 3


def test_a_destination_that_dies_again_is_left_alone() -> None:
    world = RepairWorld(100, respond_after_repair=dies_again, limit_seconds=600)
    world.run(per_second=1)
    assert max(world.pushes[key] for key in world.waiting) <= 3
    assert world.healthy_waits().p95 < 3
