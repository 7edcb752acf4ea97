"""An event that matches as many subscriptions as it can."""

from tests.simulator.simulated_world import Container, SimulatedWorld

TENANT = "customer-42"


def test_an_event_with_200_copies_takes_at_most_32_threads() -> None:
    world = SimulatedWorld({})
    container = Container(world)
    for number in range(100):
        for tenant in (None, TENANT):
            container.subscribe(f"https://hooks.zapier.com/{number}", tenant=tenant)
    sizes = []

    def make_pool(size: int) -> object:
        sizes.append(size)
        return world.hub.pool(size)

    container.services.thread_pool = make_pool  # type: ignore[assignment]

    event_id = container.post(tenant=TENANT)

    assert len(world.items()[event_id or ""].copies) == 200
    assert max(sizes) == 32
