"""Subscriptions that fail, are disabled, paused or suspended, and are enabled again."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count

import pytest

from chalicelib import deps as services
from chalicelib.infra.times import rfc3339
from tests.conftest import During, Output
from tests.support.aws_calls import Aws, Fault
from tests.support.receiver import (
    Exchange,
    Receiver,
    is_signed,
    status,
)
from tests.support.subscribing import (
    copies,
    id_of_new,
    make_token,
    post_for,
    states,
    subscribe,
    subscribed,
    subscriptions,
)
from tests.support.world import START, Json, World, assert_has


@pytest.fixture
def world(world: World) -> World:
    world.restart(SUBSCRIPTION_DISABLE_DAYS="1")
    return world


HOUR = 3600

DISABLED = "not pushed: the subscription is disabled"


def state(world: World) -> tuple[str | None, str | None]:
    [subscription] = subscriptions(world)
    return subscription["failing_since"], subscription["disabled_at"]


# Failing, disabled, enabled


Pushes = list[tuple[int, int]]  # the hour of each, and the status code

CASES: list[tuple[Pushes, int | None, bool]] = [
    ([(0, 200)], None, False),
    ([(0, 422), (12, 200)], None, False),
    ([(0, 422), (23, 422)], 0, False),
    ([(0, 422), (24, 422)], 0, True),
    ([(0, 422), (20, 422), (43, 422)], 0, True),
    ([(0, 422), (12, 200), (13, 422), (25, 422)], 13, False),
    # One that delivered none of its newest five:
    ([(0, 200), (1, 422), *((hour, 422) for hour in range(25, 28))], 1, False),
    ([(0, 200), (1, 422), *((hour, 422) for hour in range(25, 29))], 1, True),
]


@pytest.mark.parametrize("pushes, since, is_disabled", CASES)
def test_what_is_dead_for_so_long_is_disabled(
    world: World,
    target: Receiver,
    output: Output,
    pushes: Pushes,
    since: int | None,
    is_disabled: bool,
) -> None:
    made = subscribed(world, target)
    for hours, code in pushes:
        world.clock.now = START + hours * HOUR
        target.default = code
        world.post()

    failing_since = None if since is None else rfc3339(START + since * HOUR)
    assert state(world) == (failing_since, rfc3339(world.clock()) if is_disabled else None)
    lines = output.lines()
    disabled = [line["subscription_id"] for line in lines if "SubscriptionsDisabled" in line]
    assert disabled == [made.rpartition("/")[2]] * is_disabled
    assert sum("CopyFailure" in line for line in lines) == [code for _, code in pushes].count(422)
    assert not any("DeliveryFailure" in line for line in lines)
    copy_id = world.post()["copies"][0]
    world.empty_inbox()
    assert (world.event(copy_id)["last_error"] == DISABLED) == is_disabled


@pytest.mark.parametrize("cap_seconds", ["7200", "0.5"])  # with the latter, the worker waits
def test_a_target_is_failing_from_the_tenth_failed_attempt_until_it_works(
    world: World, target: Receiver, cap_seconds: str
) -> None:
    world.restart(BACKOFF_CAP_SECONDS=cap_seconds)
    subscribe(world, target)
    target.default = 503
    [copy_id] = world.post()["copies"]

    def attempts(count: int) -> list[Json]:
        """Let time pass until there were so many attempts of the copy; return them."""
        while len(made := world.event(copy_id)["attempts"]) < count:
            assert state(world) == (None, None)
            world.sleep(10)
            world.sweep()
            world.empty_inbox()
        return list(made)

    tenth = attempts(10)[9]
    assert (state(world)[0] or "") >= tenth["at"]
    target.script(200)
    world.post()  # at once: this container knows that the target is failing
    attempts(11)
    assert state(world) == (None, None)


# What a container knows of subscriptions


def path(world: World) -> str:
    return f"/subscriptions/{subscriptions(world)[0]['subscription_id']}"


def delete(world: World, target: Receiver) -> None:
    world.call("DELETE", path(world))


def post_and_count_copies(world: World) -> int:
    return len(world.post()["copies"])


def test_a_container_that_changes_a_subscription_knows_it_at_once(
    world: World, target: Receiver, aws: Aws
) -> None:
    assert post_and_count_copies(world) == 0
    subscribe(world, target)
    assert post_and_count_copies(world) == 1
    delete(world, target)
    assert post_and_count_copies(world) == 0
    subscribe(world, target)
    target.script(410)
    assert [post_and_count_copies(world) for _ in range(2)] == [1, 0]
    aws.fail("PutItem", fault=Fault.LOST)
    assert subscribe(world, target).status_code == 503
    aws.heal()
    assert post_and_count_copies(world) == 1
    world.call("PATCH", path(world), {"event_types": ["other"]})
    assert post_and_count_copies(world) == 0


def test_a_list_read_while_a_subscription_was_stored_is_dropped(
    world: World, target: Receiver, during: During
) -> None:
    counts: list[int] = []

    def post_meanwhile(params: Json, **_: object) -> None:
        if params["Item"]["event_id"]["S"].startswith("sub_"):
            counts.append(post_and_count_copies(world))

    during(world.dynamodb, "before-parameter-build.dynamodb.PutItem", post_meanwhile)
    subscribe(world, target)

    assert [*counts, post_and_count_copies(world)] == [0, 1]


# Copies of the disabled


def test_a_target_that_works_again_is_recorded_once(
    world: World, target: Receiver, aws: Aws
) -> None:
    subscribe(world, target)
    target.script(422)
    world.post()

    writes = [aws.during(world.post).count("UpdateItem") for _ in range(3)]

    assert writes == [3, 2, 2]
    assert state(world) == (None, None)


def disable(world: World, target: Receiver) -> None:
    """Let pushes to a new subscription fail for a day."""
    subscribe(world, target)
    while not state(world)[1]:
        target.script(422)
        world.post()
        world.sleep(24 * HOUR)


def enable(world: World, target: Receiver) -> None:
    world.call("POST", f"{path(world)}/enable")


def test_what_the_disabled_miss_is_failed_quietly(
    world: World, target: Receiver, output: Output
) -> None:
    subscribe(world, target)
    target.script(503)
    pending = {
        world.post(prefer=prefer)["copies"][0]: attempts
        for prefer, attempts in (("", 1), ("respond-async", 0))
    }
    disable(world, target)
    letters = len(world.dead_letters())
    output.lines()

    new = world.post()["copies"][0]
    assert world.event(new)["status"] == "pending"
    world.settle()

    missed = {**pending, new: 0}
    for copy_id, attempts in missed.items():
        copy = world.event(copy_id)
        assert_has(
            copy,
            status="failed",
            delivery_attempts=attempts,
            last_error=DISABLED,
            next_attempt_at=None,
        )
        assert "disabled" in copy["message"]
    assert target.count == 3
    assert len(world.dead_letters()) == letters
    assert not any(
        {"CopyFailure", "DeliveryFailure"} & metrics.keys() for metrics in output.metrics()
    )
    enable(world, target)
    for copy_id in missed:
        assert world.replay(copy_id).status_code == 202
    world.empty_inbox()
    assert {world.event(copy_id)["status"] for copy_id in missed} == {"delivered"}


@pytest.mark.parametrize("why", ["gone", "disabled"])
def test_a_copy_without_its_target_is_neither_replayed_nor_redriven(
    world: World, target: Receiver, why: str
) -> None:
    subscribe(world, target)
    delivered = world.post()["copies"][0]
    world.sleep(1)
    disable(world, target)
    failed = json.loads(world.dead_letters()[-1]["body"])["event_id"]
    if why == "gone":
        delete(world, target)
    before = [world.event(copy_id) for copy_id in (delivered, failed)]

    for copy_id in (delivered, failed):
        refused = world.replay(copy_id)
        assert refused.problem == (409, f"subscription_{why}")
        assert "retry-after" not in refused.headers
    world.move_back()
    world.empty_inbox()

    assert [world.event(copy_id) for copy_id in (delivered, failed)] == before
    assert (target.count, world.messages(), world.dead_letters()) == (6, [], [])


def recreate(world: World, target: Receiver) -> None:
    delete(world, target)
    world.sleep(1)
    subscribe(world, target)


def fail_anew(world: World, target: Receiver) -> None:
    """Let another container deliver a copy, and a second later fail with one."""
    services.use(replace(world.services))
    target.script(200, 422)
    for _ in range(2):
        world.post()
        world.sleep(1)
    services.use(world.services)


def disable_by_another_container(world: World, target: Receiver) -> None:
    world.sleep(1)
    services.use(replace(world.services))  # with a list of its own
    target.script(422)
    world.post()
    services.use(world.services)


@pytest.mark.parametrize(
    "code, at, meanwhile",
    [
        *((code, 1, meanwhile) for code in (200, 422, 410) for meanwhile in (recreate, delete)),
        (200, 1, fail_anew),
        *(
            (422, 2, meanwhile)
            for meanwhile in (recreate, delete, enable, disable_by_another_container)
        ),
    ],
)
def test_what_happens_before_the_first_or_second_write_after_a_push_stands(
    world: World,
    target: Receiver,
    during: During,
    output: Output,
    code: int,
    at: int,
    meanwhile: Callable[..., None],
) -> None:
    subscribe(world, target)
    target.script(422, 422, code)
    for _ in range(2):
        world.post()
        world.sleep(12 * HOUR)
    numbers = count(1)
    after = []

    def act(params: Json, **_: object) -> None:
        if params["Key"]["event_id"]["S"].startswith("sub_") and next(numbers) == at:
            meanwhile(world, target)
            after.append(subscriptions(world))

    for operation in ("UpdateItem", "DeleteItem"):
        during(world.dynamodb, f"before-parameter-build.dynamodb.{operation}", act)
    world.post()

    assert [subscriptions(world)] == after
    warnings = output.lines(message="subscription disabled")
    assert len(warnings) == sum(row["disabled_at"] is not None for row in subscriptions(world))


@pytest.mark.parametrize("at, change", [(2, "failing"), (5, "disabled")])
def test_a_change_is_told_once_if_a_response_is_lost(
    world: World, target: Receiver, aws: Aws, output: Output, at: int, change: str
) -> None:
    # The record of a webhook's push would come before or after this write.
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    aws.fail("UpdateItem", at=at, fault=Fault.REPEATED)  # that sets it

    disable(world, target)

    [line] = output.lines(message=f"subscription {change}")
    assert line[f"Subscriptions{change.capitalize()}"] == 1


@pytest.mark.parametrize(
    "code, outcome", [(200, "delivered"), (503, "retry"), (422, "failed"), (410, "failed")]
)
def test_a_test_push_changes_nothing_but_that_a_delivery_is_noted(
    world: World, target: Receiver, aws: Aws, code: int, outcome: str
) -> None:
    disable(world, target)  # it works for a disabled one, too
    before = subscriptions(world)
    test = f"{path(world)}/test"
    target.script(status(code, body=b"hello"))
    calls = len(aws.calls)

    answer = world.call("POST", test)

    noted = ["PutItem"] if code == 200 else []
    assert aws.calls[calls:] == ["GetItem", *noted]
    assert subscriptions(world) == before
    attempt = answer.json
    assert attempt["matches"] is None
    assert_has(
        attempt, outcome=outcome, status_code=code, response=None if code == 200 else "hello"
    )
    push = target.requests[-1].json()
    payload = {"subscription_id": before[0]["subscription_id"]}
    assert_has(push, event_type="test", payload=payload, tenant=None, source_event_id=None)
    assert push["event_id"].startswith("cpy_")
    again = subscribe(world, target)  # which enables it
    assert is_signed(target.requests[-1], again.json["secret"])
    # no breaker has opened
    assert states(world, world.post()) == ["delivered"]


# 410


def test_410_ends_a_subscription_without_a_dead_letter(
    world: World, target: Receiver, output: Output
) -> None:
    target.script(503, 410)
    subscription_id = id_of_new(world, target)
    retried = world.post()
    refused = world.post()
    lines = [line for line in output.lines() if line.get("level") == "WARNING"]

    assert [line["subscription_id"] for line in lines] == [subscription_id]
    assert subscriptions(world) == []
    world.sleep(1)
    world.run_worker()  # the other copy is deleted when its turn comes
    for event in (retried, refused):
        assert world.call("GET", f"/events/{event['copies'][0]}").status_code == 404
    assert (target.count, world.messages(), world.dead_letters()) == (2, [], [])


def test_410_disables_the_subscription_of_a_tenant(
    world: World, target: Receiver, output: Output
) -> None:
    path = subscribed(world, target, tenant="a")
    target.script(410)
    output.lines()
    [copy] = copies(world, post_for(world, "a"))
    lines = output.lines()
    disabled = world.get(path)

    assert_has(copy, status="failed", last_error="receiver responded 410")
    assert "its subscription was disabled" in copy["message"]
    [warning] = [line for line in lines if line["level"] == "WARNING"]
    assert_has(warning, message="subscription disabled", SubscriptionsDisabled=1)
    assert not any("CopyFailure" in line for line in lines)
    assert world.dead_letters() == []
    at = copy["attempts"][0]["at"]
    assert_has(disabled, disabled_at=at, failing_since=None, last_error="receiver responded 410")
    enabled = {**disabled, "state": "active", "disabled_at": None, "last_error": None}
    assert world.call("POST", f"{path}/enable").json == enabled
    assert world.replay(copy["event_id"]).status_code == 202


def test_of_two_410s_at_once_one_disables_the_subscription(
    world: World, target: Receiver, output: Output
) -> None:
    path = subscribed(world, target, tenant="a")
    events = []

    def disable_meanwhile(exchange: Exchange) -> None:
        services.use(replace(world.services))
        events.append(post_for(world, "a"))
        world.sleep(1)
        services.use(world.services)
        status(410)(exchange)

    target.script(disable_meanwhile, 410)
    events.append(post_for(world, "a"))
    world.settle()

    assert [states(world, event) for event in events] == [["failed"]] * 2
    assert target.count == 2
    assert world.dead_letters() == []
    assert world.get(path)["disabled_at"]
    assert len(output.lines(message="subscription disabled")) == 1


@pytest.mark.parametrize("tenant", [None, "a"])
def test_410_if_edited_meanwhile_is_ignored(
    world: World, target: Receiver, listener: Receiver, tenant: str | None
) -> None:
    path = subscribed(world, target, tenant=tenant)

    def edit(exchange: Exchange) -> None:
        world.call("PATCH", path, {"target_url": listener.url})
        status(410)(exchange)

    target.script(edit)
    event = post_for(world, tenant)
    [pending] = copies(world, event)
    before = world.get(path)
    world.settle()

    assert pending["next_attempt_at"] == rfc3339(START + 1)
    assert states(world, event) == ["delivered"]
    assert world.get(path) == before
    assert before["disabled_at"] is None
    assert target.count == 1
    assert listener.count == 1


def test_the_last_error_is_that_of_the_latest_push_that_was_made(
    world: World, target: Receiver
) -> None:
    path = subscribed(world, target)
    subscriptions = world.services.subscriptions
    told = []
    for code in (422, 200, 415):
        target.script(code)
        world.post()
        told.append(world.get(path)["last_error"])
    [failing] = subscriptions.of_tenant(None)
    world.sleep(3 * 86_400)
    assert subscriptions.disable(
        failing, None, "attribute_exists(failing_since)"
    )  # of the copy, no attempt that was made is known any more

    assert told == ["receiver responded 422", None, "receiver responded 415"]
    assert world.get(path)["last_error"] == "receiver responded 415"


# Paused and suspended


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
    assert_has(copy, status="failed", last_error=DISABLED)
    assert target.requests == []
    assert not any("SubscriptionsDisabled" in metrics for metrics in output.metrics())
    assert_has(world.call("POST", f"{path}/enable").json, disabled_at=None, last_error=None)
    assert states(world, post_for(world, "a")) == ["delivered"]
    target.script(410)  # disables it, too
    post_for(world, "a")
    assert world.get(path)["disabled_at"]
    assert subscribe(world, target, tenant="a").json["disabled_at"] is None


def test_a_paused_subscription_is_told_from_one_that_was_disabled(
    world: World, target: Receiver
) -> None:
    target.default = status(410)
    paths = [subscribed(world, f"{target.url}{number}", tenant="a") for number in range(3)]
    world.call("POST", f"{paths[1]}/disable")
    post_for(world, "a")
    world.call("POST", f"{paths[0]}/enable")

    def listed(state: str) -> list[str]:
        rows = world.get(f"/subscriptions?tenant=a&state={state}")["subscriptions"]
        return sorted(row["state"] for row in rows)

    assert [world.get(path)["state"] for path in paths] == ["active", "paused", "disabled"]
    assert listed("paused") == ["paused"]
    assert listed("disabled") == ["disabled", "paused"]


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


def test_a_tenant_named_none_does_not_rest_with_subscriptions_without_one(
    world: World, target: Receiver
) -> None:
    for tenant in ("None", None):
        subscribe(world, target, tenant=tenant)
    listed = [*world.services.subscriptions.of_tenant("None")]
    listed += world.services.subscriptions.of_tenant(None)
    assert len({world.services.targets.of(known).owner for known in listed}) == 2
