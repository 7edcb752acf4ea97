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
from chalicelib.core.store import MENDED, TESTED, from_item
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
# On which day of each month a condition begins or somebody acts. A target is called by the end of
# its URL; `secret` is the webhook.
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
# After MONTH: one target is dead for months, and nobody posts for some weeks.
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
    "posts": "4",
    "throttled": "0",
    "workers": "5",
}
TARGET = "https://hooks.zapier.com/"
TENANT = "shop"
REFUSED = '{"n":-1}'  # by the webhook, for ever
TARGETS_AT_PROVIDER = 9  # of each tenant in PROVIDED
PROVIDED = [f"tenant-{number}" for number in range(224)]
BATCH_WINDOW_SECONDS = 5
MOST_MESSAGES = 400  # about one event
MOST_ITEMS = 6_500  # in the table, but for those of `wait`


class YearWorld(SimulatedWorld):
    """A stage that lives for months.

    `environ` has the conditions, too.
    """

    def __init__(self, versions: Sequence[Version] = (PRESENT,)) -> None:
        super().__init__(CONDITIONS, versions=versions)
        self._rounds = 2 * len(versions)  # of `wait`
        self.clock.sleep(-self.clock() % DAY_SECONDS)
        self.history.max_skew_seconds = 1.0
        self.dynamodb.on_write = self._see_write
        self.dynamodb.on_query = lambda rows: self._used.update(rows=len(rows))
        self.sqs.on_send = self._see_message
        self._used = Counter[str]()  # since midnight
        self._used_at_first = self._used
        self._due: dict[str, str] = {}  # when each event is due that is to be pushed
        self._expired: dict[str, Item] = {}
        self._letters: list[Json] = []
        self._working = Counter[str]()
        self._is_over = False

    def start(self, version: Version = PRESENT) -> Container:
        container = Container(self, self._fault, self.environ, version)
        container.skew_seconds = self.random.uniform(-1, 1)
        return container

    def answer(self, event: Event, url: str) -> Response:
        if event.payload == REFUSED and not event.is_copy:
            return Response(422, 0.1)
        trouble = TROUBLES.get(self.environ.get(url.rsplit("/")[-1], ""))
        return trouble(0, 0) if trouble else HEALTHY

    def _fault(self, label: str) -> Fault | None:
        self._used["calls"] += 1
        is_throttled = self.random.random() < float(self.environ["throttled"])
        return Fault.THROTTLED if is_throttled else None

    def _see_write(self, before: Item | None, after: Item | None) -> None:
        self.history.see_write(before, after, self.clock())
        item = after or before or {}
        key = item["event_id"]
        self._due.pop(key, None)
        if after is None and item.get("expires_at", math.inf) <= self.clock() + 1:
            self._expired[key] = item
        elif after and "next_attempt_at" in after:
            self._due[key] = after["next_attempt_at"]

    def _see_message(self, queue_url: str, body: str, delay_seconds: float) -> None:
        self._used["messages"] += 1
        if queue_url == DLQ:
            self._letters.append(json.loads(body))
        else:
            self.hub.spawn(partial(self._work, queue_url, delay_seconds))

    def _work(self, queue_url: str, delay_seconds: float) -> None:
        """Be a worker that comes for a message, and stays while there are more."""
        self.hub.sleep(delay_seconds + BATCH_WINDOW_SECONDS)
        has_more = True
        while has_more and self._working[queue_url] < int(self.environ["workers"]):
            self._working[queue_url] += 1
            has_more = self.use(Container.work, queues=[queue_url]) > 0
            self._working[queue_url] -= 1

    def _sweeps(self) -> None:
        """Sweep each minute; a run that would find nothing is left out."""
        while not self._is_over:
            self.hub.sleep(60)
            late = rfc3339(self.clock() - 50)
            if any(due_at < late for due_at in self._due.values()):
                self.use(Container.sweep)

    def _days(self, days: int) -> None:
        """Post in the evening, look into the inbox each hour, and let expire at night."""
        for day, hour in itertools.product(range(days), range(24)):
            self._idle.clear()  # AWS replaces containers that are idle
            self.use(Container.call, "GET", "/inbox")
            for number in range(int(self.environ["posts"]) if hour > 15 else 0):
                prefer = "" if number else "respond-async"
                self.use(Container.post, tenant=TENANT, prefer=prefer)
                self.hub.sleep(10)
            self.hub.sleep(3600 - self.clock() % 3600)
            if hour == 23:
                self._check_day(day)
                self._used.clear()
                self.dynamodb.expire(2 * DAY_SECONDS)
                for queue_url, retention_days in ((INBOX, 7), (SLOW, 7), (DLQ, 14)):
                    self.sqs.expire(queue_url, retention_days * DAY_SECONDS)
        self._is_over = True

    def _change(self, day: float, name: str, value: str) -> None:
        """Let somebody act on a day, or a condition change, so that new containers start."""
        self.hub.sleep(day * DAY_SECONDS)
        if act := getattr(self, name, None):
            act(value)
            return
        self.environ[name] = value
        self._idle.clear()
        for queue_url in WORKERS:
            self.hub.spawn(partial(self._work, queue_url, 0))

    def erase(self, _name: str) -> None:
        """Erase an event while its copies are pushed, and again two hours later."""
        event_id = self.use(Container.post, tenant=TENANT, prefer="respond-async")
        for seconds in (BATCH_WINDOW_SECONDS + 1, 7200):
            self.hub.sleep(seconds)
            self.use(Container.erase, event_id)
        items = self.dynamodb.items.values()
        is_left = any(item.get("source_event_id") == event_id for item in items)
        self._require(not is_left, "a copy of an event that was erased is there")

    def replay(self, _name: str) -> None:
        """Replay events that are refused again."""
        for _ in range(60):
            self.use(Container.replay, self.use(Container.post, REFUSED))

    def recover(self, name: str) -> None:
        """Enable a target that was in trouble, and recover what it missed."""
        self.use(Container.enable, self._targets[name])
        self.use(Container.recover, self._targets[name])

    def consume(self, _name: str) -> None:
        while leased := self.use(Container.lease, limit=100):
            for event_id, lease_id in leased:
                self.use(Container.acknowledge, event_id, lease_id)

    def wait(self, _name: str) -> None:
        """Post to targets that hang, again and again: in each container, of which there is one of
        each version, callers wait once for each target, at most.
        """
        for _ in range(self._rounds):
            started = self.clock()
            for tenant in PROVIDED:
                self.use(Container.post, tenant=tenant)
        waited_seconds = self.clock() - started
        is_short = waited_seconds < len(PROVIDED)  # while a push hangs, a caller waits 5 s
        self._require(is_short, f"callers wait again for targets that hang: {waited_seconds} s")

    def live(self, months: int) -> None:
        for name in "abcd":
            self.use(Container.subscribe, TARGET + name, tenant=TENANT)
        self._targets = dict(zip("abcd", self.history.subscribed_at, strict=True))
        for tenant, number in itertools.product(PROVIDED, range(TARGETS_AT_PROVIDER)):
            self.use(Container.subscribe, f"{TARGET}{number}/provider", tenant=tenant)
        self.hub.spawn(self._sweeps)
        self.hub.spawn(partial(self._days, months * MONTH_DAYS))
        for month in range(months):
            self._schedule(month * MONTH_DAYS, MONTH)
        if months > 1:
            self._schedule(0, YEAR)
        self.hub.run()
        self.settle()
        self.check()

    def _schedule(self, first_day: int, program: str) -> None:
        for line in program.strip().splitlines():
            day, name, value = f"{line} ".split(" ", 2)
            self.hub.spawn(partial(self._change, first_day + float(day), name, value.strip()))

    def _check_day(self, day: int) -> None:
        for violation in self.history.violations:
            raise ViolationError(violation)
        messages = max(self.history.messages.values(), default=0)
        self._require(messages < MOST_MESSAGES, f"{messages} messages about an event")
        most_items = MOST_ITEMS + self._rounds * len(PROVIDED) * (1 + TARGETS_AT_PROVIDER)
        self._require(len(self.dynamodb.items) < most_items, "the table grows")
        if day == 1:
            self._used_at_first = self._used.copy()
        if day % MONTH_DAYS not in QUIET_DAYS or self.environ["posts"] == "0":
            return
        # For a target that is disabled, each event has one more message.
        is_all_well = not TROUBLES.keys() & self.environ.values()
        for name, used in self._used.items():
            most = 1.2 * self._used_at_first[name]
            is_much = is_all_well and used > most
            self._require(not is_much, f"{used} {name} on a quiet day, at most {most} expected")
        self._require(not self._due, "an event is scheduled, and all is quiet")
        for name, key in self._targets.items():
            one = Subscription.from_item(typed(self.dynamodb.items[key]))
            is_marked = one.disabled_at or one.failing_since or one.slow_since
            is_well = self.environ.get(name) not in TROUBLES
            self._require(not (is_marked and is_well), f"{name} is well, and marked: {one}")

    def _require(self, is_kept: bool, violation: str) -> None:
        if not is_kept:
            raise ViolationError(f"{rfc3339(self.clock())}: {violation}")

    def check(self) -> None:
        """Check expired events, too, by what became of them."""
        expired = {
            key: from_item(typed(item))
            for key, item in self._expired.items()
            if not key.startswith((MENDED, TESTED))  # no events
        }
        stored = {key: event for key, event in expired.items() if event.status != Status.ERASED}
        check(self.history, stored | self.items(), self._letters)


def live(months: int, versions: Sequence[Version] = (PRESENT,)) -> str:
    """Live for months; return what that was, for a person."""
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
