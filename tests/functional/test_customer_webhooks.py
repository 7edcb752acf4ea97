"""A customer's webhook over the years: a new secret, a pause, a test that tells."""

import pytest

from chalicelib.infra.times import rfc3339
from tests.conftest import Output
from tests.support.receiver import Receiver, hang
from tests.support.subscribing import copies, make_token, post_for, states, subscribe, subscribed
from tests.support.world import World, assert_has

DISABLED = ("failed", "not pushed: the subscription is disabled")


def test_the_owner_alone_is_told_the_whole_url(world: World, target: Receiver) -> None:
    path = f"{subscribed(world, target, tenant='a')}/secret"
    for tenant, status_code, url in (("a", 200, target.url), ("b", 404, None)):
        for method in ("GET", "POST"):
            answer = world.call(method, path, key=make_token(world, tenant))
            assert (answer.status_code, answer.json.get("target_url")) == (status_code, url)
    assert world.call("GET", path).json["target_url"] is None


def test_a_paused_subscription_waits_until_it_is_enabled(
    world: World, target: Receiver, output: Output
) -> None:
    path = subscribed(world, target, tenant="a")
    at = rfc3339(world.clock())

    paused = world.call("POST", f"{path}/disable").json

    assert_has(paused, disabled_at=at, last_error="disabled by hand")
    world.sleep(10)
    assert world.call("POST", f"{path}/disable").json == paused
    again = subscribe(world, target, tenant="a")
    assert_has(again.json, disabled_at=at, last_error="disabled by hand")
    event = post_for(world, "a")
    world.empty_inbox()
    [copy] = copies(world, event)
    assert (copy["status"], copy["last_error"]) == DISABLED
    assert target.requests == []
    assert not any("SubscriptionsDisabled" in metrics for metrics in output.metrics())
    assert_has(world.call("POST", f"{path}/enable").json, disabled_at=None, last_error=None)
    assert states(world, post_for(world, "a")) == ["delivered"]
    target.script(410)  # disables it, too
    post_for(world, "a")
    assert world.get(path)["disabled_at"]
    assert subscribe(world, target, tenant="a").json["disabled_at"] is None


def test_a_suspended_tenant_gets_nothing_and_has_everything_back_afterwards(
    world: World, target: Receiver
) -> None:
    token = make_token(world, "a")
    path = subscribed(world, target, tenant="a")
    subscribed(world, target)
    before = world.get(path)
    world.restart(SUSPENDED_TENANTS="x, a")

    for route in ("/me", path):
        assert world.call("GET", route, key=token).problem == (403, "suspended")
    assert world.call("GET", "/me", key=token[:-1]).status_code == 401
    assert world.call("GET", "/me", key=make_token(world, "b")).status_code == 200
    event = post_for(world, "a")
    world.empty_inbox()
    kept, mine = sorted(copies(world, event), key=lambda copy: copy["status"], reverse=True)
    assert_has(kept, status="failed", last_error="not pushed: the tenant is suspended")
    assert "or its tenant suspended" in kept["message"]
    assert_has(mine, status="delivered", subscription_id=mine["subscription_id"])
    assert target.count == 1
    assert world.dead_letters() == []
    assert world.get(path) == before
    since = {"since": kept["created_at"]}
    for call in (
        ("POST", f"/events/{kept['event_id']}/replay", "{}"),
        ("POST", f"{path}/send", {"event_id": event["event_id"]}),
        ("POST", f"{path}/recover", since),
    ):
        assert world.call(*call).problem == (409, "suspended")
    world.restart(SUSPENDED_TENANTS="")
    assert world.call("POST", f"{path}/recover", since, key=token).json["replayed"] == 1
    world.empty_inbox()
    assert world.event(kept["event_id"])["status"] == "delivered"


@pytest.mark.parametrize(
    "event_type, total, reason, member",
    [
        ("order.created", 120, None, None),
        ("order.created", 80, "filter", "order.total"),
        ("invoice.paid", 120, "event_types", None),
    ],
)
def test_a_test_with_a_payload_tells_whether_a_copy_would_be_made(
    world: World,
    target: Receiver,
    event_type: str,
    total: int,
    reason: str | None,
    member: str | None,
) -> None:
    numeric = {"order": {"total": [{"numeric": [">=", 100]}]}}
    path = subscribed(world, target, "order.*", tenant="a", filter=numeric)
    posted = {"event_type": event_type, "payload": {"order": {"total": total}}}

    tested = world.call("POST", f"{path}/test", posted).json

    assert_has(tested, outcome="delivered", matches=not reason, reason=reason, member=member)
    assert_has(target.requests[-1].json(), **posted, metadata=None, tenant="a")
    assert world.call("GET", "/events").json["events"] == []


def test_a_test_takes_the_time_of_a_push_and_no_reserved_type(
    world: World, target: Receiver
) -> None:
    world.restart(INLINE_PUSH_TIMEOUT_SECONDS="0.1", PUSH_TIMEOUT_SECONDS="0.3")
    path = subscribed(world, target)
    target.script(hang)

    slow = world.call("POST", f"{path}/test").json

    assert slow["error"] == "timed out"
    assert slow["duration_ms"] >= 250
    reserved = {"event_type": "triggers.event.failed", "payload": {}}
    assert world.call("POST", f"{path}/test", reserved).faults == ["event_type"]


def test_a_tenant_named_none_does_not_rest_with_subscriptions_without_one(
    world: World, target: Receiver
) -> None:
    for tenant in ("None", None):
        subscribe(world, target, tenant=tenant)
    listed = [*world.services.subscriptions.of_tenant("None")]
    listed += world.services.subscriptions.of_tenant(None)
    assert len({world.services.targets.of(known).owner for known in listed}) == 2
