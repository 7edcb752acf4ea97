"""`make chaos SEEDS=1000`: every crash point, then as many storms as wanted, and what they came to.

`make chaos SEED=7` repeats one storm.
"""

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from rich.progress import track

from tests.crash.invariants import ViolationError
from tests.crash.rig import Fault
from tests.crash.simulation import live_through
from tests.crash.test_crash_points import PATHS
from tests.crash.test_crash_points import run as run_path


@dataclass(frozen=True)
class Result:
    """What one seed came to."""

    seed: int
    events: int = 0
    pushes: int = 0
    faults: int = 0
    doubles: tuple[str, ...] = ()
    violation: str | None = None


def run(seed: int) -> Result:
    try:
        storm = live_through(seed)
    except ViolationError as violation:
        return Result(seed, violation=str(violation))
    witness = storm.witness
    pushes = sum(len(pushes) for pushes in witness.pushes.values())
    return Result(seed, len(storm.items()), pushes, storm.faults, tuple(witness.doubles))


def stop_everywhere() -> None:
    """Stop every path at every call, in every way; raises ViolationError where a promise breaks."""
    whole = {name: run_path(path, None, None)[1].calls for name, path in PATHS.items()}
    points = [(path, point) for name, path in PATHS.items() for point in range(len(whole[name]))]
    doubles = Counter(
        why
        for path, point in track(points, "crash points")
        for fault in Fault
        for why in run_path(path, point, fault)[0].witness.doubles
    )
    print(
        f"{len(PATHS)} paths, stopped at each of {len(points)} calls in {len(Fault)} ways: "
        f"{len(points) * len(Fault):,} runs, no promise broken; "
        f"{doubles.total()} pushes made again after a 2xx, each because of"
    )
    show(doubles)


def show(doubles: Counter[str]) -> None:
    for why, count in doubles.most_common():
        print(f"  {count:>6,}  {why}")


def main() -> int:
    if seed := os.environ.get("SEED"):
        live_through(int(seed))
        return 0
    stop_everywhere()
    seeds = range(int(os.environ.get("SEEDS", "1000")))
    with ProcessPoolExecutor() as pool:
        results = list(track(pool.map(run, seeds, chunksize=4), "storms", total=len(seeds)))
    print(
        f"{len(results)} seeds: {sum(result.events for result in results):,} events, "
        f"{sum(result.pushes for result in results):,} pushes, {sum(result.faults for result in results):,} faults, "
        f"{sum(len(result.doubles) for result in results):,} pushed again after a 2xx, each because of"
    )
    show(Counter(why for result in results for why in result.doubles))
    broken = [result for result in results if result.violation]
    for result in broken:
        print(f"seed {result.seed}: {result.violation}")
    print(f"{len(broken)} seeds broke a promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
