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
from functools import cache, cached_property, partial
from threading import Lock
from typing import Any, TypeVar

from chalicelib import settings as environment
from chalicelib.core.breaker import Breaker, WorkerBreaker
from chalicelib.core.event import Event
from chalicelib.core.http_push import PushClient
from chalicelib.core.store import EventStore, WriteResult
from chalicelib.customers.subscriptions import Subscriptions
from chalicelib.infra import telemetry
from chalicelib.infra.clients import CALL_SECONDS, ONE_SHORT_TRY, make_client, read_secret
from chalicelib.infra.errors import AWS_ERRORS, SettingsError, StorageUnavailableError
from chalicelib.infra.queue import Queue
from chalicelib.settings import Settings

REFRESH_SECONDS = 300
MAX_THREADS = 32
RECORD_RETRY_SECONDS = 0.5
MAX_REFUSALS = 5  # logged in a minute
READ_SECRET_ONCE = partial(read_secret, config=ONE_SHORT_TRY)
T = TypeVar("T")
R = TypeVar("R")


class Pusher(StrEnum):
    """Who pushes: POST /events while the caller waits, the worker, or the test of a subscription."""

    INLINE = "inline"
    WORKER = "worker"
    TEST = "test"


@dataclass
class Services:
    """What is kept between requests. AWS clients are created at first use.

    `new_id` returns 32 unique hexadecimal digits; `thread_pool` takes the number of threads. `refused_at` has the times
    of the last refusals that were logged.
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
        """Return the results of calls made in parallel, by up to MAX_THREADS; raise the first error after all ended."""
        if len(items) <= 1:
            return [function(item) for item in items]
        with self.thread_pool(min(len(items), MAX_THREADS)) as pool:
            return list(pool.map(function, items))

    @cached_property
    def work_queue(self) -> Queue:
        return Queue(self.make_client("sqs"), self.settings.inbox_queue_url)

    @cached_property
    def dlq(self) -> Queue:
        return Queue(self.make_client("sqs"), self.settings.inbox_dlq_url)

    def metrics(self, **values: float) -> dict[str, Any]:
        """Return what makes a log line publish metrics, to be passed as `extra`."""
        return telemetry.metrics(self.settings.stage, self.clock(), values)

    def log_refusal(self, **fields: object) -> None:
        """Log a warning that a key was refused, at most MAX_REFUSALS a minute."""
        if self.refused_at[0] <= self.clock() - 60:
            self.refused_at.append(self.clock())
            telemetry.logger.warning("key refused", extra=fields)


@dataclass(frozen=True)
class Invocation:
    """One invocation of a function: its services, and the Unix seconds by which it must end."""

    services: Services
    deadline: float

    def seconds_left(self, calls: int = 0) -> float:
        """Return the seconds until the deadline, less those that so many AWS calls take at most."""
        return self.deadline - self.services.clock() - calls * CALL_SECONDS

    def has_time(self, calls: int = 1) -> bool:
        """Return whether so many AWS calls, as slow as they can be, end by the deadline."""
        return self.seconds_left(calls) >= 0

    def write_with_retries(self, write: Callable[[Event], WriteResult], event: Event) -> WriteResult:
        """Write a record, again and again while there is time for a message after it: a lost record is a second push.

        The claim lasts longer: CLAIM_SECONDS is more than the time of the functions that push.
        """
        while True:
            try:
                return write(event)
            except StorageUnavailableError:
                if self.seconds_left(2) < RECORD_RETRY_SECONDS:
                    raise
                self.services.sleep(RECORD_RETRY_SECONDS)


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
