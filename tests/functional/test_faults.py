"""DynamoDB and SQS fail, at each call and in each way: callers hear the truth, and nothing accepted is lost."""

import contextlib

import pytest

import app
from chalicelib.batch import BatchError
from chalicelib.errors import QueueUnavailableError, StorageUnavailableError
from tests.functional.conftest import Output
from tests.support.aws import Aws, Fault
from tests.support.receiver import Receiver, status
from tests.support.world import Answer, World

EVENT = '{"event_type": "a", "payload": {}}'
PATHS = [(200, 2), (503, 3), (404, 3)]  # what the receiver answers first, and how many calls that makes


def assert_unavailable(answer: Answer) -> None:
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert answer.json["status"] == 503


def assert_settles_once(world: World, receiver: Receiver, code: int, since: int) -> None:
    """Let time pass; then one event must have ended as it should, and its receiver have heard of it."""
    world.settle(hours=1)
    [event] = world.call("GET", "/events").json["events"]
    assert event["status"] == ("failed" if code == 404 else "delivered")
    assert len(world.dead_letters()) >= (code == 404)
    assert {request.headers["webhook-id"] for request in receiver.requests[since:]} == {event["event_id"]}


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize(("code", "calls"), [*PATHS, (None, 2)], ids=["delivered", "retry", "permanent", "async"])
def test_a_fault_while_posting(
    world: World, receiver: Receiver, aws: Aws, output: Output, fault: Fault, code: int | None, calls: int
) -> None:
    for at in range(1, calls + 1):
        world.forget(ZAPIER_WEBHOOK_URL=receiver.url, IN_PROCESS_WAIT_SECONDS="0")
        receiver.default = status(404 if code == 404 else 200)
        receiver.script(*[status(503)] * (code == 503))
        before = len(receiver.requests)
        output.lines()
        aws.fail(fault, at=at)
        headers = {"idempotency_key": "k"} if code else {"idempotency_key": "k", "prefer": "respond-async"}

        answer = world.call("POST", "/events", EVENT, **headers)

        aws.heal()
        if at == 1 and fault is not Fault.REPEATED:
            assert_unavailable(answer)
            assert len(receiver.requests) == before
            answer = world.call("POST", "/events", EVENT, **headers)
            assert ("idempotency-replayed" in answer.headers) == (fault is Fault.LOST)
        assert answer.status_code == 202
        if fault is Fault.REPEATED:  # as if nothing had happened
            assert "idempotency-replayed" not in answer.headers
            assert len(receiver.requests) - before == (code is not None)
            assert [1 for values in output.metrics() if "DeliveryFailure" in values] == [1] * (code == 404)
            assert len(world.messages()) == (code in {503, None}) * (1 + (at == calls))  # the last call sends
        assert_settles_once(world, receiver, code or 200, before)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize(("code", "calls"), PATHS, ids=["delivered", "retry", "permanent"])
