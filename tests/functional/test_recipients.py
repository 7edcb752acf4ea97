"""Who got an event, and how it gets to who did not: recipients, send and recover."""

import json
import zlib
from typing import Any

import pytest

import app
from chalicelib.infra.times import DAY_SECONDS, rfc3339
from chalicelib.operations.settled import ERASED_SECONDS
from tests.conftest import During
from tests.support.aws_calls import Aws, Fault
from tests.support.receiver import Receiver, status
from tests.support.subscribing import copies, listed, make_token, subscribe
from tests.support.world import KEY, UNKNOWN, Answer, Json, World, assert_has, digest

TENANT = "customer-42"
MARKED = "response-of-the-operator"


@pytest.fixture
def world(world: World) -> World:
    keys = f"acme:{digest(KEY)}:produce+consume+erase,{world.environ['API_KEYS'].partition(',')[2]}"
    world.restart(API_KEYS=keys, WEBHOOK_SIGNING_SECRETS=f"whsec_{'a' * 32}")
    return world


def subscribed(world: World, url: str, *event_types: str, **members: Any) -> str:
    """Subscribe a target a second later; return the id, when every container knows."""
    world.clock.sleep(1)
    return subscribe(world, url, *event_types, key=KEY, **members).location.rpartition("/")[2]


def post(world: World, payload: Any = None, **members: Any) -> Any:
    body = {"event_type": "order.created", "payload": payload or {}, **members}
    event = world.call("POST", "/events", body).json
    world.clock.sleep(1)
    return event


def recipients(world: World, event: Json) -> Any:
    return world.get(f"/events/{event['event_id']}/recipients")["recipients"]


def send(world: World, subscription_id: str, event_id: Any, *, key: str = KEY) -> Answer:
    path = f"/subscriptions/{subscription_id}/send"
    return world.call("POST", path, {"event_id": event_id}, key=key)


def recover(world: World, subscription_id: str, *, key: str = KEY, **members: Any) -> Answer:
    body = {"since": rfc3339(0), **members}
    path = f"/subscriptions/{subscription_id}/recover"
    return world.call("POST", path, body, key=key)


def test_a_copy_that_is_sent_late_does_not_outlive_its_event(
    world: World, target: Receiver
) -> None:
    event = post(world)
    subscription_id = subscribed(world, target.url)
    world.clock.sleep(29 * DAY_SECONDS)
    copy = send(world, subscription_id, event["event_id"]).json
    world.empty_inbox()
    world.clock.sleep(15 * DAY_SECONDS)
    # TTL deletes what has expired.
    is_there = "attribute_exists(event_id) AND expires_at > :now"
    world.dynamodb.update_item(
        TableName="triggers-api-dev-events",
        Key={"event_id": {"S": event["event_id"]}},
        UpdateExpression="SET seen = :now",
        ConditionExpression=is_there,
        ExpressionAttributeValues={":now": {"N": str(int(world.clock()))}},
    )

    erased = world.call("DELETE", f"/events/{event['event_id']}", key=KEY)

    assert erased.status_code == 204
    assert world.call("GET", f"/events/{copy['event_id']}").status_code == 404


# Recipients


def test_recipients_are_told_with_their_copies_or_why_they_have_none(
    world: World, target: Receiver
) -> None:
    def at(name: str, *event_types: str, **members: Any) -> str:
        return subscribed(world, f"{target.url}&{name}", *event_types, name=name, **members)

    at("got-it", "order.*", tenant=TENANT)
    at("another", tenant="another")
    deleted = at("deleted")
    gone = at("gone")
    at("types", "invoice.created", filter={"total": [8]})
    at("filter", filter={"order": {"id": [1], "total": [5]}, "total": [7]})
    edited = at("edited", "invoice.created", tenant=TENANT)
    world.clock.sleep(10)
    event = post(world, {"total": 7, "order": {"id": 1, "total": 80}}, tenant=TENANT)
    by_subscription = {copy["subscription_id"]: copy for copy in copies(world, event)}
    world.call("DELETE", f"/events/{by_subscription[deleted]['event_id']}")
    world.call("DELETE", f"/subscriptions/{gone}")
    world.call("PATCH", f"/subscriptions/{edited}", '{"event_types": null}')
    at("later", tenant=TENANT)

    found = recipients(world, event)

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


