import base64
import json
import logging
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Event as Signal

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from chalicelib import __version__
from chalicelib.connection import Connection
from chalicelib.events import Event, Status
from chalicelib.push import KEEP_SECONDS, Outcome, PushClient, Result
from tests.conftest import LogLines, MakePush
from tests.support import receiver as behave
from tests.support.receiver import SECRET_PATH, Behaviour, Exchange, Receiver
from tests.support.world import START, Clock

EVENT = Event(
    event_id="evt_0123456789abcdef0123456789abcdef",
    event_type="order.created",
    status=Status.PENDING,
    created_at="2026-11-25T00:00:00.000001Z",
    created_by="acme",
    expires_at=2_000_000_000,
    size=1,
    payload='{"card":"secret-payload é \U0001f511 \\u0000","n":12345678901234567890123}',
    metadata='{"source":"shop"}',
)
BODY = (
    '{"event_id":"evt_0123456789abcdef0123456789abcdef","event_type":"order.created",'
    '"payload":{"card":"secret-payload é \U0001f511 \\u0000","n":12345678901234567890123},'
    '"metadata":{"source":"shop"},"created_at":"2026-11-25T00:00:00.000001Z"}'
).encode()
SECRETS = (b"first secret, of 24 byte", b"second secret \x00\xff", b"third secret")
MIB = 1024 * 1024
HUGE = replace(EVENT, payload=f'"{"x" * 8 * MIB}"')  # more than the network holds
LONG = 10.0  # for what must end long before its timeout
SOON = 2.0  # long before LONG, and enough for a busy machine


@pytest.fixture
def push(receiver: Receiver, make_push: MakePush) -> PushClient:
    return make_push(receiver.url)


def send_within(seconds: float, push: PushClient, timeout_seconds: float) -> PushResult:
    """Push, and hold the client to the time it may take; the duration that it tells must be true."""
    started = time.monotonic()
    outcome = push.send(EVENT, timeout_seconds)
    taken = time.monotonic() - started
    assert taken < seconds
    assert outcome.duration_ms == pytest.approx(taken * 1000, abs=20)
    return outcome


@contextmanager
def everything_logged() -> Iterator[list[str]]:
    """Give the lines of every logger that is not told to be silent."""
    heard: list[str] = []
    handler, root = logging.Handler(), logging.getLogger()
    handler.emit = lambda record: heard.append(handler.format(record))  # type: ignore[method-assign]
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield heard
    root.setLevel(before)
    root.removeHandler(handler)


# What is sent


def test_a_push_has_exactly_these_headers_and_this_body(receiver: Receiver, push: PushClient) -> None:
    push.send(EVENT, LONG)
    (request,) = receiver.requests
    assert (request.method, request.path) == ("POST", SECRET_PATH)
    assert request.body == BODY
    assert request.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "accept-encoding": "identity",
        "content-length": str(len(BODY)),
        "content-type": "application/json",
        "user-agent": f"triggers-api/{__version__}",
        "webhook-id": EVENT.event_id,
        "webhook-timestamp": "1795000000",
    }


def test_the_id_stays_the_same_and_the_timestamp_is_that_of_each_attempt_in_whole_seconds(
    receiver: Receiver, push: PushClient, clock: Clock
) -> None:
    push.send(EVENT, LONG)
    clock.sleep(61.999)
    push.send(EVENT, LONG)
    sent = [(request.headers["webhook-id"], request.headers["webhook-timestamp"]) for request in receiver.requests]
    assert sent == [(EVENT.event_id, "1795000000"), (EVENT.event_id, "1795000061")]


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", "/"),
        ("/", "/"),
        ("?a=b", "/?a=b"),
        ("//hook/x", "//hook/x"),
        ("/a%20%7e;b/%2F?x=%2f&y", "/a%20%7e;b/%2F?x=%2f&y"),
    ],
)
def test_path_and_query_are_sent_as_they_were_given(
    path: str, target: str, receiver: Receiver, make_push: MakePush
) -> None:
    make_push(receiver.url.removesuffix(SECRET_PATH) + path).send(EVENT, LONG)
    assert receiver.requests[0].path == target


