"""A webhook receiver on loopback whose responses, and faults, tests script byte by byte."""

from __future__ import annotations

import http.client
import json
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
    """A connection and the request on it, to which a behaviour responds.

    Every method raises OSError if the client has left or the receiver was closed. A behaviour does
    not catch it.
    """

    server: Receiver
    disable_nagle_algorithm = True

    def setup(self) -> None:
        self.request = self.server.accepted(self.request)
        super().setup()

    def handle(self) -> None:
        while self.connection.fileno() != -1 and (request_line := self.rfile.readline()):
            method, path, _ = request_line.decode().split(" ")
            headers = {
                name.lower(): value for name, value in http.client.parse_headers(self.rfile).items()
            }
            self.request = Request(
                method, path, headers, self.rfile.read(int(headers.get("content-length", 0)))
            )
            self.server.begin(self)(self)

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def pause(self, seconds: float) -> None:
        """Wait for some seconds; raise ConnectionAbortedError if the client leaves meanwhile."""
        if _readable(self.connection, seconds) and not self.connection.recv(65536):
            raise ConnectionAbortedError("the client left")

    def wait_until_left(self) -> None:
        while self.connection.recv(65536):
            pass

    def close(self) -> None:
        self.rfile.close()
        self.connection.close()

    def reset(self) -> None:
        """Reset the connection."""
        _reset_at_close(self.connection)
        self.close()


Behaviour = Callable[[Exchange], object]  # what it returns does not matter
Answers = Behaviour | int  # a number stands for a response with this status code


class Receiver(socketserver.ThreadingTCPServer):
    """A server on loopback that records requests, and answers them by a script, and after the end
    of the script by `default`.

    :param tls: The context of a TLS server; None: plain HTTP.
    :param on_accept: Called with each socket before TLS and HTTP; None: nothing is called. A
        connection that it leaves open is served as usual.
    """

    request_queue_size = 1024

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        on_accept: Callable[[socket.socket], None] | None = None,
    ) -> None:
        self.default: Answers = 200
        self.on_accept = on_accept
        self.connections = 0
        self._tls = tls
        self.requests: list[Request] = []
        self._script: deque[Answers] = deque()
        self._open: dict[Any, socket.socket] = {}
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

    def wait_for(self, number: int, timeout: float = 60) -> list[Request]:
        """Wait until there were `number` requests, and return them; fail the test after `timeout`
        seconds.
        """
        with self._changed:
            in_time = self._changed.wait_for(lambda: self.count >= number, timeout)
            assert in_time, f"{self.count} requests instead of {number} within {timeout} s"
            return self.requests[:number]

    def wait_until_left(self, timeout: float = 60, *, most: int = 0) -> None:
        """Wait until at most `most` connections are open, and none waits to be accepted; fail the
        test after `timeout` seconds.
        """
        with self._changed:
            in_time = self._changed.wait_for(
                lambda: len(self._open) <= most and not _readable(self.socket, 0), timeout
            )
            assert in_time, f"{len(self._open)} connections still open after {timeout} s"

    def server_close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)  # wakes serve_forever
        self.shutdown()
        with self._changed:
            for connection in self._open.values():
                with suppress(OSError):  # wakes its thread
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        super().server_close()

    close = server_close

    def get_request(self) -> tuple[socket.socket, Any]:
        with self._changed:  # a connection is always either waiting or open
            connection, address = super().get_request()
            self._open[connection] = connection
            self.connections += 1
            return connection, address

    def accepted(self, connection: socket.socket) -> socket.socket:
        if self.on_accept is not None:
            self.on_accept(connection)
        if self._tls is None or connection.fileno() == -1:
            return connection
        tls = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._changed:
            self._open[connection] = tls
        tls.do_handshake()
        return tls

    def begin(self, exchange: Exchange) -> Behaviour:
        with self._changed:
            self.requests.append(exchange.request)
            self._changed.notify_all()
            next_answer = self._script.popleft() if self._script else self.default
            return status(next_answer) if isinstance(next_answer, int) else next_answer

    def shutdown_request(self, request: Any) -> None:
        with self._changed:
            self._open.pop(request).close()
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            raise error


def status(
    code: int, *, headers: Mapping[str, str] | None = None, body: bytes = b"ok"
) -> Behaviour:
    """Answer and keep the connection, unless `headers` has `Connection: close`."""
    fields = dict(headers or {})
    if code in (204, 304):
        body = b""
    else:
        fields.setdefault("Content-Length", str(len(body)))

    response = answer(head(code, fields) + body)
    return in_turn(response, Exchange.close) if fields.get("Connection") == "close" else response


def head(code: int, headers: Mapping[str, str] | None = None) -> bytes:
    fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"HTTP/1.1 {code} Status\r\n{fields}\r\n".encode("latin-1")


def answer(data: bytes) -> Behaviour:
    """Send exactly these bytes and keep the connection."""
    return lambda exchange: exchange.send(data)


def garbage(data: bytes = b"SSH-2.0-OpenSSH\r\n") -> Behaviour:
    """Send these bytes and close."""
    return in_turn(lambda exchange: exchange.send(data), Exchange.close)


def endless(start: bytes, piece: bytes, interval: float = 0) -> Behaviour:
    """Send `start`, and then `piece` again and again, every `interval` seconds."""

    def behave(exchange: Exchange) -> None:
        exchange.send(start)
        while True:
            exchange.pause(interval)
            exchange.send(piece)

    return behave


def in_turn(*steps: Behaviour) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        for step in steps:
            step(exchange)

    return behave


def when_all_are_here(number: int) -> Behaviour:
    """Answer 200 to so many requests once all have come; fail after a minute."""
    barrier = threading.Barrier(number)
    return in_turn(lambda exchange: barrier.wait(60), status(200))


def redirect(to: str, code: int = 302) -> Behaviour:
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
    _reset_at_close(connection)
    connection.close()


def hang_on_accept(connection: socket.socket) -> None:
    """Never answer a TLS handshake."""
    while connection.recv(65536):
        pass


def tls_broken_off(connection: socket.socket) -> None:
    """Close in the middle of the ServerHello."""
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x03\x00\x7a\x02\x00")
    connection.close()


@cache
def refused_url() -> str:
    """Return a URL that refuses connections: its port stays taken while the process lives, and
    nobody listens.
    """
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    taken.detach()
    return _plain_url(port)


@contextmanager
def blackhole_listener() -> Iterator[str]:
    """Give a URL where connecting hangs, because the queue of connections waiting to be accepted is
    full.
    """
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
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
        return _server_context(self.authority.issue_cert("localhost"))

    def wrong_host(self) -> ssl.SSLContext:
        return _server_context(self.authority.issue_cert("wrong.example"))

    def expired(self) -> ssl.SSLContext:
        begin = datetime(2001, 1, 1, tzinfo=UTC)
        end = datetime(2002, 1, 1, tzinfo=UTC)
        return _server_context(
            self.authority.issue_cert("localhost", not_before=begin, not_after=end)
        )

    def unknown_authority(self) -> ssl.SSLContext:
        return _server_context(trustme.CA().issue_cert("localhost"))


@cache
def certificates() -> Certificates:
    return Certificates()


def _server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def _plain_url(port: int) -> str:
    return f"http://127.0.0.1:{port}{SECRET_PATH}"


def _readable(connection: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _reset_at_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def is_signed(request: Request, secret: str) -> bool:
    """Return whether a request is signed with a secret. Source: Standard Webhooks."""
    headers = request.headers
    sent_at = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
    signature = Webhook(secret).sign(headers["webhook-id"], sent_at, request.body.decode())
    return signature in headers["webhook-signature"].split(" ")
