"""One HTTP attempt to push an event, and what came of it.

Knows nothing of retries or storage. The URL's path and query, the secrets and the payload never leave this module
but to the receiver; no text of an exception is repeated.
"""

import contextlib
import email.utils
import http.client
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from enum import StrEnum
from functools import partial
from urllib.parse import urlsplit

from chalicelib import __version__
from chalicelib.connection import MAX_HEAD_BYTES, Connection, NotTakenError, TlsSocket
from chalicelib.events import Event
from chalicelib.signing import signature

MAX_ANSWER_BYTES = 1024
MAX_BODY_READ_BYTES = 16 * 1024  # what a buffer may take off the socket for it, chunk sizes and trailers included
MAX_RETRY_AFTER_SECONDS = 3600
# Servers close idle connections after 5 s (Node.js, Apache) or later; a frozen container cannot see it happen.
KEEP_SECONDS = 4.0
# The outcome is known once the head of an answer is read: its body is waited for only to keep the connection.
BODY_SECONDS = 1.0

BROKEN = (OSError, http.client.HTTPException, ValueError)


class Outcome(StrEnum):
    DELIVERED = "delivered"
    RETRY = "retry"
    FAILED = "failed"


@dataclass(frozen=True)
class PushResult:
    """What came back from one push. `error` is a sentence for a person, without secrets."""

    outcome: Outcome
    duration_ms: int
    status_code: int | None = None
    error: str | None = None
    retry_after_seconds: float = 0.0
    timed_out: bool = False
    response: str | None = None


class _OnePush:
    """Pushes events to one webhook URL over kept connections. Safe to share between threads."""

    def __init__(
        self,
        url: str,
        signing_secrets: tuple[bytes, ...],
        *,
        connect_timeout_seconds: float,
        clock: Callable[[], float],
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        parsed = urlsplit(url)
        self._target = (parsed.path or "/") + (f"?{parsed.query}" if parsed.query else "")
        self._secrets = signing_secrets
        self._clock = clock
        if parsed.scheme == "https":
            ssl_context = ssl_context or ssl.create_default_context()
            ssl_context.sslsocket_class = TlsSocket
            ssl_context.set_alpn_protocols(["http/1.1"])
        self._new_connection = partial(
            Connection,
            parsed.hostname or "",
            parsed.port or (443 if ssl_context else 80),
            connect_timeout_seconds=connect_timeout_seconds,
            ssl_context=ssl_context,
        )
        self._kept: deque[tuple[float, Connection]] = deque()  # the oldest first

    def send(self, event: Event, timeout_seconds: float) -> PushResult:
        """Push `event` once, in `timeout_seconds` at most, however slowly the receiver answers."""
        body = event.push_body()
        headers = self._headers(event.event_id, body)
        started = time.monotonic()
        try:
            status_code, retry_after = self._exchange(headers, body, started + timeout_seconds)
        except BROKEN as error:
            outcome, text = _broken(error)
            return PushResult(outcome, _ms(started), error=text, timed_out=isinstance(error, TimeoutError))
        result = outcome_of(status_code)
        error_text = None if result is Outcome.DELIVERED else f"the receiver answered {status_code}"
        wait = _retry_after_seconds(retry_after, self._clock()) if status_code in (429, 503) else 0.0
        return PushResult(result, _ms(started), status_code, error_text, wait)

    def _headers(self, event_id: str, body: bytes) -> dict[str, str]:
        timestamp = int(self._clock())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"triggers-api/{__version__}",
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
        }
        if self._secrets:
            headers["webhook-signature"] = signature(self._secrets, event_id, timestamp, body)
        return headers

    def _exchange(self, headers: dict[str, str], body: bytes, deadline: float) -> tuple[int, str | None]:
        """Send, and return the status code and Retry-After of the answer.

        A kept connection that the receiver had closed by then took nothing to it: then once more, on a new one.
        """
        connection = self._kept_connection()
        if connection is not None:
            with contextlib.suppress(NotTakenError, BrokenPipeError):
                return self._exchange_over(connection, headers, body, deadline)
        return self._exchange_over(self._new_connection(), headers, body, deadline)

    def _exchange_over(
        self, connection: Connection, headers: dict[str, str], body: bytes, deadline: float
    ) -> tuple[int, str | None]:
        try:
            connection.set_limits(deadline, MAX_HEAD_BYTES)
            if connection.sock is None:
                connection.connect()
            else:
                connection.sock.is_reused = True
            try:
                connection.request("POST", self._target, body=body, headers=headers)
            except BrokenPipeError:
                pass  # it stopped listening, perhaps after an answer such as 413
            except (ConnectionError, ssl.SSLError) as error:
                raise NotTakenError from error
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        self._keep_or_close(connection, response)
        return response.status, response.headers.get("Retry-After")

    def _kept_connection(self) -> Connection | None:
        """Return a connection that the receiver has not closed, the last used first."""
        with contextlib.suppress(IndexError):  # none is left
            while True:
                kept_at, connection = self._kept.pop()
                if self._clock() - kept_at <= KEEP_SECONDS and connection.is_open:
                    return connection
                connection.close()
        return None

    def _keep_or_close(self, connection: Connection, response: http.client.HTTPResponse) -> None:
        """Keep the connection if the answer ends soon and within 1 KiB. Whatever becomes of it, the outcome stands."""
        try:
            if connection.sock is not None and (response.length or 0) <= MAX_ANSWER_BYTES:
                deadline = min(connection.deadline, time.monotonic() + BODY_SECONDS)
                connection.set_limits(deadline, MAX_BODY_READ_BYTES)
                response.read(MAX_ANSWER_BYTES)
                if response.isclosed():
                    self._kept.append((self._clock(), connection))
                    return
        except BROKEN:
            pass
        response.close()
        connection.close()


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


