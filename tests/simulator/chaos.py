"""`make chaos SEEDS=1000`: live through that many storms; `make chaos SEED=7`: through one, to
repeat what it showed. With BESIDE=1 functions of 1.0.0 run beside those of this version.

The exit status is 1 if a promise was broken.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor

from rich.progress import track

from tests.simulator.invariants import ViolationError
from tests.simulator.simulation import StormWorld
from tests.support.versions import versions_to_run


def live_through(seed: int) -> str:
    """Simulate a storm; return, as text, the seed and the promise that was broken, or "" if none
    was.
    """
    try:
        StormWorld(seed, versions_to_run()).live()
    except ViolationError as violation:
        return f"seed {seed}: {violation}"
    return ""


def main() -> int:
    """Simulate the storms that SEED or SEEDS names, 500 without either; print the broken promises.
    Return the exit status: 1 if a promise was broken, else 0.
    """
    seed = os.environ.get("SEED")
    seeds = [int(seed)] if seed else range(int(os.environ.get("SEEDS") or 500))
    with ProcessPoolExecutor() as pool:
        results = track(pool.map(live_through, seeds, chunksize=4), "storms", total=len(seeds))
        broken = [violation for violation in results if violation]
    print(*broken, f"{len(broken)} of {len(seeds):,} storms broke a promise", sep="\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
