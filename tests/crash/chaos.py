"""`make chaos SEEDS=1000`: live through that many storms; `make chaos SEED=7`: through one, to repeat what it showed.

The exit status is 1 if a promise was broken.
"""

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track

from tests.crash.invariants import ViolationError
from tests.crash.simulation import run


@dataclass(frozen=True)
class Result:
    """What one seed came to; `doubles` names the fault behind each push that was made again after a 2xx."""

    seed: int
    events: int = 0
    pushes: int = 0
    faults: int = 0
    doubles: tuple[str, ...] = ()
    violation: str = ""


def live_through(seed: int) -> Result:
    try:
        storm = run(seed)
    except ViolationError as violation:
        return Result(seed, violation=str(violation))
    pushes = sum(map(len, storm.witness.pushes.values()))
    return Result(seed, len(storm.items()), pushes, storm.faults, tuple(storm.witness.doubles))


def main() -> int:
    console = Console()
    seed = os.environ.get("SEED")
    seeds = [int(seed)] if seed else range(int(os.environ.get("SEEDS") or 500))
    with ProcessPoolExecutor() as pool:
        results = list(track(pool.map(live_through, seeds, chunksize=4), "storms", total=len(seeds), console=console))
    doubles = Counter(fault for result in results for fault in result.doubles)
    events, pushes, faults = (sum(getattr(each, name) for each in results) for name in ("events", "pushes", "faults"))
    console.print(f"{len(seeds):,} storms: {events:,} events, {pushes:,} pushes, {faults:,} faults")
    console.print(f"{doubles.total():,} pushes made again after a 2xx, by the fault behind each:")
    for fault, count in doubles.most_common():
        console.print(f"  {count:>6,}  {fault}", highlight=False)
    broken = [result for result in results if result.violation]
    for result in broken:
        console.print(f"seed {result.seed}: {result.violation}", highlight=False)
    console.print(f"{len(broken)} of {len(seeds):,} storms broke a promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
