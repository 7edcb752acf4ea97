"""The collaborators of a container, and the invocation of a function with the time it has left."""

import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import KW_ONLY, dataclass, field
from functools import cache, cached_property
from http import HTTPStatus
from typing import Any, TypeVar

from chalicelib.core.breaker import INLINE_PATIENCE_SECONDS, WORKER_PATIENCE_SECONDS, Breaker
from chalicelib.core.event import Event
from chalicelib.core.http_push import PushClient
from chalicelib.core.lanes import Lanes
from chalicelib.core.outcome import Random
from chalicelib.core.store import EventStore, WriteResult
from chalicelib.core.target import Targets
from chalicelib.infra import telemetry
from chalicelib.infra.clients import CALL_SECONDS, make_client
from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.queue import Queue
from chalicelib.infra.times import DAY_SECONDS, Clock, unix_seconds
from chalicelib.settings import Settings

MAX_THREADS = 32
RECORD_RETRY_SECONDS = 0.5
AFTER_PUSH_SECONDS = 2 * CALL_SECONDS  # for the record and the message
# For an attempt without its push: the claim and the target come before that.
ATTEMPT_SECONDS = 2 * CALL_SECONDS + AFTER_PUSH_SECONDS
T = TypeVar("T")
R = TypeVar("R")


@dataclass
class CoreServices(ABC):
    """The collaborators that a container keeps between invocations, without the subscriptions.

    AWS clients are created at first use.
    """

    settings: Settings
    make_client: Callable[[str], Any] = field(
        default_factory=lambda: cache(make_client), repr=False
    )
    clock: Clock = time.time
    sleep: Callable[[float], None] = time.sleep
    random: Random = random.random
    # Returns 32 random hexadecimal digits, for an id.
    new_id: Callable[[], str] = lambda: os.urandom(16).hex()
    # Returns a pool with a number of threads.
    thread_pool: Callable[[int], Executor] = telemetry.thread_pool
    # Pushes events over HTTP.
    push: PushClient = field(default_factory=PushClient)
    # The breakers of pushes for which the caller of POST /events waits, and of the worker's pushes.
    inline_breaker: Breaker = field(default_factory=lambda: Breaker(INLINE_PATIENCE_SECONDS))
    worker_breaker: Breaker = field(default_factory=lambda: Breaker(WORKER_PATIENCE_SECONDS))
    # Which destinations are slow.
    lanes: Lanes = field(default_factory=Lanes)

    @property
    @abstractmethod
    def targets(self) -> Targets:
        """The targets of events: `deps` makes them, because the core knows no subscription."""

    @cached_property
    def store(self) -> EventStore:
        return EventStore(self.make_client("dynamodb"), self.settings, clock=self.clock)

    @cached_property
    def work_queue(self) -> Queue:
        return Queue(self.make_client("sqs"), self.settings.inbox_queue_url)

    @cached_property
    def slow_queue(self) -> Queue:
        return Queue(self.make_client("sqs"), self.settings.slow_queue_url)

    @cached_property
    def dlq(self) -> Queue:
        return Queue(self.make_client("sqs"), self.settings.inbox_dlq_url)

    def needs_slow_lane(self, event: Event) -> bool:
        """Return whether an event belongs in the slow lane, the second queue with its own worker:
        its destination is slow, an attempt timed out, or the event was recovered.

        An event that timed out belongs there even if its destination is not marked as slow: a
        destination that is slow for some types and quick for others is never marked, and the fast
        lane would cut off each push. An event that was recovered may be one of thousands.
        """
        is_kept_apart = event.has_timed_out or event.recovered_at is not None
        return is_kept_apart or self.lanes.is_slow(event.group_id, self.clock())

    def queue_for(self, event: Event) -> Queue:
        """Return the queue of the lane that an event belongs in."""
        return self.slow_queue if self.needs_slow_lane(event) else self.work_queue

    def map(
        self, function: Callable[[T], R], items: Sequence[T], *, threads: int = MAX_THREADS
    ) -> list[R]:
        """Call a function with each item; return the results in the order of the items.

        The calls are made in parallel by up to `threads` threads; the call for a single item is
        made by the calling thread. If calls raise errors, raises that of the first such item, after
        all calls have ended.
        """
        if len(items) <= 1:
            return [function(item) for item in items]
        with self.thread_pool(threads) as pool:
            return list(pool.map(function, items))

    def try_map(
        self, function: Callable[[T], R], items: Sequence[T]
    ) -> tuple[list[R], StorageUnavailableError | None]:
        """Call a function with each item, as `map` does; return the results of the calls that
        raised no StorageUnavailableError, and the first such error; None: no call raised one.
        """

        def attempt(item: T) -> R | StorageUnavailableError:
            """Return the result of the call for an item, or its StorageUnavailableError."""
            try:
                return function(item)
            except StorageUnavailableError as error:
                return error

        results: list[R] = []
        errors: list[StorageUnavailableError] = []
        for result in self.map(attempt, items):
            if isinstance(result, StorageUnavailableError):
                errors.append(result)
            else:
                results.append(result)
        return results, errors[0] if errors else None

    def expires_at(self) -> int:
        """Return the Unix seconds at which an event stored or replayed now expires."""
        return int(self.clock()) + self.settings.event_retention_days * DAY_SECONDS


