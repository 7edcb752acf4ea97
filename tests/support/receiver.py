"""A real little webhook receiver on loopback that misbehaves as a test tells it to.

Raw sockets and a thread for each connection, so that a test decides every byte and every close, and waits for events
instead of sleeping. Knows nothing of the project.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from itertools import chain, count, cycle, repeat
from pathlib import Path
from typing import Any, Self

import trustme

SECRET_PATH = "/hooks/secret-path?token=secret-query"


@dataclass(frozen=True)
class Request:
    """One request, wholly read. `path` has the query; names of headers are lowercase; `at` is `time.monotonic()`."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    at: float

    def json(self) -> Any:
        return json.loads(self.body)


class Exchange:
    """One connection and the request on it that is being answered: what a behaviour is called with.

    Every method raises OSError when the client has left or the receiver was closed; a behaviour lets it pass.
    """

    request: Request

    def __init__(self, receiver: Receiver, connection: socket.socket, number: int) -> None:
        self.receiver = receiver
        self.socket = connection
        self.number = number
        self.stopped = receiver.stopped
        self._unread = b""

    @property
    def is_open(self) -> bool:
        return self.socket.fileno() != -1

    def read_request(self) -> Request:
        while (head_end := self._unread.find(b"\r\n\r\n")) < 0:
            self._read()
        request_line, *lines = self._unread[:head_end].decode("latin-1").split("\r\n")
        method, path, _ = request_line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body_end = head_end + 4 + int(headers.get("content-length", "0"))
        while len(self._unread) < body_end:
            self._read()
        body, self._unread = self._unread[head_end + 4 : body_end], self._unread[body_end:]
        return Request(method, path, headers, body, self.number, time.monotonic())

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            sent = self.socket.send(rest)
            self.receiver.count_sent(sent)
            rest = rest[sent:]

    def answer(self, data: bytes) -> None:
        """Send the whole answer. The request counts as done just before: its client may be quick to send the next."""
        self.receiver.finished(self)
        self.send(data)

    def pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if _readable(self.socket, left):
                self._read()

    def wait_until_left(self) -> None:
        while True:
            self._read()

    def client_left(self) -> bool:
        try:  # past SSLSocket, which refuses flags
            return socket.socket.recv(self.socket, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def half_close(self) -> None:
        socket.socket.shutdown(self.socket, socket.SHUT_WR)  # SSLSocket's own would read on in plain text

    def close(self) -> None:
        self.receiver.finished(self)
        self.socket.close()

    def reset(self) -> None:
        _reset_at_close(self.socket)
        self.close()

    def _read(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionAbortedError("the client left")
        self._unread += data


Behaviour = Callable[[Exchange], None]


class Receiver:
    """Answers requests by script, then by `default`, and remembers them. Speaks TLS when given a server's context.

    `on_accept` gets each raw socket before TLS and HTTP; a connection that it leaves open is served as usual.
    """

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, on_accept: Callable[[socket.socket], None] | None = None
    ) -> None:
        self.default: Behaviour = status(200)
        self.on_accept = on_accept
        self.stopped = threading.Event()
        self.connections = 0
        self.bytes_sent = 0
        self.max_concurrent = 0
        self._tls = tls
        self._requests: list[Request] = []
        self._script: deque[Behaviour] = deque()
        self._open: set[Exchange] = set()
        self._handled: set[Exchange] = set()
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://localhost:{self.port}{SECRET_PATH}" if tls else _plain_url(self.port)
        self._acceptor = threading.Thread(target=self._accept, name="receiver", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def requests(self) -> list[Request]:
        with self._changed:
            return list(self._requests)

    def script(self, *behaviours: Behaviour) -> None:
        """Answer the next requests by these, one each, after those already scripted."""
        with self._changed:
            self._script.extend(behaviours)

    def wait_for(self, number: int, timeout: float = 5) -> list[Request]:
        """Return the first `number` requests as soon as there are so many."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: len(self._requests) >= number, timeout)
            assert in_time, f"{len(self._requests)} requests instead of {number} within {timeout} s"
            return self._requests[:number]

    def wait_until_left(self, timeout: float = 5) -> None:
        """Return as soon as no connection is open, nor waiting to be accepted."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: not self._open and not _readable(self._listener, 0), timeout)
            assert in_time, f"{len(self._open)} connections still open after {timeout} s"

    def close(self) -> None:
        self.stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._changed:
            for exchange in self._open:
                with suppress(OSError):  # wakes its thread, which alone closes the socket
                    socket.socket.shutdown(exchange.socket, socket.SHUT_RDWR)
        until = time.monotonic() + 1
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        assert not any(thread.is_alive() for thread in self._threads), "a behaviour does not end"

    def record(self, request: Request) -> None:
        with self._changed:
            self._requests.append(request)
            self._changed.notify_all()

    def finished(self, exchange: Exchange) -> None:
        with self._changed:
            self._handled.discard(exchange)

    def count_sent(self, number: int) -> None:
        with self._changed:
            self.bytes_sent += number

    def _accept(self) -> None:
        while not self.stopped.is_set():
            if not _readable(self._listener, 0.1):  # close() wakes it sooner, but not on every system
                continue
            with self._changed:  # a connection is always either waiting or open
                try:
                    connection, _ = self._listener.accept()
                except OSError:
                    if self.stopped.is_set():
                        return
                    raise
                self.connections += 1
                exchange = Exchange(self, connection, self.connections)
                self._open.add(exchange)
            thread = threading.Thread(target=self._serve, args=(exchange,), name="receiver", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, exchange: Exchange) -> None:
        try:
            with suppress(OSError):
                exchange.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self.on_accept is not None:
                    self.on_accept(exchange.socket)
                if self._tls is not None and exchange.is_open:
                    self._handshake(exchange, self._tls)
                while exchange.is_open:
                    exchange.request = exchange.read_request()
                    self._begin(exchange)(exchange)
                    self.finished(exchange)
        finally:
            exchange.close()
            with self._changed:
                self._open.discard(exchange)
                self._changed.notify_all()

    def _handshake(self, exchange: Exchange, tls: ssl.SSLContext) -> None:
        with self._changed:  # close() must find the socket that holds the connection
            wrapped = tls.wrap_socket(exchange.socket, server_side=True, do_handshake_on_connect=False)
            exchange.socket = wrapped
        wrapped.do_handshake()

    def _begin(self, exchange: Exchange) -> Behaviour:
        with self._changed:
            self.record(exchange.request)
            self._handled.add(exchange)
            present = sum(not other.client_left() for other in self._handled)
            self.max_concurrent = max(self.max_concurrent, present)
            return self._script.popleft() if self._script else self.default


# Behaviours: answers


def status(code: int, *, headers: Mapping[str, str] | None = None, body: bytes = b"ok") -> Behaviour:
    """Answer and keep the connection, unless `headers` says `Connection: close`."""
    fields = dict(headers or {})
    if code in (204, 304):
        body = b""
    else:
        fields.setdefault("Content-Length", str(len(body)))

    def behave(exchange: Exchange) -> None:
        exchange.answer(_head(code, fields) + body)
        if fields.get("Connection") == "close":
            exchange.close()

    return behave


def redirect(to: str, code: int = 302) -> Behaviour:
    return status(code, headers={"Location": to})


def gzip_bomb(mib: int = 64, code: int = 200) -> Behaviour:
    """Answer with about 1 KiB for each MiB that it unpacks to."""
    return status(code, headers={"Content-Encoding": "gzip"}, body=_zeros_gzipped(mib))


def informational(*codes: int, then: Behaviour | None = None) -> Behaviour:
    return _in_turn(_sends(b"".join(_head(code) for code in codes)), then or status(200))


def gate(opened: threading.Event, then: Behaviour | None = None) -> Behaviour:
    """Answer once the event is set."""

    def wait(exchange: Exchange) -> None:
        while not opened.wait(0.02):
            exchange.pause(0.001)

    return _in_turn(wait, then or status(200))


def slow(seconds: float, then: Behaviour | None = None) -> Behaviour:
    return _in_turn(lambda exchange: exchange.pause(seconds), then or status(200))


def answer_then_close(closed: threading.Event, code: int = 200) -> Behaviour:
    """Answer as if the connection were kept, close it all the same, then set the event."""
    return _in_turn(status(code), Exchange.close, lambda _: closed.set())


def answer_then_half_close(closed: threading.Event, code: int = 200) -> Behaviour:
    """Answer, shut the sending side, then set the event; go on reading and recording requests, answering none."""

    def read_on(exchange: Exchange) -> None:
        while True:
            exchange.receiver.record(exchange.read_request())

    return _in_turn(status(code), Exchange.half_close, lambda _: closed.set(), read_on)


# Behaviours: no answer, or no end of it


def hang() -> Behaviour:
    return Exchange.wait_until_left


def close_without_answer() -> Behaviour:
    return Exchange.close


def reset_before_answer() -> Behaviour:
    return Exchange.reset


def reset_mid_headers() -> Behaviour:
    return _in_turn(_sends(b"HTTP/1.1 200 OK\r\nContent-Le"), Exchange.reset)


def reset_mid_body(code: int = 200) -> Behaviour:
    return _in_turn(_sends(_head(code, {"Content-Length": "1000"}) + b"half"), Exchange.reset)


def garbage(data: bytes = b"SSH-2.0-OpenSSH\r\n") -> Behaviour:
    """Send these bytes and close."""
    return _in_turn(_sends(data), Exchange.close)


def drip_headers(interval: float) -> Behaviour:
    """Send status line and headers without end, a byte each `interval` seconds."""
    status_line, header = _bytes_of(b"HTTP/1.1 200 OK\r\n"), _bytes_of(b"X-Drip: drop\r\n")
    return _flow(b"", lambda: chain(status_line, cycle(header)), interval)


def drip_body(interval: float, code: int = 200) -> Behaviour:
    """Send status line and headers at once, then a body of 1 MB, a byte each `interval` seconds."""
    return _flow(_head(code, {"Content-Length": "1000000"}), lambda: repeat(b"x", 1_000_000), interval)


def endless_headers(code: int = 200) -> Behaviour:
    start = f"HTTP/1.1 {code} OK\r\n".encode()
    return _flow(start, lambda: (f"X-Endless-{number}: {'x' * 1000}\r\n".encode() for number in count()))


def endless_body(code: int = 200) -> Behaviour:
    return _flow(_head(code, {"Connection": "close"}), lambda: repeat(b"x" * 16384))


def endless_informational(code: int = 100, interval: float = 0) -> Behaviour:
    return _flow(b"", lambda: repeat(_head(code)), interval)


# At accept, before TLS and HTTP


def reset_on_accept(connection: socket.socket) -> None:
    _reset_at_close(connection)
    connection.close()


def hang_on_accept(connection: socket.socket) -> None:
    """Read and say nothing until the client leaves: a TLS handshake that is never answered."""
    while connection.recv(65536):
        pass
    connection.close()


def tls_broken_off(connection: socket.socket) -> None:
    """Close in the middle of the ServerHello."""
    _reply_and_close(connection, b"\x16\x03\x03\x00\x7a\x02\x00")


def tls_refused(connection: socket.socket) -> None:
    """Answer the ClientHello with the fatal alert handshake_failure."""
    _reply_and_close(connection, b"\x15\x03\x03\x00\x02\x02\x28")


def plain_text_on_tls_port(connection: socket.socket) -> None:
    _reply_and_close(connection, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


# Addresses where nobody answers


@cache
def refused_url() -> str:
    """Return a URL that refuses connections: the port stays taken while the process lives, and nobody listens on it."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    port: int = taken.getsockname()[1]
    taken.detach()
    return _plain_url(port)


@contextmanager
def blackhole_listener() -> Iterator[str]:
    """Give a URL where connecting hangs, because the line of connections waiting to be accepted is full."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        with suppress(TimeoutError):
            for _ in range(16):
                sockets.enter_context(socket.create_connection(address, timeout=0.2))
            raise RuntimeError("this system takes every connection")
        yield _plain_url(address[1])


# Certificates


class Certificates:
    """Server contexts, good and bad, of an authority that a client may be told to trust."""

    def __init__(self) -> None:
        self.authority = trustme.CA()

    def valid(self) -> ssl.SSLContext:
        return _server_context(self.authority.issue_cert("localhost"))

    def wrong_host(self) -> ssl.SSLContext:
        return _server_context(self.authority.issue_cert("wrong.example"))

    def expired(self) -> ssl.SSLContext:
        begin, end = datetime(2001, 1, 1, tzinfo=UTC), datetime(2002, 1, 1, tzinfo=UTC)
        return _server_context(self.authority.issue_cert("localhost", not_before=begin, not_after=end))

    def unknown_authority(self) -> ssl.SSLContext:
        return _server_context(trustme.CA().issue_cert("localhost"))

    def write_authority(self, path: Path) -> Path:
        """Write what a client needs to trust the authority, as PEM."""
        path.write_bytes(self.authority.cert_pem.bytes())
        return path


@cache
def certificates() -> Certificates:
    return Certificates()


def _server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def _plain_url(port: int) -> str:
    return f"http://127.0.0.1:{port}{SECRET_PATH}"


def _head(code: int, headers: Mapping[str, str] | None = None) -> bytes:
    phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else "Unknown"
    fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"HTTP/1.1 {code} {phrase}\r\n{fields}\r\n".encode("latin-1")


def _sends(data: bytes) -> Behaviour:
    return lambda exchange: exchange.send(data)


def _in_turn(*steps: Behaviour) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        for step in steps:
            step(exchange)

    return behave


def _flow(start: bytes, pieces: Callable[[], Iterable[bytes]], interval: float = 0) -> Behaviour:
    def behave(exchange: Exchange) -> None:
        # A small buffer: bytes_sent is then little more than what the client took.
        exchange.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        exchange.send(start)
        for piece in pieces():
            exchange.pause(interval)
            exchange.send(piece)

    return behave


def _readable(connection: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _bytes_of(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


@cache
def _zeros_gzipped(mib: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(mib)) + packer.flush()


def _reply_and_close(connection: socket.socket, data: bytes) -> None:
    connection.recv(65536)
    connection.sendall(data)
    connection.close()


def _reset_at_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
