"""Catch-up: what waits for a destination that delivers again is pushed within minutes."""

import threading
from collections.abc import Callable

import pytest
from botocore.exceptions import EndpointConnectionError

from chalicelib.core.outcome import BREAKER_OPEN, Outcome, PushResult
from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.subscriptions import catch_up
from tests.conftest import During, Once
from tests.support.hooks import Copy, Hook
from tests.support.receiver import Answers, Receiver, status
from tests.support.world import Json, World

Bounds = Callable[..., None]

WAIT = status(503, headers={"retry-after": "3000"})
WEBHOOK = "webhook"


def pass_minutes(world: World, minutes: int = 1) -> None:
    """Let time pass, with a sweep in each minute."""
    for _ in range(minutes):
        world.sweep()
        for _ in range(60):
            world.empty_inbox()
            world.sleep(1)


def marks(world: World) -> list[str]:
    """Return the destinations of the catch-ups that are under way."""
    return [mark.destination for mark in world.services.store.catch_ups()]


class Waiting(Hook):
    """A subscription for which copies wait, five unless `count` says otherwise."""

    def __init__(
        self, world: World, target: Receiver, *, count: int = 5, tenant: str | None = None
    ) -> None:
        target.default = WAIT
        world.sleep(1)
        super().__init__(world, target, tenant=tenant)
        world.sleep(10)
        self.copies: list[Copy] = []
        for _ in range(count):
            self.copies.append(self.post())
            world.sleep(1)
        world.sleep(61)

    @property
    def states(self) -> list[str]:
        return [copy.status for copy in self.copies]

    @property
    def is_catching_up(self) -> bool:
        return self.id in marks(self.world)

    def come_back(self, then: Answers = 200) -> bool:
        """Deliver a test event, which starts a catch-up; return whether the response says that one
        is under way.

        :param then: How the receiver responds after that.
        """
        self.target.default = 200
        attempt = self.call("test").json
        assert attempt["error"] is None
        self.target.default = then
        return bool(attempt["catches_up"])

    def end_trouble(self, then: Answers = 200) -> None:
        """Start a catch-up as the delivery does that ends long trouble.

        :param then: How the receiver responds after that.
        """
        self.world.services.store.start_catch_up(self.id)
        self.target.default = then

    def count_pushes(self) -> int:
        """Let a minute pass; return how many pushes came."""
        before = self.target.count
        pass_minutes(self.world)
        return self.target.count - before

    def open_breaker(self, seconds: int) -> None:
        """Let the worker's breaker refuse pushes to the subscription for so long."""
        services = self.world.services
        subscription = services.subscriptions.get(self.id)
        assert subscription
        destination = services.targets.of(subscription)
        now = self.world.clock()
        failure = PushResult(Outcome.RETRY)
        services.worker_breaker.record(destination, now - 25, now, failure, seconds)


@pytest.fixture
def hook(world: World, target: Receiver) -> Waiting:
    return Waiting(world, target)


@pytest.fixture
def copy(hook: Waiting) -> Copy:
    """The oldest copy that waits, which was attempted once."""
    return hook.copies[0]


@pytest.fixture
def another(world: World, target: Receiver, hook: Waiting) -> str:
    """Start a catch-up of another subscription, for which nothing waits; return its id."""
    made = world.subscribe_later(target, "another")
    world.services.store.start_catch_up(made)
    return made


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> Bounds:
    """Return a function that lowers bounds of a catch-up, which are constants: hundreds of events
    would take long.
    """

    def lower(**values: int) -> None:
        for name, value in values.items():
            monkeypatch.setattr(catch_up, name, value)

    return lower


# What starts a catch-up


def test_what_waits_is_pushed_once_a_test_event_was_delivered(hook: Waiting) -> None:
    hook.come_back()

    assert hook.count_pushes() == 5
    assert hook.states == ["delivered"] * 5
    hook.world.sweep()
    assert not hook.is_catching_up


def test_a_test_says_whether_a_catch_up_is_under_way(world: World, hook: Waiting) -> None:
    assert not hook.call("test").json["catches_up"]  # it is not delivered
    assert hook.come_back()
    assert hook.come_back()
    pass_minutes(world, 2)
    assert not hook.come_back()  # it has ended
    hook.end_trouble()
    assert hook.come_back()


