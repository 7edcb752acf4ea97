"""A webhook receiver on loopback whose responses, and faults, tests script byte by byte."""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import socketserver
import ssl
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import trustme
from standardwebhooks.webhooks import Webhook

SECRET_PATH = "/hooks/secret-path?token=secret-query"
# How many seconds tests wait for what another thread or process does, also on a busy machine. The
# tests of a mutant (see tests/mutants.py) often wait in vain, and have passed just before with the
# same limit.
PATIENCE_SECONDS = 10 if "MUTANT_MODULE" in os.environ else 60


@dataclass(frozen=True)
class Request:
    """One complete request. `path` includes the query; header names are lowercase."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Exchange(socketserver.StreamRequestHandler):
    """A connection, and the latest request on it, to which a behaviour responds.

    Every method raises OSError if the client has closed the connection or the receiver was closed.
    A behaviour does not catch it.
    """

    server: Receiver
    disable_nagle_algorithm = True

    def setup(self) -> None:
        """Let the receiver prepare the accepted connection, for example with a TLS handshake."""
        self.request = self.server.prepare(self.request)
        super().setup()

    def handle(self) -> None:
        """Read the requests of the connection, and respond to each with the receiver's next
        behaviour, until the client or a behaviour closes the connection.
        """
        while True:
            is_closed = self.connection.fileno() == -1  # by the behaviour, or before TLS
            if is_closed:
                return
            request_line = self.rfile.readline()
            if not request_line:  # the client has closed the connection
                return
            method, path, _version = request_line.decode().split(" ")
            headers = {
                name.lower(): value for name, value in http.client.parse_headers(self.rfile).items()
            }
            body = self.rfile.read(int(headers.get("content-length", 0)))
            self.request = Request(method, path, headers, body)
            behave = self.server.record(self.request)
            behave(self)

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        self.connection.sendall(data)

    def pause(self, seconds: float) -> None:
        """Wait for some seconds, but no longer than until the client sends data, which is
        discarded; raise ConnectionAbortedError if the client closes the connection meanwhile.
        """
        if _is_readable(self.connection, seconds) and not self.connection.recv(65536):
            raise ConnectionAbortedError("the client left")

    def wait_until_left(self) -> None:
        """Wait without a response until the client closes the connection."""
        while self.connection.recv(65536):
            pass

    def close(self) -> None:
        """Close the connection."""
        self.rfile.close()
        self.connection.close()

    def reset(self) -> None:
        """Reset the connection: close it with a TCP RST."""
        _reset_at_close(self.connection)
        self.close()


# Responds, or fails to respond, to one request. The returned value is ignored.
Behaviour = Callable[[Exchange], object]
Answers = Behaviour | int  # a number stands for a response with this status code


class Receiver(socketserver.ThreadingTCPServer):
    """A server on loopback that records requests. It responds to each with the next behaviour of
    its script and, after the end of the script, with `default`.
    """

    request_queue_size = 1024

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        on_accept: Callable[[socket.socket], None] | None = None,
    ) -> None:
        """Listen on a free port, and serve each connection in a thread of its own.

        :param tls: The context of a TLS server; None: plain HTTP.
        :param on_accept: Called with each socket before TLS and HTTP; None: nothing is called. A
            connection that it leaves open is served as usual.
        """
        # How a request is responded to while the script is empty: a status code or a behaviour.
        self.default: Answers = 200
        self.on_accept = on_accept
        # The number of connections that were accepted so far.
        self.connections = 0
        self._tls = tls
        # All requests that were received, the oldest first.
        self.requests: list[Request] = []
        # How the next requests are responded to, before `default` applies.
        self._script: deque[Answers] = deque()
        # For each open connection, by the accepted socket: the socket that is read, which is the
        # accepted socket itself or, with TLS, a socket around it.
        self._open: dict[Any, socket.socket] = {}
        # Notified of each request and each connection that closes.
        self._changed = threading.Condition()
        super().__init__(("127.0.0.1", 0), Exchange)
        self.port: int = self.server_address[1]
        self.url = f"https://localhost:{self.port}{SECRET_PATH}" if tls else _plain_url(self.port)
        threading.Thread(target=self.serve_forever, name="receiver", daemon=True).start()

    @property
    def count(self) -> int:
        """The number of requests so far."""
        return len(self.requests)

    def script(self, *behaviours: Answers) -> None:
        """Add behaviours to the script: each answers one request."""
        self._script.extend(behaviours)

    def wait_for(self, number: int, timeout: float = PATIENCE_SECONDS) -> list[Request]:
        """Wait until at least `number` requests were received; return the first `number` of all
        requests. Raise AssertionError after `timeout` seconds.
        """
        with self._changed:
            is_in_time = self._changed.wait_for(lambda: self.count >= number, timeout)
            assert is_in_time, f"{self.count} requests instead of {number} within {timeout} s"
            return self.requests[:number]

    def wait_until_left(self, timeout: float = PATIENCE_SECONDS, *, most: int = 0) -> None:
        """Wait until at most `most` connections are open, and no connection waits to be accepted.
        Raise AssertionError after `timeout` seconds.
        """

        def have_left() -> bool:
            """Return whether at most `most` connections are open, and none waits to be accepted.
            The listening socket is readable while one waits.
            """
            return len(self._open) <= most and not _is_readable(self.socket, 0)

        with self._changed:
            is_in_time = self._changed.wait_for(have_left, timeout)
            assert is_in_time, f"{len(self._open)} connections still open after {timeout} s"

    def server_close(self) -> None:
        """Stop listening, and close all open connections."""
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes serve_forever
        self.shutdown()
        with self._changed:
            for connection in self._open.values():
                # This wakes the connection's thread, or raises OSError if the client has closed the
                # connection. The method of SSLSocket would also make it read on without TLS.
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        super().server_close()

    close = server_close

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; return its socket and its address.

        Overrides the method that serve_forever calls, to count the connection and to note it as
        open.
        """
        # Under the lock, so that `wait_until_left` sees a connection either waiting or open.
        with self._changed:
            connection, address = super().get_request()
            self._open[connection] = connection
            self.connections += 1
            return connection, address

    def prepare(self, connection: socket.socket) -> socket.socket:
        """Call `on_accept` with a new connection and, unless that has closed it, make the TLS
        handshake. Return the socket from which to read: the connection itself, if the receiver has
        no TLS or the connection is closed, or the TLS socket.
        """
        if self.on_accept is not None:
            self.on_accept(connection)
        is_closed = connection.fileno() == -1
        if self._tls is None or is_closed:
            return connection
        tls = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._changed:
            self._open[connection] = tls
        tls.do_handshake()
        return tls

    def record(self, request: Request) -> Behaviour:
        """Record a request; return the behaviour that responds to it: the next of the script, which
        is removed from the script, or `default` if the script is empty. A status code among them
        stands for a complete response with this code.
        """
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
            next_answer = self._script.popleft() if self._script else self.default
            return status(next_answer) if isinstance(next_answer, int) else next_answer

    def shutdown_request(self, request: Any) -> None:
        """Close a connection at its end, and note that.

        :param request: The accepted socket, which the base class calls a request.
        """
        with self._changed:
            self._open.pop(request).close()
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore an OSError, which means that a client has left; raise any other error of a
        behaviour again.
        """
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            raise error


def status(
    code: int, *, headers: Mapping[str, str] | None = None, body: bytes = b"ok"
) -> Behaviour:
    """Return a behaviour that sends a complete response, and keeps the connection open unless
    `headers` has `Connection: close`.

    :param headers: The headers; None: only Content-Length, which is added if it is missing.
    :param body: The body. The codes 204 and 304 have neither a body nor a Content-Length.
    """
    fields = dict(headers or {})
    if code in (204, 304):
        body = b""
    else:
        fields.setdefault("Content-Length", str(len(body)))

    response = answer(head(code, fields) + body)
    if fields.get("Connection") == "close":
        return in_turn(response, Exchange.close)
    return response


def head(code: int, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the status line and the headers of a response, with the empty line after them.

    :param headers: None: the response has no headers.
    """
    fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"HTTP/1.1 {code} Status\r\n{fields}\r\n".encode("latin-1")


