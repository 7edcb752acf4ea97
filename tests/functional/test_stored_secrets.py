"""Secrets that derive from a signing secret, as those of 0.7 do, are stored by a deployment."""

from contextlib import suppress
from itertools import count

import pytest

from chalicelib.infra.errors import StorageUnavailableError
from tests.conftest import Once
from tests.functional.test_given_secrets import FIRST, set_secret, signers
from tests.support.aws_calls import Aws, Fault
from tests.support.receiver import Receiver
from tests.support.subscribing import secret_of, subscribed, subscriptions
from tests.support.world import SIGNING_SECRETS, World
from tools.write_secrets import write_secrets


def make_older(world: World, path: str) -> str:
    """Leave a subscription as 0.7 stored it; return its path."""
    described = '{"event_types": null, "given": {"0": null}, "renewals": null}'
    update = "SET event_types = :described"
    world.change_item(path.rpartition("/")[2], update, described={"S": described})
    return path


@pytest.mark.parametrize("fault", Fault)
def test_a_secret_outlasts_its_signing_secret_wherever_storing_it_was_cut_off(
    world: World, target: Receiver, aws: Aws, fault: Fault
) -> None:
    path = subscribed(world, target)
    for at in count(1):
        world.restart(WEBHOOK_SIGNING_SECRETS=SIGNING_SECRETS[0])
        make_older(world, path)
        derived = secret_of(world, path)
        aws.fail(fault=fault, at=at)
        with suppress(StorageUnavailableError):
            write_secrets("dev", world.services)
        aws.heal()
        write_secrets("dev", world.services)

        world.restart(WEBHOOK_SIGNING_SECRETS="")
        assert secret_of(world, path) == derived
        if not aws.faults:
            break


@pytest.mark.parametrize("signing_secret", [SIGNING_SECRETS[0], ""])
@pytest.mark.parametrize("secret", [None, FIRST])
def test_of_two_changes_at_once_none_is_lost(
    world: World, target: Receiver, once: Once, signing_secret: str, secret: str | None
) -> None:
    """Store it, or set another one, while it is stored; without a signing secret it is random."""
    world.restart(WEBHOOK_SIGNING_SECRETS=signing_secret)
    path = make_older(world, subscribed(world, target))
    known = [secret_of(world, path)]

    def change() -> None:
        known.append(secret)
        set_secret(world, path, secret) if secret else write_secrets("dev", world.services)
        known.append(secret_of(world, path))

    once(world.dynamodb, "before-call.dynamodb.UpdateItem", change)
    write_secrets("dev", world.services)

    world.restart(WEBHOOK_SIGNING_SECRETS="")
    assert secret_of(world, path) == known[-1]
    assert all(signers(world, target, *filter(None, known)))


def test_nothing_is_stored_while_there_are_two_signing_secrets(
    world: World, target: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_older(world, subscribed(world, target))
    derived = secret_of(world, path)

    write_secrets("dev", world.services)

    assert "make write-secrets STAGE=dev" in capsys.readouterr().out
    world.restart(WEBHOOK_SIGNING_SECRETS="")
    assert [secret_of(world, path)] != [derived]


def test_an_edit_lists_a_subscription_of_0_4_among_all(world: World, target: Receiver) -> None:
    path = subscribed(world, target)
    world.change_item(path.rpartition("/")[2], "REMOVE lookup_key")
    assert subscriptions(world, "*") == []

    edited = world.call("PATCH", path, {})

    assert subscriptions(world, "*") == [edited.json]


def test_what_derives_from_nothing_is_renewed(world: World, target: Receiver) -> None:
    world.restart(WEBHOOK_SIGNING_SECRETS="")
    path = make_older(world, subscribed(world, target))
    assert secret_of(world, path) is None

    assert signers(world, target, set_secret(world, path)) == [True]
