"""The worker: when it retries, which messages it drops, and which it moves to the dead letter
queue.
"""

import json
import threading

import pytest

from chalicelib.core.outcome import Outcome, PushResult
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.operations.batch import BatchError
from tests.conftest import During, Once, Output
from tests.support.aws_calls import Aws, Fault
from tests.support.receiver import Answers, Receiver, hang, status, when_all_are_here
from tests.support.world import START, UNKNOWN, World, assert_has


def due_in(world: World, event_id: str) -> float:
    return unix_seconds(world.event(event_id)["next_attempt_at"]) - world.clock()


# Retry


def test_the_delay_doubles_up_to_two_hours_in_45_attempts(
    world: World, receiver: Receiver, output: Output
) -> None:
    receiver.default = 503
    world.restart(IN_PROCESS_WAIT_SECONDS="0")
    event_id = world.queued()
    shares = list[float]()
    while world.run_worker() and world.event(event_id)["status"] == "pending":
        delay = due_in(world, event_id)
        shares.append(delay / min(7200, 2 ** len(shares)))
        world.sleep(delay + 1)
        if not world.messages():
            world.sleep(60)
            world.sweep()

    assert receiver.count == 45 == len(shares) + 1
    assert all(0.499 <= share <= 1.001 for share in shares)
    assert max(shares) - min(shares) > 0.2
    assert world.clock() - START < 66 * 3600  # less than three days
    event = world.event(event_id)
    assert_has(
        event, status="failed", delivery_attempts=45, delivered_via=None, next_attempt_at=None
    )
    assert event["attempts"][-1]["outcome"] == "retry"
    [letter] = world.dead_letters()
    assert letter["attributes"] == {"EventId": event_id, "Reason": "exhausted"}
    of_event = ("event_id", "subscription_id", "tenant", "delivery_attempts", "last_error")
    assert json.loads(letter["body"]) == {
        **{name: event[name] for name in of_event},
        "reason": "exhausted",
        "last_status_code": 503,
        "failed_at": event["attempts"][-1]["at"],
    }
    assert sum(metrics.get("DeliveryFailure", 0) for metrics in output.metrics()) == 1
    assert world.listed() == [event_id]


def test_the_worker_waits_in_process_up_to_its_limit(world: World, receiver: Receiver) -> None:
    receiver.default = 503
    event_id = world.queued()

    world.run_worker()

    waited = world.clock() - START
    rest = due_in(world, event_id)
    assert waited <= 8 < waited + rest
    assert receiver.count >= 3
    [message] = world.messages()
    assert message["attributes"] == {"EventId": event_id}
    assert rest <= message["delay_seconds"] < rest + 1.001


@pytest.mark.parametrize("timeout_seconds, waits", [(20, False), (31, False), (36, True)])
def test_the_worker_waits_if_time_is_left(
    world: World, receiver: Receiver, timeout_seconds: int, waits: bool
) -> None:
    receiver.default = 503
    world.restart(IN_PROCESS_WAIT_SECONDS="900", BACKOFF_BASE_SECONDS="2")
    world.queued()

    world.run_worker(timeout_seconds=timeout_seconds)

    waited = world.clock() - START
    assert bool(waited) == waits
    assert waited <= timeout_seconds - 10  # PUSH_TIMEOUT_SECONDS
    assert len(world.messages()) == 1


def test_the_worker_begins_no_push_that_it_cannot_record_in_time(
    world: World, receiver: Receiver
) -> None:
    event_id = world.queued()

    world.run_worker(timeout_seconds=11)  # 10 s for a record and a message, 1 s to return

    assert receiver.requests == []
    event = world.event(event_id)
    assert_has(event, status="pending", delivery_attempts=0, next_attempt_at=rfc3339(START + 60))
    assert len(world.messages()) == 1
    world.settle()
    assert world.event(event_id)["status"] == "delivered"


