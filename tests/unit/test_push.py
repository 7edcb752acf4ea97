import gzip
import socket
import ssl
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Event as Signal
from typing import Any

import pytest
from urllib3.util import SKIP_HEADER

from chalicelib.core.event import Event, Status
from chalicelib.core.http_push import PushClient
from chalicelib.core.outcome import Outcome, PushResult
from chalicelib.core.target import Target
from tests.support import receiver as behave
from tests.support.receiver import (
    SECRET_PATH,
    Exchange,
    Receiver,
    certificates,
    endless,
    garbage,
    head,
)
from tests.support.world import UNKNOWN, Clock, close_connections

EVENT = Event(
    event_id=UNKNOWN,
    event_type="t",
    status=Status.PENDING,
    created_at="",
    created_by="",
    expires_at=5,
    response_bytes=2,
)
HUGE = replace(EVENT, payload=f'"{"x" * 8 * 1024 * 1024}"')  # more than the network holds
Resolve = Callable[..., None]
Act = Callable[[socket.socket], None]
LONG = 10.0  # for what must end long before its timeout
DELIVERED = Outcome.DELIVERED
RETRY = Outcome.RETRY
FAILED = Outcome.FAILED


@pytest.fixture
def tls_server() -> Iterator[Receiver]:
    with Receiver(tls=certificates().valid()) as receiver:
        yield receiver


@pytest.fixture(params=["receiver", "tls_server"])
def server(request: pytest.FixtureRequest) -> Any:
    """Give a receiver over HTTP, then one over TLS."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def push(clock: Clock) -> Iterator[PushClient]:
    """Return a push client that trusts the authority of `certificates()`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    certificates().authority.configure_trust(context)
    push = PushClient(clock=clock, tls_context=lambda: context)
    yield push
    close_connections(push)


def send(
    push: PushClient,
    url: str,
    event: Event = EVENT,
    *,
    timeout_seconds: float = LONG,
    connect_timeout_seconds: float = 5,
    **options: Any,
) -> PushResult:
    target = Target(url, "", "", **{"secrets": (), "is_enabled": True, **options})
    return push.send(event, target, 1, timeout_seconds, connect_timeout_seconds)


def send_within(
    seconds: float, push: PushClient, url: str, event: Event = EVENT, **options: Any
) -> PushResult:
    started = time.monotonic()
    result = send(push, url, event, **options)
    elapsed_seconds = time.monotonic() - started
    assert elapsed_seconds < seconds
    assert result.duration_ms <= elapsed_seconds * 1000 + 1
    return result


def assert_retry(result: PushResult, error: str) -> None:
    assert result == PushResult(RETRY, result.duration_ms, error=error)


CODES = {
    DELIVERED: "200 201 202 204 206 299",
    FAILED: "400 405 406 410 411 413 414 415 422 431",
    RETRY: "300 301 302 303 304 307 308 401 402 403 404 407 408 409 412 418 425 429 451 "
    "500 501 502 503 504 599 600 999",
}


@pytest.mark.parametrize(
    "code, outcome",
    [(int(code), outcome) for outcome, codes in CODES.items() for code in codes.split()],
)
def test_the_status_code_decides_and_redirects_are_not_followed(
    code: int, outcome: Outcome, receiver: Receiver, push: PushClient
) -> None:
    receiver.script(behave.redirect(receiver.url, code))
    result = send(push, receiver.url)
    error = None if outcome is DELIVERED else f"receiver responded {code}"
    response = None if outcome is DELIVERED else "" if code == 304 else "ok"
    assert result == PushResult(outcome, result.duration_ms, code, error, 0.0, response)
    assert receiver.count == 1


@pytest.mark.parametrize("code", [200, 503])
@pytest.mark.parametrize("before", [(100,), (101,), (102, 103, 103, 100)])
def test_informational_is_skipped(
    before: tuple[int, ...], code: int, tls_server: Receiver, push: PushClient
) -> None:
    informational = b"".join(head(each, {"Link": "</x>"}) for each in before)
    tls_server.default = behave.answer(informational + head(code, {"Content-Length": "0"}))
    assert [send(push, tls_server.url).status_code for _ in range(2)] == [code, code]
    assert tls_server.connections == 1


