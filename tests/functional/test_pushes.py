"""The ways of an event that is pushed, each from the call that posts it to its end, and their calls
to AWS.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook

from chalicelib import __version__
from chalicelib.core.outcome import Outcome, PushResult
from chalicelib.infra.times import rfc3339, unix_seconds
from tests.conftest import Output
from tests.support.aws_calls import Aws
from tests.support.receiver import Receiver, hang, in_turn
from tests.support.world import SIGNING_SECRETS, START, World, assert_has, read_lists


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


@pytest.mark.parametrize(
    "level, others", [("INFO", ["sqs send_message_batch"]), ("WARNING", []), ("CRITICAL", [])]
)
def test_an_event_has_a_line_and_a_push_another_at_any_log_level(
    world: World, output: Output, level: str, others: list[str]
) -> None:
    world.restart(LOG_LEVEL=level)

    event_id = world.post()["event_id"]
    accepted, attempt = output.lines()
    world.post(prefer="respond-async")

    assert_has(accepted, message="event accepted", event_id=event_id, EventsAccepted=1)
    assert_has(
        attempt,
        message="attempt",
        event_id=event_id,
        attempt=1,
        outcome="delivered",
        status_code=200,
        DeliverySuccess=1,
        DeliveryLatency=0,
        PushDuration=attempt["duration_ms"],
    )
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
    assert_has(attempt, at=rfc3339(START), outcome="retry", response="ok", status_code=503)
    assert attempt["error"] == "receiver responded 503"
    retry = {"DeliveryRetry": 1, "PushDuration": attempt["duration_ms"]}
    assert output.metrics() == [{"EventsAccepted": 1}, retry]


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_post_without_a_push_leaves_the_trial_of_an_open_breaker_to_the_next(
    world: World, receiver: Receiver, aws: Aws, *, is_stored: bool
) -> None:
    first = world.offer(idempotency_key="k").json
    webhook = world.services.targets.webhook
    failed = PushResult(Outcome.RETRY)
    world.services.inline_breaker.record(webhook, START, START + 5, failed, open_seconds=1)
    assert_has(world.post(), delivery_attempts=0)  # it waits in the queue
    world.sleep(60)

    if is_stored:
        assert world.offer(idempotency_key="k").json["event_id"] == first["event_id"]
    else:
        aws.fail("PutItem")
        assert world.offer().status_code == 503
        aws.heal()

    assert world.post()["status"] == "delivered"
    assert receiver.count == 2


PUT, UPDATE, SEND, SEND_MANY = "PutItem", "UpdateItem", "SendMessage", "SendMessageBatch"
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


def test_a_post_reads_the_subscriptions_of_its_tenant_and_of_none_every_ten_seconds(
    world: World, aws: Aws
) -> None:
    def count_reads(tenant: str | None) -> int:
        return aws.during(lambda: world.post_for(tenant)).count("Query")

    assert [count_reads(tenant) for tenant in (None, "t", None, "t")] == [1, 1, 0, 0]
    world.sleep(10)
    assert count_reads("t") == 2


def test_a_timeout_opens_it_and_the_next_success_closes_it(
    world: World, receiver: Receiver
) -> None:
    settings = world.services.settings
    world.services.settings = replace(settings, inline_push_timeout_seconds=0.3)
    receiver.script(in_turn(lambda _: world.sleep(5), hang))
    [attempt] = world.event(world.post()["event_id"])["attempts"]
    assert attempt["error"] == "timed out"
    world.services.settings = settings
    world.post()
    assert receiver.count == 1

    world.sleep(60)
    assert [world.post()["delivery_attempts"] for _ in range(3)] == [1] * 3
    assert receiver.count == 4
