"""Recipients: who got an event or why not, and an event that is sent to one."""

import json
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from chalicelib.core.store import ERASED_SECONDS
from chalicelib.infra.times import DAY_SECONDS
from tests.conftest import During, Once, Output
from tests.support.aws_calls import Aws, Fault
from tests.support.hooks import Hook
from tests.support.receiver import Receiver, status
from tests.support.world import UNKNOWN, World, assert_has

TENANT = "customer-42"


# Recipients


def test_recipients_are_told_with_their_copies_or_why_they_have_none(
    world: World, target: Receiver
) -> None:
    def at(name: str, *event_types: str, **members: Any) -> str:
        return world.subscribe_later(f"{target.url}&{name}", *event_types, name=name, **members)

    at("got-it", "order.*", tenant=TENANT)
    at("another", tenant="another")
    deleted = at("deleted")
    gone = at("gone")
    at("types", "invoice.created", filter={"total": [8]})
    at("filter", filter={"order": {"id": [1], "total": [5]}, "total": [7]})
    edited = at("edited", "invoice.created", tenant=TENANT)
    world.sleep(10)
    event = world.post_later({"total": 7, "order": {"id": 1, "total": 80}}, tenant=TENANT)
    by_subscription = {copy["subscription_id"]: copy for copy in world.copies(event)}
    world.erase(by_subscription[deleted]["event_id"])
    world.call("DELETE", f"/subscriptions/{gone}")
    world.call("PATCH", f"/subscriptions/{edited}", '{"event_types": null}')
    at("later", tenant=TENANT)

    found = world.recipients(event)

    told = [(row["name"], row["tenant"], row["reason"], row["member"]) for row in found]
    assert told == [
        ("got-it", TENANT, None, None),
        ("deleted", None, "deleted", None),
        ("types", None, "event_types", None),
        ("filter", None, "filter", "order.total"),
        ("edited", TENANT, "edited", None),
        ("later", TENANT, "later", None),
        (None, None, None, None),
    ]
    has_copy = [(row["name"], row["copy"]["status"]) for row in found if row["copy"]]
    assert has_copy == [("got-it", "delivered"), (None, "delivered")]
    known = {key: value for key, value in found[-1].items() if value is not None}
    assert known.keys() == {"subscription_id", "state", "copy"}
    assert_has(known, subscription_id=gone, state="gone")
    assert {row["target_host"] for row in found[:-1]} == {"127.0.0.1"}


@pytest.mark.usefixtures("subscription_id")
def test_a_copy_is_told_as_it_is_now_and_its_subscription_too(
    world: World, target: Receiver
) -> None:
    target.default = 422
    event = world.post_later(subject="order-4711")
    [row] = world.recipients(event)

    assert row["state"] == "failing"
    assert_has(row["copy"], status="failed", subject="order-4711")
    assert "payload" not in row["copy"]
    world.restart(SUBSCRIPTION_HOSTS="hooks.zapier.com")
    world.erase(row["copy"]["event_id"])
    assert world.recipients(event)[0]["reason"] == "deleted"
    [other] = world.recipients(world.post_later())
    assert_has(other, copy=None, reason="host")


def test_a_payload_that_is_nested_too_deep_for_a_filter_has_no_member_to_tell(
    world: World, target: Receiver
) -> None:
    event = world.post_later()
    nested = f"{'[' * 20_000}{']' * 20_000}"
    content = zlib.compress(f'{{"a":{nested}}}\nnull'.encode())
    world.change_item(event["event_id"], "SET content = :content", content={"B": content})
    hook = Hook(world, target, filter={"a": [1]})

    [row] = world.recipients(event)

    assert_has(row, reason="filter", member=None)
    assert hook.recover().json["sent"] == 0


def test_an_event_without_recipients_has_none_and_a_copy_is_no_event(
    world: World, target: Receiver
) -> None:
    world.subscribe_later(target, tenant=TENANT)
    [copy_id] = world.post_later(tenant=TENANT)["copies"]

    assert world.recipients(world.post_later()) == []
    assert world.call("GET", f"/events/{copy_id}/recipients").status_code == 404
    assert world.call("GET", f"/events/{UNKNOWN}/recipients").status_code == 404


