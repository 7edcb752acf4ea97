"""The inbox: consumers lease events that nobody else gets, and pull-only mode."""

import json
from typing import Any

import pytest

from chalicelib.infra.times import rfc3339
from tests.support.aws_calls import Aws
from tests.support.receiver import Receiver
from tests.support.world import CONSUMER_KEY, START, UNKNOWN, Answer, World, assert_has


def post_undelivered(world: World, count: int = 1) -> list[str]:
    """Post events that the receiver refuses, a second apart; return their ids."""
    event_ids = []
    for number in range(count):
        event_ids.append(world.post({"n": number})["event_id"])
        world.sleep(1)
    return event_ids


def lease(world: World, **request: Any) -> Any:
    answer = world.call("POST", "/inbox/lease", request, key=CONSUMER_KEY)
    assert answer.status_code == 200, answer.text
    return answer.json["events"]


def test_a_lease_returns_the_oldest_undelivered_events_whole(world: World) -> None:
    event_ids = post_undelivered(world, 3)

    events = lease(world, limit=2, lease_seconds=3600)

    assert [event["event_id"] for event in events] == event_ids[:2]
    assert [event["payload"] for event in events] == [{"n": 0}, {"n": 1}]
    assert len({event["lease_id"] for event in events}) == 1
    assert {(event["leased_until"], event["lease_count"]) for event in events} == {
        (rfc3339(START + 3603), 1)
    }
    assert world.listed() == event_ids[2:]
    # a lease is not an attempt
    assert_has(world.event(event_ids[0]), status="failed", delivery_attempts=1)
    refused = world.call("DELETE", f"/events/{event_ids[0]}")
    assert refused.problem == (409, "event_claimed")
    assert refused.headers["retry-after"] == "3600"


def test_the_body_of_a_lease_is_optional_and_an_empty_inbox_gives_no_events(world: World) -> None:
    assert world.call("POST", "/inbox/lease").json == {"events": []}
    event_ids = post_undelivered(world, 11)
    assert lease(world, limit=100, event_type="other") == []

    events = world.call("POST", "/inbox/lease", " ").json["events"]

    assert [event["event_id"] for event in events] == event_ids[:10]
    assert {event["leased_until"] for event in events} == {rfc3339(START + 311)}


def end(world: World, verb: str, event_id: str, lease_id: str = "") -> Answer:
    query = f"?lease_id={lease_id}" if lease_id else ""
    return world.call("POST", f"/events/{event_id}/{verb}{query}")


def test_an_expired_lease_is_lost_and_the_event_can_be_leased_again(world: World) -> None:
    [event_id] = post_undelivered(world)
    [first] = lease(world, lease_seconds=10)
    world.sleep(10.001)
    assert world.listed() == [event_id]
    for verb in ("acknowledge", "release"):
        assert end(world, verb, event_id, first["lease_id"]).status_code == 409

    [second] = lease(world)

    assert second["lease_count"] == 2
    assert second["lease_id"] != first["lease_id"]
    lease_ids = (first["lease_id"], second["lease_id"], second["lease_id"], first["lease_id"], "")
    answers = [end(world, "acknowledge", event_id, lease_id) for lease_id in lease_ids]
    assert [answer.status_code for answer in answers] == [409, 204, 204, 409, 204]
    assert world.event(event_id)["delivered_via"] == "pull"
    assert end(world, "replay", event_id).status_code == 202  # the lease has ended


def test_a_lease_of_large_events_leaves_the_others_in_order(world: World) -> None:
    event_ids = []
    for size in [100_000] * 10 + [1]:
        body = json.dumps({"event_type": "a", "payload": {"text": "я" * size}}, ensure_ascii=False)
        event_ids.append(world.offer(body, prefer="respond-async").json["event_id"])
        world.sleep(1)

    first, second = ([event["event_id"] for event in lease(world, limit=100)] for _ in range(2))

    assert first + second == event_ids
    assert second


def acknowledge_many(world: World, lease_id: object, *event_ids: object) -> Answer:
    body = json.dumps({"lease_id": lease_id, "event_ids": event_ids})
    return world.call("POST", "/inbox/acknowledge", body, key=CONSUMER_KEY)


