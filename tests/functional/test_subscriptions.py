"""Subscriptions (REST hooks): each gets a copy of every matching event of its tenant, with a life
of its own.
"""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from chalicelib import deps as services
from chalicelib.core.outcome import Outcome, PushResult
from chalicelib.subscriptions.subscriptions import CACHED_TENANTS
from tests.conftest import During, Output
from tests.support.aws_calls import Aws
from tests.support.in_memory_aws import indexes
from tests.support.receiver import Receiver, certificates, when_all_are_here
from tests.support.subscribing import (
    copies,
    id_of_new,
    ids,
    listed,
    post_for,
    read_lists,
    states,
    subscribe,
    subscribed,
    subscriptions,
)
from tests.support.world import START, Json, World, assert_has

# Subscribing


def test_a_subscription_is_created_once_listed_and_deleted(world: World, target: Receiver) -> None:
    types = ("order.created", "invoice.*")
    first, again = (subscribe(world, target, *types) for _ in range(2))
    world.sleep(1)
    others = [subscribe(world, target), subscribe(world, target, key="test-key")]

    assert [answer.status_code for answer in (first, again, *others)] == [201, 200, 201, 201]
    assert again.json == first.json
    assert first.headers["location"] == f"subscriptions/{first.json['subscription_id']}"
    assert_has(first.json, target_host="127.0.0.1", created_by="reader")
    assert [row["event_types"] for row in subscriptions(world)] == [[*types], None, None]
    for path in (first.location, first.location, f"/subscriptions/sub_{'0' * 32}"):
        assert world.call("DELETE", path).status_code == 204
    assert len(subscriptions(world)) == 2


HOSTS = "hooks.zapier.com,.example.com,127.0.0.1"
URLS = (
    "https://hooks.zapier.com/x",
    "https://HOOKS.zapier.com./x?y",
    "https://a.b.example.com/",
    "http://127.0.0.1:90/",
    "http://127.0.0.1/",
)
BAD_URLS: tuple[Any, ...] = (
    "http://hooks.zapier.com/secret",
    "https://10.0.0.1/secret",
    "https://example.com/secret",
    "http://[::1]/secret",
    "https://evilexample.com/secret",
    "https://evilhooks.zapier.com/secret",
    "https://evil.com\\.example.com/",
    "https://hooks.zapier.com.evil.com/secret",
    "https://hooks.zapier.com:443@evil.com/secret",
    "",
    1,
)


def test_a_target_is_on_an_allowed_host(world: World) -> None:
    world.restart(SUBSCRIPTION_HOSTS=HOSTS)
    for url in URLS:
        assert subscribe(world, url, "*").status_code == 201
    for bad in BAD_URLS:
        answer = subscribe(world, bad)
        assert answer.faults == ["target_url"]
        assert "secret" not in answer.text
        allowed = (
            HOSTS.split(",") if str(bad).startswith("https:") else ["must begin with https://"]
        )
        assert all(text in answer.json["detail"] for text in allowed)
        assert len(answer.json["detail"]) < 50 or len(allowed) > 1
    refused = subscribe(world, "https://evil.example/secret").json["detail"]
    assert refused.startswith("target_url: must be of a public host")
    world.restart(SUBSCRIPTION_HOSTS="none")
    assert [subscribe(world, url).status_code for url in (URLS[0], "https://none/")] == [400, 400]


def test_what_fails_at_a_customer_s_webhook_makes_no_letter(
    world: World, target: Receiver, output: Output
) -> None:
    target.default = 422
    operator_s, _ = (
        id_of_new(world, f"{target.url}&{tenant}", tenant=tenant) for tenant in (None, "a")
    )

    event = post_for(world, "a")

    [letter] = world.dead_letters()
    assert_has(json.loads(letter["body"]), subscription_id=operator_s, tenant="a")
    assert states(world, event) == ["failed", "failed"]
    assert sum("CopyFailure" in metrics for metrics in output.metrics()) == 2
    # a redrive, also of what 0.8 wrote
    target.default = 200
    for copy in copies(world, event):
        members = {name: copy[name] for name in ("event_id", "subscription_id")}
        world.send(json.dumps({**json.loads(letter["body"]), **members}))
    world.run_worker()
    assert states(world, event) == ["delivered", "delivered"]


