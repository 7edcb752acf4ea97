"""TLS, and names with several addresses: what happens before a request can be sent."""

import socket
import ssl
import time
from dataclasses import replace
from pathlib import Path
from threading import Event as Signal
from typing import Any

import pytest

from chalicelib.connection import Connection
from chalicelib.events import Event, Status
from chalicelib.push import PushClient, Result
from tests.conftest import MakePush
from tests.support import receiver as behave
from tests.support.receiver import Receiver, certificates

EVENT = Event("evt_" + "0" * 32, "t", Status.PENDING, "2026-11-25T00:00:00.000001Z", "acme", expires_at=5, size=6)
LONG, SOON = 10.0, 2.0  # see test_push


@pytest.fixture
def secure_push(make_push: MakePush, tmp_path: Path) -> Any:
    """Give what makes clients that trust the authority of `certificates()`."""
    authority = certificates().write_authority(tmp_path / "authority.pem")

    def make(receiver: Receiver, **options: Any) -> PushClient:
        context = ssl.create_default_context(cafile=str(authority))
        return make_push(receiver.url, ssl_context=context, **options)

    return make


def test_a_trusted_certificate_delivers_over_one_kept_connection(secure_push: Any) -> None:
    with Receiver(tls=certificates().valid()) as receiver:
        receiver.script(behave.status(200), behave.informational(103, then=behave.status(503)))
        push = secure_push(receiver)
        outcomes = [push.send(EVENT, LONG) for _ in range(3)]
        assert [outcome.status_code for outcome in outcomes] == [200, 503, 200]
        assert (receiver.connections, receiver.requests[0].body) == (1, EVENT.push_body())
        assert receiver.requests[0].headers["host"] == f"localhost:{receiver.port}"


def test_a_name_with_a_dot_at_its_end_is_the_name_of_the_certificate(
    secure_push: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *more, **options: resolve(host.rstrip("."), *more, **options)
    )
    with Receiver(tls=certificates().valid()) as receiver:
        receiver.url = receiver.url.replace("localhost", "localhost.")
        assert secure_push(receiver).send(EVENT, LONG).result is Outcome.DELIVERED


def test_the_machines_own_authorities_are_trusted(
    make_push: MakePush, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver(tls=certificates().valid()) as receiver:
        before = make_push(receiver.url).send(EVENT, LONG)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates().write_authority(tmp_path / "authority.pem")))
        after = make_push(receiver.url).send(EVENT, LONG)
    assert (before.result, after.result) == (Outcome.FAILED, Outcome.DELIVERED)


@pytest.mark.parametrize("fault", ["unknown_authority", "wrong_host", "expired"])
def test_a_certificate_that_does_not_verify_is_a_failure_at_once_and_nothing_is_sent(
    fault: str, secure_push: Any
) -> None:
    with Receiver(tls=getattr(certificates(), fault)()) as receiver:
        outcome = secure_push(receiver).send(EVENT, LONG)
        receiver.wait_until_left()
        assert receiver.requests == []
    assert (outcome.result, outcome.status_code, outcome.timed_out) == (Outcome.FAILED, None, False)
    assert outcome.error.startswith("the certificate does not verify: ")


HANDSHAKES = {
    "broken off": (behave.tls_broken_off, "TLS failed"),
    "refused": (behave.tls_refused, "TLS failed"),
    "plain text": (behave.plain_text_on_tls_port, "TLS failed"),
    "reset": (behave.reset_on_accept, "the connection was reset"),
}


@pytest.mark.parametrize("what", HANDSHAKES)
def test_a_handshake_that_breaks_off_earns_another_attempt(what: str, secure_push: Any) -> None:
    on_accept, error = HANDSHAKES[what]
    with Receiver(tls=certificates().valid(), on_accept=on_accept) as receiver:
        push = secure_push(receiver)
        outcome = push.send(EVENT, LONG)
        receiver.on_accept = None
        assert push.send(EVENT, LONG).result is Outcome.DELIVERED
    assert (outcome.result, outcome.error, outcome.timed_out) == (Outcome.RETRY, error, False)
    assert outcome.duration_ms < SOON * 1000


