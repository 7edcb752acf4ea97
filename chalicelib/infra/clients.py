"""boto3 clients whose calls are bounded in time, and the secret with the settings."""

import gc
import os
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from chalicelib.infra.errors import AWS_ERRORS, SettingsError, error_code
from chalicelib.infra.parsing import Json

# Two tries, each 1 s to connect and 1 s to read, with up to 1 s in between: the longest that one
# call can take.
CALL_SECONDS = 5
CONFIG = Config(
    connect_timeout=1,
    read_timeout=1,
    retries={"mode": "standard", "total_max_attempts": 2},
    tcp_keepalive=True,
    max_pool_connections=64,
    parameter_validation=False,  # a tenth of the CPU time of a call; tests call with validation
    user_agent="triggers-api",  # botocore would build its own twice for each call
)
# For reading the settings while a function initializes, and again while a request waits.
ONE_SHORT_TRY = CONFIG.merge(Config(retries={"mode": "standard", "total_max_attempts": 1}))
CONFLICT = "TransactionConflictException"
CONFLICT_SECONDS = 0.1  # after the first try; twice as long after the second
MAX_TRIES = 4
# An emulator makes one call after another, and looks at a whole table for a page of it.
EMULATOR_HOSTS = ("127.0.0.1", "localhost", "::1")
EMULATOR = Config(read_timeout=30)
_lock = Lock()


def make_client(service: str, config: Config = CONFIG) -> Any:
    """Return a boto3 client whose calls take at most CALL_SECONDS, unless an emulator on this
    machine is called.
    """
    if urlsplit(os.environ.get("AWS_ENDPOINT_URL", "")).hostname in EMULATOR_HOSTS:
        config = config.merge(EMULATOR)
    with _lock:  # the default session is not thread-safe
        # nothing that boto3 loads is garbage; looking for it is a tenth of a cold start
        gc.disable()
        try:
            made: Any = boto3.client(service, config=config)
        finally:
            gc.enable()
    events = made.meta.events
    events.register("before-call", _remove_trace_header)
    needs_retry = f"needs-retry.{made.meta.service_model.service_id.hyphenize()}"
    events.register_first(needs_retry, _remove_retry_after)
    events.register(needs_retry, _retry_conflict)
    return made


def read_secret(name: str, config: Config = CONFIG) -> str:
    """Return the text of a Secrets Manager secret; raise SettingsError."""
    try:
        secret = make_client("secretsmanager", config).get_secret_value(SecretId=name)
    except AWS_ERRORS as error:
        raise SettingsError(
            f"SETTINGS_SECRET is unusable: its secret cannot be read ({error_code(error)})"
        ) from None
    # settings.load refuses a binary one: no NAME=value lines
    return str(secret.get("SecretString", "binary"))


def _remove_retry_after(response: Any, **_: object) -> None:
    """Remove the header for which botocore waits up to 5 s longer than its backoff.

    CALL_SECONDS would not hold.
    """
    if response:
        response[0].headers.pop("x-amz-retry-after", None)


def _retry_conflict(response: Any, attempts: int, **_: object) -> float | None:
    """Return the seconds until the next try of a write whose item a transaction holds.

    That takes some 20 ms. botocore does not try again; after MAX_TRIES, that is a second, the write
    fails.
    """
    is_conflict = response and response[1].get("Error", {}).get("Code") == CONFLICT
    return attempts * CONFLICT_SECONDS if is_conflict and attempts < MAX_TRIES else None


def _remove_trace_header(params: Json, **_: object) -> None:
    """Remove the header by which Lambda detects recursive loops.

    Retries go through the worker's own queue. `make deploy` and the packaged stack allow such
    loops, too (RecursiveLoop); plain `chalice deploy` cannot.
    """
    params["headers"].pop("X-Amzn-Trace-Id", None)
