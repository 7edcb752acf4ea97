"""A running system is killed under load while its AWS lives on (`make chaos`, and CI)."""

import http.client
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle

import pytest

from tests.support.receiver import Exchange, Receiver, status
from tests.support.running import Run, running
from tests.support.world import EVENT, KEY, digest
from tools import local_aws

CALLERS = 4
CLAIM_AND_SWEEPS_SECONDS = 60 + 2 * 60

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif("CHAOS" not in os.environ, reason="takes minutes; `make chaos` sets CHAOS"),
]


def post_until_killed(system: Run) -> list[str]:
    """Post without pause; return the ids of the events that were accepted."""
    accepted: list[str] = []
    while True:
        try:
            code, _, body = system.call("POST", "/events", EVENT)
        except (OSError, http.client.HTTPException):
            return accepted
        if code == 202:
            accepted.append(json.loads(body)["event_id"])


def is_delivered(system: Run, event_id: str) -> bool:
    _, _, body = system.call("GET", f"/events/{event_id}")
    return bool(json.loads(body)["status"] == "delivered")


def test_nothing_that_was_accepted_is_lost_with_a_killed_system(receiver: Receiver) -> None:
    codes = cycle((200, 200, 503))
    arrived = set()

    def respond(exchange: Exchange) -> None:
        code = next(codes)
        if code == 200:
            arrived.add(exchange.request.headers["webhook-id"])
        status(code)(exchange)

    receiver.default = respond
    settings = {
        "AWS_ENDPOINT_URL": local_aws.start_moto(),
        "ZAPIER_WEBHOOK_URL": receiver.url,
        "API_KEYS": f"acme:{digest(KEY)}",
    }
    with running(key=KEY, **settings) as system, ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(post_until_killed, system) for _ in range(CALLERS)]
        receiver.wait_for(50, timeout=60)
        system.end(signal.SIGKILL)
        accepted = [event_id for caller in callers for event_id in caller.result()]

    with running(key=KEY, **settings) as system:
        deadline = time.monotonic() + CLAIM_AND_SWEEPS_SECONDS
        for event_id in accepted:
            while not is_delivered(system, event_id):
                assert time.monotonic() < deadline
                time.sleep(1)

    assert len(accepted) > CALLERS
    assert arrived.issuperset(accepted)