def test_a_subscription_that_no_list_has_yet_is_not_gone(
    world: World, target: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.subscribe_later(target)
    event = world.post_later()
    # An index that lags: moto has none.
    monkeypatch.setattr(world.services.subscriptions, "of_tenant", lambda tenant: ())
    [recipient] = world.recipients(event)
    assert recipient["state"] == "active"


# Send

MARKED = "response-of-the-operator"


def test_a_sent_copy_has_its_events_content_and_nothing_of_the_operators_webhook(
    world: World, receiver: Receiver, target: Receiver, output: Output
) -> None:
    receiver.default = status(422, body=MARKED.encode())
    event = world.post_later({"total": 80}, tenant=TENANT, subject="order-4711", metadata={"m": 1})
    total = {"total": [100]}
    hook = Hook(world, target, tenant=TENANT, event_types=["invoice.*"], filter=total)
    world.sleep(20 * DAY_SECONDS)
    token = world.make_token(TENANT)

    answer = hook.send(event, key=token)

    assert answer.status_code == 202
    copy_id = answer.json["event_id"]
    assert answer.headers["location"] == f"../../events/{copy_id}"
    assert world.event(event["event_id"])["copies"] == [copy_id]
    pushes = receiver.count
    world.empty_inbox()
    shown = world.call("GET", f"/events/{copy_id}", key=token)
    assert MARKED not in shown.text
    assert "receiver responded" not in shown.text
    copy = shown.json
    assert (copy["status"], copy["delivery_attempts"], len(copy["attempts"])) == ("delivered", 1, 1)
    assert output.metrics()[-1]["DeliveryLatency"] < 1000
    whole = world.event(event["event_id"])
    for name in ("event_type", "payload", "metadata", "tenant", "subject", "created_at"):
        assert copy[name] == whole[name], name
    assert whole["status"] == "failed"
    assert receiver.count == pushes
    assert target.count == 1
    world.sleep(15 * DAY_SECONDS)  # the event has expired, the copy is kept as a replayed one
    assert world.event(copy_id)["status"] == "delivered"
    assert world.listed(f"/events?subscription_id={hook.id}") == [copy_id]


def test_a_copy_that_is_gone_is_made_again_and_listed_once(world: World, hook: Hook) -> None:
    event = world.post_later()
    world.erase(event["copies"][0])
    world.sweep()

    assert hook.send(event).status_code == 202

    world.empty_inbox()
    assert world.event(event["event_id"])["copies"] == event["copies"]
    assert world.event(event["copies"][0])["status"] == "delivered"
    assert hook.target.count == 2


def test_what_cannot_be_sent_is_refused(world: World, target: Receiver, aws: Aws) -> None:
    event = world.post_later(tenant=TENANT)
    foreign = world.post_later(tenant="another")
    hook = Hook(world, target, tenant=TENANT)
    for_all = Hook(world, target, path="&all")
    token = world.make_token(TENANT)
    copy_id = for_all.send(event).json["event_id"]

    def refused(event_id: str) -> tuple[int, str]:
        return world.send_to(hook.id, event_id).problem

    not_found = (404, "not_found")
    assert refused(UNKNOWN) == refused("evt_1") == refused(copy_id) == not_found
    assert refused(foreign["event_id"]) == refused(world.post_later()["event_id"]) == not_found
    assert world.send_to(f"sub_{'0' * 32}", event["event_id"]).problem == not_found
    assert for_all.send(event, key=token).problem == not_found
    for body in ("{}", '{"event_id": 1}', '{"event_id": "evt_1", "x": 1}'):
        assert world.call("POST", f"{for_all.path}/send", body).status_code == 400
    assert aws.during(lambda: refused("evt_1")) == ["GetItem"]  # of the subscription
    world.restart(SUBSCRIPTION_HOSTS="hooks.zapier.com")
    for code in ("host_not_allowed", "subscription_disabled"):
        assert hook.send(event).problem == hook.recover().problem == (409, code)
        hook.call("disable")
    assert len(world.event(event["event_id"])["copies"]) == 1


def test_a_report_is_not_sent_nor_filtered_where_its_recipients_are_asked_for(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    receiver.default = target.default = 422
    world.subscribe_later(target, "triggers.*")
    other = Hook(world, target, path="&other", event_types=["a", "triggers.*"])
    world.post_later()
    [report] = world.get("/events?event_type=triggers.*&source=original")["events"]

    assert other.send(report).problem == (409, "not_pushed")
    world.empty_inbox()
    world.sleep(60)
    assert_has(other.recover().json, sent=0, replayed=0)
    world.subscribe_later(f"{target.url}&later", "triggers.*", filter={"x": [1]})
    assert [row["reason"] for row in world.recipients(report)] == [None, None, "later"]


def test_an_event_lists_at_most_500_copies(world: World, target: Receiver) -> None:
    event = world.post_later()
    listed = [f"cpy_{number:032x}" for number in range(499)]
    copies = json.dumps(listed, separators=(",", ":"))
    world.change_item(event["event_id"], "SET copies = :copies", copies={"S": copies})
    first, second = (Hook(world, target, path=path) for path in ("&1", "&2"))

    assert first.send(event).status_code == 202
    assert second.send(event).problem == (409, "too_many_copies")
    assert first.send(event).status_code == 202
    assert_has(second.recover().json, examined=1, sent=0, next_cursor=None)
    assert len(world.recipients(event)) == 2


def test_a_copy_that_is_pushed_or_that_no_event_lists_is_not_sent(world: World, hook: Hook) -> None:
    answers = []

    def claimed(push: Any) -> None:
        answers.append(world.send_to(hook.id, push.request.json()["source_event_id"]))
        status(200)(push)

    event = hook.post(claimed).event
    world.change_item(event["event_id"], "REMOVE copies")
    answers.append(hook.send(event))

    assert [answer.problem for answer in answers] == [(409, "event_claimed")] * 2
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert hook.recover().json["sent"] == 0


@pytest.mark.parametrize("fault", [Fault.REPEATED, Fault.LOST])
def test_a_lost_response_costs_no_copy(
    world: World, target: Receiver, aws: Aws, fault: Fault
) -> None:
    event = world.post_later()
    hook = Hook(world, target)
    aws.fail("TransactWriteItems", fault=fault)
    answer = hook.recover()
    aws.heal()

    expected = (200, 1) if fault is Fault.REPEATED else (503, None)
    assert (answer.status_code, answer.json.get("sent")) == expected
    assert hook.recover().json["sent"] == 0
    world.settle()
    assert len(world.event(event["event_id"])["copies"]) == target.count == 1


CONFLICT = ("None", "TransactionConflict")


@pytest.mark.parametrize(
    "conflicts, codes", [(1, CONFLICT), (3, CONFLICT), (100, CONFLICT), (100, ())]
)
def test_a_transaction_that_meets_another_is_tried_again_while_there_is_time(
    world: World, target: Receiver, during: During, conflicts: int, codes: tuple[str, ...]
) -> None:
    event = world.post_later()
    hook = Hook(world, target)
    left = [conflicts]

    def conflict(**_: object) -> Any:
        left[0] -= 1
        if left[0] < 0:
            return None
        reasons = [{"Code": code} for code in codes]
        canceled = {"Code": "TransactionCanceledException", "Message": "put in by a test"}
        parsed = {"Error": canceled, "CancellationReasons": reasons}
        return type("Response", (), {"status_code": 400}), {"ResponseMetadata": {}, **parsed}

    during(world.dynamodb, "before-call.dynamodb.TransactWriteItems", conflict)
    started = world.clock()
    answer = hook.send(event)

    assert answer.status_code == (503 if conflicts == 100 else 202)
    assert world.clock() - started < 13
    world.settle()
    assert target.count == (0 if conflicts == 100 else 1)


def test_an_erased_key_that_is_used_again_has_no_copy_of_before(
    world: World, target: Receiver, once: Once
) -> None:
    """Between the read of an event and the transaction another event may take its id."""
    hook = Hook(world, target, event_types=["other"])
    bodies = [{"event_type": "a", "payload": {"n": number}} for number in range(2)]
    event = world.offer(bodies[0], idempotency_key="k").json

    def post_another() -> None:
        world.erase(event["event_id"])
        world.sleep(ERASED_SECONDS)
        world.offer(bodies[1], idempotency_key="k")
        world.sleep(-ERASED_SECONDS)

    once(world.dynamodb, "before-call.dynamodb.TransactWriteItems", post_another)
    hook.send(event)
    world.settle()

    assert [request.json()["payload"] for request in target.requests] == [{"n": 1}]


def test_a_send_that_another_one_overtakes_replays_its_copy(
    world: World, target: Receiver, once: Once
) -> None:
    event = world.post_later()
    hook = Hook(world, target)
    hook.send_during(once, event)
    for number in (1, 2):  # a delivered copy is replayed, too
        assert hook.send(event).status_code == 202
        world.empty_inbox()
        assert target.count == number
    assert len(world.event(event["event_id"])["copies"]) == 1


# How long events and copies are kept


def send_late(world: World, target: Receiver) -> Any:
    event = world.post_later()
    hook = Hook(world, target)
    world.sleep(29 * DAY_SECONDS)
    hook.send(event)
    return event


def replay_late(world: World, target: Receiver) -> Any:
    world.subscribe_later(target)
    world.sleep(10)
    event = world.post_later()
    world.sleep(29 * DAY_SECONDS)
    world.replay(event["copies"][0])
    return event


@pytest.mark.parametrize("act", [send_late, replay_late])
def test_a_copy_that_is_sent_or_replayed_late_does_not_outlive_its_event(
    world: World, target: Receiver, act: Callable[[World, Receiver], Any]
) -> None:
    world.restart(ZAPIER_WEBHOOK_URL="none")
    world.listed()  # reads for how long events are kept, too
    event = act(world, target)
    world.empty_inbox()
    world.sleep(15 * DAY_SECONDS)
    assert world.listed() == [event["event_id"]]
    [copy_id] = world.event(event["event_id"])["copies"]
    # TTL deletes what has expired.
    assert int(world.item(event["event_id"])["expires_at"]["N"]) > world.clock()

    erased = world.erase(event["event_id"])

    assert erased.status_code == 204
    assert world.call("GET", f"/events/{copy_id}").status_code == 404


@pytest.mark.parametrize("days", [0, 28])
def test_nothing_ends_earlier_once_the_retention_period_was_lowered(
    world: World, target: Receiver, days: int
) -> None:
    target.default = 422
    event = Hook(world, target).post().event
    world.sleep(1)
    later = Hook(world, target, path="&later")
    world.restart(EVENT_RETENTION_DAYS="7")
    world.sleep(60 + days * DAY_SECONDS)

    def ends() -> dict[str, int]:
        return {
            item["event_id"]["S"]: int(item["expires_at"]["N"])
            for item in world.items()
            if "expires_at" in item
        }

    before = ends()
    event_ids = (event["copies"][0], event["event_id"])
    replays = [partial(world.replay, event_id) for event_id in event_ids]
    for act in (partial(later.send, event), *replays):
        assert act().status_code == 202
        world.empty_inbox()
        after = ends()
        assert [event_id for event_id, end in before.items() if after[event_id] < end] == []
        assert max(after.values()) == after[event["event_id"]]
        before = after


def test_an_event_that_changes_while_its_copy_is_replayed_is_kept_as_long_as_that(
    world: World, target: Receiver, during: During
) -> None:
    world.restart(ZAPIER_WEBHOOK_URL="none")
    world.subscribe_later(target)
    world.sleep(10)
    event = world.post_later()
    world.sleep(29 * DAY_SECONDS)
    others = iter([world.acknowledge])

    def acknowledge_meanwhile(**_: object) -> None:
        for act in others:
            act(event["event_id"])

    during(world.dynamodb, "before-call.dynamodb.UpdateItem", acknowledge_meanwhile)
    world.replay(event["copies"][0])
    world.sleep(15 * DAY_SECONDS)
    assert world.event(event["event_id"])["status"] == "delivered"


def test_an_event_that_is_kept_longer_stays_listed_after_its_next_attempt(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    receiver.default = 503
    world.listed()  # reads for how long events are kept, too
    event = world.post_later()
    hook = Hook(world, target)
    world.clock.sleep(2 * DAY_SECONDS)
    hook.send(event)
    world.empty_inbox()
    assert len(world.event(event["event_id"])["attempts"]) > 1

    world.clock.sleep(29 * DAY_SECONDS)

    assert world.listed("/inbox") == [event["event_id"]]


def test_a_redrive_that_replays_nothing_keeps_no_event_longer(world: World, hook: Hook) -> None:
    hook.post(422).replay()
    world.empty_inbox()
    world.clock.sleep(DAY_SECONDS)
    kept = [item.get("expires_at") for item in world.items()]

    world.move_back()
    world.empty_inbox()

    assert [item.get("expires_at") for item in world.items()] == kept
