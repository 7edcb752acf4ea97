"""Send one event to one URL over HTTP, and classify the result.

No log line, error or result holds a URL, a payload, a secret or the text of an exception.
"""

import base64
import hashlib
import hmac
import http.client
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError, ReadTimeoutError
from urllib3.util.connection import create_connection

from chalicelib import __version__
from chalicelib.events import Event

MAX_BODY_BYTES = 1024
MAX_RESPONSE_CHARACTERS = 200
BODY_SECONDS = 1.0  # the status decides; the body only serves diagnosis and the reuse of the connection
RETRY_AFTER = urllib3.Retry(retry_after_max=3600)
MAX_INFORMATIONAL_RESPONSES = 100
IDLE_SECONDS = 4.0  # servers close idle connections after 5 s or later; a frozen container cannot see it happen
ERRORS = (OSError, http.client.HTTPException, HTTPError, ValueError)
ERROR_TEXTS: tuple[tuple[Any, str], ...] = (  # the first that applies
    ((TimeoutError, ReadTimeoutError), "timed out"),
    (ssl.SSLCertVerificationError, "certificate does not verify"),
    (ssl.SSLError, "TLS failed"),
    ((socket.gaierror, UnicodeError), "host name does not resolve"),
    (ConnectionRefusedError, "connection refused"),
    (http.client.RemoteDisconnected, "connection closed without a response"),
    (ConnectionError, "connection reset"),
    (http.client.HTTPException, "response is not HTTP"),
    (OSError, "receiver cannot be reached"),
    (Exception, "response is not HTTP"),
)


class Outcome(StrEnum):
    DELIVERED = "delivered"
    RETRY = "retry"
    FAILED = "failed"


@dataclass(frozen=True)
class PushResult:
    """The result of one push. `response` is the beginning of the response body unless the event was delivered."""

    outcome: Outcome
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    retry_after_seconds: float = 0.0
    timed_out: bool = False
    response: str | None = None


