"""What a receiver has from the system that it was moved from: a secret, and the form of bodies."""

import json
from typing import Any

import pytest

from chalicelib.infra.times import DAY_SECONDS
from tests.functional.test_subscription_states import is_signed
from tests.support.receiver import Receiver, status
from tests.support.subscribing import copies, post_for, subscribe, subscribed
from tests.support.world import SIGNING_SECRETS, Json, World, assert_has

# base64 of 24, 27 and 64 bytes
FIRST, SECOND, THIRD = (f"whsec_{text}" for text in ("c2VjcmV0" * 4, "c3R/" * 9, "a" * 85 + "Q=="))
BIG = '{"text":"Order 4711 is paid","cents":123456789012345678901234567890,"é":[]}'


@pytest.fixture
def world(world: World) -> World:
    world.restart(WEBHOOK_SIGNING_SECRETS=SIGNING_SECRETS[0], MAX_DELIVERY_ATTEMPTS="2")
    return world


def set_secret(world: World, path: str, *secrets: str) -> Any:
    """Renew the secret, or set this one; return the present one."""
    answer = world.call("POST", f"{path}/secret", {"secret": secrets[0]} if secrets else None)
    assert answer.status_code == 200, answer.text
    return answer.json["secret"]


def signers(world: World, target: Receiver, *secrets: str) -> list[bool]:
    """Return which secrets sign the next push, with no other signature."""
    world.clock.sleep(10)
    post_for(world, None)
    push = target.requests[-1]
    signed = [is_signed(push, secret) for secret in secrets]
    assert len(push.headers["webhook-signature"].split()) == sum(signed)
    return signed


@pytest.mark.parametrize("signing_secrets", ["", SIGNING_SECRETS[0]])
def test_a_given_secret_signs_alone_whatever_becomes_of_the_signing_secrets(
    world: World, target: Receiver, signing_secrets: str
) -> None:
    world.restart(WEBHOOK_SIGNING_SECRETS=signing_secrets)

    made = subscribe(world, target.url, secret=FIRST)

    assert made.json["secret"] == FIRST
    assert signers(world, target, FIRST) == [True]
    world.restart(WEBHOOK_SIGNING_SECRETS=" ".join(SIGNING_SECRETS))
    world.call("PATCH", made.location, {"target_url": f"{target.url}&moved"})
    assert signers(world, target, FIRST) == [True]
    shown = world.get(f"{made.location}/secret")
    assert_has(shown, secret=FIRST, previous_until=None)


def test_each_secret_signs_for_a_day_after_the_next_derived_or_given(
    world: World, target: Receiver
) -> None:
    path = subscribed(world, target, secret=FIRST)

    assert set_secret(world, path, SECOND) == SECOND
    assert signers(world, target, SECOND, FIRST) == [True, True]
    world.clock.sleep(60)
    assert set_secret(world, path, SECOND) == SECOND  # which it is already
    derived = set_secret(world, path)
    assert derived not in (FIRST, SECOND)
    assert signers(world, target, derived, SECOND, FIRST) == [True, True, False]
    world.clock.sleep(DAY_SECONDS)
    assert signers(world, target, derived, SECOND) == [True, False]
    assert set_secret(world, path, THIRD) == THIRD
    assert signers(world, target, THIRD, derived) == [True, True]


def test_a_mistyped_secret_is_corrected_within_a_minute(world: World, target: Receiver) -> None:
    path = subscribed(world, target)
    derived = world.get(f"{path}/secret")["secret"]

    assert set_secret(world, path, FIRST) == FIRST
    assert set_secret(world, path) == FIRST  # a client's retry
    assert set_secret(world, path, SECOND) == SECOND

    assert signers(world, target, SECOND, FIRST, derived) == [True, False, True]


@pytest.mark.parametrize(
    ("calls", "present"),
    [
        ([FIRST, SECOND], SECOND),
        ([FIRST, None], FIRST),
        ([None, FIRST], FIRST),
    ],
)
def test_of_two_secrets_at_once_the_later_given_one_counts(
    world: World, target: Receiver, calls: list[str | None], present: str
) -> None:
    path = subscribed(world, target)
    derived = world.get(f"{path}/secret")["secret"]
    subscriptions = world.services.subscriptions
    [seen] = subscriptions.of_tenant(None)

    for secret in calls:
        subscriptions.renew_secret(seen, secret)

    assert world.get(f"{path}/secret")["secret"] == present
    assert signers(world, target, present, derived) == [True, True]