def test_a_fault_in_the_worker(world: World, receiver: Receiver, aws: Aws, fault: Fault, code: int, calls: int) -> None:
    for at in range(1, calls + 1):
        world.forget(ZAPIER_WEBHOOK_URL=receiver.url, IN_PROCESS_WAIT_SECONDS="0")
        world.post(prefer="respond-async")
        receiver.default = status(404 if code == 404 else 200)
        receiver.script(*[status(503)] * (code == 503))
        before = len(receiver.requests)
        aws.fail(fault, at=at)

        with contextlib.nullcontext() if fault is Fault.REPEATED else pytest.raises(BatchError):
            world.run_worker()

        aws.heal()
        assert aws.faults == 1
        if fault is Fault.REPEATED:
            assert (len(receiver.requests) - before, len(world.messages())) == (1, (code == 503) * (1 + (at == calls)))
        assert_settles_once(world, receiver, code, before)


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_while_replaying(world: World, receiver: Receiver, aws: Aws, fault: Fault) -> None:
    for at in (1, 2):
        event_id = world.post()["event_id"]
        before = len(receiver.requests)
        aws.fail(fault, at=at)

        answer = world.call("POST", f"/events/{event_id}/replay")

        aws.heal()
        if at == 1 and fault is not Fault.REPEATED:
            assert_unavailable(answer)
            answer = world.call("POST", f"/events/{event_id}/replay")
        assert answer.status_code == 202
        world.settle(hours=1)
        assert world.event(event_id)["status"] == "delivered"
        assert len(receiver.requests) == before + 1


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_while_reading_and_acknowledging(world: World, receiver: Receiver, aws: Aws, fault: Fault) -> None:
    receiver.script(status(404))
    event_id = world.post()["event_id"]
    aws.fail(fault)

    for method, path in (
        ("GET", "/events"),
        ("GET", "/inbox"),
        ("GET", "/events/%s"),
        ("POST", "/events/%s/acknowledge"),
    ):
        answer = world.call(method, path.replace("%s", event_id))
        if fault is Fault.REPEATED:
            assert answer.status_code in (200, 204)
        else:
            assert_unavailable(answer)

    aws.heal()
    assert world.call("POST", f"/events/{event_id}/acknowledge").status_code == 204
    assert world.event(event_id)["delivered_via"] == "pull"


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.UNREACHED, Fault.LOST])
def test_a_fault_in_a_sweep_is_made_up_for_by_the_next_ones(
    world: World, receiver: Receiver, aws: Aws, fault: Fault
) -> None:
    event_ids = [world.post(prefer="respond-async")["event_id"] for _ in range(5)]
    for operation in ("GetQueueAttributes", "Query", "UpdateItem", "SendMessageBatch"):
        world.lose_messages()
        world.clock.sleep(61)
        aws.fail(fault, operation)
        with pytest.raises((QueueUnavailableError, StorageUnavailableError)):
            world.run_schedule(app.sweep)
        aws.heal()

    world.settle(hours=1)

    assert {world.event(event_id)["status"] for event_id in event_ids} == {"delivered"}
    assert len(receiver.requests) == 5


def test_a_fault_in_one_shard_does_not_keep_a_sweep_from_the_others(world: World, aws: Aws) -> None:
    for _ in range(12):
        world.post(prefer="respond-async")
    world.lose_messages()
    world.clock.sleep(60)
    aws.fail(Fault.REFUSED, "UpdateItem", at=1)

    with pytest.raises(StorageUnavailableError):
        world.run_schedule(app.sweep)

    assert world.messages()


def test_the_dead_letter_queue_is_told_before_the_event_is_failed(world: World, receiver: Receiver, aws: Aws) -> None:
    receiver.default = status(404)
    aws.fail(Fault.UNREACHED, "SendMessage")

    event = world.post()

    assert (event["status"], world.dead_letters()) == ("pending", [])
    aws.heal()
    world.settle(hours=1)
    assert world.event(event["event_id"])["status"] == "failed"
    assert (len(world.dead_letters()), len(receiver.requests)) == (1, 1)  # refused for good: not pushed again


def test_a_retry_whose_record_is_unknown_is_queued_all_the_same(world: World, receiver: Receiver, aws: Aws) -> None:
    receiver.script(status(503))
    aws.fail(Fault.LOST, "UpdateItem")

    world.post()

    aws.heal()
    assert len(world.messages()) == 1
    world.clock.sleep(1)
    world.run_worker()
    assert len(receiver.requests) == 2


def test_a_caller_is_told_of_the_attempt_though_the_queue_fails(world: World, receiver: Receiver, aws: Aws) -> None:
    receiver.script(status(503))
    aws.fail(Fault.UNREACHED, "SendMessage")

    event = world.post()

    assert event["message"].startswith("Attempt 1 did not succeed; the next is due at ")
    assert event == {name: world.event(event["event_id"])[name] for name in event}


def test_what_goes_wrong_after_an_event_is_stored_is_logged_with_its_trace(
    world: World, aws: Aws, output: Output
) -> None:
    aws.fail(Fault.UNREACHED, "UpdateItem")

    event_id = world.post()["event_id"]

    [error] = [line for line in output.lines() if line.get("level") == "ERROR"]
    assert (error["event_id"], "Traceback" in error["trace"]) == (event_id, True)
    assert error["request_id"]
