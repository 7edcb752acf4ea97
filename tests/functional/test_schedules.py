"""What runs by the clock: the sweep finds what everybody forgot, and check_dlq tells of it."""

import itertools
import json
import threading
import zlib
from collections.abc import Callable
from typing import Any

import pytest

import app
from chalicelib import schedules
from chalicelib.aws import CALL_SECONDS
from chalicelib.errors import StorageUnavailableError
from tests.functional.conftest import Output
from tests.support.aws import Aws, Fault
from tests.support.receiver import Receiver, status
from tests.support.world import World


def never_queued(world: World, aws: Aws, receiver: Receiver) -> str:
    aws.fail(Fault.REFUSED, "SendMessage")
    return str(world.post(prefer="respond-async")["event_id"])


def never_recorded(world: World, aws: Aws, receiver: Receiver) -> str:
    aws.fail(Fault.UNREACHED, "UpdateItem")
    return str(world.post()["event_id"])


def claim_of_a_worker_that_died(world: World, aws: Aws, receiver: Receiver) -> str:
    event_id = str(world.post(prefer="respond-async")["event_id"])
    assert world.services.store.claim(event_id, "1" * 32).applied
    world.lose_messages()
    return event_id


def first_message_lost(world: World, aws: Aws, receiver: Receiver) -> str:
    event_id = str(world.post(prefer="respond-async")["event_id"])
    world.lose_messages()
    return event_id


def later_message_lost(world: World, aws: Aws, receiver: Receiver) -> str:
    receiver.script(status(503, headers={"Retry-After": "1"}))
    event_id = str(world.post()["event_id"])
    world.lose_messages()
    return event_id


def replay_never_queued(world: World, aws: Aws, receiver: Receiver) -> str:
    event_id = str(world.post()["event_id"])
    aws.fail(Fault.UNREACHED, "SendMessage")
    assert world.call("POST", f"/events/{event_id}/replay").status_code == 202
    return event_id


@pytest.mark.parametrize(
    "lost",
    [
        never_queued,
        never_recorded,
        claim_of_a_worker_that_died,
        first_message_lost,
        later_message_lost,
        replay_never_queued,
    ],
)
def test_a_pending_event_that_nobody_will_push_is_queued_by_the_sweep_once(
    world: World, receiver: Receiver, aws: Aws, lost: Callable[[World, Aws, Receiver], str]
) -> None:
    event_id = lost(world, aws, receiver)
    aws.heal()
    world.clock.sleep(59)
    world.run_schedule(app.sweep)
    assert world.messages() == []  # somebody may yet come to it
    world.clock.sleep(2)

    for _ in range(3):
        world.run_schedule(app.sweep)

    [message] = world.messages()
    assert (message["body"], message["attributes"]) == (f'{{"event_id":"{event_id}"}}', {"EventId": event_id})
    assert world.run_worker() == 1
    assert world.event(event_id)["status"] == "delivered"


def test_the_sweep_goes_on_while_its_messages_are_lost(world: World) -> None:
    world.post(prefer="respond-async")
    for _ in range(3):
        world.lose_messages()
        world.clock.sleep(60)
        world.run_schedule(app.sweep)
        assert len(world.messages()) == 1


def test_the_sweep_leaves_alone_what_is_settled_or_waits_for_its_time(world: World, receiver: Receiver) -> None:
    receiver.script(status(200), status(404), status(503, headers={"Retry-After": "800"}), status(503))
    _, _, _, acknowledged = [world.post()["event_id"] for _ in range(4)]
    world.call("POST", f"/events/{acknowledged}/acknowledge")
    world.lose_messages()

    for _ in range(14):
        world.clock.sleep(60)
        world.run_schedule(app.sweep)

    assert world.messages() == []


def test_the_sweep_sends_nothing_while_1000_messages_are_visible(world: World) -> None:
    world.post(prefer="respond-async")
    world.lose_messages()
    world.fill_inbox(1000, delay_seconds=100)

    world.clock.sleep(60)
    world.run_schedule(app.sweep)
    assert len(world.messages()) == 1001  # hidden ones do not count

    world.clock.sleep(61)
    world.lose_messages(1)
    world.run_schedule(app.sweep)
    assert len(world.messages()) == 1000

    world.lose_messages(1)
    world.run_schedule(app.sweep)
    assert len(world.messages()) == 1000  # 999 and one


