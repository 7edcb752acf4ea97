"""What a delivery costs, posted or by the worker, beside the bare calls that make the same one."""

import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from tools.bench.lab import EVENT, Bare, Parameters, System, ask, bare_of, new_event_id, proxy_event, serving
from tools.bench.measure import Pairs, Row, timed

BATCH = 10
SLOW_SECONDS = 0.2
EMULATORS = {"memory": "in memory", "moto": "moto"}


def rows(rounds: int) -> tuple[list[Row], dict[str, Pairs]]:
    """Return the rows, and the series behind those that are drawn."""
    table: list[Row] = []
    drawn: dict[str, Pairs] = {}
    for kind, place in EMULATORS.items():
        with serving(kind, "receiver") as names:
            system = System(names)
            bare = bare_of(system)
            for what, walls, cpus in (
                ("POST /events, delivered", *_posts(system, bare, rounds)),
                ("POST /events, respond-async", *_posts(system, bare, rounds, queued=True)),
            ):
                table.append(walls.row(f"{what} ({place})", most=1.25))
                drawn[f"{what} ({place})"] = walls
                if kind == "memory":
                    table.append(cpus.row(f"{what}: CPU of our process"))
            if kind == "memory":
                table += [*_throughput(system, bare, max(3, rounds // 20)), _connections(names)]
                table += [*_slow_batches(names, max(3, rounds // 20)), _hanging(names, max(3, rounds // 30))]
    return table, drawn


def _posts(system: System, bare: Bare, rounds: int, *, queued: bool = False) -> tuple[Pairs, Pairs]:
    """Return seconds passed, and seconds of CPU."""
    headers = {"prefer": "respond-async"} if queued else {}
    event = proxy_event("POST", "/events", json.dumps(EVENT), **headers)
    clocks = (time.perf_counter, time.process_time)
    readings: list[list[float]] = [[], [], [], []]
    for number in range(rounds + 10):
        calls = bare.prepared(bare.queued if queued else bare.posted, new_event_id())
        starts = [clock() for clock in clocks]
        system.call(event)
        halves = [clock() for clock in clocks]
        (bare.queue if queued else bare.post)(*calls)
        ends = [clock() for clock in clocks]
        if number >= 10:  # what came before was warming up
            for column, (later, sooner) in enumerate(
                (*zip(halves, starts, strict=True), *zip(ends, halves, strict=True))
            ):
                readings[column].append(later - sooner)
    return Pairs(readings[0], readings[2]), Pairs(readings[1], readings[3])


def _stored(bare: Bare, count: int = BATCH) -> list[str]:
    event_ids = [new_event_id() for _ in range(count)]
    for event_id in event_ids:
        bare.store(event_id)
    return event_ids


def _batches(system: System, bare: Bare, rounds: int, batches: int) -> Pairs:
    """Return seconds for so many batches of ten: by the worker, and by ten threads that make the bare calls."""
    ours, floor = [], []
    with ThreadPoolExecutor(BATCH) as pool:
        for number in range(rounds + 1):
            waiting = [_stored(bare) for _ in range(batches)]
            calls = [[bare.prepared(bare.worked, event_id) for event_id in _stored(bare)] for _ in range(batches)]
            taken = timed(partial(_work_all, system, waiting)), timed(partial(_make_all, pool, bare, calls))
            if number:  # the first is warming up
                ours.append(taken[0])
                floor.append(taken[1])
    return Pairs(ours, floor)


def _work_all(system: System, batches: list[list[str]]) -> None:
    for batch in batches:
        system.work(batch)


def _make_all(pool: ThreadPoolExecutor, bare: Bare, batches: list[list[list[Parameters]]]) -> None:
    for batch in batches:
        list(pool.map(lambda calls: bare.work(*calls), batch))


def _throughput(system: System, bare: Bare, rounds: int) -> Iterator[Row]:
    batches = 10
    pairs = _batches(system, bare, rounds, batches)
    faster = Pairs(pairs.floor, pairs.ours)  # events a second: the inverse of time
    ours, floor = (f"{batches * BATCH / statistics.median(series):.0f}/s" for series in (pairs.ours, pairs.floor))
    met = faster.ratio >= 0.8
    yield Row("worker, receiver at 0 ms: events", ours, floor, faster.ratio, faster.spread, "≥ 0.8", met)


def _connections(names: dict[str, str]) -> Row:
    """Deliver 1,000 events with a receiver that takes a moment, so that ten threads do push at the same time."""
    url = names["ZAPIER_WEBHOOK_URL"]
    system = System({**names, "ZAPIER_WEBHOOK_URL": f"{url}?delay_ms=20"})
    bare = bare_of(System(names))
    before = ask(url, "/connections")
    for _ in range(100):
        system.work(_stored(bare))
    # Its own question is a connection too.
    opened = ask(url, "/connections") - before - 1
    return Row(
        "connections opened for 1,000 deliveries", str(opened), f"{BATCH}: 1 a thread", goal="=", met=opened == BATCH
    )


def _slow_batches(names: dict[str, str], rounds: int) -> Iterator[Row]:
    url = f"{names['ZAPIER_WEBHOOK_URL']}?delay_ms={round(SLOW_SECONDS * 1000)}"
    system = System({**names, "ZAPIER_WEBHOOK_URL": url})
    pairs = _batches(system, bare_of(system), rounds, 1)
    what = "worker, batch of 10, receiver takes 200 ms"
    yield Pairs(pairs.ours, [SLOW_SECONDS] * len(pairs.ours)).row(what, most=1.15)
    yield pairs.row(f"{what}: beside ten bare threads")


def _hanging(names: dict[str, str], rounds: int) -> Row:
    """One receiver of ten hangs: measure when the other nine are recorded."""
    url = f"{names['ZAPIER_WEBHOOK_URL']}?delay_ms={round(SLOW_SECONDS * 1000)}"
    limits = {"PUSH_TIMEOUT_SECONDS": "1", "IN_PROCESS_WAIT_SECONDS": "0"}
    system = System({**names, "ZAPIER_WEBHOOK_URL": url}, **limits)
    bare = bare_of(system)
    moments: list[float] = []

    def note(**_: Any) -> None:
        moments.append(time.perf_counter())

    system.dynamodb.meta.events.register("after-call.dynamodb.UpdateItem", note)
    taken = []
    for _ in range(rounds + 1):
        event_ids = _stored(bare, BATCH - 1)
        hung = new_event_id()
        bare.store(hung, "hang")
        moments.clear()
        started = time.perf_counter()
        system.work([hung, *event_ids])
        taken.append(sorted(moments)[2 * BATCH - 2] - started)  # ten claims, then nine records
    pairs = Pairs(taken[1:], [SLOW_SECONDS] * rounds)
    return pairs.row("worker, batch of 10, one hangs: the other nine recorded", most=1.3)