class PushClient:
    """Push events to any number of URLs over connections that are kept alive. Safe to share between threads."""

    def __init__(
        self,
        signing_secrets: Iterable[bytes],
        *,
        connect_timeout_seconds: float,
        clock: Callable[[], float],
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._secrets = tuple(signing_secrets)
        self._clock = clock
        self._ssl_context = ssl_context
        self._connection = partial(_Connection, connect_timeout_seconds=connect_timeout_seconds, clock=clock)
        self._pools = urllib3.PoolManager(num_pools=101, maxsize=32)  # a host each for the webhook and subscriptions

    def send(self, event: Event, url: str, timeout_seconds: float) -> PushResult:
        """Push `event` once. `timeout_seconds` bounds connecting, sending and reading together."""
        started = time.monotonic()
        try:
            response = self._post(event, url, timeout_seconds)
        except ERRORS as error:
            text = _error_text(error)
            outcome = Outcome.FAILED if text == "certificate does not verify" else Outcome.RETRY
            return PushResult(outcome, _ms_since(started), error=text, timed_out=text == "timed out")
        status_code, outcome = response.status, outcome_of(response.status)
        text = _read_text(response)
        if outcome is Outcome.DELIVERED:
            return PushResult(outcome, _ms_since(started), status_code)
        wait = _retry_after_seconds(response) if status_code in (429, 503) else 0.0
        error_text = f"receiver responded {status_code}"
        return PushResult(outcome, _ms_since(started), status_code, error_text, wait, response=text)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._pools.clear()

    def _post(self, event: Event, url: str, timeout_seconds: float) -> urllib3.HTTPResponse:
        parsed = urlsplit(url)
        body = event.push_body()
        timestamp = int(self._clock())
        headers = {
            # _Connection.request takes the target from here: urllib3 would normalize it, and repeat it in errors.
            ":path": (parsed.path or "/") + (f"?{parsed.query}" if parsed.query else ""),
            "Content-Type": "application/json",
            "User-Agent": f"triggers-api/{__version__}",
            "webhook-id": event.event_id,
            "webhook-timestamp": str(timestamp),
        }
        if self._secrets:
            headers["webhook-signature"] = signature(self._secrets, event.event_id, timestamp, body)
        pool = self._pools.connection_from_host(parsed.hostname, parsed.port, parsed.scheme)
        connection = self._tls_connection if parsed.scheme == "https" else self._connection
        pool.ConnectionCls = connection  # type: ignore[assignment]
        options: Any = {"retries": False, "redirect": False, "preload_content": False, "decode_content": False}
        timeout = urllib3.Timeout(total=timeout_seconds)
        return pool.urlopen("POST", "/", body, headers, timeout=timeout, **options)  # type: ignore[return-value]

    @cached_property
    def _tls_connection(self) -> Callable[..., HTTPSConnection]:
        context = self._ssl_context or ssl.create_default_context()
        context.sslsocket_class = _TlsSocket
        context.set_alpn_protocols(["http/1.1"])
        return partial(self._connection, ssl_context=context)


def signature(secrets: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the `webhook-signature` header: one HMAC-SHA256 signature for each secret.

    `timestamp` is whole Unix seconds, `body` exactly the bytes that are sent. Source: "Standard Webhooks", version 1,
    https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    digests = (hmac.digest(secret, signed, hashlib.sha256) for secret in secrets)
    return " ".join("v1," + base64.b64encode(digest).decode() for digest in digests)


def outcome_of(status_code: int) -> Outcome:
    """Return the outcome for the status code of a final response."""
    if 200 <= status_code < 300:
        return Outcome.DELIVERED
    return Outcome.RETRY if status_code in (408, 425, 429) or 500 <= status_code < 600 else Outcome.FAILED


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
    """The response that follows any informational (1xx) ones, of which http.client skips 100 alone."""

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

    def __init__(self, *args: Any, connect_timeout_seconds: float, clock: Callable[[], float], **options: Any) -> None:
        super().__init__(*args, **options)
        self.default_port = 443 if self.ssl_context else 80  # type: ignore[misc]  # left out of the Host header
        self._connect_timeout_seconds = connect_timeout_seconds
        self._clock = clock
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
        """Try the host's addresses in turn, each for an equal share of the time."""
        addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        share = timeout_seconds / max(1, len(addresses))
        failure: OSError = socket.gaierror()
        for *_, (host, port, *_) in addresses:
            try:
                sock = create_connection((str(host), int(port)), share, socket_options=self.socket_options)
                return _DeadlineSocket(fileno=sock.detach())
            except OSError as error:
                failure = error
        raise failure

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **options: Any) -> None:
        super().request(method, headers.pop(":path"), body, headers, **options)

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        sock = self.sock  # http.client forgets it if the connection ends with the response
        response = super().getresponse()
        self._idle_since = self._clock()
        sock.settimeout(min(sock.remaining_seconds(), BODY_SECONDS))
        return response


def _read_text(response: urllib3.HTTPResponse) -> str:
    """Return the beginning of the body with control characters escaped. Keep the connection if that is all of it."""
    body = b""
    try:
        while len(body) < MAX_BODY_BYTES and (data := response.read1(MAX_BODY_BYTES - len(body))):
            body += data
    except ERRORS:
        pass  # the status has decided
    if not response.isclosed():
        response.close()
    response.release_conn()
    text = body.decode("utf-8", "replace")[:MAX_RESPONSE_CHARACTERS]
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _error_text(error: BaseException | None) -> str:
    """Describe why there is no response. urllib3 wraps errors up to three times."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return next(text for kind, text in ERROR_TEXTS if any(isinstance(cause, kind) for cause in causes))


def _retry_after_seconds(response: urllib3.HTTPResponse) -> float:
    """Return the seconds that `Retry-After` asks for (RFC 9110, section 10.2.3), between 0 and an hour; 0 if none."""
    try:
        return RETRY_AFTER.get_retry_after(response) or 0.0
    except (HTTPError, ValueError, OverflowError):  # neither seconds nor a date
        return 0.0


def _ms_since(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
