"""An HTTP connection that is made, used and read before one moment, however slowly the other side goes.

urllib3's read timeout starts anew with each byte that drips in, and its connect timeout with each address of a name.
Here one deadline, in seconds of `time.monotonic()`, ends every wait.
"""

import http.client
import math
import socket
import ssl
import time
from threading import Thread
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection


class DeadlineSocket:
    """A socket whose every wait ends at one moment.

    A timeout of the socket's own starts anew with each byte that drips in; this one does not.
    """

    deadline = math.inf  # time.monotonic()

    def arm(self) -> None:
        remaining = self.deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        self.settimeout(remaining)  # type: ignore[attr-defined]

    def recv_into(self, *args: Any) -> int:
        self.arm()
        return super().recv_into(*args)  # type: ignore[misc,no-any-return]

    def send(self, *args: Any) -> int:  # what SSLSocket.sendall loops over
        self.arm()
        return super().send(*args)  # type: ignore[misc,no-any-return]

    def sendall(self, *args: Any) -> None:
        self.arm()
        super().sendall(*args)  # type: ignore[misc]


class TcpSocket(DeadlineSocket, socket.socket):
    pass


class TlsSocket(DeadlineSocket, ssl.SSLSocket):
    pass


class FinalResponse(http.client.HTTPResponse):
    """The answer behind any number of 1xx: http.client passes over 100 alone, and would take a 103 for the answer."""

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            version, status_code, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status_code < 200:
                return version, status_code, reason
            http.client.parse_headers(self.fp)


class Connection(HTTPConnection):
    """A connection that is made, used and read before one moment."""

    response_class = FinalResponse
    connect_timeout_seconds: float
    deadline: float

    def set_deadline(self, deadline: float) -> None:
        self.deadline = deadline
        if isinstance(self.sock, DeadlineSocket):
            self.sock.deadline = deadline

    def connect(self) -> None:
        super().connect()
        self.set_deadline(self.deadline)

    def _new_conn(self) -> socket.socket:
        """Try the name's addresses one after another, all before the deadline of connecting.

        The socket leaves here with the time that is left as its timeout, which is that of the whole TLS handshake.
        """
        deadline = min(self.deadline, time.monotonic() + self.connect_timeout_seconds)
        failure: OSError = socket.gaierror()
        for family, kind, protocol, _, address in _resolve(self.host, self.port, deadline):
            sock = TcpSocket(family, kind, protocol)
            try:
                sock.deadline = deadline
                sock.arm()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect(address)
                sock.arm()
                return sock
            except OSError as error:
                sock.close()
                failure = error
        raise failure


class TlsConnection(Connection, HTTPSConnection):
    pass


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