def test_a_trial_that_the_worker_has_no_time_for_is_left_to_the_next_event(
    world: World, receiver: Receiver
) -> None:
    webhook = world.services.targets.webhook
    failed = PushResult(Outcome.RETRY)
    world.services.worker_breaker.record(webhook, START - 25, START, failed, open_seconds=1)
    world.sleep(300)  # until the breaker allows a trial
    world.queued()
    world.run_worker(timeout_seconds=11)
    assert receiver.requests == []

    event_id = world.queued()
    world.run_worker()

    assert world.event(event_id)["status"] == "delivered"


@pytest.mark.parametrize("response", [hang, 429])
def test_the_worker_does_not_wait_after_a_push_that_timed_out_or_came_too_soon(
    world: World, receiver: Receiver, response: Answers
) -> None:
    world.restart(PUSH_TIMEOUT_SECONDS="0.2")
    receiver.script(response)
    event_id = world.queued()

    world.run_worker()

    receiver.wait_for(1)
    assert world.clock() == START
    [message] = world.messages()
    assert_has(message, attributes={"EventId": event_id}, delay_seconds=1)


def test_no_message_of_a_batch_waits_for_the_retry_of_another(
    world: World, receiver: Receiver
) -> None:
    receiver.script(503)
    for _ in range(2):
        world.queued()

    world.run_worker()

    assert world.clock() == START
    assert receiver.count == 2
    assert len(world.messages()) == 1


@pytest.mark.parametrize(
    "code, retry_after, least, most",
    [(503, "30", 30, 30), (429, "1", 5, 10), (503, "3601", 3600, 3600), (500, "30", 5, 10)],
)
def test_the_next_attempt_is_not_earlier_than_the_receiver_and_the_schedule_say(
    world: World, receiver: Receiver, code: int, retry_after: str, least: float, most: float
) -> None:
    world.restart(BACKOFF_BASE_SECONDS="10", IN_PROCESS_WAIT_SECONDS="0")
    receiver.script(status(code, headers={"Retry-After": retry_after}))

    event_id = world.queued()
    world.run_worker()

    due = due_in(world, event_id)
    assert least <= due <= most
    delays = [message["delay_seconds"] for message in world.messages()]
    assert len(delays) == (due <= 900)
    assert all(due <= delay < due + 1 for delay in delays)


def test_a_message_that_is_little_early_is_sent_on_with_the_rest_of_the_delay(
    world: World, receiver: Receiver
) -> None:
    waits = ("5", "60")
    receiver.script(*(status(503, headers={"Retry-After": seconds}) for seconds in waits))
    for _ in waits:
        world.send_message(json.dumps({"event_id": world.post()["event_id"]}))
    world.sleep(0.5)

    assert world.run_worker() == 2

    assert receiver.count == 2
    assert len(world.get("/events?status=pending")["events"]) == 2
    # of the sooner, the message of the POST and its successor; of the later, that of the POST alone
    assert sorted(message["delay_seconds"] for message in world.messages()) == [4.5, 5, 59.5]


def test_a_dead_letter_has_the_true_number_of_attempts_if_fewer_are_allowed(
    world: World, receiver: Receiver
) -> None:
    receiver.default = 503
    event_id = world.queued()
    world.run_worker()
    made = receiver.count
    world.restart(MAX_DELIVERY_ATTEMPTS=str(made - 2))

    world.settle()

    event = world.event(event_id)
    [letter] = world.dead_letters()
    assert len(event["attempts"]) == receiver.count == made >= 3
    assert_has(event, status="failed", delivery_attempts=made)
    assert json.loads(letter["body"])["delivery_attempts"] == made


# Messages


def test_messages_that_cannot_be_read_are_moved_to_the_dlq_unchanged(world: World) -> None:
    bodies = ["1" * 5000, "[" * 9000, *["hello", "{", "[]", "null", "NaN", '"evt"', "{}"]]
    bad_ids = ("null", '"x"', "1", f'"{UNKNOWN.upper()}"', "[]")
    bodies += [f'{{"event_id": {bad}}}' for bad in bad_ids]
    for body in bodies:
        world.send_message(body, EventId="whatever")

    world.empty_inbox()

    letters = world.dead_letters()
    assert sorted(letter["body"] for letter in letters) == sorted(bodies)
    assert all(letter["attributes"] == {"Reason": "malformed"} for letter in letters)
    assert world.messages() == []


