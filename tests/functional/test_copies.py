"""Copies: a subscription gets one of each event that matches, with a life of its own."""

import json
from bisect import bisect_left
from dataclasses import replace
from functools import partial

import pytest

from chalicelib import deps as services
from chalicelib.core.outcome import Outcome, PushResult
from chalicelib.infra.errors import InvalidRequestError
from chalicelib.subscriptions.subscriptions import CACHED_TENANTS
from tests.conftest import During, Output
from tests.simulator.simulated_world import Container, SimulatedWorld
from tests.support.aws_calls import Aws
from tests.support.in_memory_aws import indexes
from tests.support.receiver import Receiver, when_all_are_here
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
)
from tests.support.world import START, Json, World, assert_has


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


TENANT = "customer-42"


def test_an_event_with_200_copies_takes_at_most_32_threads() -> None:
    world = SimulatedWorld({})
    container = Container(world)
    for number in range(100):
        for tenant in (None, TENANT):
            container.subscribe(f"https://hooks.zapier.com/{number}", tenant=tenant)
    sizes = []

    def make_pool(size: int) -> object:
        sizes.append(size)
        return world.hub.pool(size)

    container.services.thread_pool = make_pool  # type: ignore[assignment]

    event_id = container.post(tenant=TENANT)

    assert len(world.items()[event_id or ""].copies) == 200
    assert max(sizes) == 32


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


# Filters

FILTER = {"price": [{"suffix": "€"}]}


def test_a_filter_decides_about_copies_of_events(
    world: World, receiver: Receiver, target: Receiver, aws: Aws
) -> None:
    path = subscribed(world, target, event_types=["order.*", "triggers.*"], filter=FILTER)
    assert aws.during(lambda: world.post({"price": "12 $"})).count("PutItem") == 1
    assert len(world.post({"price": "12 €"})["copies"]) == 1
    receiver.default = 422
    assert world.post()["copies"] == []
    world.call("POST", f"{path}/test")
    world.empty_inbox()

    pushed = [request.json()["event_type"] for request in target.requests]
    assert pushed == ["order.created", "test", "triggers.event.failed"]


def test_a_payload_that_is_nested_deep_is_filtered_or_refused(
    world: World, target: Receiver
) -> None:
    def post(levels: int) -> int:
        payload = '{"price":' * levels + "1" + "}" * levels
        return world.offer(f'{{"event_type": "a", "payload": {payload}}}').status_code

    refused = bisect_left(range(1, 20_000), 400, key=post) + 1
    subscribed(world, target, filter={"price": {"price": FILTER}})
    assert {post(levels) for levels in range(refused - 60, refused + 60)} == {202, 400}

    def try_filter(levels: int) -> int:
        payload = '{"price":' * levels + "1" + "}" * levels
        body = f'{{"filter": {{"price": [1]}}, "payload": {payload}}}'
        return world.call("POST", "/filters/test", body).status_code

    assert {try_filter(levels) for levels in range(refused - 60, refused + 60)} == {200, 400}
    stored = world.services.store.get(world.post()["event_id"])
    assert stored
    deeper = replace(stored, payload='{"price":' * 20_000 + "1" + "}" * 20_000)
    with pytest.raises(InvalidRequestError):  # whatever Python's parser took before
        world.services.subscriptions.matching(deeper)


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
