"""Tenants: whose event it is decides who gets a copy of it, and listings, the inbox and leases can be asked for it."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from chalicelib.subscriptions import MAX_CACHED_LISTS
from tests.support.receiver import Receiver, certificates, status
from tests.support.subscribing import copies, ids, post_for, subscribe, subscriptions
from tests.support.world import World


def test_a_subscription_with_a_tenant_gets_the_events_of_that_tenant_alone(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    for_all, for_a, _ = (
        subscribe(world, target.url, tenant=tenant).json["subscription_id"] for tenant in (None, "a", "b")
    )

    for tenant, expected in ((None, [for_all]), ("a", [for_all, for_a]), ("c", [for_all])):
        del target.requests[:], receiver.requests[:]
        event = post_for(world, tenant)

        made = copies(world, event)
        assert {copy["subscription_id"] for copy in made} == set(expected)
        assert {copy["tenant"] for copy in [event, *made]} == {tenant}
        pushed = [request.json() for request in target.requests]
        assert sorted(push["event_id"] for push in pushed) == sorted(event["copies"])
        assert {(push["tenant"], push["source_event_id"]) for push in pushed} == {(tenant, event["event_id"])}
        [own] = [request.json() for request in receiver.requests]
        assert list(own)[5:] == ([] if tenant is None else ["tenant"])
        assert own.get("tenant") == tenant


def test_subscriptions_of_a_tenant_are_listed_and_counted_apart(world: World, target: Receiver) -> None:
    made = {tenant: subscribe(world, target.url, tenant=tenant).json for tenant in (None, "a", "b")}
    assert len({subscription["subscription_id"] for subscription in made.values()}) == 3
    for tenant in made:
        assert [row["subscription_id"] for row in subscriptions(world, tenant)] == [made[tenant]["subscription_id"]]
    first = made["a"]["subscription_id"]
    table = world.environ["EVENTS_TABLE_NAME"]
    text = json.dumps(world.dynamodb.get_item(TableName=table, Key={"event_id": {"S": first}})["Item"])
    for number in range(99):
        item = json.loads(text.replace(first, f"sub_{number:032}"))
        world.dynamodb.put_item(TableName=table, Item=item)

    refused = subscribe(world, f"{target.url}&another", tenant="a")
    assert (refused.status_code, refused.json["code"]) == (409, "too_many_subscriptions")
    assert subscribe(world, target.url, tenant="a").status_code == 200
    assert [subscribe(world, f"{target.url}&n", tenant=tenant).status_code for tenant in (None, "b")] == [201, 201]
    world.call("DELETE", f"/subscriptions/sub_{0:032}")
    assert subscribe(world, f"{target.url}&another", tenant="a").status_code == 201


def test_listings_the_inbox_and_leases_can_be_asked_for_a_tenant(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    receiver.default = status(404)
    events = {tenant: post_for(world, tenant)["event_id"] for tenant in (None, "a", "b")}

    for path in ("/events", "/inbox"):
        assert ids(world.call("GET", f"{path}?tenant=a")) == [events["a"]]
        assert len(ids(world.call("GET", path))) == 3
    assert ids(world.call("POST", "/inbox/lease", '{"tenant": "b"}')) == [events["b"]]
    assert len(ids(world.call("POST", "/inbox/lease", '{"tenant": null}'))) == 2


def test_a_tenant_is_written_like_an_event_type(world: World, target: Receiver) -> None:
    for bad in ("", "a b", "a#b", "a" * 129, "ä", 1, ["a"]):
        for path, body in (
            ("/events", {"event_type": "a", "payload": {}}),
            ("/subscriptions", {"target_url": target.url}),
            ("/inbox/lease", {}),
        ):
            answer = world.call("POST", path, json.dumps({**body, "tenant": bad}))
            assert (answer.status_code, answer.faults) == (400, ["tenant"])
    for path in ("/events", "/inbox", "/subscriptions"):
        for query in ("tenant=", "tenant=a%20b", "tenant=a*", "tenant=a&tenant=b"):
            answer = world.call("GET", f"{path}?{query}")
            assert (answer.status_code, answer.faults) == (400, ["tenant"])


def test_a_container_holds_the_lists_of_a_bounded_number_of_tenants(world: World) -> None:
    queried: list[str] = []

    def query(*, ExpressionAttributeValues: Any, **_: object) -> dict[str, Any]:  # noqa: N803
        queried.append(ExpressionAttributeValues[":partition"]["S"].removeprefix("subscription#"))
        return {"Count": 0, "Items": []}

    made = replace(world.services, make_client=lambda _: SimpleNamespace(query=query)).subscriptions
    tenants = [str(number) for number in range(MAX_CACHED_LISTS)]
    for tenant in [*tenants, *tenants, "one more", "0"]:
        made.recent(tenant)

    assert queried == [*tenants, "one more", "0"]


# Customers' own endpoints


def test_any_https_host_may_be_subscribed_to_but_only_public_addresses_are_pushed_to(world: World) -> None:
    world.restart(SUBSCRIPTION_HOSTS="*")
    with Receiver(tls=certificates().valid()) as private:
        target = subscribe(world, private.url, tenant="a")
        assert (target.status_code, target.json["target_host"]) == (201, "localhost")
        assert subscribe(world, f"http://127.0.0.1:{private.port}/").status_code == 400

        [copy] = copies(world, post_for(world, "a"))
        tried = world.call("POST", f"/subscriptions/{target.json['subscription_id']}/test").json

    assert (copy["status"], copy["last_error"]) == ("failed", "address not allowed")
    assert (tried["outcome"], tried["error"]) == ("failed", "address not allowed")
    assert private.connections == 0


def test_a_host_that_is_named_beside_all_others_may_be_private(world: World, target: Receiver) -> None:
    world.restart(SUBSCRIPTION_HOSTS="*,127.0.0.1")
    subscribe(world, target.url)

    assert [copy["status"] for copy in copies(world, world.post())] == ["delivered"]
