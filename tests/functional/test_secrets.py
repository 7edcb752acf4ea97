"""Secrets of subscriptions: random, given, renewed and shown, and what they sign."""

import json
from dataclasses import replace
from typing import Any

import pytest

from chalicelib.infra.errors import ApiError
from chalicelib.infra.times import DAY_SECONDS, rfc3339
from tests.conftest import Once
from tests.support.aws_calls import Aws
from tests.support.hooks import Hook
from tests.support.receiver import Exchange, Receiver, is_signed, status
from tests.support.world import SIGNING_SECRETS, Json, World, assert_has


def test_copies_are_signed_with_their_subscription_s_secret(
    world: World, receiver: Receiver, hook: Hook
) -> None:
    other = Hook(world, hook.target, path="&other", event_types=["b"]).secret

    hook.post()

    [signed] = hook.target.requests
    one = hook.secret
    assert is_signed(signed, one)
    assert not any(is_signed(signed, secret) for secret in (other, *SIGNING_SECRETS))
    assert all(is_signed(receiver.requests[-1], secret) for secret in SIGNING_SECRETS)
    again = hook.make()
    assert (again.status_code, again.json["secret"]) == (200, one)
    hook.recreate()
    assert again.json["subscription_id"] == hook.id
    assert hook.secret != one


# base64 of 24, 27 and 64 bytes
FIRST, SECOND, THIRD = (f"whsec_{text}" for text in ("c2Vj" * 8, "c3R/" * 9, "a" * 85 + "Q=="))


def set_secret(hook: Hook, secret: str | None = None) -> Any:
    """Set this secret, or renew it; return the present one."""
    return hook.call("secret", {"secret": secret}).json["secret"]


def previous_until(hook: Hook) -> Any:
    return hook.world.get(f"{hook.path}/secret")["previous_until"]


def signers(hook: Hook, *secrets: str) -> list[bool]:
    """Return which secrets sign the next push."""
    hook.world.sleep(10)
    hook.post()
    return [is_signed(hook.target.requests[-1], secret) for secret in secrets]


@pytest.fixture
def given(world: World, target: Receiver) -> Hook:
    """A subscription with a given secret."""
    return Hook(world, target, secret=FIRST)


def test_each_secret_signs_for_a_day_after_the_next_random_or_given(
    world: World, given: Hook
) -> None:
    world.restart(WEBHOOK_SIGNING_SECRETS="")
    known = [FIRST]

    for secret in (SECOND, SECOND, None, None, THIRD):
        present = set_secret(given, secret)
        assert present == (secret or present)
        if present not in known:  # else nothing changes
            known.append(present)
        given.edit(name=f"{secret}")
        assert signers(given, *known) == [False] * (len(known) - 2) + [True] * 2
        world.sleep(60)

    assert len(known) == 5
    assert set_secret(given, f"{THIRD[:-3]}R==") == THIRD  # the same bytes
    assert previous_until(given) == rfc3339(world.clock() - 70 + DAY_SECONDS)
    world.sleep(DAY_SECONDS)
    assert signers(given, *known) == [False] * 4 + [True]
    assert previous_until(given) is None


def test_a_mistyped_secret_is_corrected_within_a_minute(world: World, hook: Hook) -> None:
    original = hook.secret

    assert set_secret(hook, FIRST) == FIRST
    until = previous_until(hook)
    world.sleep(30)
    assert set_secret(hook) == FIRST  # a client's retry
    assert set_secret(hook, SECOND) == SECOND

    assert previous_until(hook) == until
    assert signers(hook, SECOND, FIRST, original) == [True, False, True]


def test_an_edit_sets_a_secret_in_the_same_write_or_changes_nothing(
    world: World, given: Hook, aws: Aws
) -> None:
    [seen] = world.services.subscriptions.of_tenant(None)
    world.sleep(60)

    assert given.edit(secret=SECOND, name="").faults == ["name"]
    secrets = [given.secret]
    edit: Json = {"secret": SECOND, "name": "New", "target_url": f"{given.url}&new"}
    assert aws.during(lambda: given.edit(**edit)) == ["GetItem", "UpdateItem"]
    secrets.append(given.secret)
    with pytest.raises(ApiError):  # its URL was changed meanwhile
        world.services.subscriptions.edit(seen, {"secret": THIRD, "headers": {"X-A": "1"}})
    world.sleep(60)
    given.edit(name="Newer")

    assert [*secrets, given.secret] == [FIRST, SECOND, SECOND]
    assert signers(given, FIRST, SECOND) == [True, True]


