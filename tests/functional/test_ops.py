"""The operator's commands, run as a user runs them against the real app over HTTP, and moto's SQS."""

import functools
import itertools
import os
import re
import shlex
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import click
import pytest
from chalice.config import Config
from chalice.local import ChaliceRequestHandler, create_local_server
from click.testing import CliRunner

import app
from chalicelib.queue import Queue
from tests.support import receiver as receivers
from tests.support.receiver import Receiver
from tests.support.world import KEY, World
from tools.ops import Pace, cli, move_messages

FAST = ("--rate", "10000")
ALWAYS = ("--since", "2026-01-01", "--until", "2027-01-01")


@pytest.fixture(autouse=True)
def _environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STAGE", "TRIGGERS_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("INBOX_QUEUE_URL", "INBOX_DLQ_URL"):
        monkeypatch.setenv(name, world.environ[name])
    monkeypatch.setenv("TRIGGERS_API_KEY", KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


class Ran:
    """What a command wrote. The app runs in the same process: its JSON lines are left out."""

    def __init__(self, *arguments: str, status: int = 0) -> None:
        result = CliRunner().invoke(cli, arguments)
        self.output = "".join(line for line in result.stdout.splitlines(keepends=True) if not line.startswith('{"'))
        self.errors = result.stderr
        assert result.exit_code == status, result.output


Before = Callable[..., None]


@pytest.fixture
def before(world: World) -> Iterator[Before]:
    """Return a function that makes something happen before the nth call of a kind: of a command's SQS client (`sqs.`),
    or of the app's DynamoDB client (`dynamodb.`).
    """
    boto3.setup_default_session()
    assert boto3.DEFAULT_SESSION
    emitters = {"sqs": boto3.DEFAULT_SESSION.events, "dynamodb": world.dynamodb.meta.events}
    registered: list[tuple[str, Callable[..., None]]] = []

    def register(operation: str, act: Callable[[], None], number: int = 1) -> None:
        numbers = itertools.count(1)

        def count(**_: object) -> None:
            if next(numbers) == number:
                act()

        emitters[operation.partition(".")[0]].register(f"before-call.{operation}", count)
        registered.append((operation, count))

    yield register
    for operation, count in registered:
        emitters[operation.partition(".")[0]].unregister(f"before-call.{operation}", count)
    boto3.DEFAULT_SESSION = None


class Killed(BaseException):
    """The process ends here."""


def kill() -> None:
    raise Killed


def interrupt() -> None:
    """Press Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def fail(world: World, receiver: Receiver, count: int = 1) -> list[str]:
    """Make `count` dead letters; return the event ids, oldest first, a second between them."""
    receiver.default = receivers.status(404)
    event_ids = []
    for _ in range(count):
        event_ids.append(world.post({"card": "secret-payload"})["event_id"])
        world.clock.sleep(1)
    receiver.default = receivers.status(200)
    return event_ids


def run_workers(world: World) -> None:
    while world.run_worker():
        pass


def pushes(receiver: Receiver) -> Counter[str]:
    return Counter(request.headers["webhook-id"] for request in receiver.requests)


def contents(messages: list[dict[str, Any]]) -> list[tuple[str, dict[str, str]]]:
    return [(message["body"], message["attributes"]) for message in messages]


def test_dlq_shows_depth_and_reasons_without_removing_or_hiding_a_message(world: World, receiver: Receiver) -> None:
    [event_id] = fail(world, receiver)
    world.send("secret \x1b[2J text")
    run_workers(world)

    shown = Ran("dlq").output

    assert re.search(rf"{event_id} +permanent +1 +\S+Z +404", shown)
    assert re.search(r"message \S+ +malformed", shown)
    assert shown.endswith("triggers-api-dev-inbox-dlq holds 2 messages, 2 of them shown\n")
    assert "secret" not in shown
    assert "\x1b" not in shown
    world.clock.sleep(0.001)
    assert Queue(world.outside, world.environ["INBOX_DLQ_URL"]).depth() == 2


def test_an_unknown_stage_is_one_line(world: World) -> None:
    ran = Ran("dlq", "--stage", "nowhere", status=1)

    assert ran.errors.startswith("Error: triggers-api-nowhere-inbox-queue or -dlq does not exist")
    assert len(ran.errors.splitlines()) == 1


def test_redrive_sends_messages_on_unchanged_and_their_events_are_delivered(
    world: World, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INBOX_QUEUE_URL")
    event_ids = fail(world, receiver, 12)
    before = contents(world.dead_letters())

    said = Ran("redrive", "--stage", "dev", *FAST).output

    assert said == "moved 12 of 12 messages from triggers-api-dev-inbox-dlq to triggers-api-dev-inbox-queue\n"
    assert contents(world.messages()) == before
    assert world.dead_letters() == []
    run_workers(world)
    assert {world.event(event_id)["status"] for event_id in event_ids} == {"delivered"}


def test_a_redrive_killed_between_send_and_delete_loses_nothing_and_pushes_each_event_once(
    world: World, receiver: Receiver, before: Before
) -> None:
    event_ids = fail(world, receiver, 15)
    before("sqs.DeleteMessageBatch", kill, 2)
    with pytest.raises(Killed):
        Ran("redrive", *FAST)

    world.clock.sleep(31)  # the messages are visible again
    Ran("redrive", *FAST)

    assert world.dead_letters() == []
    run_workers(world)
    assert pushes(receiver) == Counter(event_ids * 2)


def test_a_redrive_that_is_stopped_says_how_far_it_came_and_how_to_go_on(
    world: World, receiver: Receiver, before: Before
) -> None:
    fail(world, receiver, 15)
    before("sqs.SendMessageBatch", interrupt, 2)

    errors = Ran("redrive", *FAST, status=130).errors

    assert "moved 10 of 15 messages" in errors
    assert re.search(r"To move the rest: \S+ -m tools.ops redrive --rate 10000\n", errors)


def test_a_redrive_ends_though_messages_come_back(world: World, before: Before) -> None:
    world.send("not a message of ours")
    run_workers(world)
    before("sqs.DeleteMessageBatch", lambda: run_workers(world))

    assert "moved 1 of 1 " in Ran("redrive", *FAST).output

    assert [message["body"] for message in world.dead_letters()] == ["not a message of ours"]


def test_messages_too_large_for_one_batch_are_moved(world: World) -> None:
    for letter in "ab":
        world.outside.send_message(QueueUrl=world.environ["INBOX_DLQ_URL"], MessageBody=letter * 200_000)

    Ran("redrive", *FAST)

    assert [message["body"][0] for message in world.messages()] == ["a", "b"]


def test_a_redrive_keeps_to_its_rate(world: World) -> None:
    source, target = (Queue(world.outside, world.environ[name]) for name in ("INBOX_DLQ_URL", "INBOX_QUEUE_URL"))
    source.send_many([(f"{number}", {}) for number in range(10)])
    start = world.clock()

    moments = [
        (count, world.clock() - start)
        for count in move_messages(source, target, 10, Pace(4, world.clock, world.clock.sleep))
    ]

    assert moments == [(4, 0), (4, 1), (2, 2)]


class QuietHandler(ChaliceRequestHandler):
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def api(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The app on loopback."""
    monkeypatch.setattr(app.app, "__class__", app.app.__class__)  # the server gives the app a class of its own
    config = Config.create()
    server = create_local_server(app.app, config, "127.0.0.1", 0).server
    server.daemon_threads = True
    server.RequestHandlerClass = functools.partial(QuietHandler, app_object=app.app, config=config)
    monkeypatch.setattr(server, "handle_error", lambda *_: None)  # a command that is stopped breaks its connection
    serving = threading.Thread(target=server.serve_forever, args=(0.05,))
    serving.start()
    monkeypatch.setenv("TRIGGERS_URL", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()
    serving.join()


def command_to_continue(errors: str) -> list[str]:
    [command] = re.findall(r"To continue: \S+ -m tools.ops (.*)", errors)
    return shlex.split(command)


@pytest.mark.usefixtures("api")
def test_show_tells_the_attempts_of_an_event_and_its_payload_only_when_asked(world: World, receiver: Receiver) -> None:
    receiver.script(receivers.status(503, body=b"come back later"))
    event_id = world.post({"card": "secret-payload"})["event_id"]
    world.settle()

    shown = Ran("show", event_id).output

    assert shown.startswith(f"{event_id}  order.created  delivered  posted by acme\nDelivered by attempt 2.\n")
    rows = (
        r"\S+Z +created",
        r"\S+Z +attempt: retry +\d+ ms +503 +come back later",
        r"\S+Z +attempt: delivered +\d+ ms +200",
    )
    assert re.search(" *\n".join(rows), shown)
    assert "secret" not in shown
    assert '"card": "secret-payload"' in Ran("show", event_id, "--payload").output


@pytest.mark.usefixtures("api")
def test_a_dry_run_of_a_replay_changes_nothing(world: World, receiver: Receiver) -> None:
    [event_id] = fail(world, receiver)

    said = Ran("replay", *ALWAYS, "--dry-run").output

    assert said.startswith("would be replayed: 1\n")
    assert event_id in said
    assert world.event(event_id)["status"] == "failed"
    assert world.messages() == []


@pytest.mark.usefixtures("api")
def test_a_replay_takes_the_events_of_a_period_and_a_type_oldest_first(world: World, receiver: Receiver) -> None:
    early, first, second, late = fail(world, receiver, 4)
    receiver.script(receivers.status(404))
    world.post(event_type="other.type")
    since, until = (world.event(event_id)["created_at"] for event_id in (first, second))

    said = Ran("replay", "--since", since, "--until", until, "--event-type", "order.created", *FAST).output

    assert said == "replayed 2 of 2 events\n"
    assert [message["attributes"]["EventId"] for message in world.messages()] == [first, second]
    assert [world.event(event_id)["status"] for event_id in (early, late)] == ["failed", "failed"]


@pytest.mark.usefixtures("api")
def test_a_replay_that_is_stopped_prints_the_command_that_goes_on(
    world: World, receiver: Receiver, before: Before
) -> None:
    event_ids = fail(world, receiver, 5)
    before("dynamodb.UpdateItem", interrupt, 3)

    errors = Ran("replay", *ALWAYS, *FAST, status=130).errors
    assert errors.startswith("replayed 2 of 5 events\n")
    Ran(*command_to_continue(errors))

    run_workers(world)
    assert pushes(receiver) == Counter(event_ids * 2)


@pytest.mark.usefixtures("api")
def test_an_event_that_is_held_is_skipped_and_named(world: World, receiver: Receiver) -> None:
    leased, free = fail(world, receiver, 2)
    world.services.store.lease(leased, "lease", 60)

    ran = Ran("replay", leased, free, *FAST, status=1)

    assert ran.output == f"replayed 1 of 2 events\nskipped, being pushed, leased or gone: {leased}\n"
    assert ran.errors == "Error: some events were skipped\n"


@pytest.mark.usefixtures("api")
def test_send_posts_one_event_from_its_arguments(world: World) -> None:
    said = Ran("send", "--type", "invoice.paid", "--payload", '{"n": 1}', "--metadata", '{"source": "shop"}').output

    event = world.event(said.split(":")[0])
    assert (event["event_type"], event["payload"], event["metadata"]) == ("invoice.paid", {"n": 1}, {"source": "shop"})


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A file of four events, of which two are equal."""
    file = tmp_path / "events.jsonl"
    numbers = (1, 2, 2, 3)
    file.write_text("".join(f'{{"event_type": "a", "payload": {{"n": {number}}}}}\n' for number in numbers))
    return file


def stored(world: World) -> int:
    return len(world.call("GET", "/events").json["events"])


@pytest.mark.usefixtures("api")
def test_a_file_is_sent_once_however_often_the_command_runs(world: World, lines: Path) -> None:
    assert Ran("send", "-f", str(lines)).output == "4 of 4 lines: 4 sent\n"
    assert Ran("send", "-f", str(lines)).output == "4 of 4 lines: 4 sent before\n"
    assert stored(world) == 4

    assert Ran("send", "-f", str(lines), "--idempotency-key", "again").output == "4 of 4 lines: 4 sent\n"
    assert stored(world) == 8


@pytest.mark.usefixtures("api")
def test_a_file_that_was_stopped_is_completed_by_the_same_command(world: World, lines: Path, before: Before) -> None:
    before("dynamodb.PutItem", interrupt, 3)

    errors = Ran("send", "-f", str(lines), status=130).errors

    assert errors == "2 of 4 lines: 2 sent\nTo send the rest, run the same command again.\n"
    Ran("send", "-f", str(lines))
    assert stored(world) == 4


@pytest.mark.usefixtures("api")
def test_a_bad_line_is_named_and_the_others_are_sent(world: World, lines: Path) -> None:
    lines.write_text('not JSON\n\n{"event_type": "a"}\n' + lines.read_text())

    ran = Ran("send", "-f", str(lines), status=1)

    assert ran.output == "6 of 6 lines: 2 refused, 4 sent\n"
    assert re.match(r"line 1: 400: .*\nline 3: 400: .*payload.*\nError: some lines were refused\n$", ran.errors)
    assert stored(world) == 4


@pytest.mark.usefixtures("api")
def test_a_terminal_shows_a_progress_bar(lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    errors = click.unstyle(Ran("send", "-f", str(lines)).errors)

    assert re.search(r"sending ━+ 4/4", errors)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """An API that answers as a test tells it to."""
    with Receiver() as receiver:
        monkeypatch.setenv("TRIGGERS_URL", f"http://127.0.0.1:{receiver.port}")
        yield receiver


@pytest.mark.parametrize("code", [429, 503])
def test_a_call_is_repeated_when_the_api_asks_for_it(fake: Receiver, code: int) -> None:
    accepted = receivers.status(202, body=b'{"event_id": "evt_1", "message": "Stored."}')
    fake.script(receivers.status(code, headers={"Retry-After": "0"}, body=b"{}"), accepted)

    assert Ran("send", "--type", "a").output == "evt_1: Stored.\n"

    assert len({request.headers["idempotency-key"] for request in fake.requests}) == 1
    assert len(fake.requests) == 2


def test_a_replay_whose_response_is_lost_is_not_repeated(fake: Receiver) -> None:
    fake.script(receivers.close_without_answer())

    errors = Ran("replay", "evt_1", status=1).errors

    assert command_to_continue(errors) == ["replay", "evt_1", "--status=failed", "--rate=20"]
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        (receivers.status(401, body=b'{"detail": "No."}'), r"401: No. \(check TRIGGERS_URL and TRIGGERS_API_KEY\)"),
        (receivers.status(500, body=b'{"detail": "a\\u001b[2Jb"}'), r"500: a\?\[2Jb"),
        (receivers.status(404, body=b"<html>"), "404 without JSON: check TRIGGERS_URL"),
        (receivers.redirect("http://127.0.0.1:9/", 307), "307 without JSON: check TRIGGERS_URL"),
        (receivers.garbage(), r"cannot reach http://127.0.0.1:\d+: .*"),
    ],
)
def test_an_api_error_is_one_line_without_the_key(fake: Receiver, behaviour: Any, error: str) -> None:
    fake.default = behaviour

    errors = Ran("show", "evt_1", status=1).errors

    assert re.fullmatch(f"Error: {error}\n", errors)
    assert KEY not in errors


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://example.com", KEY),
        ("https://user:password@example.com", KEY),
        ("http://localhost.example.com", KEY),
        ("", KEY),
        ("https://example.com", ""),
        ("https://example.com", "k\nk"),
    ],
)
def test_no_call_is_made_without_a_safe_url_and_a_key(url: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIGGERS_URL", url)
    monkeypatch.setenv("TRIGGERS_API_KEY", key)

    assert "password" not in Ran("show", "evt_1", status=2).errors


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("replay", "evt_1", "--since", "2h"),
        ("replay", "--since", "yesterday"),
        ("send",),
        ("send", "--type", "a", "--payload", "{"),
        ("send", "--type", "a", "-f", __file__),
        ("send", "-f", __file__, "--payload", "{}"),
    ],
)
def test_wrong_usage_is_refused_before_anything_is_called(fake: Receiver, arguments: tuple[str, ...]) -> None:
    assert Ran(*arguments, status=2).errors.startswith("Usage: ")

    assert fake.requests == []
