"""The API over HTTP, served by Chalice's local server, with many callers at the same time."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest
import urllib3

from tests.support.loopback import serve_app
from tests.support.receiver import Receiver, gate
from tests.support.world import KEY, World

HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
EVENT = b'{"event_type": "order.created", "payload": {"order_id": "12345"}, "metadata": {"source": "shop"}}'

Call = Callable[..., urllib3.BaseHTTPResponse]


@pytest.fixture
def call(world: World) -> Iterator[Call]:
    """Return a function that calls the API over kept connections; header names have `_` for `-`."""
    with serve_app() as port, urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=20, timeout=10) as pool:

        def call(method: str, path: str, body: bytes | None = None, **headers: str) -> urllib3.BaseHTTPResponse:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            return pool.request(method, path, body=body, headers={**HEADERS, **given})

        yield call


def test_an_event_is_posted_read_and_acknowledged(call: Call, receiver: Receiver) -> None:
    posted = call("POST", "/events", EVENT)
    path = f"/{posted.headers['location']}"

    assert (posted.status, posted.json()["status"]) == (202, "delivered")
    assert call("GET", path).json()["payload"] == {"order_id": "12345"}
    assert call("POST", f"{path}/acknowledge").status == 204
    assert [event["status"] for event in call("GET", "/events?status=delivered&limit=1").json()["events"]] == [
        "delivered"
    ]
    assert receiver.requests[0].json()["metadata"] == {"source": "shop"}
    for headers, expected in (({"Authorization": "Bearer schlüssel"}, 401), ({"Idempotency_Key": "schlüssel"}, 400)):
        assert call("POST", "/events", EVENT, **headers).status == expected
    assert call("POST", "/events", EVENT.decode().encode("utf-16")).status == 400


def test_concurrent_posts_with_the_same_idempotency_key_make_one_event_and_one_push(
    call: Call, receiver: Receiver
) -> None:
    answered = threading.Event()
    receiver.default = gate(answered)

    def post(_: int) -> tuple[str, str, bool]:
        answer = call("POST", "/events", EVENT, Idempotency_Key="k")
        assert answer.status == 202
        event = answer.json()
        return event["event_id"], event["status"], "idempotency-replayed" in answer.headers

    with ThreadPoolExecutor(4) as pool:
        answers = as_completed([pool.submit(post, number) for number in range(4)], timeout=10)
        repetitions = [next(answers).result() for _ in range(3)]
        answered.set()
        first = next(answers).result()

    assert first[1:] == ("delivered", False)
    assert repetitions == [(first[0], "pending", True)] * 3
    assert len(receiver.requests) == 1
