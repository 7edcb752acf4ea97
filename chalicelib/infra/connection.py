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
    """Return the text of ERROR_TEXTS that is shown for one of PUSH_ERRORS.

    urllib3 may wrap an error up to three times. The first entry of ERROR_TEXTS counts that has the
    type of the error or of an error that it wraps; there is one for each of PUSH_ERRORS.
    """
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
        """Receive bytes as `socket.recv` does, before the deadline."""
        self._limit_wait()
        return super().recv(*args)

    def recv_into(self, *args: Any) -> int:
        """Receive bytes as `socket.recv_into` does, before the deadline."""
        self._limit_wait()
        return super().recv_into(*args)

    def sendall(self, data: Any) -> None:  # type: ignore[override]
        """Send bytes as `socket.sendall` does, before the deadline; do nothing without bytes."""
        # urllib3's SSLTransport calls this without bytes before each read. If the receiver has
        # closed the connection, an error here would hide the response that came before that.
        if data:
            self._limit_wait()
            super().sendall(data)

    def _limit_wait(self) -> None:
        """Let the next send or receive wait until the deadline at most; raise TimeoutError if the
        deadline has passed.
        """
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
        """Read and return a line as `BufferedReader.readline` does; raise HTTPException if all
        lines of the response together have more than MAX_HEAD_BYTES.
        """
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
        """Read responses up to the status line of the first that is not informational (1xx); return
        its HTTP version, status code and reason phrase.
        """
        status: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
        while 100 <= status[1] < 200:
            http.client.parse_headers(self.fp)  # read the headers, and ignore them
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
        """Make a connection that is not connected yet.

        :param clock: Returns wall time (Unix seconds), by which idle connections grow old.
        :param public_only: Whether to connect to public addresses alone.
        :param tls_context: Returns the TLS context of the connection; None: http, without TLS.
        :param options: What urllib3's pool passes to its connections: host, port, and the pool's
            `timeout`, which bounds TCP and the TLS handshake.
        """
        super().__init__(**options)
        self._clock = clock
        self._public_only = public_only
        self._tls_context = tls_context
        # Before each request, urllib3 sets `self.timeout` to the timeout of the request.
        self._connect_timeout_seconds = self.timeout

    @property
    def is_connected(self) -> bool:
        """Whether the connection can be reused: it is open, was idle for up to IDLE_SECONDS, and
        has no unread bytes. urllib3's pool reads this when it takes the connection for a request.

        The connection does not count as idle from now on.
        """
        # Once its socket is not in `idle`, no other thread closes the connection. A connection
        # whose socket is not there any more was closed.
        idle_since = self.idle.pop(self.sock, 0.0)
        if self._clock() - idle_since > IDLE_SECONDS or not super().is_connected:
            return False
        if not self._tls_context:
            return True
        # Bytes that came after the response: the next push must not take them for its response.
        unread_bytes: int = self.sock.sslobj.pending() + self.sock.incoming.pending
        return unread_bytes == 0

    def connect(self) -> None:
        """Connect by TCP and, for https, TLS, and take the time of that off `self.timeout`, the
        seconds that are left for the request.

        It may take as long as the request or the pool's timeout allows, whichever is shorter.
        Raises OSError, also with the types AddressNotAllowedError, TimeoutError and SSLError.
        """
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
        """Try the addresses of the host in turn; return a socket that is connected to the first
        address that can be reached.

        Raises AddressNotAllowedError at the first address that is not public, if only public ones
        are allowed. If no address can be reached, raises the error of the last one or, if an
        address timed out, TimeoutError: Lambda outside a VPC has no IPv6, and the error of an IPv6
        address would hide that the receiver hangs.

        :param deadline: When the last address has failed at the latest, in seconds of
            `time.monotonic`. Each address may take an equal share of the time until then.
        """
        addresses: list[Any] = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        seconds = max(0.001, deadline - time.monotonic())  # 0 would mean non-blocking
        failure: OSError = socket.gaierror()  # for a host without addresses
        for *_, socket_address in addresses:
            host, port = socket_address[:2]  # of IPv6, flow info and scope follow
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
        """Read status line and headers; return the response, whose body may take BODY_SECONDS at
        most, and no more than is left of the request's timeout.

        The connection counts as idle from now on. If there are more than MAX_IDLE idle connections,
        close the one that has been idle for longest.
        """
        sock = self.sock  # http.client sets `self.sock` to None if the response ends the connection
        deadline = time.monotonic() + self.timeout
        response = super().getresponse()
        self.idle[sock] = self._clock()
        if len(self.idle) > MAX_IDLE:
            # The connection is in its pool still: the next request that takes it connects anew.
            idle_socket, _ = self.idle.popitem(last=False)
            idle_socket.close()
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

    :param clock: Returns wall time (Unix seconds), by which idle connections grow old.
    :param tls_context: Returns the TLS context of a connection; it is called for https alone.
    :param public_only: Whether to connect to public addresses alone.
    """
    # A pool keeps up to 32 connections to its host: no function has more threads.
    pool: Any = partial(ConnectionPool, maxsize=32, clock=clock, public_only=public_only)
    manager = urllib3.PoolManager(MAX_POOLS)
    manager.pool_classes_by_scheme = {"http": pool, "https": partial(pool, tls_context=tls_context)}  # type: ignore[dict-item]
    return manager