def test_a_copy_is_told_as_it_is_now_and_its_subscription_too(
    world: World, target: Receiver
) -> None:
    target.default = 422
    subscribed(world, target.url)
    world.clock.sleep(10)
    event = post(world, subject="order-4711")
    [row] = recipients(world, event)

    assert row["state"] == "failing"
    assert_has(row["copy"], status="failed", subject="order-4711")
    assert "payload" not in row["copy"]
    world.restart(SUBSCRIPTION_HOSTS="hooks.zapier.com")
    world.call("DELETE", f"/events/{row['copy']['event_id']}")
    assert recipients(world, event)[0]["reason"] == "deleted"
    [other] = recipients(world, post(world))
    assert_has(other, copy=None, reason="host")


def change_item(world: World, event: Json, update: str, **values: Any) -> None:
    """Change the item of an event, as no call does."""
    given = {"ExpressionAttributeValues": {f":{name}": value for name, value in values.items()}}
    world.outside_dynamodb.update_item(
        TableName=world.environ["EVENTS_TABLE_NAME"],
        Key={"event_id": {"S": event["event_id"]}},
        UpdateExpression=update,
        **(given if values else {}),
    )


def test_a_payload_that_is_nested_too_deep_for_a_filter_has_no_member_to_tell(
    world: World, target: Receiver
) -> None:
    event = post(world)
    nested = f"{'[' * 20_000}{']' * 20_000}"
    content = zlib.compress(f'{{"a":{nested}}}\nnull'.encode())
    change_item(world, event, "SET content = :content", content={"B": content})
    subscription_id = subscribed(world, target.url, filter={"a": [1]})

    [row] = recipients(world, event)

    assert_has(row, reason="filter", member=None)
    assert recover(world, subscription_id).json["sent"] == 0


def test_an_event_without_recipients_has_none_and_a_copy_is_no_event(
    world: World, target: Receiver
) -> None:
    subscribed(world, target.url, tenant=TENANT)
    [copy_id] = post(world, tenant=TENANT)["copies"]

    assert recipients(world, post(world)) == []
    assert world.call("GET", f"/events/{copy_id}/recipients").status_code == 404
    assert world.call("GET", f"/events/{UNKNOWN}/recipients").status_code == 404


# Send


def test_a_sent_copy_has_the_content_of_its_event_and_nothing_of_the_operators_webhook(
    world: World, receiver: Receiver, target: Receiver
) -> None:
    receiver.default = status(422, body=MARKED.encode())
    event = post(world, {"total": 80}, tenant=TENANT, subject="order-4711", metadata={"m": 1})
    subscription_id = subscribed(
        world, target.url, "invoice.*", tenant=TENANT, filter={"total": [100]}
    )
    world.clock.sleep(20 * DAY_SECONDS)
    token = make_token(world, TENANT)

    answer = send(world, subscription_id, event["event_id"], key=token)

    assert answer.status_code == 202
    copy_id = answer.json["event_id"]
    assert answer.headers["location"] == f"../../events/{copy_id}"
    assert world.event(event["event_id"])["copies"] == [copy_id]
    pushes = len(receiver.requests)
    world.empty_inbox()
    shown = world.call("GET", f"/events/{copy_id}", key=token)
    assert MARKED not in shown.text
    assert "receiver responded" not in shown.text
    copy = shown.json
    assert (copy["status"], copy["delivery_attempts"], len(copy["attempts"])) == ("delivered", 1, 1)
    whole = world.event(event["event_id"])
    for name in ("event_type", "payload", "metadata", "tenant", "subject", "created_at"):
        assert copy[name] == whole[name], name
    assert whole["status"] == "failed"
    assert len(receiver.requests) == pushes
    assert len(target.requests) == 1
    world.clock.sleep(15 * DAY_SECONDS)  # the event has expired, the copy is kept as a replayed one
    assert world.event(copy_id)["status"] == "delivered"
    assert listed(world, f"/events?subscription_id={subscription_id}") == [copy_id]


