"""Send one event to one URL over HTTP.

No log line, error or result holds a URL, a payload, a secret or the text of an exception.
"""

import base64
import hashlib
import hmac
import html
import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.util.connection import create_connection

from chalicelib import __version__
from chalicelib.core.event import Attempt, Event
from chalicelib.core.outcome import (
    PUSH_ERRORS,
    AddressNotAllowedError,
    Outcome,
    outcome_of,
    retry_after_seconds,
    rule_of,
)
from chalicelib.infra.addresses import is_public
from chalicelib.infra.times import rfc3339

MAX_RESPONSE_BYTES = 1024
MAX_RESPONSE_CHARACTERS = 200
BODY_SECONDS = 1.0  # the status decides; the body only serves diagnosis and the reuse of the connection
MAX_INFORMATIONAL_RESPONSES = 100
HANG_SHARE = 0.25
IDLE_SECONDS = 4.0  # servers close idle connections after 5 s or later; a frozen container cannot see it happen
OPTIONS: Any = {"retries": False, "redirect": False, "preload_content": False, "decode_content": False}
MAX_POOLS = 101  # a host each for the webhook and subscriptions; the pool used least recently is closed


@dataclass(frozen=True)
class PushResult:
    """The result of one push. `response` is the beginning of the response body unless the event was delivered.

    `hung`: not delivered after more than HANG_SHARE of its timeout, timed out, or not made because of the breaker.
    """

    outcome: Outcome
    duration_ms: int = 0
    status_code: int | None = None
    error: str | None = None
    retry_after_seconds: float = 0.0
    timed_out: bool = False
    response: str | None = None
    hung: bool = False
    is_made: bool = True

    def shown(self) -> dict[str, Any]:
        """Return what attempts and log lines show."""
        return {name: getattr(self, name) for name in ("outcome", "status_code", "error", "duration_ms")}

    def to_attempt(self, started: float) -> Attempt:
        """Return the attempt whose push began at `started` (Unix seconds)."""
        return Attempt(rfc3339(started), **self.shown(), response=self.response)


