"""`make outage`: measure how long healthy events wait beside destinations in trouble, and how long
the events that wait for a destination take to arrive after its repair. docs/reliability.md has the
figures.
"""

import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise

from chalicelib.core.event import Status
from measure.trouble import (
    AFTER_A_SECOND,
    FLAKY,
    HANGING,
    NEARLY_SLOW,
    REFUSES,
    SLOW_TO_DELIVER,
    SLOW_TO_FAIL,
    SLOW_TO_THROTTLE,
    SOMETIMES,
    THROTTLES,
    THROTTLES_LONG,
    USUAL,
    HiccupWorld,
    LongRecoveryWorld,
    Outage,
    RecoveryWorld,
    RepairWorld,
    SomeSlowWorld,
    TenantsWorld,
    flaps,
)
from tests.simulator.simulated_world import Container

# Each figure is simulated with each of these seeds, and the worst result is printed.
SEEDS = range(4)
# How many events a second are posted beside a destination in trouble.
RATES = {
    **dict.fromkeys((REFUSES, SLOW_TO_THROTTLE), (5,)),
    **dict.fromkeys(
        (THROTTLES, THROTTLES_LONG, FLAKY, SLOW_TO_FAIL, SLOW_TO_DELIVER, HANGING, SOMETIMES),
        (5, 20),
    ),
    **dict.fromkeys((NEARLY_SLOW, USUAL), (20, 40)),
}
# A name, and a function that simulates the figure and returns it as text.
Figure = tuple[str, Callable[[], str]]


def describe_waits(outage: Outage) -> str:
    """Simulate an outage with each seed; return, as text, the longest median and the longest 95th
    percentile of the seconds that healthy events wait: the events whose destination is not in
    trouble.
    """
    runs = [outage.waits(seed) for seed in SEEDS]
    median = max(waits.median for waits in runs)
    p95 = max(waits.p95 for waits in runs)
    return f"healthy events wait {median:.1f} s (median), {p95:.1f} s (p95)"


def describe_ten_minutes(outage: Outage) -> str:
    """Simulate an outage once; return, as text, the 95th percentile of the seconds that healthy
    events waited, how many copies exist and are pending at the end, and how many queue messages
    were sent.
    """
    world = outage.run()
    copies = [event for event in world.items().values() if event.is_copy]
    pending = sum(event.status is Status.PENDING for event in copies)
    sent = world.history.messages.total()
    waits = world.healthy_waits()
    return (
        f"p95 {waits.p95:.1f} s, {len(copies)} copies, {pending} wait, "
        f"{sent} messages for all events"
    )


def describe_some_slow() -> str:
    """Simulate a subscription whose target responds quickly to half of the copies and slowly to
    the others; return, as text, the 95th percentile of the seconds that the quick copies waited,
    and how many events and copies were not delivered.
    """
    # SomeSlowWorld has responses of its own, so the trouble has no effect.
    world = Outage(REFUSES, per_second=5, kind=SomeSlowWorld).run()
    world.settle()
    failed = [event for event in world.items().values() if event.status is not Status.DELIVERED]
    return f"p95 of the quick ones {world.healthy_waits().p95:.1f} s, {len(failed)} not delivered"


def describe_tenants(hanging_tenants: int, targets: int) -> str:
    """Simulate a tenant whose target hangs for the first minute, beside tenants whose targets hang
    all the time, with each seed; return, as text, how many copies of the first tenant were
    delivered, and the median and the longest of the seconds that these copies waited: of each, the
    worst result.

    :param hanging_tenants: How many tenants have targets that hang all the time.
    :param targets: How many targets each of these tenants has.
    """
    runs = []
    for seed in SEEDS:
        world = TenantsWorld(
            hanging_tenants, targets, hangs_seconds=60, seconds=1200, posts=20, seed=seed
        )
        world.run(per_second=0.2)  # of each tenant
        runs.append(world.delivery_seconds())
    delivered = min(map(len, runs))
    median = max(map(statistics.median, runs))
    longest = max(map(max, runs))
    return f"{delivered} delivered, median {median:.0f} s, longest wait {longest:.0f} s"


def describe_trials() -> str:
    """Simulate ten hanging targets of one tenant for six hours; return, as text, the median number
    of seconds between two pushes of one container to these targets in each hour. While a target
    hangs, a container lets one push through from time to time, as a trial.

    An event with a copy for each target is posted every 200 s.
    """
    hours = 6
    world = TenantsWorld(
        hanging_tenants=1, targets=10, hangs_seconds=0, seconds=3600 * hours, posts=0
    )
    world.run(per_second=1 / 200)
    medians = []
    for hour in range(hours):
        gaps = []
        for seconds_of_pushes in world.pushed_at.values():  # of one container
            for earlier, later in pairwise(seconds_of_pushes):
                if 3600 * hour <= earlier < 3600 * (hour + 1):
                    gaps.append(later - earlier)
        medians.append(f"{statistics.median(gaps):.0f} s")
    return ", ".join(medians)


