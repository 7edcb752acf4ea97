"""With every call to AWS answered late, what was pushed is recorded within the time of the
function.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chalicelib.core.event import Event, Status
from chalicelib.infra.clients import CALL_SECONDS, CONFIG, MAX_TRIES, make_client
from tests.simulator.simulated_world import (
    WORKER_SECONDS,
    Container,
    Fault,
    Response,
    SimulatedWorld,
)
from tests.support.receiver import Receiver, status

API_SECONDS = 28
SLOWEST = {
    "INLINE_PUSH_TIMEOUT_SECONDS": "8",
    "PUSH_TIMEOUT_SECONDS": "20",
    "IN_PROCESS_WAIT_SECONDS": "900",
    "MAX_DELIVERY_ATTEMPTS": "20",
}


class SlowWorld(SimulatedWorld):
    """Every call to AWS takes as long as one may, and every push 20 seconds."""

    call_seconds: float = CALL_SECONDS

    def latency(self) -> tuple[float, float]:
        return self.call_seconds / 2, self.call_seconds / 2

    def answer(self, event: Event, url: str) -> Response:
        return Response(200, 20.0)

    def seconds(self, act: Callable[..., Any], **parameters: Any) -> float:
        """Return how long something takes."""
        started = self.clock()
        act(**parameters)
        return self.clock() - started


def post_for_a_tenant(container: Container) -> None:
    container.post('{"n":1}', tenant="a", idempotency_key="k")


def post_batch(container: Container) -> None:
    container.post_batch(*(f'{{"n":{number}}}' for number in range(10)), has_keys=True)


@pytest.mark.parametrize("call_seconds", [5, 4, 3, 2, 1])
@pytest.mark.parametrize("subscriptions", [1, 11])
@pytest.mark.parametrize("post", [post_for_a_tenant, post_batch])
def test_a_post_is_answered_in_time_although_every_call_takes_long(
    post: Callable[[Container], None], subscriptions: int, call_seconds: float
) -> None:
    world = SlowWorld(SLOWEST)
    world.call_seconds = 0.0
    container = Container(world)
    for number in range(subscriptions):
        container.subscribe(f"https://hooks.zapier.com/{number}")
    container.subscribe("https://hooks.zapier.com/a", tenant="a")
    world.clock.sleep(60)
    world.call_seconds = call_seconds
    assert world.seconds(post, container=container) < API_SECONDS


def test_a_batch_for_200_subscriptions_is_answered_while_sqs_hangs() -> None:
    world = SimulatedWorld({"ZAPIER_WEBHOOK_URL": "subscriptions"})
    quick = world.start()
    for number in range(200):
        tenant = "a" if number % 2 else None
        quick.subscribe(f"https://hooks.zapier.com/{number}", tenant=tenant)
    world.clock.sleep(60)

    def hang(label: str) -> Fault | None:
        if not label.startswith("sqs"):
            return None
        world.hub.sleep(CALL_SECONDS)
        return Fault.UNREACHED

    container = Container(world, hang)
    events = [{"event_type": "a", "payload": {"n": n}, "tenant": "a"} for n in range(10)]
    answered: list[tuple[int, float]] = []

    def post() -> None:
        started = world.clock()
        answer = container.call("POST", "/events/batch", {"events": events})
        answered.append((answer.status_code, world.clock() - started))

    world.hub.spawn(post)
    world.hub.run()

    [(status_code, seconds)] = answered
    assert (status_code, seconds < API_SECONDS) == (200, True)
    assert len(world.items()) == 10 * (1 + 200)


@pytest.mark.parametrize("prefer", ["", "respond-async"])
def test_a_push_leaves_the_time_to_record_it_although_every_call_takes_its_longest(
    prefer: str,
) -> None:
    world = SlowWorld(SLOWEST)
    container = Container(world)
    assert world.seconds(container.post, prefer=prefer) < API_SECONDS
    # With respond-async the fast lane cuts the first push off, and the slow lane delivers.
    for _ in range(2):
        assert world.seconds(container.work) < WORKER_SECONDS
        world.clock.sleep(2)

    [event] = world.items().values()
    assert event.status == Status.DELIVERED
    assert world.history.violations == []


def test_a_call_takes_at_most_call_seconds() -> None:
    tries = CONFIG.retries["total_max_attempts"]
    assert CONFIG.retries["mode"] == "standard"
    assert tries * (CONFIG.connect_timeout + CONFIG.read_timeout) + 1 <= CALL_SECONDS
    # the threads of a batch do not wait for each other's connections
    assert CONFIG.max_pool_connections >= 64


@pytest.fixture
def client(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a client whose calls the receiver answers."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{receiver.port}")
    return make_client("dynamodb")


def test_a_call_does_not_wait_as_long_as_a_response_asks(client: Any, receiver: Receiver) -> None:
    # milliseconds
    receiver.default = status(503, headers={"x-amz-retry-after": "5000"}, body=b"{}")
    started = time.monotonic()
    with pytest.raises(ClientError):
        client.list_tables()
    assert receiver.count == 2
    assert time.monotonic() - started < 5


def test_a_write_that_meets_a_transaction_is_tried_again_but_not_for_ever(
    client: Any, receiver: Receiver
) -> None:
    body = b'{"__type": "com.amazonaws.dynamodb.v20120810#TransactionConflictException"}'
    conflict = status(400, body=body)
    receiver.script(conflict, conflict, status(200, body=b"{}"))
    client.delete_item(TableName="events", Key={"event_id": {"S": "evt_1"}})
    receiver.default = conflict
    with pytest.raises(ClientError, match="TransactionConflict"):
        client.delete_item(TableName="events", Key={"event_id": {"S": "evt_1"}})

    assert receiver.count == 3 + MAX_TRIES
