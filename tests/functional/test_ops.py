"""The operator's commands, run as a user runs them: against the app on loopback, and moto's SQS."""

import itertools
import os
import re
import shlex
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import click
import pytest
from click.testing import CliRunner

from chalicelib.queue import Message, Queue
from tests.support import receiver as receivers
from tests.support.loopback import serve_app
from tests.support.receiver import Receiver
from tests.support.world import KEY, World
from tools.ops import cli, move_messages

FAST = ("--rate", "10000")
GO = ("--go", *FAST)

Before = Callable[[str, Callable[[], None], int], None]


@pytest.fixture(autouse=True)
def _environment(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve the app, and set what the commands read."""
    for name in ("STAGE", "MAKELEVEL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("INBOX_QUEUE_URL", "INBOX_DLQ_URL"):
        monkeypatch.setenv(name, world.environ[name])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("TRIGGERS_API_KEY", KEY)
    with serve_app() as port:
        monkeypatch.setenv("TRIGGERS_URL", f"http://127.0.0.1:{port}")
        yield


@pytest.fixture
def before(world: World) -> Iterator[Before]:
    """Return a function that makes something happen before the nth call of an operation.

    `sqs.` operations are the command's, `dynamodb.` operations the app's.
    """
    boto3.setup_default_session()
    assert boto3.DEFAULT_SESSION
    emitters = {"sqs": boto3.DEFAULT_SESSION.events, "dynamodb": world.dynamodb.meta.events}
    with ExitStack() as stack:

        def register(operation: str, act: Callable[[], None], number: int) -> None:
            numbers = itertools.count(1)

            def count(**_: object) -> None:
                if next(numbers) == number:
                    act()

            emitter = emitters[operation.partition(".")[0]]
            emitter.register(f"before-call.{operation}", count)
            stack.callback(emitter.unregister, f"before-call.{operation}", count)

        yield register
    boto3.DEFAULT_SESSION = None


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Ran:
    """What a command wrote. The app runs in the same process: its JSON lines are left out."""

    def __init__(self, *arguments: str, status: int = 0) -> None:
        result = CliRunner().invoke(cli, arguments)
        self.output = "".join(line for line in result.stdout.splitlines(keepends=True) if not line.startswith('{"'))
        self.errors = result.stderr
        assert result.exit_code == status, result.output


def fail(world: World, receiver: Receiver, count: int = 1) -> list[str]:
    """Make `count` dead letters, a second apart; return the event ids, oldest first."""
    receiver.default = receivers.status(404)
    event_ids = []
    for _ in range(count):
        event_ids.append(world.post({"card": "secret-payload"})["event_id"])
        world.clock.sleep(1)
    receiver.default = receivers.status(200)
    return event_ids


def pushes(receiver: Receiver) -> Counter[str]:
    return Counter(request.headers["webhook-id"] for request in receiver.requests)


def send_dead_letter(world: World, body: str, **options: str) -> None:
    world.outside.send_message(QueueUrl=world.environ["INBOX_DLQ_URL"], MessageBody=body, **options)


def test_dlq_groups_a_sample_without_removing_or_hiding_a_message(world: World, receiver: Receiver) -> None:
    *_, latest = fail(world, receiver, 2)
    copy = f'{{"event_id": "evt_{0:032}", "failed_at": "", "reason": "\\u001b[2Jodd"}}'
    send_dead_letter(world, copy, MessageGroupId="sub_1")
    send_dead_letter(world, "secret text")

    shown = Ran("dlq").output

    assert re.search(rf"webhook +permanent +2 +{latest} +\S+Z +1 +404", shown)
    assert re.search(r"sub_1 +\?\[2Jodd +1 +evt_0", shown)
    assert re.search(r"webhook +malformed +1 +message \S+", shown)
    assert shown.endswith("triggers-api-dev-inbox-dlq holds 4 messages; sample: 4\n")
    assert not re.search("secret|\x1b", shown)
    world.clock.sleep(0.001)
    assert Queue(world.outside, world.environ["INBOX_DLQ_URL"]).depth() == 4


def test_dlq_and_redrive_count_messages_in_flight(world: World, before: Before) -> None:
    url = world.environ["INBOX_DLQ_URL"]
    assert Ran("dlq").output == "triggers-api-dev-inbox-dlq is empty\n"
    send_dead_letter(world, "not a message of ours")
    [message] = Queue(world.outside, url).receive(wait_seconds=0)
    assert Ran("dlq").output == "triggers-api-dev-inbox-dlq holds 1 message, 1 of them in flight; sample: 0\n"

    def show() -> None:
        world.outside.change_message_visibility(QueueUrl=url, ReceiptHandle=message.receipt_handle, VisibilityTimeout=0)
        world.clock.sleep(0.001)

    send_dead_letter(world, "another")
    before("sqs.DeleteMessageBatch", show, 1)

    assert Ran("redrive", *FAST).output.startswith("moved 2 of 2 messages from ")


def test_an_unknown_stage_is_one_line() -> None:
    errors = Ran("dlq", "--stage", "nowhere", status=1).errors

    assert re.fullmatch("Error: triggers-api-nowhere-inbox-queue or -dlq does not exist .*\n", errors)


def test_redrive_sends_messages_on_unchanged_and_their_events_are_delivered(world: World, receiver: Receiver) -> None:
    event_ids = fail(world, receiver, 10)
    for letter in "ab":  # too large to be sent on together
        world.outside.send_message(QueueUrl=world.environ["INBOX_DLQ_URL"], MessageBody=letter * 600_000)
    before = [{**message, "id": ""} for message in world.dead_letters()]

    said = Ran("redrive", "--stage", "dev", *FAST).output

    assert said == "moved 12 of 12 messages from triggers-api-dev-inbox-dlq to triggers-api-dev-inbox-queue\n"
    assert [{**message, "id": ""} for message in world.messages()] == before
    assert world.dead_letters() == []
    world.settle()
    assert {world.event(event_id)["status"] for event_id in event_ids} == {"delivered"}


def test_a_redrive_stopped_between_send_and_delete_loses_nothing_and_pushes_each_event_once(
    world: World, receiver: Receiver, before: Before
) -> None:
    event_ids = fail(world, receiver, 15)
    before("sqs.DeleteMessageBatch", press_ctrl_c, 2)

    errors = Ran("redrive", *FAST, status=130).errors

    assert errors.startswith("moved 10 of 15 messages")
    assert re.search(r"To move the rest: \S+ -m tools.ops redrive --rate=10000\n$", errors)
    world.clock.sleep(31)  # what was received is visible again
    Ran("redrive", *FAST)
    assert world.dead_letters() == []
    world.settle()
    assert pushes(receiver) == Counter(event_ids * 2)


def test_a_redrive_ends_though_messages_come_back(world: World, before: Before) -> None:
    world.send("not a message of ours")
    world.settle()
    before("sqs.DeleteMessageBatch", world.settle, 1)

    assert Ran("redrive", *FAST).output.startswith("moved 1 of 1 ")

    assert [message["body"] for message in world.dead_letters()] == ["not a message of ours"]


def test_a_redrive_keeps_to_its_rate(world: World) -> None:
    source, target = (Queue(world.outside, world.environ[name]) for name in ("INBOX_DLQ_URL", "INBOX_QUEUE_URL"))
    source.send_many([Message(f"{number}", {}) for number in range(10)])
    slept: list[float] = []

    assert list(move_messages(source, target, 10, 4, slept.append)) == [4, 4, 2]

    assert slept == [1, 1, 0.5]


def test_show_tells_the_attempts_of_an_event_and_its_payload_only_when_asked(world: World, receiver: Receiver) -> None:
    receiver.script(receivers.status(503, body=b"come back later"))
    event_id = world.post({"card": "secret-payload"})["event_id"]
    world.settle()

    shown = Ran("show", event_id).output

    assert shown.startswith(f"{event_id}  order.created  delivered  posted by acme\nDelivered by attempt 2.\n")
    assert re.search(r"Z +created *\n\S+Z +attempt: retry +\d+ ms +503 +come back later *\n", shown)
    assert re.search(r"Z +attempt: delivered +\d+ ms +200", shown)
    assert "secret" not in shown
    assert '"card": "secret-payload"' in Ran("show", event_id, "--payload").output


def test_a_replay_takes_the_events_of_a_period_and_a_type_oldest_first(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _early, first, second, _late = fail(world, receiver, 4)
    receiver.script(receivers.status(404))
    world.post(event_type="other.type")
    since, until = (world.event(event_id)["created_at"] for event_id in (first, second))
    monkeypatch.setenv("STATUS", "pending")  # somebody else's variable
    ran = Ran("replay", "--since", since, "--until", until, "--event-type", "order.created", *FAST)

    assert re.search(rf"\n\S+Z +{first} +order.created .*\n\S+Z +{second} +order.created .*\n", ran.output)
    assert "\n2 events would be replayed. " in ran.output
    assert world.messages() == []

    assert Ran(*command_in(ran.output, "To push them again")).output == "replayed 2 of 2 events\n"
    assert [message["attributes"]["EventId"] for message in world.messages()] == [first, second]


def test_a_replay_that_is_stopped_prints_the_command_that_goes_on(
    world: World, receiver: Receiver, before: Before
) -> None:
    first, second, third, fourth = fail(world, receiver, 4)
    before("dynamodb.UpdateItem", press_ctrl_c, 3)

    errors = Ran("replay", "--since", "2026-01-01", "--until", "2027-01-01", *GO, status=130).errors
    assert errors.startswith("replayed 2 of 4 events\n")
    receiver.default = receivers.status(404)
    world.settle()  # what was replayed has failed again
    Ran(*command_in(errors, "To continue"))
    world.settle()

    counts = pushes(receiver)
    assert (counts[first], counts[second], counts[third] >= 2, counts[fourth]) == (2, 2, True, 2)


def command_in(text: str, what: str) -> list[str]:
    [command] = re.findall(rf"{what}: \S+ -m tools.ops (.*)", text)
    return shlex.split(command)


def test_an_event_that_is_held_is_skipped_and_named(world: World, receiver: Receiver) -> None:
    leased, free = fail(world, receiver, 2)
    world.services.store.lease(leased, "lease", 60)

    ran = Ran("replay", leased, free, *GO, status=1)

    assert re.fullmatch(f"replayed 1 of 2 events\nskipped, because .*: {leased}\n", ran.output)
    assert ran.errors == "Error: some events were skipped\n"


def test_send_posts_one_event_from_its_arguments(world: World) -> None:
    said = Ran("send", "--type", "invoice.paid", "--payload", '{"n": 1}', "--metadata", '{"source": "shop"}').output

    event = world.event(said.split(":")[0])
    assert (event["event_type"], event["payload"], event["metadata"]) == ("invoice.paid", {"n": 1}, {"source": "shop"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Four lines, of which two are equal, behind a byte order mark."""
    file = tmp_path / "events.jsonl"
    lines = [f'{{"event_type": "a", "payload": {{"n": {number}}}}}\n' for number in (1, 2, 2, 3)]
    file.write_text("".join(lines), encoding="utf-8-sig")
    return file


def stored(world: World) -> int:
    return len(world.call("GET", "/events").json["events"])


def test_a_file_is_queued_once_however_often_it_is_sent(world: World, receiver: Receiver, file: Path) -> None:
    assert Ran("send", "-f", str(file)).output == "4 of 4 lines: 4 sent\n"
    assert pushes(receiver) == {}
    assert Ran("send", "-f", str(file)).output == "4 of 4 lines: 4 sent before\n"
    assert stored(world) == 4

    assert Ran("send", "-f", str(file), "--idempotency-key", "again").output == "4 of 4 lines: 4 sent\n"
    assert stored(world) == 8


def test_a_file_that_was_stopped_is_completed_by_the_same_command(world: World, file: Path, before: Before) -> None:
    before("dynamodb.PutItem", press_ctrl_c, 3)

    errors = Ran("send", "-f", str(file), status=130).errors

    assert errors == "2 of 4 lines: 2 sent\nTo send the rest, run the same command again.\n"
    Ran("send", "-f", str(file))
    assert stored(world) == 4


def test_a_bad_line_is_named_and_the_others_are_sent(world: World, file: Path) -> None:
    file.write_text('not JSON\n\n{"event_type": "a"}\n' + file.read_text("utf-8-sig"))

    ran = Ran("send", "-f", str(file), status=1)

    assert ran.output == "6 of 6 lines: 2 refused, 4 sent\n"
    assert re.fullmatch(r"line 1: 400: .*\nline 3: 400: .*payload.*\nError: some lines were refused\n", ran.errors)
    assert stored(world) == 4


def test_a_terminal_shows_a_progress_bar(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    assert re.search(r"sending ━+ 4/4", click.unstyle(Ran("send", "-f", str(file)).errors))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """An API that answers as a test tells it to."""
    with Receiver() as receiver:
        monkeypatch.setenv("TRIGGERS_URL", f"http://127.0.0.1:{receiver.port}")
        yield receiver


@pytest.mark.parametrize("code", [429, 503])
def test_a_call_is_repeated_when_the_api_asks_for_it(fake: Receiver, code: int) -> None:
    accepted = receivers.status(202, body=b'{"event_id": "evt_1", "message": "Stored."}')
    fake.script(receivers.status(code, body=b"{}"), accepted)

    assert Ran("send", "--type", "a").output == "evt_1: Stored.\n"

    assert [*Counter(request.headers["idempotency-key"] for request in fake.requests).values()] == [2]


def test_a_replay_whose_response_is_lost_is_not_repeated(fake: Receiver) -> None:
    fake.script(receivers.close_without_answer)

    errors = Ran("replay", "evt_1", "--go", status=1).errors

    assert command_in(errors, "To continue") == ["replay", "evt_1", "--status=failed", "--rate=20", "--go"]
    assert re.search(r"\nError: cannot reach http://127.0.0.1:\d+: .*\n$", errors)
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (receivers.status(401, body=b'{"detail": "No."}'), r"401: No. \(check TRIGGERS_URL and TRIGGERS_API_KEY\)"),
        (receivers.status(500, body=b'{"detail": "a\\u001b[2Jb"}'), r"500: a\?\[2Jb"),
        (receivers.redirect("http://127.0.0.1:9/", 307), "307 without JSON: check TRIGGERS_URL"),
    ],
)
def test_an_api_error_is_one_line_without_the_key(fake: Receiver, behaviour: Any, error: str) -> None:
    fake.default = behaviour

    errors = Ran("show", "evt_1", status=1).errors

    assert re.fullmatch(f"Error: {error}\n", errors)
    assert KEY not in errors


