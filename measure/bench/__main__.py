"""`make bench`: print the tables of docs/performance.md and docs/cost.md. The exit status is 1 if a
goal is missed.
"""

import contextlib
import os
import sys
from pathlib import Path

from measure.bench import bench, cost


def main() -> int:
    """Print the tables of both modules, each row as soon as it is measured, and the names of the
    rows whose goal is missed; return 1 if a goal is missed, else 0.
    """
    screen = sys.stdout
    missed = []
    met_texts = {True: "yes", False: "no", None: ""}  # None: the row has no goal
    # The app writes its log to standard output, where the tables are printed.
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        for module in (bench, cost):
            heading = module.LINE.format(*module.COLUMNS)
            rule = module.LINE.format(*["---" for _ in module.COLUMNS])
            print("", heading, rule, sep="\n", file=screen)
            for *cells, is_met in module.measure():
                line = module.LINE.format(*cells, met_texts[is_met])
                print(line, file=screen, flush=True)
                if is_met is False:
                    missed.append(cells[0])
    print(f"\ngoals missed: {'; '.join(missed) or 'none'}")
    return 1 if missed else 0


sys.exit(main())