def describe_repair(world: RepairWorld) -> str:
    """Run a world whose destinations are repaired. Return, as text, how long after the repair half
    of the waiting copies and the last of them were delivered, how often each was pushed on average
    since the repair, and the 95th percentile of the seconds that healthy events waited in the first
    twenty minutes after the repair.
    """
    world.run(per_second=5)
    half, last = world.arrivals()
    pushes = sum(world.pushes[key] for key in world.waiting) / len(world.waiting)
    repaired_at_second = world.repaired_after_seconds
    waits = world.healthy_waits(repaired_at_second, repaired_at_second + 20 * 60)
    return (
        f"half after {half:.0f} s, the last after {last:.0f} s; {pushes:.1f} pushes of each; "
        f"p95 of others {waits.p95:.1f} s"
    )


def make_and_describe_repair(make: Callable[[], RepairWorld]) -> str:
    """Make a world, and return what `describe_repair` says about it.

    :param make: A function that makes the world. It can be sent to a process of a pool, and a world
        cannot.
    """
    return describe_repair(make())


def repairs() -> Iterator[Figure]:
    """Yield a figure, which is a name and a function that simulates the figure, for each case of
    destinations that hung for two hours and are repaired: for several numbers of copies that wait
    for a destination, with and without an operator who acts after the repair.
    """
    cases = {}
    for waiting in (12, 60, 114, 2000, 12_000):
        cases[f"{waiting} wait"] = partial(RepairWorld, waiting)
        cases[f"{waiting} wait, Recover"] = partial(
            RepairWorld, waiting, act_after_repair=Container.recover
        )
    cases["60 wait, Try it"] = partial(RepairWorld, 60, act_after_repair=Container.try_it)
    cases["2000 wait, then down every other minute"] = partial(
        RepairWorld, 2000, respond_after_repair=flaps, limit_seconds=1800
    )
    cases["20 wait for each of 100"] = partial(RepairWorld, 20, subscriptions=100)
    for name, make in cases.items():
        yield f"repaired after two hours: {name}", partial(make_and_describe_repair, make)


def outages() -> Iterator[tuple[str, Outage]]:
    """Yield the name and the description of each outage beside which the waits of healthy events
    are measured.
    """
    for in_webhook, destination in ((False, "subscription"), (True, "webhook")):
        for trouble, rates in RATES.items():
            if trouble == SOMETIMES and not in_webhook:
                continue
            for rate in rates:
                name = f"{destination} {trouble}, {rate}/s"
                yield name, Outage(trouble, rate, in_webhook=in_webhook)
    # A subscription that recovers the events that it missed.
    for kind, trouble in (
        (LongRecoveryWorld, AFTER_A_SECOND),
        (LongRecoveryWorld, REFUSES),
        (RecoveryWorld, NEARLY_SLOW),
    ):
        name = f"a subscription that {trouble} recovers {kind.missed} events, 5/s"
        yield name, Outage(trouble, 5, seconds=300, kind=kind)
    # Many subscriptions that hang.
    for subscriptions, rate in ((10, 5), (25, 1)):
        outage = Outage(HANGING, rate, seconds=150, subscriptions=subscriptions)
        name = f"{subscriptions} subscriptions hang, {rate}/s"
        yield f"{name}, first 40 s", replace(outage, last_second=40)
        yield f"{name}, from the second minute on", replace(outage, first_second=60)
    name = "10 subscriptions hang, and a push of each worker to the webhook takes 2.2 s, first 40 s"
    outage = Outage(HANGING, 5, seconds=150, subscriptions=10, kind=HiccupWorld, last_second=40)
    yield name, outage


def figures() -> Iterator[Figure]:
    """Yield all figures: the name of each, and a function that simulates it and returns it as text.
    The figures that take longest to simulate come first.
    """
    yield from repairs()
    yield "median gap between a container's trials in each of 6 hours", describe_trials
    yield "slow for every second event", describe_some_slow
    slow = Outage(SLOW_TO_DELIVER, 20, seconds=600)
    yield f"{SLOW_TO_DELIVER}, 20/s for ten minutes", partial(describe_ten_minutes, slow)
    for hanging_tenants, targets in ((1, 10), (1, 70), (1, 100), (20, 1)):
        name = f"beside {hanging_tenants} with {targets} targets each, and hung for a minute"
        yield name, partial(describe_tenants, hanging_tenants, targets)
    for name, outage in outages():
        yield name, partial(describe_waits, outage)


def main() -> None:
    """Simulate all figures in several processes at the same time; print each in the order of
    `figures`, as soon as it and those before it are there.
    """
    with ProcessPoolExecutor() as pool:
        results = {name: pool.submit(simulate) for name, simulate in figures()}
        for name, result in results.items():
            print(f"{name}: ", result.result(), flush=True)


if __name__ == "__main__":
    main()
