"""Catch-up: what waits for a destination that delivers again is pushed within minutes."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from chalicelib.core.outcome import BREAKER_OPEN, Outcome, PushResult
from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.times import rfc3339, unix_seconds
from chalicelib.subscriptions import catch_up
from tests.conftest import During, Once
from tests.support.hooks import Copy, Hook
from tests.support.receiver import Answers, Receiver, status
from tests.support.world import KEY, World, assert_has

Bounds = Callable[..., None]

WAIT = status(503, headers={"retry-after": "3000"})


def sweep_and_push(world: World) -> None:
    """Let a minute pass."""
    world.sweep()
    for _ in range(60):
        world.empty_inbox()
        world.sleep(1)


def marks(world: World) -> list[str]:
    """Return the destinations of the catch-ups that are under way."""
    return [mark.destination for mark in world.services.store.catch_ups()]


class Waiting(Hook):
    """A subscription for which copies wait, by default five.

    :param answer: How its receiver responds.
    """

    def __init__(
        self, world: World, target: Receiver, count: int = 5, answer: Answers = WAIT
    ) -> None:
        target.default = answer
        world.sleep(1)
        super().__init__(world, target)
        world.sleep(10)
        self.copies: list[Copy] = []
        for _ in range(count):
            self.copies.append(self.post())
            world.sleep(1)
        world.sleep(61)

    @property
    def states(self) -> list[str]:
        return [copy.status for copy in self.copies]

    def test(self) -> None:
        """Test the subscription, which must succeed."""
        assert self.call("test").json["error"] is None

    def come_back(self) -> None:
        """Deliver a test event, and all that comes."""
        self.target.default = 200
        self.test()

    def begin_catch_up(self) -> None:
        """Begin a catch-up in which each push is answered as before the test event."""
        answer = self.target.default
        self.come_back()
        self.target.default = answer

    def start_catch_up(self) -> None:
        """Begin a catch-up as the delivery does that ends long trouble."""
        self.world.services.store.start_catch_up(self.id)

    def open_breaker(self, seconds: int) -> None:
        """Let the worker's breaker refuse pushes to the subscription for so long."""
        world = self.world
        subscription = world.services.subscriptions.get(self.id)
        assert subscription
        destination = world.services.targets.of(subscription)
        now = world.clock()
        breaker = world.services.worker_breaker
        breaker.record(destination, now - 25, now, PushResult(Outcome.RETRY), seconds)


@pytest.fixture
def hook(world: World, target: Receiver) -> Waiting:
    return Waiting(world, target)


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> Bounds:
    """Return a function that lowers bounds of a catch-up, which are constants: hundreds of events
    would take long.
    """

    def lower(**values: int) -> None:
        for name, value in values.items():
            monkeypatch.setattr(catch_up, name, value)

    return lower


def test_what_waits_is_pushed_once_a_test_event_was_delivered(
    world: World, target: Receiver, hook: Waiting
) -> None:
    hook.come_back()
    sweep_and_push(world)
    assert hook.states == ["delivered"] * 5
    assert target.count == 11
    world.sweep()
    assert marks(world) == []
    # Another test that is delivered starts none before a quarter of an hour is over.
    for seconds, count in ((700, 0), (200, 1)):
        world.sleep(seconds)
        assert marks(world) == []
        hook.test()
        assert len(marks(world)) == count


def test_nothing_is_pushed_that_was_dismissed(world: World, hook: Waiting) -> None:
    hook.edit(dismissed_until=hook.copies[2].event["created_at"])
    hook.come_back()
    sweep_and_push(world)
    assert hook.states == ["pending"] * 3 + ["delivered"] * 2


