"""Functions of version 1.0.0 go on with what this version stored: an update can be undone."""

import json

from chalicelib.infra.times import unix_seconds
from tests.support.receiver import Receiver, status
from tests.support.versions import Version
from tests.support.world import World

MARK = "response-itself"


def fail(world: World, receiver: Receiver, attempts: int) -> str:
    """Post an event that fails so many attempts, with a response that has MARK; return its id."""
    receiver.default = status(503, body=MARK.encode(), headers={"Server": f"server-{MARK}"})
    event_id = world.queued()
    for _ in range(attempts):
        retry(world, event_id)
    return event_id


def retry(world: World, event_id: str) -> None:
    """Let time pass until the next attempt, and make it."""
    due = unix_seconds(world.event(event_id)["next_attempt_at"])
    world.sleep(max(0, due - world.clock()) + 60)
    world.sweep()
    world.empty_inbox()


def test_1_0_goes_on_from_the_newest_attempt_and_this_version_after_it(
    world: World, receiver: Receiver, released: Version
) -> None:
    event_id = fail(world, receiver, 5)
    *_, newest = world.event(event_id)["attempts"]
    del newest["response_headers"]

    world.restart(version=released)
    assert world.event(event_id)["attempts"] == [newest]
    retry(world, event_id)
    event = world.event(event_id)
    assert event["delivery_attempts"] == 6
    assert [attempt["response"] for attempt in event["attempts"]] == [MARK, MARK]

    world.restart()
    assert [one["response_headers"] for one in world.event(event_id)["attempts"]] == [None, None]
    receiver.default = 200
    retry(world, event_id)
    event = world.event(event_id)
    outcomes = [attempt["outcome"] for attempt in event["attempts"]]
    assert (event["status"], outcomes) == ("delivered", ["retry", "retry", "delivered"])


def test_1_0_erases_all_attempts_with_their_responses(
    world: World, receiver: Receiver, released: Version
) -> None:
    event_id = fail(world, receiver, 5)
    assert MARK in json.dumps(world.event(event_id)["attempts"][0])
    world.lose_messages()
    world.sleep(120)

    world.restart(version=released)
    assert world.erase(event_id).status_code == 204

    # Compressed, the responses would not be found: no attribute may be there but those of a mark.
    members = "event_id event_type created_by sort_key claim_id response_bytes status"
    members += " delivery_attempts next_attempt_at expires_at"
    assert {*world.item(event_id)} <= {*members.split()}
