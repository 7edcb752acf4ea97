"""Environment variables in, one frozen `Settings` out, or one line that names every fault.

Reads nothing by itself and never repeats a value that may be a secret.
"""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import SplitResult, urlsplit

from chalicelib.auth import ApiKey, Scope

T = TypeVar("T")


class SettingsError(Exception):
    """The start stops here: `str()` is one line with each variable at fault and what it should be."""


@dataclass(frozen=True)
class EventSource:
    """The worker's event source, as `chalice deploy` makes it."""

    stage: str
    queue_name: str
    batch_window_seconds: int
    maximum_concurrency: int


@dataclass(frozen=True)
class Settings:
    """Everything the environment decides. Secrets stay out of `repr()`."""

    events_table_name: str
    inbox_queue_url: str
    inbox_dlq_url: str
    webhook_url: str = field(repr=False)
    api_keys: tuple[ApiKey, ...] = field(repr=False)
    signing_secrets: tuple[bytes, ...] = field(repr=False)
    max_delivery_attempts: int
    backoff_base_seconds: float
    backoff_cap_seconds: float
    in_process_wait_seconds: float
    push_timeout_seconds: float
    push_connect_timeout_seconds: float
    inline_push_timeout_seconds: float
    breaker_failures: int
    breaker_open_seconds: float
    event_retention_days: int
    stage: str
    log_level: str
    metrics_namespace: str


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings that `environ` describes; raise SettingsError naming every variable at fault."""
    env = _Reader(environ)
    push_timeout = env.number("PUSH_TIMEOUT_SECONDS", 10, above=0, to=20)
    inline_timeout = env.number("INLINE_PUSH_TIMEOUT_SECONDS", 5, above=0, to=20)
    settings = Settings(
        events_table_name=env.read("EVENTS_TABLE_NAME", "", str, "the name of the DynamoDB table", required=True),
        inbox_queue_url=env.read("INBOX_QUEUE_URL", "", _queue_url, "the URL of the inbox queue", required=True),
        inbox_dlq_url=env.read("INBOX_DLQ_URL", "", _queue_url, "the URL of the dead letter queue", required=True),
        webhook_url=env.read(
            "ZAPIER_WEBHOOK_URL",
            "",
            _webhook_url,
            "an https URL without user or fragment (http only to a loopback host)",
            required=True,
        ),
        api_keys=env.api_keys(),
        signing_secrets=env.read(
            "WEBHOOK_SIGNING_SECRETS", (), _signing_secrets, "whsec_ and base64, a space between two"
        ),
        max_delivery_attempts=env.whole("MAX_DELIVERY_ATTEMPTS", 20, 1, 1000),
        backoff_base_seconds=env.number("BACKOFF_BASE_SECONDS", 1, to=86_400),
        backoff_cap_seconds=env.number("BACKOFF_CAP_SECONDS", 3600, to=86_400),
        in_process_wait_seconds=env.number("IN_PROCESS_WAIT_SECONDS", 8, to=900),
        push_timeout_seconds=push_timeout,
        push_connect_timeout_seconds=env.number("PUSH_CONNECT_TIMEOUT_SECONDS", 5, above=0, to=20),
        inline_push_timeout_seconds=min(inline_timeout, push_timeout),
        breaker_failures=env.whole("BREAKER_FAILURES", 3, 1, 1_000_000),
        breaker_open_seconds=env.number("BREAKER_OPEN_SECONDS", 30, to=86_400),
        event_retention_days=env.whole("EVENT_RETENTION_DAYS", 30, 1, 3650),
        stage=env.stage(),
        log_level=env.read(
            "LOG_LEVEL",
            "INFO",
            _choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
            "DEBUG, INFO, WARNING or ERROR",
        ),
        metrics_namespace=env.read(
            "METRICS_NAMESPACE",
            "TriggersApi",
            _matching(r"(?!AWS/)[A-Za-z0-9.\-_/#:]{1,255}"),
            "1 to 255 of A-Z a-z 0-9 . - _ / # :, not beginning with AWS/",
        ),
    )
    env.stop_on_faults()
    return settings


def load_event_source(environ: Mapping[str, str]) -> EventSource:
    """Return what the worker's event source is made from; raise SettingsError. The only values read at import."""
    env = _Reader(environ)
    stage = env.stage()
    window = env.whole("WORKER_BATCH_WINDOW_SECONDS", 5, 0, 300)
    concurrency = env.whole("WORKER_MAX_CONCURRENCY", 5, 2, 1000)
    env.stop_on_faults()
    return EventSource(stage, f"triggers-api-{stage}-inbox-queue", window, concurrency)


