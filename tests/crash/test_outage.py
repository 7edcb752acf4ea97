"""A receiver that is down, or hangs now and then: who waits for it, and how long, in virtual time without faults."""

import statistics
import sys
import zlib
from collections.abc import Iterator
from dataclasses import replace

from chalicelib.events import Event, Status, unix_seconds
from chalicelib.push import PushResult
from tests.crash.simulated_world import INBOX, Container, SimulatedWorld

CONCURRENCY = 5


class OutageWorld(SimulatedWorld):
    """Callers post at a steady rate; workers and sweeps run until no event is pending, but for those that hang."""

    def __init__(self, **environ: str) -> None:
        super().__init__({"MAX_DELIVERY_ATTEMPTS": "20", **environ})
        self.down_until = self.clock()
        self.waits: list[float] = []  # of callers
        self._to_post = 0
        self._workers = 0

    def hangs(self, event_id: str) -> bool:
        """Return whether no push of an event ever gets a response."""
        return False

    def answer(self, event: Event, url: str) -> tuple[int | None, float]:
        is_down = self.clock() < self.down_until
        return (None, 0.0) if is_down or self.hangs(event.event_id) else (200, 0.2)

    def live(self, *, posts: int, every_seconds: float, **headers: str) -> None:
        self._to_post = posts
        self.hub.spawn(lambda: self._callers(every_seconds, headers))
        self.hub.spawn(self._event_source)
        self.hub.spawn(self._sweeps)
        self.hub.run()

    def _callers(self, every_seconds: float, headers: dict[str, str]) -> None:
        while self._to_post:
            self._to_post -= 1
            self.hub.spawn(lambda: self._post(headers))
            self.hub.sleep(every_seconds)

    def _post(self, headers: dict[str, str]) -> None:
        with self.any_container() as container:
            started = self.clock()
            assert container.post(**headers)
            self.waits.append(self.clock() - started)

    def _event_source(self) -> None:
        for _ in self._every(0.25):
            if self._workers < CONCURRENCY and self.sqs.visible(INBOX):
                self._workers += 1
                self.hub.spawn(self._work)

    def _work(self) -> None:
        Container(self).work()
        self._workers -= 1

    def _sweeps(self) -> None:
        for _ in self._every(60):
            Container(self).sweep()

    def _every(self, seconds: float) -> Iterator[None]:
        items = self.dynamodb.items
        while self._to_post or any(items[key]["status"] == Status.PENDING and not self.hangs(key) for key in items):
            self.hub.sleep(seconds)
            yield


def test_an_outage_is_unnoticed_by_callers_and_followed_by_one_delivery_of_each_event() -> None:
    world = OutageWorld()
    world.down_until += 100
    world.live(posts=250, every_seconds=0.4)
    world.check()
    assert statistics.median(world.waits) == 0
    assert all(event.status is Status.DELIVERED for event in world.items().values())
    assert world.history.repeated == []
    pushes = sum(map(len, world.history.pushes.values()))
    assert world.sent <= pushes + len(world.history.accepted)  # the sweep sends none while messages wait


class HangingWorld(OutageWorld):
    """One event in twenty hangs, for ever. `waits_in_process`: also after a push that timed out."""

    def __init__(self, *, waits_in_process: bool, **environ: str) -> None:
        super().__init__(**environ)
        self._waits_in_process = waits_in_process

    def hangs(self, event_id: str) -> bool:
        return zlib.crc32(event_id.encode()) % 20 == 0

    def respond(self, event: Event, url: str, timeout_seconds: float, container: Container) -> PushResult:
        result = super().respond(event, url, timeout_seconds, container)
        return replace(result, timed_out=result.timed_out and not self._waits_in_process)

    def delivery_seconds(self) -> tuple[float, float]:
        """Return the median and the 95th percentile of the healthy events."""
        self.live(posts=300, every_seconds=0.05, prefer="respond-async")
        waits = [
            unix_seconds(event.delivered_at) - unix_seconds(event.created_at)
            for event in self.items().values()
            if event.delivered_at
        ]
        return statistics.median(waits), statistics.quantiles(waits, n=20)[-1]


def test_events_that_hang_do_not_hold_up_the_healthy_ones() -> None:
    """`pytest -s` prints the figures: 20 events a second for 15 s, 5 % of which hang, five workers at a time."""
    before = HangingWorld(waits_in_process=True).delivery_seconds()
    after = HangingWorld(waits_in_process=False).delivery_seconds()
    shorter = HangingWorld(waits_in_process=False, PUSH_TIMEOUT_SECONDS="3").delivery_seconds()
    for name, (median, p95) in (
        ("waiting in process after a timeout", before),
        ("not waiting", after),
        ("not waiting, PUSH_TIMEOUT_SECONDS=3", shorter),
    ):
        sys.stdout.write(f"{name}: healthy events wait {median:.1f} s (median), {p95:.1f} s (p95)\n")
    assert after[0] < before[0] * 2 / 3
    assert after[1] < before[1] * 2 / 3
    assert shorter[1] < after[1]
