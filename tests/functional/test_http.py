"""The API over real HTTP, by Chalice's own local server, with many callers at the same time."""

import functools
import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pytest
from chalice.config import Config
from chalice.local import ChaliceRequestHandler, ThreadedHTTPServer, create_local_server

import app
from tests.support.receiver import Receiver, gate
from tests.support.world import KEY, World

HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
EVENT = b'{"event_type": "order.created", "payload": {"order_id": "12345"}, "metadata": {"source": "shop"}}'


class QuietHandler(ChaliceRequestHandler):
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def port(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(ThreadedHTTPServer, "request_queue_size", 128)
    monkeypatch.setattr(ThreadedHTTPServer, "daemon_threads", True)
    monkeypatch.setattr(app.app, "__class__", app.app.__class__)  # the server's own class goes when it goes
    config = Config.create()
    server = create_local_server(app.app, config, "127.0.0.1", 0).server
    server.RequestHandlerClass = functools.partial(QuietHandler, app_object=app.app, config=config)
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    serving.join()


class Client:
    """A caller with a connection of its own, which it keeps."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[Any, dict[str, str]]:
        """Return status code and body, as JSON if there is one, and the headers with lower-case names."""
        self._connection.request(
            method, path, body, {**HEADERS, **{k.replace("_", "-"): v for k, v in headers.items()}}
        )
        answer = self._connection.getresponse()
        text = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return (answer.status, json.loads(text) if text else None), found

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def test_an_event_is_posted_read_and_acknowledged_over_one_connection(port: int, receiver: Receiver) -> None:
    with Client(port) as client:
        (status_code, event), headers = client.call("POST", "/events", EVENT)
        assert (status_code, event["status"]) == (202, "delivered")
        (status_code, shown), _ = client.call("GET", headers["location"])
        assert (status_code, shown["payload"]) == (200, {"order_id": "12345"})
        assert client.call("POST", f"{headers['location']}/acknowledge")[0] == (204, None)
        (status_code, page), _ = client.call("GET", "/events?status=delivered&limit=1")
        assert (status_code, [listed["event_id"] for listed in page["events"]]) == (200, [event["event_id"]])
        (status_code, problem), headers = client.call("GET", "/events?limit=0&order=up")
        assert (status_code, headers["content-type"]) == (400, "application/problem+json")
        assert [fault["field"] for fault in problem["errors"]] == ["order", "limit"]
    assert json.loads(receiver.requests[0].body)["metadata"] == {"source": "shop"}


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        (b'{"event_type": "a", "payload": {"x": "\xff"}}', {}, 400),
        (EVENT.decode().encode("utf-16"), {}, 400),
        (EVENT, {"Content_Type": "Application/JSON; charset=UTF-8"}, 202),
        (EVENT, {"Content_Type": "text/plain"}, 415),
        (EVENT, {"Authorization": "Bearer schlüssel"}, 401),
        (EVENT, {"Idempotency_Key": "schlüssel"}, 400),
        (EVENT + b" " * 256 * 1024, {}, 413),
    ],
)
def test_odd_bodies_and_headers_get_a_proper_answer(
    port: int, body: bytes, headers: dict[str, str], expected: int
) -> None:
    with Client(port) as client:
        (status_code, answer), given = client.call("POST", "/events", body, **headers)

    assert status_code == expected
    assert given["content-type"] == f"application/{'json' if expected == 202 else 'problem+json'}"
    assert answer.get("status") in (expected, "delivered")


def test_twenty_callers_at_once_each_get_their_own_event(port: int, receiver: Receiver) -> None:
    def post(number: int) -> tuple[int, Any]:
        with Client(port) as client:
            body = json.dumps({"event_type": f"type.{number}", "payload": {"n": number}}).encode()
            (_, event), _ = client.call("POST", "/events", body)
            (_, shown), _ = client.call("GET", f"/events/{event['event_id']}")
            return number, (event["event_type"], event["status"], shown["event_type"], shown["payload"])

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(post, range(20)))

    assert answers == [(n, (f"type.{n}", "delivered", f"type.{n}", {"n": n})) for n in range(20)]
    assert len({request.headers["webhook-id"] for request in receiver.requests}) == len(receiver.requests) == 20


def test_posts_with_the_same_idempotency_key_at_once_make_one_event_and_one_push(port: int, receiver: Receiver) -> None:
    answered = threading.Event()
    receiver.default = gate(answered)

    def post(_: int) -> tuple[str, str, bool]:
        with Client(port) as client:
            (status_code, event), headers = client.call("POST", "/events", EVENT, Idempotency_Key="k")
            assert status_code == 202
            return event["event_id"], event["status"], "idempotency-replayed" in headers

    with ThreadPoolExecutor(4) as pool:
        answers = as_completed([pool.submit(post, number) for number in range(4)], timeout=10)
        repetitions = [next(answers).result() for _ in range(3)]
        answered.set()
        first = next(answers).result()

    assert first[1:] == ("delivered", False)
    assert repetitions == [(first[0], "pending", True)] * 3
    assert len(receiver.requests) == 1
