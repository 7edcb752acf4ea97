"""Deliveries: what a subscription failed to get, counted and listed."""

from collections import Counter
from typing import Any

from chalicelib.core.event import Status
from chalicelib.core.outcome import BREAKER_OPEN, Outcome, PushResult
from chalicelib.infra.times import rfc3339
from tests.conftest import During
from tests.support.aws_calls import Aws
from tests.support.receiver import Receiver, status
from tests.support.world import KEY, START, Json, World, assert_has


def undelivered(world: World, subscription_id: str, key: str = KEY) -> list[str]:
    """Return the ids of the copies that were not delivered, the oldest first."""
    query = f"subscription_id={subscription_id}&status=undelivered&order=oldest"
    return [row["event_id"] for row in world.get(f"/events?{query}", key=key)["events"]]


def test_what_failed_or_waits_is_counted_until_it_is_delivered(
    world: World, target: Receiver
) -> None:
    subscription_id = world.subscribe(target, tenant="a").new_id
    assert world.deliveries(subscription_id) == {
        **dict.fromkeys(("failed", "waiting"), 0),
        **dict.fromkeys(("oldest_missed_at", "last_error", "last_at")),
        "recent": [],
        "has_more": False,
    }
    target.script(200, 422, 503, 500)
    events = [world.post_later(tenant="a") for _ in range(5)]
    world.erase(world.post_later(tenant="a")["event_id"])
    offered = {"event_type": "a", "payload": {}, "tenant": "a"}
    not_tried = world.offer(offered, prefer="respond-async").json

    assert world.deliveries(subscription_id) == {
        "failed": 1,
        "waiting": 2,
        "has_more": False,
        "oldest_missed_at": events[1]["created_at"],
        "last_error": "receiver responded 500",
        "last_at": not_tried["created_at"],
        "recent": ["pending", "delivered", "pending", "pending", "failed", "delivered"],
    }
    [failed], [waiting], [other] = (event["copies"] for event in events[1:4])
    key = world.make_token("a")
    assert undelivered(world, subscription_id, key) == [failed, waiting, other]

    world.replay(failed)
    assert_has(world.deliveries(subscription_id), failed=0, waiting=3)
    world.acknowledge(waiting)
    assert "undelivered_key" not in world.item(waiting)
    world.replay(waiting)
    assert world.event(waiting)["last_error"] is None
    assert undelivered(world, subscription_id) == [failed, other]
    world.sleep(600)
    world.sweep()
    world.run_worker()
    assert_has(world.deliveries(subscription_id), failed=0, waiting=0, oldest_missed_at=None)
    assert undelivered(world, subscription_id) == []


def test_what_was_lost_is_counted_however_old_and_no_copy_is_read(
    world: World, target: Receiver, aws: Aws
) -> None:
    subscription_id = world.subscribe(target).new_id
    healthy = world.subscribe(f"{target.url}&healthy", "none").new_id
    for number in range(250):
        state = Status.FAILED if number < 120 else Status.DELIVERED
        world.store_copy(subscription_id, number, state, last_error=f"{number}")

    for told, calls in ((healthy, {}), (subscription_id, {"GetItem": 1})):
        seen = aws.during(lambda told=told: world.deliveries(told))  # type: ignore[misc]
        # the subscription, two queries, and the newest that failed
        assert Counter(seen) == Counter({"GetItem": 1, "Query": 2}) + Counter(calls)

    assert_has(
        world.deliveries(subscription_id),
        failed=120,
        oldest_missed_at=rfc3339(START),
        last_error="119",
        has_more=False,
        recent=["delivered"] * 25,
    )


