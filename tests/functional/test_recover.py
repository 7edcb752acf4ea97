"""Recover: what a subscription missed is listed, and sent or replayed."""

from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest

from chalicelib.core.event import Event, Status
from chalicelib.core.outcome import Outcome, PushResult
from chalicelib.core.store import compressed
from chalicelib.infra.times import rfc3339
from tests.conftest import During, Once
from tests.support.aws_calls import Aws
from tests.support.receiver import Receiver, status
from tests.support.subscribing import (
    copies,
    id_of_new,
    make_token,
    missed,
    post_later,
    recover,
    send_during,
    subscribe_later,
)
from tests.support.world import KEY, START, Answer, Json, World, assert_has

TENANT = "customer-42"


WAIT = status(503, headers={"retry-after": "600"})

WAYS: Json = {  # to miss an event, or not, and how the target answers
    "later": None,
    "delivered": 200,
    "failed": 422,
    "waiting": WAIT,
    "queued": 503,
    "event_types": None,
    "filter": None,
    "deleted": 200,
    "edited": None,
}

# `queued` is what waits for an attempt within the minute
REASONS = {
    "later": "later",
    "failed": "failed",
    "waiting": "waiting",
    "queued": "waiting",
    "edited": "edited",
}


def miss(world: World, target: Receiver, **members: Any) -> tuple[str, Json]:
    """Make a subscription that misses events in every way; return its id and the events by way."""
    target.script(*filter(None, WAYS.values()))
    subscription_id = ""
    events = {}
    for way in WAYS:
        event_type = "invoice.created" if way in ("event_types", "edited") else "order.created"
        body = {
            "event_type": f"{event_type}.{way}",
            "payload": {"total": 80 + 20 * (way != "filter")},
            "subject": "order-4711",
            **members,
        }
        events[way] = world.offer(body, idempotency_key=way).json
        world.sleep(1)
        if way == "later":
            subscription_id = subscribe_later(
                world, target, "order.*", filter={"total": [100]}, **members
            )
            world.sleep(10)
    world.call("DELETE", f"/events/{events['deleted']['copies'][0]}", key=KEY)
    types = {"event_types": ["order.*", "invoice.created.edited"]}
    world.call("PATCH", f"/subscriptions/{subscription_id}", types, key=KEY)
    return subscription_id, events


def reasons(answer: Answer) -> list[tuple[str, str | None]]:
    """Return the way of each event that is listed, and the reason that is told."""
    return [(row["event_type"].rpartition(".")[2], row["reason"]) for row in answer.json["events"]]


def test_what_a_subscription_missed_is_listed_with_the_reasons(
    world: World, target: Receiver
) -> None:
    subscription_id, events = miss(world, target, tenant=TENANT)
    post_later(world, tenant="another", subject="order-4711")
    post_later(world, subject="order-4711")
    token = make_token(world, TENANT)

    listed = missed(world, subscription_id, key=token)
    about = missed(world, subscription_id, key=token, subject="order-4711")

    assert reasons(listed) == [*REASONS.items()]
    assert_has(listed.json, examined=len(WAYS), next_cursor=None)
    told = {way: way for way in WAYS} | REASONS | {"delivered": None}
    assert reasons(about) == [*told.items()]
    assert about.json["examined"] == len(WAYS)
    later, failed, *_ = listed.json["events"]
    assert_has(later, event_id=events["later"]["event_id"], subject="order-4711", copy=None)
    assert later["created_at"] == events["later"]["created_at"]
    assert_has(failed["copy"], status="failed", last_error="receiver responded 422")
    assert [row["member"] for row in about.json["events"] if row["member"]] == ["total"]
    assert missed(world, subscription_id, subject="order-4712").json["events"] == []
    # Disabled or not.
    world.call("POST", f"/subscriptions/{subscription_id}/disable")
    assert reasons(missed(world, subscription_id)) == [*REASONS.items()]
    world.restart(SUBSCRIPTION_HOSTS="hooks.zapier.com")
    there = [(way, reason) for way, reason in REASONS.items() if reason in ("failed", "waiting")]
    assert reasons(missed(world, subscription_id)) == there
    assert reasons(missed(world, subscription_id, since=None, key=token)) == there


