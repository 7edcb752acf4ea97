"""Recipients: who got an event or why not, and an event that is sent to one."""

import json
import zlib
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from chalicelib.core.store import ERASED_SECONDS
from chalicelib.infra.times import DAY_SECONDS
from tests.conftest import During, Once, Output
from tests.support.aws_calls import Aws, Fault
from tests.support.hooks import Hook
from tests.support.receiver import Exchange, Receiver, in_turn, status
from tests.support.world import UNKNOWN, Json, World, assert_has

TENANT = "customer-42"


# Recipients


def test_recipients_are_told_with_their_copies_or_why_they_have_none(
    world: World, target: Receiver
) -> None:
    def subscribe(name: str, *event_types: str, **members: Any) -> str:
        return world.subscribe_later(f"{target.url}&{name}", *event_types, name=name, **members)

    subscribe("got-it", "order.*", tenant=TENANT)
    subscribe("another", tenant="another")
    deleted = subscribe("deleted")
    gone = subscribe("gone")
    subscribe("types", "invoice.created", filter={"total": [8]})
    subscribe("filter", filter={"order": {"id": [1], "total": [5]}, "total": [7]})
    edited = subscribe("edited", "invoice.created", tenant=TENANT)
    event = world.post_later({"total": 7, "order": {"id": 1, "total": 80}}, tenant=TENANT)
    copy_ids = {copy["subscription_id"]: copy["event_id"] for copy in world.copies(event)}
    world.erase(copy_ids[deleted])
    world.call("DELETE", f"/subscriptions/{gone}")
    world.call("PATCH", f"/subscriptions/{edited}", '{"event_types": null}')
    subscribe("later", tenant=TENANT)

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
    have_copies = [row["subscription_id"] for row in found if row["copy"]]
    assert have_copies == [found[0]["subscription_id"], gone]
    assert_has(found[-1], state="gone", target_host=None)


def test_a_copy_is_told_as_it_is_now_and_its_subscription_too(world: World, hook: Hook) -> None:
    hook.target.default = 422
    event = world.post_later(subject="order-4711")
    [row] = world.recipients(event)

    assert_has(row, state="failing", target_host="127.0.0.1")
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
    world: World, customer: Hook
) -> None:
    copy = customer.post()

    assert world.recipients(world.post()) == []
    for no_event in (copy.id, UNKNOWN):
        assert world.call("GET", f"/events/{no_event}/recipients").status_code == 404


