"""Secrets of subscriptions: random, given, renewed and shown, and what they sign."""

import json
from dataclasses import replace
from typing import Any

import pytest

from chalicelib.infra.errors import ApiError
from chalicelib.infra.times import DAY_SECONDS, rfc3339
from tests.conftest import Once
from tests.support.aws_calls import Aws
from tests.support.receiver import Exchange, Receiver, is_signed, status
from tests.support.subscribing import (
    make_token,
    post_for,
    secret_of,
    subscribe,
    subscribed,
)
from tests.support.world import SIGNING_SECRETS, Json, World, assert_has


def test_copies_are_signed_with_their_subscription_s_secret(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    world.restart(WEBHOOK_SIGNING_SECRETS="")
    one, other = (
        subscribe(world, f"{target.url}{suffix}").json["secret"] for suffix in ("", "&other")
    )
    world.restart(WEBHOOK_SIGNING_SECRETS=" ".join(SIGNING_SECRETS))
    again = subscribe(world, target)

    world.post()

    [signed] = [request for request in target.requests if not request.path.endswith("&other")]
    assert is_signed(signed, one)
    assert not any(is_signed(signed, secret) for secret in (other, *SIGNING_SECRETS))
    assert all(is_signed(receiver.requests[-1], secret) for secret in SIGNING_SECRETS)
    assert (again.status_code, again.json["secret"]) == (200, one)
    world.call("DELETE", again.location)
    world.sleep(1)
    anew = subscribe(world, target).json
    assert anew["subscription_id"] == again.json["subscription_id"]
    assert anew["secret"] != again.json["secret"]


# base64 of 24, 27 and 64 bytes
FIRST, SECOND, THIRD = (f"whsec_{text}" for text in ("c2Vj" * 8, "c3R/" * 9, "a" * 85 + "Q=="))


def set_secret(world: World, path: str, secret: str | None = None) -> Any:
    """Set this secret, or renew it; return the present one."""
    return world.call("POST", f"{path}/secret", {"secret": secret}).json["secret"]


def previous_until(world: World, path: str) -> Any:
    return world.get(f"{path}/secret")["previous_until"]


def signers(world: World, target: Receiver, *secrets: str) -> list[bool]:
    """Return which secrets sign the next push."""
    world.sleep(10)
    post_for(world, None)
    return [is_signed(target.requests[-1], secret) for secret in secrets]


def test_each_secret_signs_for_a_day_after_the_next_random_or_given(
    world: World, target: Receiver
) -> None:
    world.restart(WEBHOOK_SIGNING_SECRETS="")
    path = subscribed(world, target, secret=FIRST)
    known = [FIRST]

    for secret in (SECOND, SECOND, None, None, THIRD):
        present = set_secret(world, path, secret)
        assert present == (secret or present)
        if present not in known:  # else nothing changes
            known.append(present)
        world.call("PATCH", path, {"name": f"{secret}"})
        assert signers(world, target, *known) == [False] * (len(known) - 2) + [True] * 2
        world.sleep(60)

    assert len(known) == 5
    assert set_secret(world, path, f"{THIRD[:-3]}R==") == THIRD  # the same bytes
    assert previous_until(world, path) == rfc3339(world.clock() - 70 + DAY_SECONDS)
    world.sleep(DAY_SECONDS)
    assert signers(world, target, *known) == [False] * 4 + [True]
    assert_has(world.get(f"{path}/secret"), previous_until=None, target_url=None)


def test_a_mistyped_secret_is_corrected_within_a_minute(world: World, target: Receiver) -> None:
    path = subscribed(world, target)
    original = secret_of(world, path)

    assert set_secret(world, path, FIRST) == FIRST
    until = previous_until(world, path)
    world.sleep(30)
    assert set_secret(world, path) == FIRST  # a client's retry
    assert set_secret(world, path, SECOND) == SECOND

    assert previous_until(world, path) == until
    assert signers(world, target, SECOND, FIRST, original) == [True, False, True]


def test_an_edit_sets_a_secret_in_the_same_write_or_changes_nothing(
    world: World, target: Receiver, aws: Aws
) -> None:
    path = subscribed(world, target, secret=FIRST)
    seen = world.services.subscriptions.get(path.rpartition("/")[2])
    assert seen
    world.sleep(60)

    refused = world.call("PATCH", path, {"secret": SECOND, "name": ""})
    secrets = [secret_of(world, path)]
    edit: Json = {"secret": SECOND, "name": "New", "target_url": f"{target.url}&new"}
    calls = aws.during(lambda: world.call("PATCH", path, edit))
    secrets.append(secret_of(world, path))
    with pytest.raises(ApiError):  # its URL was changed meanwhile
        world.services.subscriptions.describe(seen, secret=THIRD, headers={"X-A": "1"})
    world.sleep(60)
    world.call("PATCH", path, {"name": "Newer"})

    assert refused.faults == ["name"]
    assert calls == ["GetItem", "UpdateItem"]
    assert [*secrets, secret_of(world, path)] == [FIRST, SECOND, SECOND]
    assert signers(world, target, FIRST, SECOND) == [True, True]


@pytest.mark.parametrize("secrets", [(FIRST, SECOND), (SECOND, None), (None, SECOND), (None, None)])
def test_of_two_renewals_at_once_that_with_the_later_given_secret_counts(
    world: World, target: Receiver, secrets: tuple[str | None]
) -> None:
    path = subscribed(world, target)
    original = secret_of(world, path)
    [seen] = world.services.subscriptions.of_tenant(None)

    renewed = [world.services.subscriptions.renew_secret(seen, secret) for secret in secrets]

    assert {row and row.renewals for row in renewed} == {1}
    present = secret_of(world, path)
    assert (present == SECOND) is (SECOND in secrets)
    assert signers(world, target, present, original) == [True, True]


@pytest.mark.parametrize("secret, status_code", [(FIRST, 200), (None, 200), (SECOND, 409)])
def test_of_two_first_calls_at_once_the_one_that_stores_it_decides(
    world: World, target: Receiver, once: Once, secret: str | None, status_code: int
) -> None:
    def subscribe_meanwhile() -> None:
        assert subscribe(world, target, secret=FIRST).status_code == 201

    once(world.dynamodb, "before-call.dynamodb.PutItem", subscribe_meanwhile)
    assert subscribe(world, target, secret=secret).status_code == status_code
    assert secret_of(world, subscribed(world, target)) == FIRST


def test_a_description_keeps_what_it_does_not_know(world: World, target: Receiver) -> None:
    subscribed(world, target, secret=FIRST)
    [seen] = world.services.subscriptions.of_tenant(None)
    described = replace(seen, described='{"newer":[1],"name":"Old"}').description()

    assert_has(json.loads(described), newer=[1], name=None, given={"0": FIRST})


def test_the_owner_alone_is_told_the_whole_url(world: World, target: Receiver) -> None:
    path = f"{subscribed(world, target, tenant='a')}/secret"
    for tenant, status_code, url in (("a", 200, target.url), ("b", 404, None)):
        for method in ("GET", "POST"):
            answer = world.call(method, path, key=make_token(world, tenant))
            assert (answer.status_code, answer.json.get("target_url")) == (status_code, url)
    assert world.call("GET", path).json["target_url"] is None


GIVEN = "whsec_s3cretsecrets3cretsecrets3cret24"

HEADERS = {"Authorization": "Bearer s3cret-value", "x-other": "another s3cret"}


def test_headers_and_a_given_secret_are_on_or_sign_every_push_and_are_nowhere_else(
    world: World, target: Receiver, listener: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    def echo(exchange: Exchange) -> None:
        status(503, body=str(exchange.request.headers).encode())(exchange)

    target.default = echo
    world.restart(LOG_LEVEL="DEBUG", MAX_DELIVERY_ATTEMPTS="2", SUBSCRIPTION_DISABLE_DAYS="0")
    subscribe(world, listener, "triggers.*")
    made = subscribe(world, target, "order.*", headers=HEADERS, secret=GIVEN)
    path = made.location
    events = [world.post()]
    world.settle()
    world.restart(WEBHOOK_SIGNING_SECRETS="")
    events.append(world.post())
    world.settle()
    calls = [
        ("GET", path),
        ("PATCH", path),
        ("GET", "/subscriptions"),
        *(("POST", f"{path}/{verb}") for verb in ("test", "enable")),
    ]
    answers = [
        made,
        *(world.call(*call, "{}") for call in calls),
        *(world.call("GET", f"/events/{event['copies'][0]}") for event in events),
    ]

    assert target.count == 5
    sent = {name.lower(): value for name, value in HEADERS.items()}
    assert all(sent.items() <= request.headers.items() for request in target.requests)
    reports = [request.body.decode() for request in listener.requests]
    assert len(reports) > 2
    told = [answer.text for answer in answers[1:]] + reports
    told += map(repr, world.services.subscriptions.of_tenant(None))
    assert "s3cret" not in str([told, *capfd.readouterr(), world.dead_letters()])
    assert [answer.json["header_names"] for answer in answers[:3]] == [[*HEADERS]] * 3


PAYLOAD = '{"text":"Order 4711 is paid","cents":123456789012345678901234567890,"é":[]}'


def test_pushes_have_the_form_that_a_receiver_of_svix_expects(
    world: World, target: Receiver
) -> None:
    path = subscribed(world, target, body="payload", header_prefix="svix", secret=FIRST)

    for called in ("/events", f"{path}/test"):
        world.call("POST", called, f'{{"event_type": "a", "payload": {PAYLOAD}}}')

    assert [push.body.decode() for push in target.requests] == [PAYLOAD] * 2
    assert {is_signed(push, FIRST) for push in target.requests} == {True}
    for push in target.requests:
        for name in ("id", "timestamp", "signature"):
            assert push.headers[f"svix-{name}"] == push.headers[f"webhook-{name}"]
    headers = {"svix-ids": "1", "SVIX_ID": "1"}
    assert world.call("PATCH", path, {"headers": headers}).faults == ["headers"]
    world.call("PATCH", path, {"body": None, "header_prefix": None, "headers": headers})
    world.sleep(10)
    post_for(world, None)
    assert target.requests[-1].json()["event_type"] == "order.created"
    assert "svix-signature" not in target.requests[-1].headers