def test_missed_events_are_listed_in_pages_of_two_reads(
    world: World, target: Receiver, aws: Aws
) -> None:
    events = [post_later(world, {"a": number}) for number in range(6)]
    subscription_id = subscribe_later(world, target, filter={"a": [4, 5]})
    since, until = (events[number]["created_at"] for number in (1, 5))

    pages: list[Any] = []
    cursor = ""
    while not pages or cursor:
        page = missed(world, subscription_id, since=since, until=until, limit=3, cursor=cursor)
        cursor = page.json["next_cursor"]
        pages.append(([row["event_id"] for row in page.json["events"]], page.json["examined"]))

    assert pages == [([], 3), ([events[4]["event_id"]], 1)]
    calls = aws.during(lambda: missed(world, subscription_id))
    assert Counter(calls) == {"GetItem": 1, "Query": 14, "BatchGetItem": 2}
    path = f"/subscriptions/{subscription_id}/missed?limit=0&since=2h&subject=+x"
    assert world.call("GET", path).faults == ["limit", "since", "subject"]


def test_what_is_missed_is_recovered_and_nothing_else(world: World, target: Receiver) -> None:
    subscription_id, events = miss(world, target, tenant=TENANT)
    for tenant in ("another", None):
        post_later(world, tenant=tenant)
    world.lose_messages()  # of what is queued
    world.sleep(60)
    before = target.count
    token = make_token(world, TENANT)

    recovered = recover(world, subscription_id, key=token).json
    stored = world.items()
    again = recover(world, subscription_id, key=token).json

    assert world.items() == stored
    done = {"sent": 2, "replayed": 3, "left": 0}
    assert recovered == {"examined": len(WAYS), **done, "next_cursor": None}
    assert again == {**recovered, "sent": 0, "replayed": 0, "left": 3}
    world.sleep(61)
    world.sweep()  # finds what was queued, and leaves what waits in the slow lane
    assert (len(world.slow_messages()), len(world.messages())) == (5, 5)
    world.empty_inbox()
    received = [request.json()["event_type"] for request in target.requests[before:]]
    assert sorted(way.rpartition(".")[2] for way in received) == sorted(REASONS)
    attempts = [copies(world, events[way])[0]["delivery_attempts"] for way in ("failed", "waiting")]
    assert attempts == [1, 2]  # what waited keeps its attempts
    assert missed(world, subscription_id).json["events"] == []
    for_all = subscribe_later(world, f"{target.url}&all")
    for refused in (recover(world, for_all, key=token), missed(world, for_all, key=token)):
        assert refused.problem == (404, "not_found")
    assert recover(world, for_all).json["sent"] == len(WAYS) + 2


def test_a_pause_is_made_up_for(world: World, target: Receiver, subscription_id: str) -> None:
    target.script(status(503, headers={"retry-after": "20"}))
    post_later(world)
    world.call("POST", f"/subscriptions/{subscription_id}/disable")
    world.sleep(10)
    post_later(world)
    world.sleep(11)
    world.empty_inbox()
    assert [way for _, way in reasons(missed(world, subscription_id))] == ["failed"] * 2
    world.call("POST", f"/subscriptions/{subscription_id}/enable")
    world.sleep(10)

    assert_has(recover(world, subscription_id).json, sent=0, replayed=2)

    world.settle()
    assert target.count == 3
    assert missed(world, subscription_id).json["events"] == []


@pytest.mark.parametrize("since", [None, rfc3339(0)])
@pytest.mark.parametrize("answer", [405, WAIT])
def test_a_loop_of_recoveries_pushes_once_a_minute(
    world: World, target: Receiver, answer: Any, since: str | None
) -> None:
    token = make_token(world, TENANT)
    subscription_id = subscribe_later(world, target, tenant=TENANT)
    target.default = answer
    [copy_id] = post_later(world, tenant=TENANT)["copies"]
    for _ in range(10):
        for seconds in (1, 57, 1, 1):  # until the next call
            done = recover(world, subscription_id, key=token, since=since).json
            assert done["replayed"] + done["left"] == 1
            # the worker comes after the call
            world.empty_inbox()
            world.sleep(seconds)
    assert 9 <= target.count <= 10
    assert answer == 405 or world.event(copy_id)["status"] == "pending"