def test_all_subscriptions_are_listed_by_state_and_page(world: World, target: Receiver) -> None:
    world.restart(SUBSCRIPTION_DISABLE_DAYS="0")
    made = []
    for number, tenant in enumerate((None, "a", "a", "b", None)):
        url = f"{target.url}&{number}"
        made.append(subscribe(world, url, f"t-{number}", tenant=tenant).json["subscription_id"])
        world.sleep(1)
    target.default = 422
    for number, tenant in ((2, "a"), (3, "b"), (3, "b")):
        event = {"event_type": f"t-{number}", "payload": {}, "tenant": tenant}
        world.offer(event)
        world.sleep(1)

    for query, expected in {
        "tenant=*": made,
        "tenant=a": made[1:3],
        "": [made[0], made[4]],
        "tenant=*&state=active": [*made[:2], made[4]],
        "tenant=*&state=failing": [made[2]],
        "tenant=a&state=disabled": [],
        "tenant=*&state=disabled": [made[3]],
    }.items():
        for limit in (1, 2, 100):
            found = []
            cursor = ""
            while cursor is not None:
                page = world.get(f"/subscriptions?{query}&limit={limit}&cursor={cursor}")
                assert len(page["subscriptions"]) <= limit
                found += [row["subscription_id"] for row in page["subscriptions"]]
                cursor = page["next_cursor"]
            assert found == expected
    for bad in ("state=enabled", "limit=0", "limit=101", "cursor=a", "order=newest"):
        assert world.call("GET", f"/subscriptions?{bad}").faults == [bad.partition("=")[0]]


# Copies