def outcome_of(status_code: int) -> Outcome:
    if 200 <= status_code < 300:
        return Outcome.DELIVERED
    if status_code in (408, 425, 429) or 500 <= status_code < 600:
        return Outcome.RETRY
    return Outcome.FAILED


def _broken(error: Exception) -> tuple[Outcome, str]:
    """Return what an exchange without an answer means. The first row that fits counts."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Outcome.FAILED, f"the certificate does not verify: {error.verify_message}"
    reasons: tuple[tuple[type[Exception], str], ...] = (
        (TimeoutError, "no answer in time"),
        (ssl.SSLError, "TLS failed"),
        (socket.gaierror, "the host name does not resolve"),
        (ConnectionRefusedError, "the connection was refused"),
        (http.client.RemoteDisconnected, "the connection was closed without an answer"),
        (ConnectionError, "the connection was reset"),
        (OSError, "the receiver cannot be reached"),
    )
    reason = next((text for kind, text in reasons if isinstance(error, kind)), "the answer is not HTTP")
    return Outcome.RETRY, reason


def _retry_after_seconds(value: str | None, now: float) -> float:
    """Return the seconds that `Retry-After` asks for (RFC 9110, section 10.2.3), between 0 and an hour; 0 if none."""
    if value is None:
        return 0.0
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(min(MAX_RETRY_AFTER_SECONDS, int(value.lstrip("0")[:9] or 0)))
    try:
        moment = email.utils.parsedate_to_datetime(value[:100])
        wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(float(MAX_RETRY_AFTER_SECONDS), max(0.0, wait))


class PushClient:
    def __init__(self, signing_secrets, *, connect_timeout_seconds, clock, ssl_context=None):
        self._make = lambda url: _OnePush(
            url, signing_secrets, connect_timeout_seconds=connect_timeout_seconds, clock=clock, ssl_context=ssl_context
        )
        self._clients = {}

    def send(self, event, url, timeout_seconds):
        if url not in self._clients:
            self._clients[url] = self._make(url)
        return self._clients[url].send(event, timeout_seconds)

    def close(self):
        for client in self._clients.values():
            for _, connection in client._kept:
                connection.close()