@pytest.mark.parametrize("secrets", [(FIRST, SECOND), (SECOND, None), (None, SECOND), (None, None)])
def test_of_two_renewals_at_once_that_with_the_later_given_secret_counts(
    world: World, hook: Hook, secrets: tuple[str | None]
) -> None:
    original = hook.secret
    [seen] = world.services.subscriptions.of_tenant(None)

    renewed = [world.services.subscriptions.renew_secret(seen, secret) for secret in secrets]

    assert {row and row.renewals for row in renewed} == {1}
    assert (hook.secret == SECOND) is (SECOND in secrets)
    assert signers(hook, hook.secret, original) == [True, True]


@pytest.mark.parametrize("secret, status_code", [(FIRST, 200), (None, 200), (SECOND, 409)])
def test_of_two_first_calls_at_once_the_one_that_stores_it_decides(
    world: World, target: Receiver, once: Once, secret: str | None, status_code: int
) -> None:
    def subscribe_meanwhile() -> None:
        assert world.subscribe(target, secret=FIRST).status_code == 201

    once(world.dynamodb, "before-call.dynamodb.PutItem", subscribe_meanwhile)
    assert world.subscribe(target, secret=secret).status_code == status_code
    assert Hook(world, target).secret == FIRST


@pytest.mark.usefixtures("given")
def test_a_description_keeps_what_it_does_not_know(world: World) -> None:
    [seen] = world.services.subscriptions.of_tenant(None)
    described = replace(seen, described='{"newer":[1],"name":"Old"}').description()

    assert_has(json.loads(described), newer=[1], name=None, given={"0": FIRST})


def test_the_owner_alone_is_told_the_whole_url(world: World, customer: Hook) -> None:
    path = f"{customer.path}/secret"
    for tenant, status_code, url in (("a", 200, customer.url), ("b", 404, None)):
        for method in ("GET", "POST"):
            answer = world.call(method, path, key=world.make_token(tenant))
            assert (answer.status_code, answer.json.get("target_url")) == (status_code, url)
    assert world.get(path)["target_url"] is None


GIVEN = "whsec_s3cretsecrets3cretsecrets3cret24"

HEADERS = {"Authorization": "Bearer s3cret-value", "x-other": "another s3cret"}


def test_headers_and_a_given_secret_are_on_or_sign_every_push_and_are_nowhere_else(
    world: World, target: Receiver, listener: Receiver, capfd: pytest.CaptureFixture[str]
) -> None:
    def echo(exchange: Exchange) -> None:
        status(503, body=str(exchange.request.headers).encode())(exchange)

    target.default = echo
    world.restart(LOG_LEVEL="DEBUG", MAX_DELIVERY_ATTEMPTS="2", SUBSCRIPTION_DISABLE_DAYS="0")
    world.subscribe(listener, "triggers.*")
    hook = Hook(world, target, headers=HEADERS, secret=GIVEN)
    copies = [hook.post()]
    world.settle()
    world.restart(WEBHOOK_SIGNING_SECRETS="")
    copies.append(hook.post())
    world.settle()
    answers = [
        world.call("GET", hook.path),
        hook.edit(),
        world.call("GET", "/subscriptions"),
        hook.call("test"),
        hook.enable(),
        *(world.call("GET", f"/events/{copy.id}") for copy in copies),
    ]

    assert target.count == 5
    sent = {name.lower(): value for name, value in HEADERS.items()}
    assert all(sent.items() <= request.headers.items() for request in target.requests)
    reports = [request.body.decode() for request in listener.requests]
    assert len(reports) > 2
    told = [answer.text for answer in answers] + reports
    told += map(repr, world.services.subscriptions.of_tenant(None))
    assert "s3cret" not in str([told, *capfd.readouterr(), world.dead_letters()])
    assert [answer.json["header_names"] for answer in answers[:2]] == [[*HEADERS]] * 2


PAYLOAD = '{"text":"Order 4711 is paid","cents":123456789012345678901234567890,"é":[]}'


def test_pushes_have_the_form_that_a_receiver_of_svix_expects(
    world: World, target: Receiver
) -> None:
    hook = Hook(world, target, body="payload", header_prefix="svix", secret=FIRST)

    for called in ("/events", f"{hook.path}/test"):
        world.call("POST", called, f'{{"event_type": "a", "payload": {PAYLOAD}}}')

    assert [push.body.decode() for push in target.requests] == [PAYLOAD] * 2
    for push in target.requests:
        assert is_signed(push, FIRST)
        for name in ("id", "timestamp", "signature"):
            assert push.headers[f"svix-{name}"] == push.headers[f"webhook-{name}"]
    headers = {"svix-ids": "1", "SVIX_ID": "1"}
    assert hook.edit(headers=headers).faults == ["headers"]
    hook.edit(body=None, header_prefix=None, headers=headers)
    world.sleep(10)
    hook.post()
    assert target.requests[-1].json()["event_type"] == "a"
    assert "svix-signature" not in target.requests[-1].headers
