"""The cost of each path: which calls to AWS, in which order."""

from collections import Counter

import pytest

import app
from chalicelib.store import SHARDS
from tests.support.aws import Aws
from tests.support.receiver import Receiver, status
from tests.support.world import World

PUT, GET, UPDATE, SEND, QUERY = "PutItem", "GetItem", "UpdateItem", "SendMessage", "Query"
SEND_MANY, DEPTH = "SendMessageBatch", "GetQueueAttributes"
EVENT = '{"event_type": "a", "payload": {}}'


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
    world.services.subscriptions.matching("a")  # each container queries them every ten seconds

    assert aws.during(lambda: world.call("POST", "/events", EVENT, **headers)) == calls
    assert len(receiver.requests) == (UPDATE in calls)


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


@pytest.mark.parametrize(
    ("call", "calls"),
    [
        ("GET /events/%s", {GET: 1}),
        ("GET /events", {QUERY: 3 * SHARDS}),
        ("GET /events?status=failed&limit=100", {QUERY: SHARDS}),
        ("GET /events?include=payload", {QUERY: 3 * SHARDS, "BatchGetItem": 1}),
        ("GET /inbox", {QUERY: 2 * SHARDS, "BatchGetItem": 1}),
        ("GET /inbox?event_type=none", {QUERY: 2 * SHARDS}),
        ("POST /events/%s/acknowledge", {UPDATE: 1}),
        ("POST /events/%s/replay", {UPDATE: 1, SEND: 1}),
    ],
)
def test_the_calls_of_reading_acknowledging_and_replaying(
    world: World, receiver: Receiver, aws: Aws, call: str, calls: dict[str, int]
) -> None:
    receiver.script(status(404))
    method, path = call.replace("%s", world.post()["event_id"]).split(" ")

    assert Counter(aws.during(lambda: world.call(method, path))) == calls


def test_the_calls_of_the_schedules(world: World, aws: Aws) -> None:
    idle = {DEPTH: 1, QUERY: SHARDS}
    assert Counter(aws.during(lambda: world.run_schedule(app.sweep))) == idle
    for _ in range(2):
        world.post(prefer="respond-async")
    world.clock.sleep(60)

    overdue = Counter(aws.during(lambda: world.run_schedule(app.sweep)))

    assert overdue == {**idle, UPDATE: 2, SEND_MANY: overdue[SEND_MANY]}
    assert 1 <= overdue[SEND_MANY] <= 2  # one for each shard
    assert Counter(aws.during(lambda: world.run_schedule(app.sweep))) == idle
    assert Counter(aws.during(lambda: world.run_schedule(app.check_dlq))) == {DEPTH: 2, QUERY: SHARDS}