@pytest.mark.parametrize(
    "informational, final, expected",
    [
        (1, 1, (200, None)),
        (3, 1, (None, "response is not HTTP")),
        (0, 3, (None, "response is not HTTP")),
    ],
)
def test_little_is_read_before_the_body(
    informational: int,
    final: int,
    expected: tuple[int | None, str | None],
    tls_server: Receiver,
    push: PushClient,
) -> None:
    lines = {f"X-{number}": "x" * 50_000 for number in range(final)}
    before = head(103, {"Link": "x" * 50_000}) * informational
    tls_server.default = behave.answer(before + head(200, {"Content-Length": "0", **lines}))

    result = send(push, tls_server.url)

    assert (result.status_code, result.error) == expected


SECRET_URL = "/hooks/catch/12345/Abc-%C3%A9t%C3%A9?key=a%2Fb%2Fc%2Fd&token=Zx9+Qw8-Er7&id=id123%21"
LONG_PATH = "/" + "".join(map(str, range(400)))


@pytest.mark.parametrize(
    "path, body",
    [
        *((SECRET_URL, f"Not found: {text}") for text in (
            "/hooks/catch/12345/Abc-%C3%A9t%C3%A9", "atch/123", "/HOOKS/CATCH/12345",
            "/hooks/catch/12345/abc-été",
            "token=zx9+qw8", "KEY=A%2fB%2fC%2fD", "key=a/b/c/d", "ID123!",
        )),
        ("/1234567/ab12cd3/", '{"account": "1234567"}'),
        ("/1234567/ab12cd3/", '{"hook": "AB12CD3"}'),
        (SECRET_URL, "".join(f"%{ord(letter):02x}" for letter in "/hooks/catch")),
        (SECRET_URL, "x" * 300 + "hooks/catch"),
        (SECRET_URL, "x" * 195 + "hooks/catch"),
        (SECRET_URL, "x" * 1015 + "hooks/cat"),
        (LONG_PATH, LONG_PATH * 2),
        (LONG_PATH, f"No {LONG_PATH[300:]}"),
        ("/hook", "no bearer h3ad3r"),
        ("/hook", "h3ad3r is revoked"),
        ("/hook", "unknown Bearer H"),
        ("/hook", "Q/RzZWNyZXQtbX is unknown"),
    ],
)  # fmt: skip
def test_what_repeats_the_url_a_header_or_a_secret_is_hidden(
    path: str, body: str, receiver: Receiver, push: PushClient
) -> None:
    receiver.default = behave.status(404, body=body.encode())
    url = receiver.url.replace(SECRET_PATH, path)

    secrets = (b"C" * 24, b"C\xf4secret-my-own-secret")
    result = send(push, url, headers={"Authorization": "Bearer h3ad3r"}, secrets=secrets)

    assert result.response == ""


@pytest.mark.parametrize(
    "path, body",
    [
        (SECRET_URL, "No hooks to catch; the key and token of account 12345 are wrong."),
        (SECRET_URL, "\u2028" * 200 + "hooks/c"),
        (SECRET_URL, '{"error": "a \\"Zap\\" was 100% off & <b>hidden</b>"}'),
        ("/catch/secret/a1234/%C3%A9", "secret a1234 é"),
        ("/hook", "Cannot POST /hook"),
        ("/", "Cannot POST /"),
    ],
)
def test_seven_characters_of_the_url_are_shown(
    path: str, body: str, receiver: Receiver, push: PushClient
) -> None:
    receiver.default = behave.status(404, body=body.encode())

    response = send(push, receiver.url.replace(SECRET_PATH, path)).response

    assert response == body[:200].replace("\u2028", r"\u2028")


ANSWERED = {
    "Server": "cloudflare",
    "Via": "1.1 d41d8cd98f00b204e9800998ecf8427e.cloudfront.net (CloudFront)",
    "Content-Type": "text/html; charset=UTF-8",
    "Retry-After": "120",
    "WWW-Authenticate": 'Basic realm="shop"',
    "X-Request-Id": "0b7c0f6e-2f7a-4f6e-9a55-0e8b6d2f1c11",
    "x-amzn-RequestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
    "X-Amz-Cf-Id": "k7WzD9J-tQmV0n4w",
    "CF-RAY": "8f3b2c1d0e9f8a7b-FRA",
}


