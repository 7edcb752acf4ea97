"""A running system is killed under load, again and again, while its AWS lives on. Slow: run by `make chaos`."""

import http.client
import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Lock

import pytest

from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import Run, running
from tests.support.world import KEY, digest
from tools import local_aws

KILLS = 3
CALLERS = 4
CLAIM_AND_SWEEPS_SECONDS = 60 + 2 * 60
RECORD_SECONDS = 5.0  # for the record of a push, on a busy machine

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(not os.environ.get("CHAOS"), reason="takes minutes; `make chaos` and CI set CHAOS"),
]


class Load:
    """Callers who post without pause, each with keys of its own, and repeat each until it is accepted."""

    def __init__(self) -> None:
        self.accepted: dict[str, str] = {}  # event by Idempotency-Key

    def post(self, system: Run, caller: str) -> None:
        for number in count():
            while not self._try(system, f"{caller}-{number}"):
                if system.process.poll() is not None:
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


class Target:
    """A webhook that is in trouble every third time. `arrived_at` are the times of each event's 2xx."""

    def __init__(self) -> None:
        self.arrived_at: defaultdict[str, list[float]] = defaultdict(list)
        self._numbers = count()
        self._lock = Lock()

    def respond(self, exchange: Exchange) -> None:
        with self._lock:
            is_well = next(self._numbers) % 3 > 0
            if is_well:
                self.arrived_at[exchange.request.headers["webhook-id"]].append(time.monotonic())
        status(200 if is_well else 503)(exchange)


@pytest.fixture
def target() -> Target:
    return Target()


@pytest.fixture
def receiver(target: Target) -> Iterator[Receiver]:
    with Receiver() as receiver:
        receiver.default = target.respond
        yield receiver


def all_events(system: Run, status: str) -> set[str]:
    """Return the ids of all events of a status."""
    found: set[str] = set()
    cursor = ""
    while cursor is not None:
        _, _, content = system.call("GET", f"/events?limit=100&status={status}&cursor={cursor}")
        page = json.loads(content)
        found |= {event["event_id"] for event in page["events"]}
        cursor = page["next_cursor"]
    return found


def test_a_killed_system_loses_nothing_and_repeats_only_what_was_under_way(receiver: Receiver, target: Target) -> None:
    settings = {
        "AWS_ENDPOINT_URL": local_aws.start_moto(),
        "ZAPIER_WEBHOOK_URL": receiver.url,
        "API_KEYS": f"acme:{digest(KEY)}",
        "PUSH_TIMEOUT_SECONDS": "1",
    }
    load, killed_at = Load(), []
    for kill in range(KILLS):
        with running(key=KEY, **settings) as system, ThreadPoolExecutor(CALLERS) as pool:
            callers = [pool.submit(load.post, system, f"{kill}-{caller}") for caller in range(CALLERS)]
            receiver.wait_for(len(receiver.requests) + 30, timeout=30)
            system.process.send_signal(signal.SIGKILL)
            killed_at.append(time.monotonic())
            for caller in callers:
                caller.result()

    with running(key=KEY, **settings) as system:
        deadline = time.monotonic() + CLAIM_AND_SWEEPS_SECONDS
        while all_events(system, "pending") and time.monotonic() < deadline:
            time.sleep(1)
        delivered = all_events(system, "delivered")

    assert len(load.accepted) > KILLS * CALLERS
    assert set(load.accepted.values()) <= delivered
    assert delivered <= target.arrived_at.keys()
    for first, *others in target.arrived_at.values():
        assert not others or any(0 <= at - first < RECORD_SECONDS for at in killed_at)