def answer(data: bytes) -> Behaviour:
    """Return a behaviour that sends exactly these bytes, and keeps the connection open."""
    return lambda exchange: exchange.send(data)


def garbage(data: bytes = b"SSH-2.0-OpenSSH\r\n") -> Behaviour:
    """Return a behaviour that sends bytes that are not HTTP, and closes the connection."""
    return in_turn(lambda exchange: exchange.send(data), Exchange.close)


def endless(start: bytes, piece: bytes, interval: float = 0) -> Behaviour:
    """Return a behaviour that sends `start`, and then `piece` again and again, every `interval`
    seconds, until the client leaves.
    """

    def behave(exchange: Exchange) -> None:
        """Send `start`, and then `piece` every `interval` seconds, without end: an OSError ends the
        loop when the client leaves or the receiver is closed.
        """
        exchange.send(start)
        while True:
            exchange.pause(interval)
            exchange.send(piece)

    return behave


def in_turn(*steps: Behaviour) -> Behaviour:
    """Return a behaviour that does what several behaviours do, one after another, for one
    request.
    """

    def behave(exchange: Exchange) -> None:
        """Respond to a request by calling each of the behaviours in turn."""
        for step in steps:
            step(exchange)

    return behave


def when_all_are_here(number: int) -> Behaviour:
    """Return a behaviour that responds to requests with 200 once `number` of them wait for the
    response. It raises threading.BrokenBarrierError after a minute.
    """
    barrier = threading.Barrier(number)
    return in_turn(lambda exchange: barrier.wait(PATIENCE_SECONDS), status(200))