def headers_of(push: PushClient, receiver: Receiver, code: int, **headers: str) -> dict[str, str]:
    """Return what is shown of the headers of a response; `headers` have `_` for `-`."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    receiver.default = behave.status(code, headers=fields)
    url = receiver.url.replace(SECRET_PATH, SECRET_URL)
    return send(push, url, headers={"Authorization": "Bearer h3ad3r"}).response_headers


def test_a_response_that_is_not_2xx_shows_the_headers_that_say_who_answered(
    receiver: Receiver, push: PushClient
) -> None:
    others = {"Set-Cookie": "session=1", "Date": "Thu, 03 Dec 2026 10:00:00 GMT"}

    shown = headers_of(push, receiver, 503, **ANSWERED, **others)

    assert shown == {name.lower(): value for name, value in ANSWERED.items()}
    assert headers_of(push, receiver, 200, **ANSWERED) == {}
    receiver.default = behave.close_without_answer
    assert send(push, receiver.url).response_headers == {}


@pytest.mark.parametrize(
    "value, shown",
    [
        ("https://login.example.com/hook?X-Amz-Signature=abc", "https://login.example.com"),
        ("http://user:password@login.example.com:8443/", "http://login.example.com"),
        ("https://[2001:db8::1]/", "https://[2001:db8::1]"),
        ("/login", None),
        ("//login.example.com/", None),
        ("https://", None),
        ("https://a b/", None),
        ("https://login.example.com/hooks/catch/12345/", None),
    ],
)
def test_of_a_location_scheme_and_host_are_shown_alone(
    value: str, shown: str | None, receiver: Receiver, push: PushClient
) -> None:
    headers = headers_of(push, receiver, 302, Location=value)

    assert headers.get("location") == shown


@pytest.mark.parametrize(
    "secret", ["hooks/catch/12345", "h3ad3r", "KEY%3Da%2Fb%2Fc", "x" * 5000 + "hooks/catch/12345"]
)
def test_a_header_that_repeats_a_secret_anywhere_is_left_out_alone(
    secret: str, receiver: Receiver, push: PushClient
) -> None:
    headers = headers_of(push, receiver, 503, Server="nginx", Via=secret, CF_RAY="8f3b-FRA")

    assert headers == {"server": "nginx", "cf-ray": "8f3b-FRA"}


def test_headers_of_a_response_are_escaped_and_cut(receiver: Receiver, push: PushClient) -> None:
    long = dict.fromkeys(("Server", "Via", "Content-Type", "CF-RAY"), "x" * 130)

    headers = headers_of(push, receiver, 503, **long, Retry_After="\x1b[31m\x85")

    assert headers == {
        "server": "x" * 120,
        "via": "x" * 120,
        "content-type": "x" * 120,
        "retry-after": r"\x1b[31m\x85",
        "cf-ray": "x" * (400 - 3 * 120 - 12),
    }


def test_secrets_are_looked_for_in_large_headers_within_half_a_second(
    receiver: Receiver, push: PushClient
) -> None:
    receiver.default = behave.status(503, headers={"Via": "y" * 60_000, "Server": "z" * 60_000})
    path = "/" + "".join(map(str, range(2000)))
    started = time.process_time()

    shown = send(push, receiver.url.replace(SECRET_PATH, path)).response_headers

    assert list(shown) == ["server", "via"]
    assert time.process_time() - started < 0.5


def test_a_compressed_response_is_not_decompressed(receiver: Receiver, push: PushClient) -> None:
    receiver.default = behave.status(
        503, headers={"Content-Encoding": "gzip"}, body=gzip.compress(b"bomb")
    )

    assert str(send(push, receiver.url).response).startswith("\\x1f")


@pytest.mark.parametrize("secrets", [[], [b"secret"]])
def test_headers_are_added_and_replace_none_of_the_push(
    secrets: list[bytes], push: PushClient
) -> None:
    requests = []
    headers = {
        "Authorization": "Bearer a",
        "content-type": "text/plain",
        "WEBHOOK-ID": "b",
        "user-agent": "c",
        "Webhook-Event-Type": "own",  # which is reserved now
    }

    def receive(connection: socket.socket) -> None:
        requests.append(connection.recv(65536))
        connection.close()

    with Receiver(on_accept=receive) as receiver:
        for added in ({}, headers):
            send(push, receiver.url, secrets=secrets, headers=added)
    without, with_headers = (
        request.partition(b"\r\n\r\n")[0].lower().splitlines()[1:] for request in requests
    )
    assert b"content-type: application/json" in without
    kept = [line for line in without if not line.startswith(b"webhook-event-type: ")]
    assert len(kept) == len(without) - 1
    own = [b"authorization: bearer a", b"webhook-event-type: own"]
    assert sorted(with_headers) == sorted([*kept, *own])


NOT_HTTP = "response is not HTTP"
RESET = "connection reset"
FAULTY = {
    "closed": (behave.close_without_answer, "connection closed without a response"),
    "reset": (behave.reset_before_answer, RESET),
    "reset in the headers": (behave.reset_mid_headers, RESET),
    "another protocol": (garbage(), NOT_HTTP),
    "long header": (garbage(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"), NOT_HTTP),
    "two lengths": (garbage(head(200, {"Content-Length": "5, 6"}) + b"12345"), NOT_HTTP),
    "endless 103": (endless(b"", head(103)), NOT_HTTP),
}


@pytest.mark.parametrize("what", FAULTY)
def test_no_http_response_is_a_retry_and_nothing_is_sent_twice(
    what: str, server: Receiver, push: PushClient
) -> None:
    server.default = FAULTY[what][0]
    server.script(200)
    assert send(push, server.url).outcome is DELIVERED
    for _ in range(2):  # on a connection that is reused, and a new one
        assert_retry(send_within(5, push, server.url), FAULTY[what][1])
    assert server.connections == 2
    assert server.count == 3


OK_CHUNKED = head(200, {"Transfer-Encoding": "chunked"})
BODIES = {
    "stalls": behave.in_turn(
        lambda exchange: exchange.send(head(200, {"Content-Length": "5"}) + b"ha"), behave.hang
    ),
    "trickles": endless(head(200, {"Content-Length": "1000"}), b"x", 0.02),
    "reset": behave.reset_mid_body,
    "endless": endless(head(200), b"x" * 16384),
    "endless chunks": endless(OK_CHUNKED, b"2000\r\n" + b"x" * 0x2000 + b"\r\n"),
    "chunk without a size": endless(OK_CHUNKED, b"zz\r\n"),
    "not gzip": behave.status(200, headers={"Content-Encoding": "gzip"}),
}


@pytest.mark.parametrize("what", BODIES)
def test_2xx_is_delivered_whatever_becomes_of_the_body(
    what: str, tls_server: Receiver, push: PushClient
) -> None:
    tls_server.script(BODIES[what])
    tracemalloc.start()
    result = send_within(5, push, tls_server.url)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000
    assert result == PushResult(DELIVERED, result.duration_ms, 200)
    assert send(push, tls_server.url).outcome is DELIVERED


def test_a_push_ends_at_its_timeout_whatever_becomes_of_the_body(
    server: Receiver, push: PushClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The bound of the body is raised, so that the timeout ends the push.
    monkeypatch.setattr("chalicelib.infra.connection.BODY_SECONDS", 5)
    server.default = BODIES["trickles"]
    assert send_within(4, push, server.url, timeout_seconds=0.3).outcome is DELIVERED


SLOW = {
    "hangs": behave.hang,
    "trickles the status line": endless(b"HTTP/1.1 200 ", b"x", 0.02),
    "trickles headers": endless(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.02),
    "trickles 103": endless(b"", head(103), 0.02),
}


@pytest.mark.parametrize("what", SLOW)
@pytest.mark.parametrize("reused", [False, True])
def test_a_response_that_takes_too_long_times_out(
    reused: bool, what: str, server: Receiver, push: PushClient
) -> None:
    if reused:
        send(push, server.url)
    server.default = SLOW[what]
    result = send_within(5, push, server.url, timeout_seconds=0.2)
    server.default = 200
    assert_retry(result, "timed out")
    assert result.duration_ms >= 200
    assert send(push, server.url).outcome is DELIVERED
    assert server.connections == 2


def trickle_handshake(connection: socket.socket) -> None:
    connection.recv(65536)
    # the beginning of a ServerHello of 16 KiB
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")
    while True:
        Signal().wait(0.02)
        connection.sendall(b"\x03")


def flood_handshake(connection: socket.socket) -> None:
    connection.recv(65536)
    while True:
        connection.sendall(b"\x16\x03\x03\x00\x04\x00\x00\x00\x00" * 1000)  # HelloRequest


def flood_tickets(connection: socket.socket) -> None:
    """Send session tickets, which a client reads when it waits for the response."""
    context = certificates().valid()
    context.num_tickets = 1_000_000
    with context.wrap_socket(connection, server_side=True) as tls:
        tls.recv(65536)


@pytest.mark.parametrize("flood", [flood_handshake, flood_tickets])
def test_endless_records_in_place_of_a_handshake_or_a_response_time_out(
    flood: Act, push: PushClient
) -> None:
    with Receiver(tls=certificates().valid(), on_accept=flood) as receiver:
        assert_retry(send_within(5, push, receiver.url, timeout_seconds=0.5), "timed out")


@pytest.mark.parametrize("timeout", ["connect_timeout_seconds", "timeout_seconds"])
@pytest.mark.parametrize("where", [None, behave.hang_on_accept, trickle_handshake])
def test_a_connection_that_is_not_made_keeps_no_other_waiting(
    where: Any, timeout: str, push: PushClient
) -> None:
    with (
        behave.blackhole_listener() as url,
        Receiver(tls=certificates().valid(), on_accept=where) as receiver,
    ):
        urls = [receiver.url if where else url] * 12
        with ThreadPoolExecutor(len(urls)) as pool:
            results = list(
                pool.map(lambda url: send_within(4, push, url, EVENT, **{timeout: 0.3}), urls)
            )
    assert {(result.outcome, result.error) for result in results} == {(RETRY, "timed out")}


@contextmanager
def unread(secure: bool, act: Act, *, handshake_after_seconds: float = 0) -> Iterator[str]:
    """Let `act` serve connections, after a handshake if they are secure; yield the URL."""

    def accept(connection: socket.socket) -> None:
        Signal().wait(handshake_after_seconds)
        with certificates().valid().wrap_socket(connection, True) if secure else connection as sock:
            act(sock)

    with Receiver(on_accept=accept) as receiver:
        url = receiver.url
        yield url.replace("http://127.0.0.1", "https://localhost") if secure else url


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("bytes_at_a_time", [0, 65536])
def test_a_receiver_that_reads_slowly_is_a_timeout(
    bytes_at_a_time: int, secure: bool, push: PushClient
) -> None:
    left = Signal()

    def read_slowly(connection: socket.socket) -> None:
        while not left.wait(0.02):
            connection.recv(bytes_at_a_time)

    handshake_seconds = 2 if secure else 0  # which is part of the time
    with unread(secure, read_slowly, handshake_after_seconds=handshake_seconds) as url:
        timeout_seconds = handshake_seconds + 0.2
        result = send_within(4, push, url, HUGE, timeout_seconds=timeout_seconds)
        assert result.error == "timed out"
        left.set()


@pytest.mark.parametrize("secure", [False, True])
def test_a_response_counts_though_the_receiver_did_not_read_the_request(
    secure: bool, push: PushClient
) -> None:
    def respond(connection: socket.socket) -> None:
        connection.sendall(head(413, {"Content-Length": "0"}))
        socket.socket.shutdown(connection, socket.SHUT_WR)
        Signal().wait(0.1)  # the client has the response, and is still sending

    with unread(secure, respond) as url:
        assert send(push, url, HUGE).status_code == 413


HTTP_DATE = "%a, %d %b %Y %H:%M:%S GMT"
WAITS = [
    ("0", 0),
    (" 0120 ", 120),
    ("3601", 3601),
    ("9" * 300, 9999),
    (HTTP_DATE, 1800),
    (HTTP_DATE, 7200),
    (HTTP_DATE, -3600),
    ("Fri, 31 Dec 99999 23:59:59 GMT", 0),
    ("%A, %d-%b-%y %H:%M:%S GMT", 1800),  # RFC 850
    ("%a %b %d %H:%M:%S %Y", 1800),  # asctime
]
NO_WAITS = ("-5", "1.5", "1e3", "+5", "\xb2", "soon", "", "120, 240", "0" * 65_000 + "x")


@pytest.mark.parametrize("value, seconds", [*WAITS, *((value, 0) for value in NO_WAITS)])
def test_retry_after_counts_up_to_an_hour(
    value: str, seconds: float, receiver: Receiver, push: PushClient
) -> None:
    codes = (429, 503, 200, 301, 404, 408, 500, 502)
    value = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime(value)
    receiver.script(*(behave.status(code, headers={"Retry-After": value}) for code in codes))
    waits = [send(push, receiver.url).retry_after_seconds for _ in codes]
    expected = min(3600, max(0, seconds))
    assert waits == pytest.approx([expected, expected, 0, 0, 0, 0, 0, 0], abs=60)


SURPLUS = head(200, {"Content-Length": "0"})  # would make a failed push a delivered one
NOT_REUSED = {
    "asked to close": behave.status(200, headers={"Connection": "close"}),
    "more than 1 KiB": behave.status(200, body=b"x" * 1025),
    "unread after 8 KiB": behave.answer(
        head(200, {"Content-Length": "8192"}) + b"x" * 8192 + SURPLUS
    ),
    "unread after 204": behave.answer(head(204) + b"x" * 12_000 + SURPLUS),
    "unread at the edge of a buffer": behave.answer(head(204).ljust(8192, b"x") + SURPLUS),
    "more later": behave.in_turn(
        behave.status(200), lambda exchange: exchange.pause(0.02), behave.answer(SURPLUS)
    ),
    "closed": behave.in_turn(behave.status(200), Exchange.close),
}


@pytest.mark.parametrize("what", NOT_REUSED)
def test_a_connection_closed_or_with_unread_bytes_is_not_reused(
    what: str, server: Receiver, push: PushClient
) -> None:
    done = Signal()
    server.script(behave.in_turn(NOT_REUSED[what], lambda exchange: done.set()), 503)
    assert send(push, server.url).outcome is DELIVERED
    assert done.wait(LONG)
    assert send(push, server.url).status_code == 503
    assert server.connections == 2
    assert server.count == 2


def test_a_tls_record_beside_the_response_is_never_read_as_the_next_one(
    tls_server: Receiver, push: PushClient
) -> None:
    def send_together(exchange: Exchange) -> None:
        exchange.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        exchange.send(head(204))
        exchange.send(SURPLUS)
        exchange.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)

    tls_server.script(send_together, 503)
    assert [send(push, tls_server.url).status_code for _ in range(2)] == [204, 503]


@pytest.mark.parametrize("idle_seconds, connections", [(4, 1), (4.1, 2)])
def test_a_connection_that_was_idle_for_four_seconds_is_not_reused(
    idle_seconds: float, connections: int, tls_server: Receiver, push: PushClient, clock: Clock
) -> None:
    send(push, tls_server.url)
    clock.sleep(idle_seconds)
    assert send(push, tls_server.url).outcome is DELIVERED
    assert tls_server.connections == connections


def test_threads_that_push_to_one_host_reuse_their_connections(
    tls_server: Receiver, push: PushClient
) -> None:
    tls_server.default = behave.when_all_are_here(25)
    with ThreadPoolExecutor(25) as pool:
        for _ in range(3):
            list(pool.map(partial(send, push), [tls_server.url] * 25))
    assert tls_server.connections == 25


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Return a function that lets names resolve to addresses, or fail with an error.

    A connection to an address leads to its port of 127.0.0.1.
    """
    resolver = socket.getaddrinfo

    def resolve(addresses: Mapping[str, int], error: Exception | None = None) -> None:
        def getaddrinfo(host: str, *parameters: Any, **more: Any) -> list[Any]:
            if host == "127.0.0.1":
                return resolver(host, *parameters, **more)
            if error:
                raise error
            found = [(address, 80) for address in addresses]
            if host in addresses:
                found = [("127.0.0.1", addresses[host])]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in found]

        # The resolver of the system has no seam, and a test no name server.
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    return resolve


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/")[0])


