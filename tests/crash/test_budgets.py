"""With every call to AWS answered late, a caller gets a response within 28 s, and the worker ends within its 50 s."""

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chalicelib.core.event import Event
from chalicelib.infra.clients import CALL_SECONDS, make_client
from chalicelib.infra.times import DAY_SECONDS, rfc3339
from tests.simulator.simulated_world import (
    INBOX,
    SCHEDULE_SECONDS,
    TABLE,
    WORKER_SECONDS,
    Container,
    Fault,
    FaultAt,
    SimulatedWorld,
)
from tests.support.in_memory_aws import typed
from tests.support.receiver import Receiver, status

API_SECONDS = 28
TARGET = "https://hooks.zapier.com"
SLOWEST = {
    "INLINE_PUSH_TIMEOUT_SECONDS": "8",
    "PUSH_TIMEOUT_SECONDS": "20",
    "IN_PROCESS_WAIT_SECONDS": "900",
    "MAX_DELIVERY_ATTEMPTS": "20",
}
# What the late responses say, over and over: None is success.
PATTERNS: list[tuple[Fault | None, ...]] = [
    (None,),
    (Fault.THROTTLED,),
    (Fault.ALL_ANSWERS_LOST,),
    (Fault.THROTTLED, None),
    (None, Fault.THROTTLED),
]
STATUS_CODES = [200, 422, 410, 503, None]


class SlowWorld(SimulatedWorld):
    """Every call to AWS takes as long as one may, perhaps only after the first push, and so does a receiver.

    The targets of subscriptions have failed for ten days, so that whatever a push brings is recorded.
    """

    def __init__(
        self, status_code: int | None = 200, *, subscriptions: int = 0, webhook: bool = True, is_slow: bool = True
    ) -> None:
        super().__init__(SLOWEST if webhook else {**SLOWEST, "ZAPIER_WEBHOOK_URL": "none"})
        self._status_code = status_code
        self.is_slow = is_slow
        self.call_seconds: float = CALL_SECONDS
        for number in range(subscriptions):
            Container(self).subscribe(f"{TARGET}/{number}", "a", "triggers.*")
        self.change("sub_", failing_since=rfc3339(self.clock() - 10 * DAY_SECONDS))

    def change(self, prefix: str, **attributes: Any) -> None:
        """Change the items of the table whose ids have a prefix."""
        for key, item in [*self.dynamodb.items.items()]:
            if key.startswith(prefix):
                self.dynamodb.put_item(TableName=TABLE, Item=typed({**item, **attributes}))

    def latency(self) -> tuple[float, float]:
        return (self.call_seconds / 2, self.call_seconds / 2) if self.is_slow else (0.0, 0.0)

    def answer(self, event: Event, url: str) -> tuple[int | None, float]:
        self.is_slow = True
        return self._status_code, 20.0

    def queue(self, count: int) -> None:
        """Post events that wait for the worker."""
        self.is_slow = False
        for _ in range(count):
            Container(self).post(prefer="respond-async")
        self.is_slow = True

    def seconds(self, act: Callable[..., Any], **parameters: Any) -> float:
        """Return how long something takes."""
        started = self.clock()
        act(**parameters)
        return self.clock() - started


def failing(pattern: tuple[Fault | None, ...]) -> FaultAt:
    """Fail the calls to AWS after the first by a pattern."""
    faults = itertools.chain([None], itertools.cycle(pattern))
    return lambda label: None if label == "push" else next(faults)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("subscriptions", "webhook"), [(0, True), (1, True), (1, False), (11, True)])
@pytest.mark.parametrize("status_code", STATUS_CODES)
def test_a_caller_gets_a_response_in_28_seconds(
    status_code: int | None, subscriptions: int, webhook: bool, pattern: tuple[Fault | None, ...]
) -> None:
    for headers, is_slow in (
        ({}, True),
        ({"idempotency_key": "a"}, True),
        ({"prefer": "respond-async"}, True),
        ({}, False),
    ):
        world = SlowWorld(status_code, subscriptions=subscriptions, webhook=webhook, is_slow=is_slow)
        assert world.seconds(Container(world, failing(pattern)).post, **headers) < API_SECONDS


