"""`make chaos SEEDS=1000`: live through that many storms; `make chaos SEED=7`: through one, to
repeat what it showed.

The exit status is 1 if a promise was broken.
"""

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from rich.console import Console
from rich.progress import track

from tests.simulator.invariants import ViolationError
from tests.simulator.simulation import StormWorld


def live_through(seed: int) -> tuple[Counter[str], str]:
    """Return what was counted, and the promise that was broken."""
    storm = StormWorld(seed)
    try:
        storm.live()
    except ViolationError as violation:
        return Counter(), f"seed {seed}: {violation}"
    pushes = sum(map(len, storm.history.pushes.values()))
    return Counter(
        events=len(storm.items()),
        pushes=pushes,
        faults=storm.faults,
        repeated=storm.history.repeated,
    ), ""


def main() -> int:
    console = Console()
    seed = os.environ.get("SEED")
    seeds = [int(seed)] if seed else range(int(os.environ.get("SEEDS") or 500))
    counted: Counter[str] = Counter()
    broken = []
    with ProcessPoolExecutor() as pool:
        results = pool.map(live_through, seeds, chunksize=4)
        for numbers, violation in track(results, "storms", total=len(seeds), console=console):
            counted += numbers
            broken += [violation] if violation else []
    console.print(
        f"{len(seeds):,} storms:",
        ", ".join(f"{number:,} {what}" for what, number in counted.items()),
    )
    for violation in broken:
        console.print(violation, highlight=False)
    console.print(f"{len(broken)} of {len(seeds):,} storms broke a promise")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
