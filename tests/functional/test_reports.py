"""Reports: events about events and subscriptions, for the subscriptions that name them."""

from typing import Any

import pytest

from tests.conftest import Output
from tests.support.aws_calls import Aws
from tests.support.hooks import Hook
from tests.support.receiver import Receiver
from tests.support.world import Json, World, assert_has

DAY = 86_400


def reports(world: World, listener: Receiver) -> list[Json]:
    """Let the worker push what is queued; return the reports that arrived since the last time,
    without their ids.
    """
    world.empty_inbox()
    pushed = [request.json() for request in listener.requests]
    del listener.requests[:]
    assert all(push["event_type"].startswith("triggers.") for push in pushed)
    return [{name: push[name] for name in ("event_type", "tenant", "payload")} for push in pushed]


def all_reports(world: World) -> Any:
    return world.get("/events?event_type=triggers.*&source=original")["events"]


@pytest.mark.parametrize("is_copy", [False, True])
@pytest.mark.parametrize("code, reason", [(422, "permanent"), (503, "exhausted")])
def test_a_dead_letter_is_reported_with_its_failure_in_the_form_of_the_subscription(
    world: World,
    receiver: Receiver,
    hook: Hook,
    listener: Receiver,
    is_copy: bool,
    code: int,
    reason: str,
) -> None:
    world.restart(MAX_DELIVERY_ATTEMPTS="1")
    for body in (None, "payload"):
        world.subscribe(f"{listener.url}&{body}", "triggers.event.failed", body=body)
    (hook.target if is_copy else receiver).default = code

    copy = hook.post()
    event_id = copy.event["event_id"]
    failed = copy.now if is_copy else world.event(event_id)

    assert listener.requests == []  # the worker pushes them
    world.run_worker()
    whole, payload = sorted(listener.requests, key=lambda request: request.path)
    push = whole.json()
    members = "event_id event_type subscription_id source_event_id delivery_attempts created_at"
    expected = {name: failed[name] for name in members.split()}
    expected |= {"reason": reason, "failed_at": failed["attempts"][-1]["at"]}
    expected |= {"last_error": f"receiver responded {code}", "last_status_code": code}
    assert payload.json() == expected
    assert_has(
        push, payload=expected, event_type="triggers.event.failed", tenant=None, metadata=None
    )
    assert "webhook-signature" in whole.headers
    [report] = all_reports(world)
    assert_has(report, event_id=push["source_event_id"], delivered_via="subscriptions")
    assert world.listed() == world.call("POST", "/inbox/lease").event_ids == [event_id][is_copy:]
    assert {request.json()["event_id"] for request in receiver.requests} == {event_id}


def test_only_a_subscription_that_names_a_report_gets_it_and_else_nothing_is_stored(
    world: World, receiver: Receiver, target: Receiver, listener: Receiver, aws: Aws
) -> None:
    receiver.default = 422
    for entries in (["triggers.subscription.*"], ["*"], ["trigger*"], ["triggers*"], []):
        world.subscribe(target, *entries)

    calls = aws.during(world.post)
    for entries in (["triggers.*"], ["a", "triggers.event.*"], ["triggers.event.failed"]):
        world.subscribe(listener, *entries)
    event = world.post(event_type="triggers")  # no report

    assert calls.count("PutItem") == 1 + 2  # copies
    about = [report["payload"]["event_id"] for report in reports(world, listener)]
    assert about == [event["event_id"]] * 3
    pushed = {request.json()["event_type"] for request in target.requests}
    assert pushed == {"order.created", "triggers"}