def test_addresses_are_tried_in_turn_and_share_the_time(
    resolve: Resolve, receiver: Receiver, push: PushClient
) -> None:
    with behave.blackhole_listener() as url:
        dead = port_of(url)
        refused = port_of(behave.refused_url())
        resolve({"8.8.8.1": refused, "8.8.8.2": dead, "8.8.8.3": receiver.port})
        result = send(push, "http://name.example/hook", connect_timeout_seconds=1)
        assert result.outcome is DELIVERED
        assert receiver.requests[0].headers["host"] == "name.example:80"
        resolve({f"8.8.8.{number}": dead for number in range(8)})
        other = "http://other.example/hook"
        assert send_within(4, push, other, connect_timeout_seconds=1).error == "timed out"
        # as IPv6, which Lambda does not have, after IPv4
        resolve({"8.8.8.1": dead, "8.8.8.2": refused})
        third = send(push, "http://third.example/hook", connect_timeout_seconds=0.2)
        assert third.error == "timed out"


def test_ten_pushes_at_once_to_each_of_many_hosts_leave_few_connections_open(
    resolve: Resolve, receiver: Receiver, push: PushClient
) -> None:
    resolve({"8.8.8.8": receiver.port})
    receiver.default = behave.when_all_are_here(10)
    with ThreadPoolExecutor(10) as pool:
        for number in range(50):
            list(pool.map(partial(send, push), [f"http://{number}.example/hook"] * 10))
    receiver.wait_until_left(most=250)
    receiver.default = 200
    assert send(push, "http://49.example/hook").outcome is DELIVERED
    assert receiver.connections == 500  # one of the latest is reused


