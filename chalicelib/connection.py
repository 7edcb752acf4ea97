"""An HTTP connection that is made, used and read before one moment, however slowly the other side goes.

A socket's own timeout starts anew with each byte that drips in, and with each address of a name. Here one deadline, in
seconds of `time.monotonic()`, ends every wait.
"""

import http.client
import math
import select
import socket
import ssl
import time
from threading import Thread
from typing import Any

MAX_HEAD_BYTES = 128 * 1024
RESET_SECONDS = 0.25  # a round trip: a reset comes right after the end of the stream


class NotTakenError(ConnectionError):
    """The connection broke so early that the receiver cannot have taken what was sent."""


class DeadlineSocket(socket.socket):
    """A socket whose every wait ends at one moment, and that reads `budget` bytes at most."""

    deadline = math.inf
    budget = MAX_HEAD_BYTES
    is_reused = False

    def arm(self) -> None:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self.settimeout(remaining)

    def recv_into(self, *args: Any) -> int:
        self.arm()
        try:
            count = super().recv_into(*args)
        except ssl.SSLError as error:  # TLS that ended without a goodbye: other builds of Python return 0
            if error.reason != "UNEXPECTED_EOF_WHILE_READING":
                raise
            count = 0
        if count == 0 and self.is_reused and self._is_reset():
            raise NotTakenError
        self.is_reused = False
        self.budget -= count
        if self.budget < 0:
            raise http.client.HTTPException("too much of an answer")
        return count

    def _is_reset(self) -> bool:
        """Return whether the end of the stream is followed by a reset: the receiver had closed before it could read
        what was sent. One that reads and then closes without an answer sends no reset."""
        poll = select.poll()
        poll.register(self, 0)  # POLLHUP and POLLERR are always told
        remaining = min(RESET_SECONDS, self.deadline - time.monotonic())
        return bool(poll.poll(max(0.0, remaining) * 1000))

    def send(self, *args: Any) -> int:  # what SSLSocket.sendall loops over
        self.arm()
        return super().send(*args)

    def sendall(self, *args: Any) -> None:
        self.arm()
        super().sendall(*args)


class TlsSocket(DeadlineSocket, ssl.SSLSocket):
    pass


# A head is limited by its bytes alone: 2xx with 101 headers is a delivery, too. It holds for the whole process.
vars(http.client).update(_MAXHEADERS=MAX_HEAD_BYTES, _MAXLINE=MAX_HEAD_BYTES)


class FinalResponse(http.client.HTTPResponse):
    """The answer behind any number of 1xx: http.client passes over 100 alone, and would take a 103 for the answer."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status_code, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status_code < 200:
                return version, status_code, reason
            http.client.parse_headers(self.fp)


class Connection(http.client.HTTPConnection):
    """A connection that is made, used and read before one moment; over TLS where there is an `ssl_context`."""

    response_class = FinalResponse
    sock: DeadlineSocket | None
    deadline: float
    budget: int

    def __init__(
        self, host: str, port: int, *, connect_timeout_seconds: float, ssl_context: ssl.SSLContext | None
    ) -> None:
        super().__init__(host, port)
        # Port 443 is left out of the Host header of https, as 80 is of http.
        self.default_port = http.client.HTTPS_PORT if ssl_context else http.client.HTTP_PORT
        self._connect_timeout_seconds = connect_timeout_seconds
        self._ssl_context = ssl_context

    def set_limits(self, deadline: float, budget: int) -> None:
        """End every wait at `deadline`, and take in `budget` bytes at most."""
        self.deadline, self.budget = deadline, budget
        if self.sock is not None:
            self.sock.deadline, self.sock.budget = deadline, budget

    @property
    def is_open(self) -> bool:
        """Whether the other side has neither closed the connection nor sent anything unasked."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def connect(self) -> None:
        sock = self._new_socket()
        name = self.host.rstrip(".")  # certificates have no dot at the end
        if self._ssl_context:  # it makes a TlsSocket
            try:
                sock = self._ssl_context.wrap_socket(sock, server_hostname=name)  # type: ignore[assignment]
            except BaseException:
                sock.close()
                raise
        self.sock = sock
        self.set_limits(self.deadline, self.budget)

    def _new_socket(self) -> DeadlineSocket:
        """Try the name's addresses one after another, each with its share of the time to connect.

        The socket leaves here with the time that is left as its timeout, which is that of the whole TLS handshake.
        """
        deadline = min(self.deadline, time.monotonic() + self._connect_timeout_seconds)
        addresses = _resolve(self.host, self.port, deadline)
        failure: OSError = socket.gaierror()
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            try:
                sock = DeadlineSocket(family, kind, protocol)
            except OSError as error:  # a family that this host does not speak
                failure = error
                continue
            try:
                now = time.monotonic()
                sock.deadline = now + (deadline - now) / (len(addresses) - number)
                sock.arm()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect(address)
                sock.deadline = deadline
                sock.arm()
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise failure


def _resolve(host: str, port: int | None, deadline: float) -> list[Any]:
    """Return the host's addresses. The system's resolver knows no timeout, so it runs in a thread that is left alone
    when time is up; it can do no harm there."""
    answer: list[list[Any]] = []

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            answer.append([])

    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    if not answer:
        raise TimeoutError
    return answer[0]
