"""Subscriptions that fail, are disabled, paused or suspended, and are enabled again."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from chalicelib import deps as services
from chalicelib.infra.times import rfc3339
from tests.conftest import During, Output
from tests.support.aws_calls import Aws, Fault
from tests.support.hooks import Copy, Hook
from tests.support.receiver import Exchange, Receiver, status
from tests.support.world import START, Json, World, assert_has

HOUR = 3600
DISABLED = "not pushed: the subscription is disabled"


@pytest.fixture
def world(world: World) -> World:
    world.restart(SUBSCRIPTION_DISABLE_DAYS="1")
    return world


# Failing, disabled, enabled


Pushes = list[tuple[int, int]]  # the hour of each, and the status code

CASES: list[tuple[Pushes, int | None, bool]] = [
    ([(0, 200)], None, False),
    ([(0, 422), (12, 200)], None, False),
    ([(0, 422), (23, 422)], 0, False),
    ([(0, 422), (24, 422)], 0, True),
    ([(0, 422), (20, 422), (43, 422)], 0, True),
    # One that delivered one of the last day's newest five is not failing:
    ([(0, 200), (1, 422), (2, 200), (3, 422), (26, 422)], None, False),
    ([(0, 200), (24, 422)], None, False),
    ([(0, 200), (25, 422)], 25, False),
    ([(0, 200), *((hour, 422) for hour in range(1, 5))], None, False),
    ([(0, 200), *((hour, 422) for hour in range(1, 6))], 5, False),
    # And one that delivered one of its newest five is not disabled:
    ([(0, 200), *((hour, 422) for hour in (25, 46, 47, 49))], 25, False),
    ([(0, 200), *((hour, 422) for hour in (25, 46, 47, 48, 49))], 25, True),
]


@pytest.mark.parametrize("pushes, failing_hour, is_disabled", CASES)
def test_what_is_dead_for_so_long_is_disabled(
    hook: Hook, pushes: Pushes, failing_hour: int | None, is_disabled: bool
) -> None:
    clock = hook.world.clock
    for hour, code in pushes:
        clock.now = START + hour * HOUR
        hook.post(code)

    failing_since = None if failing_hour is None else rfc3339(START + failing_hour * HOUR)
    disabled_at = rfc3339(clock()) if is_disabled else None
    assert hook.state == (failing_since, disabled_at)


@pytest.mark.parametrize("cap_seconds", ["7200", "0.5"])  # with the latter, the worker waits
def test_a_target_is_failing_from_the_tenth_failed_attempt_until_it_works(
    world: World, hook: Hook, cap_seconds: str
) -> None:
    world.restart(BACKOFF_CAP_SECONDS=cap_seconds)
    hook.post()  # what was delivered before tells nothing
    world.sleep(1)
    hook.target.default = 503
    copy = hook.post()

    def try_until(attempts: int) -> None:
        """Let time pass until there were so many attempts of the copy."""
        while len(copy.now["attempts"]) < attempts:
            assert hook.state == (None, None)
            copy.retry()

    try_until(10)
    assert hook.state[0]
    assert hook.state[0] >= copy.now["attempts"][9]["at"]
    hook.post(200)  # at once: this container knows that the target is failing
    try_until(11)
    assert hook.state == (None, None)


def test_copies_that_wait_do_not_tell_that_a_target_fails(hook: Hook, aws: Aws) -> None:
    hook.post()
    for _ in range(30):
        hook.world.sleep(1)
        hook.post(prefer="respond-async")

    calls = aws.during(lambda: hook.post(422))

    assert calls.count("Query") == 2
    assert hook.state == (None, None)


@pytest.mark.parametrize("operation", ["Query", "UpdateItem"])
def test_a_later_attempt_makes_up_for_a_tenth_one_that_could_not_be_noted(
    world: World, hook: Hook, aws: Aws, during: During, operation: str
) -> None:
    hook.target.default = 503
    copy = hook.post()
    failed: list[int] = []

    def fail_once(params: Json, **_: object) -> None:
        is_of_hook = hook.id in str(params.get("Key", params.get("ExpressionAttributeValues")))
        if is_of_hook and not failed:
            failed.append(len(copy.now["attempts"]))
            aws.fail(operation, at=1)

    during(world.dynamodb, f"before-parameter-build.dynamodb.{operation}", fail_once)
    while not hook.state[0]:
        copy.retry()

    assert (failed, len(copy.now["attempts"])) == ([10], 11)


def test_a_target_that_is_made_again_stays_failing_until_it_works(hook: Hook) -> None:
    hook.post(422)
    failing = hook.state

    hook.make()

    assert failing[0]
    assert hook.state == failing
    hook.enable()
    assert hook.state == (None, None)


# What a container knows of subscriptions


def test_a_container_that_changes_a_subscription_knows_it_at_once(hook: Hook, aws: Aws) -> None:
    assert hook.offer()
    hook.edit(event_types=["other"])
    assert not hook.offer()
    hook.edit(event_types=None)
    assert hook.offer(410)
    assert not hook.offer()
    hook.make()
    assert hook.offer()
    hook.delete()
    assert not hook.offer()
    aws.fail("PutItem", fault=Fault.LOST)
    assert hook.make().status_code == 503
    aws.heal()
    assert hook.offer()


def test_a_list_read_while_a_subscription_was_stored_is_dropped(hook: Hook, during: During) -> None:
    copies: list[list[Copy]] = []

    def post_meanwhile(params: Json, **_: object) -> None:
        if params["Item"]["event_id"]["S"].startswith("sub_"):
            copies.append(hook.offer())

    hook.delete()
    during(hook.world.dynamodb, "before-parameter-build.dynamodb.PutItem", post_meanwhile)
    hook.make()

    assert copies == [[]]
    assert hook.offer()


def test_a_target_that_works_again_is_recorded_once(hook: Hook, aws: Aws) -> None:
    hook.post(422)

    writes = [aws.during(hook.post).count("UpdateItem") for _ in range(3)]

    assert writes == [3, 2, 2]
    assert hook.state == (None, None)


# Copies of the disabled


def test_what_the_disabled_miss_is_failed_quietly(world: World, hook: Hook, output: Output) -> None:
    attempts = {hook.post(503): 1, hook.post(prefer="respond-async"): 0}
    hook.die()
    letters = world.dead_letters()
    output.lines()

    new = hook.post()
    assert new.status == "pending"
    world.settle()

    attempts[new] = 0
    for copy, made in attempts.items():
        copy.has(status="failed", delivery_attempts=made, last_error=DISABLED, next_attempt_at=None)
        assert "disabled" in copy.now["message"]
    assert world.dead_letters() == letters
    names = {name for metrics in output.metrics() for name in metrics}
    assert names.isdisjoint({"CopyFailure", "DeliveryFailure"})
    hook.enable()
    for copy in attempts:
        copy.replay()
    world.empty_inbox()
    assert {copy.status for copy in attempts} == {"delivered"}


@pytest.mark.parametrize("why", ["gone", "disabled"])
def test_a_copy_without_its_target_is_neither_replayed_nor_redriven(
    world: World, hook: Hook, why: str
) -> None:
    delivered = hook.post()
    world.sleep(1)
    failed = hook.die()
    if why == "gone":
        hook.delete()
    before = [delivered.now, failed.now]

    for copy in (delivered, failed):
        refused = copy.replay()
        assert refused.problem == (409, f"subscription_{why}")
        assert "retry-after" not in refused.headers
    world.move_back()
    world.empty_inbox()

    assert [delivered.now, failed.now] == before
    assert (world.messages(), world.dead_letters()) == ([], [])


def post_elsewhere(hook: Hook, *codes: int) -> None:
    """Let another container, with a list of its own, post to it so often."""
    services.use(replace(hook.world.services))
    for code in codes:
        hook.offer(code)
        hook.world.sleep(1)
    services.use(hook.world.services)


def fail_anew(hook: Hook) -> None:
    post_elsewhere(hook, 200, *[422] * 5)


def fail_by_another_container(hook: Hook) -> None:
    hook.world.sleep(1)
    post_elsewhere(hook, 422)


@pytest.mark.parametrize(
    "before, code, meanwhile",
    [
        *((2, code, do) for code in (200, 422, 410) for do in (Hook.recreate, Hook.delete)),
        (2, 200, fail_anew),
        *((2, 422, do) for do in (Hook.enable, fail_by_another_container)),  # which disables it
        *((0, 422, do) for do in (Hook.recreate, Hook.delete, fail_by_another_container)),
    ],
)
def test_what_happens_before_the_first_write_after_a_push_stands(
    hook: Hook,
    during: During,
    output: Output,
    before: int,
    code: int,
    meanwhile: Callable[[Hook], object],
) -> None:
    world = hook.world
    for _ in range(before):
        hook.post(422)
        world.sleep(12 * HOUR)
    waiting = [meanwhile]
    after = []

    def act(params: Json, **_: object) -> None:
        if params["Key"]["event_id"]["S"].startswith("sub_") and waiting:
            waiting.pop()(hook)
            after.append(world.subscriptions())

    for operation in ("UpdateItem", "DeleteItem"):
        during(world.dynamodb, f"before-parameter-build.dynamodb.{operation}", act)
    hook.offer(code)

    assert [world.subscriptions()] == after
    warnings = output.lines(message="subscription disabled")
    assert len(warnings) == sum(row["disabled_at"] is not None for row in world.subscriptions())


@pytest.mark.parametrize("at, change", [(2, "failing"), (5, "disabled")])
def test_a_change_is_told_once_if_a_response_is_lost(
    world: World, target: Receiver, aws: Aws, output: Output, at: int, change: str
) -> None:
    # The record of a webhook's push would come before or after this write.
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    aws.fail("UpdateItem", at=at, fault=Fault.REPEATED)  # that sets it

    Hook(world, target).die()

    [line] = output.lines(message=f"subscription {change}")
    assert line[f"Subscriptions{change.capitalize()}"] == 1


@pytest.mark.parametrize(
    "code, outcome", [(200, "delivered"), (503, "retry"), (422, "failed"), (410, "failed")]
)
def test_a_test_push_of_a_disabled_webhook_changes_nothing(
    hook: Hook, aws: Aws, code: int, outcome: str
) -> None:
    hook.die()
    before = hook.now
    hook.target.script(status(code, body=b"hello"))
    calls = len(aws.calls)

    attempt = hook.call("test").json

    assert aws.calls[calls:] == ["GetItem"]
    assert hook.now == before
    response = None if code == 200 else "hello"
    assert_has(attempt, outcome=outcome, status_code=code, response=response, matches=None)
    payload = {"subscription_id": hook.id}
    pushed = hook.target.requests[-1].json()
    assert_has(pushed, event_type="test", payload=payload, tenant=None, source_event_id=None)


# 410


def test_410_ends_a_subscription_without_a_dead_letter(
    world: World, hook: Hook, output: Output
) -> None:
    copies = [hook.post(503), hook.post(410)]
    warnings = output.lines(level="WARNING")
    assert [line["subscription_id"] for line in warnings] == [hook.id]
    assert world.subscriptions() == []
    world.sleep(1)
    world.run_worker()  # the other copy is deleted when its turn comes

    assert output.lines(message="message dropped: its event expired or was deleted") == []
    assert [world.call("GET", f"/events/{copy.id}").status_code for copy in copies] == [404] * 2
    assert (hook.target.count, world.messages(), world.dead_letters()) == (2, [], [])


def test_410_disables_the_subscription_of_a_tenant(
    world: World, customer: Hook, output: Output
) -> None:
    output.lines()
    copy = customer.post(410)
    disabled = customer.now

    error = "receiver responded 410"
    copy.has(status="failed", last_error=error)
    [warning] = output.lines(level="WARNING")
    assert_has(warning, message="subscription disabled", SubscriptionsDisabled=1)
    assert world.dead_letters() == []
    disabled_at = copy.now["attempts"][0]["at"]
    assert_has(disabled, disabled_at=disabled_at, failing_since=None, last_error=error)
    enabled = {**disabled, "state": "active", "disabled_at": None, "last_error": None}
    assert customer.enable().json == enabled
    assert copy.replay().status_code == 202


def test_of_two_410s_at_once_one_disables_the_subscription(
    world: World, customer: Hook, output: Output
) -> None:
    copies = []

    def disable_meanwhile(exchange: Exchange) -> None:
        services.use(replace(world.services))
        copies.append(customer.post())
        world.sleep(1)
        services.use(world.services)
        status(410)(exchange)

    copies.append(customer.post(disable_meanwhile, 410))
    world.settle()

    assert [copy.status for copy in copies] == ["failed"] * 2
    assert customer.target.count == 2
    assert world.dead_letters() == []
    assert customer.state[1]
    assert len(output.lines(message="subscription disabled")) == 1


@pytest.mark.parametrize("tenant", [None, "a"])
def test_410_if_edited_meanwhile_is_ignored(
    world: World, target: Receiver, listener: Receiver, tenant: str | None
) -> None:
    hook = Hook(world, target, tenant=tenant)

    def edit(exchange: Exchange) -> None:
        hook.edit(target_url=listener.url)
        status(410)(exchange)

    copy = hook.post(edit)
    pending, before = copy.now, hook.now
    world.settle()

    assert pending["next_attempt_at"] == rfc3339(START + 1)
    assert copy.status == "delivered"
    assert hook.now == before
    assert before["disabled_at"] is None
    assert (target.count, listener.count) == (1, 1)


def test_the_last_error_is_that_of_the_latest_push_that_was_made(world: World, hook: Hook) -> None:
    told = []
    for code in (422, 200, 415):
        world.sleep(25 * HOUR)
        hook.post(code)
        told.append(hook.now["last_error"])
    known = world.services.subscriptions
    [failing] = known.of_tenant(None)
    world.sleep(3 * 86_400)
    # of the copy, no attempt that was made is known any more
    assert known.disable(failing, None)

    assert told == ["receiver responded 422", None, "receiver responded 415"]
    assert hook.now["last_error"] == "receiver responded 415"


# Paused and suspended


def test_a_paused_subscription_waits_until_it_is_enabled(
    world: World, customer: Hook, output: Output
) -> None:
    paused = {"disabled_at": rfc3339(world.clock()), "last_error": "disabled by hand"}
    shown = customer.call("disable").json

    assert_has(shown, **paused)
    world.sleep(10)
    assert customer.call("disable").json == shown
    assert_has(customer.make().json, **paused)
    copy = customer.post()
    world.empty_inbox()
    copy.has(status="failed", last_error=DISABLED)
    assert customer.target.requests == []
    assert not any("SubscriptionsDisabled" in metrics for metrics in output.metrics())
    assert_has(customer.enable().json, disabled_at=None, last_error=None)
    assert customer.post().status == "delivered"
    customer.post(410)  # disables it, too
    assert customer.state[1]
    assert customer.make().json["disabled_at"] is None


def test_a_paused_subscription_is_told_from_one_that_was_disabled(
    world: World, customer: Hook, target: Receiver
) -> None:
    customer.post(410)
    paused = Hook(world, target, path="&paused", tenant="a")
    paused.call("disable")

    assert [hook.now["state"] for hook in (customer, paused)] == ["disabled", "paused"]
    for wanted, expected in (("paused", {"paused"}), ("disabled", {"disabled", "paused"})):
        listed = world.get(f"/subscriptions?tenant=a&state={wanted}")["subscriptions"]
        assert {row["state"] for row in listed} == expected


def test_a_suspended_tenant_s_token_is_refused(world: World, customer: Hook) -> None:
    tokens = [world.make_token(tenant) for tenant in "ab"]
    world.restart(SUSPENDED_TENANTS="x, a")

    suspended, other = tokens
    for path in ("/me", customer.path):
        assert world.call("GET", path, key=suspended).problem == (403, "suspended")
    assert world.call("GET", "/me", key=suspended[:-1]).status_code == 401
    assert world.call("GET", "/me", key=other).status_code == 200


def test_a_suspended_tenant_gets_nothing_and_has_everything_back_afterwards(
    world: World, customer: Hook, target: Receiver
) -> None:
    operators = Hook(world, target)
    before = customer.now
    world.restart(SUSPENDED_TENANTS="a")

    copies = {copy.now["subscription_id"]: copy for copy in customer.offer()}
    world.empty_inbox()
    kept = copies[customer.id]
    kept.has(status="failed", last_error="not pushed: the tenant is suspended")
    assert copies[operators.id].status == "delivered"
    assert target.count == 1
    assert world.dead_letters() == []
    assert customer.now == before
    for refused in (kept.replay(), customer.send(kept.event), customer.recover()):
        assert refused.problem == (409, "suspended")

    world.restart(SUSPENDED_TENANTS="")
    assert customer.recover().json["replayed"] == 1
    world.empty_inbox()
    assert kept.status == "delivered"


def test_a_tenant_named_none_does_not_rest_with_subscriptions_without_one(
    world: World, target: Receiver
) -> None:
    for tenant in ("None", None):
        Hook(world, target, tenant=tenant)
    known = world.services.subscriptions
    listed = [*known.of_tenant("None"), *known.of_tenant(None)]
    assert len({world.services.targets.of(one).owner for one in listed}) == 2