def replay_and_push(world: World, copy_id: str, subscription_id: str) -> None:
    world.replay(copy_id)
    world.empty_inbox()


MEANWHILE: dict[str, Callable[[World, str, str], object]] = {
    "acknowledged": lambda world, copy_id, _: world.acknowledge(copy_id),
    "replayed": lambda world, copy_id, _: world.replay(copy_id),
    "pushed again": replay_and_push,
    "recovered": lambda world, _, subscription_id: recover(world, subscription_id),
    "erased": lambda world, copy_id, _: world.call("DELETE", f"/events/{copy_id}", key=KEY),
}


@pytest.mark.parametrize("answer", [422, WAIT])
@pytest.mark.parametrize("act", MEANWHILE.values(), ids=MEANWHILE)
def test_a_recovery_leaves_alone_what_somebody_changed_meanwhile(
    world: World,
    target: Receiver,
    once: Once,
    subscription_id: str,
    answer: Any,
    act: Any,
) -> None:
    target.default = answer
    [copy_id] = post_later(world)["copies"]
    world.sleep(60)
    found: list[Json] = []

    def interrupt() -> None:
        act(world, copy_id, subscription_id)
        found.append(world.item(copy_id))

    once(world.dynamodb, "before-call.dynamodb.UpdateItem", interrupt)
    answered = recover(world, subscription_id)

    assert_has(answered.json, sent=0, replayed=0)
    assert found == [world.item(copy_id)]


def test_a_dead_endpoint_that_is_recovered_each_minute_is_disabled_in_the_end(
    world: World, target: Receiver
) -> None:
    target.default = 503
    world.restart(MAX_DELIVERY_ATTEMPTS="12", SUBSCRIPTION_DISABLE_DAYS="0")
    subscription_id = subscribe_later(world, target)
    world.sleep(10)
    [copy_id] = post_later(world)["copies"]

    minutes = 0
    while recover(world, subscription_id).status_code == 200:
        world.empty_inbox()
        world.sleep(60)
        minutes += 1
        assert minutes < 30

    assert minutes < 15  # its schedule takes an hour and more
    assert len(world.dead_letters()) == 1
    assert world.event(copy_id)["delivery_attempts"] == 12


def test_a_recovery_ends_in_time_and_goes_on_where_it_ended(
    world: World, target: Receiver, during: During
) -> None:
    for number in range(40):
        post_later(world, event_type="wanted" if number % 2 else "other")
    subscription_id = subscribe_later(world, target, "wanted")

    def slow(**_: object) -> None:
        world.sleep(1)

    during(world.dynamodb, "before-call.dynamodb.TransactWriteItems", slow)
    answers: list[Any] = []
    cursor = None
    while not answers or cursor:
        answers.append(recover(world, subscription_id, cursor=cursor).json)
        cursor = answers[-1]["next_cursor"]

    assert [answer["examined"] for answer in answers] == [32, 8]
    assert sum(answer["sent"] for answer in answers) == 20


def test_a_request_to_recover_is_validated(world: World, target: Receiver) -> None:
    path = f"/subscriptions/{subscribe_later(world, target)}/recover"
    for body, faults in (
        ('{"only_count": true, "limit": 1}', ["limit", "only_count"]),
        ('{"since": "2h", "until": "now", "cursor": "x"}', ["cursor", "since", "until"]),
    ):
        assert world.call("POST", path, body).faults == faults
    copies_cursor, events_cursor = (
        f"2026-11-01T00:00:00.000000Z~{kind}_{'1' * 32}" for kind in ("cpy", "evt")
    )
    since = rfc3339(0)
    for asked, faults in (
        ({"cursor": events_cursor}, ["cursor"]),
        ({"since": since, "cursor": copies_cursor}, ["cursor"]),
    ):
        assert world.call("POST", path, asked).faults == faults
        assert (
            world.call("GET", path.replace("recover", f"missed?{urlencode(asked)}")).faults
            == faults
        )
    nulls = '{"since": "2026-11-01T00:00:00Z", "until": null, "cursor": null}'
    assert world.call("POST", path, nulls).json["examined"] == 0
    for nothing in ("", "{}", '{"since": null}'):
        assert_has(world.call("POST", path, nothing).json, examined=0, next_cursor=None)
    assert recover(world, f"sub_{'0' * 32}").status_code == 404


