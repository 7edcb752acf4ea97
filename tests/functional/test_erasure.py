"""Erasure: an event, its copies and what was in them are gone, whatever comes later."""

import json
from typing import Any

import pytest

from tests.conftest import Output
from tests.support.aws_calls import Aws
from tests.support.hooks import Hook
from tests.support.receiver import Exchange, Receiver, status
from tests.support.world import UNKNOWN, Json, World, assert_has

CONTENTS = ("payload-itself", "metadata-itself", "response-itself", "subject-itself")
NAMES = {"event_type": "a", "tenant": "tenant-itself", "subject": CONTENTS[3]}
BODY = json.dumps({**NAMES, "payload": {"p": CONTENTS[0]}, "metadata": {"m": CONTENTS[1]}})
HOUR = 3600
DAY = 24 * HOUR


pytestmark = pytest.mark.usefixtures("hook")


def post(world: World, **headers: str) -> Any:
    return world.offer(BODY, **headers).json


def items(world: World) -> Json:
    """Return all items of the table but subscriptions, by id."""
    return {item["event_id"]["S"]: item for item in world.items() if "status" in item}


def stored(world: World) -> list[str]:
    """Return the ids of the events that are not erased."""
    return [event_id for event_id, item in items(world).items() if item["status"]["S"] != "erased"]


@pytest.mark.parametrize("code", [200, 422, 503])
def test_what_is_erased_is_gone(
    world: World, receiver: Receiver, target: Receiver, output: Output, code: int
) -> None:
    receiver.default = target.default = status(code, body=CONTENTS[2].encode())
    event = post(world)
    kept = world.post()
    gone = [event["event_id"], *event["copies"]]
    pushes = receiver.count + target.count

    assert [world.erase(event["event_id"]).status_code for _ in range(2)] == [204, 204]

    for event_id in gone:
        for method, suffix in (("GET", ""), ("POST", "/acknowledge"), ("POST", "/replay")):
            assert world.call(method, f"/events/{event_id}{suffix}").status_code == 404
    there = {kept["event_id"], *kept["copies"]}
    assert set(world.listed("/events")) == set(stored(world)) == there
    assert len(world.dead_letters()) == (4 if code == 422 else 0)
    world.erase(kept["event_id"])
    text = json.dumps(world.messages() + world.dead_letters())
    world.move_back()
    world.sleep(3)
    world.sweep()
    world.empty_inbox()
    lines = output.lines()
    assert not [content for content in CONTENTS if content in text + json.dumps(lines)]
    mark = items(world)[event["event_id"]]
    members = "event_id event_type created_by sort_key claim_id copies response_bytes status"
    assert mark.keys() <= {*members.split(), "expires_at"}
    dropped = {line["event_id"] for line in lines if "dropped" in line["message"]}
    assert dropped == (set() if code == 200 else {*gone, *there})
    assert receiver.count + target.count == pushes
    assert (stored(world), world.messages(), world.dead_letters()) == ([], [], [])


def test_a_copy_is_not_replayed_once_its_event_is_erased(world: World, target: Receiver) -> None:
    problems = []

    def erase_meanwhile(exchange: Exchange) -> None:
        problems.append(world.erase(exchange.request.json()["source_event_id"]).problem)
        status(422)(exchange)

    target.script(503, erase_meanwhile)
    event = post(world)
    world.sleep(1)
    world.run_worker()
    assert world.replay(event["copies"][0]).problem == (404, "not_found")

    assert problems == [(409, "event_claimed")]
    assert world.erase(event["event_id"]).status_code == 204
    assert stored(world) == []


@pytest.mark.parametrize("days, hours", [(0, (5, 5)), (29.99, (0.5,))])
def test_the_mark_of_an_erasure_stays_until_the_copies_are_gone(
    world: World, target: Receiver, days: float, hours: tuple[float, ...]
) -> None:
    target.script(503)
    event = post(world, idempotency_key="k")
    [copy_id] = event["copies"]
    world.sleep(days * DAY + 5)
    assert world.services.store.claim(copy_id, "of a worker").applied
    for seconds in (0, 59):
        world.sleep(seconds)
        assert world.erase(event["event_id"]).problem == (409, "event_claimed")
    for pause in hours:
        world.sleep(pause * HOUR)
        refused = world.offer(BODY, idempotency_key="k")
        assert refused.problem == (409, "event_claimed")
        assert int(refused.headers["retry-after"]) <= HOUR

    assert world.erase(event["event_id"]).status_code == 204

    assert stored(world) == []
    world.sleep(HOUR)
    assert world.offer(BODY, idempotency_key="k").status_code == 202


@pytest.mark.parametrize("subscribed", [True, False])
def test_the_key_of_an_erased_event_can_be_used_again_after_an_hour(
    world: World, hook: Hook, aws: Aws, subscribed: bool
) -> None:
    if not subscribed:
        hook.delete()
    event = post(world, idempotency_key="k")
    world.erase(event["event_id"])
    world.sleep(HOUR - 1)
    world.erase(event["event_id"])
    aws.fail("DeleteItem")  # so that a copy that is stored would stay
    for seconds, retry_after in ((0, HOUR), (HOUR - 1, 1)):
        world.sleep(seconds)
        refused = world.offer(BODY, idempotency_key="k")
        assert refused.problem == (409, "event_claimed")
        assert refused.headers["retry-after"] == str(retry_after)
    aws.heal()
    world.sleep(1)
    # what expired is not renewed
    assert world.erase(event["event_id"]).status_code == 204
    assert stored(world) == []

    again = world.offer(BODY, idempotency_key="k")

    assert again.status_code == 202
    assert "idempotency-replayed" not in again.headers
    assert_has(again.json, event_id=event["event_id"], copies=event["copies"])
    assert sorted(stored(world)) == sorted([again.json["event_id"], *again.json["copies"]])
    assert all(world.event(event_id)["status"] == "delivered" for event_id in stored(world))


def test_a_copy_can_be_erased_alone_and_what_is_expired_or_not_there(world: World) -> None:
    event = post(world, idempotency_key="k")

    assert world.erase(event["copies"][0]).status_code == 204

    world.sleep(HOUR)
    post(world, idempotency_key="k")  # does not bring it back
    assert stored(world) == [event["event_id"]]
    assert world.event(event["event_id"])["copies"] == event["copies"]
    world.sleep(31 * 86_400)
    for event_id in (UNKNOWN, event["event_id"]):
        assert world.erase(event_id).status_code == 204
    assert stored(world) == []
