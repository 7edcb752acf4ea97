"""An event that matches as many subscriptions as it can, in threads and memory."""

import base64
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from random import Random
from types import SimpleNamespace

import pytest

from chalicelib import services, settings
from chalicelib.push import PushResult
from chalicelib.retry import Outcome
from chalicelib.services import Services
from chalicelib.telemetry import thread_pool
from tests.simulator.simulated_world import DLQ, ENVIRON, INBOX
from tests.support.in_memory_aws import FakeDynamoDB, FakeSQS
from tests.support.world import Clock, call

TENANT = "customer-42"
PAYLOAD = base64.b64encode(Random(1).randbytes(150_000)).decode()  # cannot be compressed
MOST_BYTES = 2_000_000  # a copy of the payload for each copy of the event would take 40 MB


@pytest.fixture
def table(clock: Clock) -> Iterator[FakeDynamoDB]:
    """A table with 100 subscriptions of a tenant and 100 without one."""
    table, sqs = FakeDynamoDB(clock), FakeSQS(clock)
    for url in (INBOX, DLQ):
        sqs.queue(url)
    made = Services(
        settings.load(ENVIRON),
        make_client={"dynamodb": table, "sqs": sqs}.__getitem__,
        clock=clock,
        push=SimpleNamespace(send=lambda *_, **__: PushResult(Outcome.DELIVERED, 1, 200)),  # type: ignore[arg-type]
    )
    services.use(made)
    for number in range(100):
        for tenant in (None, TENANT):
            made.subscriptions.create("acme", f"https://hooks.zapier.com/{number}", None, tenant, None)
    yield table
    services.use(None)


def test_an_event_with_200_copies_takes_at_most_32_threads_and_little_memory(table: FakeDynamoDB, clock: Clock) -> None:
    before, threads, pools = threading.active_count(), list[int](), list[int]()
    table.on_write = lambda *_: threads.append(threading.active_count() - before)

    def make_pool(size: int) -> ThreadPoolExecutor:
        pools.append(size)
        return thread_pool(size)

    services.get().thread_pool = make_pool
    body = f'{{"event_type": "a", "tenant": "{TENANT}", "payload": {{"text": "{PAYLOAD}"}}}}'
    tracemalloc.start()

    answer = call(clock, "POST", "/events", body)

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (answer.status_code, len(answer.json["copies"])) == (202, 200)
    assert max(threads) <= max(pools) == 32
    assert peak_bytes < MOST_BYTES