def redirect(to: str, code: int = 302) -> Behaviour:
    """Return a behaviour that redirects to a URL."""
    return status(code, headers={"Location": to})


hang = Exchange.wait_until_left
close_without_answer = Exchange.close
reset_before_answer = Exchange.reset
reset_mid_headers = in_turn(
    lambda exchange: exchange.send(b"HTTP/1.1 200 OK\r\nContent-Le"), Exchange.reset
)
reset_mid_body = in_turn(
    lambda exchange: exchange.send(head(200, {"Content-Length": "1000"}) + b"half"), Exchange.reset
)


def reset_on_accept(connection: socket.socket) -> None:
    """Reset a connection as soon as it is accepted."""
    _reset_at_close(connection)
    connection.close()


def hang_on_accept(connection: socket.socket) -> None:
    """Never respond to a TLS handshake; return once the client closes the connection."""
    while connection.recv(65536):
        pass


def tls_broken_off(connection: socket.socket) -> None:
    """Close a connection in the middle of the TLS handshake, when a ServerHello has begun."""
    connection.recv(65536)
    # The header of a handshake record of 0x7a bytes, and the first two bytes of its ServerHello.
    connection.sendall(b"\x16\x03\x03\x00\x7a\x02\x00")
    connection.close()


@cache
def refused_url() -> str:
    """Return a URL that refuses connections: its port is bound as long as this process lives, and
    no server listens on it.
    """
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    bound.detach()  # otherwise the socket would be closed when `bound` is garbage collected
    return _plain_url(port)


@contextmanager
def blackhole_listener() -> Iterator[str]:
    """Yield a URL where connecting hangs, because the queue of connections that wait to be accepted
    is full. Stop listening at the end of the block. Raise RuntimeError if the queue does not fill.
    """
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        # The first connection that times out shows that the queue is full. With a backlog of 0, a
        # system queues one or a few connections, so 16 are more than enough.
        with suppress(TimeoutError):
            for _ in range(16):
                sockets.enter_context(socket.create_connection(address, timeout=0.2))
            raise RuntimeError("this system takes every connection")
        yield _plain_url(address[1])


class Certificates:
    """TLS contexts of servers, good and bad, and the authority of their certificates."""

    def __init__(self) -> None:
        self.authority = trustme.CA()

    def valid(self) -> ssl.SSLContext:
        """Return a TLS context with a certificate of this authority for localhost."""
        return _server_context(self.authority.issue_cert("localhost"))

    def wrong_host(self) -> ssl.SSLContext:
        """Return a TLS context with a certificate for another host than localhost."""
        return _server_context(self.authority.issue_cert("wrong.example"))

    def expired(self) -> ssl.SSLContext:
        """Return a TLS context with a certificate that expired in 2002."""
        begin = datetime(2001, 1, 1, tzinfo=UTC)
        end = datetime(2002, 1, 1, tzinfo=UTC)
        return _server_context(
            self.authority.issue_cert("localhost", not_before=begin, not_after=end)
        )

    def unknown_authority(self) -> ssl.SSLContext:
        """Return a TLS context with a certificate of another authority."""
        return _server_context(trustme.CA().issue_cert("localhost"))


@cache
def certificates() -> Certificates:
    """Return the certificates of this process, which are the same at each call."""
    return Certificates()


def _server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """Return the TLS context of a server with a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def _plain_url(port: int) -> str:
    """Return the URL of a receiver without TLS."""
    return f"http://127.0.0.1:{port}{SECRET_PATH}"


def _is_readable(connection: socket.socket, seconds: float) -> bool:
    """Wait for at most `seconds` until a socket has data, or was closed by the client; return
    whether it has or was.
    """
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    milliseconds = seconds * 1000
    return bool(poll.poll(milliseconds))


def _reset_at_close(connection: socket.socket) -> None:
    """Let a later `close` of a socket send a TCP RST, by SO_LINGER with a timeout of zero."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def is_signed(request: Request, secret: str) -> bool:
    """Return whether a request is signed with a secret. Source: Standard Webhooks."""
    headers = request.headers
    sent_at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    signature = Webhook(secret).sign(headers["webhook-id"], sent_at, request.body.decode())
    # The header has a signature for each secret, so that a receiver can change its secret.
    return signature in headers["webhook-signature"].split(" ")