def test_a_recovery_does_not_count_what_somebody_else_sent(
    world: World, target: Receiver, once: Once
) -> None:
    event = post_later(world)
    subscription_id = subscribe_later(world, target)
    send_during(world, once, subscription_id, event)
    assert_has(recover(world, subscription_id).json, examined=1, sent=0, replayed=0)


def deliveries(world: World, subscription_id: str) -> Any:
    return world.get(f"/subscriptions/{subscription_id}?include=deliveries")["deliveries"]


def read_all(ask: Callable[..., Answer], **query: Any) -> list[Any]:
    """Return the bodies of all pages."""
    pages: list[Any] = []
    while not pages or pages[-1]["next_cursor"]:
        cursor = pages[-1]["next_cursor"] if pages else None
        pages.append(ask(since=None, cursor=cursor, **query).json)
    return pages


def test_what_is_counted_is_listed_and_recovered_whenever_it_was_created(
    world: World, target: Receiver
) -> None:
    token = make_token(world, TENANT)
    subscription_id = subscribe_later(world, target, tenant=TENANT)
    target.script(200, 422, WAIT, 422, WAIT)
    events = [post_later(world, tenant=TENANT) for _ in range(5)]
    # Made anew, it has the same id, and these are older than it is.
    world.call("DELETE", f"/subscriptions/{subscription_id}", key=token)
    world.sleep(5 * 86400)
    token = make_token(world, TENANT)  # the other one has expired
    assert subscribe_later(world, target, tenant=TENANT) == subscription_id
    target.script(422, WAIT)
    events += [post_later(world, tenant=TENANT) for _ in range(2)]
    before = target.count
    world.sleep(60)

    told = deliveries(world, subscription_id)
    listed = missed(world, subscription_id, since=None, key=token).json
    first = missed(world, subscription_id, since=None, until=events[2]["created_at"]).json
    recovered = recover(world, subscription_id, since=None, key=token).json

    assert_has(told, failed=3, waiting=3, oldest_missed_at=events[1]["created_at"])
    rows = [(row["event_id"], row["reason"]) for row in listed["events"]]
    ways = ["failed", "waiting", "failed", "waiting", "failed", "waiting"]
    assert rows == list(zip([event["event_id"] for event in events[1:]], ways, strict=True))
    assert [row["copy"]["event_id"] for row in listed["events"]] == [
        event["copies"][0] for event in events[1:]
    ]
    assert_has(listed, examined=6, next_cursor=None)
    assert_has(first, examined=1, events=listed["events"][:1])
    due = recovered["left"]  # was due by now
    assert_has(recovered, examined=6, sent=0, next_cursor=None)
    assert recovered["replayed"] + due == 6
    again = recover(world, subscription_id, since=None, key=token).json
    assert_has(again, examined=6, replayed=0, left=6)
    world.settle()
    assert target.count - before == 6
    assert_has(deliveries(world, subscription_id), failed=0, waiting=0)
    gone = {"examined": 0, "sent": 0, "replayed": 0, "left": 0, "next_cursor": None}
    assert recover(world, subscription_id, since=None, key=token).json == gone


def test_what_was_dismissed_is_recovered_by_nobody_until_that_is_taken_back(
    world: World, target: Receiver, subscription_id: str
) -> None:
    target.default = 422
    events = [post_later(world, subject="order-4711") for _ in range(3)]
    world.sleep(60)
    path = f"/subscriptions/{subscription_id}"
    dismissed = {"dismissed_until": events[1]["created_at"]}  # to the microsecond
    world.call("PATCH", path, dismissed)

    for since in (None, rfc3339(0), events[0]["created_at"]):
        listed = missed(world, subscription_id, since=since).json["events"]
        assert [row["event_id"] for row in listed] == [events[2]["event_id"]]
    about = missed(world, subscription_id, subject="order-4711")
    assert [reason for _, reason in reasons(about)] == ["failed"] * 3
    assert_has(recover(world, subscription_id, since=None).json, replayed=1, examined=1)
    assert_has(recover(world, subscription_id).json, replayed=0, left=1)

    world.call("PATCH", path, {"dismissed_until": None})
    assert_has(recover(world, subscription_id, since=None).json, replayed=2, left=1)


