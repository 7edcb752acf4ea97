"""Whether reading stays as cheap when much is waiting: pages of the inbox, and the sweep."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.bench.lab import Parameters, System, ask, bare_of, proxy_event, serving
from tools.bench.measure import Pairs, Row, timed
from tools.sizes import Item, index, item_bytes, projected

INBOX_SIZES = (100, 10_000, 50_000)
SWEEP_SIZES = (1_000, 50_000, 100_000)


@dataclass
class Filled:
    """A system with so many undelivered events."""

    size: int
    system: System
    row_bytes: int


def rows(rounds: int) -> tuple[list[Row], dict[int, Pairs]]:
    """Return the rows, and the series of the inbox by size."""
    with contextlib.ExitStack() as stack:
        filled = {size: stack.enter_context(_filled(size)) for size in sorted({*INBOX_SIZES, *SWEEP_SIZES})}
        pages = _pages([filled[size] for size in INBOX_SIZES], rounds)
        with serving("memory", "receiver") as names:
            sweeps = [*_sweeps(System(names), [filled[size] for size in SWEEP_SIZES], max(3, rounds // 6))]
        return [*_inbox(filled, pages), *sweeps], pages


@contextlib.contextmanager
def _filled(size: int) -> Iterator[Filled]:
    """Fill a server with copies of an event that the app posted."""
    with serving("memory", "receiver") as names:
        system = System(names)
        item = bare_of(system).queued[0][1]["Item"]
        row_bytes = row_size(item)
        ask(names["AWS_ENDPOINT_URL"], "/fill", {"item": item, "count": size, "row_bytes": row_bytes})
        yield Filled(size, system, row_bytes)


def row_size(item: Item) -> int:
    """Return the bytes that DynamoDB reads for an item in the index."""
    return item_bytes(projected(item, index().index_attributes))


def _pages(filled: list[Filled], rounds: int) -> dict[int, Pairs]:
    page = proxy_event("GET", "/inbox?limit=50")
    taken: dict[int, list[float]] = {each.size: [] for each in filled}
    for number in range(rounds + 2):
        for each in filled:
            seconds = timed(lambda each=each: each.system.call(page))  # type: ignore[misc]
            if number >= 2:
                taken[each.size].append(seconds)
    return {size: Pairs(series, taken[filled[0].size]) for size, series in taken.items()}


def _inbox(filled: Mapping[int, Filled], pages: Mapping[int, Pairs]) -> Iterator[Row]:
    least, *others = INBOX_SIZES
    for size in others:
        yield pages[size].row(f"GET /inbox, page of 50 of {size:,}; floor: of {least}", most=1.3)
    read = {size: rows_read(filled[size].system, "/inbox?limit=50") for size in INBOX_SIZES}
    calls, number, least_number = read[others[-1]][0], read[others[-1]][1], read[least][1]
    yield Row(
        f"the same: queries, rows read in all, of {others[-1]:,}",
        f"{calls}, {number}",
        f"{read[least][0]}, {least_number}",
    )


def rows_read(system: System, path: str) -> tuple[int, int]:
    """Return how many queries a call of the API makes, and how many rows of the index they read."""
    counts: list[int] = []

    def count(parsed: Parameters, **_: Any) -> None:
        counts.append(parsed["ScannedCount"])

    system.dynamodb.meta.events.register("after-call.dynamodb.Query", count)
    try:
        system.call(proxy_event("GET", path))
    finally:
        system.dynamodb.meta.events.unregister("after-call.dynamodb.Query", count)
    return len(counts), sum(counts)


def _sweeps(empty: System, filled: list[Filled], rounds: int) -> Iterator[Row]:
    """Measure what a sweep takes for each 1,000 pending; of many also without what a sweep of nothing takes."""
    whole: dict[int, list[float]] = {each.size: [] for each in filled}
    reading: dict[int, list[float]] = {each.size: [] for each in filled}
    for _ in range(rounds):
        nothing = timed(empty.sweep)
        for each in filled:
            seconds = timed(each.system.sweep)
            whole[each.size].append(seconds / each.size * 1000)
            reading[each.size].append((seconds - nothing) / each.size * 1000)
    few, many, most = SWEEP_SIZES
    what = "sweep, for each 1,000 of"
    yield Pairs(whole[many], whole[few]).row(f"{what} {many:,} pending; floor: of {few:,}", most=1.3)
    # Of few, what reading takes is lost in the noise.
    alone = Pairs(reading[most], reading[many])
    yield alone.row(f"{what} {most:,} pending, reading alone; floor: of {many:,}", most=1.3)
    row_bytes = filled[0].row_bytes
    yield Row("sweep: bytes read for each pending event", str(row_bytes), "-", goal="≤ 300", met=row_bytes <= 300)