@pytest.mark.parametrize("state", ["paused", "suspended", "gone", "host"])
def test_nothing_is_pushed_where_nothing_may_be(
    world: World, target: Receiver, hook: Waiting, state: str
) -> None:
    hook.come_back()
    before = target.count
    if state == "suspended":
        world.change_item(hook.id, "SET tenant = :tenant", tenant={"S": "a"})
        world.restart(SUSPENDED_TENANTS="a")
    elif state == "host":
        world.restart(SUBSCRIPTION_HOSTS="example.com")
    elif state == "paused":
        hook.call("disable")
    else:
        hook.delete()
    sweep_and_push(world)
    assert target.count == before
    assert marks(world) == []


def test_a_test_of_a_webhook_that_is_paused_leaves_no_mark(
    world: World, target: Receiver, hook: Waiting
) -> None:
    target.default = 200
    hook.call("disable")
    hook.test()
    assert marks(world) == []
    hook.enable()
    hook.test()
    assert len(marks(world)) == 1


def test_old_dead_letters_do_not_hide_what_waits(
    world: World, hook: Waiting, during: During
) -> None:
    for copy in hook.copies[:3]:
        shard = {"S": "copy-failed#0"}
        world.change_item(copy.id, "SET status_shard = :shard", shard=shard)

    def read_slowly(params: Any, **_: object) -> None:
        if params["IndexName"] == "undelivered-index":
            params["Limit"] = 2  # a page that ends early is read again from its last row on
            world.sleep(6)

    hook.come_back()
    during(world.dynamodb, "provide-client-params.dynamodb.Query", read_slowly)
    sweep_and_push(world)
    assert hook.states[3] == "delivered"


def test_each_minute_has_twice_as_many_and_a_sweep_that_was_missed_counts(
    world: World, target: Receiver, bounds: Bounds
) -> None:
    bounds(FIRST_EVENTS=2)
    hook = Waiting(world, target, 15)
    hook.come_back()
    before = target.count
    for count in (2, 6):
        sweep_and_push(world)
        assert target.count - before == count
    world.sleep(60)  # a sweep is missed
    sweep_and_push(world)
    assert target.count - before == 15


def test_a_destination_whose_reads_fail_costs_no_other_its_minute(
    world: World,
    hook: Waiting,
    target: Receiver,
    during: During,
    bounds: Bounds,
) -> None:
    # The five events need more than half: they get the share of the other destination, too.
    bounds(MAX_EVENTS=6)
    hook.come_back()
    other = world.subscribe_later(target, "another")
    world.services.store.start_catch_up(other)

    def fail(params: Any, **_: object) -> None:
        if params["ExpressionAttributeValues"].get(":partition") == {"S": other}:
            raise EndpointConnectionError(endpoint_url="https://aws.test")

    during(world.dynamodb, "provide-client-params.dynamodb.Query", fail)
    with pytest.raises(StorageUnavailableError):
        world.sweep()
    world.sleep(60)
    world.empty_inbox()
    assert hook.states == ["delivered"] * 5
    assert other in marks(world)


def test_of_more_destinations_than_a_minute_has_pushes_each_has_one(
    world: World, target: Receiver, hook: Waiting, bounds: Bounds
) -> None:
    bounds(MAX_EVENTS=1)
    hook.come_back()
    world.services.store.start_catch_up("webhook")
    before = target.count
    sweep_and_push(world)
    assert target.count - before == 1
    assert marks(world) == [hook.id]
    world.sleep(20 * 3600)  # a mark lasts for a day
    sweep_and_push(world)


def test_what_waits_is_pushed_once_a_test_and_a_delivery_end_long_trouble(
    world: World, hook: Waiting
) -> None:
    world.change_item(hook.id, "SET failing_since = :now", now={"S": rfc3339(world.clock())})
    world.sleep(10)
    hook.come_back()
    world.post_later()
    world.empty_inbox()
    assert len(marks(world)) == 2
    sweep_and_push(world)
    assert hook.states == ["delivered"] * 5
    assert "failing_since" not in world.item(hook.id)