NOT_PUBLIC = (
    "127.0.0.1 0.0.0.0 10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 "
    "224.0.0.1 239.1.2.3 255.255.255.255 192.0.2.1 198.51.100.1 203.0.113.1 "
    "::1 :: fe80::1%1 fd00::1 fec0::1 ff02::1 ff0e::1 2001:db8::1 3fff::1 4000::1 "
    "::ffff:10.0.0.1 ::ffff:169.254.169.254 ::10.0.0.1 64:ff9b::10.0.0.1 64:ff9b::224.0.0.1 "
    "2002:a00:1::1 2002:e000:1::1 ::ffff:0:8.8.8.8 64:ff9b:1::8.8.8.8 2001:0:808:808::1"
)
PUBLIC = "8.8.8.8 2606:4700::1 ::ffff:8.8.8.8 ::8.8.8.8 64:ff9b::8.8.8.8 2002:808:808::1"


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_an_address_must_be_public(
    address: str, resolve: Resolve, receiver: Receiver, push: PushClient
) -> None:
    resolve({address: receiver.port})
    result = send(push, "http://name.example/hook", public_only=True)
    assert result == PushResult(FAILED, result.duration_ms, error="address not allowed")
    assert receiver.connections == 0


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_public_address_is_connected_to(
    address: str, resolve: Resolve, receiver: Receiver, push: PushClient
) -> None:
    resolve({address: receiver.port})
    receiver.script(behave.redirect(receiver.url))
    url = "http://name.example/hook"
    assert [send(push, url, public_only=True).status_code for _ in range(2)] == [302, 200]


