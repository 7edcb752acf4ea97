"""`make chaos SEEDS=1000`: as many simulations as wanted, and what they came to. `make chaos SEED=7` repeats one."""

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from rich.progress import track

from tests.crash.invariants import ViolationError
from tests.crash.simulation import live_through


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


def main() -> int:
    if seed := os.environ.get("SEED"):
        live_through(int(seed))
        return 0
    seeds = range(int(os.environ.get("SEEDS", "1000")))
    with ProcessPoolExecutor() as pool:
        results = list(track(pool.map(run, seeds, chunksize=4), "storms", total=len(seeds)))
    print(
        f"{len(results)} seeds: {sum(result.events for result in results):,} events, "
        f"{sum(result.pushes for result in results):,} pushes, {sum(result.faults for result in results):,} faults, "
        f"{sum(len(result.doubles) for result in results):,} pushed again after a 2xx, each because of"
    )
    for why, count in Counter(why for result in results for why in result.doubles).most_common():
        print(f"  {count:>6,}  {why}")
    broken = [result for result in results if result.violation]
    for result in broken:
        print(f"seed {result.seed}: {result.violation}")
    print(f"{len(broken)} seeds broke a promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