@pytest.mark.parametrize("count", [1, 2, 3])
def test_each_secret_signs_what_is_sent(count: int, receiver: Receiver, make_push: MakePush) -> None:
    make_push(receiver.url, *SECRETS[:count], clock=time.time).send(EVENT, LONG)
    (request,) = receiver.requests
    assert len(request.headers["webhook-signature"].split(" ")) == count
    for secret in SECRETS[:count]:
        whsec = "whsec_" + base64.b64encode(secret).decode()
        assert Webhook(whsec).verify(request.body, dict(request.headers)) == json.loads(BODY)
    stranger = Webhook(base64.b64encode(b"not among them").decode())
    with pytest.raises(WebhookVerificationError):
        stranger.verify(request.body, dict(request.headers))


# What comes back

DELIVERED, RETRY, FAILED = Outcome.DELIVERED, Outcome.RETRY, Outcome.FAILED
CODES = {
    DELIVERED: (200, 201, 202, 204, 206, 226, 299),
    RETRY: (408, 425, 429, 500, 501, 502, 503, 504, 507, 599),
    FAILED: (300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 407, 409, 410, 413, 418, 422, 451, 600, 999),
}


@pytest.mark.parametrize(("result", "code"), [(result, code) for result, codes in CODES.items() for code in codes])
def test_the_status_code_decides(result: Result, code: int, receiver: Receiver, push: PushClient) -> None:
    receiver.script(behave.status(code))
    outcome = push.send(EVENT, LONG)
    error = None if result is DELIVERED else f"the receiver answered {code}"
    assert outcome == Outcome(result, outcome.duration_ms, code, error, retry_after_seconds=0.0, timed_out=False)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(code: int, receiver: Receiver, push: PushClient) -> None:
    with Receiver() as target:
        receiver.script(behave.redirect(target.url, code), behave.redirect(receiver.url, code))
        outcomes = [push.send(EVENT, LONG), push.send(EVENT, LONG)]
        assert target.connections == 0
    assert [outcome.result for outcome in outcomes] == [FAILED, FAILED]
    assert len(receiver.requests) == 2


@pytest.mark.parametrize("code", [200, 404, 503])
@pytest.mark.parametrize("before", [(100,), (103,), (102, 103, 103, 100)])
def test_informational_answers_are_no_outcome(
    before: tuple[int, ...], code: int, receiver: Receiver, push: PushClient
) -> None:
    receiver.default = behave.informational(*before, then=behave.status(code))
    assert [push.send(EVENT, LONG).status_code for _ in range(2)] == [code, code]
    assert receiver.connections == 1


@pytest.mark.parametrize("head", [b"X-One: of many\r\n" * 150, b"X-Long: " + b"x" * 70_000 + b"\r\n"])
@pytest.mark.parametrize(("code", "result"), [(200, DELIVERED), (404, FAILED)])
def test_a_large_head_changes_nothing(
    code: int, result: Result, head: bytes, receiver: Receiver, push: PushClient
) -> None:
    receiver.script(behave.garbage(b"HTTP/1.1 %d Odd\r\n%bContent-Length: 0\r\n\r\n" % (code, head)))
    assert push.send(EVENT, LONG).result is result


NOT_HTTP = "the answer is not HTTP"
NO_ANSWER = {
    "closed": (behave.close_without_answer(), "the connection was closed without an answer"),
    "reset": (behave.reset_before_answer(), "the connection was reset"),
    "reset in the headers": (behave.reset_mid_headers(), "the connection was reset"),
    "another protocol": (behave.garbage(), NOT_HTTP),
    "HTTP 0.9": (behave.garbage(b"<html>hello</html>"), NOT_HTTP),
    "HTTP 2": (behave.garbage(b"HTTP/2.0 200 OK\r\n\r\n"), NOT_HTTP),
    "binary": (behave.garbage(bytes(range(256)) * 10), NOT_HTTP),
    "no number": (behave.garbage(b"HTTP/1.1 twohundred OK\r\n\r\n"), NOT_HTTP),
    "number too small": (behave.garbage(b"HTTP/1.1 99 Odd\r\n\r\n"), NOT_HTTP),
    "long line": (behave.garbage(b"HTTP/1.1 200 " + b"x" * 200_000), NOT_HTTP),
    "endless headers": (behave.endless_headers(), NOT_HTTP),
    "endless 1xx": (behave.endless_informational(), NOT_HTTP),
}


