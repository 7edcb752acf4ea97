"""The HTTP API as the commands call it: with a key, over TLS that is verified, and patiently.

Knows no command. The key comes from the environment alone, and is in no error.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import wraps
from http.client import BadStatusLine, RemoteDisconnected
from itertools import takewhile
from typing import Any

import click
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
)
from urllib3.util import parse_url

from chalicelib.errors import EventNotFoundError
from tools.ops.output import NotFoundError, OpsError

Event = dict[str, Any]
Query = dict[str, str | None]  # `status` and `event_type`; None and "" ask for any

PAGE = 100
CONNECTIONS = 16
TRIES = 5
CONNECT_SECONDS, READ_SECONDS = 5, 30
LONGEST_WAIT_SECONDS = 120  # of a Retry-After; a running push holds its event for 60 s at most
OF_A_GATEWAY = ("Missing Authentication Token", "Forbidden")  # to what no path or stage of it matches
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


class OutageError(OpsError):
    """The API cannot be reached, or is in trouble: later it may go well."""


class RefusedError(OpsError):
    """The API does not take this one call; others may go well."""


class BusyError(RefusedError):
    """A push of the event was running, each time it was asked for."""


class Api:
    """One system, and the key to it. Safe to share between threads."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        parsed = parse_url(url)
        self._place = f"{parsed.scheme}://{parsed.netloc}"
        headers = {"Authorization": f"Bearer {key}", "User-Agent": "triggers-api-ops"}
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        self._pool = urllib3.PoolManager(headers=headers, timeout=timeout, maxsize=CONNECTIONS)

    def event(self, event_id: str) -> Any:
        return self._call("GET", f"/events/{event_id}")

    def pages(self, query: Query, order: str = "newest") -> Iterator[list[Event]]:
        """Yield the pages of the listing until its end; one may be empty."""
        fields = {name: value for name, value in query.items() if value} | {"order": order, "limit": str(PAGE)}
        while True:
            answer = self._call("GET", "/events", fields=fields)
            yield answer["events"]
            if not answer["next_cursor"]:
                return
            fields["cursor"] = answer["next_cursor"]

    def events(self, query: Query, order: str = "newest") -> Iterator[Event]:
        for page in self.pages(query, order):
            yield from page

    def events_since(self, since: str, query: Query) -> Iterator[Event]:
        """Yield the events created at `since` (RFC 3339) or later, newest first: the listing cannot start at a time."""
        return takewhile(lambda event: event["created_at"] >= since, self.events(query))

    def replay(self, event_id: str) -> Any:
        """Have an event pushed again, once no push of it is running; raise BusyError if one always is."""
        # A second replay would push again what the first has delivered meanwhile: no answer is no reason for one.
        return self._call("POST", f"/events/{event_id}/replay", again=(409, 429, 503), repeatable=False)

    def post(self, body: bytes, idempotency_key: str, *, respond_async: bool) -> tuple[Event, bool]:
        """Post an event; return it, and whether it was there already."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        if respond_async:
            headers["Prefer"] = "respond-async"
        answer = self._answer("POST", "/events", body=body, headers=headers)
        return self._read(answer), answer.headers.get("Idempotency-Replayed") == "true"

    def _call(self, method: str, path: str, **options: Any) -> Any:
        return self._read(self._answer(method, path, **options))

    def _answer(
        self,
        method: str,
        path: str,
        *,
        again: tuple[int, ...] = (429, 503, 504),
        repeatable: bool = True,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> urllib3.BaseHTTPResponse:
        """Call, and call again on the statuses `again`, not before Retry-After. A redirect is not followed."""
        retries = urllib3.Retry(
            TRIES - 1,
            read=TRIES - 1 if repeatable else 0,
            status_forcelist=again,
            allowed_methods=None,
            backoff_factor=0.2,
            backoff_jitter=0.2,
            raise_on_status=False,
            retry_after_max=LONGEST_WAIT_SECONDS,
        )
        headers = {**self._pool.headers, **(headers or {})}
        try:
            return self._pool.request(
                method, self.url + path, headers=headers, retries=retries, redirect=False, **options
            )
        except HTTPError as error:
            raise OutageError(f"{self._place} {_in_words(getattr(error, 'reason', None) or error)}") from error

    def _read(self, answer: urllib3.BaseHTTPResponse) -> Any:
        """Return what was answered; raise what its status means."""
        try:
            content = json.loads(answer.data)
        except ValueError:
            content = None
        told = content if isinstance(content, dict) else {}
        status, detail = answer.status, told.get("detail") or told.get("message")
        if (status == 404 and detail != EventNotFoundError.detail) or (status == 403 and detail in OF_A_GATEWAY):
            raise OpsError("nothing is at this path: is TRIGGERS_URL right?")
        failed = OutageError if status == 429 or status >= 500 else OpsError
        if not isinstance(content, dict):
            raise failed(f"{self._place} answers {status}, and not as the API does: is TRIGGERS_URL right?")
        if 200 <= status < 300:
            return content
        message = f"{status}: {detail}"
        match status:
            case 401 | 403:
                raise OpsError(f"{message} (TRIGGERS_API_KEY)")
            case 404:
                raise NotFoundError(message)
            case 409:
                raise BusyError(message)
            case 400 | 413 | 415 | 422:
                raise RefusedError(message)
        raise failed(message)


def _in_words(reason: Exception) -> str:
    """Return what goes wrong, said of who was called."""
    said = f"is not reached: {reason}"
    match reason:
        case NameResolutionError():
            said = "is not found: no such host"
        case NewConnectionError(__cause__=ConnectionRefusedError()):
            said = "refuses connections"
        case NewConnectionError(__cause__=OSError(strerror=str(why))):
            said = f"is not reached: {why}"
        case ConnectTimeoutError():
            said = f"takes no connection in {CONNECT_SECONDS} s"
        case ReadTimeoutError():
            said = f"gives no answer in {READ_SECONDS} s"
        case ProtocolError(args=(_, BadStatusLine() as cause)) if not isinstance(cause, RemoteDisconnected):
            said = "does not speak HTTP"
        case ProtocolError():
            said = "breaks off the connection"
    return said


class Pace:
    """Lets so many a second pass, from any thread."""

    def __init__(self, per_second: float) -> None:
        self._interval_seconds = 1 / per_second
        self._next = time.monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        with self._lock:
            now = time.monotonic()
            mine = max(now, self._next)
            self._next = mine + self._interval_seconds
        time.sleep(mine - now)


def api_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--url`, and an `Api` as its argument `api`."""

    @click.option(
        "--url", envvar="TRIGGERS_URL", required=True, show_envvar=True, help="Of the API; https, or loopback."
    )
    @wraps(command)
    def with_api(*arguments: Any, url: str, **options: Any) -> Any:
        key = os.environ.get("TRIGGERS_API_KEY", "").strip()
        if not (key and key.isascii() and key.isprintable()):
            raise click.UsageError("TRIGGERS_API_KEY must hold an API key; there is no option for it")
        return command(*arguments, api=Api(_checked(url), key), **options)

    return with_api


def _checked(url: str) -> str:
    try:
        parsed = parse_url(url)
    except LocationParseError:
        parsed = parse_url("")
    secure = parsed.scheme == "https" or (parsed.scheme == "http" and parsed.host in LOOPBACK)
    if not (secure and parsed.host) or parsed.auth or parsed.query or parsed.fragment:
        raise click.UsageError("--url must be an https URL without user, query and fragment; http to this machine only")
    return url