def test_what_does_not_count_is_passed_over(world: World, during: During) -> None:
    """A query ends after 1 MB, however little of that counts; here after a row."""
    subscription_id = world.subscribe("http://127.0.0.1:9/").new_id

    def read_one(params: Json, **_: object) -> None:
        if params["IndexName"] == "undelivered-index":
            params["Limit"] = 1

    during(world.dynamodb, "provide-client-params.dynamodb.Query", read_one)
    for number in range(4):
        world.store_copy(subscription_id, number, Status.FAILED)
    for expired in undelivered(world, subscription_id)[:3]:
        world.change_item(expired, "SET expires_at = :past", past={"N": "1"})

    counted = world.deliveries(subscription_id)

    assert_has(counted, failed=1, oldest_missed_at=rfc3339(START + 3), has_more=False)
    assert len(undelivered(world, subscription_id)) == 1
    world.store_copy(subscription_id, 4, Status.FAILED)
    assert_has(world.deliveries(subscription_id), failed=1, has_more=True)
    of_reports = world.subscribe("http://127.0.0.1:9/", "triggers.*").new_id
    for number in range(11):
        world.store_copy(of_reports, number, Status.FAILED, event_type="triggers.event.failed")
    assert_has(world.deliveries(of_reports), failed=0, has_more=True)


def test_a_report_that_failed_is_listed_and_not_counted(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    subscription_id = world.subscribe(target, "triggers.*").new_id
    target.script(422)
    receiver.script(422)
    world.post()
    world.run_worker()

    assert_has(world.deliveries(subscription_id), failed=0, recent=["failed"])
    assert len(undelivered(world, subscription_id)) == 1


def test_what_was_dismissed_does_not_count_and_is_taken_back(
    world: World, target: Receiver
) -> None:
    path = world.subscribe(target, tenant="a").location
    subscription_id = path.rpartition("/")[2]
    key = world.make_token("a")
    target.default = status(422)
    events = [world.post_later(tenant="a") for _ in range(2)]

    def dismiss(until: object) -> Any:
        return world.call("PATCH", path, {"dismissed_until": until}, key=key)

    assert dismiss(events[0]["created_at"]).json["dismissed_until"] == events[0]["created_at"]
    told = world.deliveries(subscription_id)
    assert_has(told, failed=1, oldest_missed_at=events[1]["created_at"])
    assert dismiss(events[1]["created_at"]).status_code == 200
    assert_has(world.deliveries(subscription_id), failed=0, last_error=None)
    assert len(undelivered(world, subscription_id)) == 2
    assert world.get(f"{path}/missed?since={events[0]['created_at']}")["events"] == []
    for refused in ("yesterday", 5, rfc3339(world.clock() + 1)):
        assert dismiss(refused).faults == ["dismissed_until"]
    assert "in the future" in dismiss("2099-01-01T00:00:00Z").json["errors"][0]["message"]
    made = {"target_url": f"{target.url}&new", "dismissed_until": None}
    assert world.call("POST", "/subscriptions", made).faults == ["dismissed_until"]
    assert dismiss(None).json["dismissed_until"] is None
    assert_has(world.deliveries(subscription_id), failed=2)


def test_a_page_with_deliveries_has_25_subscriptions(world: World) -> None:
    for number in range(26):
        world.subscribe(f"http://127.0.0.1:9/{number}", tenant="a")

    page = world.get(
        "/subscriptions?tenant=a&include=deliveries&limit=100", key=world.make_token("a")
    )

    assert len(page["subscriptions"]) == 25
    assert page["next_cursor"]


def test_the_error_is_that_of_a_push_not_of_an_attempt_that_a_breaker_refused(
    world: World, target: Receiver
) -> None:
    subscription_id = world.subscribe(target).new_id
    target.default = status(503)
    pushed = world.post_later()
    target_of = world.services.targets.of
    subscription = world.services.subscriptions.get(subscription_id)
    assert subscription
    failure = PushResult(Outcome.RETRY, duration_ms=30_000, error="timed out")
    now = world.clock()
    world.services.worker_breaker.record(target_of(subscription), now - 30, now, failure, 60.0)
    refused = world.offer({"event_type": "a", "payload": {}}, prefer="respond-async").json
    world.sleep(10)
    world.run_worker()

    errors = [world.event(event["copies"][0])["last_error"] for event in (pushed, refused)]
    assert errors == ["receiver responded 503", BREAKER_OPEN]
    assert target.count == 1
    assert_has(world.deliveries(subscription_id), waiting=2, last_error="receiver responded 503")