def test_a_dead_letter_replays_a_failed_event_and_wakes_a_pending_one(
    world: World, receiver: Receiver
) -> None:
    receiver.script(422, 422)
    event_id = world.post()["event_id"]
    world.sleep(60)
    world.replay(event_id)
    world.lose_messages()

    # of one that is delivered it is dropped
    for state, pushes in (("failed", 2), ("delivered", 3), ("delivered", 3)):
        world.move_back()
        world.empty_inbox()
        assert world.event(event_id)["status"] == state
        assert receiver.count == pushes
        world.send_message(json.dumps({"event_id": event_id, "reason": "permanent"}))
        world.empty_inbox()
        assert receiver.count == 3

    assert world.messages() == []


def test_a_dead_letter_replays_no_event_that_is_acknowledged_meanwhile(
    world: World, receiver: Receiver, once: Once
) -> None:
    receiver.script(422)
    event_id = world.post()["event_id"]
    world.move_back()
    once(world.dynamodb, "after-call.dynamodb.GetItem", lambda: world.acknowledge(event_id))
    world.empty_inbox()

    assert_has(world.event(event_id), status="delivered", delivered_via="pull")
    assert receiver.count == 1


def test_a_dead_letter_of_a_claimed_event_is_sent_on_after_900_s_at_most(
    world: World, receiver: Receiver, once: Once
) -> None:
    """The dead letter is sent before the failure is recorded: a redrive can move it back in
    between.
    """

    def redrive() -> None:
        world.move_back()
        world.run_worker()

    once(world.dynamodb, "before-call.dynamodb.UpdateItem", redrive)
    receiver.script(422)

    event = world.post()

    assert event["status"] == "failed"
    assert world.dead_letters() == []
    [message] = world.messages()
    assert message["delay_seconds"] == 61
    world.sleep(61)
    world.run_worker()
    assert world.event(event["event_id"])["status"] == "delivered"
    assert (receiver.count, world.messages(), world.dead_letters()) == (2, [], [])
    receiver.script(422)
    world.post()
    world.call("POST", "/inbox/lease", '{"lease_seconds": 3600}')
    world.move_back()
    world.run_worker()
    assert [message["delay_seconds"] for message in world.messages()] == [900]


def test_a_dead_letter_is_kept_if_its_lease_ends_meanwhile(
    world: World, receiver: Receiver, during: During
) -> None:
    receiver.script(422)
    event_id = world.post()["event_id"]
    world.call("POST", "/inbox/lease", '{"lease_seconds": 1}')
    during(world.dynamodb, "after-call.dynamodb.UpdateItem", lambda **_: world.sleep(5))
    world.move_back()
    world.run_worker()
    delays = [message["delay_seconds"] for message in world.messages()]

    world.settle()

    assert world.event(event_id)["status"] == "delivered"
    assert delays == [1]


# Batches


def test_a_batch_is_processed_in_parallel_and_leaves_no_thread(
    world: World, receiver: Receiver
) -> None:
    receiver.default = when_all_are_here(10)
    for _ in range(10):
        world.queued()
    assert world.run_worker() == 10

    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("ThreadPoolExecutor") for name in names)
    assert len(world.get("/events?status=delivered")["events"]) == 10


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.UNREACHED])
def test_a_fault_in_one_message_never_costs_another(
    world: World, receiver: Receiver, aws: Aws, fault: Fault
) -> None:
    for _ in range(4):
        world.queued()
    world.send_message("malformed")
    aws.fail(at=1, fault=fault)

    with pytest.raises(BatchError, match="1 of 5"):
        world.run_worker()

    aws.heal()
    assert len(world.messages()) == 1  # the others were deleted
    assert receiver.count + len(world.dead_letters()) == 4
    world.sleep(301)
    assert world.run_worker() == 1
    assert len(world.get("/events?status=delivered")["events"]) == receiver.count == 4
    assert len(world.dead_letters()) == 1