@dataclass(frozen=True)
class Invocation:
    """One invocation of a function."""

    services: CoreServices
    # When it must have ended (Unix seconds).
    deadline: float
    _: KW_ONLY
    # Whether it is an invocation of the fast lane's worker.
    is_fast_lane: bool = False
    # Until when it may wait for the next attempt in process (Unix seconds); 0: it may not, because
    # other messages wait for it to end.
    waits_until: float = 0.0

    @property
    def queue(self) -> Queue:
        """The queue from which the worker's messages come."""
        return self.services.work_queue if self.is_fast_lane else self.services.slow_queue

    def seconds_left(self) -> float:
        """Return the seconds until the deadline; negative after it."""
        return self.deadline - self.services.clock()

    def waits_for(self, event: Event) -> bool:
        """Return whether the invocation waits for the next attempt of an event and makes it itself.

        It does not wait for an event that is never due or belongs in the slow lane, after a 429, if
        the attempt is due so late that there would be no time left for it, or if it is due later
        than the invocation may wait, because other messages would have to wait, too.

        As time passes, the result may become True, but not False: if it is True when the retry is
        recorded, no queue message is sent, so it must still be True when the invocation begins to
        wait.
        """
        if event.next_attempt_at is None or self.services.needs_slow_lane(event):
            return False
        latest_status_code = event.attempts[-1].status_code if event.attempts else None
        # The latest time at which an attempt can begin and end before the deadline.
        latest_start = self.deadline - ATTEMPT_SECONDS - self.services.settings.push_timeout_seconds
        due_at = unix_seconds(event.next_attempt_at)
        is_soon = due_at <= min(self.waits_until, latest_start)
        return is_soon and latest_status_code != HTTPStatus.TOO_MANY_REQUESTS

    def retry_write(self, write: Callable[[Event], WriteResult], event: Event) -> WriteResult:
        """Write an event by `write` and return the result. If DynamoDB fails, wait
        RECORD_RETRY_SECONDS and try again; raise StorageUnavailableError when there is no time left
        for another try and the queue message after it.

        If a push is not recorded, it is made a second time. The claim of the event does not expire
        meanwhile: CLAIM_SECONDS is longer than a function that pushes may run.

        :param write: Writes the event once; raises StorageUnavailableError if DynamoDB fails.
        """
        while True:
            try:
                return write(event)
            except StorageUnavailableError:
                # For the next try and the message, CALL_SECONDS at most each.
                if self.seconds_left() < RECORD_RETRY_SECONDS + 2 * CALL_SECONDS:
                    raise
                self.services.sleep(RECORD_RETRY_SECONDS)