@pytest.mark.parametrize(("call_seconds", "status_code"), [(2.5, 202), (CALL_SECONDS, 503)])
def test_an_event_that_matches_200_subscriptions_is_answered_in_28_seconds(
    call_seconds: float, status_code: int
) -> None:
    world = SlowWorld(subscriptions=100, is_slow=False)
    for number in range(100):
        Container(world).call("POST", "/subscriptions", {"target_url": f"{TARGET}/{number}", "tenant": "a"})
    world.call_seconds, world.is_slow = call_seconds, True
    began = world.clock()

    answer = Container(world).call("POST", "/events", {"event_type": "a", "payload": {}, "tenant": "a"})

    assert world.clock() - began < API_SECONDS
    assert (answer.status_code, len(answer.json.get("copies", ()))) == (status_code, 200 * (status_code == 202))


def test_a_replay_is_answered_in_28_seconds() -> None:
    world = SlowWorld(subscriptions=1)
    world.queue(1)
    for event_id in world.items():
        assert world.seconds(Container(world).replay, event_id=event_id) < API_SECONDS


@pytest.mark.parametrize("call_seconds", [5.5, 5.9, CALL_SECONDS])
def test_of_two_bodies_under_one_key_each_caller_gets_a_response_in_28_seconds(call_seconds: float) -> None:
    world = SlowWorld(subscriptions=1)
    world.call_seconds = call_seconds
    took: list[float] = []

    def post(payload: str) -> None:
        took.append(world.seconds(Container(world).post, payload=payload, idempotency_key="k", prefer="respond-async"))

    for payload in ('{"n":1}', '{"n":2}'):
        world.hub.spawn(partial(post, payload))
    world.hub.run()
    assert max(took) < API_SECONDS


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(("subscriptions", "webhook"), [(0, True), (1, True), (1, False)])
@pytest.mark.parametrize("status_code", STATUS_CODES)
@pytest.mark.parametrize("attempts", [0, 9])
def test_the_worker_ends_in_its_50_seconds(
    attempts: int, status_code: int | None, subscriptions: int, webhook: bool, pattern: tuple[Fault | None, ...]
) -> None:
    world = SlowWorld(status_code, subscriptions=subscriptions, webhook=webhook)
    world.queue(5)
    world.change("cpy_", delivery_attempts=attempts)
    container = Container(world, failing(pattern))
    assert world.seconds(container.work) < WORKER_SECONDS
    assert not world.history.violations


def test_the_worker_ends_in_its_50_seconds_though_a_subscription_to_its_report_is_disabled() -> None:
    world = SlowWorld(422, subscriptions=2, webhook=False)
    world.queue(1)
    world.change(min(world.history.subscribed_at), disabled_at=rfc3339(world.clock()))
    world.is_slow = False  # until the first push
    assert world.seconds(Container(world).work) < WORKER_SECONDS
    assert not world.history.violations


def test_a_call_does_not_wait_as_long_as_a_response_asks(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{receiver.port}")
    receiver.default = status(503, headers={"x-amz-retry-after": "5000"}, body=b"{}")  # milliseconds
    client = make_client("dynamodb")
    started = time.monotonic()
    with pytest.raises(ClientError):
        client.list_tables()
    assert (len(receiver.requests), time.monotonic() - started < 3) == (2, True)


def test_the_sweep_ends_in_its_60_seconds() -> None:
    world = SlowWorld()
    world.queue(200)
    world.clock.sleep(70)
    queued = len(world.sqs.messages(INBOX))
    assert world.seconds(Container(world).sweep) < SCHEDULE_SECONDS
    assert len(world.sqs.messages(INBOX)) - queued > 40
