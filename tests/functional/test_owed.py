"""What is owed after trouble: a dead letter that the queue refused, a push that a process was too late for."""

import io
import sys

import pytest

from chalicelib.batch import BatchError
from tests.support.aws import Aws, Fault
from tests.support.receiver import Receiver, status
from tests.support.world import World


def test_an_event_whose_dead_letter_was_refused_is_not_pushed_again_for_it(
    world: World, receiver: Receiver, aws: Aws
) -> None:
    receiver.default = status(404)
    aws.fail(Fault.REFUSED, "SendMessage")
    event_id = world.post()["event_id"]
    aws.heal()

    world.settle(hours=1)

    event = world.event(event_id)
    assert (event["status"], event["delivery_attempts"], len(event["attempts"])) == ("failed", 1, 1)
    assert len(receiver.requests) == 1
    assert len(world.dead_letters()) == 1


def test_attempts_are_not_counted_for_pushes_that_were_not_made(world: World, receiver: Receiver, aws: Aws) -> None:
    world.restart(MAX_DELIVERY_ATTEMPTS="1")
    receiver.default = status(500)
    aws.fail(Fault.REFUSED, "SendMessage", "SendMessageBatch")
    event_id = world.post()["event_id"]
    for _ in range(5):
        world.clock.sleep(61)
        world.send(f'{{"event_id": "{event_id}"}}')
        try:
            world.run_worker()
        except BatchError:
            continue
    aws.heal()

    world.settle(hours=1)

    event = world.event(event_id)
    assert (event["status"], event["delivery_attempts"], len(receiver.requests)) == ("failed", 1, 1)
    assert '"last_status_code":500' in world.dead_letters()[-1]["body"]


@pytest.mark.parametrize("seconds", [61, 56])  # a push may take five more, and a claim holds for sixty
def test_a_process_that_stood_still_does_not_push_past_its_claim(
    world: World, receiver: Receiver, aws: Aws, seconds: float
) -> None:
    def stand_still(**_: object) -> None:
        world.clock.sleep(seconds)

    world.dynamodb.meta.events.register("after-call.dynamodb.PutItem", stand_still)
    event_id = world.post()["event_id"]
    world.dynamodb.meta.events.unregister("after-call.dynamodb.PutItem", stand_still)

    assert receiver.requests == []
    world.settle(hours=1)
    assert world.event(event_id)["status"] == "delivered"
    assert len(receiver.requests) == 1


def test_an_event_that_was_acknowledged_before_the_answer_of_its_put_came_is_not_pushed(
    world: World, receiver: Receiver, aws: Aws
) -> None:
    def acknowledge_meanwhile(attempts: int, **_: object) -> None:
        if attempts == 1:
            [item] = world._table().all_items()
            world.services.store.acknowledge(item.attrs["event_id"].value)

    world.dynamodb.meta.events.register_first("needs-retry.dynamodb.PutItem", acknowledge_meanwhile)
    aws.fail(Fault.REPEATED, "PutItem")
    event = world.post()
    world.dynamodb.meta.events.unregister("needs-retry.dynamodb.PutItem", acknowledge_meanwhile)

    assert (event["status"], event["delivered_via"]) == ("delivered", "pull")
    assert receiver.requests == []


class ClosedPipe(io.StringIO):
    """A standard output that nobody reads any more."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_an_event_is_delivered_though_nobody_can_be_told(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    assert world.post()["status"] == "delivered"

    world.post(prefer="respond-async")
    world.settle(hours=1)
    assert len(receiver.requests) == 2
