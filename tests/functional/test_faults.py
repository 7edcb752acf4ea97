"""DynamoDB and SQS fail: callers get the truth, and nothing accepted is lost. The crash tests stop
at every call.
"""

from contextlib import nullcontext, suppress

import pytest

from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.operations.batch import BatchError
from tests.conftest import During, Output
from tests.support.aws_calls import Aws, Fault
from tests.support.hooks import Hook
from tests.support.receiver import Receiver, in_turn, status
from tests.support.world import START, World, assert_has

FAILURES = [Fault.REFUSED, Fault.UNREACHED, Fault.LOST]


@pytest.mark.parametrize("fault", FAILURES)
def test_every_call_gets_503_while_dynamodb_fails(
    world: World, receiver: Receiver, aws: Aws, fault: Fault
) -> None:
    receiver.script(422)
    event_id = world.post()["event_id"]
    aws.fail(fault=fault)

    calls = (
        "GET /events",
        "GET /inbox",
        "GET /subscriptions",
        "POST /inbox/lease",
        "GET /events/%s",
        "POST /events/%s/acknowledge",
        "POST /events/%s/replay",
        *(f"{method} /subscriptions/sub_{0:032x}" for method in ("GET", "DELETE")),
        *(f"POST /subscriptions/sub_{0:032x}/{verb}" for verb in ("enable", "test")),
    )
    answers = [world.call(*call.replace("%s", event_id).split()) for call in calls]
    answers.append(world.offer())
    assert {answer.status_code for answer in answers} == {503}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)


@pytest.mark.parametrize("code, metric", [(200, "DeliverySuccess"), (422, "DeliveryFailure")])
def test_a_write_whose_first_response_is_lost_is_that_of_its_call(
    world: World, receiver: Receiver, aws: Aws, output: Output, code: int, metric: str
) -> None:
    receiver.script(code, code)
    aws.fail("PutItem", "UpdateItem", fault=Fault.REPEATED)
    answer = world.offer()
    assert "idempotency-replayed" not in answer.headers
    world.post(prefer="respond-async")
    world.run_worker()

    assert receiver.count == 2
    events = world.call("GET", "/events").json["events"]
    assert [event["delivery_attempts"] for event in events] == [1, 1]
    assert [line[metric] for line in output.lines() if metric in line] == [1, 1]
    world.restart(ZAPIER_WEBHOOK_URL="none")
    waiting = world.post(event_type="order.late")["event_id"]
    [leased] = world.call("POST", "/inbox/lease", {"event_type": "order.late"}).json["events"]
    assert leased["event_id"] == waiting
    release = f"/events/{waiting}/release?lease_id={leased['lease_id']}"
    assert [world.call("POST", release).status_code for _ in range(2)] == [204, 409]


def test_what_a_consumer_acknowledges_meanwhile_is_not_pushed(
    world: World, receiver: Receiver, during: During
) -> None:
    event_id = world.queued()
    left = [event_id]

    def acknowledge(**_: object) -> float | None:
        if not left:
            return None
        world.acknowledge(left.pop())
        return 0.0  # boto3 sends the claim again

    during(world.dynamodb, "needs-retry.dynamodb.UpdateItem", acknowledge)
    world.run_worker()
    assert receiver.count == 0
    assert world.event(event_id)["delivered_via"] == "pull"


# Records


@pytest.mark.parametrize("prefer, seconds", [("", 17), ("respond-async", 39)])
def test_a_record_is_retried_in_time(
    world: World, receiver: Receiver, aws: Aws, prefer: str, seconds: float
) -> None:
    receiver.script(in_turn(lambda _: aws.fail("UpdateItem"), status(200)))
    event_id = world.post(prefer=prefer)["event_id"]
    with pytest.raises(BatchError) if prefer else nullcontext():
        world.run_worker()

    assert seconds - 1 <= world.clock() - START <= seconds
    aws.heal()
    assert world.event(event_id)["status"] == "pending"
    world.settle(hours=1)
    assert world.event(event_id)["status"] == "delivered"


def test_a_late_error_is_logged_with_its_traceback(
    world: World, receiver: Receiver, aws: Aws, output: Output
) -> None:
    receiver.script(503)
    aws.fail("SendMessage", fault=Fault.UNREACHED)

    event_id = world.post()["event_id"]

    failed_call, error = [line for line in output.lines() if line.get("level") == "ERROR"]
    assert_has(failed_call, message="sqs send_message", error="EndpointConnectionError")
    assert error["event_id"] == event_id
    assert "Traceback" in error["trace"]
    assert error["request_id"]


def test_what_is_stored_too_late_is_left_to_the_worker(
    world: World, receiver: Receiver, during: During, output: Output
) -> None:
    during(world.dynamodb, "after-call.dynamodb.PutItem", lambda **_: world.sleep(18))

    event = world.post()

    assert output.metrics() == [{"EventsAccepted": 1}]
    assert receiver.requests == []
    assert_has(event, status="pending", delivery_attempts=0)  # no push, no attempt
    assert len(world.messages()) == 1
    world.settle(hours=1)
    assert world.event(event["event_id"])["status"] == "delivered"


def test_an_outage_of_reads_ends_no_copy_and_multiplies_no_message(
    world: World, hook: Hook, aws: Aws
) -> None:
    world.restart(MAX_DELIVERY_ATTEMPTS="4")
    copy = hook.post(503)
    aws.fail("GetItem", "Query")
    for _ in range(25):
        world.sleep(60)
        with suppress(StorageUnavailableError):
            world.sweep()
        with suppress(BatchError):
            world.run_worker()
    aws.heal()
    assert len(world.messages()) == 1
    assert aws.faults > 25
    assert hook.target.count == 1

    world.settle(hours=1)

    copy.has(status="delivered", delivery_attempts=2)
    assert len(copy.now["attempts"]) == 2
    assert [letter for letter in world.dead_letters() if "Reason" in letter["attributes"]] == []


def test_a_failed_write_of_a_subscription_is_all(
    world: World, hook: Hook, aws: Aws, output: Output
) -> None:
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    aws.fail("UpdateItem", at=2)  # after the record

    copy = hook.post(422)

    assert (aws.faults, copy.status, len(world.dead_letters())) == (1, "failed", 1)
    warnings = [line["message"] for line in output.lines() if line["level"] != "INFO"]
    assert warnings == ["dead letter", "dynamodb failed"]
