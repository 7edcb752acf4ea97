"""The collaborators of one container: AWS clients, store, queues, push client. Tests pass their own."""

import contextlib
import gc
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.parsers import ResponseParserError

from chalicelib import settings as settings_module
from chalicelib import telemetry
from chalicelib.breaker import Breaker
from chalicelib.errors import AWS_ERRORS, ApiError, error_code
from chalicelib.push import PushClient
from chalicelib.queue import Queue
from chalicelib.settings import Settings
from chalicelib.store import EventStore
from chalicelib.subscriptions import Subscriptions

# Two tries, each 1 s to connect and 2 s to read, with up to 1 s in between: the longest that one call can take.
CALL_SECONDS = 7
CONFIG = Config(
    connect_timeout=1,
    read_timeout=2,
    retries={"mode": "standard", "total_max_attempts": 2},
    tcp_keepalive=True,
    max_pool_connections=64,
)
T = TypeVar("T")
R = TypeVar("R")
_lock = Lock()


def client(service: str) -> Any:
    """Return a boto3 client whose calls take at most CALL_SECONDS."""
    with _lock:  # the default session is not thread-safe
        gc.disable()  # nothing that boto3 loads is garbage; looking for it is a tenth of a cold start
        try:
            made: Any = boto3.client(service, config=CONFIG)
            gc.freeze()
        finally:
            gc.enable()
    made.meta.events.register("before-parse", _require_json_object)
    made.meta.events.register("before-call", _remove_trace_header)
    return made


def _require_json_object(response_dict: dict[str, Any], operation_model: Any, **_: object) -> None:
    """Raise ResponseParserError if a success is not a JSON object: botocore would take it for an empty one.

    An operation without output, such as DeleteMessage, has an empty body.
    """
    is_success = response_dict["status_code"] < 300
    if is_success and operation_model.output_shape is None:
        return
    with contextlib.suppress(ValueError):
        if isinstance(json.loads(response_dict["body"]), dict):
            return
    if is_success:
        raise ResponseParserError("not a JSON object, or truncated")
    response_dict["body"] = b"{}"  # an error whose status code says enough, and is retried by it


def _remove_trace_header(params: dict[str, Any], **_: object) -> None:
    """Remove the header by which Lambda detects recursive loops: retries go through the worker's own queue."""
    params["headers"].pop("X-Amzn-Trace-Id", None)


@dataclass
class Services:
    """What outlives a request. AWS clients are created at first use.

    `new_id` returns 32 unique hexadecimal digits; `thread_pool` takes the number of threads.
    """

    settings: Settings
    client: Callable[[str], Any] = client
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random.random
    new_id: Callable[[], str] = lambda: os.urandom(16).hex()
    thread_pool: Callable[[int], Executor] = telemetry.thread_pool
    breakers: dict[str, Breaker] = field(default_factory=dict, repr=False)

    @cached_property
    def store(self) -> EventStore:
        return EventStore(self._dynamodb, self.settings.events_table_name, clock=self.clock)

    @cached_property
    def subscriptions(self) -> Subscriptions:
        return Subscriptions(self._dynamodb, self.settings.events_table_name, clock=self.clock)

    def breaker(self, url: str) -> Breaker:
        """Return the breaker of a destination."""
        settings = self.settings
        new = Breaker(failures=settings.breaker_failures, open_seconds=settings.breaker_open_seconds, clock=self.clock)
        return self.breakers.setdefault(url, new)

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
    def push(self) -> PushClient:
        settings = self.settings
        connect_timeout_seconds = settings.push_connect_timeout_seconds
        return PushClient(settings.signing_secrets, connect_timeout_seconds=connect_timeout_seconds, clock=self.clock)

    @cached_property
    def metrics(self) -> telemetry.Metrics:
        return telemetry.Metrics(self.settings.metrics_namespace, self.settings.stage, clock=self.clock)

    @cached_property
    def _dynamodb(self) -> Any:
        return self.client("dynamodb")

    @cached_property
    def _sqs(self) -> Any:
        return self.client("sqs")


def _read_secret(name: str) -> str:
    """Return the text of a Secrets Manager secret; raise ApiError 503."""
    try:
        secret = client("secretsmanager").get_secret_value(SecretId=name)
    except AWS_ERRORS as error:
        telemetry.logger.critical("secret not readable", extra={"secret": name, "error": error_code(error)})
        detail = f"SETTINGS_SECRET is unusable: its secret cannot be read ({error_code(error)}); try again."
        raise ApiError(503, detail, retry_after_seconds=2) from None
    return str(secret.get("SecretString", "binary"))  # which is reported, as it is no NAME=value


_services: Services | None = None
_services_lock = Lock()


def use(services: Services | None) -> None:
    """Use these services from now on; None: create them from the environment at the next `get`."""
    global _services  # noqa: PLW0603
    _services = services


def get() -> Services:
    """Return this container's services; raise SettingsError if the environment is unusable."""
    global _services  # noqa: PLW0603
    with _services_lock:
        if _services is None:
            telemetry.configure("INFO")
            settings = settings_module.load(os.environ, _read_secret)
            telemetry.configure(settings.log_level)
            _services = Services(settings)
        return _services
