"""Secrets that derive from a signing secret, as those of 0.7 do, are stored by a deployment."""

import json
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import pytest

from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.times import rfc3339
from tests.conftest import During
from tests.functional.test_given_secrets import FIRST, set_secret, signers
from tests.support.aws_calls import Aws, Fault
from tests.support.receiver import Receiver
from tests.support.subscribing import secret_of, subscribed, subscriptions
from tests.support.world import SIGNING_SECRETS, World
from tools.write_secrets import write_secrets


@pytest.fixture
def world(world: World) -> World:
    world.restart(WEBHOOK_SIGNING_SECRETS=SIGNING_SECRETS[0])
    return world


def described(world: World, path: str) -> Any:
    return json.loads(world.item(path.rpartition("/")[2])["event_types"]["S"])


def make_older(world: World, path: str, **members: object) -> str:
    """Leave a subscription as 0.7 stored it; return its path."""
    text = json.dumps(described(world, path) | {"given": {"0": None}, **members})
    update = "SET event_types = :described"
    world.change_item(path.rpartition("/")[2], update, described={"S": text})
    return path


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("signing_secret", [SIGNING_SECRETS[0], ""])
def test_secrets_outlast_their_signing_secret_wherever_storing_them_was_cut_off(
    world: World, target: Receiver, aws: Aws, fault: Fault, signing_secret: str
) -> None:
    renewed = {"renewals": 1, "renewed_at": rfc3339(world.clock() - 3600)}
    given = subscribed(world, target, secret=FIRST)
    paths = [subscribed(world, f"{target.url}&{number}") for number in range(2)]
    for at in count(1):
        world.restart(WEBHOOK_SIGNING_SECRETS=signing_secret)
        for path, members in zip(paths, ({}, renewed), strict=True):
            make_older(world, path, **members)
        before = [secret_of(world, path) for path in paths]
        assert (None in before) == (not signing_secret)

        aws.fail(fault=fault, at=at)
        with suppress(StorageUnavailableError):
            write_secrets("dev", world.services)
        aws.heal()
        during = [secret_of(world, path) for path in paths]
        write_secrets("dev", world.services)

        world.restart(WEBHOOK_SIGNING_SECRETS="")
        after = [secret_of(world, path) for path in paths]
        for known in (before, during):
            assert [one or other for one, other in zip(known, after, strict=True)] == after
        assert secret_of(world, given) == FIRST
        if not aws.faults:
            break
    assert [*described(world, paths[1])["given"]] == ["0", "1"]
    assert aws.during(partial(write_secrets, "dev", world.services)) == ["Query", "BatchGetItem"]


@pytest.mark.parametrize(
    "meanwhile, signing",
    [
        (lambda world, path: write_secrets("dev", world.services), [True, False]),
        (lambda world, path: set_secret(world, path, FIRST), [True, True]),
        (lambda world, path: world.call("DELETE", path), None),
    ],
)
def test_of_two_changes_at_once_none_is_lost(
    world: World, target: Receiver, during: During, meanwhile: Any, signing: list[bool] | None
) -> None:
    path = make_older(world, subscribed(world, target))
    derived = secret_of(world, path)
    actions = [partial(meanwhile, world, path)]

    def act(**_: object) -> None:
        if actions:
            actions.pop()()

    during(world.dynamodb, "before-call.dynamodb.UpdateItem", act)
    write_secrets("dev", world.services)

    world.restart(WEBHOOK_SIGNING_SECRETS="")
    if signing is None:
        assert subscriptions(world) == []
    else:
        assert signers(world, target, derived, FIRST) == signing


def test_nothing_is_stored_while_there_are_two_signing_secrets(
    world: World, target: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_older(world, subscribed(world, target))
    derived = secret_of(world, path)
    world.restart(WEBHOOK_SIGNING_SECRETS=" ".join(reversed(SIGNING_SECRETS)))

    write_secrets("dev", world.services)

    assert "make write-secrets STAGE=dev" in capsys.readouterr().out
    assert described(world, path)["given"] == {"0": None}
    assert signers(world, target, derived) == [True]