def test_the_webhook_catches_up_once_an_event_arrives_that_failed_often(
    world: World, receiver: Receiver
) -> None:
    receiver.default = WAIT
    events = [world.post()["event_id"] for _ in range(3)]
    often, *others = events
    world.change_item(often, "SET delivery_attempts = :number", number={"N": "10"})
    world.sleep(3100)
    receiver.default = 200
    for event_id in others:
        world.change_item(
            event_id,
            "SET next_attempt_at = :later",
            later={"S": rfc3339(world.clock() + 3000)},
        )
    sweep_and_push(world)
    assert world.event(often)["status"] == "delivered"
    sweep_and_push(world)
    assert [world.event(event_id)["status"] for event_id in others] == ["delivered"] * 2


def test_what_a_consumer_leased_is_left_to_it(world: World, receiver: Receiver) -> None:
    receiver.default = WAIT
    event_id = world.post()["event_id"]
    world.sleep(1)
    [leased] = world.call("POST", "/inbox/lease", key=KEY).json["events"]
    world.services.store.start_catch_up("webhook")
    world.sweep()
    assert world.item(event_id)["claim_id"]["S"] == leased["lease_id"]


def test_what_fails_again_ends_the_catch_up_and_keeps_its_backoff(
    world: World, target: Receiver, bounds: Bounds
) -> None:
    bounds(FIRST_EVENTS=4)
    hook = Waiting(world, target, 20)
    hook.come_back()
    target.default = WAIT
    before = target.count
    for _ in range(5):
        sweep_and_push(world)
    assert target.count - before == 4
    assert marks(world) == []
    assert hook.states == ["pending"] * 20


def test_trouble_that_ends_soon_after_a_catch_up_has_one_a_quarter_of_an_hour_on(
    world: World, target: Receiver, hook: Waiting
) -> None:
    hook.start_catch_up()
    sweep_and_push(world)
    sweep_and_push(world)
    target.default = 200
    hook.start_catch_up()
    for state in ("pending", "delivered"):
        sweep_and_push(world)
        assert hook.states == [state] * 5
        world.sleep(800)


def test_a_mark_is_not_ended_by_a_sweep_that_read_the_one_before(world: World) -> None:
    store = world.services.store
    store.start_catch_up("webhook")
    [mark] = store.catch_ups()
    world.sleep(1)
    store.start_catch_up("webhook")
    assert store.catch_ups() == [mark]
    store.end_catch_up(mark)
    store.start_catch_up("webhook")
    store.end_catch_up(mark)
    world.sleep(900)
    assert [later.destination for later in store.catch_ups()] == ["webhook"]


def test_one_that_fails_again_leaves_none_that_was_not_tried(
    world: World, target: Receiver, hook: Waiting, bounds: Bounds
) -> None:
    bounds(FIRST_EVENTS=4)
    target.script(200, 200, WAIT)
    hook.come_back()
    for _ in range(3):
        sweep_and_push(world)
    assert sorted(hook.states) == ["delivered"] * 4 + ["pending"]


def wait_until_due(copy: Copy) -> None:
    """Let the next attempt be made, whose message the sweep sends."""
    world = copy.world
    world.sleep(unix_seconds(copy.now["next_attempt_at"]) + 61 - world.clock())
    sweep_and_push(world)


def test_what_was_posted_since_does_not_keep_a_catch_up_from_ending(
    world: World, target: Receiver, hook: Waiting
) -> None:
    hook.come_back()
    target.default = WAIT
    world.sleep(1)
    for _ in range(3):
        world.post_later()
        sweep_and_push(world)
    assert target.count == 5 + 1 + 5 + 3
    assert marks(world) == []


def test_an_event_of_the_moment_of_the_mark_catches_up(
    world: World, target: Receiver, hook: Waiting
) -> None:
    target.default = 200
    item = world.item(hook.copies[0].id)
    moment = item["sort_key"]["S"].split("#")[0]
    hook.start_catch_up()
    mark = f"mended#{hook.id}"
    world.change_item(mark, "SET sort_key = :moment", moment={"S": moment})
    sweep_and_push(world)
    assert hook.states[0] == "delivered"


