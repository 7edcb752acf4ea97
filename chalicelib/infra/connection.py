"""HTTP connections of urllib3 with one deadline for each request.

It bounds connecting, the TLS handshake, sending and reading together.
"""

import http.client
import io
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import ssl_wrap_socket
from urllib3.util.connection import create_connection

from chalicelib.infra.addresses import is_public
from chalicelib.infra.times import Clock

# The status decides; the body only serves diagnosis and the reuse of the connection.
BODY_SECONDS = 1.0
# Servers close idle connections after 5 s or later; a frozen container cannot see it happen.
IDLE_SECONDS = 4.0
MAX_HEAD_BYTES = 128 * 1024  # http.client alone takes 100 lines of 64 KiB for each response
# A host each for the webhook and subscriptions; the pool used least recently is closed.
MAX_POOLS = 101
# Connections of all pools that no push uses. The limit of a pool must be as high as the number of
# threads, and a hundred such pools hold more files than Lambda allows, 1,024.
MAX_IDLE = 250
TlsContext = Callable[[], ssl.SSLContext]


class AddressNotAllowedError(OSError):
    """A host name resolves to an address that is not public."""


# The errors that a request raises if no response came.
PUSH_ERRORS = (OSError, http.client.HTTPException, HTTPError, ValueError)


ADDRESS_NOT_ALLOWED = "address not allowed"  # no push can succeed

# The texts that are shown of errors, by their types; the first type that applies counts. The
# error's own text may have a secret.
ERROR_TEXTS: dict[Any, str] = {
    AddressNotAllowedError: ADDRESS_NOT_ALLOWED,
    (TimeoutError, ReadTimeoutError): "timed out",
    ssl.SSLCertVerificationError: "certificate does not verify",
    ssl.SSLError: "TLS failed",
    # IDNA does not allow every label
    (socket.gaierror, UnicodeError): "host name does not resolve",
    ConnectionRefusedError: "connection refused",
    http.client.RemoteDisconnected: "connection closed without a response",
    ConnectionError: "connection reset",
    http.client.HTTPException: "response is not HTTP",
    OSError: "receiver cannot be reached",
    HTTPError: "response is not HTTP",
    # urllib3 and http.client raise it for some headers and URLs
    ValueError: "request cannot be made",
}


def error_text(error: BaseException | None) -> str:
    """Return the text that is shown of one of PUSH_ERRORS; urllib3 may wrap it three times."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return next(
        text
        for types, text in ERROR_TEXTS.items()
        if any(isinstance(cause, types) for cause in causes)
    )


class DeadlineSocket(socket.socket):
    """A socket whose timeout is a deadline for everything that is sent and received until the next
    `settimeout`.
    """

    def settimeout(self, value: float) -> None:  # type: ignore[override]
        """Set the deadline to `value` seconds from now."""
        self._deadline = time.monotonic() + value

    def recv(self, *args: Any) -> bytes:
        self._limit_wait()
        return super().recv(*args)

    def recv_into(self, *args: Any) -> int:
        self._limit_wait()
        return super().recv_into(*args)

    def sendall(self, data: Any) -> None:  # type: ignore[override]
        # SSLTransport sends nothing before each read: an error would hide the response that came
        # before it.
        if data:
            self._limit_wait()
            super().sendall(data)

    def _limit_wait(self) -> None:
        """Let the next call wait until the deadline at most; raise TimeoutError after it."""
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        super().settimeout(remaining)


class ResponseReader(io.BufferedReader):
    """A reader of responses that limits the lines, which are everything but the body.

    All lines, with those of informational responses and trailers, have up to MAX_HEAD_BYTES
    together; beyond, HTTPException is raised.
    """

    _bytes_left = MAX_HEAD_BYTES

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        self._bytes_left -= len(line)
        if self._bytes_left < 0:
            raise http.client.HTTPException("too much beside the body")
        return line


class FinalResponse(http.client.HTTPResponse):
    """A response that skips all informational (1xx) responses before it.

    http.client itself skips only responses with status 100. MAX_HEAD_BYTES bounds how many.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.fp = ResponseReader(self.fp.detach())

    def _read_status(self) -> tuple[str, int, str]:
        """Return version, status code and reason of the final response."""
        status: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        while 100 <= status[1] < 200:
            http.client.parse_headers(self.fp)
            status = super()._read_status()  # type: ignore[misc]
        return status


