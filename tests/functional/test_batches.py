"""POST /events/batch: up to ten events in one call, each accepted or refused alone."""

import json
from typing import Any

import pytest

from tests.conftest import Once, Output
from tests.support.aws_calls import Aws
from tests.support.receiver import Receiver, when_all_are_here
from tests.support.world import Answer, Json, World, assert_has

EVENT: Json = {"event_type": "order.created", "payload": {}}
HALF = {**EVENT, "payload": {"text": "x" * 131_000}}


def offer(world: World, *events: Any, **headers: str) -> Answer:
    return world.call("POST", "/events/batch", {"events": events}, **headers)


def statuses(answer: Answer) -> list[int]:
    assert answer.status_code == 200, answer.text
    found = [entry["status"] for entry in answer.json["events"]]
    assert answer.json["failed_count"] == len(found) - found.count(202)
    return found


@pytest.mark.parametrize(
    "body, headers, fault",
    [
        ({"events": []}, {}, "events"),
        ({"events": [EVENT] * 11}, {}, "events"),
        ({"events": EVENT}, {}, "events"),
        ({}, {}, "events"),
        ([EVENT], {}, "body"),
        ({"events": [EVENT], "tenant": "a"}, {}, "tenant"),
        ({"events": [EVENT]}, {"idempotency-key": "k"}, "Idempotency-Key"),
    ],
)
def test_a_batch_is_refused_as_a_whole(
    world: World, body: Any, headers: dict[str, str], fault: str
) -> None:
    answer = world.call("POST", "/events/batch", json.dumps(body), **headers)
    assert answer.faults == [fault]
    assert world.items() == []


def test_each_event_is_accepted_or_refused_alone(world: World, receiver: Receiver) -> None:
    receiver.script(200, 503)
    faulty: list[tuple[Any, str]] = [
        (1, "events[1]"),
        ([EVENT], "events[2]"),
        ({"event_type": "a"}, "events[3].payload"),
        ({**EVENT, "events": []}, "events[4].events"),
        ({**EVENT, "idempotency_key": ""}, "events[5].idempotency_key"),
        ({**EVENT, "idempotency_key": 1}, "events[6].idempotency_key"),
    ]
    large = {**EVENT, "metadata": {"text": "x" * 262_144}}
    members = {"metadata": {"a": 1}, "tenant": "a", "subject": "b", "idempotency_key": None}
    answer = offer(world, EVENT, *(event for event, _ in faulty), large, {**EVENT, **members})

    assert statuses(answer) == [202, *[400] * 6, 413, 202]
    entries = answer.json["events"]
    faults = [entry["problem"]["errors"][0]["field"] for entry in entries[1:7]]
    assert faults == [path for _, path in faulty]
    assert entries[7]["problem"]["code"] == "payload_too_large"
    for entry in (entries[0], entries[8]):
        stored = world.event(entry["event"]["event_id"])
        assert entry == {
            "status": 202,
            "replayed": False,
            "event": {name: stored[name] for name in entry["event"]},
        }
    assert {entry["event"]["status"] for entry in entries if "event" in entry} == {
        "delivered",
        "pending",
    }
    assert {"tenant": "a", "subject": "b", "metadata": {"a": 1}}.items() <= stored.items()


def test_what_json_cannot_hold_is_a_fault_of_its_event_alone(
    world: World, receiver: Receiver
) -> None:
    event = '{"event_type": "a", "payload": {"text": %s}}'
    texts = [
        '"ok"',
        r'"half an emoji: \ud83d"',
        "1e400",
        "9" * 4301,
        "NaN",
        r'{"\ude00": 1}',
        r'"\ud83d\ude00"',
    ]
    events = ", ".join(event % text for text in texts)
    answer = world.call("POST", "/events/batch", f'{{"events": [{events}]}}')

    assert statuses(answer) == [202, *[400] * 5, 202]
    faults = [entry["problem"]["errors"][0] for entry in answer.json["events"][1:6]]
    assert [fault["field"] for fault in faults] == [f"events[{number}]" for number in range(1, 6)]
    assert {fault["message"][:13] for fault in faults} == {"must be JSON:"}
    pushed = {push.json()["payload"]["text"] for push in receiver.requests}
    assert pushed == {"ok", "\U0001f600"}
    named = world.call("POST", "/events/batch", r'{"events": [1], "\ud83d": 1}')
    assert named.faults == ["\ud83d"]
    assert named.text.isascii()


