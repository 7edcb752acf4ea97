"""The collaborators of one container: AWS clients, store, queues, push client. Tests pass their own."""

import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, cached_property, partial
from threading import Lock
from typing import Any, TypeVar

from chalicelib import settings as environment
from chalicelib import telemetry
from chalicelib.aws import CALL_SECONDS, ONE_SHORT_TRY, make_client, read_secret
from chalicelib.breaker import Breaker, WorkerBreaker
from chalicelib.errors import SettingsError
from chalicelib.push import PushClient
from chalicelib.queue import Queue
from chalicelib.settings import Settings
from chalicelib.store import EventStore
from chalicelib.subscriptions import Subscriptions

REFRESH_SECONDS = 300
T = TypeVar("T")
R = TypeVar("R")


class Role(StrEnum):
    """Who pushes: POST /events while the caller waits, the worker, or the test of a subscription."""

    INLINE = "inline"
    WORKER = "worker"
    TEST = "test"


@dataclass
class Services:
    """What is kept between requests. AWS clients are created at first use.

    `new_id` returns 32 unique hexadecimal digits; `thread_pool` takes the number of threads.
    """

    settings: Settings
    make_client: Callable[[str], Any] = field(default_factory=lambda: cache(make_client), repr=False)
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    new_id: Callable[[], str] = lambda: os.urandom(16).hex()
    thread_pool: Callable[[int], Executor] = telemetry.thread_pool
    push: PushClient = field(default_factory=PushClient)
    breaker: Breaker = field(default_factory=Breaker)
    worker_breaker: WorkerBreaker = field(default_factory=WorkerBreaker)

    @cached_property
    def store(self) -> EventStore:
        return EventStore(self.make_client("dynamodb"), self.settings, clock=self.clock)

    @cached_property
    def subscriptions(self) -> Subscriptions:
        dynamodb = self.make_client("dynamodb")
        return Subscriptions(dynamodb, self.settings, clock=self.clock, parallel_map=self.map)

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return the results of calls made in parallel; raise the first error after all have ended."""
        if len(items) <= 1:
            return [function(item) for item in items]
        with self.thread_pool(len(items)) as pool:
            return list(pool.map(function, items))

    @cached_property
    def inbox(self) -> Queue:
        return Queue(self.make_client("sqs"), self.settings.inbox_queue_url)

    @cached_property
    def dlq(self) -> Queue:
        return Queue(self.make_client("sqs"), self.settings.inbox_dlq_url)

    @cached_property
    def metrics(self) -> telemetry.Metrics:
        return telemetry.Metrics(self.settings.stage, clock=self.clock)


@dataclass(frozen=True)
class Run:
    """One run of a function: its services, and the Unix seconds by which it must end."""

    services: Services
    deadline: float

    def has_time(self, calls: int = 1) -> bool:
        """Return whether so many AWS calls, as slow as they can be, end by the deadline."""
        return self.services.clock() + calls * CALL_SECONDS <= self.deadline


_services: Services | None = None
_refresh_at = 0.0
_lock = Lock()


def use(services: Services | None) -> None:
    """Use these services from now on; None: create them from the environment at the next `get`."""
    global _services, _refresh_at
    _services, _refresh_at = services, float("inf")


def get() -> Services:
    """Return this container's services; raise SettingsError if the environment is unusable.

    The settings are read again every REFRESH_SECONDS. If that fails, the last ones stay.
    """
    global _services, _refresh_at  # noqa: PLW0603
    with _lock:
        if _services is None:
            telemetry.configure("INFO")
            settings = environment.load(os.environ, read_secret)
            telemetry.configure(settings.log_level)
            _services = Services(settings)
            _refresh_at = _services.clock() + REFRESH_SECONDS
        elif _services.clock() >= _refresh_at:
            _refresh_at = _services.clock() + REFRESH_SECONDS
            _services = _refresh(_services)
        return _services


def _refresh(services: Services) -> Services:
    """Return services with the settings of now, which share connections and breakers with the given ones."""
    try:
        settings = environment.load(os.environ, partial(read_secret, config=ONE_SHORT_TRY))
    except SettingsError as error:
        telemetry.logger.warning("settings not read again", extra={"error": str(error)})
        return services
    telemetry.configure(settings.log_level)
    return services if settings == services.settings else replace(services, settings=settings)
