"""Subscriptions as 0.7 and 0.4 left them."""

from tests.functional.test_given_secrets import set_secret, signers
from tests.support.receiver import Receiver
from tests.support.subscribing import secret_of, subscribed, subscriptions
from tests.support.world import World


def make_older(world: World, path: str) -> str:
    """Leave a subscription as 0.7 stored it; return its path."""
    described = '{"event_types": null, "given": {"0": null}, "renewals": null}'
    update = "SET event_types = :described"
    world.change_item(path.rpartition("/")[2], update, described={"S": described})
    return path


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
