"""`make bench`: measure everything, print the table, write docs/performance.md.

`--quick` takes a tenth of the rounds and writes nothing; `--strict` makes a goal that is missed an exit status.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys

from tools.bench import lab, paths, report, scale
from tools.bench.measure import Pairs, Row

ROUNDS, STARTS = 400, 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--strict", action="store_true", help="fail when a goal is missed")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds, and write nothing")
    options = parser.parse_args()
    measured = measure(*((ROUNDS // 10, 3) if options.quick else (ROUNDS, STARTS)))
    rows = measured[0]
    print(report.text(rows))
    if not options.quick:
        report.write(*measured)
        print("\nwritten: docs/performance.md")
    missed = sum(row.met is False for row in rows)
    print(f"\n{missed} of {sum(row.met is not None for row in rows)} goals missed" if missed else "\nevery goal is met")
    return 1 if missed and options.strict else 0


def measure(rounds: int, starts: int) -> tuple[list[Row], report.Counts, dict[str, Pairs], dict[int, Pairs]]:
    """Return the table, the calls of each path, and the series that are drawn."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]  # nothing of a person's own AWS account is used or reached
    os.environ |= lab.OWN_VARIABLES
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123  # the app's log
        _say("calls to AWS")
        run = subprocess.run([sys.executable, "-m", "tools.bench.calls"], stdout=subprocess.PIPE, text=True, check=True)
        counts = json.loads(run.stdout.splitlines()[-1])
        _say("posts, worker")
        path_rows, posts = paths.rows(rounds)
        _say("inbox, sweep")
        scale_rows, pages = scale.rows(rounds // 5)
        _say("cold starts, package, memory")
        from tools.bench import footprint  # a heap as large as that of what deploys would cost the app's calls time

        footprint_rows = footprint.rows(starts)
    right = sum(made == wanted for _, made, wanted in counts)
    met = right == len(counts)
    exact = Row("AWS calls of each path, as designed", f"{right} paths", f"{len(counts)} paths", goal="=", met=met)
    return [*path_rows, exact, *scale_rows, *footprint_rows], counts, posts, pages


def _say(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
