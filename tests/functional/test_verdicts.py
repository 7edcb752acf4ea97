"""What the API tells of events and of subscriptions, so that nobody has to judge that again."""

from typing import Any

from tests.support.receiver import Receiver, status
from tests.support.subscribing import (
    make_token,
    post_for,
    subscribe,
    subscribed,
)
from tests.support.world import CONSUMER_KEY, KEY, PRODUCER_KEY, World, assert_has


def test_a_key_that_consumes_is_told_the_host_of_your_own_webhook(
    world: World,
) -> None:
    assert world.get("/me", key=CONSUMER_KEY)["webhook"] == {"host": "127.0.0.1"}
    for key in (PRODUCER_KEY, make_token(world, "a")):
        assert "webhook" not in world.get("/me", key=key)
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    assert world.get("/me", key=CONSUMER_KEY)["webhook"] is None


def test_the_body_of_a_push_is_told_as_it_would_be_sent_now(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    path = subscribed(world, target, tenant="a", body="payload")
    event = post_for(world, "a")
    own, copy = (f"/events/{event_id}" for event_id in (event["event_id"], *event["copies"]))

    def told(path: str, key: str = KEY) -> Any:
        return world.get(path, key=key)["push_body"]

    assert told(own) == receiver.requests[-1].body.decode()
    assert told(copy) == told(copy, make_token(world, "a")) == target.requests[-1].body.decode()
    world.call("PATCH", path, {"body": None})
    world.call("POST", f"{path}/disable")
    assert copy[-36:] in told(copy)
    world.call("DELETE", path)
    mine = world.post(key=PRODUCER_KEY)["event_id"]
    world.restart(ZAPIER_WEBHOOK_URL="none")
    assert [told(copy), told(own), told(f"/events/{mine}", PRODUCER_KEY)] == [None] * 3


def test_a_paused_subscription_is_told_from_one_that_was_disabled(
    world: World, target: Receiver
) -> None:
    target.default = status(410)
    paths = [subscribed(world, f"{target.url}{number}", tenant="a") for number in range(3)]
    world.call("POST", f"{paths[1]}/disable")
    post_for(world, "a")
    world.call("POST", f"{paths[0]}/enable")

    def listed(state: str) -> list[str]:
        rows = world.get(f"/subscriptions?tenant=a&state={state}")["subscriptions"]
        return sorted(row["state"] for row in rows)

    assert [world.get(path)["state"] for path in paths] == ["active", "paused", "disabled"]
    assert listed("paused") == ["paused"]
    assert listed("disabled") == ["disabled", "paused"]


def test_a_test_tells_what_was_sent(world: World, target: Receiver) -> None:
    headers = {"webhook-key": "a-secret"}
    path = subscribe(world, target, headers=headers, header_prefix="svix").location

    sent = world.call("POST", f"{path}/test").json["sent"]
    world.restart(SUBSCRIPTION_HOSTS="hooks.zapier.com")
    refused = world.call("POST", f"{path}/test").json

    [push] = target.requests
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    assert sent == {
        "headers": {name: push.headers[name] for name in names},
        "body": push.body.decode(),
    }
    assert_has(refused, sent=None, error="host not allowed")