def test_what_is_sent_again_is_replayed(world: World, target: Receiver) -> None:
    event = post(world)
    subscription_id = subscribed(world, target.url)
    copy_ids = []
    for _ in range(2):
        copy_ids.append(send(world, subscription_id, event["event_id"]).json["event_id"])
        world.empty_inbox()

    assert len(set(copy_ids)) == 1
    assert world.event(event["event_id"])["copies"] == copy_ids[:1]
    assert len(target.requests) == 2


def test_a_copy_that_is_gone_is_made_again_and_listed_once(world: World, target: Receiver) -> None:
    subscription_id = subscribed(world, target.url)
    world.clock.sleep(10)
    event = post(world)
    world.call("DELETE", f"/events/{event['copies'][0]}")
    world.run_schedule(app.sweep)

    assert send(world, subscription_id, event["event_id"]).status_code == 202

    world.empty_inbox()
    assert world.event(event["event_id"])["copies"] == event["copies"]
    assert world.event(event["copies"][0])["status"] == "delivered"
    assert len(target.requests) == 2


def test_what_cannot_be_sent_is_refused(world: World, target: Receiver, aws: Aws) -> None:
    event = post(world, tenant=TENANT)
    foreign = post(world, tenant="another")
    subscription_id = subscribed(world, target.url, tenant=TENANT)
    for_all = subscribed(world, f"{target.url}&all")
    token = make_token(world, TENANT)
    copy_id = send(world, for_all, event["event_id"]).json["event_id"]

    def refused(event_id: str, subscription_id: str = subscription_id) -> tuple[int, str]:
        return send(world, subscription_id, event_id).problem

    not_found = (404, "not_found")
    assert refused(UNKNOWN) == refused("evt_1") == refused(copy_id) == not_found
    assert refused(foreign["event_id"]) == refused(post(world)["event_id"]) == not_found
    assert refused(event["event_id"], f"sub_{'0' * 32}") == not_found
    assert send(world, for_all, event["event_id"], key=token).problem == not_found
    for body in ("{}", '{"event_id": 1}', '{"event_id": "evt_1", "x": 1}'):
        assert world.call("POST", f"/subscriptions/{for_all}/send", body).status_code == 400
    calls = aws.during(lambda: refused("evt_1"))
    assert calls == ["GetItem"]  # of the subscription
    world.restart(SUBSCRIPTION_HOSTS="hooks.zapier.com")
    assert refused(event["event_id"]) == (409, "host_not_allowed")
    assert recover(world, subscription_id).problem == (409, "host_not_allowed")
    assert len(world.event(event["event_id"])["copies"]) == 1


def test_nothing_is_sent_to_a_disabled_subscription(world: World, target: Receiver) -> None:
    subscription_id = subscribed(world, target.url)
    event = post(world)
    world.call("POST", f"/subscriptions/{subscription_id}/disable")

    answers = [send(world, subscription_id, event["event_id"])]
    answers += [recover(world, subscription_id, only_count=given) for given in (True, False)]

    assert [answer.problem for answer in answers] == [(409, "subscription_disabled")] * 3


def test_a_report_is_not_sent(world: World, receiver: Receiver, target: Receiver) -> None:
    receiver.default = 422
    subscribed(world, target.url, "triggers.*")
    other = subscribed(world, f"{target.url}&other", "a", "triggers.*")
    world.clock.sleep(10)
    post(world)
    [report] = world.get("/events?event_type=triggers.*&source=original")["events"]

    assert send(world, other, report["event_id"]).problem == (409, "not_pushed")
    assert recover(world, other).json["sent"] == 0
    assert {row["reason"] for row in recipients(world, report)} == {None}