def test_making_it_again_sets_a_secret_that_does_not_sign_yet(
    world: World, target: Receiver
) -> None:
    path = subscribed(world, target)
    derived = world.get(f"{path}/secret")["secret"]

    said = [
        subscribe(world, target.url, secret=secret).json["secret"]
        for secret in (FIRST, derived, None)  # the second signs for a day
    ]

    assert said == [FIRST, FIRST, FIRST]
    assert signers(world, target, FIRST, derived) == [True, True]


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"secret": f"whsec_{'a' * 31}="}, "secret"),  # 23 bytes
        ({"secret": f"whsec_{'a' * 88}"}, "secret"),
        ({"secret": "a" * 32}, "secret"),
        ({"secret": f"whsec_{'a' * 33}"}, "secret"),
        ({"secret": 1}, "secret"),
        ({"body": "envelope"}, "body"),
    ],
)
def test_other_secrets_and_bodies_are_faults(
    world: World, target: Receiver, members: dict[str, Any], fault: str
) -> None:
    answer = subscribe(world, target.url, **members)

    assert answer.faults == [fault]
    assert "aaaa" not in answer.text


@pytest.mark.parametrize("secret", [FIRST, None])
def test_an_edit_takes_no_secret_and_says_what_does(
    world: World, target: Receiver, secret: str | None
) -> None:
    answer = world.call("PATCH", subscribed(world, target), {"secret": secret})

    assert answer.faults == ["secret"]
    assert "/secret" in answer.json["detail"]


def test_a_given_secret_is_told_to_who_asks_for_it_alone(
    world: World, target: Receiver, receiver: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    world.restart(LOG_LEVEL="DEBUG")
    target.default = status(503, body=f"no {SECOND[20:28]}, {FIRST[6:]}".encode())
    subscribe(world, f"{receiver.url}&reports", "triggers.*")
    path = subscribed(world, target, "order.*", secret=SECOND)
    set_secret(world, path, FIRST)
    [*_, before] = world.services.subscriptions.of_tenant(None)
    event = post_for(world, None)
    world.settle()
    calls = [("GET", path), ("PATCH", path), ("GET", "/subscriptions"), ("POST", f"{path}/test")]
    told = [world.call(*call, "{}").text for call in calls]
    told += [repr(before), json.dumps(copies(world, event))]
    told += [request.body.decode() for request in receiver.requests]

    written = str([told, *capfd.readouterr(), world.dead_letters()])
    assert "triggers.subscription.failing" in written
    for secret in (FIRST, SECOND):
        assert secret[6:14] not in written


def test_a_description_keeps_what_it_does_not_know(world: World, target: Receiver) -> None:
    path = subscribed(world, target, secret=FIRST)
    item: Json = {"TableName": world.environ["EVENTS_TABLE_NAME"]}
    item["Key"] = {"event_id": {"S": path.rpartition("/")[2]}}
    described = world.dynamodb.get_item(**item)["Item"]["event_types"]["S"]
    newer = {":d": {"S": f'{described[:-1]},"newer":[1]}}'}}
    update = "SET event_types = :d"
    world.dynamodb.update_item(**item, UpdateExpression=update, ExpressionAttributeValues=newer)

    world.call("PATCH", path, {"name": "New"})

    kept = json.loads(world.dynamodb.get_item(**item)["Item"]["event_types"]["S"])
    assert_has(kept, newer=[1], name="New")
    assert signers(world, target, FIRST) == [True]


# The payload alone


def test_the_payload_alone_is_pushed_and_signed_if_the_subscription_says_so(
    world: World, target: Receiver
) -> None:
    made = subscribe(world, target.url, body="payload", secret=FIRST)
    assert made.json["body"] == "payload"

    world.call("POST", "/events", f'{{"event_type": "a", "payload": {BIG}}}')
    world.call("POST", f"{made.location}/test", f'{{"event_type": "a", "payload": {BIG}}}')

    for push in target.requests:
        assert push.body.decode() == BIG
        assert is_signed(push, FIRST)
        assert push.headers["webhook-id"].startswith("cpy_")
    assert len(target.requests) == 2
    assert world.call("PATCH", made.location, {"body": None}).json["body"] is None
    world.clock.sleep(10)
    assert_has(post_for(world, None), event_type="order.created")
    assert target.requests[-1].json()["event_type"] == "order.created"
    assert subscribe(world, target.url, body="payload").json["body"] == "payload"


def test_a_report_is_its_payload_alone_too(world: World, target: Receiver) -> None:
    subscribe(world, target.url, "triggers.event.failed", body="payload")
    subscribe(world, f"{target.url}&failing", "order.*")
    target.script(422)
    [copy] = post_for(world, None)["copies"]

    world.empty_inbox()

    assert_has(target.requests[-1].json(), event_id=copy, last_status_code=422)