@pytest.mark.parametrize("variable", ["URL=http://a.example", "URL=https://a:password@b.example", "URL=", "API_KEY="])
def test_no_call_is_made_without_a_safe_url_and_a_key(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, value = variable.partition("=")
    monkeypatch.setenv(f"TRIGGERS_{name}", value)

    assert "password" not in Ran("show", "evt_1", status=2).errors


@pytest.mark.parametrize("command", ["replay", "replay a --since 2h", "replay --since a", "send", "send --payload {"])
def test_wrong_usage_is_refused_before_anything_is_called(fake: Receiver, command: str) -> None:
    assert Ran(*command.split(), status=2).errors.startswith("Usage: ")

    assert fake.requests == []


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("show", ["EVENT_ID="]),
        ("replay", ["EVENT_ID=", "SINCE="]),
        ("replay --since a", ["SINCE="]),
        ("send", ["TYPE=", "PAYLOAD=", "FILE="]),
        ("send --payload {", ["PAYLOAD="]),
    ],
)
def test_errors_name_the_variables_of_make(command: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKELEVEL", "1")

    errors = Ran(*command.split(), status=1).errors

    assert errors.startswith("Error: ")
    assert [name for name in names if name not in errors] == []
    assert "--" not in errors


def test_make_replay_reads_variables_and_says_how_to_go_on(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    [event_id] = fail(world, receiver)
    for name, value in {"MAKELEVEL": "1", "EVENT_TYPE": "order.created", "RATE": "1", "SINCE": "2026-01-01"}.items():
        monkeypatch.setenv(name, value)

    said = Ran("replay").output

    [how] = re.findall(r"\n1 event would be replayed. To push them again: make replay (.*)\n", said)
    created_at = world.event(event_id)["created_at"]
    assert {f"SINCE={created_at}", "STATUS=failed", "EVENT_TYPE=order.created", "RATE=1", "GO=1"} < {*shlex.split(how)}