def drip_handshake(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")  # the beginning of a ServerHello of 16 KiB
    while True:
        Signal().wait(0.02)
        connection.sendall(b"\x03")


@pytest.mark.parametrize(("connect_timeout_seconds", "timeout_seconds"), [(0.2, LONG), (LONG, 0.2)])
@pytest.mark.parametrize("on_accept", [behave.hang_on_accept, drip_handshake])
def test_a_handshake_has_the_time_to_connect(
    on_accept: Any, connect_timeout_seconds: float, timeout_seconds: float, secure_push: Any
) -> None:
    with Receiver(tls=certificates().valid(), on_accept=on_accept) as receiver:
        push = secure_push(receiver, connect_timeout_seconds=connect_timeout_seconds)
        outcome = push.send(EVENT, timeout_seconds)
    assert (outcome.result, outcome.timed_out) == (Outcome.RETRY, True)
    assert 200 <= outcome.duration_ms < SOON * 1000


SLOW = {"hang": behave.hang(), "headers": behave.drip_headers(0.02), "1xx": behave.endless_informational(103, 0.02)}


@pytest.mark.parametrize("what", SLOW)
def test_an_answer_over_tls_that_takes_too_long_is_a_timeout(what: str, secure_push: Any) -> None:
    with Receiver(tls=certificates().valid()) as receiver:
        receiver.script(behave.status(200), SLOW[what])
        push = secure_push(receiver, connect_timeout_seconds=0.5)
        push.send(EVENT, LONG)
        outcome = push.send(EVENT, 0.2)
    assert (outcome.result, outcome.timed_out) == (Outcome.RETRY, True)
    assert 200 <= outcome.duration_ms < SOON * 1000


def test_a_receiver_that_does_not_read_over_tls_holds_nobody_longer_than_the_timeout(secure_push: Any) -> None:
    left = Signal()

    def shake_hands_and_no_more(connection: socket.socket) -> None:
        with certificates().valid().wrap_socket(connection, server_side=True):
            left.wait(5)

    huge = replace(EVENT, payload=f'"{"x" * 8 * 1024 * 1024}"')  # more than the network holds
    with Receiver(on_accept=shake_hands_and_no_more) as receiver:
        receiver.url = receiver.url.replace("http://127.0.0.1", "https://localhost")
        outcome = secure_push(receiver).send(huge, 0.3)
        left.set()
    assert outcome.timed_out
    assert outcome.duration_ms < SOON * 1000


@pytest.mark.parametrize("looks_open", [False, True])
def test_a_kept_tls_connection_that_the_receiver_closed_is_not_a_failed_attempt(
    looks_open: bool, secure_push: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Signal()
    with Receiver(tls=certificates().valid()) as receiver:
        receiver.script(behave.answer_then_close(closed))
        push = secure_push(receiver)
        push.send(EVENT, LONG)
        assert closed.wait(5)
        if looks_open:  # closed the moment after the look
            monkeypatch.setattr(Connection, "is_open", True)
        assert push.send(EVENT, LONG).result is Outcome.DELIVERED
        assert (receiver.connections, len(receiver.requests)) == (2, 2)


# Names. There is no name with several addresses on every machine, so the resolver is made up; addresses have ports.


class Names:
    """A resolver that knows one name more than the machine's, and waits before it answers."""

    def __init__(self) -> None:
        self.machines = socket.getaddrinfo
        self.error: Exception | None = None
        self.urls: tuple[str, ...] = ()
        self.families: tuple[int, ...] = (socket.AF_INET,) * 9
        self.answers = Signal()
        self.answers.set()

    def getaddrinfo(self, host: str, *parameters: Any, **more: Any) -> list[Any]:
        if host != "receiver.example":
            return self.machines(host, *parameters, **more)
        self.answers.wait()
        if self.error:
            raise self.error
        ports = [int(url.split(":")[2].split("/")[0]) for url in self.urls]
        kind = (socket.SOCK_STREAM, 6, "")
        return [(family, *kind, ("127.0.0.1", port)) for family, port in zip(self.families, ports, strict=False)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.getaddrinfo)
    return names


@pytest.fixture
def named_push(names: Names, make_push: MakePush) -> PushClient:
    return make_push("http://receiver.example:443/hook", connect_timeout_seconds=0.3)


def test_the_next_address_is_tried_when_one_refuses(names: Names, named_push: PushClient, receiver: Receiver) -> None:
    names.urls = (behave.refused_url(), behave.refused_url(), receiver.url)
    assert named_push.send(EVENT, LONG).result is Outcome.DELIVERED
    assert receiver.requests[0].headers["host"] == "receiver.example:443"


def test_the_next_address_is_tried_in_time_when_one_hangs(
    names: Names, make_push: MakePush, receiver: Receiver
) -> None:
    push = make_push("http://receiver.example:443/hook", connect_timeout_seconds=1)
    with behave.blackhole_listener() as dead:
        names.urls = (dead, dead, receiver.url)
        assert push.send(EVENT, LONG).result is Outcome.DELIVERED


def test_a_handshake_has_all_the_time_to_connect_that_is_left(names: Names, make_push: MakePush) -> None:
    context = ssl._create_unverified_context()
    push = make_push("https://receiver.example:443/", connect_timeout_seconds=1, ssl_context=context)
    with Receiver(tls=certificates().valid(), on_accept=lambda _: time.sleep(0.4)) as receiver:
        names.urls = (receiver.url.replace("localhost", "127.0.0.1"),) * 4
        assert push.send(EVENT, LONG).result is Outcome.DELIVERED


def test_the_next_address_is_tried_when_this_machine_cannot_speak_to_one(
    names: Names, named_push: PushClient, receiver: Receiver
) -> None:
    names.families = (999, socket.AF_INET)
    names.urls = (receiver.url, receiver.url)
    assert named_push.send(EVENT, LONG).result is Outcome.DELIVERED


def test_no_address_that_takes_the_connection_earns_another_attempt(names: Names, named_push: PushClient) -> None:
    names.urls = (behave.refused_url(),) * 3
    outcome = named_push.send(EVENT, LONG)
    assert (outcome.result, outcome.error) == (Outcome.RETRY, "the connection was refused")


@pytest.mark.parametrize("timeout_seconds", [0.2, LONG])
def test_many_dead_addresses_share_one_time_to_connect(
    timeout_seconds: float, names: Names, named_push: PushClient
) -> None:
    with behave.blackhole_listener() as dead:
        names.urls = (dead,) * 8
        outcome = named_push.send(EVENT, timeout_seconds)
    assert (outcome.result, outcome.timed_out) == (Outcome.RETRY, True)
    assert outcome.duration_ms < 1000


@pytest.mark.parametrize("error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_a_name_without_an_address_earns_another_attempt(
    error: Exception, names: Names, named_push: PushClient
) -> None:
    names.error = error
    outcome = named_push.send(EVENT, LONG)
    assert (outcome.result, outcome.error) == (Outcome.RETRY, "the host name does not resolve")
    assert not outcome.timed_out


@pytest.mark.parametrize("timeout_seconds", [0.2, LONG])
def test_a_resolver_that_does_not_answer_is_not_waited_for(
    timeout_seconds: float, names: Names, named_push: PushClient
) -> None:
    names.answers.clear()
    started = time.monotonic()
    outcome = named_push.send(EVENT, timeout_seconds)
    names.answers.set()
    assert (outcome.result, outcome.timed_out) == (Outcome.RETRY, True)
    assert time.monotonic() - started < 1