class PushClient:
    """Push events to any number of URLs over connections that are kept alive. Safe to share between threads.

    `clock` is wall time, which goes on while Lambda freezes a container.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, ssl_context: ssl.SSLContext | None = None) -> None:
        self._clock = clock
        self._ssl_context = ssl_context
        self._pools = {public_only: urllib3.PoolManager(MAX_POOLS, maxsize=32) for public_only in (False, True)}

    def send(
        self,
        event: Event,
        url: str,
        *,
        timestamp: int,
        timeout_seconds: float,
        connect_timeout_seconds: float,
        secrets: Iterable[bytes] = (),
        public_only: bool = False,
    ) -> PushResult:
        """Push `event` once, signed with each of `secrets` for `timestamp` (Unix seconds).

        `timeout_seconds` bounds connecting, sending and reading together. With `public_only`, the push fails unless the
        address that it connects to is public.
        """
        body, hang_ms = event.push_body(), 1000 * HANG_SHARE * timeout_seconds
        headers = _headers(event.event_id, url, timestamp, body, secrets)
        pool = self._pool(url, connect_timeout_seconds, public_only=public_only)
        timeout = urllib3.Timeout(total=timeout_seconds)
        started = time.monotonic()
        try:
            response = pool.urlopen("POST", "/", body, headers, timeout=timeout, **OPTIONS)
        except PUSH_ERRORS as error:
            rule, duration_ms = rule_of(error), _ms_since(started)
            hung = rule.timed_out or duration_ms > hang_ms
            return PushResult(rule.outcome, duration_ms, error=rule.text, timed_out=rule.timed_out, hung=hung)
        status_code, outcome = response.status, outcome_of(response.status)
        response_body = _read_body(response)  # type: ignore[arg-type]  # urlopen returns an HTTPResponse
        if outcome is Outcome.DELIVERED:
            return PushResult(outcome, _ms_since(started), status_code)
        wait, error_text = retry_after_seconds(response), f"receiver responded {status_code}"
        hung = (duration_ms := _ms_since(started)) > hang_ms
        return PushResult(
            outcome, duration_ms, status_code, error_text, wait, hung=hung, response=_excerpt(response_body, url)
        )

    def close(self) -> None:
        """Close the connections that are not in use."""
        for pools in self._pools.values():
            pools.clear()

    def _pool(self, url: str, connect_timeout_seconds: float, *, public_only: bool) -> urllib3.HTTPConnectionPool:
        parsed = urlsplit(url)
        pool = self._pools[public_only].connection_from_host(parsed.hostname, parsed.port, parsed.scheme)
        ssl_context = self._tls_context if parsed.scheme == "https" else None
        pool.ConnectionCls = partial(  # type: ignore[assignment]
            _Connection, self._clock, connect_timeout_seconds, public_only, ssl_context=ssl_context
        )
        return pool

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        context = self._ssl_context or ssl.create_default_context()
        context.sslsocket_class = _TlsSocket
        context.set_alpn_protocols(["http/1.1"])
        return context


def _headers(event_id: str, url: str, timestamp: int, body: bytes, secrets: Iterable[bytes]) -> dict[str, str]:
    parsed = urlsplit(url)
    headers = {
        # _Connection.request takes the target from here: urllib3 would normalize it, and repeat it in errors.
        ":path": (parsed.path or "/") + (f"?{parsed.query}" if parsed.query else ""),
        "Content-Type": "application/json",
        "User-Agent": f"triggers-api/{__version__}",
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
    }
    if signatures := signature(secrets, event_id, timestamp, body):
        headers["webhook-signature"] = signatures
    return headers


def signature(secrets: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` header: one HMAC-SHA256 signature for each secret.

    `timestamp` is whole Unix seconds, `body` exactly the bytes that are sent. Source: "Standard Webhooks", version 1,
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(secret, signed, hashlib.sha256) for secret in secrets)
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


class _DeadlineSocket(socket.socket):
    """A socket whose timeout bounds all reads until the next `settimeout` together; it bounds a `sendall` anyway."""

    _deadline: float

    def settimeout(self, value: float) -> None:  # type: ignore[override]
        self._deadline = time.monotonic() + value
        super().settimeout(max(0.001, value))  # 0 would mean non-blocking

    def remaining_seconds(self) -> float:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        return remaining

    def recv_into(self, *args: Any) -> int:
        super().settimeout(self.remaining_seconds())
        return super().recv_into(*args)


class _TlsSocket(_DeadlineSocket, ssl.SSLSocket):
    pass


class _FinalResponse(http.client.HTTPResponse):
    """The response that follows any informational (1xx) ones; http.client itself skips only those with status 100."""

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(MAX_INFORMATIONAL_RESPONSES):
            version, status_code, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status_code < 200:
                return version, status_code, reason
            http.client.parse_headers(self.fp)
        raise http.client.HTTPException("too many informational responses")

    def begin(self) -> None:
        super().begin()
        del self.headers["Content-Length"]  # urllib3 raises an error where http.client ignores a wrong one
        if self.length is not None:
            self.headers["Content-Length"] = str(self.length)


class _Connection(HTTPSConnection):
    """A connection for either scheme: with TLS if it has an `ssl_context`."""

    response_class = _FinalResponse
    sock: Any
    timeout: float

    def __init__(self, clock: Callable[[], float], connect_seconds: float, public_only: bool, **options: Any) -> None:
        super().__init__(**options)
        self.default_port = 443 if self.ssl_context else 80  # type: ignore[misc]  # left out of the Host header
        self._clock = clock
        self._connect_timeout_seconds = connect_seconds
        self._public_only = public_only
        self._idle_since = 0.0

    @property
    def is_connected(self) -> bool:
        """Whether the connection can be reused: not closed, not idle for long, and without unread bytes."""
        idle = self._clock() - self._idle_since > IDLE_SECONDS
        return super().is_connected and not idle and not (self.ssl_context and self.sock.pending())

    def connect(self) -> None:
        """Connect within the connect timeout, and leave what remains of the push's timeout in `self.timeout`."""
        started = time.monotonic()
        connect_seconds = min(self.timeout, self._connect_timeout_seconds)
        try:
            self.sock = self._open_socket(connect_seconds)
            self.sock.settimeout(started + connect_seconds - time.monotonic())
            if self.ssl_context:
                self.sock = self.ssl_context.wrap_socket(self.sock, server_hostname=self.host)
                self.is_verified = True  # otherwise urllib3 warns
        except OSError as error:  # urllib3 ignores some of them, because a response may have come
            raise NewConnectionError(self, "no connection") from error
        self.timeout -= time.monotonic() - started
        self.sock.settimeout(self.timeout)

    def _open_socket(self, timeout_seconds: float) -> _DeadlineSocket:
        """Try the host's addresses in turn, each for an equal share of the time.

        If one times out and another fails, the timeout is raised: Lambda outside a VPC has no IPv6, and the error of an
        IPv6 address would hide that the receiver hangs.
        """
        addresses = self._resolve()
        share = timeout_seconds / max(1, len(addresses))
        failure: OSError = socket.gaierror()
        for host, port in addresses:
            if self._public_only and not is_public(host):
                raise AddressNotAllowedError
            try:
                sock = create_connection((host, port), share, socket_options=self.socket_options)
                return _DeadlineSocket(fileno=sock.detach())
            except OSError as error:
                failure = failure if isinstance(failure, TimeoutError) else error
        raise failure

    def _resolve(self) -> list[tuple[str, int]]:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return [(str(host), int(port)) for *_, (host, port, *_) in found]

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        super().request(method, headers.pop(":path"), body, headers, **options)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        sock = self.sock  # http.client forgets it if the connection ends with the response
        response = super().getresponse()
        self._idle_since = self._clock()
        sock.settimeout(min(sock.remaining_seconds(), BODY_SECONDS))
        return response


def _read_body(response: urllib3.HTTPResponse) -> bytes:
    """Return the beginning of the body. Keep the connection if that is all of it."""
    body = b""
    try:
        while len(body) < MAX_RESPONSE_BYTES and (data := response.read1(MAX_RESPONSE_BYTES - len(body))):
            body += data
    except PUSH_ERRORS:
        pass  # the status has decided
    if not response.isclosed():
        response.close()
    response.release_conn()
    return body


def _excerpt(body: bytes, url: str) -> str:
    """Return the beginning of a body with control characters escaped.

    Return nothing if it repeats eight characters or more of the URL's path or query, which are secrets; fewer may be a
    word of any text.
    """
    text, parsed = body.decode("utf-8", "replace"), urlsplit(url)
    secret, told = _forms(f"{parsed.path}?{parsed.query}"), _forms(text)
    if any(secret[at : at + 8] in told for at in range(len(secret) - 7)):
        return ""
    shown = text[:MAX_RESPONSE_CHARACTERS]
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


def _forms(text: str) -> str:
    """Return a text as it is and decoded (JSON, HTML, percent-encoding, all repeatedly), in lower case."""
    previous, decoded = "", text
    while decoded != previous:
        unescaped = re.sub(r"(?i)\\(?:u([0-9a-f]{4})|x([0-9a-f]{2}))", r"&#x\1\2;", decoded)
        previous, decoded = decoded, unquote(html.unescape(unescaped))
    return "".join(filter(str.isprintable, f"{text} {decoded}".casefold().replace("+", " ").replace("\\", "")))


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
