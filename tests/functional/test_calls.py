"""The cost of each path: which calls to AWS, in which order."""

import pytest

from tests.support.aws import Aws
from tests.support.receiver import Receiver, status
from tests.support.world import EVENT, World

QUERY, PUT, UPDATE, SEND, SEND_MANY = "Query", "PutItem", "UpdateItem", "SendMessage", "SendMessageBatch"
OF_TENANT = '{"event_type": "a", "payload": {}, "tenant": "t"}'
ASYNC = {"prefer": "respond-async"}


@pytest.mark.parametrize(
    ("code", "headers", "posting", "working"),
    [
        (200, {}, [PUT, UPDATE], []),
        (200, {"idempotency_key": "k"}, [PUT, UPDATE], []),
        (503, {}, [PUT, UPDATE, SEND], []),
        (404, {}, [PUT, SEND, UPDATE], []),
        (200, ASYNC, [PUT, SEND_MANY], [UPDATE, UPDATE]),
        (503, ASYNC, [PUT, SEND_MANY], [UPDATE, UPDATE, SEND]),
        (404, ASYNC, [PUT, SEND_MANY], [UPDATE, SEND, UPDATE]),
        (200, {"content_type": "text/plain"}, [], []),
        (200, {"key": "wrong"}, [], []),
    ],
)
def test_the_calls_of_posting_and_of_the_worker(
    world: World,
    receiver: Receiver,
    aws: Aws,
    code: int,
    headers: dict[str, str],
    posting: list[str],
    working: list[str],
) -> None:
    receiver.default = status(code)
    world.restart(IN_PROCESS_WAIT_SECONDS="0")
    world.services.subscriptions.recent(None)  # each container queries them every ten seconds

    assert aws.during(lambda: world.call("POST", "/events", EVENT, **headers)) == posting
    assert aws.during(world.run_worker) == working
    assert len(receiver.requests) == (UPDATE in posting + working)


def test_a_post_reads_the_subscriptions_of_its_tenant_and_those_without_one_every_ten_seconds(
    world: World, aws: Aws
) -> None:
    def calls(body: str) -> list[str]:
        return aws.during(lambda: world.call("POST", "/events", body))

    assert calls(EVENT) == calls(OF_TENANT) == [QUERY, PUT, UPDATE]
    assert calls(EVENT) == calls(OF_TENANT) == [PUT, UPDATE]
    world.clock.sleep(10)
    assert calls(OF_TENANT) == [QUERY, QUERY, PUT, UPDATE]
