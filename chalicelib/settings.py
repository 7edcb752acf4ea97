"""Read and validate the environment variables, and the secret that completes them.

Faults name the variable and what it should be; a value is never repeated, because it may be a secret.
"""

import base64
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from chalicelib.core.outcome import RetryPolicy
from chalicelib.customers.hosts import AllowedHosts, parse_push_url
from chalicelib.infra.errors import InvalidValueError, SettingsError
from chalicelib.infra.times import DAY_SECONDS
from chalicelib.web.auth import DEFAULT_SCOPES, ApiKey, Scope
from chalicelib.web.validation import Parser, parser

API_KEYS = "must be name:sha256hex[:scope+scope], separated by commas, with the scopes produce, consume and erase"


def _number(kind: type[int | float], minimum: float, maximum: float) -> Parser:
    pattern, expected = (r"[0-9]{1,9}", "an integer") if kind is int else (r"[0-9]*\.?[0-9]+", "a number")

    def convert(text: str) -> float:
        number = kind(text)
        if not minimum <= number <= maximum:
            raise ValueError
        return number

    return parser(pattern, f"{expected} from {minimum} to {maximum}", convert)


def _signing_secrets(text: str) -> tuple[bytes, ...]:
    """Return the bytes of each secret: 24 to 64, by "Signature scheme" of Standard Webhooks."""
    secrets = [base64.b64decode(entry.removeprefix("whsec_"), validate=True) for entry in text.split()]
    if not all(24 <= len(secret) <= 64 for secret in secrets):
        raise ValueError
    return tuple(secrets)


def _api_keys(text: str) -> tuple[ApiKey, ...]:
    return tuple(_api_key(entry.strip()) for entry in text.split(",") if entry.strip())


def _api_key(entry: str) -> ApiKey:
    match = re.fullmatch(r"([^:]{1,64}):([0-9a-fA-F]{64})(?::([a-z+]+))?", entry)
    scopes = match[3].split("+") if match and match[3] else list(DEFAULT_SCOPES)
    if not match or not match[1].isprintable() or not set(scopes) <= set(Scope):
        raise InvalidValueError(API_KEYS)
    return ApiKey(match[1], match[2].lower(), frozenset(Scope(scope) for scope in scopes))


def _setting(name: str, parse: Parser, default: Any = MISSING, *, expected: str = "", secret: bool = False) -> Any:
    """Declare the variable of a setting; one without a default is required, and `expected` says what it must be."""
    metadata = {"name": name, "parse": parse, "expected": expected}
    return field(default=default, repr=not secret, metadata=metadata)


