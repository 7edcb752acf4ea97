"""A running system is killed under load, again and again, while its AWS lives on. Slow: run by
`make chaos`.
"""

import contextlib
import http.client
import json
import os
import signal
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import Run, running
from tests.support.world import KEY, digest
from tools import local_aws

KILLS = 3
CALLERS = 4
EVENT = '{"event_type": "load", "payload": {}}'
CLAIM_AND_SWEEPS_SECONDS = 60 + 2 * 60
RECORD_SECONDS = 10.0  # for the record of a push, on a busy machine

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(
        not os.environ.get("CHAOS"), reason="takes minutes; `make chaos` and CI set CHAOS"
    ),
]


def post_until_killed(system: Run, caller: str, accepted: dict[str, str]) -> None:
    """Post without pause, and each event until it is accepted; note each by its Idempotency-Key."""
    for number in count():
        key = f"{caller}-{number}"
        while key not in accepted:
            with contextlib.suppress(OSError, http.client.HTTPException):
                code, _, content = system.call("POST", "/events", EVENT, **{"Idempotency-Key": key})
                if code == 202:
                    accepted[key] = json.loads(content)["event_id"]
            if system.process.poll() is not None:
                return


def is_delivered(system: Run, event_id: str) -> bool:
    return bool(json.loads(system.call("GET", f"/events/{event_id}")[2])["status"] == "delivered")


def test_a_killed_system_loses_nothing_and_repeats_only_what_was_under_way(
    receiver: Receiver,
) -> None:
    arrived_at: defaultdict[str, list[float]] = defaultdict(list)  # the times of each event's 2xx
    numbers = count()

    def respond(exchange: Exchange) -> None:
        """Be in trouble every third time."""
        is_well = next(numbers) % 3 > 0
        if is_well:
            arrived_at[exchange.request.headers["webhook-id"]].append(time.monotonic())
        status(200 if is_well else 503)(exchange)

    receiver.default = respond
    settings = {
        "AWS_ENDPOINT_URL": local_aws.start_moto(),
        "ZAPIER_WEBHOOK_URL": receiver.url,
        "API_KEYS": f"acme:{digest(KEY)}",
    }
    accepted: dict[str, str] = {}
    killed_at = []
    for kill in range(KILLS):
        with running(key=KEY, **settings) as system, ThreadPoolExecutor(CALLERS) as pool:
            callers = [
                pool.submit(post_until_killed, system, f"{kill}-{caller}", accepted)
                for caller in range(CALLERS)
            ]
            receiver.wait_for(len(receiver.requests) + 30, timeout=30)
            system.process.send_signal(signal.SIGKILL)
            for caller in callers:
                caller.result()
            receiver.wait_until_left()  # it has noted what was pushed before
            killed_at.append(time.monotonic())

    with running(key=KEY, **settings) as system:
        deadline = time.monotonic() + CLAIM_AND_SWEEPS_SECONDS
        for event_id in accepted.values():
            while not is_delivered(system, event_id):
                assert time.monotonic() < deadline
                time.sleep(1)

    assert len(accepted) > KILLS * CALLERS
    assert set(accepted.values()) <= arrived_at.keys()
    for first, *others in arrived_at.values():
        assert not others or any(0 <= at - first < RECORD_SECONDS for at in killed_at)
