"""The operator's commands behind a proxy, which is a real one on loopback."""

import base64
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import receiver as receivers
from tests.support.commands import Ran
from tests.support.receiver import Receiver, certificates
from tests.support.world import KEY

CREDENTIALS = "person:proxy-password"


class Proxy:
    """A proxy that connects each CONNECT to one server, whatever host is asked for."""

    def __init__(self, server_port: int) -> None:
        self.requests: list[str] = []
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which ends a blocked accept()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._tunnel, args=(client,), daemon=True).start()

    def _tunnel(self, client: socket.socket) -> None:
        address = ("127.0.0.1", self._server_port)
        with client, socket.create_connection(address) as server:
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(4096)
            self.requests.append(request.decode())
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            answers = threading.Thread(target=copy, args=(server, client))
            answers.start()
            copy(client, server)
            answers.join()


def copy(source: socket.socket, sink: socket.socket) -> None:
    """Send what a connection receives to another one, until either ends."""
    with suppress(OSError):
        while content := source.recv(65_536):
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def api() -> Iterator[Receiver]:
    """An API with a certificate for wrong.example."""
    with Receiver(tls=certificates().wrong_host()) as receiver:
        receiver.default = receivers.status(404, body=b'{"detail": "There is no such event."}')
        yield receiver


@pytest.fixture
def proxy(api: Receiver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Proxy]:
    authority = tmp_path / "authority.pem"
    certificates().authority.cert_pem.write_to_path(str(authority))
    proxy = Proxy(api.port)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("HTTPS_PROXY", f"http://{CREDENTIALS}@127.0.0.1:{proxy.port}")
    monkeypatch.setenv("TRIGGERS_URL", "https://wrong.example/api")
    monkeypatch.setenv("TRIGGERS_API_KEY", KEY)
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield proxy
    proxy.close()


def show(status: int = 1) -> str:
    return Ran("show", f"evt_{0:032}", status=status).errors


def test_calls_go_through_the_proxy_which_sees_no_key(api: Receiver, proxy: Proxy) -> None:
    errors = show()

    [connect, *_] = proxy.requests
    assert connect.startswith("CONNECT wrong.example:443 HTTP/1.")
    token = base64.b64encode(CREDENTIALS.encode()).decode()
    assert re.search(f"(?i)^proxy-authorization: basic {token}\r$", connect, re.MULTILINE)
    assert KEY not in connect
    assert errors.endswith("Error: 404: There is no such event.\n")
    assert "proxy-password" not in errors
    assert api.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert "proxy-authorization" not in api.requests[0].headers


@pytest.mark.usefixtures("api")
def test_a_proxy_that_is_down_is_no_way_around_it(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{CREDENTIALS}@127.0.0.1:1")
    errors = show()
    assert proxy.requests == []
    assert "Error: cannot reach https://wrong.example/api" in errors
    assert "proxy-password" not in errors


@pytest.mark.parametrize(
    "name, value",
    [
        ("NO_PROXY", "wrong.example"),
        ("NO_PROXY", "other.example, .example"),
        ("TRIGGERS_URL", "https://localhost:1/api"),
        ("TRIGGERS_URL", "http://127.0.0.1:1"),
    ],
)
def test_a_host_that_is_excepted_is_called_directly(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert "cannot reach " in show()
    assert proxy.requests == []


def test_a_proxy_for_http_gets_no_key(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.delenv("HTTPS_PROXY")
    assert "cannot reach " in show()
    assert proxy.requests == []


@pytest.mark.parametrize(
    "value", [f"ftp://{CREDENTIALS}@proxy.example", f"http://{CREDENTIALS}@:x"]
)
def test_a_proxy_that_is_no_url_is_named_without_its_password(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", value)
    errors = show()
    assert "Error: HTTPS_PROXY must be the URL of a proxy" in errors
    assert "proxy-password" not in errors
