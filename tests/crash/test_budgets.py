"""With every call to AWS answered late, what was pushed is recorded within the time of the function."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chalicelib.core.event import Event, Status
from chalicelib.infra.clients import CALL_SECONDS, make_client
from chalicelib.infra.times import DAY_SECONDS, rfc3339
from tests.simulator.simulated_world import (
    INBOX,
    SCHEDULE_SECONDS,
    TABLE,
    WORKER_SECONDS,
    Container,
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


@pytest.mark.parametrize("prefer", ["", "respond-async"])
def test_a_push_leaves_the_time_to_record_it_although_every_call_takes_its_longest(prefer: str) -> None:
    world = SlowWorld(200)
    container = Container(world)
    assert world.seconds(container.post, prefer=prefer) < API_SECONDS
    assert world.seconds(container.work) < WORKER_SECONDS

    [event] = world.items().values()
    assert (event.status, world.history.violations) == (Status.DELIVERED, [])


def test_a_replay_is_answered_in_28_seconds() -> None:
    world = SlowWorld(subscriptions=1)
    world.queue(1)
    for event_id in world.items():
        assert world.seconds(Container(world).replay, event_id=event_id) < API_SECONDS


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
