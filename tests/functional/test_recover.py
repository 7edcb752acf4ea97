"""Recover: what a subscription missed is listed, and sent or replayed."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from chalicelib.core.event import Status
from chalicelib.core.outcome import Outcome, PushResult
from chalicelib.infra.times import rfc3339
from tests.conftest import During, Once
from tests.support.aws_calls import Aws
from tests.support.hooks import Copy, Hook
from tests.support.receiver import Receiver, status
from tests.support.world import Answer, Json, World, assert_has

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


def miss(world: World, target: Receiver) -> tuple[Hook, Json]:
    """Make a subscription that misses events in every way; return it and the events by way."""
    target.script(*filter(None, WAYS.values()))
    events = {}
    for way in WAYS:
        event_type = "invoice.created" if way in ("event_types", "edited") else "order.created"
        body = {
            "event_type": f"{event_type}.{way}",
            "payload": {"total": 80 + 20 * (way != "filter")},
            "subject": "order-4711",
            "tenant": TENANT,
        }
        events[way] = world.offer(body, idempotency_key=way).json
        world.sleep(1)
        if way == "later":
            total = {"total": [100]}
            hook = Hook(world, target, tenant=TENANT, event_types=["order.*"], filter=total)
            world.sleep(10)
    world.erase(events["deleted"]["copies"][0])
    hook.edit(event_types=["order.*", "invoice.created.edited"])
    return hook, events


def read_all(ask: Callable[..., Answer], **query: Any) -> list[Any]:
    """Return the bodies of all pages."""
    pages = [ask(**query).json]
    while pages[-1]["next_cursor"]:
        pages.append(ask(cursor=pages[-1]["next_cursor"], **query).json)
    return pages


def ids_of(page: Json) -> list[str]:
    return [row["event_id"] for row in page["events"]]


def reasons(answer: Answer) -> list[tuple[str, str | None]]:
    """Return the way of each event that is listed, and the reason that is told."""
    return [(row["event_type"].rpartition(".")[2], row["reason"]) for row in answer.json["events"]]


def test_what_a_subscription_missed_is_listed_with_the_reasons(
    world: World, target: Receiver
) -> None:
    hook, events = miss(world, target)
    for tenant in ("another", None):
        world.post_later(tenant=tenant, subject="order-4711")
    token = world.make_token(TENANT)

    listed = hook.missed(key=token)
    about = hook.missed(key=token, subject="order-4711")

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
    assert hook.missed(subject="order-4712").json["events"] == []
    # Disabled or not.
    hook.call("disable")
    assert reasons(hook.missed()) == [*REASONS.items()]
    world.restart(SUBSCRIPTION_HOSTS="hooks.zapier.com")
    there = [(way, reason) for way, reason in REASONS.items() if reason in ("failed", "waiting")]
    assert reasons(hook.missed()) == there
    assert reasons(hook.missed(since=None, key=token)) == there


def test_missed_events_are_listed_in_pages_of_two_reads(
    world: World, target: Receiver, aws: Aws
) -> None:
    events = [world.post_later({"a": number}) for number in range(6)]
    hook = Hook(world, target, filter={"a": [4, 5]})
    since, until = (events[number]["created_at"] for number in (1, 5))

    pages = read_all(hook.missed, since=since, until=until, limit=3)

    assert [(ids_of(page), page["examined"]) for page in pages] == [
        ([], 3),
        ([events[4]["event_id"]], 1),
    ]
    calls = aws.during(hook.missed)
    assert Counter(calls) == {"GetItem": 1, "Query": 14, "BatchGetItem": 2}
    refused = hook.missed(limit=0, since="2h", subject=" x")
    assert refused.faults == ["limit", "since", "subject"]


def test_what_is_missed_is_recovered_and_nothing_else(world: World, target: Receiver) -> None:
    hook, events = miss(world, target)
    for tenant in ("another", None):
        world.post_later(tenant=tenant)
    world.lose_messages()  # of what is queued
    world.sleep(60)
    before = target.count
    token = world.make_token(TENANT)

    recovered = hook.recover(key=token).json
    stored = world.items()
    again = hook.recover(key=token).json

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
    attempts = [world.copies(events[way])[0]["delivery_attempts"] for way in ("failed", "waiting")]
    assert attempts == [1, 2]  # what waited keeps its attempts
    assert hook.missed().json["events"] == []
    for_all = Hook(world, target, path="&all")
    for refused in (for_all.recover(key=token), for_all.missed(key=token)):
        assert refused.problem == (404, "not_found")
    assert for_all.recover().json["sent"] == len(WAYS) + 2


def test_a_pause_is_made_up_for(world: World, hook: Hook) -> None:
    hook.post(status(503, headers={"retry-after": "20"}))
    hook.call("disable")
    world.sleep(10)
    hook.post()
    world.sleep(11)
    world.empty_inbox()
    assert [way for _, way in reasons(hook.missed())] == ["failed"] * 2
    hook.enable()
    world.sleep(10)

    assert_has(hook.recover().json, sent=0, replayed=2)

    world.settle()
    assert hook.target.count == 3
    assert hook.missed().json["events"] == []


@pytest.mark.parametrize("since", [None, rfc3339(0)])
@pytest.mark.parametrize("answer", [405, WAIT])
def test_a_loop_of_recoveries_pushes_once_a_minute(
    world: World, customer: Hook, answer: Any, since: str | None
) -> None:
    token = world.make_token("a")
    customer.target.default = answer
    copy = customer.post()
    for _ in range(3):
        for seconds in (1, 57, 1, 1):  # until the next call
            done = customer.recover(key=token, since=since).json
            assert done["replayed"] + done["left"] == 1
            # the worker comes after the call
            world.empty_inbox()
            world.sleep(seconds)
    assert 2 <= customer.target.count <= 3
    assert answer == 405 or copy.status == "pending"


def test_a_recovery_puts_nothing_off_that_is_due_sooner(world: World, hook: Hook) -> None:
    copy = hook.post(500)
    assert hook.recover(since=None).json["left"] == 1
    world.sleep(5)
    world.empty_inbox()
    assert copy.status == "delivered"


def replay_and_push(copy: Copy, hook: Hook) -> None:
    copy.replay()
    copy.world.empty_inbox()


MEANWHILE: dict[str, Callable[[Copy, Hook], object]] = {
    "acknowledged": lambda copy, _: copy.world.acknowledge(copy.id),
    "replayed": lambda copy, _: copy.replay(),
    "pushed again": replay_and_push,
    "recovered": lambda _, hook: hook.recover(),
    "erased": lambda copy, _: copy.world.erase(copy.id),
}


@pytest.mark.parametrize("answer", [422, WAIT])
@pytest.mark.parametrize("act", MEANWHILE.values(), ids=MEANWHILE)
def test_a_recovery_leaves_alone_what_somebody_changed_meanwhile(
    world: World, hook: Hook, once: Once, answer: Any, act: Any
) -> None:
    hook.target.default = answer
    copy = hook.post()
    world.sleep(60)
    found: list[Json] = []

    def interrupt() -> None:
        act(copy, hook)
        found.append(world.item(copy.id))

    once(world.dynamodb, "before-call.dynamodb.UpdateItem", interrupt)
    answered = hook.recover()

    assert_has(answered.json, sent=0, replayed=0)
    assert found == [world.item(copy.id)]


def test_a_dead_endpoint_that_is_recovered_each_minute_is_disabled_in_the_end(
    world: World, target: Receiver
) -> None:
    target.default = 503
    world.restart(MAX_DELIVERY_ATTEMPTS="12", SUBSCRIPTION_DISABLE_DAYS="0")
    hook = Hook(world, target)
    copy = hook.post()

    minutes = 0
    while hook.recover().status_code == 200:
        world.empty_inbox()
        world.sleep(60)
        minutes += 1
        assert minutes < 30

    assert minutes < 15  # its schedule takes an hour and more
    assert len(world.dead_letters()) == 1
    assert copy.now["delivery_attempts"] == 12


def test_a_recovery_ends_in_time_and_goes_on_where_it_ended(
    world: World, target: Receiver, during: During
) -> None:
    for number in range(40):
        world.post_later(event_type="wanted" if number % 2 else "other")
    hook = Hook(world, target, event_types=["wanted"])

    def slow(**_: object) -> None:
        world.sleep(1)

    during(world.dynamodb, "before-call.dynamodb.TransactWriteItems", slow)
    answers = read_all(hook.recover, since=rfc3339(0))

    assert [answer["examined"] for answer in answers] == [32, 8]
    assert sum(answer["sent"] for answer in answers) == 20


def test_a_request_to_recover_is_validated(world: World, hook: Hook) -> None:
    copies_cursor, events_cursor = (
        f"2026-11-01T00:00:00.000000Z~{kind}_{'1' * 32}" for kind in ("cpy", "evt")
    )
    since = rfc3339(0)
    for asked, faults in (
        ({"since": None, "cursor": events_cursor}, ["cursor"]),
        ({"since": since, "cursor": copies_cursor}, ["cursor"]),
        ({"since": "2h", "until": "now", "cursor": "x"}, ["cursor", "since", "until"]),
    ):
        assert hook.recover(**asked).faults == hook.missed(**asked).faults == faults
    assert hook.recover(only_count=True, limit=1).faults == ["limit", "only_count"]
    assert hook.recover(until=None, cursor=None).json["examined"] == 0
    for nothing in ("", "{}", '{"since": null}'):
        answer = world.call("POST", f"{hook.path}/recover", nothing)
        assert_has(answer.json, examined=0, next_cursor=None)
    assert world.recover(f"sub_{'0' * 32}").status_code == 404


def test_a_recovery_does_not_count_what_somebody_else_sent(
    world: World, target: Receiver, once: Once
) -> None:
    event = world.post_later()
    hook = Hook(world, target)
    hook.send_during(once, event)
    assert_has(hook.recover().json, examined=1, sent=0, replayed=0)


def test_what_is_counted_is_listed_and_recovered_whenever_it_was_created(
    world: World, customer: Hook
) -> None:
    copies = []
    for answer in (200, 422, WAIT, 422, WAIT):
        copies.append(customer.post(answer))
        world.sleep(1)
    # Made anew, it has the same id, and these are older than it is.
    customer.delete()
    world.sleep(5 * 86400)
    customer.make()
    for answer in (422, WAIT):
        copies.append(customer.post(answer))
        world.sleep(1)
    before = customer.target.count
    token = world.make_token("a")
    world.sleep(60)

    told = world.deliveries(customer.id)
    listed = customer.missed(since=None, key=token).json
    until = copies[2].event["created_at"]
    first = customer.missed(since=None, until=until, key=token).json
    recovered = customer.recover(since=None, key=token).json

    oldest = copies[1].event["created_at"]
    assert_has(told, failed=3, waiting=3, oldest_missed_at=oldest)
    assert [row["reason"] for row in listed["events"]] == ["failed", "waiting"] * 3
    assert ids_of(listed) == [copy.event["event_id"] for copy in copies[1:]]
    assert [row["copy"]["event_id"] for row in listed["events"]] == [copy.id for copy in copies[1:]]
    assert_has(listed, examined=6, next_cursor=None)
    assert_has(first, examined=1, events=listed["events"][:1])
    assert_has(recovered, examined=6, sent=0, replayed=6, left=0, next_cursor=None)
    for seconds, ways in ((0, {"replayed": 0, "left": 6}), (61, {"replayed": 6, "left": 0})):
        world.sleep(seconds)
        assert_has(customer.recover(since=None, key=token).json, **ways)
    world.settle()
    assert customer.target.count - before == 6
    assert_has(world.deliveries(customer.id), failed=0, waiting=0)
    gone = {"examined": 0, "sent": 0, "replayed": 0, "left": 0, "next_cursor": None}
    assert customer.recover(since=None, key=token).json == gone


def test_what_was_dismissed_is_recovered_by_nobody_until_that_is_taken_back(
    world: World, hook: Hook
) -> None:
    hook.target.default = 422
    events = [world.post_later(subject="order-4711") for _ in range(3)]
    world.sleep(60)
    hook.edit(dismissed_until=events[1]["created_at"])  # to the microsecond

    for since in (None, rfc3339(0), events[0]["created_at"]):
        assert ids_of(hook.missed(since=since).json) == [events[2]["event_id"]]
    about = hook.missed(subject="order-4711")
    assert [reason for _, reason in reasons(about)] == ["failed"] * 3
    assert_has(hook.recover(since=None).json, replayed=1, examined=1)
    assert_has(hook.recover().json, replayed=0, left=1)

    hook.edit(dismissed_until=None)
    assert_has(hook.recover(since=None).json, replayed=2, left=1)


def test_what_did_not_arrive_is_recovered_in_pages_also_of_one_moment(
    world: World, hook: Hook, during: During
) -> None:
    for number in range(125):
        event_type = "a" if number % 25 else "triggers.event.failed"
        moment = number // 10 - 1000  # ten have one
        world.store_copy(hook.id, moment, Status.FAILED, event_type=event_type)

    listed = [
        row["copy"]["event_id"]
        for page in read_all(hook.missed, since=None, limit=24)
        for row in page["events"]
    ]
    assert len(set(listed)) == len(listed) == world.deliveries(hook.id)["failed"] == 120

    def slow(**_: object) -> None:
        world.sleep(0.25)

    during(world.dynamodb, "before-call.dynamodb.UpdateItem", slow)
    pages = read_all(hook.recover, since=None)

    assert len(pages) == 2  # the first ends in time
    assert sum(page["replayed"] for page in pages) == 120
    assert sum(page["examined"] for page in pages) == 120
    assert max(page["examined"] for page in pages) <= 100


@pytest.mark.parametrize("act", ["acknowledged", "erased", "its event erased"])
def test_what_arrived_or_was_erased_meanwhile_is_not_recovered(
    world: World, hook: Hook, once: Once, act: str
) -> None:
    first, second = (hook.post(422) for _ in range(2))
    world.sleep(60)

    def interrupt() -> None:
        if act == "its event erased":
            world.erase(first.event["event_id"])
        else:
            MEANWHILE[act](first, hook)

    # between the read of the index and that of the copies
    once(world.dynamodb, "before-call.dynamodb.BatchGetItem", interrupt)
    recovered = hook.recover(since=None).json

    assert_has(recovered, examined=1, replayed=1, left=0)
    world.settle()
    assert hook.target.count == 3
    assert second.status == "delivered"


def test_what_was_recovered_is_pushed_though_the_breaker_is_open(world: World, hook: Hook) -> None:
    hook.target.default = WAIT
    copies = [hook.post() for _ in range(5)]
    world.sleep(61)
    subscription = world.services.subscriptions.get(hook.id)
    assert subscription
    opened = world.services.targets.of(subscription)
    hung = PushResult(Outcome.RETRY)
    world.services.worker_breaker.record(opened, world.clock() - 25, world.clock(), hung, 30)
    hook.target.default = 200
    world.sleep(1)
    assert_has(hook.recover().json, replayed=5)
    # another push is the trial, and never ends
    world.services.worker_breaker.acquire(opened, world.clock(), world.clock())
    for _ in range(180):
        world.empty_inbox()
        world.sleep(5)
    found = [copy.now for copy in copies]
    assert [copy["status"] for copy in found] == ["delivered"] * 5
    assert [copy["delivery_attempts"] for copy in found] == [2] * 5  # a refusal is no attempt