class _Reader:
    """Reads one variable after another and remembers what was wrong with each."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._faults: list[str] = []

    def stop_on_faults(self) -> None:
        if self._faults:
            raise SettingsError("; ".join(self._faults))

    def read(self, name: str, default: T, parse: Callable[[str], T], wanted: str, *, required: bool = False) -> T:
        value = self._environ.get(name, "").strip()
        try:
            if value:
                return parse(value)
            if required:
                self._faults.append(f"{name} is missing: it must be {wanted}")
        except ValueError:
            self._faults.append(f"{name} is unusable: it must be {wanted}")
        return default

    def number(self, name: str, default: float, *, above: float | None = None, to: float) -> float:
        least = "above 0" if above is not None else "from 0"

        def parse(text: str) -> float:
            value = float(_plain_number(text))
            if not (0 <= value <= to) or value == above:  # NaN is refused here too
                raise ValueError
            return value

        return self.read(name, default, parse, f"a number of seconds {least} to {to:g}")

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        def parse(text: str) -> int:
            value = int(_plain_number(text))
            if not least <= value <= most:
                raise ValueError
            return value

        return self.read(name, default, parse, f"a whole number from {least} to {most}")

    def stage(self) -> str:
        return self.read("STAGE", "dev", _matching(r"[A-Za-z0-9-]{1,32}"), "1 to 32 of A-Z a-z 0-9 -")

    def api_keys(self) -> tuple[ApiKey, ...]:
        wanted = "name:sha256hex[:scope+scope], comma between, scopes produce and consume"
        # Set but empty closes a stage on purpose: every call is refused.
        return self.read("API_KEYS", (), _api_keys, wanted, required="API_KEYS" not in self._environ)


def _plain_number(text: str) -> str:
    """Return `text` if it is a number as people write it: Python takes 1_0 and other scripts' digits too."""
    if not re.fullmatch(r"[0-9.eE+-]+", text):
        raise ValueError
    return text


def _matching(pattern: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError
        return value

    return parse


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        return choices[choices.index(value.upper())]

    return parse


def _url(value: str) -> SplitResult:
    url = urlsplit(value)
    host = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)]|[A-Za-z0-9._-]+)(?::[0-9]+)?", url.netloc)
    if not host or url.port == 0 or re.search(r"[^\x21-\x7e]", value):
        raise ValueError
    if host[1]:
        ipaddress.IPv6Address(host[1])
    return url


def _queue_url(value: str) -> str:
    if _url(value).scheme not in ("https", "http"):
        raise ValueError
    return value


def _webhook_url(value: str) -> str:
    url = _url(value)
    secure = url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.hostname or ""))
    if not secure or url.fragment:
        raise ValueError
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _signing_secrets(value: str) -> tuple[bytes, ...]:
    return tuple(_signing_secret(secret) for secret in value.split())


def _signing_secret(value: str) -> bytes:
    if not value.startswith("whsec_"):
        raise ValueError
    try:
        secret = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ValueError from error
    if not secret:
        raise ValueError
    return secret


def _api_keys(value: str) -> tuple[ApiKey, ...]:
    return tuple(_api_key(entry.strip()) for entry in value.split(",") if entry.strip())


def _api_key(entry: str) -> ApiKey:
    name, digest, *rest = entry.split(":")
    if (
        not (1 <= len(name) <= 64 and name.isprintable())
        or not re.fullmatch(r"[0-9a-fA-F]{64}", digest)
        or len(rest) > 1
    ):
        raise ValueError
    scopes = frozenset(Scope(scope) for scope in rest[0].split("+")) if rest else frozenset(Scope)
    return ApiKey(name, digest.lower(), scopes)