def test_an_event_lists_at_most_500_copies(world: World, target: Receiver) -> None:
    event = post(world)
    listed = [f"cpy_{number:032x}" for number in range(499)]
    copies = json.dumps(listed, separators=(",", ":"))
    change_item(world, event, "SET copies = :copies", copies={"S": copies})
    first, second = (subscribed(world, f"{target.url}&{number}") for number in range(2))

    assert send(world, first, event["event_id"]).status_code == 202
    assert send(world, second, event["event_id"]).problem == (409, "too_many_copies")
    assert send(world, first, event["event_id"]).status_code == 202
    assert recover(world, second).json == {"examined": 1, "sent": 0, "next_cursor": None}
    assert len(recipients(world, event)) == 2


def test_a_copy_that_is_pushed_or_that_no_event_lists_is_not_sent(
    world: World, target: Receiver
) -> None:
    answers = []

    def claimed(push: Any) -> None:
        answers.append(send(world, subscription_id, push.request.json()["source_event_id"]))
        status(200)(push)

    target.script(claimed)
    subscription_id = subscribed(world, target.url)
    world.clock.sleep(10)
    event = post(world)
    change_item(world, event, "REMOVE copies")
    answers.append(send(world, subscription_id, event["event_id"]))

    assert [answer.problem for answer in answers] == [(409, "event_claimed")] * 2
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert recover(world, subscription_id).json["sent"] == 0


@pytest.mark.parametrize("fault", [Fault.REPEATED, Fault.LOST])
def test_a_lost_response_costs_no_copy(
    world: World, target: Receiver, aws: Aws, fault: Fault
) -> None:
    event = post(world)
    subscription_id = subscribed(world, target.url)
    aws.fail(fault, "TransactWriteItems")
    answer = recover(world, subscription_id)
    aws.heal()

    expected = (200, 1) if fault is Fault.REPEATED else (503, None)
    assert (answer.status_code, answer.json.get("sent")) == expected
    assert recover(world, subscription_id).json["sent"] == 0
    world.settle()
    assert len(world.event(event["event_id"])["copies"]) == len(target.requests) == 1


@pytest.mark.parametrize("conflicts", [1, 3, 100])
def test_a_transaction_that_meets_another_is_tried_again_while_there_is_time(
    world: World, target: Receiver, during: During, conflicts: int
) -> None:
    event = post(world)
    subscription_id = subscribed(world, target.url)
    left = [conflicts]

    def conflict(**_: object) -> Any:
        left[0] -= 1
        if left[0] < 0:
            return None
        reasons = [{"Code": "None"}, {"Code": "TransactionConflict"}]
        canceled = {"Code": "TransactionCanceledException", "Message": "put in by a test"}
        parsed = {"Error": canceled, "CancellationReasons": reasons}
        return type("Response", (), {"status_code": 400}), {"ResponseMetadata": {}, **parsed}

    during(world.dynamodb, "before-call.dynamodb.TransactWriteItems", conflict)
    started = world.clock()
    answer = send(world, subscription_id, event["event_id"])

    assert answer.status_code == (503 if conflicts == 100 else 202)
    assert world.clock() - started < 13
    world.settle()
    assert len(target.requests) == (0 if conflicts == 100 else 1)


# Recover


