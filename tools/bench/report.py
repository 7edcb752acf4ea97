"""The table on a terminal, and docs/performance.md with its pictures."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from tools.bench.measure import Pairs, Row

DOCS = Path(__file__).parent.parent.parent / "docs"
HEAD = ("what", "ours", "floor", "ratio", "10 % to 90 %", "goal", "met")
OURS, FLOOR = "#1f77b4", "#bbbbbb"
NONE = "-"

Counts = Sequence[tuple[str, dict[str, int], dict[str, int]]]

INTRODUCTION = """\
# Performance

What the system costs above the bare calls that cannot be avoided. `make bench` measures it anew, in under five minutes,
prints the table and writes this page. Milliseconds depend on the machine; the ratio of two things that are measured by
turns in one run says how much of the time is ours.

- **Ours** is the real app, called as Lambda calls it: `app(event, context)` with an event of API Gateway, SQS or
  EventBridge.
- **The floor** is the same calls, made directly with boto3 and urllib3. They are recorded from the app: the same item,
  condition and body, with another event's id. Clients are made once with the same configuration, connections are kept,
  and nothing is decided, validated, signed or logged in between. urllib3 takes some 0.1 ms longer for a push than
  `http.client`, which the system uses: in memory that is a twentieth of a POST.
- **The other side** is in processes of its own. "moto" is moto's server, some milliseconds a call. "In memory"
  is `tests/support/fake_aws.py` behind AWS's protocols, with indexes in order: well under a millisecond a call, so that
  what is ours weighs the most. Rows that do not say are "in memory".
- **Ratio** is median by median; the spread is that of the ratios of pairs. Posts are measured 400 times, batches 20, a
  hanging one 13, pages of the inbox 80, sweeps 13, cold starts 30 times.
- **A cold start** is a new process on the deployed package, until a line says that the answer is there. Each imports
  from another depth of calls: CPython 3.11 loses up to 40 ms at one depth that nobody chooses.
"""


def lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [
        (
            row.what,
            row.ours,
            row.floor,
            NONE if row.ratio is None else f"{row.ratio:.2f}",
            NONE if row.spread is None else f"{row.spread[0]:.2f} to {row.spread[1]:.2f}",
            row.goal or NONE,
            {True: "yes", False: "no", None: NONE}[row.met],
        )
        for row in rows
    ]


def text(rows: Sequence[Row]) -> str:
    """Return the table for a terminal."""
    table = [HEAD, *lines(rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
    )


def write(rows: Sequence[Row], counts: Counts, posts: Mapping[str, Pairs], pages: Mapping[int, Pairs]) -> None:
    """Write docs/performance.md and the pictures that it shows."""
    _draw_posts(posts, DOCS / "performance-post.svg")
    _draw_pages(pages, DOCS / "performance-inbox.svg")
    calls = [
        (what, _calls(made), "yes" if made == wanted else f"no: {_calls(wanted)}") for what, made, wanted in counts
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("boto3", "chalice", "urllib3", "moto"))
    machine = f"{platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}"
    parts = (
        INTRODUCTION,
        f"Measured on: {machine}.\n",
        _markdown(HEAD, lines(rows)),
        "![POST /events: milliseconds, ours and the floor](performance-post.svg)\n",
        "![GET /inbox: milliseconds by the number of undelivered events](performance-inbox.svg)\n",
        "## Calls to AWS\n\nEach path, and exactly what it asks for, counted on the running system.\n",
        _markdown(("path", "calls", "as designed"), calls),
    )
    (DOCS / "performance.md").write_text("\n".join(parts))


def _markdown(head: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    marked = [head, ["---"] * len(head), *table]
    return "".join(f"| {' | '.join(line)} |\n" for line in marked)


def _calls(counts: Mapping[str, int]) -> str:
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts.items()) or "none"


def _draw_posts(posts: Mapping[str, Pairs], file: Path) -> None:
    """Draw each series as a distribution: how many of the calls took at most so long."""
    from matplotlib.figure import Figure

    shares = [number / 50 for number in range(1, 50)]
    figure = Figure(figsize=(9, 2.6 * ((len(posts) + 1) // 2)), layout="constrained")
    for axes, (what, pairs) in zip(figure.subplots((len(posts) + 1) // 2, 2).flat, posts.items(), strict=False):
        for name, series, color in (("the bare calls", pairs.floor, FLOOR), ("ours", pairs.ours, OURS)):
            axes.plot(
                [1000 * seconds for seconds in statistics.quantiles(series, n=50)], shares, label=name, color=color
            )
        axes.set(
            title=what,
            xlabel="milliseconds",
            ylabel="share of the calls",
            xlim=(0, 2 * statistics.median(pairs.ours) * 1000),
        )
        axes.title.set_fontsize(9)
        axes.legend(loc="lower right", fontsize=8)
    _save(figure, file)


def _draw_pages(pages: Mapping[int, Pairs], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.8), layout="constrained")
    axes = figure.subplots()
    milliseconds = [[seconds * 1000 for seconds in pairs.ours] for pairs in pages.values()]
    axes.boxplot(milliseconds, tick_labels=[f"{size:,}" for size in pages], whis=(10, 90), showfliers=False)
    axes.set(title="GET /inbox, a page of 50", xlabel="undelivered events", ylabel="milliseconds")
    axes.set_ylim(bottom=0)
    _save(figure, file)


def _save(figure: object, file: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "performance", "svg.fonttype": "none", "font.size": 9}):
        figure.savefig(file, metadata={"Date": None})  # type: ignore[attr-defined]