def test_a_subscription_that_no_list_has_yet_is_not_gone(
    world: World, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = hook.post()
    # An index that lags: moto has none.
    monkeypatch.setattr(world.services.subscriptions, "of_tenant", lambda tenant: ())
    [recipient] = world.recipients(copy.event)
    assert recipient["state"] == "active"


# Send


def test_a_sent_copy_has_its_events_content_and_nothing_of_the_operators_webhook(
    world: World, receiver: Receiver, target: Receiver, output: Output
) -> None:
    receiver.default = status(422, body=b"response-of-the-operator")
    event = world.post_later({"total": 80}, tenant=TENANT, subject="order-4711", metadata={"m": 1})
    # Neither its event types nor its filter count.
    hook = Hook(world, target, tenant=TENANT, event_types=["invoice.*"], filter={"total": [100]})
    world.sleep(20 * DAY_SECONDS)
    token = world.make_token(TENANT)

    sent = hook.send(event, key=token)
    world.empty_inbox()

    assert sent.status_code == 202
    assert (receiver.count, target.count) == (1, 1)
    assert output.metrics()[-1]["DeliveryLatency"] < 1000
    shown = world.call("GET", f"/events/{sent.new_id}", key=token)
    assert "response-of-the-operator" not in shown.text
    assert_has(shown.json, status="delivered", delivery_attempts=1, last_error=None)
    whole = world.event(event["event_id"])
    assert_has(whole, status="failed", copies=[sent.new_id])
    for name in ("event_type", "payload", "metadata", "tenant", "subject", "created_at"):
        assert shown.json[name] == whole[name], name


def test_a_copy_that_is_gone_is_made_again_and_listed_once(world: World, hook: Hook) -> None:
    copy = hook.post()
    world.erase(copy.id)

    assert hook.send(copy.event).status_code == 202

    world.empty_inbox()
    assert world.event(copy.event["event_id"])["copies"] == [copy.id]
    copy.has(status="delivered")
    assert hook.target.count == 2


def test_what_cannot_be_sent_is_refused(world: World, target: Receiver) -> None:
    event, *foreign = (world.post_later(tenant=tenant) for tenant in (TENANT, "another", None))
    hook = Hook(world, target, tenant=TENANT)
    for_all = Hook(world, target, path="&all")
    copy_id = for_all.send(event).json["event_id"]
    not_found = (404, "not_found")

    for no_event in (UNKNOWN, "evt_1", copy_id, hook.id):
        assert world.send_to(hook.id, no_event).problem == not_found
    for other in foreign:
        assert hook.send(other).problem == not_found
    assert world.send_to(f"sub_{'0' * 32}", event["event_id"]).problem == not_found
    assert for_all.send(event, key=world.make_token(TENANT)).problem == not_found
    for body in ("{}", '{"event_id": 1}', '{"event_id": "evt_1", "x": 1}'):
        assert world.call("POST", f"{hook.path}/send", body).status_code == 400
    world.restart(SUBSCRIPTION_HOSTS="hooks.zapier.com")
    for code in ("host_not_allowed", "subscription_disabled"):
        assert hook.send(event).problem == hook.recover().problem == (409, code)
        hook.call("disable")
    assert world.event(event["event_id"])["copies"] == [copy_id]


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
    copies = json.dumps([f"cpy_{number:032x}" for number in range(499)], separators=(",", ":"))
    world.change_item(event["event_id"], "SET copies = :copies", copies={"S": copies})
    first, second = (Hook(world, target, path=path) for path in ("&1", "&2"))

    assert first.send(event).status_code == 202
    assert second.send(event).problem == (409, "too_many_copies")
    assert first.send(event).status_code == 202
    assert_has(second.recover().json, examined=1, sent=0, next_cursor=None)
    assert len(world.recipients(event)) == 2


def test_a_copy_that_is_pushed_or_that_no_event_lists_is_not_sent(world: World, hook: Hook) -> None:
    answers = []

    def send_meanwhile(push: Exchange) -> None:
        answers.append(world.send_to(hook.id, push.request.json()["source_event_id"]))

    event = hook.post(in_turn(send_meanwhile, status(200))).event
    world.change_item(event["event_id"], "REMOVE copies")
    answers.append(hook.send(event))

    assert [answer.problem for answer in answers] == [(409, "event_claimed")] * 2
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert hook.recover().json["sent"] == 0


def test_a_lost_response_costs_no_copy(world: World, target: Receiver, aws: Aws) -> None:
    event = world.post_later()
    hook = Hook(world, target)
    aws.fail("TransactWriteItems", fault=Fault.REPEATED)

    assert hook.recover().json["sent"] == 1

    aws.heal()
    world.settle()
    assert len(world.event(event["event_id"])["copies"]) == target.count == 1


BEFORE_TRANSACTION = "before-call.dynamodb.TransactWriteItems"
CONFLICT = [{"Code": "None"}, {"Code": "TransactionConflict"}]


@pytest.mark.parametrize(
    "times, reasons, code", [(3, CONFLICT, 202), (100, CONFLICT, 503), (100, [], 503)]
)
def test_a_transaction_that_meets_another_is_tried_again_while_there_is_time(
    world: World, target: Receiver, during: During, times: int, reasons: list[Json], code: int
) -> None:
    event = world.post_later()
    hook = Hook(world, target)
    error = {"Code": "TransactionCanceledException", "Message": "put in by a test"}
    canceled = {"Error": error, "CancellationReasons": reasons, "ResponseMetadata": {}}
    responses = iter([(SimpleNamespace(status_code=400), canceled)] * times)
    during(world.dynamodb, BEFORE_TRANSACTION, lambda **_: next(responses, None))
    started = world.clock()

    assert hook.send(event).status_code == code

    assert world.clock() - started < 29  # API Gateway waits no longer
    world.settle()
    assert target.count == (1 if code == 202 else 0)


def test_an_erased_key_that_is_used_again_has_no_copy_of_before(
    world: World, target: Receiver, once: Once
) -> None:
    """Between the read of an event and the transaction another event may take its id."""
    hook = Hook(world, target, event_types=["other"])
    event = world.post({"n": 1}, idempotency_key="k")

    def post_another() -> None:
        world.erase(event["event_id"])
        world.sleep(ERASED_SECONDS)
        world.post({"n": 2}, idempotency_key="k")
        world.sleep(-ERASED_SECONDS)

    once(world.dynamodb, BEFORE_TRANSACTION, post_another)
    hook.send(event)
    world.settle()

    assert [request.json()["payload"] for request in target.requests] == [{"n": 2}]


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


def ends(world: World) -> dict[str, int]:
    """Return when each event and copy expires, in Unix seconds, by its id."""
    expiring = [item for item in world.items() if "expires_at" in item]
    return {item["event_id"]["S"]: int(item["expires_at"]["N"]) for item in expiring}


def send_late(world: World, target: Receiver) -> Any:
    event = world.post_later()
    hook = Hook(world, target)
    world.sleep(29 * DAY_SECONDS)
    hook.send(event)
    return event


def replay_late(world: World, target: Receiver) -> Any:
    copy = Hook(world, target).post()
    world.sleep(29 * DAY_SECONDS)
    copy.replay()
    return copy.event


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
    [copy] = world.copies(world.event(event["event_id"]))
    assert copy["status"] == "delivered"
    # TTL deletes what has expired.
    assert ends(world)[event["event_id"]] > world.clock()

    erased = world.erase(event["event_id"])

    assert erased.status_code == 204
    assert world.call("GET", f"/events/{copy['event_id']}").status_code == 404


@pytest.mark.parametrize("days", [0, 28])
def test_nothing_ends_earlier_once_the_retention_period_was_lowered(
    world: World, hook: Hook, days: int
) -> None:
    hook.target.default = 422
    copy = hook.post()
    world.sleep(1)
    later = Hook(world, hook.target, path="&later")
    world.restart(EVENT_RETENTION_DAYS="7")
    world.sleep(60 + days * DAY_SECONDS)

    event_id = copy.event["event_id"]
    for act in (partial(later.send, copy.event), copy.replay, partial(world.replay, event_id)):
        before = ends(world)
        assert act().status_code == 202
        world.empty_inbox()
        after = ends(world)
        assert [each for each in before if after[each] < before[each]] == []
        assert max(after.values()) == after[event_id]


def test_an_event_that_changes_while_its_copy_is_replayed_is_kept_as_long_as_that(
    world: World, hook: Hook, once: Once
) -> None:
    world.restart(ZAPIER_WEBHOOK_URL="none")
    copy = hook.post()
    event_id = copy.event["event_id"]
    world.sleep(29 * DAY_SECONDS)

    def acknowledge_meanwhile() -> None:
        world.acknowledge(event_id)

    once(world.dynamodb, "before-call.dynamodb.UpdateItem", acknowledge_meanwhile)
    copy.replay()

    world.sleep(15 * DAY_SECONDS)
    assert world.event(event_id)["status"] == "delivered"


def test_an_event_that_is_kept_longer_stays_listed_after_its_next_attempt(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    receiver.default = 503
    world.listed()  # reads for how long events are kept, too
    event = world.post_later()
    hook = Hook(world, target)
    world.sleep(2 * DAY_SECONDS)
    hook.send(event)
    world.empty_inbox()
    assert world.event(event["event_id"])["delivery_attempts"] > 1

    world.sleep(29 * DAY_SECONDS)

    assert world.listed() == [event["event_id"]]


def test_a_redrive_that_replays_nothing_keeps_no_event_longer(world: World, hook: Hook) -> None:
    hook.post(422).replay()
    world.empty_inbox()
    world.sleep(DAY_SECONDS)
    kept = ends(world)

    world.move_back()
    world.empty_inbox()

    assert ends(world) == kept
