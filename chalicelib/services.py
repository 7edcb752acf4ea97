"""Builds what a container needs, once, at first use, and holds it.

Tests build their own with other clocks and clients.
"""

import gc
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache, partial
from threading import Lock
from typing import Any

from chalicelib import aws, log
from chalicelib.breaker import Breaker
from chalicelib.dynamodb import EventStore
from chalicelib.metrics import Metrics
from chalicelib.push import PushClient
from chalicelib.settings import Settings, load
from chalicelib.sqs import Queue


@dataclass(frozen=True)
class Services:
    """Everything that outlives a request, and what is passed in: clock, sleep, random, ids, and pools of n threads."""

    settings: Settings
    store: EventStore
    inbox: Queue
    dlq: Queue
    push: PushClient
    breaker: Breaker
    metrics: Metrics
    clock: Callable[[], float]
    sleep: Callable[[float], None]
    random: Callable[[], float]
    new_id: Callable[[], str]
    threads: Callable[[int], Executor]


class _Lazy:
    """Stands for what is made when it is first used, once: a path that does without it does not wait for it."""

    def __init__(self, make: Callable[[], object]) -> None:
        self._make = cache(make)
        self._lock = Lock()

    def __getattr__(self, name: str) -> Any:
        with self._lock:  # two threads would have `cache` call twice
            made = self._make()
        return getattr(made, name)


def build(
    settings: Settings,
    dynamodb: Any,
    sqs: Any,
    *,
    push: PushClient | None = None,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    random: Callable[[], float] = random.random,
    new_id: Callable[[], str] = lambda: os.urandom(16).hex(),
    threads: Callable[[int], Executor] = log.pool,
) -> Services:
    """Return services on the given boto3 clients. `new_id` gives 32 hexadecimal digits, never the same twice."""
    pushes: Any = push or _Lazy(
        partial(
            PushClient,
            settings.webhook_url,
            settings.signing_secrets,
            connect_timeout_seconds=settings.push_connect_timeout_seconds,
            clock=clock,
        )
    )
    return Services(
        settings=settings,
        store=EventStore(dynamodb, settings.events_table_name, clock=clock),
        inbox=Queue(sqs, settings.inbox_queue_url),
        dlq=Queue(sqs, settings.inbox_dlq_url),
        push=pushes,
        breaker=Breaker(failures=settings.breaker_failures, open_seconds=settings.breaker_open_seconds, clock=clock),
        metrics=Metrics(settings.metrics_namespace, settings.stage, clock=clock, write=log.print_line),
        clock=clock,
        sleep=sleep,
        random=random,
        new_id=new_id,
        threads=threads,
    )


_lock = Lock()
_services: Services | None = None


def use(services: Services | None) -> None:
    """Hold these services from now on; None: build new ones when they are next asked for."""
    global _services  # noqa: PLW0603
    _services = services


def get() -> Services:
    """Return this container's services; raise SettingsError when the environment is not usable."""
    global _services  # noqa: PLW0603
    with _lock:
        if _services is None:
            log.configure("INFO")
            settings = load(os.environ)
            log.configure(settings.log_level)
            gc.disable()  # what boto3 loads stays: looking through it for garbage is a tenth of a cold start
            try:
                _services = build(settings, aws.client("dynamodb"), _Lazy(partial(aws.client, "sqs")))
                gc.freeze()
            finally:
                gc.enable()
        return _services