@pytest.mark.parametrize("tenant", ["a", None])
def test_a_report_about_a_copy_has_the_tenant_of_its_subscription_others_have_none(
    world: World, receiver: Receiver, target: Receiver, listener: Receiver, tenant: str | None
) -> None:
    world.subscribe(target, "order.created", tenant=tenant)
    for whose in ("a", "b", None):
        world.subscribe(f"{listener.url}&{whose}", "triggers.event.*", tenant=whose)

    def told(*answers: int) -> set[tuple[str, str | None]]:
        del listener.requests[:]
        target.script(*answers)
        world.post_for("a")
        world.empty_inbox()
        return {
            (request.path.rpartition("&")[2], request.json()["tenant"])
            for request in listener.requests
        }

    assert told(422) == {("None", tenant), (f"{tenant}", tenant)}
    receiver.script(422)
    assert told() == {("None", None)}


def test_failing_disabled_and_ended_are_told_each_time_once(
    world: World, target: Receiver, listener: Receiver
) -> None:
    world.restart(SUBSCRIPTION_DISABLE_DAYS="1")
    world.subscribe(listener, "triggers.subscription.*")
    hook = Hook(world, target, name="CRM", tenant="a")

    def assert_told(what: str, member: str) -> None:
        assert hook.now[member]
        event_type = f"triggers.subscription.{what}"
        report = {"event_type": event_type, "tenant": "a", "payload": hook.now}
        assert reports(world, listener) == [report]

    target.default = 503
    hook.post()
    assert reports(world, listener) == []
    while target.count < 10:
        world.sleep(300)
        world.empty_inbox()
    assert_told("failing", "failing_since")
    target.default = 422
    hook.post()
    assert reports(world, listener) == []  # as before
    hook.post(200)
    world.sleep(DAY + 1)
    hook.post()
    assert_told("failing", "failing_since")
    world.sleep(DAY)
    for _ in range(4):  # and one before: none of the newest five was delivered
        hook.post()
    assert_told("disabled", "disabled_at")
    hook.enable()
    world.sleep(1)
    hook.post(410)
    assert_told("disabled", "disabled_at")
    Hook(world, target).post(410)
    [ended] = reports(world, listener)
    assert_has(ended, event_type="triggers.subscription.ended", tenant=None)
    assert len(all_reports(world)) == 5


@pytest.mark.parametrize("code", [422, 410])
def test_nothing_that_a_report_causes_is_reported(
    world: World, receiver: Receiver, listener: Receiver, target: Receiver, code: int
) -> None:
    world.restart(SUBSCRIPTION_DISABLE_DAYS="0")
    world.subscribe(listener, "triggers.*", tenant="a")
    world.subscribe(target, "triggers.*")
    listener.default = receiver.default = target.default = code

    for _ in range(3):
        world.post()
        world.empty_inbox()

    assert {report["event_type"] for report in all_reports(world)} == {"triggers.event.failed"}


@pytest.mark.parametrize("operation, at", [("PutItem", 2), ("PutItem", 3), ("SendMessageBatch", 1)])
def test_a_report_that_cannot_be_stored_or_queued_costs_one_warning(
    world: World,
    receiver: Receiver,
    listener: Receiver,
    aws: Aws,
    output: Output,
    operation: str,
    at: int,
) -> None:
    world.subscribe(listener, "triggers.*")
    receiver.default = 422
    aws.fail(operation, at=at)
    output.lines()

    event = world.post()
    aws.heal()

    assert (event["status"], len(world.dead_letters()), aws.faults) == ("failed", 1, 1)
    assert len(all_reports(world)) == (operation == "SendMessageBatch")
    left = "report not posted" if operation == "PutItem" else "delivery left to the sweep"
    messages = [line["message"] for line in output.lines()]
    assert messages.count("dead letter") == messages.count(left) == 1


def test_a_report_is_not_replayed_but_its_copies_are(
    world: World, receiver: Receiver, listener: Receiver
) -> None:
    world.subscribe(listener, "triggers.*")
    receiver.script(422)
    world.post()
    world.empty_inbox()
    [report] = all_reports(world)

    assert world.replay(report["event_id"]).problem == (409, "not_pushed")
    assert world.replay(*report["copies"]).status_code == 202
    world.empty_inbox()

    assert receiver.count == 1
    assert listener.count == 2