def test_what_a_destination_leaves_of_its_share_others_get_in_the_same_minute(
    world: World, target: Receiver, hook: Waiting, bounds: Bounds
) -> None:
    bounds(MAX_EVENTS=5)
    hook.come_back()
    for _ in range(4):
        world.services.store.start_catch_up(world.subscribe_later(target, "another"))
    world.services.store.start_catch_up("webhook")
    sweep_and_push(world)
    assert hook.states == ["delivered"] * 5


def test_a_slow_search_delays_no_push_to_another_destination(
    world: World, hook: Waiting, target: Receiver, during: During
) -> None:
    hook.come_back()
    other = world.subscribe_later(target, "another")
    world.services.store.start_catch_up(other)
    found = threading.Event()
    has_pushed = []

    def search_slowly(params: Any, **_: object) -> None:
        if params["ExpressionAttributeValues"].get(":partition") == {"S": other}:
            has_pushed.append(found.wait(timeout=20))

    def see_push(params: Any, **_: object) -> None:
        if params["Key"]["event_id"]["S"] == hook.copies[-1].id:
            found.set()

    during(world.dynamodb, "provide-client-params.dynamodb.Query", search_slowly)
    during(world.dynamodb, "provide-client-params.dynamodb.UpdateItem", see_push)
    world.sweep()
    assert has_pushed == [True]


def test_dead_letters_are_left_out_before_they_are_read(
    world: World, target: Receiver, hook: Waiting, during: During
) -> None:
    target.script(*[422] * 4)
    for copy in hook.copies[:4]:
        copy.replay()
        world.empty_inbox()
    hook.come_back()
    read = []

    def see(http_response: Any, parsed: Any, **_: object) -> None:
        read.extend(parsed["Items"])

    during(world.dynamodb, "after-call.dynamodb.Query", see)
    catch_up.catch_up(world.services, world.services.subscriptions)
    copies = [row["event_id"]["S"] for row in read if row["event_id"]["S"].startswith("cpy_")]
    assert copies == [hook.copies[4].id]


def test_trouble_that_ends_while_a_catch_up_runs_has_another_one_after_it(
    world: World, target: Receiver, hook: Waiting
) -> None:
    target.default = 200
    hook.start_catch_up()
    world.sleep(300)
    target.default = WAIT
    later = [world.post_later() for _ in range(3)]
    world.sleep(300)
    target.default = 200
    hook.start_catch_up()
    sweep_and_push(world)
    assert hook.states == ["delivered"] * 5
    assert [world.states(event) for event in later] == [["pending"]] * 3
    sweep_and_push(world)
    sweep_and_push(world)
    assert [world.states(event) for event in later] == [["delivered"]] * 3
    sweep_and_push(world)
    assert marks(world) == []


def test_trouble_that_ends_while_its_catch_up_ends_has_another_one(
    world: World, hook: Waiting, once: Once
) -> None:
    store = world.services.store
    store.start_catch_up(hook.id)
    [mark] = store.catch_ups()
    world.sleep(300)
    once(world.dynamodb, "before-call.dynamodb.UpdateItem", lambda: store.end_catch_up(mark))
    assert not store.start_catch_up(hook.id)
    assert store.catch_ups() == []
    world.sleep(600)
    assert [again.destination for again in store.catch_ups()] == [hook.id]


def test_what_follows_after_a_test_begins_a_quarter_of_an_hour_after_it(
    world: World, target: Receiver, hook: Waiting
) -> None:
    hook.come_back()
    target.default = WAIT
    world.sleep(61)
    later = world.post_later()
    hook.come_back()
    for _ in range(5):
        sweep_and_push(world)
    assert world.states(later) == ["pending"]
    world.sleep(900)
    sweep_and_push(world)
    assert world.states(later) == ["delivered"]