def test_a_test_starts_no_catch_up_soon_after_another(world: World, hook: Waiting) -> None:
    hook.come_back()
    pass_minutes(world, 2)
    assert not hook.come_back()
    world.sleep(900)
    assert not hook.is_catching_up
    assert hook.come_back()


def test_a_test_of_a_webhook_that_is_paused_starts_no_catch_up(hook: Waiting) -> None:
    hook.call("disable")
    assert not hook.come_back()
    hook.enable()
    assert hook.come_back()


def test_both_a_test_and_a_delivery_end_long_trouble(world: World, hook: Waiting) -> None:
    world.change_item(hook.id, "SET failing_since = :now", now={"S": rfc3339(world.clock())})
    world.sleep(10)
    hook.come_back()
    hook.post()
    world.empty_inbox()
    assert marks(world) == [hook.id] * 2

    pass_minutes(world)
    assert hook.states == ["delivered"] * 5


def test_the_webhook_catches_up_once_an_event_arrives_that_failed_often(
    world: World, receiver: Receiver
) -> None:
    receiver.default = WAIT
    often = world.post()["event_id"]
    world.change_item(often, "SET delivery_attempts = :number", number={"N": "10"})
    world.sleep(2000)
    waiting = world.post()["event_id"]
    world.sleep(1100)  # until the first one is due
    receiver.default = 200

    pass_minutes(world, 2)

    assert [world.event(event_id)["status"] for event_id in (often, waiting)] == ["delivered"] * 2


# What is pushed


def test_nothing_is_pushed_that_was_dismissed(world: World, hook: Waiting) -> None:
    hook.edit(dismissed_until=hook.copies[2].event["created_at"])
    hook.come_back()
    pass_minutes(world)
    assert hook.states == ["pending"] * 3 + ["delivered"] * 2


PREVENTIONS: dict[str, Callable[[Waiting], object]] = {
    "paused": lambda hook: hook.call("disable"),
    "suspended": lambda hook: hook.world.restart(SUSPENDED_TENANTS="a"),
    "gone": lambda hook: hook.delete(),
    "host": lambda hook: hook.world.restart(SUBSCRIPTION_HOSTS="example.com"),
}


@pytest.mark.parametrize("prevent", PREVENTIONS.values(), ids=PREVENTIONS)
def test_nothing_is_pushed_where_nothing_may_be(
    world: World, target: Receiver, prevent: Callable[[Waiting], object]
) -> None:
    hook = Waiting(world, target, tenant="a")
    hook.come_back()
    prevent(hook)
    assert hook.count_pushes() == 0
    assert not hook.is_catching_up


def test_nothing_is_pushed_to_a_webhook_whose_url_was_taken_out(
    world: World, receiver: Receiver
) -> None:
    receiver.default = WAIT
    event_id = world.post()["event_id"]
    before = world.item(event_id)
    world.services.store.start_catch_up(WEBHOOK)
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    world.sweep()
    assert marks(world) == []
    assert world.item(event_id) == before


def test_what_a_consumer_leased_is_left_to_it(world: World, receiver: Receiver) -> None:
    receiver.default = WAIT
    event_id = world.post()["event_id"]
    world.sleep(1)
    [leased] = world.call("POST", "/inbox/lease").json["events"]
    world.services.store.start_catch_up(WEBHOOK)
    world.sweep()
    assert world.item(event_id)["claim_id"]["S"] == leased["lease_id"]


def test_what_waits_for_a_consumer_hides_nothing(
    world: World, receiver: Receiver, bounds: Bounds
) -> None:
    bounds(FIRST_EVENTS=2)
    receiver.default = WAIT
    for _ in range(4):
        world.change_item(world.post()["event_id"], "REMOVE next_attempt_at")
    world.sleep(1)  # what was created in one moment is read in the order of its ids
    event_id = world.post()["event_id"]
    world.sleep(1)
    receiver.default = 200
    world.services.store.start_catch_up(WEBHOOK)
    pass_minutes(world)
    assert world.event(event_id)["status"] == "delivered"


