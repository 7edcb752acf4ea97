"""Environment variables in, one frozen `Settings` out, or one line that names every fault.

Reads nothing by itself and never repeats a value that may be a secret.
"""

import base64
import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from chalicelib.auth import ApiKey, Scope

T = TypeVar("T")


class SettingsError(Exception):
    """The start stops here: `str()` is one line with each variable at fault and what it should be."""


def _variable(
    name: str,
    default: T | None,
    parse: Callable[[str], T],
    wanted: str,
    *,
    secret: bool = False,
    may_be_empty: bool = False,
) -> T:
    """Return the field of a dataclass that a variable fills; `default` counts when it is not set, None: it must be.

    `parse` raises ValueError for what is not `wanted`. Set but empty is the same as not set, unless it `may_be_empty`.
    """
    row: T = field(repr=not secret, metadata={"variable": (name, default, parse, wanted, may_be_empty)})
    return row


def _seconds(name: str, default: float, most: float, *, positive: bool = False) -> float:
    def parse(text: str) -> float:
        value = float(_plain_number(text))
        if not (0 <= value <= most) or (positive and value == 0):  # NaN is refused here too
            raise ValueError
        return value

    least = "above 0" if positive else "from 0"
    return _variable(name, default, parse, f"a number of seconds {least} to {most:g}")


def _whole(name: str, default: int, least: int, most: int) -> int:
    def parse(text: str) -> int:
        value = int(_plain_number(text))
        if not least <= value <= most:
            raise ValueError
        return value

    return _variable(name, default, parse, f"a whole number from {least} to {most}")


def _stage() -> str:
    return _variable("STAGE", "dev", partial(_matched, r"[A-Za-z0-9-]{1,32}"), "1 to 32 of A-Z a-z 0-9 -")


def _matched(pattern: str, text: str) -> str:
    """Return `text`; raise ValueError if it is not of the form."""
    if not re.fullmatch(pattern, text):
        raise ValueError
    return text


def _plain_number(text: str) -> str:
    """Return `text` if it is a number as people write it: Python takes 1_0 and other scripts' digits too."""
    return _matched(r"[0-9.eE+-]+", text)


def _log_level(text: str) -> str:
    return _matched("DEBUG|INFO|WARNING|ERROR|CRITICAL", text.upper())


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
    secret = base64.b64decode(_matched("whsec_.+", value).removeprefix("whsec_"), validate=True)
    if not secret:
        raise ValueError
    return secret


def _api_keys(value: str) -> tuple[ApiKey, ...]:
    return tuple(_api_key(entry.strip()) for entry in value.split(",") if entry.strip())


def _api_key(entry: str) -> ApiKey:
    name, digest, *rest = entry.split(":")
    if not (1 <= len(name) <= 64 and name.isprintable()) or len(rest) > 1:
        raise ValueError
    scopes = frozenset(Scope(scope) for scope in rest[0].split("+")) if rest else frozenset(Scope)
    return ApiKey(name, _matched("[0-9a-fA-F]{64}", digest).lower(), scopes)


@dataclass(frozen=True)
class EventSource:
    """The worker's event source, as `chalice deploy` makes it."""

    stage: str = _stage()
    batch_window_seconds: int = _whole("WORKER_BATCH_WINDOW_SECONDS", 5, 0, 300)
    maximum_concurrency: int = _whole("WORKER_MAX_CONCURRENCY", 5, 2, 1000)

    @property
    def queue_name(self) -> str:
        return f"triggers-api-{self.stage}-inbox-queue"


@dataclass(frozen=True)
class Settings:
    """Everything the environment decides. Secrets stay out of `repr()`."""

    events_table_name: str = _variable("EVENTS_TABLE_NAME", None, str, "the name of the DynamoDB table")
    inbox_queue_url: str = _variable("INBOX_QUEUE_URL", None, _queue_url, "the URL of the inbox queue")
    inbox_dlq_url: str = _variable("INBOX_DLQ_URL", None, _queue_url, "the URL of the dead letter queue")
    webhook_url: str = _variable(
        "ZAPIER_WEBHOOK_URL",
        None,
        _webhook_url,
        "an https URL without user or fragment (http only to a loopback host)",
        secret=True,
    )
    api_keys: tuple[ApiKey, ...] = _variable(
        "API_KEYS",
        None,
        _api_keys,
        "name:sha256hex[:scope+scope], comma between, scopes produce and consume",
        secret=True,
        may_be_empty=True,  # which closes a stage on purpose: every call is refused
    )
    signing_secrets: tuple[bytes, ...] = _variable(
        "WEBHOOK_SIGNING_SECRETS", (), _signing_secrets, "whsec_ and base64, a space between two", secret=True
    )
    max_delivery_attempts: int = _whole("MAX_DELIVERY_ATTEMPTS", 20, 1, 1000)
    backoff_base_seconds: float = _seconds("BACKOFF_BASE_SECONDS", 1, 86_400)
    backoff_cap_seconds: float = _seconds("BACKOFF_CAP_SECONDS", 3600, 86_400)
    in_process_wait_seconds: float = _seconds("IN_PROCESS_WAIT_SECONDS", 8, 900)
    push_timeout_seconds: float = _seconds("PUSH_TIMEOUT_SECONDS", 10, 20, positive=True)
    push_connect_timeout_seconds: float = _seconds("PUSH_CONNECT_TIMEOUT_SECONDS", 5, 20, positive=True)
    inline_push_timeout_seconds: float = _seconds("INLINE_PUSH_TIMEOUT_SECONDS", 5, 20, positive=True)
    breaker_failures: int = _whole("BREAKER_FAILURES", 3, 1, 1_000_000)
    breaker_open_seconds: float = _seconds("BREAKER_OPEN_SECONDS", 30, 86_400)
    event_retention_days: int = _whole("EVENT_RETENTION_DAYS", 30, 1, 3650)
    stage: str = _stage()
    log_level: str = _variable("LOG_LEVEL", "INFO", _log_level, "DEBUG, INFO, WARNING or ERROR")
    metrics_namespace: str = _variable(
        "METRICS_NAMESPACE",
        "TriggersApi",
        partial(_matched, r"(?!AWS/)[A-Za-z0-9.\-_/#:]{1,255}"),
        "1 to 255 of A-Z a-z 0-9 . - _ / # :, not beginning with AWS/",
    )


Read = TypeVar("Read", EventSource, Settings)


def load(environ: Mapping[str, str]) -> Settings:
    """Return the settings that `environ` describes; raise SettingsError naming every variable at fault."""
    settings = _read(Settings, environ)
    inline = min(settings.inline_push_timeout_seconds, settings.push_timeout_seconds)
    return replace(settings, inline_push_timeout_seconds=inline)


def load_event_source(environ: Mapping[str, str]) -> EventSource:
    """Return what the worker's event source is made from; raise SettingsError. The only values read at import."""
    return _read(EventSource, environ)


def _read(kind: type[Read], environ: Mapping[str, str]) -> Read:
    values: dict[str, Any] = {}
    faults = []
    for each in fields(kind):
        name, default, parse, wanted, may_be_empty = each.metadata["variable"]
        text = environ.get(name, "").strip()
        if text or (may_be_empty and name in environ):
            try:
                values[each.name] = parse(text)
            except ValueError:
                faults.append(f"{name} is unusable: it must be {wanted}")
        elif default is None:
            faults.append(f"{name} is missing: it must be {wanted}")
        else:
            values[each.name] = default
    if faults:
        raise SettingsError("; ".join(faults))
    return kind(**values)