def test_the_address_connected_to_must_be_public(
    resolve: Resolve, receiver: Receiver, push: PushClient
) -> None:
    resolve({"8.8.8.8": receiver.port, "10.0.0.1": receiver.port})
    assert send(push, "http://one.example/hook", public_only=True).outcome is DELIVERED
    resolve({"8.8.8.8": port_of(behave.refused_url()), "10.0.0.1": receiver.port})
    assert send(push, "http://two.example/hook", public_only=True).error == "address not allowed"
    assert receiver.connections == 1


@pytest.mark.parametrize(
    "error, text",
    [
        (socket.gaierror(-2, "Name or service not known"), "host name does not resolve"),
        (UnicodeError("label too long"), "host name does not resolve"),
        (None, "host name does not resolve"),  # to no address
        (OSError(101, "Network is unreachable"), "receiver cannot be reached"),
    ],
)
def test_a_host_without_an_address_is_a_retry(
    error: Any, text: str, resolve: Resolve, push: PushClient
) -> None:
    resolve({}, error)
    assert_retry(send(push, "https://name.example/hook"), text)


def test_a_request_that_cannot_be_made_is_a_retry(receiver: Receiver, push: PushClient) -> None:
    """Such a value was taken by earlier versions."""
    assert_retry(send(push, receiver.url, headers={"X-Key": SKIP_HEADER}), "request cannot be made")
    assert receiver.requests == []


@pytest.mark.parametrize(
    "certificate, on_accept, error",
    [
        ("unknown_authority", None, "certificate does not verify"),
        ("wrong_host", None, "certificate does not verify"),
        ("expired", None, "certificate does not verify"),
        ("valid", behave.tls_broken_off, "TLS failed"),
        ("valid", behave.reset_on_accept, "connection reset"),
    ],
)
def test_a_handshake_that_fails_is_a_retry_and_nothing_is_sent(
    certificate: str, on_accept: Any, error: str, push: PushClient
) -> None:
    with Receiver(tls=getattr(certificates(), certificate)(), on_accept=on_accept) as receiver:
        assert_retry(send(push, receiver.url), error)
        receiver.wait_until_left()
        assert receiver.requests == []