def test_dead_letters_are_not_read_and_hide_nothing(
    world: World, hook: Waiting, during: During
) -> None:
    hook.target.script(*[422] * 3)
    for copy in hook.copies[:3]:
        copy.replay()
        world.empty_inbox()
    found: list[str] = []

    def read_slowly(params: Json, **_: object) -> None:
        params["Limit"] = 2  # a page that ends early is read again from its last row on
        world.sleep(6)

    def see(parsed: Json, **_: object) -> None:
        found.extend(row["event_id"]["S"] for row in parsed["Items"])

    hook.come_back()
    during(world.dynamodb, "provide-client-params.dynamodb.Query", read_slowly)
    during(world.dynamodb, "after-call.dynamodb.Query", see)
    catch_up.catch_up(world.services, world.services.subscriptions)
    assert [row for row in found if row.startswith("cpy_")] == [hook.copies[3].id]
    pass_minutes(world)
    assert hook.states[3] == "delivered"


def test_an_event_of_the_moment_of_the_mark_catches_up(
    world: World, hook: Waiting, copy: Copy
) -> None:
    moment = world.item(copy.id)["sort_key"]["S"].split("#")[0]
    hook.end_trouble()
    world.change_item(f"mended#{hook.id}", "SET sort_key = :moment", moment={"S": moment})
    pass_minutes(world)
    assert copy.status == "delivered"


# How much is pushed in a minute


def test_each_minute_has_twice_as_many_and_a_sweep_that_was_missed_counts(
    world: World, target: Receiver, bounds: Bounds
) -> None:
    bounds(FIRST_EVENTS=2)
    hook = Waiting(world, target, count=15)
    hook.come_back()
    assert [hook.count_pushes(), hook.count_pushes()] == [2, 4]
    world.sleep(60)  # a sweep is missed
    assert hook.count_pushes() == 9


def test_of_more_destinations_than_a_minute_has_pushes_each_has_one(
    world: World, hook: Waiting, another: str, bounds: Bounds
) -> None:
    bounds(MAX_EVENTS=1)
    hook.come_back()
    assert hook.count_pushes() == 1
    assert marks(world) == [hook.id]
    world.sleep(20 * 3600)  # a mark lasts for a day
    world.sweep()


def test_what_one_destination_leaves_of_its_share_another_gets_in_the_same_minute(
    hook: Waiting, another: str, bounds: Bounds
) -> None:
    bounds(MAX_EVENTS=5)
    hook.come_back()
    assert hook.count_pushes() == 5


def is_search(destination: str, params: Json) -> bool:
    """Return whether a query looks for what waits for a destination."""
    return bool(params["ExpressionAttributeValues"].get(":partition") == {"S": destination})


def test_a_destination_whose_reads_fail_costs_no_other_its_minute(
    world: World, hook: Waiting, another: str, during: During, bounds: Bounds
) -> None:
    # The five events need more than half: they get the share of the other destination, too.
    bounds(MAX_EVENTS=6)
    hook.come_back()

    def fail(params: Json, **_: object) -> None:
        if is_search(another, params):
            raise EndpointConnectionError(endpoint_url="https://aws.test")

    during(world.dynamodb, "provide-client-params.dynamodb.Query", fail)
    with pytest.raises(StorageUnavailableError):
        world.sweep()
    world.sleep(60)
    world.empty_inbox()
    assert hook.states == ["delivered"] * 5
    assert another in marks(world)


def test_a_slow_search_delays_no_push_to_another_destination(
    world: World, hook: Waiting, another: str, during: During
) -> None:
    hook.come_back()
    queued = threading.Event()
    was_queued = []

    def search_slowly(params: Json, **_: object) -> None:
        if is_search(another, params):
            was_queued.append(queued.wait(timeout=20))

    def see_write(params: Json, **_: object) -> None:
        if params["Key"]["event_id"]["S"] == hook.copies[-1].id:
            queued.set()

    during(world.dynamodb, "provide-client-params.dynamodb.Query", search_slowly)
    during(world.dynamodb, "provide-client-params.dynamodb.UpdateItem", see_write)
    world.sweep()
    assert was_queued == [True]


# When a catch-up ends, and the next one starts


