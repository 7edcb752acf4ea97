"""The collaborators of one container: AWS clients, store, queues, push client. Tests pass their own."""

import contextlib
import math
import os
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, cached_property, lru_cache, partial
from threading import Lock
from typing import Any, TypeVar

from chalicelib import settings as environment
from chalicelib import telemetry
from chalicelib.aws import CALL_SECONDS, ONE_SHORT_TRY, make_client, read_secret
from chalicelib.breaker import Breaker
from chalicelib.errors import AWS_ERRORS, SettingsError
from chalicelib.push import PushClient
from chalicelib.queue import Queue
from chalicelib.retry import DAY_SECONDS
from chalicelib.settings import Settings
from chalicelib.store import EventStore
from chalicelib.subscriptions import Subscriptions

# Failures and timeouts in a row after which the worker stops pushing: one timeout alone may be one push in twenty.
WORKER_LIMITS = (math.inf, 10)
MAX_BREAKERS = 2000  # the one used least recently goes
REFRESH_SECONDS = 300
MAX_REFUSALS = 5  # logged in a minute
READ_SECRET_ONCE = partial(read_secret, config=ONE_SHORT_TRY)
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

    `breakers` returns the breaker of a role and a URL. `new_id` returns 32 unique hexadecimal digits; `thread_pool`
    takes the number of threads. `refused_at` has the times of the last refusals that were logged.
    """

    settings: Settings
    make_client: Callable[[str], Any] = field(default_factory=lambda: cache(make_client), repr=False)
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    new_id: Callable[[], str] = lambda: os.urandom(16).hex()
    thread_pool: Callable[[int], Executor] = telemetry.thread_pool
    push: PushClient = field(default_factory=PushClient)
    refused_at: deque[float] = field(default_factory=lambda: deque([-math.inf] * MAX_REFUSALS, MAX_REFUSALS))
    breakers: Callable[[Role, str], Breaker] = field(
        default_factory=lambda: lru_cache(MAX_BREAKERS)(lambda *_: Breaker()), repr=False
    )

    @cached_property
    def store(self) -> EventStore:
        settings, retention_seconds = self.settings, self.settings.event_retention_days * DAY_SECONDS
        client = self.make_client("dynamodb")
        return EventStore(client, settings.events_table_name, clock=self.clock, retention_seconds=retention_seconds)

    @cached_property
    def subscriptions(self) -> Subscriptions:
        dynamodb = self.make_client("dynamodb")
        return Subscriptions(dynamodb, self.settings, clock=self.clock, parallel_map=self.map)

    def may_push(self, role: Role, url: str) -> bool:
        """Return whether to push to a destination now. The results of each role are counted separately."""
        settings = self.settings
        max_failures, max_timeouts = (settings.breaker_failures, 1) if role is Role.INLINE else WORKER_LIMITS
        breaker = self.breakers(role, url)
        return breaker.allows(self.clock(), max_failures, max_timeouts, settings.breaker_open_seconds)

    def may_wait(self, url: str) -> bool:
        """Return whether the worker may wait in process for a destination: not if it failed often in a row."""
        return self.breakers(Role.WORKER, url).failures < self.settings.breaker_failures

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

    def log_refusal(self, **fields: object) -> None:
        """Log a warning that a key was refused, at most MAX_REFUSALS a minute."""
        if self.refused_at[0] <= self.clock() - 60:
            self.refused_at.append(self.clock())
            telemetry.logger.warning("key refused", extra=fields)

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


def initialize() -> None:
    """Make services and clients while Lambda initializes a function, with more CPU than a request has.

    There is one short try for the secret, because Lambda allows 10 s in all; what fails is left to the first request.
    """
    with contextlib.suppress(SettingsError, *AWS_ERRORS):
        for service in ("dynamodb", "sqs"):
            get(READ_SECRET_ONCE).make_client(service)


def get(read_secret: Callable[[str], str] = read_secret) -> Services:
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
        settings = environment.load(os.environ, READ_SECRET_ONCE)
    except SettingsError as error:
        telemetry.logger.warning("settings not read again", extra={"error": str(error)})
        return services
    telemetry.configure(settings.log_level)
    return services if settings == services.settings else replace(services, settings=settings)