def test_a_catch_up_that_fails_costs_a_copy_nothing(
    world: World, target: Receiver, hook: Waiting
) -> None:
    copy = hook.copies[0]
    before = copy.now
    target.default = 500
    for made in (2, 3):
        hook.begin_catch_up()
        sweep_and_push(world)
        sweep_and_push(world)
        copy.has(delivery_attempts=1, next_attempt_at=before["next_attempt_at"])
        codes = [attempt["status_code"] for attempt in copy.now["attempts"]]
        assert codes == [503, 500, 500][:made]
        assert "resume_at" not in world.item(copy.id)
        world.sleep(800)
    target.default = WAIT
    wait_until_due(copy)
    copy.has(status="pending", delivery_attempts=2)
    assert copy.now["next_attempt_at"] > before["next_attempt_at"]


def test_a_catch_up_brings_no_dead_letter_but_by_a_final_refusal(
    world: World, target: Receiver, hook: Waiting
) -> None:
    world.restart(MAX_DELIVERY_ATTEMPTS="2")
    target.default = 500
    hook.begin_catch_up()
    target.script(422)
    sweep_and_push(world)
    first, second, *_ = hook.copies
    first.has(status="failed", delivery_attempts=2)
    second.has(status="pending", delivery_attempts=1)
    wait_until_due(second)
    second.has(status="failed", delivery_attempts=2)


def test_in_a_catch_up_a_longer_retry_after_is_followed(world: World, hook: Waiting) -> None:
    hook.begin_catch_up()
    sweep_and_push(world)
    copy = hook.copies[0]
    tried_at = unix_seconds(copy.now["attempts"][-1]["at"])
    copy.has(delivery_attempts=1, next_attempt_at=rfc3339(tried_at + 3000))


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_a_person_recovers_counts_also_in_a_catch_up(
    world: World, target: Receiver, hook: Waiting, when: str
) -> None:
    copy = hook.copies[0]
    target.default = 500
    hook.begin_catch_up()
    if when == "after":
        sweep_and_push(world)
    else:
        world.sweep()
        world.lose_messages()
    world.sleep(61)
    recovered = hook.call("recover", {}).json
    assert_has(recovered, replayed=5, left=0)
    world.empty_inbox()
    copy.has(status="pending", delivery_attempts=2)
    assert unix_seconds(copy.now["next_attempt_at"]) < world.clock() + 3


def test_a_replay_ends_what_a_catch_up_began(world: World, target: Receiver, hook: Waiting) -> None:
    copy = hook.copies[0]
    target.default = 500
    hook.begin_catch_up()
    world.sweep()
    target.default = WAIT
    copy.replay()
    world.empty_inbox()
    copy.has(status="pending", delivery_attempts=1)


def test_an_attempt_that_is_not_recorded_counts_and_the_next_one_does_not(
    world: World, target: Receiver, hook: Waiting
) -> None:
    copy = hook.copies[0]
    before = copy.now
    target.default = 500
    hook.begin_catch_up()
    world.sweep()
    assert world.services.store.claim(copy.id, "crashed").applied
    world.sleep(61)
    sweep_and_push(world)
    copy.has(delivery_attempts=2, next_attempt_at=before["next_attempt_at"])


def test_an_attempt_of_a_catch_up_that_comes_after_its_time_does_not_count_either(
    world: World, target: Receiver, hook: Waiting
) -> None:
    target.default = 500
    hook.begin_catch_up()
    world.sweep()
    world.sleep(3001)
    world.empty_inbox()
    copy = hook.copies[0]
    copy.has(status="pending", delivery_attempts=1)
    assert len(copy.now["attempts"]) == 2
    assert world.clock() < unix_seconds(copy.now["next_attempt_at"]) < world.clock() + 2


def test_an_attempt_counts_that_an_older_version_recorded_after_a_catch_up(
    world: World, target: Receiver, hook: Waiting
) -> None:
    copy = hook.copies[0]
    target.default = 500
    hook.begin_catch_up()
    sweep_and_push(world)
    # It leaves the attribute, which it does not know.
    world.change_item(copy.id, "SET resume_at = :due", due={"S": copy.now["next_attempt_at"]})
    target.default = WAIT
    wait_until_due(copy)
    copy.has(delivery_attempts=2)


