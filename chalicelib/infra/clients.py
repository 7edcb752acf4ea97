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

# The longest that one call can take: two tries, each with 1 s to connect and 1 s to read, and up to
# 1 s between them.
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
# An emulator makes one call after another, and looks at a whole table for a page of it.
EMULATOR_HOSTS = ("127.0.0.1", "localhost", "::1")
EMULATOR = Config(read_timeout=30)
_lock = Lock()


def make_client(service: str, config: Config = CONFIG) -> Any:
    """Return a boto3 client of a service (`dynamodb`) whose calls take at most CALL_SECONDS.

    An emulator on this machine (AWS_ENDPOINT_URL) may take longer.
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
    # So that Lambda does not take the retries that the worker sends to its own queue for a loop.
    events.register("before-call", _remove_trace_header)
    # Called after each try of a call: the first handler keeps the waits between tries short, the
    # other one asks for another try if a transaction is changing the item.
    needs_retry = f"needs-retry.{made.meta.service_model.service_id.hyphenize()}"
    events.register_first(needs_retry, _remove_retry_after)
    events.register(needs_retry, _retry_conflict)
    return made


def read_secret(name: str, config: Config = CONFIG) -> str:
    """Return the text of a secret in Secrets Manager; raise SettingsError if it cannot be read.

    :param name: The name or ARN of the secret.
    """
    try:
        secret = make_client("secretsmanager", config).get_secret_value(SecretId=name)
    except AWS_ERRORS as error:
        raise SettingsError(
            f"SETTINGS_SECRET is unusable: its secret cannot be read ({error_code(error)})"
        ) from None
    # A binary secret has no text: settings.load refuses this one, which has no NAME=value lines.
    return str(secret.get("SecretString", "binary"))


def _remove_retry_after(response: Any, **_: object) -> None:
    """Remove the header that makes botocore wait up to 5 s longer before a retry than its backoff:
    a call would take longer than CALL_SECONDS.

    :param response: The HTTP response and its parsed body; None: there is no response.
    """
    if response:
        response[0].headers.pop("x-amz-retry-after", None)


CONFLICT = "TransactionConflictException"
CONFLICT_SECONDS = 0.1  # the wait after the first try; twice as long after the second
MAX_TRIES = 4


def _retry_conflict(response: Any, attempts: int, **_: object) -> float | None:
    """Return the seconds until the next try of a write that failed because a transaction is
    changing the item; None: this handler asks for no retry.

    A transaction takes some 20 ms. botocore itself does not retry this error. The write fails after
    MAX_TRIES, within a second.

    :param response: The HTTP response and its parsed body; None: there is no response.
    :param attempts: How many tries were made, from 1.
    """
    if response is None or attempts >= MAX_TRIES:
        return None
    _, body = response
    is_conflict = body.get("Error", {}).get("Code") == CONFLICT
    return attempts * CONFLICT_SECONDS if is_conflict else None


def _remove_trace_header(params: Json, **_: object) -> None:
    """Remove the header by which Lambda detects recursive loops from the parameters of a request.

    The worker sends retries to its own queue, which Lambda would stop. `make deploy` and the
    packaged stack also allow such loops (RecursiveLoop); plain `chalice deploy` cannot.
    """
    params["headers"].pop("X-Amzn-Trace-Id", None)
