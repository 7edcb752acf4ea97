"""Every path is stopped at every call it makes, in every way, and nothing is lost.

The points are found by running: a call that is new tomorrow is covered tomorrow.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.crash.rig import DLQ, INBOX, Fault, Process, Rig

Step = Callable[[Rig, Process], None]


def post(rig: Rig, process: Process) -> None:
    process.post()


def post_async(rig: Rig, process: Process) -> None:
    process.post(prefer="respond-async")


def post_with_key(rig: Rig, process: Process) -> None:
    if process.post(idempotency_key="k") is None:
        assert Process(rig).post(idempotency_key="k")


def post_twice(rig: Rig, process: Process) -> None:
    """The first push times out and opens the breaker; the second event is queued."""
    process.post()
    process.post()


def work(rig: Rig, process: Process) -> None:
    process.work()


def forget_messages(rig: Rig) -> None:
    while received := rig.sqs.receive_message(QueueUrl=INBOX, MaxNumberOfMessages=10).get("Messages"):
        for message in received:
            rig.sqs.delete_message(QueueUrl=INBOX, ReceiptHandle=message["ReceiptHandle"])


def lose_the_message(rig: Rig, process: Process) -> None:
    post_async(rig, process)
    forget_messages(rig)
    rig.clock.sleep(61)


def move_back(rig: Rig, process: Process) -> None:
    """Do what SQS's own redrive does with a dead letter."""
    process.post()
    (message,) = rig.sqs.receive_message(QueueUrl=DLQ, MaxNumberOfMessages=10)["Messages"]
    rig.sqs.delete_message(QueueUrl=DLQ, ReceiptHandle=message["ReceiptHandle"])
    rig.sqs.send_message(QueueUrl=INBOX, MessageBody=message["Body"])


def acknowledge(rig: Rig, process: Process) -> None:
    process.acknowledge(next(iter(rig.witness.accepted)))


def replay(rig: Rig, process: Process) -> None:
    process.replay(next(iter(rig.witness.accepted)))


def acknowledge_meanwhile(rig: Rig, process: Process) -> None:
    rig.while_pushing = [lambda event_id: Process(rig).acknowledge(event_id)]
    process.post()


def say(text: str) -> Step:
    def send(rig: Rig, process: Process) -> None:
        rig.sqs.send_message(QueueUrl=INBOX, MessageBody=text)

    return send


@dataclass(frozen=True)
class Path:
    """What a healthy process does first, and then the steps of the one that is stopped."""

    act: Step
    first: Step = lambda rig, process: None
    answers: tuple[int | None, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)


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
    "worker, dead letter moved back": Path(work, first=move_back, answers=(404,)),
    "worker, dead letter moved back fails again": Path(work, first=move_back, answers=(404, 503, 404)),
    "worker, message that cannot be read": Path(work, first=say("?")),
    "worker, message of an unknown event": Path(work, first=say('{"event_id": "evt_' + "0" * 32 + '"}')),
    "acknowledge, pending": Path(acknowledge, first=post_async),
    "acknowledge, failed": Path(acknowledge, first=post, answers=(404,)),
    "replay, failed": Path(replay, first=post, answers=(404,)),
    "replay, delivered": Path(replay, first=post),
    "replay, pending": Path(replay, first=post_async),
    "sweep": Path(lambda rig, process: process.sweep(), first=lose_the_message),
    "check_dlq": Path(lambda rig, process: process.check_dlq(), first=post, answers=(404,)),
}


def run(path: Path, point: int | None, fault: Fault | None) -> tuple[Rig, Process]:
    """Live through a path, with a fault at one of its calls, and all that comes after it."""
    rig = Rig(path.environ)
    rig.answers = list(path.answers)
    path.first(rig, Process(rig))
    process = Process(rig, lambda number, label: fault if number == point else None)
    path.act(rig, process)
    calls = list(process.calls)
    rig.while_pushing = []
    rig.settle()
    rig.check()
    process.calls = calls
    return rig, process


@pytest.mark.parametrize("name", PATHS)
def test_nothing_is_lost_wherever_a_path_is_stopped(name: str) -> None:
    path = PATHS[name]
    _, whole = run(path, None, None)
    for point, label in enumerate(whole.calls):
        for fault in Fault:
            try:
                run(path, point, fault)
            except AssertionError as error:
                raise AssertionError(f"{name}: call {point + 1}, {label}: {fault}: {error}") from error
    assert whole.calls