def test_what_an_open_breaker_refuses_in_a_catch_up_is_due_when_it_was(
    world: World, hook: Waiting
) -> None:
    before = [copy.now["next_attempt_at"] for copy in hook.copies]
    hook.begin_catch_up()
    world.sweep()
    world.sleep(unix_seconds(before[0]) - 20 - world.clock())
    hook.open_breaker(30)
    world.empty_inbox()
    refused = [copy.now for copy in hook.copies]
    assert {shown["delivery_attempts"] for shown in refused} == {1}
    assert [shown["next_attempt_at"] for shown in refused] == before
    assert {shown["attempts"][-1]["error"] for shown in refused} == {BREAKER_OPEN}


def test_what_an_open_breaker_delays_in_a_catch_up_is_due_no_later_than_before(
    world: World, hook: Waiting
) -> None:
    copy = hook.copies[0]
    before = copy.now
    world.sleep(unix_seconds(before["next_attempt_at"]) - 80 - world.clock())
    hook.open_breaker(900)
    hook.begin_catch_up()
    world.sweep()
    world.sleep(60)
    world.empty_inbox()
    delayed = copy.now
    assert_has(delayed, delivery_attempts=1, attempts=before["attempts"])
    early_seconds = unix_seconds(before["next_attempt_at"]) - unix_seconds(
        delayed["next_attempt_at"]
    )
    assert 0 <= early_seconds < 1


def test_a_catch_up_asks_for_no_trial_of_an_open_breaker(
    world: World, target: Receiver, hook: Waiting
) -> None:
    hook.open_breaker(900)
    hook.begin_catch_up()
    before = target.count
    sweep_and_push(world)
    assert target.count == before


def test_what_fails_again_in_a_catch_up_has_one_message_for_its_next_attempt(
    world: World, target: Receiver
) -> None:
    hook = Waiting(world, target, 1, status(503, headers={"retry-after": "600"}))
    target.default = 500
    hook.begin_catch_up()
    sweep_and_push(world)
    [copy] = hook.copies
    copy.has(delivery_attempts=1, status="pending")
    assert len(copy.now["attempts"]) == 2
    assert len(world.messages()) == 1


def test_what_waits_for_a_consumer_hides_nothing(
    world: World, receiver: Receiver, bounds: Bounds
) -> None:
    bounds(FIRST_EVENTS=2)
    receiver.default = WAIT
    left = [world.post()["event_id"] for _ in range(4)]
    for event_id in left:
        world.change_item(event_id, "REMOVE next_attempt_at")
    world.sleep(1)  # what was created in one moment is read in the order of its ids
    event_id = world.post()["event_id"]
    world.sleep(1)
    receiver.default = 200
    world.services.store.start_catch_up("webhook")
    sweep_and_push(world)
    assert world.event(event_id)["status"] == "delivered"


def test_nothing_catches_up_with_a_webhook_whose_url_was_taken_out(
    world: World, receiver: Receiver
) -> None:
    receiver.default = WAIT
    event_id = world.post()["event_id"]
    before = world.event(event_id)["next_attempt_at"]
    world.services.store.start_catch_up("webhook")
    world.restart(ZAPIER_WEBHOOK_URL="subscriptions")
    world.sweep()
    assert marks(world) == []
    assert world.event(event_id)["next_attempt_at"] == before


def test_a_test_says_whether_a_catch_up_is_under_way(
    world: World, target: Receiver, hook: Waiting
) -> None:
    def catches_up() -> bool:
        return bool(hook.call("test").json["catches_up"])

    assert not catches_up()  # it is not delivered
    target.default = 200
    assert catches_up()
    assert catches_up()
    sweep_and_push(world)
    world.sweep()
    assert not catches_up()  # it has ended
    hook.start_catch_up()  # a delivery begins another one
    assert catches_up()
    world.sleep(901)
    assert catches_up()
    hook.call("disable")
    assert not catches_up()
