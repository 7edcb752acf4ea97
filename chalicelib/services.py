"""The collaborators of one container: AWS clients, store, queues, push client. Tests pass their own."""

import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property, partial
from threading import Lock
from typing import Any, TypeVar

from chalicelib import settings as environment
from chalicelib import telemetry
from chalicelib.aws import make_client, read_secret
from chalicelib.breaker import Breaker, Breakers
from chalicelib.push import PushClient
from chalicelib.queue import Queue
from chalicelib.settings import Settings
from chalicelib.store import EventStore
from chalicelib.subscriptions import Subscriptions

HANGING_TIMEOUTS = 10  # in a row; with one, a receiver that hangs now and then would be taken for one that always does
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Services:
    """What outlives a request. AWS clients are created at first use.

    `new_id` returns 32 unique hexadecimal digits; `thread_pool` takes the number of threads.
    """

    settings: Settings
    make_client: Callable[[str], Any] = make_client
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    new_id: Callable[[], str] = lambda: os.urandom(16).hex()
    thread_pool: Callable[[int], Executor] = telemetry.thread_pool
    push: PushClient = field(default_factory=PushClient)
    inline_breakers: Breakers = field(default_factory=Breakers, repr=False)
    worker_breakers: Breakers = field(default_factory=Breakers, repr=False)

    @cached_property
    def store(self) -> EventStore:
        return EventStore(self._dynamodb, self.settings.events_table_name, clock=self.clock)

    @cached_property
    def subscriptions(self) -> Subscriptions:
        settings = self.settings
        hosts = settings.subscription_hosts
        return Subscriptions(self._dynamodb, settings.events_table_name, hosts=hosts, clock=self.clock)

    def inline_breaker(self, url: str) -> Breaker:
        """Return what the pushes of POST /events have seen of a destination."""
        max_failures = self.settings.breaker_failures
        return self.inline_breakers.get(url, partial(self._new_breaker, max_failures=max_failures, max_timeouts=1))

    def worker_breaker(self, url: str) -> Breaker:
        """Return what the pushes of the worker have seen of a destination."""
        make = partial(self._new_breaker, max_failures=float("inf"), max_timeouts=HANGING_TIMEOUTS)
        return self.worker_breakers.get(url, make)

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Return the results of calls made in parallel; raise the first error after all have ended."""
        if len(items) <= 1:
            return [function(item) for item in items]
        with self.thread_pool(len(items)) as pool:
            return list(pool.map(function, items))

    @cached_property
    def inbox(self) -> Queue:
        return Queue(self._sqs, self.settings.inbox_queue_url)

    @cached_property
    def dlq(self) -> Queue:
        return Queue(self._sqs, self.settings.inbox_dlq_url)

    @cached_property
    def metrics(self) -> telemetry.Metrics:
        return telemetry.Metrics(self.settings.stage, clock=self.clock)

    @cached_property
    def _dynamodb(self) -> Any:
        return self.make_client("dynamodb")

    @cached_property
    def _sqs(self) -> Any:
        return self.make_client("sqs")

    def _new_breaker(self, *, max_failures: float, max_timeouts: int) -> Breaker:
        open_seconds = self.settings.breaker_open_seconds
        return Breaker(
            max_failures=max_failures, max_timeouts=max_timeouts, open_seconds=open_seconds, clock=self.clock
        )


_services: Services | None = None
_lock = Lock()


def use(services: Services | None) -> None:
    """Use these services from now on; None: create them from the environment at the next `get`."""
    global _services  # noqa: PLW0603
    _services = services


def get() -> Services:
    """Return this container's services; raise SettingsError if the environment is unusable."""
    global _services  # noqa: PLW0603
    with _lock:
        if _services is None:
            telemetry.configure("INFO")
            settings = environment.load(os.environ, read_secret)
            telemetry.configure(settings.log_level)
            _services = Services(settings)
        return _services