def test_events_of_a_lease_are_acknowledged_in_one_call_which_can_be_repeated(
    world: World, aws: Aws
) -> None:
    event_ids = post_undelivered(world, 4)
    lease_id = lease(world, limit=3)[0]["lease_id"]
    [other] = lease(world)
    given = [*event_ids, UNKNOWN, "x", event_ids[0]]
    aws.fail("UpdateItem", at=2)
    assert acknowledge_many(world, lease_id, *given).status_code == 503
    aws.heal()

    for _ in range(2):
        answer = acknowledge_many(world, lease_id, *given)
        not_held = [event_ids[3], UNKNOWN, "x"]
        assert answer.json == {"acknowledged": event_ids[:3], "not_held": not_held}

    assert world.listed("/events?status=delivered&order=oldest") == event_ids[:3]
    end(world, "replay", event_ids[0])
    assert acknowledge_many(world, lease_id, event_ids[0]).json["not_held"] == [event_ids[0]]
    world.sleep(301)
    late = acknowledge_many(world, other["lease_id"], event_ids[3])
    assert late.json["not_held"] == [event_ids[3]]


NO_LEASE = "lse_" + "0" * 32


@pytest.fixture
def receiver(receiver: Receiver) -> Receiver:
    receiver.default = 422
    return receiver


def test_a_released_event_is_in_the_inbox_and_due_again(world: World, receiver: Receiver) -> None:
    receiver.script(503)
    [event_id] = post_undelivered(world)
    world.lose_messages()
    [event] = lease(world, lease_seconds=3600)

    assert end(world, "release", event_id, NO_LEASE).status_code == 409
    assert end(world, "release", event_id, event["lease_id"]).status_code == 204

    assert world.listed() == [event_id]
    assert end(world, "release", event_id, event["lease_id"]).status_code == 409
    receiver.default = 200
    world.sleep(61)
    world.sweep()
    world.run_worker()
    assert world.event(event_id)["delivered_via"] == "push"


def test_every_fault_of_a_body_is_named(world: World) -> None:
    too_many = json.dumps({"lease_id": NO_LEASE, "event_ids": [UNKNOWN] * 101})
    for path, body, fields in (
        (
            "/inbox/lease",
            '{"limit": 0, "lease_seconds": 3601, "event_type": "a b"}',
            "event_type lease_seconds limit",
        ),
        (
            "/inbox/lease",
            '{"limit": true, "lease_seconds": 1.5, "tenant": 1}',
            "lease_seconds limit tenant",
        ),
        (
            "/inbox/lease",
            '{"limit": 101, "lease_seconds": 0, "colour": 1}',
            "colour lease_seconds limit",
        ),
        ("/inbox/acknowledge", '{"lease_id": "lse_1", "event_ids": [1]}', "event_ids lease_id"),
        ("/inbox/acknowledge", too_many, "event_ids"),
        ("/inbox/acknowledge", '{"event_ids": []}', "event_ids lease_id"),
        ("/tokens", '{"expires_in_seconds": true}', "expires_in_seconds tenant"),
        ("/tokens", '{"tenant": "a b", "expires_in_seconds": 59}', "expires_in_seconds tenant"),
        (
            "/tokens",
            '{"tenant": "a", "expires_in_seconds": 2592001, "scopes": []}',
            "expires_in_seconds scopes",
        ),
    ):
        assert world.call("POST", path, body).faults == fields.split()


def test_in_pull_only_mode_an_event_is_not_pushed_after_a_replay_or_a_release(
    world: World, receiver: Receiver
) -> None:
    world.restart(ZAPIER_WEBHOOK_URL="none")
    event_id = world.post()["event_id"]
    assert world.listed() == [event_id]
    assert end(world, "replay", event_id).json["next_attempt_at"] is None

    for verb in ("release", "acknowledge"):
        [leased] = lease(world)
        assert end(world, "replay", event_id).status_code == 409
        assert end(world, verb, event_id, leased["lease_id"]).status_code == 204
        world.sleep(3600)
        world.sweep()

    assert world.messages() == []
    assert receiver.requests == []
    assert world.listed() == []
    assert world.event(event_id)["delivered_via"] == "pull"


def test_listings_inbox_and_leases_can_be_of_one_tenant(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    receiver.default = 422
    events = {tenant: world.post_for(tenant)["event_id"] for tenant in (None, "a", "b")}

    for path in ("/events", "/inbox"):
        assert world.listed(f"{path}?tenant=a") == [events["a"]]
        assert len(world.listed(path)) == 3
    assert world.call("POST", "/inbox/lease", '{"tenant": "b"}').event_ids == [events["b"]]
    assert len(world.call("POST", "/inbox/lease", '{"tenant": null}').event_ids) == 2