LOG_LEVEL = parser("DEBUG|INFO|WARNING|ERROR|CRITICAL", "DEBUG, INFO, WARNING, ERROR or CRITICAL")
DEFAULT_HOSTS = AllowedHosts(("hooks.zapier.com",))
QUEUE_URL = parser(r"https?://\S+", "the URL of an SQS queue")
MESSAGE_GRACE_SECONDS = 55
PULL_ONLY, COPIES_ONLY = "none", "subscriptions"  # values of ZAPIER_WEBHOOK_URL
WHSEC = r"whsec_\S+(\s+whsec_\S+)*"
SIGNING_SECRETS = parser(WHSEC, "whsec_ and base64 of 24 to 64 bytes, separated by spaces", _signing_secrets)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a function. Secrets are left out of `repr()`."""

    events_table_name: str = _setting("EVENTS_TABLE_NAME", str, expected="must be the name of the DynamoDB table")
    inbox_queue_url: str = _setting("INBOX_QUEUE_URL", QUEUE_URL, expected="must be the URL of the work queue")
    inbox_dlq_url: str = _setting("INBOX_DLQ_URL", QUEUE_URL, expected="must be the URL of the dead letter queue")
    webhook: str = _setting(
        "ZAPIER_WEBHOOK_URL",
        lambda text: text if text in (PULL_ONLY, COPIES_ONLY) else parse_push_url(text),
        expected="must be an https URL, none for pull-only, or subscriptions to push copies alone",
        secret=True,
    )
    api_keys: tuple[ApiKey, ...] = _setting("API_KEYS", _api_keys, expected=API_KEYS, secret=True)
    signing_secrets: tuple[bytes, ...] = _setting("WEBHOOK_SIGNING_SECRETS", SIGNING_SECRETS, (), secret=True)
    subscription_hosts: AllowedHosts = _setting("SUBSCRIPTION_HOSTS", AllowedHosts.parse, DEFAULT_HOSTS)
    max_delivery_attempts: int = _setting("MAX_DELIVERY_ATTEMPTS", _number(int, 1, 1000), 45)
    backoff_base_seconds: float = _setting("BACKOFF_BASE_SECONDS", _number(float, 0, DAY_SECONDS), 1.0)
    backoff_cap_seconds: float = _setting("BACKOFF_CAP_SECONDS", _number(float, 0, DAY_SECONDS), 7200.0)
    in_process_wait_seconds: float = _setting("IN_PROCESS_WAIT_SECONDS", _number(float, 0, 900), 8.0)
    push_timeout_seconds: float = _setting("PUSH_TIMEOUT_SECONDS", _number(float, 0.01, 20), 10.0)
    push_connect_timeout_seconds: float = _setting("PUSH_CONNECT_TIMEOUT_SECONDS", _number(float, 0.01, 20), 5.0)
    inline_push_timeout_seconds: float = _setting("INLINE_PUSH_TIMEOUT_SECONDS", _number(float, 0.01, 8), 5.0)
    breaker_failures: int = _setting("BREAKER_FAILURES", _number(int, 1, 1_000_000), 3)
    breaker_open_seconds: float = _setting("BREAKER_OPEN_SECONDS", _number(float, 0, DAY_SECONDS), 30.0)
    event_retention_days: int = _setting("EVENT_RETENTION_DAYS", _number(int, 1, 3650), 30)
    subscription_disable_days: float = _setting("SUBSCRIPTION_DISABLE_DAYS", _number(float, 0, 3650), 3.0)
    stage: str = _setting("STAGE", parser("[A-Za-z0-9-]{1,32}", "1 to 32 of A-Z a-z 0-9 -"), "dev")
    log_level: str = _setting("LOG_LEVEL", lambda text: LOG_LEVEL(text.upper()), "INFO")
    worker_batch_window_seconds: int = _setting("WORKER_BATCH_WINDOW_SECONDS", _number(int, 0, 60), 5)
    worker_max_concurrency: int = _setting("WORKER_MAX_CONCURRENCY", _number(int, 2, 1000), 5)

    @property
    def webhook_url(self) -> str | None:
        """Where events are pushed to, or None: their copies alone are pushed."""
        return None if self.webhook in (PULL_ONLY, COPIES_ONLY) else self.webhook

    @property
    def message_grace_seconds(self) -> int:
        """How late a message may be before the sweep sends another; it may wait in Lambda for the batch window."""
        return MESSAGE_GRACE_SECONDS + self.worker_batch_window_seconds

    @property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(self.max_delivery_attempts, self.backoff_base_seconds, self.backoff_cap_seconds)


REQUIRED = {row.metadata["name"]: row.metadata["expected"] for row in fields(Settings) if row.default is MISSING}


def load(environ: Mapping[str, str], read_secret: Callable[[str], str] | None = None) -> Settings:
    """Return the settings; raise SettingsError naming every missing or unusable variable.

    `read_secret` returns the text of a Secrets Manager secret. It is called at most once, with the value of
    SETTINGS_SECRET, when a required variable is not set. Variables that are set take precedence over the secret.
    """
    variables = _set_variables(environ)
    if read_secret and "SETTINGS_SECRET" in variables and not variables.keys() >= REQUIRED.keys():
        variables = _parse_secret(read_secret(variables["SETTINGS_SECRET"])) | variables
    values, unusable = read(variables)
    missing = [f"{name} is missing: it {expected}" for name, expected in REQUIRED.items() if name not in variables]
    if missing or unusable:
        raise SettingsError("; ".join(missing + unusable))
    settings = Settings(**values)
    days = math.ceil(settings.retry_policy.longest_seconds() / DAY_SECONDS + 1)
    if days > settings.event_retention_days:
        raise SettingsError(f"MAX_DELIVERY_ATTEMPTS and EVENT_RETENTION_DAYS do not fit: retries need {days} days")
    return settings


def read(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings that are set or have a default, by name, and what is wrong with those that are unusable."""
    variables = _set_variables(environ)
    values: dict[str, Any] = {row.name: row.default for row in fields(Settings) if row.default is not MISSING}
    unusable = []
    for row in fields(Settings):
        name = row.metadata["name"]
        if name in variables:
            try:
                values[row.name] = row.metadata["parse"](variables[name])
            except InvalidValueError as error:
                unusable.append(f"{name} is unusable: it {error}")
    return values, unusable


def _set_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are set. An empty one counts as not set, except API_KEYS: no keys is a choice."""
    return {name: value.strip() for name, value in environ.items() if value.strip() or name == "API_KEYS"}


def _parse_secret(text: str) -> dict[str, str]:
    """Return the variables in a text of `NAME=value` lines; blank lines and `#` comments are skipped."""
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    if not all(separator for _, separator, _ in pairs):
        raise SettingsError("SETTINGS_SECRET is unusable: it must name a secret of NAME=value lines")
    return _set_variables({name.strip(): value for name, _, value in pairs})