class Connection(HTTPSConnection):
    """A connection for http or, with a `tls_context`, for https.

    The pool's timeout bounds TCP and the TLS handshake together; the timeout of a request bounds
    the whole request.

    :param public_only: Whether to connect to public addresses alone.
    :param tls_context: Returns the context; None: no TLS.
    """

    response_class = FinalResponse
    # The idle sockets of the process, the longest idle first, and since when.
    idle: ClassVar[Any] = OrderedDict()
    sock: Any
    timeout: float

    def __init__(
        self,
        *,
        clock: Clock,
        public_only: bool,
        tls_context: TlsContext | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._clock = clock
        self._public_only = public_only
        self._tls_context = tls_context
        self._connect_timeout_seconds = self.timeout  # each request sets its own

    @property
    def is_connected(self) -> bool:
        """Whether the connection can be reused. A pool asks when it takes it for a request."""
        idle_since = self.idle.pop(self.sock, 0.0)  # from now on no other thread closes it
        if self._clock() - idle_since > IDLE_SECONDS or not super().is_connected:
            return False
        # Bytes that TLS holds came after the response: the next push must not take them for its.
        unread = self.sock.sslobj.pending() + self.sock.incoming.pending if self._tls_context else 0
        return unread == 0

    def connect(self) -> None:
        """Connect, and leave what remains of the request's timeout in `self.timeout`."""
        started = time.monotonic()
        deadline = started + min(self.timeout, self._connect_timeout_seconds)
        self.sock = self._open_socket(deadline)
        self.sock.settimeout(deadline - time.monotonic())
        if self._tls_context:
            # `tls_in_tls` gives OpenSSL its records in memory. Reading from the socket itself, it
            # would not return while records without application data arrive (session tickets,
            # HelloRequest), whatever the timeout.
            self.sock = ssl_wrap_socket(
                self.sock,
                ssl_context=self._tls_context(),
                server_hostname=self.host,
                tls_in_tls=True,
            )
        self.is_verified = True  # urllib3 warns otherwise
        self.timeout -= time.monotonic() - started

    def _open_socket(self, deadline: float) -> DeadlineSocket:
        """Return a socket that is connected to the first of the host's addresses that answers; each
        may take an equal share of the time until `deadline` (of `time.monotonic`).

        If one times out and another fails, the timeout is raised: Lambda outside a VPC has no IPv6,
        and the error of an IPv6 address would hide that the receiver hangs.
        """
        addresses: list[Any] = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        seconds = max(0.001, deadline - time.monotonic())  # 0 would mean non-blocking
        failure: OSError = socket.gaierror()
        for *_, (host, port, *_) in addresses:
            if self._public_only and not is_public(host):
                raise AddressNotAllowedError
            try:
                sock = create_connection(
                    (host, port),
                    seconds / len(addresses),
                    socket_options=self.socket_options,
                )
                return DeadlineSocket(fileno=sock.detach())
            except OSError as error:
                failure = failure if isinstance(failure, TimeoutError) else error
        raise failure

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        """Return the response; its body may take up to BODY_SECONDS of the time that is left."""
        sock = self.sock  # http.client may forget it
        deadline = time.monotonic() + self.timeout
        response = super().getresponse()
        self.idle[sock] = self._clock()
        if len(self.idle) > MAX_IDLE:
            # The connection is in its pool still: the next request that takes it connects anew.
            self.idle.popitem(last=False)[0].close()
        sock.settimeout(min(BODY_SECONDS, deadline - time.monotonic()))
        return response


class ConnectionPool(urllib3.HTTPSConnectionPool):
    """A pool for either scheme.

    Unlike urllib3's pool for http, it connects before the request, and ignores no error of that.
    """

    ConnectionCls = Connection  # type: ignore[assignment]


def pool_manager(
    clock: Clock,
    tls_context: TlsContext,
    *,
    public_only: bool,
) -> urllib3.PoolManager:
    """Return a urllib3 manager whose pools have connections of the class `Connection`.

    :param clock: Returns wall time (Unix seconds).
    :param tls_context: Returns the context of a connection; it is called for https alone.
    :param public_only: Whether to connect to public addresses alone.
    """
    pool: Any = partial(ConnectionPool, maxsize=32, clock=clock, public_only=public_only)
    manager = urllib3.PoolManager(MAX_POOLS)
    manager.pool_classes_by_scheme = {"http": pool, "https": partial(pool, tls_context=tls_context)}  # type: ignore[dict-item]
    return manager
