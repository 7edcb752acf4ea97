"""A receiver that is dead for long: callers do not notice, and the backlog drains in good order."""

import statistics
from collections.abc import Iterator

import pytest

from chalicelib.events import Event, Status, unix_seconds
from tests.crash.rig import INBOX, Process, Rig, SerialPool
from tests.crash.simulation import Hub, Pool

POSTS = 1000
CONCURRENCY = 5


class Town(Rig):
    """A rig in which callers, workers and sweeps act at the same time; the receiver is dead until it recovers."""

    def __init__(self) -> None:
        super().__init__({"MAX_DELIVERY_ATTEMPTS": "20"})
        self.hub = Hub(self.clock, lambda count: 0)
        self.threads = lambda size: Pool(self.hub)
        self.dead = False
        self.at_the_same_time = 0
        self.waits: list[float] = []
        self._workers = 0
        self._busy = True

    def pause(self) -> None:
        self.hub.pause()

    def sleep(self, seconds: float) -> None:
        self.hub.sleep(seconds)

    def answer(self, event: Event) -> tuple[int | None, float]:
        self.at_the_same_time = max(self.at_the_same_time, len(self.witness.running))
        return (None, 0.0) if self.dead else (200, 0.2)

    def live(self, *, dead_seconds: float) -> None:
        """Post for a while to a container that stays, let the receiver recover, and drain."""
        self.dead = dead_seconds > 0
        for act in (self._callers, self._event_source, self._sweeps, lambda: self._recovery(dead_seconds)):
            self.hub.spawn(act)
        self.hub.run()
        self.threads = SerialPool

    def _callers(self) -> None:
        container = Process(self)
        for _ in range(POSTS):
            started = self.clock()
            assert container.post()
            self.waits.append(self.clock() - started)
            self.hub.sleep(0.2)

    def _recovery(self, dead_seconds: float) -> None:
        self.hub.sleep(dead_seconds)
        self.dead = False
        self.hub.sleep(POSTS)
        while any(event.status is Status.PENDING for event in self.items().values()):
            self.hub.sleep(30)
        self._busy = False

    def _event_source(self) -> None:
        for _ in self._every(0.25):
            if self._workers < CONCURRENCY and self.sqs.messages(INBOX):
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


@pytest.fixture(scope="module")
def healthy() -> Town:
    town = Town()
    town.live(dead_seconds=0)
    return town


@pytest.fixture(scope="module")
def outage() -> Town:
    town = Town()
    town.live(dead_seconds=300)
    return town


def test_callers_wait_no_longer_for_a_dead_receiver_than_for_a_healthy_one(healthy: Town, outage: Town) -> None:
    assert len(outage.witness.accepted) == POSTS
    assert statistics.median(outage.waits) <= statistics.median(healthy.waits)


def test_after_an_outage_everything_is_delivered_once_and_gently(outage: Town) -> None:
    outage.check()
    assert all(event.status is Status.DELIVERED for event in outage.items().values())
    assert not outage.sqs.messages(INBOX)
    assert outage.at_the_same_time <= CONCURRENCY * 10 + 1  # and the caller's own
    assert outage.witness.doubles == []


def test_the_sweep_doubles_no_messages_during_an_outage(outage: Town) -> None:
    pushes = sum(len(pushes) for pushes in outage.witness.pushes.values())
    assert outage.sent <= pushes + POSTS


def test_a_slow_event_does_not_keep_the_others_of_its_batch_from_being_recorded() -> None:
    town = Town()
    events: list[str] = []

    def post_ten_and_serve_them() -> None:
        events.extend(str(Process(town).post(prefer="respond-async")) for _ in range(10))
        town.answer = lambda event: (None, 0.0) if event.event_id == events[3] else (200, 0.2)  # type: ignore[method-assign]
        started.append(town.clock())
        Process(town).work()

    started: list[float] = []
    town.hub.spawn(post_ten_and_serve_them)
    town.hub.run()

    recorded = [town.items()[event].delivered_at for event in events]
    waits = [unix_seconds(at) - started[0] for at in recorded if at]
    assert len([wait for wait in waits if wait < 1]) == 9