def test_what_a_subscription_missed_is_recovered_once(world: World, target: Receiver) -> None:
    world.clock.sleep(10)
    missed = [post(world, {"total": total}, tenant=TENANT) for total in (100, 80, 100)]
    post(world, {"total": 100}, tenant="another")
    post(world, {"total": 100}, tenant=TENANT, event_type="invoice.created")
    subscription_id = subscribed(
        world, target.url, "order.*", tenant=TENANT, filter={"total": [100]}
    )
    world.clock.sleep(10)
    post(world, {"total": 100}, tenant=TENANT)  # is not missed
    token = make_token(world, TENANT)

    counted = recover(world, subscription_id, key=token, only_count=True)
    assert counted.json == {"examined": 5, "sent": 2, "next_cursor": None}
    assert len(target.requests) == 1
    assert recover(world, subscription_id, key=token).json == counted.json
    world.settle()

    received = [request.json()["source_event_id"] for request in target.requests[1:]]
    assert sorted(received) == sorted([missed[0]["event_id"], missed[2]["event_id"]])
    assert recover(world, subscription_id).json == {"examined": 5, "sent": 0, "next_cursor": None}
    for_all = subscribed(world, f"{target.url}&all")
    assert recover(world, for_all, only_count=True).json["sent"] == 6


def test_a_period_is_recovered_in_pages_the_oldest_first(world: World, target: Receiver) -> None:
    events = [post(world) for _ in range(103)]
    subscription_id = subscribed(world, target.url)
    since, until = (events[number]["created_at"] for number in (1, 4))

    assert recover(world, subscription_id, since=since, until=until).json["sent"] == 3
    first = recover(world, subscription_id).json
    assert_has(first, examined=100, sent=97)
    last = recover(world, subscription_id, cursor=first["next_cursor"]).json
    assert last == {"examined": 3, "sent": 3, "next_cursor": None}


def test_a_recovery_ends_in_time_and_goes_on_where_it_ended(
    world: World, target: Receiver, during: During
) -> None:
    for _ in range(20):
        post(world)
    subscription_id = subscribed(world, target.url)

    def slow(**_: object) -> None:
        world.clock.sleep(1)

    during(world.dynamodb, "before-call.dynamodb.TransactWriteItems", slow)
    answers: list[Any] = []
    cursor = None
    while not answers or cursor:
        answers.append(recover(world, subscription_id, cursor=cursor).json)
        cursor = answers[-1]["next_cursor"]

    assert [answer["examined"] for answer in answers] == [16, 4]
    assert sum(answer["sent"] for answer in answers) == 20


def test_a_request_to_recover_is_validated(world: World, target: Receiver) -> None:
    path = f"/subscriptions/{subscribed(world, target.url)}/recover"
    for body, faults in (
        ('{"only_count": 1, "limit": 1}', ["limit", "only_count", "since"]),
        ('{"since": "2h", "until": "now", "cursor": "x"}', ["cursor", "since", "until"]),
    ):
        answer = world.call("POST", path, body)
        assert answer.status_code == 400
        assert answer.faults == faults
    nulls = '{"since": "2026-11-01T00:00:00Z", "until": null, "cursor": null, "only_count": null}'
    assert world.call("POST", path, nulls).json["examined"] == 0
    assert recover(world, f"sub_{'0' * 32}").status_code == 404


def test_an_erased_key_that_is_used_again_has_no_copy_of_before(
    world: World, target: Receiver, during: During
) -> None:
    """Between the read of an event and the transaction another event may take its id."""
    subscription_id = subscribed(world, target.url, "other")
    world.clock.sleep(10)
    bodies = [{"event_type": "a", "payload": {"n": number}} for number in range(2)]
    event = world.call("POST", "/events", bodies[0], idempotency_key="k").json
    once = [True]

    def post_another(**_: object) -> None:
        if once.pop() if once else False:
            world.call("DELETE", f"/events/{event['event_id']}")
            world.clock.sleep(ERASED_SECONDS)
            world.call("POST", "/events", bodies[1], idempotency_key="k")
            world.clock.sleep(-ERASED_SECONDS)

    during(world.dynamodb, "before-call.dynamodb.TransactWriteItems", post_another)
    send(world, subscription_id, event["event_id"])
    world.settle()

    assert [request.json()["payload"] for request in target.requests] == [{"n": 1}]
