"""Measuring two things by turns, and one row of the table."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table. `spread`: 10th and 90th percentile of the ratios. `met` is None where there is no goal."""

    what: str
    ours: str
    floor: str
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    goal: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Pairs:
    """Two series in seconds, measured by turns: number n of the one belongs to number n of the other."""

    ours: Sequence[float]
    floor: Sequence[float]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.floor)

    @property
    def spread(self) -> tuple[float, float]:
        ratios = [ours / floor for ours, floor in zip(self.ours, self.floor, strict=True)]
        tenths = statistics.quantiles(ratios, n=10, method="inclusive")
        return tenths[0], tenths[-1]

    def row(self, what: str, *, most: float | None = None) -> Row:
        """Return the row; `most` is the greatest ratio that meets the goal."""
        met = None if most is None else self.ratio <= most
        goal = "" if most is None else f"≤ {most:g}"
        return Row(
            what,
            ms(statistics.median(self.ours)),
            ms(statistics.median(self.floor)),
            self.ratio,
            self.spread,
            goal,
            met,
        )


def ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def timed(work: Work, clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started
