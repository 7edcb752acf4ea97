"""The API over HTTP, served by Chalice's local server, with many callers at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed

import urllib3

from tests.support.loopback import serve_app
from tests.support.receiver import Exchange, Receiver, status
from tests.support.world import KEY, World

HEADERS = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", "Idempotency-Key": "k"}
EVENT = b'{"event_type": "order.created", "payload": {"order_id": "12345"}}'


def test_concurrent_posts_with_the_same_idempotency_key_make_one_event_and_one_push(
    world: World, receiver: Receiver
) -> None:
    repeated = threading.Event()
    world.restart(INLINE_PUSH_TIMEOUT_SECONDS="8")

    def respond_later(exchange: Exchange) -> None:
        repeated.wait(10)
        status(200)(exchange)

    receiver.default = respond_later

    def post(_: int) -> tuple[str, str, bool]:
        answer = urllib3.request("POST", url, body=EVENT, headers=HEADERS, timeout=20)
        assert answer.status == 202
        event = answer.json()
        return event["event_id"], event["status"], "idempotency-replayed" in answer.headers

    with serve_app() as port, ThreadPoolExecutor(4) as pool:
        url = f"http://127.0.0.1:{port}/events"
        answers = as_completed([pool.submit(post, number) for number in range(4)], timeout=30)
        repetitions = [next(answers).result() for _ in range(3)]
        repeated.set()
        first = next(answers).result()

    assert first[1:] == ("delivered", False)
    assert repetitions == [(first[0], "pending", True)] * 3
    assert len(receiver.requests) == 1
