"""`make chaos SEEDS=1000`: live through that many storms; `make chaos SEED=7`: through one, to
repeat what it showed.

The exit status is 1 if a promise was broken.
"""

import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

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
    counted = Counter(events=len(storm.items()), faults=storm.faults)
    return counted + Counter(repeated=storm.history.repeated), ""


def main() -> int:
    seed = os.environ.get("SEED")
    seeds = [int(seed)] if seed else range(int(os.environ.get("SEEDS") or 500))
    counted: Counter[str] = Counter()
    broken = 0
    with ProcessPoolExecutor() as pool:
        results = pool.map(live_through, seeds, chunksize=4)
        for numbers, violation in track(results, "storms", total=len(seeds)):
            counted += numbers
            if violation:
                broken += 1
                print(violation)
    print(f"{broken} of {len(seeds):,} storms broke a promise;", dict(counted))
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
