"""`make bench`: print the tables of docs/performance.md and docs/cost.md. The exit status is 1 if a
goal is missed.
"""

import contextlib
import os
import sys
from pathlib import Path

from measure.bench import bench, cost


def main() -> int:
    """Print both tables and the missed goals; return 1 if a goal is missed, else 0."""
    screen = sys.stdout
    missed = []
    # the app's log
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        for module in (bench, cost):
            print(
                "",
                module.LINE.format(*module.COLUMNS),
                module.LINE.format(*["---"] * 10),
                sep="\n",
                file=screen,
            )
            for *cells, is_met in module.measure():
                print(
                    module.LINE.format(*cells, {True: "yes", False: "no"}.get(is_met, "")),
                    file=screen,
                    flush=True,
                )
                if is_met is False:
                    missed.append(cells[0])
    print(f"\ngoals missed: {'; '.join(missed) or 'none'}")
    return min(len(missed), 1)


sys.exit(main())