def test_each_matching_subscription_gets_a_copy_of_its_own(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    for_all = id_of_new(world, target)
    orders_of_a = id_of_new(world, target, "order.*", "x", tenant="a")
    subscribe(world, target, "order", "invoice.*", tenant="a")
    subscribe(world, target, tenant="b")

    for tenant, expected in ((None, {for_all}), ("a", {for_all, orders_of_a}), ("c", {for_all})):
        del target.requests[:], receiver.requests[:]
        event = post_for(world, tenant)

        of_event = {"tenant": tenant, "source_event_id": event["event_id"]}
        made = copies(world, event)
        assert {copy["subscription_id"] for copy in made} == expected
        for copy in made:
            assert_has(copy, status="delivered", **of_event)
        [own] = [request.json() for request in receiver.requests]
        assert own["event_id"] == event["event_id"]
        pushed = {request.headers["webhook-id"]: request.json() for request in target.requests}
        assert pushed == {key: {**own, **of_event, "event_id": key} for key in event["copies"]}


def test_ten_destinations_are_pushed_at_once_others_queued(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    for number in range(11):
        subscribe(world, f"{target.url}&n={number}")
    target.default = receiver.default = when_all_are_here(10)

    event = world.post()

    assert target.count + receiver.count == 10
    assert len(world.messages()) == 2
    target.default = receiver.default = 200
    world.settle()
    assert {each["status"] for each in (world.event(event["event_id"]), *copies(world, event))} == {
        "delivered"
    }
    assert target.count == 11
    assert receiver.count == 1
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    target.default = when_all_are_here(10)
    world.post()
    assert target.count == 11 + 10
    assert len(world.messages()) == 1


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_repeated_post_completes_what_a_failed_one_began(
    world: World, target: Receiver, aws: Aws, at: int
) -> None:
    for number in range(2):
        subscribe(world, f"{target.url}&n={number}")
    aws.fail("PutItem", at=at)
    assert world.offer(idempotency_key="k").status_code == 503
    assert world.get("/inbox")["events"] == []  # the event is stored after its copies
    aws.heal()

    event = world.offer(idempotency_key="k").json

    world.settle()
    assert {copy["status"] for copy in copies(world, event)} == {"delivered"}
    assert target.count == 2


def test_a_post_deletes_copies_that_the_event_does_not_list(
    world: World, target: Receiver, during: During
) -> None:
    other = replace(world.services)  # another container, whose list is from before the subscription
    read_lists(other)
    subscription_id = id_of_new(world, target)
    copy_ids: list[str] = []

    def post_elsewhere(params: Json, **_: object) -> None:
        if (event_id := params["Item"]["event_id"]["S"]).startswith("cpy_"):
            copy_ids.append(event_id)
            services.use(other)
            world.post(idempotency_key="k")
            services.use(world.services)

    during(world.dynamodb, "before-parameter-build.dynamodb.PutItem", post_elsewhere)
    event = world.post(idempotency_key="k")

    assert (len(copy_ids), event["copies"], target.requests) == (1, [], [])
    assert world.call("GET", f"/events/{copy_ids[0]}").status_code == 404
    assert listed(world, f"/events?subscription_id={subscription_id}") == []


def test_a_retry_changes_nothing_that_two_indexes_show_of_a_copy(
    world: World, target: Receiver
) -> None:
    """Else a dead subscription would throttle its partition or its tenant's, and the table."""
    world.restart(IN_PROCESS_WAIT_SECONDS="0")
    target.default = 503
    subscribe(world, target)
    [copy_id] = post_for(world, "a")["copies"]
    before = world.item(copy_id)
    world.sleep(1)

    world.run_worker()

    after = world.item(copy_id)
    changed = {name for name in after if after[name] != before.get(name)}
    assert "delivery_attempts" in changed
    for name in ("lookup-index", "tenant-index"):
        partition, shown = indexes()[name]
        assert partition in after
        assert not changed.intersection(shown)


# The end of a subscription


def test_410_ends_a_subscription_without_a_dead_letter(
    world: World, target: Receiver, output: Output
) -> None:
    target.script(503, 410)
    subscription_id = id_of_new(world, target)
    retried = world.post()
    refused = world.post()
    lines = [line for line in output.lines() if line.get("level") == "WARNING"]

    assert [line["subscription_id"] for line in lines] == [subscription_id]
    assert subscriptions(world) == []
    world.sleep(1)
    world.run_worker()  # the other copy is deleted when its turn comes
    for event in (retried, refused):
        assert world.call("GET", f"/events/{event['copies'][0]}").status_code == 404
    assert (target.count, world.messages(), world.dead_letters()) == (2, [], [])


def test_a_host_that_is_no_longer_allowed_gets_nothing_any_more(
    world: World, target: Receiver
) -> None:
    target.script(503)
    subscription_id = id_of_new(world, target)
    [copy_id] = world.post()["copies"]

    world.restart(SUBSCRIPTION_HOSTS="none")
    breaker = world.services.worker_breaker
    subscription = world.services.subscriptions.get(subscription_id)
    assert subscription
    denied = world.services.targets.of(subscription)
    another = replace(denied, destination="another", owner="another")
    for open_target in (denied, another):
        breaker.record(open_target, START - 25, START, PushResult(Outcome.RETRY), 1)
    world.sleep(300)  # now both may be tried
    world.run_worker()
    assert breaker.acquire(another, world.clock()) == 0

    assert world.post()["copies"] == []
    copy = world.get(f"/events/{copy_id}")
    assert copy["status"] == "failed"
    assert copy["attempts"][-1]["error"] == "host not allowed"
    assert target.count == len(world.dead_letters()) == 1


# Events that are not pushed themselves


def test_subscriptions_mode_stores_an_event_delivered(
    world: World, target: Receiver, aws: Aws, output: Output
) -> None:
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    subscribe(world, target, "order.created")
    target.default = 422
    output.lines()

    event = world.post()
    count_of_calls = len(aws.calls)
    other = world.post(event_type="other")

    assert [call for call in aws.calls[count_of_calls:] if call != "Query"] == ["PutItem"]
    assert len(event["copies"]) == 1
    assert other["copies"] == []
    for each in (event, other):
        now = world.event(each["event_id"])
        assert {name: now[name] for name in each} == each
        assert_has(
            now,
            status="delivered",
            delivered_via="subscriptions",
            delivered_at=now["created_at"],
            delivery_attempts=0,
            next_attempt_at=None,
            attempts=[],
        )
    assert states(world, event) == ["failed"]
    queued = world.post(prefer="respond-async")
    world.run_worker()
    assert states(world, queued) == ["failed"]
    assert listed(world) == ids(world.call("POST", "/inbox/lease")) == []
    assert sum(values.get("EventsAccepted", 0) for values in output.metrics()) == 3


def test_in_subscriptions_mode_copies_alone_are_replayed(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    receiver.script(503)
    before = world.post()
    world.sleep(1)
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    subscribe(world, target)
    event = world.post()
    world.run_worker()

    for each, state in ((before, "pending"), (event, "delivered")):
        assert world.replay(each["event_id"]).problem == (409, "not_pushed")
        assert_has(world.event(each["event_id"]), status=state, next_attempt_at=None)
    assert listed(world) == [before["event_id"]]
    assert world.replay(event["copies"][0]).json["next_attempt_at"]
    world.run_worker()
    assert receiver.count == 1
    assert target.count == 2


# Tenants


def test_subscriptions_of_a_tenant_are_counted_apart(world: World, target: Receiver) -> None:
    first, *_ = (id_of_new(world, target, tenant=tenant) for tenant in ("a", "b", None))
    text = json.dumps(world.item(first))
    for number in range(99):
        item = json.loads(text.replace(first, f"sub_{number:032}"))
        world.dynamodb.put_item(TableName=world.environ["EVENTS_TABLE_NAME"], Item=item)

    refused = subscribe(world, f"{target.url}&another", tenant="a")
    assert refused.problem == (409, "too_many_subscriptions")
    assert subscribe(world, target, tenant="a").status_code == 200
    assert [
        subscribe(world, f"{target.url}&n", tenant=tenant).status_code for tenant in (None, "b")
    ] == [201, 201]
    world.call("DELETE", f"/subscriptions/sub_{0:032}")
    assert subscribe(world, f"{target.url}&another", tenant="a").status_code == 201


def test_listings_inbox_and_leases_can_be_of_one_tenant(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    receiver.default = 422
    events = {tenant: post_for(world, tenant)["event_id"] for tenant in (None, "a", "b")}

    for path in ("/events", "/inbox"):
        assert listed(world, f"{path}?tenant=a") == [events["a"]]
        assert len(listed(world, path)) == 3
    assert ids(world.call("POST", "/inbox/lease", '{"tenant": "b"}')) == [events["b"]]
    assert len(ids(world.call("POST", "/inbox/lease", '{"tenant": null}'))) == 2


def test_lists_of_a_bounded_number_of_tenants_are_kept(
    world: World, target: Receiver, aws: Aws
) -> None:
    tenants = [f"{number}" for number in range(CACHED_TENANTS)]
    for tenant in tenants[:2]:
        subscribed(world, target, tenant=tenant)

    def count_reads(*tenants: str) -> list[int]:
        reads = [aws.during(partial(read_lists, world.services, tenant)) for tenant in tenants]
        return [len(calls) for calls in reads]

    assert count_reads("0", "1", "0") == [2, 1, 0]
    assert count_reads(*tenants[2:], "1") == [1] * (CACHED_TENANTS - 2) + [1]
    world.sleep(10)
    assert count_reads("0", "1", "0") == [2, 1, 0]


# Customers' own endpoints


def test_any_https_host_may_be_subscribed_to_but_only_public_addresses_are_pushed_to(
    world: World,
) -> None:
    world.restart(SUBSCRIPTION_HOSTS="*")
    with Receiver(tls=certificates().valid()) as private:
        target = subscribe(world, private, tenant="a")
        assert target.status_code == 201
        assert target.json["target_host"] == "localhost"

        [copy] = copies(world, post_for(world, "a"))
        tried = world.call("POST", f"/subscriptions/{target.json['subscription_id']}/test").json

    assert_has(copy, status="failed", last_error="address not allowed")
    assert_has(tried, outcome="failed", error="address not allowed", sent=None)
    assert private.connections == 0


def test_of_any_hosts_only_public_ones_with_https_are_taken(world: World) -> None:
    world.restart(SUBSCRIPTION_HOSTS="*")
    for host in ("8.8.8.8:8443", "[2606:4700::1]", "a.example", "127.0.0.1.example"):
        assert subscribe(world, f"https://{host}/").status_code == 201
    for host in (
        "127.0.0.1",
        "127.0.0.1.",
        "[::1]",
        "[fd00::1]",
        "[64:ff9b::a00:1]",
        "127.1",
        "0x7f.1",
        "2130706433",
    ):
        assert subscribe(world, f"https://{host}/").status_code == 400
    for host in ("a.example", "127.0.0.1", "localhost"):
        assert subscribe(world, f"http://{host}/").faults == ["target_url"]
