"""An event that matches as many subscriptions as it can, in threads and memory."""

import base64
import tracemalloc
from random import Random

from tests.simulator.simulated_world import Container, SimulatedWorld

TENANT = "customer-42"
PAYLOAD = base64.b64encode(Random(1).randbytes(150_000)).decode()  # cannot be compressed
MOST_BYTES = 2_000_000  # a copy of the payload for each copy of the event would take 40 MB


def test_an_event_with_200_copies_takes_at_most_32_threads_and_little_memory() -> None:
    world = SimulatedWorld({})
    container = Container(world)
    for number in range(100):
        for tenant in (None, TENANT):
            container.services.subscriptions.create(
                "acme", f"https://hooks.zapier.com/{number}", tenant
            )
    sizes: list[int] = []

    def make_pool(size: int) -> object:
        sizes.append(size)
        return world.hub.pool(size)

    container.services.thread_pool = make_pool  # type: ignore[assignment]
    tracemalloc.start()

    answer = container.call(
        "POST", "/events", {"event_type": "a", "tenant": TENANT, "payload": {"text": PAYLOAD}}
    )

    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (answer.status_code, len(answer.json["copies"]), max(sizes)) == (202, 200, 32)
    assert peak_bytes < MOST_BYTES
