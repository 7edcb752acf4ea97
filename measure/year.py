"""`make year`: a year of a stage in virtual time (MONTHS=1: its first month).
`make versions`: two months in which functions of this version and of 1.0.0 run beside each other.

Each month of four weeks has the troubles in MONTH, and ends with quiet days, which are compared
with the first ones. The exit status is 1 if a promise was broken.
"""

import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial

from chalicelib.core.event import Event, Status
from chalicelib.core.store import CLAIM_SECONDS, MENDED, TESTED, from_item
from chalicelib.infra.times import DAY_SECONDS, rfc3339
from chalicelib.subscriptions.subscription import Subscription
from measure.trouble import HEALTHY, TROUBLES
from tests.simulator.invariants import Item, ViolationError, check
from tests.simulator.simulated_world import (
    DLQ,
    ENVIRON,
    INBOX,
    SLOW,
    WORKERS,
    Container,
    Fault,
    Response,
    SimulatedWorld,
)
from tests.support.in_memory_aws import typed
from tests.support.versions import PRESENT, Version, versions_to_run
from tests.support.world import SIGNING_SECRETS, Json

MONTH_DAYS = 28
QUIET_DAYS = range(22, MONTH_DAYS)
A, B = SIGNING_SECRETS
# The program of a month: each line has a day, a name, and a value that can be empty. The name is
# that of a method of YearWorld, which is called with the value, or of a condition in its `environ`,
# which gets the value. A destination in trouble is such a condition, with the last part of its URL
# as its name; `secret` is the webhook.
MONTH = f"""
4 a answers 503
4.66 secret answers 503
4.67 secret well
6.1 ZAPIER_WEBHOOK_URL none
8 EVENT_RETENTION_DAYS 7
9 a well
9 WEBHOOK_SIGNING_SECRETS {B} {A}
10 WEBHOOK_SIGNING_SECRETS {B}
11.65 b hangs
11.65 erase
11.95 b well
12 recover a
13.99 consume
14 ZAPIER_WEBHOOK_URL {ENVIRON["ZAPIER_WEBHOOK_URL"]}
14.6 replay
15.65 throttled 0.7
15.7 throttled 0
16 EVENT_RETENTION_DAYS 14
17 workers 1
18 workers 0
18 WEBHOOK_SIGNING_SECRETS {A} {B}
19 WEBHOOK_SIGNING_SECRETS {A}
19.95 provider hangs
19.95 wait
19.967 provider well
19.967 workers 5
20.5 secret answers 503
20.65 c answers 200 after 9 s
20.7 c well
21.5 secret well
21.6 recover b
"""
# The program of a year, beside that of each month: one target is dead for months, and nobody posts
# for some weeks.
YEAR = """
90 d hangs
170 d well
172 recover d
200 posts 0
240 posts 4
"""
CONDITIONS = {
    "MAX_DELIVERY_ATTEMPTS": "45",
    "EVENT_RETENTION_DAYS": "14",
    "WEBHOOK_SIGNING_SECRETS": A,
    # How many events are posted each hour from 16:00 to midnight.
    "posts": "4",
    # The probability that a call to AWS is throttled.
    "throttled": "0",
    # How many workers of a queue can run at the same time.
    "workers": "5",
}
TARGET = "https://hooks.zapier.com/"
TENANT = "shop"
REFUSED = '{"n":-1}'  # the payload of an event that the webhook always refuses
# The tenants whose targets are all at one provider, and how many targets each of them has.
PROVIDER_TENANTS = [f"tenant-{number}" for number in range(224)]
TARGETS_PER_PROVIDER_TENANT = 9
BATCH_WINDOW_SECONDS = 5
MOST_MESSAGES = 400  # about one event
MOST_ITEMS = 6_500  # in the table, without the items for the events that `wait` posts