def test_two_sweeps_at_once_queue_an_event_once(world: World) -> None:
    world.post(prefer="respond-async")
    world.lose_messages()
    world.clock.sleep(60)
    both_found_it = threading.Barrier(2)

    def wait_for_the_other(parsed: dict[str, Any], **_: object) -> None:
        if parsed["Items"]:
            both_found_it.wait(5)

    world.dynamodb.meta.events.register("after-call.dynamodb.Query", wait_for_the_other)
    sweeps = [threading.Thread(target=world.run_schedule, args=(app.sweep,)) for _ in range(2)]
    for sweep in sweeps:
        sweep.start()
    for sweep in sweeps:
        sweep.join()
    world.dynamodb.meta.events.unregister("after-call.dynamodb.Query", wait_for_the_other)

    assert not both_found_it.broken
    assert len(world.messages()) == 1


def forget_in_one_shard(world: World, count: int) -> None:
    """Leave so many events to the sweep, all in one shard."""
    event_id = world.post(prefer="respond-async")["event_id"]
    world.lose_messages()
    table, shard = world.environ["EVENTS_TABLE_NAME"], zlib.crc32(event_id.encode()) % 8
    text = json.dumps(world.dynamodb.get_item(TableName=table, Key={"event_id": {"S": event_id}})["Item"])
    ids = (f"evt_{number:032}" for number in itertools.count())
    others = list(itertools.islice((each for each in ids if zlib.crc32(each.encode()) % 8 == shard), count - 1))
    for start in range(0, len(others), 25):
        copies = [json.loads(text.replace(event_id, other)) for other in others[start : start + 25]]
        world.dynamodb.batch_write_item(RequestItems={table: [{"PutRequest": {"Item": copy}} for copy in copies]})
    world.clock.sleep(60)


def test_a_sweep_ends_before_its_function_does(world: World) -> None:
    forget_in_one_shard(world, 30)

    def take_a_second(**_: object) -> None:
        world.clock.sleep(1)

    world.dynamodb.meta.events.register("after-call.dynamodb.UpdateItem", take_a_second)
    schedules.sweep(world.services, 2 * CALL_SECONDS - 1)  # too little for two calls that hang
    assert world.messages() == []
    schedules.sweep(world.services, 2 * CALL_SECONDS + 5)
    world.dynamodb.meta.events.unregister("after-call.dynamodb.UpdateItem", take_a_second)

    assert len(world.messages()) == 10


def test_an_expired_event_is_not_swept(world: World, aws: Aws) -> None:
    world.post(prefer="respond-async")
    world.lose_messages()
    world.clock.sleep(31 * 86_400)

    world.run_schedule(app.sweep)

    assert (world.messages(), aws.calls.count("UpdateItem")) == ([], 0)


def test_depths_are_told_though_the_store_fails(world: World, aws: Aws, output: Output) -> None:
    aws.fail(Fault.REFUSED, "Query")

    with pytest.raises(StorageUnavailableError):
        world.run_schedule(app.check_dlq)

    assert [(values["DLQDepth"], values["InboxDepth"]) for values in output.metrics()] == [(0, 0)]


def test_a_sweep_queues_a_few_thousand_events_at_most(world: World) -> None:
    forget_in_one_shard(world, 501)

    world.run_schedule(app.sweep)
    assert len(world.messages()) == 500  # an eighth of four thousand

    world.run_schedule(app.sweep)
    assert len({message["body"] for message in world.messages()}) == 501


def test_check_dlq_publishes_depths_and_age_and_warns_of_dead_letters(
    world: World, receiver: Receiver, output: Output
) -> None:
    world.run_schedule(app.check_dlq)
    idle = output.lines()
    assert [line["DLQDepth"] + line["InboxDepth"] + line["OldestPendingAge"] for line in idle if "_aws" in line] == [0]
    assert not [line for line in idle if line.get("level") == "WARNING"]
    receiver.script(status(404), status(404))
    for _ in range(2):
        world.post()
    for _ in range(3):
        world.post(prefer="respond-async")
        world.clock.sleep(30.5)
    output.lines()

    world.run_schedule(app.check_dlq)

    lines = output.lines()
    [metrics] = [line for line in lines if "_aws" in line]
    assert (metrics["DLQDepth"], metrics["InboxDepth"], metrics["OldestPendingAge"]) == (2, 3, 91.5)
    assert (metrics["Stage"], metrics["_aws"]["Timestamp"]) == ("dev", int(world.clock() * 1000))
    [directive] = metrics["_aws"]["CloudWatchMetrics"]
    assert (directive["Namespace"], directive["Dimensions"]) == ("TriggersApi", [["Stage"]])
    units = {metric["Name"]: metric["Unit"] for metric in directive["Metrics"]}
    assert units == {"DLQDepth": "Count", "InboxDepth": "Count", "OldestPendingAge": "Seconds"}
    [warning] = [line for line in lines if line.get("level") == "WARNING"]
    assert warning["visible"] == 2
