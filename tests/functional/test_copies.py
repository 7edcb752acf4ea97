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
from tests.support.hooks import Copy, Hook
from tests.support.in_memory_aws import indexes
from tests.support.receiver import Receiver, when_all_are_here
from tests.support.world import START, Json, World, assert_has, read_lists


def test_each_matching_subscription_gets_a_copy_of_its_own(
    world: World, receiver: Receiver, hook: Hook
) -> None:
    target = hook.target
    orders_of_a = Hook(world, target, tenant="a", event_types=["order.*", "x"])
    world.subscribe(target, "order", "invoice.*", tenant="a")
    world.subscribe(target, tenant="b")

    for tenant, expected in (None, {hook.id}), ("a", {hook.id, orders_of_a.id}), ("c", {hook.id}):
        del target.requests[:], receiver.requests[:]
        event = world.post_for(tenant)

        of_event = {"tenant": tenant, "source_event_id": event["event_id"]}
        made = world.copies(event)
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
        world.subscribe(f"{target.url}&n={number}")
    target.default = receiver.default = when_all_are_here(10)

    world.post()

    assert target.count + receiver.count == 10
    assert len(world.messages()) == 2
    target.default = receiver.default = 200
    world.settle()
    assert (target.count, receiver.count) == (11, 1)
    assert len(world.get("/events?status=delivered&limit=100")["events"]) == 12
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
        world.subscribe(f"{target.url}&n={number}")
    aws.fail("PutItem", at=at)
    assert world.offer(idempotency_key="k").status_code == 503
    assert world.get("/inbox")["events"] == []  # the event is stored after its copies
    aws.heal()

    event = world.offer(idempotency_key="k").json

    world.settle()
    assert world.states(event) == ["delivered"] * 2
    assert target.count == 2


def test_a_post_deletes_copies_that_the_event_does_not_list(
    world: World, target: Receiver, during: During
) -> None:
    other = replace(world.services)  # another container, whose list is from before the subscription
    read_lists(other)
    hook = Hook(world, target)
    copy_ids: list[str] = []

    def post_elsewhere(params: Json, **_: object) -> None:
        if (event_id := params["Item"]["event_id"]["S"]).startswith("cpy_"):
            copy_ids.append(event_id)
            services.use(other)
            hook.offer(idempotency_key="k")
            services.use(world.services)

    during(world.dynamodb, "before-parameter-build.dynamodb.PutItem", post_elsewhere)

    assert hook.offer(idempotency_key="k") == []
    assert target.requests == []
    [copy_id] = copy_ids
    assert world.call("GET", f"/events/{copy_id}").status_code == 404
    assert world.listed(f"/events?subscription_id={hook.id}") == []


def test_a_retry_changes_nothing_that_two_indexes_show_of_a_copy(
    world: World, customer: Hook
) -> None:
    """Else a dead subscription would throttle its partition or its tenant's, and the table."""
    world.restart(IN_PROCESS_WAIT_SECONDS="0")
    copy = customer.post(503, 503)
    before = world.item(copy.id)
    world.sleep(1)

    world.run_worker()

    after = world.item(copy.id)
    changed = {name for name in after if after[name] != before.get(name)}
    assert "delivery_attempts" in changed
    for name in ("lookup-index", "tenant-index"):
        partition, shown = indexes()[name]
        assert partition in after
        assert not changed.intersection(shown)


def test_an_event_with_200_copies_takes_at_most_32_threads() -> None:
    world = SimulatedWorld({})
    container = Container(world)
    for number in range(100):
        for tenant in (None, "a"):
            container.subscribe(f"https://hooks.zapier.com/{number}", tenant=tenant)
    sizes = []

    def make_pool(size: int) -> object:
        sizes.append(size)
        return world.hub.pool(size)

    container.services.thread_pool = make_pool

    event_id = container.post(tenant="a")

    assert len(world.items()[event_id or ""].copies) == 200
    assert max(sizes) == 32


def test_lists_of_a_bounded_number_of_tenants_are_kept(
    world: World, target: Receiver, aws: Aws
) -> None:
    tenants = [f"{number}" for number in range(CACHED_TENANTS)]
    for tenant in tenants[:2]:
        world.subscribe(target, tenant=tenant)

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
    operator_s, customer_s = (
        Hook(world, target, path=f"&{tenant}", tenant=tenant) for tenant in (None, "a")
    )

    made: list[Copy] = customer_s.offer(422, 422)

    [letter] = world.dead_letters()
    assert_has(json.loads(letter["body"]), subscription_id=operator_s.id, tenant="a")
    assert [copy.status for copy in made] == ["failed"] * 2
    assert sum("CopyFailure" in metrics for metrics in output.metrics()) == 2
    world.move_back()
    world.run_worker()
    expected = {operator_s.id: "delivered", customer_s.id: "failed"}
    assert {copy.now["subscription_id"]: copy.status for copy in made} == expected


