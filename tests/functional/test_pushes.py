"""The ways of an event that is pushed, each from the call that posts it to its end, and their calls
to AWS.
"""

import json
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook

from chalicelib import __version__
from chalicelib.infra.times import rfc3339, unix_seconds
from tests.conftest import Output
from tests.support.aws_calls import Aws
from tests.support.receiver import Behaviour, Receiver, hang, in_turn
from tests.support.subscribing import read_lists
from tests.support.world import EVENT, SIGNING_SECRETS, START, World, assert_has


def test_an_event_is_pushed_at_once(world: World, receiver: Receiver) -> None:
    posted = {
        "event_type": "order.created",
        "payload": {"größe": [1, 2.5, ""]},
        "metadata": {"source": "shop"},
    }

    answer = world.offer(posted)

    event = answer.json
    assert answer.status_code == 202
    assert_has(
        event,
        created_at=rfc3339(START),
        created_by="acme",
        status="delivered",
        delivered_via="push",
        delivery_attempts=1,
    )
    [request] = receiver.requests
    event_id = event["event_id"]
    body = request.body.decode()
    pushed = {"event_id": event_id, **posted, "created_at": event["created_at"]}
    assert body == json.dumps(pushed, ensure_ascii=False, separators=(",", ":"))
    sent_at = datetime.fromtimestamp(START, UTC)
    signatures = [Webhook(secret).sign(event_id, sent_at, body) for secret in SIGNING_SECRETS]
    assert request.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "accept-encoding": "identity",
        "content-length": str(len(request.body)),
        "content-type": "application/json",
        "user-agent": f"triggers-api/{__version__}",
        "webhook-id": event_id,
        "webhook-timestamp": str(int(START)),
        "webhook-event-type": posted["event_type"],
        "webhook-signature": " ".join(signatures),
    }
    assert world.messages() == []
    assert world.dead_letters() == []


@pytest.mark.parametrize("level", ["INFO", "CRITICAL"])
def test_a_delivered_post_writes_two_lines_at_any_log_level(
    world: World, output: Output, level: str
) -> None:
    world.restart(LOG_LEVEL=level)

    event_id = world.post()["event_id"]

    accepted, attempt = output.lines()
    expected = {"message": "event accepted", "event_id": event_id}
    assert accepted.items() >= {**expected, "EventsAccepted": 1}.items()
    expected = {
        "message": "attempt",
        "event_id": event_id,
        "attempt": 1,
        "outcome": "delivered",
        "status_code": 200,
    }
    metrics = {"DeliverySuccess": 1, "DeliveryLatency": 0, "PushDuration": attempt["duration_ms"]}
    assert attempt.items() >= {**expected, **metrics}.items()


@pytest.mark.parametrize("level, others", [("INFO", ["sqs send_message_batch"]), ("WARNING", [])])
def test_an_event_that_is_queued_has_a_line(
    world: World, output: Output, level: str, others: list[str]
) -> None:
    world.restart(LOG_LEVEL=level)

    world.post(prefer="respond-async")

    assert [line["message"] for line in output.lines()] == ["event accepted", *others]


def test_an_event_whose_push_fails_is_queued_for_the_worker(
    world: World, receiver: Receiver, output: Output
) -> None:
    receiver.script(503)

    event = world.post()

    event_id = event["event_id"]
    assert_has(event, status="pending", delivered_at=None, delivery_attempts=1)
    assert 0.5 <= unix_seconds(event["next_attempt_at"]) - START <= 1
    [message] = world.messages()
    body = f'{{"event_id":"{event_id}"}}'
    assert_has(message, body=body, attributes={"EventId": event_id}, delay_seconds=1)
    [attempt] = world.event(event_id)["attempts"]
    expected = {
        "at": rfc3339(START),
        "outcome": "retry",
        "error": "receiver responded 503",
        "response": "ok",
    }
    assert attempt == {**expected, "status_code": 503, "duration_ms": attempt["duration_ms"]}
    retry = {"DeliveryRetry": 1, "PushDuration": attempt["duration_ms"]}
    assert output.metrics() == [{"EventsAccepted": 1}, retry]


PUT = "PutItem"

UPDATE = "UpdateItem"

SEND = "SendMessage"

SEND_MANY = "SendMessageBatch"

ASYNC = {"prefer": "respond-async"}

CALLS: list[tuple[int, dict[str, str], list[str]]] = [
    (200, {}, [PUT, UPDATE]),
    (503, {}, [PUT, UPDATE, SEND]),
    (200, {"idempotency_key": "k"}, [PUT, UPDATE]),
    (422, {}, [PUT, SEND, UPDATE]),
    (200, ASYNC, [PUT, SEND_MANY, UPDATE, UPDATE]),
    (503, ASYNC, [PUT, SEND_MANY, UPDATE, UPDATE, SEND]),
    (422, ASYNC, [PUT, SEND_MANY, UPDATE, SEND, UPDATE]),
]


@pytest.mark.parametrize("code, headers, calls", CALLS)
def test_the_calls_of_a_post_and_of_the_worker(
    world: World, receiver: Receiver, aws: Aws, code: int, headers: dict[str, str], calls: list[str]
) -> None:
    receiver.default = code
    world.restart(IN_PROCESS_WAIT_SECONDS="0")
    read_lists(world.services)

    made = aws.during(lambda: world.offer(**headers)) + aws.during(world.run_worker)

    assert made == calls
    assert receiver.count == 1


QUERY = "Query"

OF_TENANT = '{"event_type": "a", "payload": {}, "tenant": "t"}'


def test_a_post_reads_the_subscriptions_of_its_tenant_and_of_none_every_ten_seconds(
    world: World, aws: Aws
) -> None:
    def calls(body: str) -> list[str]:
        return aws.during(lambda: world.offer(body))

    assert calls(EVENT) == calls(OF_TENANT) == [QUERY, PUT, UPDATE]
    assert calls(EVENT) == calls(OF_TENANT) == [PUT, UPDATE]
    world.sleep(10)
    assert calls(OF_TENANT) == [QUERY, QUERY, PUT, UPDATE]


def slowly(world: World, behaviour: Behaviour, seconds: float = 5) -> Behaviour:
    """Respond after so many seconds of the world's time."""
    return in_turn(lambda _: world.sleep(seconds), behaviour)


def pushed(world: World, receiver: Receiver, **headers: str) -> bool:
    """Post an event, and return whether it was pushed before the response."""
    before = receiver.count
    event = world.post(**headers)
    now = receiver.count > before
    assert event["delivery_attempts"] == now
    return now


def test_a_timeout_opens_it_and_the_next_success_closes_it(
    world: World, receiver: Receiver
) -> None:
    world.restart(INLINE_PUSH_TIMEOUT_SECONDS="0.3")
    receiver.script(slowly(world, hang))
    [attempt] = world.event(world.post()["event_id"])["attempts"]
    assert attempt["error"] == "timed out"
    assert not pushed(world, receiver)

    world.sleep(60)
    assert [pushed(world, receiver) for _ in range(3)] == [True] * 3