def test_a_catch_up_ends_once_half_of_what_a_minute_has_failed_again(
    world: World, target: Receiver, bounds: Bounds
) -> None:
    bounds(FIRST_EVENTS=4)
    hook = Waiting(world, target, count=10)
    hook.come_back(then=WAIT)
    assert [hook.count_pushes(), hook.count_pushes()] == [4, 0]
    assert not hook.is_catching_up


def test_one_that_fails_again_leaves_none_that_was_not_tried(
    world: World, hook: Waiting, bounds: Bounds
) -> None:
    bounds(FIRST_EVENTS=4)
    hook.come_back()
    hook.target.script(200, WAIT)
    pass_minutes(world, 2)
    assert sorted(hook.states) == ["delivered"] * 4 + ["pending"]


def test_what_was_posted_since_keeps_no_catch_up_from_ending(world: World, hook: Waiting) -> None:
    hook.come_back(then=WAIT)
    for _ in range(3):
        world.sleep(1)
        hook.post()
        pass_minutes(world)
    assert not hook.is_catching_up


def test_trouble_that_ends_soon_after_a_catch_up_has_one_a_quarter_of_an_hour_on(
    world: World, hook: Waiting
) -> None:
    hook.end_trouble(then=WAIT)
    pass_minutes(world, 2)
    hook.end_trouble()
    assert hook.count_pushes() == 0
    world.sleep(800)
    assert hook.count_pushes() == 5


def test_trouble_that_ends_while_a_catch_up_runs_has_another_one_after_it(
    world: World, hook: Waiting
) -> None:
    hook.end_trouble()
    world.sleep(300)
    later = hook.post(WAIT)
    world.sleep(300)
    hook.end_trouble()

    pass_minutes(world)
    assert [*hook.states, later.status] == ["delivered"] * 5 + ["pending"]
    pass_minutes(world, 2)
    assert later.status == "delivered"
    world.sweep()
    assert not hook.is_catching_up


def test_what_follows_after_a_test_starts_a_quarter_of_an_hour_after_it(
    world: World, hook: Waiting
) -> None:
    hook.come_back(then=WAIT)
    world.sleep(61)
    later = hook.post()
    world.sleep(1)
    hook.come_back()

    pass_minutes(world, 5)
    assert later.status == "pending"
    world.sleep(900)
    pass_minutes(world)
    assert later.status == "delivered"


def test_trouble_that_ends_while_its_catch_up_ends_has_another_one(
    world: World, once: Once
) -> None:
    store = world.services.store
    store.start_catch_up(WEBHOOK)
    [mark] = store.catch_ups()
    world.sleep(300)
    once(world.dynamodb, "before-call.dynamodb.UpdateItem", lambda: store.end_catch_up(mark))
    assert not store.start_catch_up(WEBHOOK)
    assert marks(world) == []
    world.sleep(600)
    assert marks(world) == [WEBHOOK]


def test_a_mark_is_not_ended_by_a_sweep_that_read_the_one_before(world: World) -> None:
    store = world.services.store
    store.start_catch_up(WEBHOOK)
    [mark] = store.catch_ups()
    store.end_catch_up(mark)
    store.start_catch_up(WEBHOOK)
    store.end_catch_up(mark)
    world.sleep(900)
    assert marks(world) == [WEBHOOK]


# Attempts of a catch-up


def wait_until_due(copy: Copy) -> None:
    """Let the next attempt be made, whose message the sweep sends."""
    copy.world.sleep(copy.due_at + 61 - copy.world.clock())
    pass_minutes(copy.world)


def test_a_catch_up_that_fails_costs_a_copy_nothing(
    world: World, hook: Waiting, copy: Copy
) -> None:
    before = copy.now
    for _ in range(2):
        hook.come_back(then=500)
        pass_minutes(world, 2)
        world.sleep(800)

    assert [attempt["status_code"] for attempt in copy.now["attempts"]] == [503, 500, 500]
    copy.has(delivery_attempts=1, next_attempt_at=before["next_attempt_at"])
    hook.target.default = WAIT
    wait_until_due(copy)
    copy.has(status="pending", delivery_attempts=2)


