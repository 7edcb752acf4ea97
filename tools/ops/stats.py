"""`stats`: how well the events of the last while were delivered, from the listing, as a picture in the terminal."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

import click

from chalicelib.events import epoch_seconds, rfc3339
from tools.ops.api import Api, Event, api_option
from tools.ops.output import Duration, Output, numeric, output_option, plural, table

SLICES = 60
BAR_WIDTH = 40
BESIDE_BAR = 22  # a name, and a number of eight digits
UNDELIVERED = "undelivered  "
PERCENTILES = {"p50": 50, "p95": 95, "p99": 99, "max": 100}
BLOCKS = "▁▂▃▄▅▆▇█"
BOUNDS_MS = (50, 100, 250, 500, 1_000, 5_000, 30_000, 300_000, 3_600_000, math.inf)


@dataclass(frozen=True)
class Stats:
    """What became of the events created in a window. `latency_ms` is of those delivered by push."""

    since: str
    until: str
    accepted: int
    delivered: int
    acknowledged: int
    pending: int
    failed: int
    retried: int
    success_rate: float | None
    latency_ms: dict[str, int] | None
    latency_counts: list[int]
    accepted_by_slice: list[int]
    undelivered_by_slice: list[int]


@click.command(short_help="How well events were delivered, as a picture.")
@click.option("--window", type=Duration(), default="1h", show_default=True, help="How far back: 15m, 1h, 2d.")
@click.option("--event-type")
@api_option
@output_option
def stats(output: Output, *, api: Api, window: timedelta, event_type: str | None) -> None:
    """Show what became of the events that were created in the last while.

    \b
    retried       needed more than one attempt
    success       delivered, of those that are delivered or failed
    latency       from creation to delivery by push; of a replayed event the time before the replay is in it

    It reads the whole listing of the window, 100 events a call.
    """
    until = datetime.now(UTC).timestamp()
    since = until - window.total_seconds()
    found = output.reading(api.events_since(rfc3339(since), {"event_type": event_type}))
    told = measure(found, since, until)
    if output.as_json:
        output.json(asdict(told))
    else:
        _draw(output, told, window)


def measure(events: Iterable[Event], since: float, until: float) -> Stats:
    """Return the figures of events that were created between two moments (Unix seconds)."""
    events = list(events)
    pushed = [event for event in events if event["status"] == "delivered" and event["delivered_via"] == "push"]
    latencies = sorted(
        max(0, round((epoch_seconds(e["delivered_at"]) - epoch_seconds(e["created_at"])) * 1000)) for e in pushed
    )
    counts = {status: sum(e["status"] == status for e in events) for status in ("delivered", "pending", "failed")}
    settled = counts["delivered"] + counts["failed"]
    return Stats(
        since=rfc3339(since),
        until=rfc3339(until),
        accepted=len(events),
        acknowledged=counts["delivered"] - len(pushed),
        **counts,
        retried=sum(event["delivery_attempts"] > 1 for event in events),
        success_rate=counts["delivered"] / settled if settled else None,
        latency_ms={name: percentile(latencies, p) for name, p in PERCENTILES.items()} if latencies else None,
        latency_counts=[
            sum(low < ms <= high for ms in latencies) for low, high in zip((-1, *BOUNDS_MS), BOUNDS_MS, strict=False)
        ],
        accepted_by_slice=_by_slice(events, since, until),
        undelivered_by_slice=_by_slice((e for e in events if e["status"] != "delivered"), since, until),
    )


def percentile(ordered: list[int], percent: int) -> int:
    """Return the smallest value that `percent` of all do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def _by_slice(events: Iterable[Event], since: float, until: float) -> list[int]:
    slices = [0] * SLICES
    for event in events:
        place = (epoch_seconds(event["created_at"]) - since) / (until - since)
        slices[min(SLICES - 1, max(0, int(place * SLICES)))] += 1
    return slices


def _draw(output: Output, told: Stats, window: timedelta) -> None:
    output.show(f"{told.since[:19]}Z to {told.until[:19]}Z", "")
    rate = "-" if told.success_rate is None else f"{told.success_rate:.2%}"
    bar_width = max(1, min(BAR_WIDTH, output.width - BESIDE_BAR))
    counts = ("delivered", "pending", "failed", "retried", "acknowledged")
    rows: list[tuple[object, ...]] = [
        ("accepted", told.accepted, ""),
        *((name, getattr(told, name), bar(getattr(told, name), told.accepted, bar_width)) for name in counts),
        ("success", rate, ""),
    ]
    output.show(table("", numeric(), "", rows=rows, header=False), "")
    _draw_slices(output, told, window.total_seconds() * 1000)
    if not told.latency_ms:
        return
    output.show("", "latency")
    output.show(table(*map(numeric, told.latency_ms), rows=[map(human, told.latency_ms.values())]), "")
    last = max(index for index, count in enumerate(told.latency_counts) if count)
    labels = [*(f"up to {human(ms)}" for ms in BOUNDS_MS[:-1]), "longer"]
    counted = list(zip(labels, told.latency_counts[: last + 1], strict=False))
    most = max(count for _, count in counted)
    rows = [(label, count, bar(count, most, bar_width)) for label, count in counted]
    output.show(table("", numeric(), "", rows=rows, header=False))


def _draw_slices(output: Output, told: Stats, window_ms: float) -> None:
    """Draw how many were accepted and are not delivered, over time and in one scale."""
    room = output.width - len(UNDELIVERED)
    accepted, undelivered = merged(told.accepted_by_slice, room), merged(told.undelivered_by_slice, room)
    top = max(accepted)
    output.show(f"{'accepted':{len(UNDELIVERED)}}{sparkline(accepted, top)}")
    output.show(f"{UNDELIVERED}{sparkline(undelivered, top)}")
    indent, ago = " " * len(UNDELIVERED), f"-{human(window_ms)} "
    output.show(f"{indent}{ago.ljust(len(accepted) - 3)}now")
    if top:
        output.show(f"{indent}{BLOCKS[-1]} {plural(top, 'event')} in {human(window_ms / len(accepted))}")


def bar(part: int, whole: int, width: int) -> str:
    """Return a bar, at least a mark where there is anything."""
    return "█" * max(part > 0, round(width * part / whole)) if whole else ""


def merged(values: list[int], room: int) -> list[int]:
    """Return sums of neighbours, each of equally many: as many sums as there is room for."""
    sizes = [size for size in range(1, len(values)) if len(values) % size == 0 and len(values) // size <= room]
    size = min(sizes, default=len(values))
    return [sum(values[start : start + size]) for start in range(0, len(values), size)]


def sparkline(values: list[int], top: int) -> str:
    """Return a column for each value; `top` is the value of the highest that there may be."""
    return "".join(BLOCKS[math.ceil(value / top * (len(BLOCKS) - 1))] if value else " " for value in values)


def human(milliseconds: float) -> str:
    for limit, size, unit in ((1_000, 1, "ms"), (60_000, 1_000, "s"), (3_600_000, 60_000, "min")):
        if milliseconds < limit:
            return f"{milliseconds / size:.3g} {unit}"
    return f"{milliseconds / 3_600_000:.3g} h"