def test_a_batch_has_at_most_2_7_mb(world: World) -> None:
    world.restart(ZAPIER_WEBHOOK_URL="none")
    assert statuses(offer(world, *[HALF] * 10)) == [202] * 10
    twice = {**EVENT, "payload": {"text": "x" * 262_000}}
    assert statuses(offer(world, *[twice] * 10)) == [202] * 10
    padded = f'{{"events": [{json.dumps(EVENT)}{" " * 2_700_000}]}}'
    assert world.call("POST", "/events/batch", padded).status_code == 413


def test_a_key_is_what_the_header_is_also_twice_in_a_batch(
    world: World, receiver: Receiver
) -> None:
    world.subscribe(f"{receiver.url}&copy")
    event = {**EVENT, "idempotency_key": "k"}
    other = {**event, "payload": {"a": 1}}

    answer = offer(world, EVENT, event, event, other, {**other, "idempotency_key": "l"})

    assert statuses(answer) == [202, 202, 202, 422, 202]
    first, second, third, refused, _ = answer.json["events"]
    assert [first["replayed"], second["replayed"], third["replayed"]] == [False, False, True]
    event_id = second["event"]["event_id"]
    assert third["event"]["event_id"] == event_id
    assert refused["problem"]["code"] == "idempotency_key_reused"
    posted = world.offer(EVENT, idempotency_key="k")
    assert (posted.json["event_id"], posted.headers["idempotency-replayed"]) == (event_id, "true")
    again = offer(world, other, event)
    assert [entry.get("replayed") for entry in again.json["events"]] == [None, True]
    assert receiver.count == 6  # three events and their copies
    assert world.messages() == []


def test_ten_pushes_are_made_at_once_in_order_the_others_are_queued(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    world.subscribe(target)
    receiver.default = target.default = when_all_are_here(10)

    answer = offer(world, *[EVENT] * 6)

    events = [entry["event"] for entry in answer.json["events"]]
    assert [event["status"] for event in events] == ["delivered"] * 5 + ["pending"]
    assert [world.copies(event)[0]["status"] for event in events] == ["delivered"] * 5 + ["pending"]
    assert len(world.messages()) == 2
    receiver.default = target.default = 200
    queued = offer(world, EVENT, EVENT, prefer="respond-async")
    assert queued.headers["preference-applied"] == "respond-async"
    assert {entry["event"]["delivery_attempts"] for entry in queued.json["events"]} == {0}
    world.empty_inbox()
    assert {copy["status"] for event in events for copy in world.copies(event)} == {"delivered"}
    assert receiver.count == target.count == 8


def test_what_is_not_begun_with_15_seconds_left_is_not_stored(
    world: World, once: Once, receiver: Receiver
) -> None:
    once(world.dynamodb, "before-call.dynamodb.PutItem", lambda: world.sleep(12.5))
    event = {**EVENT, "idempotency_key": "k"}
    answer = offer(world, EVENT, event, event)
    assert statuses(answer) == [202, 503, 503]
    assert answer.json["events"][1]["problem"]["code"] == "unavailable"
    assert len(world.items()) == receiver.count == 1


def test_503_is_that_of_an_event_or_if_none_is_accepted_that_of_the_batch(
    world: World, aws: Aws, output: Output
) -> None:
    aws.fail("PutItem", at=2)
    assert statuses(offer(world, EVENT, EVENT, EVENT)) == [202, 503, 202]
    [line] = output.lines(message="events not stored")
    assert_has(line, level="WARNING", count=1, EventsNotStored=1)
    aws.fail("PutItem")
    answer = offer(world, EVENT, 1, EVENT)
    assert (answer.problem, answer.headers["retry-after"]) == ((503, "unavailable"), "2")
    assert statuses(offer(world, 1)) == [400]
    assert output.lines(message="events not stored") == []
