"""Every path is stopped at every call it makes, in every way, and nothing is lost.

Some are interrupted, too: at two of the calls that several actors make, another goes on, or one
call fails. The points are found by running: a call that is new tomorrow is covered tomorrow.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any

import pytest

from chalicelib.core.event import Status
from chalicelib.core.store import ERASED_SECONDS
from chalicelib.infra.errors import StorageUnavailableError
from chalicelib.infra.times import DAY_SECONDS, rfc3339
from tests.simulator.simulated_world import (
    DLQ,
    ENVIRON,
    INBOX,
    SLOW,
    TABLE,
    Container,
    Fault,
    Killed,
    SimulatedWorld,
)
from tests.support.in_memory_aws import typed
from tests.support.world import Json, read_lists

Step = Callable[[SimulatedWorld, Container], object]


def does(act: Callable[..., object], *parameters: Any, **options: Any) -> Step:
    """Return a step that is one call of a container."""
    return lambda world, container: act(container, *parameters, **options)


def to_all(
    act: Callable[..., object], subjects: Callable[[SimulatedWorld], Iterable[tuple[str, ...]]]
) -> Step:
    """Return a step that is a call for each of the subjects that there are."""

    def step(world: SimulatedWorld, container: Container) -> None:
        for subject in subjects(world):
            act(container, *subject)

    return step


def each(*steps: Step) -> Step:
    def act(world: SimulatedWorld, container: Container) -> None:
        for step in steps:
            step(world, container)

    return act


def elsewhere(step: Step) -> Step:
    """Return a step of another container."""
    return lambda world, container: step(world, Container(world))


def wait(seconds: float) -> Step:
    return lambda world, container: world.clock.sleep(seconds)


def originals(world: SimulatedWorld) -> list[tuple[str]]:
    return [(key,) for key in sorted(world.dynamodb.items) if key.startswith("evt_")]


def copies(world: SimulatedWorld) -> list[tuple[str]]:
    return [(key,) for key, event in world.items().items() if event.is_copy]


def leases(world: SimulatedWorld) -> list[tuple[str, str]]:
    return sorted(world.history.leases)


def subscriptions(world: SimulatedWorld) -> list[tuple[str]]:
    return [(key,) for key in sorted(world.history.subscribed_at)]


def sendable(world: SimulatedWorld) -> list[tuple[str, str]]:
    """Return each subscription with each event, also with that of the key, which may come yet."""
    events = {EVENT_OF_KEY, *(key for (key,) in originals(world))}
    return [(key, event_id) for (key,) in subscriptions(world) for event_id in sorted(events)]


post = does(Container.post)
post_async = does(Container.post, prefer="respond-async")
work = does(Container.work)
lease = does(Container.lease, seconds=100)
acknowledge, replay, erase = (
    to_all(act, originals) for act in (Container.acknowledge, Container.replay, Container.erase)
)
replay_copies = to_all(Container.replay, copies)
acknowledge_copies = to_all(Container.acknowledge, copies)
acknowledge_leased = to_all(Container.acknowledge, leases)
release = to_all(Container.release, leases)
enable = to_all(Container.enable, subscriptions)
unsubscribe = to_all(Container.unsubscribe, subscriptions)
pause = to_all(Container.pause, subscriptions)
ONE, OTHER = (
    does(Container.post, payload, idempotency_key="k") for payload in ('{"n":1}', '{"n":2}')
)
ONE_ASYNC = does(Container.post, '{"n":1}', idempotency_key="k", prefer="respond-async")


EVENT_OF_KEY = "evt_" + hashlib.sha256(b"acme\0k").hexdigest()[:32]
send = to_all(Container.send, sendable)
recover = to_all(Container.recover, subscriptions)
recover_undelivered = to_all(partial(Container.recover, since=None), subscriptions)


def send_to_the_last(world: SimulatedWorld, container: Container) -> None:
    """Send all events to one subscription. If another sender, which has read an event before, goes
    on with the other subscription, it must not take this copy out of the list of the event.
    """
    [last] = subscriptions(world)[-1]
    for subscription_id, event_id in sendable(world):
        if subscription_id == last:
            container.send(subscription_id, event_id)


def post_with_key(world: SimulatedWorld, container: Container) -> None:
    if container.post(idempotency_key="k") is None:
        assert Container(world).post(idempotency_key="k")


BATCH = ('{"n":1}', '{"n":2}', '{"n":1}')  # of which two have one key


def post_batch_with_keys(world: SimulatedWorld, container: Container) -> None:
    if not container.post_batch(*BATCH, has_keys=True):
        assert Container(world).post_batch(*BATCH, has_keys=True)


def receive_all(world: SimulatedWorld, url: str) -> list[Json]:
    """Take the messages from a queue."""
    messages = world.receive(url)
    for message in messages:
        world.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return messages


def lose_the_message(world: SimulatedWorld, container: Container) -> None:
    container.post(prefer="respond-async")
    receive_all(world, INBOX)
    world.clock.sleep(61)


def move_back(world: SimulatedWorld, container: Container) -> None:
    for message in receive_all(world, DLQ):
        world.move_back(message)


def post_killed_before_the_event(world: SimulatedWorld, container: Container) -> None:
    """Store copies of an event, and never the event."""

    def fault_at(label: str) -> Fault | None:
        is_event = label == "dynamodb.put_item" and len(world.history.stored_at) == len(
            world.history.subscribed_at
        )
        return Fault.DIES_BEFORE if is_event else None

    assert Container(world, fault_at).post(idempotency_key="k") is None


def post_again(world: SimulatedWorld, container: Container) -> None:
    """Post the bodies again, of which one has won."""
    assert any(container.post(payload, idempotency_key="k") for payload in ('{"n":1}', '{"n":2}'))


def erase_and_post_again(world: SimulatedWorld, container: Container) -> None:
    """Repeat an erasure that may have been stopped; the key can be used again an hour later."""
    world.clock.sleep(101)
    erase(world, container)
    assert world.items() == {}
    world.clock.sleep(ERASED_SECONDS - 1)
    assert container.post('{"n":1}', idempotency_key="k") is None
    world.clock.sleep(1)
    assert container.post('{"n":1}', idempotency_key="k")


def say(*texts: str) -> Step:
    """Return a step that sends messages, or one for each event, as a stage that pushed before may
    have left.
    """

    def send(world: SimulatedWorld, container: Container) -> None:
        for text in texts or [json.dumps({"event_id": key}) for (key,) in originals(world)]:
            world.sqs.send_message(QueueUrl=INBOX, MessageBody=text, MessageAttributes={})

    return send


def subscribe(count: int = 1, *event_types: str) -> Step:
    def act(world: SimulatedWorld, container: Container) -> None:
        for number in range(count):
            container.subscribe(f"https://hooks.zapier.com/{number}", *event_types)
        world.clock.sleep(20)  # until every container knows

    return act


A, B = (f"https://hooks.zapier.com/{letter}" for letter in "ab")


def subscribe_with_headers(world: SimulatedWorld, container: Container) -> None:
    members = {"target_url": A, "headers": {"x-for": A}}
    assert container.call("POST", "/subscriptions", members).status_code in (200, 201, 0, 503)


def edit(**changes: Any) -> Step:
    def act(container: Container, subscription_id: str) -> None:
        container.call("PATCH", f"/subscriptions/{subscription_id}", changes)

    return to_all(act, subscriptions)


def expect_headers_at_their_url(world: SimulatedWorld, container: Container) -> None:
    """Check that headers are at the URL that they were given for, and nowhere else."""
    subscribe_with_headers(world, container)
    stored = [world.dynamodb.items[subscription_id] for (subscription_id,) in subscriptions(world)]
    headers = [(item["target_url"], json.loads(item["event_types"])["headers"]) for item in stored]
    assert (A, {"x-for": A}) in headers
    assert {url for url, given in headers if given not in (None, {"x-for": url})} == set()


def mark(*members: str, seconds: float) -> Step:
    """Return a step that sets members of all subscriptions to the time, and lets time pass."""

    def act(world: SimulatedWorld, container: Container) -> None:
        now = dict.fromkeys(members, rfc3339(world.clock()))
        for (subscription_id,) in subscriptions(world):
            item = world.dynamodb.items[subscription_id] | now
            world.dynamodb.put_item(TableName=TABLE, Item=typed(item))
        world.clock.sleep(seconds)

    return act


disable = mark("failing_since", "disabled_at", seconds=20)  # until every container knows
fail = mark("failing_since", seconds=61)  # what was tried is a minute old


def expect_that_nothing_waits(world: SimulatedWorld, container: Container) -> None:
    """Check that a delivery and the sweep get what waited to a subscription, not its backoff."""
    began = world.clock()
    container.post()
    for _ in range(5):
        container.sweep()
        for _ in range(60):
            world.clock.sleep(1)
            container.work()
    assert {event.status for event in world.items().values() if event.is_copy} == {Status.DELIVERED}
    assert world.clock() < began + 310


def know_that_the_webhook_is_slow(world: SimulatedWorld, container: Container) -> None:
    container.services.lanes.remember(
        container.services.targets.webhook, container.clock(), container.clock()
    )


def know(world: SimulatedWorld, container: Container) -> None:
    """Let a container read the list of subscriptions."""
    with contextlib.suppress(StorageUnavailableError, Killed):
        read_lists(container.services)


def expect_delivered_copies(world: SimulatedWorld, container: Container) -> None:
    """Check that all copies arrive once what is missed is replayed again, as far as that may have
    been stopped.
    """
    world.settle()
    enable(world, container)
    replay_copies(world, container)
    world.settle()
    assert {event.status for event in world.items().values() if event.is_copy} == {Status.DELIVERED}


def expect_recovered_copies(world: SimulatedWorld, container: Container) -> None:
    """Check that each subscription has each event once what it missed is recovered."""
    world.settle()
    recover(world, container)
    replay_copies(world, container)
    world.settle()
    has = {
        (event.subscription_id, event.source_event_id): event.status
        for event in world.items().values()
        if event.is_copy
    }
    wanted = [
        (key, event_id) for (key,) in subscriptions(world) for (event_id,) in originals(world)
    ]
    assert has == dict.fromkeys(wanted, Status.DELIVERED)


def expect_one_arrival(world: SimulatedWorld, container: Container) -> None:
    """Check that what arrived was not pushed again, and that each subscription has each event."""
    world.settle()
    arrived = [
        sum(push.arrived for push in pushes)
        for event_id, pushes in world.history.pushes.items()
        if event_id.startswith("cpy_")
    ]
    assert world.faults or max(arrived) == 1
    expect_recovered_copies(world, container)


@dataclass(frozen=True)
class Path:
    """What a healthy container does first, the steps of the one that is stopped, and what a healthy
    one does then.
    """

    act: Step
    first: Step = lambda world, container: None
    answers: tuple[int | None, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    other_environ: dict[str, str] = field(default_factory=dict)  # of the container that is stopped
    # what others do at the same time, each in a container of its own
    meanwhile: tuple[Step, ...] = ()
    last: Step = lambda world, container: None


PAIRS = int(os.environ.get("PAIRS", "6"))  # so many of each path; `make chaos` takes all
pytestmark = pytest.mark.timeout(300)
SOME_FAULTS = (Fault.DIES_BEFORE, Fault.THROTTLED, Fault.ANSWER_LOST, Fault.ALL_ANSWERS_LOST)
WITH_WEBHOOK = {"ZAPIER_WEBHOOK_URL": ENVIRON["ZAPIER_WEBHOOK_URL"]}
PULL_ONLY = {"ZAPIER_WEBHOOK_URL": "none"}
COPIES_ONLY = {"ZAPIER_WEBHOOK_URL": "subscriptions"}
LATER = {**COPIES_ONLY, "BACKOFF_BASE_SECONDS": "7000"}
UNPUSHED = {"pull only": PULL_ONLY, "copies only": COPIES_ONLY}
NO_DELAY = {"BACKOFF_BASE_SECONDS": "0"}
AT_ONCE = {"IN_PROCESS_WAIT_SECONDS": "0"}
COPY = each(subscribe(), post_async)
CUSTOMER = each(does(Container.subscribe, A, tenant="a"), wait(20))
POST_FOR_CUSTOMER = does(Container.post, tenant="a")
NEW_COPY = each(does(Container.subscribe, "https://hooks.zapier.com/new"), wait(9), post_async)
POSTED = each(subscribe(), post)
CUT_OFF = each(post, wait(3), say())  # its messages are in both lanes
MOVED_BACK = each(post, move_back)
DISABLED = each(subscribe(), disable)
REPORTED = subscribe(1, "a", "triggers.*")
DISABLED_COPY = each(COPY, disable)
MISSED_COPY = each(DISABLED_COPY, work)  # is failed
MISSED = each(post_async, subscribe())
DELIVERED_COPY = each(
    subscribe(), post_killed_before_the_event, wait(61), does(Container.sweep), work
)
PATHS = {
    "POST of a batch": Path(does(Container.post_batch, '{"n":1}', '{"n":2}'), answers=(503, 422)),
    "POST of a batch with keys to a subscription, and again until all are accepted": Path(
        post_batch_with_keys, first=subscribe(), answers=(200, 503)
    ),
    "POST of a batch with keys, a POST with one of them meanwhile": Path(
        does(Container.post_batch, *BATCH, has_keys=True),
        first=subscribe(),
        meanwhile=(does(Container.post, BATCH[1], idempotency_key=BATCH[1]),),
        last=post_batch_with_keys,
    ),
    "POST, to be retried": Path(post, answers=(503,)),
    "POST, refused for good": Path(post, answers=(422,)),
    "POST, respond-async": Path(post_async),
    "POST with a key, and again until it is accepted": Path(post_with_key, answers=(503,)),
    "POST with a key, repeated after it expired": Path(
        post_with_key, first=each(post_with_key, wait(30 * DAY_SECONDS))
    ),
    "worker, retried in process": Path(work, first=post_async, answers=(503, None, 200)),
    "worker, retried by queue": Path(work, first=post_async, answers=(503, 503), environ=AT_ONCE),
    "worker, refused for good": Path(work, first=post_async, answers=(503, 410)),
    "worker, exhausted": Path(
        work, first=post_async, answers=(503,) * 9, environ={"IN_PROCESS_WAIT_SECONDS": "20"}
    ),
    "worker, dead letter moved back fails again": Path(
        work, first=MOVED_BACK, answers=(422, 503, 422)
    ),
    "worker, message that cannot be read": Path(work, first=say("?")),
    "worker, timed out, and moved to the slow lane": Path(
        each(work, wait(3), work), first=post_async, answers=(None, 503)
    ),
    "worker, moves what timed out before": Path(work, first=CUT_OFF, answers=(None, 503)),
    "worker, sends on what belongs to a slow webhook": Path(
        each(know_that_the_webhook_is_slow, work, work), first=post_async, answers=(503,)
    ),
    "POST, marks a slow subscription": Path(
        each(post, post, post, post), first=subscribe(), answers=(None,) * 3, environ=COPIES_ONLY
    ),
    "replay, failed": Path(replay, first=post, answers=(422,)),
    "lease, acknowledge": Path(
        each(lease, acknowledge_leased), first=each(post, post_async), answers=(422,)
    ),
    "POST to a subscription": Path(post, first=subscribe()),
    "POST to a subscription that ends": Path(post, first=subscribe(), answers=(410,)),
    "POST to a subscription, with a key, until accepted": Path(post_with_key, first=subscribe()),
    "POST to a subscription, with a key, repeated": Path(
        post_with_key, first=each(subscribe(), post_with_key)
    ),
    "POST to more than are pushed at once": Path(post, first=subscribe(11)),
    "worker, a copy": Path(work, first=COPY, answers=(503, 200, 422)),
    "worker, a copy, acknowledged meanwhile": Path(
        work, first=COPY, answers=(422, 200, 503), meanwhile=(acknowledge_copies,)
    ),
    **{
        f"{what}, a customer's copy is refused for good": Path(
            act, first=first, answers=(422,), environ=COPIES_ONLY
        )
        for what, act, first in (
            ("POST", POST_FOR_CUSTOMER, CUSTOMER),
            (
                "worker",
                work,
                each(CUSTOMER, does(Container.post, tenant="a", prefer="respond-async")),
            ),
        )
    },
    "worker, a copy's target ends it": Path(work, first=COPY, answers=(503, 410, 410)),
    "worker with an old list, a copy of a new subscription": Path(
        each(post, elsewhere(NEW_COPY), work)
    ),
    "worker, a copy without its subscription": Path(work, first=each(COPY, unsubscribe)),
    "worker, a copy's dead letter moved back": Path(
        each(move_back, work), first=POSTED, answers=(422, 422, 503)
    ),
    **{
        f"{mode}, {what}": path
        for mode, environ in UNPUSHED.items()
        for what, path in {
            "POST to a subscription": Path(
                post, first=subscribe(), environ=environ, answers=(503,)
            ),
            "worker, a message of an event": Path(work, first=each(post, say()), environ=environ),
            "replay of a copy": Path(
                each(replay_copies, work), first=POSTED, environ=environ, answers=(422,)
            ),
            "worker, an event that is to be pushed": Path(work, first=COPY, other_environ=environ),
            "worker, a dead letter moved back": Path(
                work, first=MOVED_BACK, other_environ=environ, answers=(422,)
            ),
            "POST repeats one with a webhook": Path(
                post_with_key, first=DELIVERED_COPY, other_environ=environ
            ),
            "replay with a webhook": Path(
                replay, first=post, environ=environ, other_environ=WITH_WEBHOOK
            ),
        }.items()
    },
    "worker, a copy of a disabled subscription": Path(work, first=DISABLED_COPY),
    "enable, and replay what was missed": Path(
        enable, first=MISSED_COPY, last=expect_delivered_copies
    ),
    "POST to a subscription, its second dead letter disables it": Path(
        post, first=POSTED, answers=(422, 200, 422), environ={"SUBSCRIPTION_DISABLE_DAYS": "0"}
    ),
    "POST, refused for good, and reported": Path(post, first=REPORTED, answers=(200, 422)),
    "pull only, replay": Path(replay, first=each(post, acknowledge), environ=PULL_ONLY),
    "sweep": Path(does(Container.sweep), first=lose_the_message),
    **{
        f"a mended subscription, {what}": Path(
            act,
            first=each(subscribe(), post, fail, first),
            answers=(503,),
            environ=LATER,
            last=last,
        )
        for what, act, first, last in (
            ("POST", post, wait(0), expect_that_nothing_waits),
            ("sweep and worker", each(does(Container.sweep), work), post, wait(0)),
        )
    },
    "sweep, lets a mended subscription catch up, sweep and recover meanwhile": Path(
        each(does(Container.sweep), work),
        first=each(subscribe(), post, fail, post),
        answers=(503,),
        environ=LATER,
        meanwhile=(does(Container.sweep), recover),
        last=expect_one_arrival,
    ),
    "a webhook and a subscription, the same POST with the same key": Path(
        ONE, first=subscribe(), meanwhile=(ONE,), last=post_again
    ),
    "2 subscriptions, copies only, another POST with the same key": Path(
        ONE, first=subscribe(2), environ=COPIES_ONLY, meanwhile=(OTHER,), last=post_again
    ),
    "POST, acknowledged, replayed and pushed meanwhile": Path(
        post, answers=(503,), meanwhile=(each(acknowledge, replay, work),)
    ),
    "worker, acknowledged meanwhile": Path(work, first=post_async, meanwhile=(acknowledge,)),
    **{
        f"enable, {what} meanwhile": Path(
            enable, first=first, meanwhile=(other,), last=expect_delivered_copies
        )
        for what, first, other in (
            ("POST", MISSED_COPY, each(know, post_async)),
            ("replay", MISSED_COPY, replay_copies),
            ("worker", DISABLED_COPY, work),
        )
    },
    "send": Path(send, first=each(post, subscribe()), last=expect_recovered_copies),
    "recover": Path(
        recover, first=each(post, post_async, subscribe()), last=expect_recovered_copies
    ),
    **{
        f"send, {what} meanwhile": Path(
            send, first=first, meanwhile=others, answers=(503,), last=expect_recovered_copies
        )
        for what, first, others in (
            ("sent", each(post_async, subscribe(2)), (send_to_the_last,)),
            ("recover", MISSED, (recover,)),
            ("worker", MISSED, (work,)),
            ("lease", MISSED, (each(lease, acknowledge_leased),)),
            ("POST with the same key", each(ONE, subscribe()), (ONE,)),
            ("POST and another POST with the same key", subscribe(), (ONE, OTHER)),
        )
    },
    "recover, recover meanwhile": Path(
        recover, first=MISSED, meanwhile=(recover,), last=expect_recovered_copies
    ),
    **{
        f"{name}, failed and waiting": Path(
            act,
            first=each(subscribe(), post, wait(61), post),
            answers=(422, 503),
            environ=LATER,
            last=expect_one_arrival,
        )
        for name, act in (("recover", recover), ("recover undelivered", recover_undelivered))
    },
    **{
        f"recover undelivered, {what} meanwhile": Path(
            recover_undelivered,
            first=each(subscribe(), ONE, wait(61)),
            answers=(status_code,),
            environ=LATER,
            meanwhile=(other,),
            last=last,
        )
        for what, status_code, other, last in (
            ("failed, recovered", 422, recover, expect_one_arrival),
            ("failed, pushed_again", 422, each(replay_copies, work), expect_one_arrival),
            ("failed, redriven", 422, each(move_back, work), expect_one_arrival),
            ("failed, erased", 422, erase, erase_and_post_again),
            ("waiting, paused", 503, pause, each(enable, expect_recovered_copies)),
        )
    },
    "send, erased meanwhile": Path(
        send,
        first=each(ONE_ASYNC, work, subscribe()),
        meanwhile=(erase,),
        last=erase_and_post_again,
    ),
    **{
        f"make a subscription again, {what} meanwhile": Path(
            subscribe_with_headers,
            first=subscribe_with_headers,
            meanwhile=others,
            last=expect_headers_at_their_url,
        )
        for what, others in {
            "edit": (edit(target_url=B),),
            "edit with headers": (edit(target_url=B, headers={"x-for": B}),),
            "make it again and edit": (subscribe_with_headers, edit(target_url=B)),
        }.items()
    },
    "make a subscription twice, and edit": Path(
        subscribe_with_headers,
        meanwhile=(each(subscribe_with_headers, edit(target_url=B)),),
        last=expect_headers_at_their_url,
    ),
    "worker, a message in both lanes": Path(
        does(Container.work, queues=[INBOX]),
        first=CUT_OFF,
        answers=(None, 503),
        meanwhile=(does(Container.work, queues=[SLOW]),),
        environ=NO_DELAY,
    ),
    "worker, leased meanwhile": Path(work, first=post_async, meanwhile=(lease,)),
    "worker, another worker": Path(
        work, first=post_async, answers=(429, 429), meanwhile=(each(say(), work),), environ=NO_DELAY
    ),
    "lease that ends, leased and released by another": Path(
        each(lease, wait(100), lease, wait(1), acknowledge_leased),
        first=post,
        answers=(422,),
        meanwhile=(each(lease, release),),
    ),
    "POST, posted and erased": Path(
        ONE, first=subscribe(), meanwhile=(each(ONE_ASYNC, erase), work), last=erase_and_post_again
    ),
    **{
        f"erase, {what}": Path(
            erase, first=each(subscribe(), ONE_ASYNC), meanwhile=others, last=erase_and_post_again
        )
        for what, others in {
            "POST, worker": (ONE, work),
            "erase, worker": (erase, work),
            "POST, POST": (ONE, ONE_ASYNC),
        }.items()
    },
    "replay, erased meanwhile": Path(
        replay,
        first=each(subscribe(), ONE_ASYNC),
        meanwhile=(erase,),
        last=erase_and_post_again,
    ),
}


class ExploredWorld(SimulatedWorld):
    """At each call it is chosen whether it fails, as one may, and who goes on.

    That is the first of the options but for `departures`, by the number of the choice; `options`
    counts them.
    """

    def __init__(self, path: Path, departures: dict[int, int]) -> None:
        super().__init__(path.environ)
        self.answers = list(path.answers)
        self.departures = departures
        self.options: list[int] = []
        self.calls: list[str] = []
        self._path = path
        self._is_explored = False

    def live(self) -> None:
        path = self._path
        path.first(self, Container(self))
        self.faults = 0
        self._is_explored = True
        for step in reversed((path.act, *path.meanwhile)):
            container = Container(self, self._fault, path.other_environ)
            self.hub.spawn(partial(step, self, container))
        self.hub.run()
        self._is_explored = False
        assert self.faults or not self.unavailable
        path.last(self, Container(self))
        self.settle()
        self.check()

    def choose(self, count: int) -> int:
        """Let who made the latest call go on, or others; a read from the index is no choice, for a
        write follows it.
        """
        if not (self._is_explored and self._path.meanwhile):
            return 0
        is_choice = self.calls and self.calls[-1] != "dynamodb.query"
        others = min(count - 1, len(self._path.meanwhile)) if is_choice else 0
        return self._option(1 + others) - 1  # -1: the last one

    def _fault(self, label: str) -> Fault | None:
        self.calls.append(label)
        if self.faults or self.calls[-3:] == [label] * 3:  # one of many alike
            return None
        options: list[Fault | None] = [None, *(SOME_FAULTS if self._path.meanwhile else Fault)]
        return options[self._option(len(options))]

    def _option(self, count: int) -> int:
        self.options.append(count)
        return self.departures.get(len(self.options) - 1, 0)


def explore(name: str, departures: dict[int, int]) -> list[dict[int, int]]:
    """Live with these departures; return them with one more each, that comes later."""
    world = ExploredWorld(PATHS[name], departures)
    try:
        world.live()
    except AssertionError as error:
        error.add_note(f"{name}: {departures} {world.calls}")
        raise
    later = range(max(departures, default=-1) + 1, len(world.options))
    return [
        {**departures, number: option}
        for number in later
        for option in range(1, world.options[number])
    ]


@pytest.mark.parametrize("name", PATHS)
def test_nothing_is_lost_wherever_a_path_is_stopped_and_others_come_in_between(name: str) -> None:
    pairs = [pair for one in explore(name, {}) for pair in explore(name, one)]
    if PATHS[name].meanwhile:
        for pair in Random(name).sample(pairs, min(PAIRS, len(pairs))):
            explore(name, pair)


def test_a_copy_is_deleted_under_its_own_claim_alone() -> None:
    world = SimulatedWorld({})
    container = Container(world)
    COPY(world, container)
    copy_id, _ = world.items()
    store = container.services.store
    assert not store.delete_claimed(replace(world.items()[copy_id], claim_id="of another")).applied
    assert store.get(copy_id)
