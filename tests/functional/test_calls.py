"""The cost of each path: which calls to AWS, in which order."""

import pytest

from tests.support.aws import Aws
from tests.support.receiver import Receiver, status
from tests.support.world import World

QUERY, PUT, UPDATE, SEND, SEND_MANY = "Query", "PutItem", "UpdateItem", "SendMessage", "SendMessageBatch"
EVENT = '{"event_type": "a", "payload": {}}'
OF_TENANT = '{"event_type": "a", "payload": {}, "tenant": "t"}'


@pytest.mark.parametrize(
    ("code", "headers", "calls"),
    [
        (200, {}, [PUT, UPDATE]),
        (200, {"idempotency_key": "k"}, [PUT, UPDATE]),
        (503, {}, [PUT, UPDATE, SEND]),
        (404, {}, [PUT, SEND, UPDATE]),
        (200, {"prefer": "respond-async"}, [PUT, SEND_MANY]),
        (200, {"content_type": "text/plain"}, []),
        (200, {"key": "wrong"}, []),
    ],
)
def test_the_calls_of_posting(
    world: World, receiver: Receiver, aws: Aws, code: int, headers: dict[str, str], calls: list[str]
) -> None:
    receiver.default = status(code)
    world.services.subscriptions.matching("order.created", None)  # each container queries them every ten seconds

    assert aws.during(lambda: world.call("POST", "/events", EVENT, **headers)) == calls
    assert len(receiver.requests) == (UPDATE in calls)


def test_a_post_reads_the_subscriptions_of_its_tenant_and_those_without_one_every_ten_seconds(
    world: World, aws: Aws
) -> None:
    for wait_seconds, body, queries in (
        (0, EVENT, 1),
        (0, OF_TENANT, 1),
        (0, OF_TENANT, 0),
        (0, EVENT, 0),
        (10, OF_TENANT, 2),
    ):
        world.clock.sleep(wait_seconds)

        calls = aws.during(lambda: world.call("POST", "/events", body))  # noqa: B023
        assert calls == [*[QUERY] * queries, PUT, UPDATE]


@pytest.mark.parametrize(
    ("codes", "wait_seconds", "calls"),
    [
        ([200], "0", [UPDATE, UPDATE]),
        ([503], "0", [UPDATE, UPDATE, SEND]),
        ([503, 503, 200], "8", [UPDATE] * 6),
        ([404], "0", [UPDATE, SEND, UPDATE]),
        ([503, 404], "8", [UPDATE, UPDATE, UPDATE, SEND, UPDATE]),
    ],
)
def test_the_calls_of_the_worker(
    world: World, receiver: Receiver, aws: Aws, codes: list[int], wait_seconds: str, calls: list[str]
) -> None:
    world.restart(IN_PROCESS_WAIT_SECONDS=wait_seconds)
    receiver.script(*map(status, codes))
    world.post(prefer="respond-async")

    assert aws.during(world.run_worker) == calls