class YearWorld(SimulatedWorld):
    """A simulated stage on which the program MONTH runs each month and, if it is simulated for more
    than a month, the program YEAR.

    Its `environ` has the settings of the stage, the conditions of CONDITIONS and, by the name of a
    destination, the trouble that the destination is in.
    """

    def __init__(self, versions: Sequence[Version] = (PRESENT,)) -> None:
        """Make a stage without subscriptions, at midnight (UTC).

        :param versions: The versions of the code whose functions run beside each other.
        """
        super().__init__(CONDITIONS, versions=versions)
        # How many events `wait` posts for each tenant of PROVIDER_TENANTS: two for each version,
        # since the second shows whether a container has learned from the first.
        self._rounds = 2 * len(versions)
        seconds_until_midnight = -self.clock() % DAY_SECONDS
        self.clock.sleep(seconds_until_midnight)
        # How far the clocks of containers, as `start` sets them, may be off.
        self.history.max_skew_seconds = 1.0
        self.dynamodb.on_write = self._see_write
        self.dynamodb.on_query = lambda rows: self._used.update(rows=len(rows))
        self.sqs.on_send = self._see_message
        # How many `calls` of AWS were made, `messages` sent and `rows` of indexes read since
        # midnight.
        self._used = Counter[str]()
        # The same of the whole second day; empty until that day is over.
        self._used_on_second_day = Counter[str]()
        # The `next_attempt_at` of each event that has one, by the key of the event.
        self._due: dict[str, str] = {}
        # The items that DynamoDB deleted because their TTL had passed, by their keys.
        self._expired: dict[str, Item] = {}
        # The bodies of all messages that were sent to the DLQ.
        self._dead_letters: list[Json] = []
        # How many workers run now, by the URL of their queue.
        self._working = Counter[str]()
        self._is_over = False

    def start(self, version: Version = PRESENT) -> Container:
        """Return a new container of a version, whose clock is up to a second fast or slow."""
        container = Container(self, self._fault, self.environ, version)
        container.skew_seconds = self.random.uniform(-1, 1)
        return container

    def answer(self, event: Event, url: str) -> Response:
        """Return the response of a destination to a push: 422 from the webhook for the payload
        REFUSED; otherwise the response of the trouble in which the destination is, or HEALTHY if it
        is in no trouble.

        `environ` has the name of the trouble, a key of TROUBLES, under the name of the destination:
        the last part of the URL.
        """
        if event.payload == REFUSED and not event.is_copy:
            return Response(422, 0.1)
        destination = url.rsplit("/")[-1]
        trouble = self.environ.get(destination)
        if trouble not in TROUBLES:
            return HEALTHY
        # The troubles in MONTH and YEAR use neither number.
        return TROUBLES[trouble](random=0, number=0)

    def _fault(self, label: str) -> Fault | None:
        """Count a call to AWS, and decide by chance whether it is throttled; return THROTTLED, or
        None if it succeeds.

        :param label: The service and the operation, which do not matter.
        """
        self._used["calls"] += 1
        is_throttled = self.random.random() < float(self.environ["throttled"])
        return Fault.THROTTLED if is_throttled else None

    def _see_write(self, before: Item | None, after: Item | None) -> None:
        """Record a write of an item: in the history, when its event is due, and whether it expired.

        :param before: The item before the write; None: it did not exist.
        :param after: The item after the write; None: it was deleted.
        """
        self.history.see_write(before, after, self.clock())
        item = after or before
        assert item
        key = item["event_id"]
        self._due.pop(key, None)
        # An item that is deleted after its expiry was deleted by DynamoDB, not by a request. Its
        # `expires_at` is in whole seconds, hence the second.
        if after is None and item.get("expires_at", math.inf) <= self.clock() + 1:
            self._expired[key] = item
        elif after and "next_attempt_at" in after:
            self._due[key] = after["next_attempt_at"]

    def _see_message(self, queue_url: str, body: str, delay_seconds: float) -> None:
        """Count a message that was sent; note its body if it was sent to the DLQ, else start a
        worker for it.
        """
        self._used["messages"] += 1
        if queue_url == DLQ:
            self._dead_letters.append(json.loads(body))
        else:
            self.hub.spawn(partial(self._work, queue_url, delay_seconds))

    def _work(self, queue_url: str, delay_seconds: float) -> None:
        """Handle batches of a queue, once the delay of a message and the batch window are over,
        until no message is visible. Stop when as many workers of the queue run as `environ` allows:
        these handle the message.

        :param delay_seconds: The delay of the message that was sent.
        """
        self.hub.sleep(delay_seconds + BATCH_WINDOW_SECONDS)
        has_more = True
        while has_more and self._working[queue_url] < int(self.environ["workers"]):
            self._working[queue_url] += 1
            has_more = self.use(Container.work, queues=[queue_url]) > 0
            self._working[queue_url] -= 1

    def _sweeps(self) -> None:
        """Run the sweep each minute until the last day is over, except in minutes in which it would
        find no overdue event.
        """
        while not self._is_over:
            self.hub.sleep(60)
            # The sweep leaves events alone that have been due for less than a minute or so.
            overdue_before = rfc3339(self.clock() - 50)
            if any(due_at < overdue_before for due_at in self._due.values()):
                self.use(Container.sweep)

    def _simulate_days(self, days: int) -> None:
        """Simulate the usage of some days. Each hour, replace the containers, call GET /inbox and,
        from 16:00 on, post events. At midnight, check the day, begin to count anew what the stage
        uses (`_used`), and delete expired items and messages. After the last day, let the actor
        `_sweeps` end, by `_is_over`.
        """
        for day, hour in itertools.product(range(days), range(24)):
            self._idle.clear()  # AWS replaces containers that are idle
            self.use(Container.call, "GET", "/inbox")
            posts = int(self.environ["posts"]) if hour >= 16 else 0
            for number in range(posts):
                # The first event of the hour is pushed by a worker, the others at once.
                prefer = "respond-async" if number == 0 else ""
                self.use(Container.post, tenant=TENANT, prefer=prefer)
                self.hub.sleep(10)
            seconds_until_next_hour = 3600 - self.clock() % 3600
            self.hub.sleep(seconds_until_next_hour)
            is_midnight = hour == 23
            if is_midnight:
                self._check_day(day)
                self._used.clear()
                self.dynamodb.expire(late_seconds=2 * DAY_SECONDS)  # TTL can be two days late
                for queue_url, retention_days in ((INBOX, 7), (SLOW, 7), (DLQ, 14)):
                    self.sqs.expire(queue_url, retention_days * DAY_SECONDS)
        self._is_over = True

    def _change_at(self, day: float, name: str, value: str) -> None:
        """Wait until a day; then make one change of the simulation.

        If this class has a method with the name, call it with the value. Otherwise, the name is a
        condition: set it in `environ`, start new containers, and start a worker of each queue,
        since none ran if the condition `workers` was 0.

        :param day: Days from now, with a fraction for the time of the day.
        :param name: The name of a method, such as `replay`, or of a condition, such as `workers`.
        :param value: The argument of the method, or the value of the condition; can be "".
        """
        self.hub.sleep(day * DAY_SECONDS)
        method = getattr(self, name, None)
        if method:
            method(value)
            return
        self.environ[name] = value
        self._idle.clear()
        for queue_url in WORKERS:
            self.hub.spawn(partial(self._work, queue_url, delay_seconds=0))

    # The methods from here to `wait` are those that the programs MONTH and YEAR name.

    def erase(self, _value: str) -> None:
        """Post an event, erase it while its copies are pushed, and again two hours later, until no
        push is in the way; raise ViolationError if the table has a copy of it after that.

        :param _value: The value in the line of the program: "".
        """
        event_id = self.use(Container.post, tenant=TENANT, prefer="respond-async")
        self.hub.sleep(BATCH_WINDOW_SECONDS + 1)
        self.use(Container.erase, event_id)
        self.hub.sleep(7200)
        while not self.use(Container.erase, event_id):
            self.hub.sleep(CLAIM_SECONDS)  # as the response says
        items = self.dynamodb.items.values()
        is_left = any(item.get("source_event_id") == event_id for item in items)
        self._require(not is_left, "a copy of an event that was erased is there")

    def replay(self, _value: str) -> None:
        """Post and replay sixty events that the webhook refuses both times, because their payload
        is REFUSED.

        :param _value: The value in the line of the program: "".
        """
        for _ in range(60):
            event_id = self.use(Container.post, REFUSED)
            self.use(Container.replay, event_id)

    def recover(self, target: str) -> None:
        """Enable the subscription of a target, and recover the events that it missed.

        :param target: The letter of the target: `a`, `b`, `c` or `d`.
        """
        subscription_id = self._subscription_ids[target]
        self.use(Container.enable, subscription_id)
        self.use(Container.recover, subscription_id)

    def consume(self, _value: str) -> None:
        """Lease and acknowledge events until no event in the inbox can be leased.

        :param _value: The value in the line of the program: "".
        """
        while True:
            leased = self.use(Container.lease, limit=100)
            if not leased:
                return
            for event_id, lease_id in leased:
                self.use(Container.acknowledge, event_id, lease_id)

    def wait(self, _value: str) -> None:
        """Post an event of each tenant of PROVIDER_TENANTS, whose targets hang, one event after
        another. Repeat that, in two rounds for each version; raise ViolationError if callers still
        wait for the targets in the last round.

        There is one container of each version. Each may let callers wait once for a target that
        hangs, and then leaves the pushes to this target to the worker; so in the last round, the
        containers should know that all targets hang.

        :param _value: The value in the line of the program: "".
        """
        for _ in range(self._rounds):
            started = self.clock()
            for tenant in PROVIDER_TENANTS:
                self.use(Container.post, tenant=tenant)
        seconds_of_last_round = self.clock() - started
        # A caller waits 5 s for a push that hangs, so that less than a second a caller on average
        # means that only a few of the callers waited.
        is_short = seconds_of_last_round < len(PROVIDER_TENANTS)
        self._require(
            is_short, f"callers wait again for targets that hang: {seconds_of_last_round} s"
        )

    def live(self, months: int) -> None:
        """Create all subscriptions, simulate some months of 28 days, let all events settle, and
        check the promises; raise ViolationError when a promise is broken.

        One tenant, TENANT, has the four targets `a` to `d`. Each tenant of PROVIDER_TENANTS has
        some targets at one provider. Three kinds of actors run at the same time: one posts events
        and checks each day, one runs the sweep, and the others change the conditions: those of
        MONTH in each month and, if there is more than one month, those of YEAR.
        """
        target_names = "abcd"
        for name in target_names:
            self.use(Container.subscribe, TARGET + name, tenant=TENANT)
        # The ids of these subscriptions by the names of their targets.
        self._subscription_ids = dict(zip(target_names, self.history.subscribed_at, strict=True))
        for tenant in PROVIDER_TENANTS:
            for number in range(TARGETS_PER_PROVIDER_TENANT):
                self.use(Container.subscribe, f"{TARGET}{number}/provider", tenant=tenant)
        self.hub.spawn(self._sweeps)
        self.hub.spawn(partial(self._simulate_days, months * MONTH_DAYS))
        for month in range(months):
            self._schedule_changes(MONTH, first_day=month * MONTH_DAYS)
        if months > 1:
            self._schedule_changes(YEAR, first_day=0)
        self.hub.run()  # until the last actor has ended
        self.settle()
        self.check()

    def _schedule_changes(self, program: str, *, first_day: int) -> None:
        """Start an actor for each line of a program, which makes the change in the line on the day
        in the line. A line is `<day> <name> <value>`: the name of a method of this class or of a
        condition, and its argument or value, which can be empty: `14.6 replay`, `17 workers 1`.

        :param program: MONTH or YEAR.
        :param first_day: The day, from the start of the simulation, that is day 0 of the program.
        """
        for line in program.strip().splitlines():
            # With the space, a line without a value has three parts, too.
            day, name, value = f"{line} ".split(" ", 2)
            day_of_simulation = first_day + float(day)
            self.hub.spawn(partial(self._change_at, day_of_simulation, name, value.strip()))

    def _check_day(self, day: int) -> None:
        """Check at the end of a day that no promise was broken, and that the messages about an
        event and the items of the table stay below their limits. On the second day, note what the
        stage has used: `_used` has the use of the day, and begins empty each day.

        Then, on a quiet day on which events were posted (no day before the second is quiet), check
        that the stage used at most a fifth more than on the second day, unless a destination is in
        trouble, that no event is scheduled, and that no healthy target is marked as failing, slow
        or disabled.

        :param day: The number of the day, from 0.
        :raises ViolationError: If a check fails.
        """
        if self.history.violations:
            raise ViolationError(self.history.violations[0])
        messages = max(self.history.messages.values(), default=0)
        self._require(messages < MOST_MESSAGES, f"{messages} messages about an event")
        # Each event that `wait` posts has a copy for each target of its tenant.
        items_of_wait = self._rounds * len(PROVIDER_TENANTS) * (1 + TARGETS_PER_PROVIDER_TENANT)
        most_items = MOST_ITEMS + items_of_wait
        self._require(len(self.dynamodb.items) < most_items, "the table grows")
        if day == 1:
            self._used_on_second_day = self._used.copy()
        is_quiet = day % MONTH_DAYS in QUIET_DAYS
        if not is_quiet or self.environ["posts"] == "0":
            return
        # In the program YEAR, a target is dead and then disabled even on quiet days. Each event has
        # one more message then.
        is_in_trouble = any(value in TROUBLES for value in self.environ.values())
        for name, used in self._used.items():
            most = 1.2 * self._used_on_second_day[name]
            is_within_limit = is_in_trouble or used <= most
            self._require(is_within_limit, f"{used} {name} on a quiet day, at most {most} expected")
        self._require(not self._due, "an event is scheduled, and all is quiet")
        for target, subscription_id in self._subscription_ids.items():
            item = self.dynamodb.items[subscription_id]
            subscription = Subscription.from_item(typed(item))
            is_marked = (
                subscription.disabled_at or subscription.failing_since or subscription.slow_since
            )
            is_target_well = self.environ.get(target) not in TROUBLES
            is_right = not (is_marked and is_target_well)
            self._require(is_right, f"{target} is well, and marked: {subscription}")

    def _require(self, is_kept: bool, violation: str) -> None:
        """Raise ViolationError, with the time and a text, unless a promise is kept."""
        if not is_kept:
            raise ViolationError(f"{rfc3339(self.clock())}: {violation}")

    def check(self) -> None:
        """Check that every accepted event was delivered, or ended as promised; raise ViolationError
        otherwise.

        Events that have expired count with their last state, and erased events count as absent.
        """
        events = {}
        for key, item in self._expired.items():
            # The mark of a catch-up, which starts with the cause of the catch-up, is not an event.
            if key.startswith((MENDED, TESTED)):
                continue
            event = from_item(typed(item))
            if event.status != Status.ERASED:
                events[key] = event
        events |= self.items()  # those that have not expired
        check(self.history, events, self._dead_letters)


def live(months: int, versions: Sequence[Version] = (PRESENT,)) -> str:
    """Simulate a stage for some months; return a sentence with the numbers of events, pushes,
    messages and refused calls. Raise ViolationError when a promise is broken.

    :param months: Months of 28 days; if there are more than one, the program YEAR runs, too.
    :param versions: The versions of the code whose functions run beside each other.
    """
    world = YearWorld(versions)
    world.live(months)
    history = world.history
    pushes = sum(map(len, history.pushes.values()))
    return (
        f"{months} months: {len(history.accepted):,} events were accepted, {pushes:,} pushes made, "
        f"{history.messages.total():,} messages sent, {world.faults:,} calls throttled, "
        f"{world.unavailable:,} calls of the API refused with 503; no promise was broken"
    )


if __name__ == "__main__":
    print(live(int(os.environ.get("MONTHS", "13")), versions_to_run()))