@pytest.mark.parametrize("what", NO_ANSWER)
def test_no_answer_that_is_http_earns_another_attempt(what: str, receiver: Receiver, push: PushClient) -> None:
    receiver.script(NO_ANSWER[what][0])
    outcome = send_within(SOON, push, LONG)
    assert outcome == Outcome(RETRY, outcome.duration_ms, error=NO_ANSWER[what][1])
    assert push.send(EVENT, LONG).result is DELIVERED
    assert len(receiver.requests) == 2


@pytest.mark.parametrize("code", [200, 404, 503])
def test_whatever_becomes_of_the_body_the_outcome_stands(code: int, receiver: Receiver, push: PushClient) -> None:
    def stall(exchange: Exchange) -> None:
        exchange.send(f"HTTP/1.1 {code} Some\r\nContent-Length: 5\r\n\r\nha".encode())
        exchange.wait_until_left()

    def bad_chunks(exchange: Exchange) -> None:
        exchange.send(f"HTTP/1.1 {code} Some\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode())
        exchange.wait_until_left()

    receiver.script(
        stall, bad_chunks, behave.reset_mid_body(code), behave.endless_body(code), behave.gzip_bomb(1, code)
    )
    outcomes = [send_within(SOON, push, 0.2) for _ in range(5)]
    assert [(outcome.status_code, outcome.timed_out) for outcome in outcomes] == [(code, False)] * 5


@pytest.mark.parametrize("length", ["5, 6", "-1", "x", "9" * 30])
def test_an_answer_whose_length_makes_no_sense_counts_by_its_status(
    length: str, receiver: Receiver, push: PushClient
) -> None:
    receiver.script(behave.status(200, headers={"Content-Length": length, "Connection": "close"}))
    assert send_within(SOON, push, LONG).status_code == 200


def drip_short_body(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        exchange.pause(0.05)
        exchange.send(b"x")


@pytest.mark.parametrize("dripping", [drip_short_body, behave.drip_body(0.05)], ids=["short", "long"])
def test_a_dripping_body_is_not_waited_for_to_the_end_of_the_timeout(
    dripping: Behaviour, receiver: Receiver, push: PushClient
) -> None:
    receiver.script(dripping)
    assert send_within(SOON, push, LONG).result is DELIVERED


def endless_chunks(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        exchange.send(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")


ENDLESS = {
    "body": behave.endless_body(),
    "chunks": endless_chunks,
    "zipped body": behave.gzip_bomb(256),
    "headers": behave.endless_headers(),
    "1xx": behave.endless_informational(),
}


@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_answer_is_neither_read_nor_kept_in_memory(what: str, receiver: Receiver, push: PushClient) -> None:
    receiver.script(ENDLESS[what])
    tracemalloc.start()
    try:
        push.send(EVENT, 0.3)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * MIB


@pytest.mark.parametrize("what", ["body", "chunks"])
def test_no_more_of_an_endless_body_is_taken_than_the_network_holds(
    what: str, receiver: Receiver, push: PushClient
) -> None:
    receiver.script(ENDLESS[what])
    assert send_within(SOON, push, LONG).result is DELIVERED
    receiver.wait_until_left()
    assert receiver.bytes_sent < 8 * MIB


# Nobody there, and too slow


def test_a_refused_connection_earns_another_attempt(make_push: MakePush) -> None:
    outcome = send_within(SOON, make_push(behave.refused_url()), LONG)
    assert outcome == Outcome(RETRY, outcome.duration_ms, error="the connection was refused")


def test_a_name_that_does_not_resolve_earns_another_attempt(make_push: MakePush) -> None:
    outcome = send_within(5, make_push("https://nobody.invalid/hook"), 4)
    assert outcome.result is RETRY
    assert outcome.error == ("no answer in time" if outcome.timed_out else "the host name does not resolve")


SLOW = {
    "hang": behave.hang(),
    "dripped headers": behave.drip_headers(0.02),
    "dripped 1xx": behave.endless_informational(103, 0.02),
}


@pytest.mark.parametrize("what", SLOW)
def test_an_answer_that_takes_too_long_is_a_timeout_however_it_drips(
    what: str, receiver: Receiver, push: PushClient
) -> None:
    receiver.script(SLOW[what])
    outcome = send_within(SOON, push, 0.2)
    assert outcome == Outcome(RETRY, outcome.duration_ms, error="no answer in time", timed_out=True)
    assert outcome.duration_ms >= 200
    receiver.wait_until_left()  # and its connection is not used again
    assert send_within(SOON, push, LONG).result is DELIVERED


UNMEASURED = {
    "1xx": behave.endless_informational(100),
    "zeros in Retry-After": behave.garbage(b"HTTP/1.1 503 x\r\nRetry-After: " + b"0" * 65_000 + b"x\r\n\r\n"),
    "a chunk of less than nothing": behave.garbage(
        b"HTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * 10_000_000
    ),
}


@pytest.mark.parametrize("what", UNMEASURED)
def test_an_answer_without_measure_costs_neither_time_nor_memory(
    what: str, receiver: Receiver, push: PushClient
) -> None:
    receiver.script(UNMEASURED[what])
    tracemalloc.start()
    outcome = send_within(SOON, push, LONG)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (outcome.result, outcome.timed_out) == (RETRY, False)
    assert peak < 2_000_000 + len(EVENT.push_body())


def test_a_push_takes_its_timeout_and_not_much_more(receiver: Receiver, push: PushClient) -> None:
    receiver.script(behave.hang())
    assert send_within(1, push, 0.5).timed_out


def test_an_answer_that_comes_late_but_in_time_counts(receiver: Receiver, push: PushClient) -> None:
    receiver.script(behave.slow(0.2))
    assert push.send(EVENT, LONG).result is DELIVERED


@pytest.mark.parametrize(("connect_timeout_seconds", "timeout_seconds"), [(0.2, LONG), (LONG, 0.2)])
def test_a_connection_that_is_not_made_in_time_is_a_timeout(
    connect_timeout_seconds: float, timeout_seconds: float, make_push: MakePush
) -> None:
    with behave.blackhole_listener() as url:
        push = make_push(url, connect_timeout_seconds=connect_timeout_seconds)
        outcome = send_within(SOON, push, timeout_seconds)
    assert (outcome.result, outcome.timed_out) == (RETRY, True)


def test_the_time_to_connect_does_not_bound_the_answer(receiver: Receiver, make_push: MakePush) -> None:
    receiver.default = behave.slow(0.4)
    push = make_push(receiver.url, connect_timeout_seconds=0.2)
    assert [push.send(EVENT, LONG).result for _ in range(2)] == [DELIVERED, DELIVERED]


@pytest.mark.parametrize("bytes_at_a_time", [0, 65536])
def test_a_receiver_that_does_not_read_the_request_holds_nobody_longer_than_the_timeout(
    bytes_at_a_time: int, make_push: MakePush
) -> None:
    left = Signal()

    def read_slowly(connection: socket.socket) -> None:
        while not left.wait(0.02):
            if bytes_at_a_time:
                connection.recv(bytes_at_a_time)

    with Receiver(on_accept=read_slowly) as receiver:
        started = time.monotonic()
        outcome = make_push(receiver.url).send(HUGE, 0.3)
        left.set()
    assert outcome.timed_out
    assert time.monotonic() - started < SOON


def test_a_receiver_that_reads_a_big_event_slowly_gets_it_whole(make_push: MakePush) -> None:
    def rest(connection: socket.socket) -> None:
        Signal().wait(0.2)

    with Receiver(on_accept=rest) as receiver:
        assert make_push(receiver.url).send(HUGE, LONG).result is DELIVERED
        assert receiver.requests[0].body == HUGE.push_body()


def test_an_answer_counts_though_the_receiver_did_not_want_the_whole_request(make_push: MakePush) -> None:
    def answer_unread(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        Signal().wait(0.1)  # the client has the answer, and is still sending
        connection.close()

    with Receiver(on_accept=answer_unread) as receiver:
        outcome = make_push(receiver.url).send(HUGE, LONG)
    assert (outcome.result, outcome.status_code) == (FAILED, 413)


# Retry-After

NOW = datetime.fromtimestamp(START, UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        ("120", 120),
        ("3600", 3600),
        ("3601", 3600),
        ("9" * 5000, 3600),
        ("0000000000120", 120),
        ("120 ", 120),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (f"{NOW + timedelta(seconds=90):%A, %d-%b-%y %H:%M:%S} GMT", 90),  # RFC 850
        (f"{NOW + timedelta(seconds=90):%a %b %d %H:%M:%S %Y}", 90),  # asctime
        (format_datetime(NOW + timedelta(hours=2), usegmt=True), 3600),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0),
        ("-5", 0),
        ("1.5", 0),
        ("1e3", 0),
        ("+5", 0),
        ("٣", 0),
        ("soon", 0),
        ("", 0),
        ("120, 240", 0),
    ],
)
@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_is_believed_up_to_an_hour(
    code: int, value: str, seconds: float, receiver: Receiver, push: PushClient
) -> None:
    receiver.script(behave.status(code, headers={"Retry-After": value.encode().decode("latin-1")}))
    assert push.send(EVENT, LONG).retry_after_seconds == seconds


def test_a_date_without_a_zone_is_utc_wherever_the_machine_stands(
    receiver: Receiver, push: PushClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.script(behave.status(503, headers={"Retry-After": f"{NOW + timedelta(seconds=90):%a %b %d %H:%M:%S %Y}"}))
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Etc/GMT-9")
        time.tzset()
        assert push.send(EVENT, LONG).retry_after_seconds == 90
    time.tzset()


@pytest.mark.parametrize("code", [200, 301, 404, 408, 425, 500, 502, 504])
def test_retry_after_counts_on_429_and_503_alone(code: int, receiver: Receiver, push: PushClient) -> None:
    receiver.script(behave.status(code, headers={"Retry-After": "120"}))
    assert push.send(EVENT, LONG).retry_after_seconds == 0


# Connections


def chunked(exchange: Exchange) -> None:
    exchange.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")


def body_apart(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    exchange.pause(0.02)
    exchange.answer(b"x" * 1000)


def long_chunk(exchange: Exchange) -> None:
    exchange.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n800\r\n" + b"x" * 0x800 + b"\r\n0\r\n\r\n")


def with_more_than_was_asked_for(exchange: Exchange) -> None:
    exchange.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")


KEPT = {str(code): behave.status(code) for code in (200, 204, 304, 404, 429, 503)}
KEPT |= {"1 KiB": behave.status(200, body=b"x" * 1024), "chunked": chunked, "body apart": body_apart}
KEPT |= {"not gzip": behave.status(200, headers={"Content-Encoding": "gzip"})}


@pytest.mark.parametrize("answer", KEPT)
def test_connections_are_kept_and_used_again(answer: str, receiver: Receiver, push: PushClient) -> None:
    receiver.default = KEPT[answer]
    assert all(push.send(EVENT, LONG).status_code for _ in range(3))
    assert (receiver.connections, len(receiver.requests)) == (1, 3)


CLOSED: dict[str, Behaviour] = {
    "asked to close": behave.status(200, headers={"Connection": "close"}),
    "more than 1 KiB": behave.status(200, body=b"x" * 1025),
    "dripping": behave.drip_body(0.01),
    "more than 1 KiB in chunks": long_chunk,
    "endless chunks": endless_chunks,
}


@pytest.mark.parametrize("answer", CLOSED)
def test_a_connection_that_cannot_be_used_again_is_closed(answer: str, receiver: Receiver, push: PushClient) -> None:
    receiver.script(CLOSED[answer])
    assert [push.send(EVENT, LONG).status_code for _ in range(2)] == [200, 200]
    assert (receiver.connections, len(receiver.requests)) == (2, 2)


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next(receiver: Receiver, push: PushClient) -> None:
    receiver.script(with_more_than_was_asked_for)
    assert [push.send(EVENT, LONG).status_code for _ in range(2)] == [200, 200]


@pytest.mark.parametrize("close", [behave.answer_then_close, behave.answer_then_half_close], ids=["close", "half"])
def test_a_kept_connection_that_the_receiver_closed_meanwhile_is_not_a_failed_attempt(
    close: Callable[[Signal], Behaviour], receiver: Receiver, push: PushClient
) -> None:
    closed = Signal()
    receiver.script(close(closed))
    push.send(EVENT, LONG)
    assert closed.wait(5)
    outcome = send_within(SOON, push, LONG)
    assert outcome.result is DELIVERED
    assert (receiver.connections, len(receiver.requests)) == (2, 2)


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a kept connection look open, as it does when the receiver closes it the moment after the look."""
    monkeypatch.setattr(Connection, "is_open", True)


@pytest.mark.usefixtures("blind")
def test_a_kept_connection_that_the_receiver_closed_at_the_last_moment_is_not_a_failed_attempt(
    receiver: Receiver, push: PushClient
) -> None:
    for _ in range(2):
        closed = Signal()
        receiver.script(behave.answer_then_close(closed))
        assert send_within(SOON, push, LONG).result is DELIVERED
        assert closed.wait(5)
    assert (receiver.connections, len(receiver.requests)) == (2, 2)


def closed_after_103(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 103 Early Hints\r\n\r\n")
    exchange.half_close()
    exchange.reset()


TAKEN: dict[str, Behaviour] = {
    "closed": behave.close_without_answer(),
    "reset": behave.reset_before_answer(),
    "closed in the status line": behave.garbage(b"HTTP/1.1 2"),
    "closed after 103": closed_after_103,
    "timeout": behave.hang(),
}


@pytest.mark.parametrize("what", TAKEN)
def test_a_push_that_the_receiver_took_from_a_kept_connection_is_an_attempt_whatever_follows(
    what: str, receiver: Receiver, push: PushClient
) -> None:
    receiver.script(behave.status(200), TAKEN[what])
    assert [push.send(EVENT, 0.5).result for _ in range(2)] == [DELIVERED, RETRY]
    assert (receiver.connections, len(receiver.requests)) == (1, 2)


@pytest.mark.usefixtures("blind")
def test_a_push_that_a_half_closed_connection_took_is_an_attempt(receiver: Receiver, push: PushClient) -> None:
    closed = Signal()
    receiver.script(behave.answer_then_half_close(closed))
    push.send(EVENT, LONG)
    assert closed.wait(5)
    assert push.send(EVENT, LONG).result is RETRY
    assert (receiver.connections, len(receiver.wait_for(2))) == (1, 2)


@pytest.mark.parametrize(("idle_seconds", "connections"), [(KEEP_SECONDS, 1), (5, 2)])
def test_a_connection_that_was_idle_as_long_as_servers_keep_it_is_not_trusted(
    idle_seconds: float, connections: int, receiver: Receiver, push: PushClient, clock: Clock
) -> None:
    push.send(EVENT, LONG)
    clock.sleep(idle_seconds)
    assert push.send(EVENT, LONG).result is DELIVERED
    assert receiver.connections == connections


def test_a_kept_connection_gets_the_time_of_each_push_anew(receiver: Receiver, push: PushClient) -> None:
    receiver.script(behave.status(200), behave.slow(0.4), behave.hang())
    push.send(EVENT, 0.2)
    assert push.send(EVENT, LONG).result is DELIVERED
    assert send_within(SOON, push, 0.2).timed_out
    assert receiver.connections == 1


def test_threads_share_a_client_and_each_gets_its_own_answer(receiver: Receiver, push: PushClient) -> None:
    codes = (200, 404, 503, 429)

    def answer(exchange: Exchange) -> None:
        behave.status(int(exchange.request.headers["webhook-id"].split("_")[1]))(exchange)

    receiver.default = answer
    events = [replace(EVENT, event_id=f"evt_{codes[number % 4]}_{number}") for number in range(200)]
    with ThreadPoolExecutor(10) as pool:
        outcomes = list(pool.map(lambda event: push.send(event, LONG), events))
    assert [outcome.status_code for outcome in outcomes] == [codes[number % 4] for number in range(200)]
    assert sorted(request.headers["webhook-id"] for request in receiver.requests) == sorted(e.event_id for e in events)
    assert receiver.connections <= 10


# Secrets


def test_nothing_told_of_a_push_holds_path_query_payload_or_secrets(
    receiver: Receiver, make_push: MakePush, log_lines: LogLines, capsys: pytest.CaptureFixture[str]
) -> None:
    behaviours = [
        *(behaviour for behaviour, _ in NO_ANSWER.values()),
        behave.hang(),
        behave.redirect(receiver.url),
        behave.status(500, headers={"Retry-After": SECRET_PATH}, body=BODY),
        behave.garbage(f"HTTP/1.1 503 No {SECRET_PATH}\r\nno colon\r\n: odd\r\n\r\n".encode()),
    ]
    receiver.script(*behaviours)
    push = make_push(receiver.url, *SECRETS)
    with everything_logged() as heard:
        told = [repr(push), *(repr(push.send(EVENT, 0.2)) for _ in behaviours)]
        nobody = (behave.refused_url(), "http://nobody.invalid" + SECRET_PATH)
        told += [repr(make_push(url, *SECRETS).send(EVENT, 0.5)) for url in nobody]
    assert len(receiver.requests) == len(behaviours)
    text = "\n".join([*told, *heard, *capsys.readouterr()])
    for secret in ("secret-path", "secret-query", "secret-payload", *map(str, SECRETS)):
        assert secret not in text
