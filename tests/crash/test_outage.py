"""A receiver that is down, or hangs now and then: who waits for it, and how long, in virtual time without faults."""

import statistics
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace

from chalicelib.events import Event, Status, unix_seconds
from chalicelib.push import PushResult
from tests.crash.rig import INBOX, Process, Rig

CONCURRENCY = 5


class Town(Rig):
    """Callers post at a steady rate; workers and sweeps run until every event is settled."""

    def __init__(self, **environ: str) -> None:
        super().__init__({"MAX_DELIVERY_ATTEMPTS": "20", **environ})
        self.waits: list[float] = []  # of callers
        self.is_down = False
        self._workers = 0
        self._busy = True

    def answer(self, event: Event, url: str) -> tuple[int | None, float]:
        return (None, 0.0) if self.is_down else (200, 0.2)

    def is_settled(self, event: Event) -> bool:
        return event.status is not Status.PENDING

    def live(self, *, posts: int, every_seconds: float, prefer: str = "", down_seconds: float = 0.0) -> None:
        self.is_down = down_seconds > 0
        actors: tuple[Callable[[], None], ...] = (
            lambda: self._callers(posts, every_seconds, prefer),
            lambda: self._recover(down_seconds),
            self._event_source,
            self._sweeps,
        )
        for act in actors:
            self.hub.spawn(act)
        self.hub.run()

    def _callers(self, posts: int, every_seconds: float, prefer: str) -> None:
        for _ in range(posts):
            self.hub.spawn(lambda: self._post(prefer))
            self.hub.sleep(every_seconds)
        while not all(map(self.is_settled, self.items().values())):
            self.hub.sleep(10)
        self._busy = False

    def _post(self, prefer: str) -> None:
        with self.container() as process:
            started = self.clock()
            assert process.post(prefer=prefer)
            self.waits.append(self.clock() - started)

    def _recover(self, down_seconds: float) -> None:
        self.hub.sleep(down_seconds)
        self.is_down = False

    def _event_source(self) -> None:
        for _ in self._every(0.25):
            if self._workers < CONCURRENCY and self.sqs.visible(INBOX):
                self._workers += 1
                self.hub.spawn(self._work)

    def _work(self) -> None:
        Process(self).work()
        self._workers -= 1

    def _sweeps(self) -> None:
        for _ in self._every(60):
            Process(self).sweep()

    def _every(self, seconds: float) -> Iterator[None]:
        while self._busy:
            self.hub.sleep(seconds)
            yield


def test_an_outage_is_unnoticed_by_callers_and_followed_by_one_delivery_of_each_event() -> None:
    town = Town()
    town.live(posts=500, every_seconds=0.2, down_seconds=100)
    town.check()
    assert statistics.median(town.waits) == 0
    assert all(event.status is Status.DELIVERED for event in town.items().values())
    assert town.witness.doubles == []
    pushes = sum(map(len, town.witness.pushes.values()))
    assert town.sent <= pushes + len(town.witness.accepted)  # the sweep sends none while messages wait


def test_a_slow_event_does_not_delay_the_records_of_its_batch() -> None:
    town = Town()
    events = [str(Process(town).post(prefer="respond-async")) for _ in range(10)]

    def answer(event: Event, url: str) -> tuple[int | None, float]:
        return (None, 0.0) if event.event_id == events[3] else (200, 0.2)

    town.answer = answer  # type: ignore[method-assign]
    started = town.clock()
    town.hub.spawn(Process(town).work)
    town.hub.run()
    delivered_at = [unix_seconds(event.delivered_at) for event in town.items().values() if event.delivered_at]
    assert sum(at - started < 1 for at in delivered_at) == 9


class HangingTown(Town):
    """One event in twenty hangs, for ever. `waits_in_process`: also after a push that timed out."""

    def __init__(self, *, waits_in_process: bool, **environ: str) -> None:
        super().__init__(**environ)
        self._waits_in_process = waits_in_process

    def answer(self, event: Event, url: str) -> tuple[int | None, float]:
        return (None, 0.0) if _hangs(event) else (200, 0.2)

    def respond(self, event: Event, url: str, timeout_seconds: float, process: Process) -> PushResult:
        result = super().respond(event, url, timeout_seconds, process)
        return replace(result, timed_out=result.timed_out and not self._waits_in_process)

    def is_settled(self, event: Event) -> bool:
        return _hangs(event) or super().is_settled(event)

    def delivery_seconds(self) -> tuple[float, float]:
        """Return the median and the 95th percentile of the healthy events."""
        self.live(posts=600, every_seconds=0.05, prefer="respond-async")
        events = self.items().values()
        waits = [
            unix_seconds(event.delivered_at or "") - unix_seconds(event.created_at)
            for event in events
            if not _hangs(event)
        ]
        return statistics.median(waits), statistics.quantiles(waits, n=20)[-1]


def _hangs(event: Event) -> bool:
    return zlib.crc32(event.event_id.encode()) % 20 == 0


def test_events_that_hang_do_not_hold_up_the_healthy_ones() -> None:
    """`pytest -s` prints the figures: 20 events a second for 30 s, 5 % of which hang, five workers at a time."""
    before = HangingTown(waits_in_process=True).delivery_seconds()
    after = HangingTown(waits_in_process=False).delivery_seconds()
    shorter = HangingTown(waits_in_process=False, PUSH_TIMEOUT_SECONDS="3").delivery_seconds()
    for name, (median, p95) in (
        ("waiting in process after a timeout", before),
        ("not waiting", after),
        ("not waiting, PUSH_TIMEOUT_SECONDS=3", shorter),
    ):
        sys.stdout.write(f"{name}: healthy events wait {median:.1f} s (median), {p95:.1f} s (p95)\n")
    assert after[0] < before[0] * 2 / 3
    assert after[1] < before[1] * 2 / 3
    assert shorter[1] < after[1]