def store_failed(world: World, subscription_id: str, number: int, **more: Any) -> None:
    """Store a copy that failed; ten have one moment of creation."""
    copy = Event(
        event_id=f"cpy_{world.services.new_id()}",
        created_at=rfc3339(START - 1000 + number // 10),
        created_by="acme",
        status=Status.FAILED,
        subscription_id=subscription_id,
        response_bytes=2,
        claim_id=f"{number}",
        expires_at=int(START) + 86400,
        **{"event_type": "a", **more},
    )
    world.services.store.put(copy, compressed(copy))


def test_what_did_not_arrive_is_recovered_in_pages_also_of_one_moment(
    world: World, during: During
) -> None:
    subscription_id = id_of_new(world, "http://127.0.0.1:9/")
    for number in range(125):
        event_type = "a" if number % 25 else "triggers.event.failed"
        store_failed(world, subscription_id, number, event_type=event_type)

    def ask(**query: Any) -> Answer:
        return missed(world, subscription_id, **query)

    listed = [row["copy"]["event_id"] for page in read_all(ask, limit=7) for row in page["events"]]
    assert len(set(listed)) == len(listed) == deliveries(world, subscription_id)["failed"] == 120

    def slow(**_: object) -> None:
        world.sleep(0.25)

    during(world.dynamodb, "before-call.dynamodb.UpdateItem", slow)
    pages = read_all(lambda **query: recover(world, subscription_id, **query))

    assert len(pages) == 2  # the first ends in time
    assert sum(page["replayed"] for page in pages) == 120
    assert sum(page["examined"] for page in pages) == 120
    assert max(page["examined"] for page in pages) <= 100


@pytest.mark.parametrize("act", ["acknowledged", "erased", "its event erased"])
def test_what_arrived_or_was_erased_meanwhile_is_not_recovered(
    world: World, target: Receiver, once: Once, subscription_id: str, act: str
) -> None:
    target.script(422, 422)
    first, second = (post_later(world) for _ in range(2))
    [copy_id] = first["copies"]
    world.sleep(60)

    def interrupt() -> None:
        if act == "its event erased":
            world.call("DELETE", f"/events/{first['event_id']}", key=KEY)
        else:
            MEANWHILE[act](world, copy_id, subscription_id)

    # between the read of the index and that of the copies
    once(world.dynamodb, "before-call.dynamodb.BatchGetItem", interrupt)
    recovered = recover(world, subscription_id, since=None).json

    assert_has(recovered, examined=1, replayed=1, left=0)
    world.settle()
    assert target.count == 3
    assert world.event(second["copies"][0])["status"] == "delivered"


def test_what_was_recovered_is_pushed_though_the_breaker_is_open(
    world: World, target: Receiver, subscription_id: str
) -> None:
    target.default = WAIT
    events = [post_later(world) for _ in range(5)]
    world.sleep(61)
    subscription = world.services.subscriptions.get(subscription_id)
    assert subscription
    opened = world.services.targets.of(subscription)
    hung = PushResult(Outcome.RETRY)
    world.services.worker_breaker.record(opened, world.clock() - 25, world.clock(), hung, 30)
    target.default = 200
    world.sleep(1)
    assert_has(recover(world, subscription_id).json, replayed=5)
    # another push is the trial, and never ends
    world.services.worker_breaker.acquire(opened, world.clock(), world.clock())
    for _ in range(180):
        world.empty_inbox()
        world.sleep(5)
    found = [world.event(event["copies"][0]) for event in events]
    assert [copy["status"] for copy in found] == ["delivered"] * 5
    assert [copy["delivery_attempts"] for copy in found] == [2] * 5  # a refusal is no attempt
