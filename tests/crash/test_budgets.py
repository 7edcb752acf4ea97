"""With every call to AWS answered late, a caller gets a response within 28 s, and the worker ends within its 50 s."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from chalicelib.events import Event
from chalicelib.services import CALL_SECONDS
from tests.crash.rig import SCHEDULE_SECONDS, WORKER_SECONDS, Fault, FaultAt, Process, Rig

POST_SECONDS = 28
SLOWEST = {"INLINE_PUSH_TIMEOUT_SECONDS": "8", "PUSH_TIMEOUT_SECONDS": "20", "IN_PROCESS_WAIT_SECONDS": "900"}
# What the late responses say, over and over: None is success.
PATTERNS: list[tuple[Fault | None, ...]] = [
    (None,),
    (Fault.THROTTLED,),
    (Fault.ALL_ANSWERS_LOST,),
    (Fault.THROTTLED, None),
    (None, Fault.THROTTLED),
]
STATUS_CODES = [200, 404, 410, 503, None]


class SlowSystem(Rig):
    """Every call to AWS takes as long as one may, and so does the receiver."""

    status_code: int | None = 200
    is_slow = False

    def latency(self) -> tuple[float, float]:
        return (CALL_SECONDS / 2, CALL_SECONDS / 2) if self.is_slow else (0.0, 0.0)

    def answer(self, event: Event, url: str) -> tuple[int | None, float]:
        return self.status_code, 20.0

    def seconds(self, act: Callable[[], Any]) -> float:
        """Return how long something takes with slow calls."""
        self.is_slow = True
        started = self.clock()
        self.hub.spawn(act)
        self.hub.run()
        return self.clock() - started


def slow_system(subscriptions: int, status_code: int | None) -> SlowSystem:
    system = SlowSystem(SLOWEST)
    for number in range(subscriptions):
        Process(system).subscribe(f"https://hooks.zapier.com/{number}")
    system.status_code = status_code
    return system


def failing(pattern: tuple[Fault | None, ...]) -> FaultAt:
    """Fail the calls to AWS after the first by a pattern."""
    faults = itertools.cycle(pattern)
    return lambda number, label: None if label == "push" or number < 1 else next(faults)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("subscriptions", [0, 1, 11])
@pytest.mark.parametrize("status_code", STATUS_CODES)
def test_a_caller_gets_a_response_in_28_seconds(
    status_code: int | None, subscriptions: int, pattern: tuple[Fault | None, ...]
) -> None:
    for headers in ({}, {"idempotency_key": "a"}, {"prefer": "respond-async"}):
        system = slow_system(subscriptions, status_code)
        post = functools.partial(Process(system, failing(pattern)).post, **headers)
        assert system.seconds(post) <= POST_SECONDS


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("subscriptions", [0, 1])
@pytest.mark.parametrize("status_code", STATUS_CODES)
def test_the_worker_ends_in_its_50_seconds(
    status_code: int | None, subscriptions: int, pattern: tuple[Fault | None, ...]
) -> None:
    system = slow_system(subscriptions, status_code)
    for _ in range(5):
        Process(system).post(prefer="respond-async")
    process = Process(system, failing(pattern))
    assert system.seconds(process.work) < WORKER_SECONDS
    assert not system.witness.violations


def test_a_lease_is_answered_in_28_seconds() -> None:
    system = slow_system(0, 200)
    for _ in range(20):
        Process(system).post(prefer="respond-async")
    assert system.seconds(Process(system).lease) <= POST_SECONDS


def test_the_sweep_ends_in_its_60_seconds() -> None:
    system = slow_system(0, 200)
    for _ in range(200):
        Process(system).post(prefer="respond-async")
    system.clock.sleep(70)
    system.sent = 0
    assert system.seconds(Process(system).sweep) < SCHEDULE_SECONDS
    assert system.sent > 40