def test_a_final_refusal_alone_makes_a_dead_letter_in_a_catch_up(
    world: World, hook: Waiting
) -> None:
    world.restart(MAX_DELIVERY_ATTEMPTS="2")
    hook.come_back(then=500)
    hook.target.script(422)
    pass_minutes(world)
    assert hook.states == ["failed"] + ["pending"] * 4


def test_a_longer_retry_after_is_followed_in_a_catch_up(hook: Waiting, copy: Copy) -> None:
    hook.come_back(then=WAIT)
    pass_minutes(hook.world)
    copy.has(delivery_attempts=1)
    assert copy.due_at == unix_seconds(copy.now["attempts"][-1]["at"]) + 3000


def test_what_fails_again_has_no_second_message(world: World, hook: Waiting, copy: Copy) -> None:
    world.sleep(copy.due_at - 600 - world.clock())  # a retry so soon has a message
    hook.come_back(then=500)
    assert hook.count_pushes() == 5
    assert world.messages() == []  # the sweep sends it, as after the first attempt


@pytest.mark.parametrize(
    "ask, attempts", [(Hook.recover, 2), (lambda hook: hook.copies[0].replay(), 1)]
)
def test_an_attempt_that_a_person_asks_for_in_a_catch_up_counts(
    world: World, hook: Waiting, copy: Copy, ask: Callable[[Waiting], object], attempts: int
) -> None:
    hook.come_back(then=WAIT)
    world.sweep()
    world.lose_messages()
    world.sleep(61)
    ask(hook)
    world.empty_inbox()
    copy.has(status="pending", delivery_attempts=attempts)


def test_an_attempt_that_is_not_recorded_counts_and_the_next_one_does_not(
    world: World, hook: Waiting, copy: Copy
) -> None:
    before = copy.now
    hook.come_back(then=500)
    world.sweep()
    assert world.services.store.claim(copy.id, "crashed").applied
    world.sleep(61)
    pass_minutes(world)
    copy.has(delivery_attempts=2, next_attempt_at=before["next_attempt_at"])


def test_an_attempt_of_a_catch_up_that_comes_after_its_time_does_not_count_either(
    world: World, hook: Waiting, copy: Copy
) -> None:
    hook.come_back(then=500)
    world.sweep()
    world.sleep(3001)
    world.empty_inbox()
    copy.has(status="pending", delivery_attempts=1)
    assert len(copy.now["attempts"]) == 2
    assert world.clock() < copy.due_at < world.clock() + 2


def test_an_attempt_counts_that_an_older_version_recorded_after_a_catch_up(
    world: World, hook: Waiting, copy: Copy
) -> None:
    hook.come_back(then=500)
    pass_minutes(world)
    # It leaves the attribute, which it does not know.
    world.change_item(copy.id, "SET resume_at = :due", due={"S": copy.now["next_attempt_at"]})
    hook.target.default = WAIT
    wait_until_due(copy)
    copy.has(delivery_attempts=2)


# Open breakers


def test_what_an_open_breaker_refuses_in_a_catch_up_is_due_when_it_was(
    world: World, hook: Waiting, copy: Copy
) -> None:
    before = copy.now
    hook.come_back(then=WAIT)
    world.sweep()
    world.sleep(unix_seconds(before["next_attempt_at"]) - 20 - world.clock())
    hook.open_breaker(30)
    world.empty_inbox()
    copy.has(delivery_attempts=1, next_attempt_at=before["next_attempt_at"])
    assert copy.now["attempts"][-1]["error"] == BREAKER_OPEN


def test_what_an_open_breaker_delays_in_a_catch_up_is_due_no_later_than_before(
    world: World, hook: Waiting, copy: Copy
) -> None:
    before = copy.now
    due_at = copy.due_at
    world.sleep(due_at - 80 - world.clock())
    hook.open_breaker(900)
    hook.come_back(then=WAIT)
    world.sweep()
    world.sleep(60)
    world.empty_inbox()
    copy.has(delivery_attempts=1, attempts=before["attempts"])
    assert due_at - 1 < copy.due_at <= due_at


def test_a_catch_up_asks_for_no_trial_of_an_open_breaker(hook: Waiting) -> None:
    hook.open_breaker(900)
    hook.come_back(then=WAIT)
    assert hook.count_pushes() == 0
