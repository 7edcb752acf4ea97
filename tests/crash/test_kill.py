"""For real: a running system is killed under load, again and again, on an AWS that outlives it."""

import http.client
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event

import pytest

from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import Run, running
from tests.support.world import KEY, digest
from tools import local_aws

KILLS = 3
CALLERS = 4
HASTE = 10  # a claim of 60 s runs out in 6

pytestmark = [pytest.mark.timeout(150)]


class Load:
    """Callers who post without pause, each with keys of its own, and again until they are told 202."""

    def __init__(self) -> None:
        self.accepted: dict[str, str] = {}  # event by Idempotency-Key
        self.stopped = Event()

    def post(self, system: Run, caller: str) -> None:
        for number in count():
            while not self._try(system, f"{caller}-{number}"):
                if system.process.poll() is not None or self.stopped.is_set():
                    return

    def _try(self, system: Run, key: str) -> bool:
        body = '{"event_type": "load", "payload": {}}'
        try:
            code, _, content = system.call("POST", "/events", body, **{"Idempotency-Key": key})
        except (OSError, http.client.HTTPException):
            return False
        if code == 202:
            self.accepted[key] = json.loads(content)["event_id"]
        return code == 202


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that is in trouble every third time."""
    numbers = count()

    def moody(exchange: Exchange) -> None:
        status(200 if next(numbers) % 3 else 503)(exchange)

    with Receiver() as receiver:
        receiver.default = moody
        yield receiver


def everything(system: Run, status: str) -> set[str]:
    """Return the ids of all events of a status."""
    found: set[str] = set()
    cursor = ""
    while cursor is not None:
        _, _, content = system.call("GET", f"/events?limit=100&status={status}{cursor and f'&cursor={cursor}'}")
        page = json.loads(content)
        found |= {event["event_id"] for event in page["events"]}
        cursor = page["next_cursor"]
    return found


def test_nothing_accepted_is_lost_when_a_system_under_load_is_killed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "AWS_ENDPOINT_URL": local_aws.start_moto(),
        "ZAPIER_WEBHOOK_URL": receiver.url,
        "API_KEYS": f"acme:{digest(KEY)}",
        "HASTE": str(HASTE),
        "HASTE_FROM": str(time.time()),
        "PUSH_TIMEOUT_SECONDS": "1",
    }
    load = Load()
    for kill in range(KILLS):
        with running(module="tests.crash.hasty", key=KEY, **settings) as system, ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(load.post, system, f"{kill}-{caller}") for caller in range(CALLERS)]
            receiver.wait_for(len(receiver.requests) + 30, timeout=30)
            system.process.send_signal(signal.SIGKILL)
            for caller in callers:
                caller.result()

    with running(module="tests.crash.hasty", key=KEY, **settings) as system:
        deadline = time.monotonic() + 60
        while everything(system, "pending") and time.monotonic() < deadline:
            receiver.stopped.wait(0.5)
        delivered = everything(system, "delivered")

    arrived = Counter(request.headers["webhook-id"] for request in receiver.requests)
    assert set(load.accepted.values()) <= delivered
    assert len(load.accepted) > KILLS * CALLERS
    assert delivered <= arrived.keys()
    # Each push that was under way when the process died may have been made again, and no other.
    pushed_twice = sum(arrived.values()) - len(arrived)
    assert pushed_twice > 0