def test_a_host_that_is_no_longer_allowed_gets_nothing_any_more(world: World, hook: Hook) -> None:
    copy = hook.post(503)

    world.restart(SUBSCRIPTION_HOSTS="none")
    breaker = world.services.worker_breaker
    subscription = world.services.subscriptions.get(hook.id)
    assert subscription
    denied = world.services.targets.of(subscription)
    another = replace(denied, destination="another", owner="another")
    for open_target in (denied, another):
        breaker.record(open_target, START - 25, START, PushResult(Outcome.RETRY), 1)
    world.sleep(300)  # now both may be tried
    world.run_worker()
    assert breaker.acquire(another, world.clock()) == 0

    assert hook.offer() == []
    tested = hook.call("test", {"event_type": "order.created", "payload": {}}).json
    assert_has(tested, sent=None, matches=False, reason="host")
    copy.has(status="failed", last_error="host not allowed")
    assert hook.target.count == len(world.dead_letters()) == 1


# Filters

FILTER = {"price": [{"suffix": "€"}]}


def test_a_filter_decides_about_copies_of_events(
    world: World, receiver: Receiver, target: Receiver, aws: Aws
) -> None:
    hook = Hook(world, target, event_types=["order.*", "triggers.*"], filter=FILTER)
    assert aws.during(lambda: world.post({"price": "12 $"})).count("PutItem") == 1
    assert len(world.post({"price": "12 €"})["copies"]) == 1
    receiver.default = 422
    assert world.post()["copies"] == []
    hook.call("test")
    world.empty_inbox()

    pushed = [request.json()["event_type"] for request in target.requests]
    assert pushed == ["order.created", "test", "triggers.event.failed"]


def test_a_payload_that_is_nested_deep_is_filtered_or_refused(
    world: World, target: Receiver
) -> None:
    def call(path: str, levels: int, member: str) -> int:
        payload = '{"price":' * levels + "1" + "}" * levels
        body = f'{{{member}, "payload": {payload}}}'
        return world.call("POST", path, body).status_code

    post = partial(call, "/events", member='"event_type": "a"')
    try_filter = partial(call, "/filters/test", member='"filter": {"price": [1]}')
    refused = bisect_left(range(1, 20_000), 400, key=post) + 1
    world.subscribe(target, filter={"price": {"price": FILTER}})
    near = range(refused - 60, refused + 60)
    assert set(map(post, near)) == {202, 400}
    assert set(map(try_filter, near)) == {200, 400}
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
    world.subscribe(target, "order.created")
    target.default = 422
    output.lines()
    event = world.post()
    calls = aws.during(lambda: world.post(event_type="other"))

    assert [call for call in calls if call != "Query"] == ["PutItem"]
    for shown in world.get("/events?source=original")["events"]:
        assert_has(
            shown,
            status="delivered",
            delivered_via="subscriptions",
            delivered_at=shown["created_at"],
            delivery_attempts=0,
            next_attempt_at=None,
        )
    assert world.states(event) == ["failed"]
    queued = world.post(prefer="respond-async")
    world.run_worker()
    assert world.states(queued) == ["failed"]
    assert world.listed() == world.call("POST", "/inbox/lease").event_ids == []
    assert sum(values.get("EventsAccepted", 0) for values in output.metrics()) == 3


def test_in_subscriptions_mode_copies_alone_are_replayed(
    world: World, receiver: Receiver, hook: Hook
) -> None:
    receiver.script(503)
    before = hook.post()
    world.sleep(1)
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    after = hook.post()
    world.run_worker()

    for event, state in ((before.event, "pending"), (after.event, "delivered")):
        assert world.replay(event["event_id"]).problem == (409, "not_pushed")
        assert_has(world.event(event["event_id"]), status=state, next_attempt_at=None)
    assert world.listed() == [before.event["event_id"]]
    assert after.replay().json["next_attempt_at"]
    world.run_worker()
    assert receiver.count == 1
    assert hook.target.count == 3
