"""With every call to AWS answered late, what was pushed is recorded within the time of the
function.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from chalicelib.core.event import Event, Status
from chalicelib.infra.clients import CALL_SECONDS, make_client
from tests.simulator.simulated_world import WORKER_SECONDS, Container, SimulatedWorld
from tests.support.receiver import Receiver, status

API_SECONDS = 28
SLOWEST = {"INLINE_PUSH_TIMEOUT_SECONDS": "8", "PUSH_TIMEOUT_SECONDS": "20"}
SLOWEST |= {"IN_PROCESS_WAIT_SECONDS": "900", "MAX_DELIVERY_ATTEMPTS": "20"}


class SlowWorld(SimulatedWorld):
    """Every call to AWS takes as long as one may, and every push 20 seconds."""

    is_slow = True

    def latency(self) -> tuple[float, float]:
        return (CALL_SECONDS / 2, CALL_SECONDS / 2) if self.is_slow else (0.0, 0.0)

    def answer(self, event: Event, url: str) -> tuple[int | None, float]:
        return 200, 20.0

    def seconds(self, act: Callable[..., Any], **parameters: Any) -> float:
        """Return how long something takes."""
        started = self.clock()
        act(**parameters)
        return self.clock() - started


@pytest.mark.parametrize("prefer", ["", "respond-async"])
def test_a_push_leaves_the_time_to_record_it_although_every_call_takes_its_longest(
    prefer: str,
) -> None:
    world = SlowWorld(SLOWEST)
    container = Container(world)
    assert world.seconds(container.post, prefer=prefer) < API_SECONDS
    assert world.seconds(container.work) < WORKER_SECONDS

    [event] = world.items().values()
    assert event.status == Status.DELIVERED
    assert world.history.violations == []


def test_a_call_does_not_wait_as_long_as_a_response_asks(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{receiver.port}")
    # milliseconds
    receiver.default = status(503, headers={"x-amz-retry-after": "5000"}, body=b"{}")
    client = make_client("dynamodb")
    started = time.monotonic()
    with pytest.raises(ClientError):
        client.list_tables()
    assert len(receiver.requests) == 2
    assert time.monotonic() - started < 3
