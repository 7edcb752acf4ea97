"""Every path is stopped at every call it makes, in every way, and nothing is lost.

The points are found by running: a call that is new tomorrow is covered tomorrow.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.crash.simulated_world import DLQ, ENVIRON, INBOX, Container, Fault, SimulatedWorld

Step = Callable[[SimulatedWorld, Container], None]


def post(world: SimulatedWorld, container: Container) -> None:
    container.post()


def post_async(world: SimulatedWorld, container: Container) -> None:
    container.post(prefer="respond-async")


def post_with_key(world: SimulatedWorld, container: Container) -> None:
    if container.post(idempotency_key="k") is None:
        assert Container(world).post(idempotency_key="k")


def post_twice(world: SimulatedWorld, container: Container) -> None:
    """The first push times out and opens the breaker; the second event is queued."""
    container.post()
    container.post()


def work(world: SimulatedWorld, container: Container) -> None:
    container.work()


def lose_the_message(world: SimulatedWorld, container: Container) -> None:
    container.post(prefer="respond-async")
    for message in world.receive(INBOX):
        world.sqs.delete_message(QueueUrl=INBOX, ReceiptHandle=message["ReceiptHandle"])
    world.clock.sleep(61)


def move_back(world: SimulatedWorld, container: Container) -> None:
    for message in world.receive(DLQ):
        world.move_back(message)
        world.sqs.delete_message(QueueUrl=DLQ, ReceiptHandle=message["ReceiptHandle"])


def acknowledge(world: SimulatedWorld, container: Container) -> None:
    container.acknowledge(next(iter(world.history.accepted)))


def replay(world: SimulatedWorld, container: Container) -> None:
    container.replay(next(iter(world.history.accepted)))


def post_killed_before_the_event(world: SimulatedWorld, container: Container) -> None:
    """Store copies of an event, and never the event."""

    def fault_at(number: int, label: str) -> Fault | None:
        is_event = label == "dynamodb.put_item" and len(world.history.stored_at) == len(world.history.subscribed_at)
        return Fault.DIES_BEFORE if is_event else None

    assert Container(world, fault_at).post(idempotency_key="k") is None


def sweep_later(world: SimulatedWorld, container: Container) -> None:
    world.clock.sleep(61)
    container.sweep()
    container.work()


def post_another_body(world: SimulatedWorld, container: Container) -> None:
    container.post('{"n":1}', idempotency_key="k")


def acknowledge_meanwhile(world: SimulatedWorld, container: Container) -> None:
    world.while_pushing = Container(world).acknowledge
    container.post()


def say(text: str) -> Step:
    def send(world: SimulatedWorld, container: Container) -> None:
        world.sqs.send_message(QueueUrl=INBOX, MessageBody=text, MessageAttributes={})

    return send


def say_first(world: SimulatedWorld, container: Container) -> None:
    """Send a message for an event, as a stage that pushed before may have left."""
    say(json.dumps({"event_id": next(iter(world.history.accepted))}))(world, container)


def lease(world: SimulatedWorld, container: Container) -> None:
    container.lease(seconds=100)


def acknowledge_leased(world: SimulatedWorld, container: Container) -> None:
    for event_id, lease_id in sorted(world.history.leases):
        container.acknowledge(event_id, lease_id)


def release(world: SimulatedWorld, container: Container) -> None:
    for event_id, lease_id in sorted(world.history.leases):
        container.release(event_id, lease_id)


def let_leases_end(world: SimulatedWorld, container: Container) -> None:
    world.clock.sleep(101)


def lease_then_work(world: SimulatedWorld, container: Container) -> None:
    lease(world, Container(world))
    container.work()


def subscribe(count: int = 1) -> Step:
    def act(world: SimulatedWorld, container: Container) -> None:
        for number in range(count):
            container.subscribe(f"https://hooks.zapier.com/{number}")
        world.clock.sleep(20)  # until every container knows

    return act


def know_no_subscription(world: SimulatedWorld, container: Container) -> None:
    """Let a container read the list before a subscription is made, of which another container stores a copy."""
    container.post()
    other = Container(world)
    other.subscribe("https://hooks.zapier.com/new")
    world.clock.sleep(9)
    other.post(prefer="respond-async")


def unsubscribe(world: SimulatedWorld, container: Container) -> None:
    for subscription_id in sorted(world.history.subscribed_at):
        container.unsubscribe(subscription_id)


def each(*steps: Step) -> Step:
    def act(world: SimulatedWorld, container: Container) -> None:
        for step in steps:
            step(world, container)

    return act


@dataclass(frozen=True)
class Path:
    """What a healthy container does first, and then the steps of the one that is stopped."""

    act: Step
    first: Step = lambda world, container: None
    answers: tuple[int | None, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    other_environ: dict[str, str] = field(default_factory=dict)  # of the container that is stopped


WEBHOOK = ENVIRON["ZAPIER_WEBHOOK_URL"]
PULL_ONLY = {"ZAPIER_WEBHOOK_URL": "none"}
AT_ONCE = {"IN_PROCESS_WAIT_SECONDS": "0"}
PATHS = {
    "POST, delivered": Path(post),
    "POST, to be retried": Path(post, answers=(503,)),
    "POST, receiver hangs": Path(post, answers=(None,)),
    "POST, refused for good": Path(post, answers=(404,)),
    "POST, last attempt": Path(post, answers=(503,), environ={"MAX_DELIVERY_ATTEMPTS": "1"}),
    "POST, respond-async": Path(post_async),
    "POST, breaker open": Path(post_twice, answers=(None,)),
    "POST, delay over 900 s": Path(post, answers=(503,), environ={"BACKOFF_BASE_SECONDS": "2000"}),
    "POST with a key, and again until it is accepted": Path(post_with_key, answers=(503,)),
    "POST with a key, repeated": Path(post_with_key, first=post_with_key),
    "POST, acknowledged while it is pushed": Path(acknowledge_meanwhile),
    "worker, delivered": Path(work, first=post_async),
    "worker, retried in process": Path(work, first=post_async, answers=(503, None, 200)),
    "worker, retried by queue": Path(work, first=post_async, answers=(503, 503), environ=AT_ONCE),
    "worker, delay over 900 s": Path(
        work, first=post_async, answers=(503,), environ={"BACKOFF_BASE_SECONDS": "2000", **AT_ONCE}
    ),
    "worker, refused for good": Path(work, first=post_async, answers=(503, 410)),
    "worker, exhausted": Path(work, first=post_async, answers=(503,) * 9, environ={"IN_PROCESS_WAIT_SECONDS": "20"}),
    "worker, dead letter moved back": Path(work, first=each(post, move_back), answers=(404,)),
    "worker, dead letter moved back fails again": Path(work, first=each(post, move_back), answers=(404, 503, 404)),
    "worker, message that cannot be read": Path(work, first=say("?")),
    "worker, message of an unknown event": Path(work, first=say('{"event_id": "evt_' + "0" * 32 + '"}')),
    "acknowledge, pending": Path(acknowledge, first=post_async),
    "acknowledge, failed": Path(acknowledge, first=post, answers=(404,)),
    "replay, failed": Path(replay, first=post, answers=(404,)),
    "replay, delivered": Path(replay, first=post),
    "replay, pending": Path(replay, first=post_async),
    "replay, leased": Path(replay, first=each(post, lease), answers=(404,)),
    "lease": Path(lease, first=each(post, post_async), answers=(404,)),
    "lease, acknowledge": Path(each(lease, acknowledge_leased), first=each(post, post_async), answers=(404,)),
    "lease, acknowledge too late": Path(each(lease, let_leases_end, acknowledge_leased), first=post_async),
    "lease, release": Path(each(lease, release), first=each(post, post_async), answers=(404,)),
    "lease, acknowledged by another": Path(each(lease, acknowledge, acknowledge_leased), first=post_async),
    "worker, leased meanwhile": Path(lease_then_work, first=post_async),
    "worker, dead letter moved back, leased": Path(lease_then_work, first=each(post, move_back), answers=(404,)),
    "subscribe": Path(each(subscribe(), post)),
    "unsubscribe": Path(unsubscribe, first=each(subscribe(), post_async)),
    "POST to a subscription": Path(post, first=subscribe()),
    "POST to a subscription, one refuses": Path(post, first=subscribe(), answers=(404,)),
    "POST to a subscription that ends": Path(post, first=subscribe(), answers=(410,)),
    "POST to a subscription, with a key, until accepted": Path(post_with_key, first=subscribe()),
    "POST to a subscription, with a key, repeated": Path(post_with_key, first=each(subscribe(), post_with_key)),
    "POST to more than are pushed at once": Path(post, first=subscribe(11)),
    "worker, a copy": Path(work, first=each(subscribe(), post_async), answers=(503, 200, 404)),
    "worker, a copy's target ends it": Path(work, first=each(subscribe(), post_async), answers=(503, 410, 410)),
    "worker with an old list, a copy of a new subscription": Path(each(know_no_subscription, work)),
    "worker, a copy without its subscription": Path(work, first=each(subscribe(), post_async, unsubscribe)),
    "worker, a copy's dead letter moved back": Path(
        each(move_back, work), first=each(subscribe(), post), answers=(404, 404, 503)
    ),
    "pull only, POST": Path(post, environ=PULL_ONLY),
    "pull only, POST to a subscription": Path(post, first=subscribe(), environ=PULL_ONLY, answers=(503,)),
    "pull only, POST to a subscription, delivered": Path(post, first=subscribe(), environ=PULL_ONLY),
    "pull only, POST to two, one delivers": Path(post, first=subscribe(2), environ=PULL_ONLY, answers=(404, 200)),
    "pull only, POST to a subscription, refused": Path(post, first=subscribe(), environ=PULL_ONLY, answers=(404,)),
    "pull only, POST to a subscription that ends": Path(post, first=subscribe(), environ=PULL_ONLY, answers=(410,)),
    "pull only, POST with a key, until accepted": Path(post_with_key, first=subscribe(2), environ=PULL_ONLY),
    "pull only, POST repeated after the sweep delivered a copy": Path(
        post_with_key, first=each(subscribe(), post_killed_before_the_event, sweep_later), environ=PULL_ONLY
    ),
    "pull only, a copy of the loser is delivered": Path(
        each(post_another_body, sweep_later),
        first=each(subscribe(), post_killed_before_the_event),
        environ=PULL_ONLY,
        answers=(404,),
    ),
    "pull only, worker, a copy": Path(work, first=each(subscribe(), post_async), environ=PULL_ONLY),
    "pull only, worker, a copy of a leased event": Path(
        each(lease, work, acknowledge_leased),
        first=each(subscribe(), post_async, let_leases_end),
        environ=PULL_ONLY,
        answers=(503,),
    ),
    "pull only, acknowledged while a copy is pushed": Path(acknowledge_meanwhile, first=subscribe(), environ=PULL_ONLY),
    "pull only, worker with a webhook, a copy": Path(
        work, first=each(subscribe(), post_async), environ=PULL_ONLY, other_environ={"ZAPIER_WEBHOOK_URL": WEBHOOK}
    ),
    "pull only, POST with a webhook repeats a POST": Path(
        post_with_key,
        first=each(subscribe(), post_killed_before_the_event, sweep_later),
        environ=PULL_ONLY,
        other_environ={"ZAPIER_WEBHOOK_URL": WEBHOOK},
    ),
    "pull-only worker, an event that is to be pushed": Path(
        work, first=each(subscribe(), post_async), other_environ=PULL_ONLY
    ),
    "pull-only POST repeats one with a webhook": Path(
        post_with_key, first=each(subscribe(), post_killed_before_the_event, sweep_later), other_environ=PULL_ONLY
    ),
    "pull only, lease": Path(each(lease, acknowledge_leased), first=post, environ=PULL_ONLY),
    "pull only, release": Path(each(lease, release), first=post, environ=PULL_ONLY),
    "pull only, replay": Path(replay, first=each(post, acknowledge), environ=PULL_ONLY),
    "pull only, worker": Path(work, first=each(post, say_first), environ=PULL_ONLY),
    "sweep": Path(lambda world, container: container.sweep(), first=lose_the_message),
    "check_dlq": Path(lambda world, container: container.check_dlq(), first=post, answers=(404,)),
}


def calls_of(path: Path, point: int | None = None, fault: Fault | None = None) -> list[str]:
    """Live through a path, with a fault at one of its calls, and all that comes after it; return the calls."""
    world = SimulatedWorld(path.environ)
    world.answers = list(path.answers)
    path.first(world, Container(world))
    container = Container(world, lambda number, label: fault if number == point else None, environ=path.other_environ)
    path.act(world, container)
    world.settle()
    world.check()
    return container.calls


@pytest.mark.parametrize("name", PATHS)
def test_nothing_is_lost_wherever_a_path_is_stopped(name: str) -> None:
    path = PATHS[name]
    calls = calls_of(path)
    assert calls
    for point, label in enumerate(calls):
        if calls[point - 1 : point + 2] == [label] * 3:  # one of many alike
            continue
        for fault in Fault:
            try:
                calls_of(path, point, fault)
            except AssertionError as error:
                raise AssertionError(f"{name}: call {point + 1}, {label}: {fault}: {error}") from error


@pytest.mark.parametrize("subscriptions", [1, 2])
@pytest.mark.parametrize("environ", [{}, PULL_ONLY], ids=["webhook", "pull only"])
@pytest.mark.parametrize("other", ['{"n":1}', '{"n":2}'], ids=["same body", "another body"])
def test_of_two_posts_with_one_key_one_wins_wherever_the_other_comes_in_between_and_it_is_stopped(
    other: str, environ: dict[str, str], subscriptions: int
) -> None:
    def calls_of_both(at: int, point: int | None = None, fault: Fault | None = None) -> int:
        """Post both, the other before call `at` of the first; return how many calls the first made."""
        world = SimulatedWorld(environ)
        subscribe(subscriptions)(world, Container(world))
        accepted, todo = [], {at}

        def fault_at(number: int, label: str) -> Fault | None:
            if number in todo:
                todo.remove(number)
                accepted.append(Container(world).post(other, idempotency_key="k"))
            return fault if number == point else None

        first = Container(world, fault_at)
        accepted.append(first.post('{"n":1}', idempotency_key="k"))
        is_same = other == '{"n":1}' or at < 0
        assert accepted.count(None) == (0 if is_same else 1) or fault
        assert any(accepted) or Container(world).post('{"n":1}', idempotency_key="k")
        world.settle()
        world.check()
        return len(first.calls)

    for at in range(calls_of_both(-1)):
        for point in range(calls_of_both(at)):
            for fault in Fault:
                try:
                    calls_of_both(at, point, fault)
                except AssertionError as error:
                    raise AssertionError(
                        f"the other before call {at + 1}, call {point + 1}: {fault}: {error}"
                    ) from error


def test_a_dead_letter_is_kept_if_the_lease_that_blocks_it_ends_meanwhile() -> None:
    world = SimulatedWorld({})
    world.answers = [404]
    container = Container(world)
    each(post, lease, move_back)(world, container)
    world.clock.sleep(95)  # of 100
    world.latency = lambda: (0.0, 7.0)  # type: ignore[method-assign]
    container.work()
    world.settle()
    world.check()
