"""The operator's commands against a running system, with an AWS whose queues can be looked into."""

import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import click
import pytest
from click.testing import CliRunner, Result
from moto.core.responses import ActionResult
from moto.server import ThreadedMotoServer
from moto.sqs.responses import SQSResponse

from chalicelib.events import compact
from tests.support import receiver as receivers
from tests.support.receiver import Receiver
from tests.support.running import ROOT, Run, running
from tools.ops import api as operators_api
from tools.ops import events as operators_events
from tools.ops import queues
from tools.ops.__main__ import main
from tools.ops.api import Api, BusyError, Pace
from tools.ops.output import OpsError
from tools.ops.stats import human, merged, percentile, sparkline

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*not supported by moto"),
]

NUMBERS = itertools.count()
STAGES = map("stage-{}".format, itertools.count())


class MoveTasks:
    """SQS's move tasks, which moto lacks: each look at a task moves `step` messages on.

    A new task is not in the next `lag` lists.
    """

    def __init__(self) -> None:
        self.step = 10
        self.lag = self.unlisted = 0
        self.started: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []

    def start(self, response: SQSResponse) -> ActionResult:
        asked = {
            name: response._get_param(name) for name in ("SourceArn", "DestinationArn", "MaxNumberOfMessagesPerSecond")
        }
        assert not any(task["Status"] == "RUNNING" for task in self.tasks), "AWS refuses a second one"
        source = response.sqs_backend.get_queue(asked["SourceArn"].rsplit(":", 1)[-1])
        self.started.append(asked)
        self.unlisted = self.lag
        self.tasks.insert(0, {
            **{name: value for name, value in asked.items() if value},
            "TaskHandle": f"task-{len(self.started)}",
            "Status": "RUNNING",
            "StartedTimestamp": 1_795_000_000_000 + len(self.started),
            "ApproximateNumberOfMessagesMoved": 0,
            "ApproximateNumberOfMessagesToMove": len(source._messages),
        })  # fmt: skip
        return ActionResult({"TaskHandle": self.tasks[0]["TaskHandle"]})

    def list(self, response: SQSResponse) -> ActionResult:
        mine = [task for task in self.tasks if task["SourceArn"] == response._get_param("SourceArn")]
        if self.unlisted:
            self.unlisted -= 1
            del mine[0]
        for task in mine:
            if task["Status"] == "RUNNING":
                self._move(response, task)
        return ActionResult({"Results": [dict(task) for task in mine]})

    def cancel(self, response: SQSResponse) -> ActionResult:
        task = next(task for task in self.tasks if task["TaskHandle"] == response._get_param("TaskHandle"))
        task["Status"] = "CANCELLED"
        return ActionResult({"ApproximateNumberOfMessagesMoved": task["ApproximateNumberOfMessagesMoved"]})

    def _move(self, response: SQSResponse, task: dict[str, Any]) -> None:
        source, destination = (
            response.sqs_backend.get_queue(task[name].rsplit(":", 1)[-1]) for name in ("SourceArn", "DestinationArn")
        )
        moved, source._messages[: self.step] = source._messages[: self.step], []
        for message in moved:
            destination.add_message(message)
        task["ApproximateNumberOfMessagesMoved"] += len(moved)
        if not source._messages:
            task["Status"] = "COMPLETED"


@pytest.fixture(scope="module")
def moto_tasks() -> Iterator[MoveTasks]:
    made = MoveTasks()
    with pytest.MonkeyPatch.context() as patch:
        for verb in ("start", "list", "cancel"):
            name = f"{verb}_message_move_task" + ("s" if verb == "list" else "")
            patch.setattr(SQSResponse, name, lambda self, verb=verb: getattr(made, verb)(self), raising=False)
        yield made


@pytest.fixture
def move_tasks(moto_tasks: MoveTasks) -> MoveTasks:
    moto_tasks.__init__()  # type: ignore[misc]
    return moto_tasks


@pytest.fixture(scope="module")
def emulator(moto_tasks: MoveTasks) -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def _environment(emulator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "POLL_SECONDS", 0)
    monkeypatch.setattr(queues, "WAIT_SECONDS", 0)
    for name in ("STAGE", "AWS_PROFILE", "TRIGGERS_URL", "TRIGGERS_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    for name, value in {
        "AWS_ENDPOINT_URL": emulator,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)


def make(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a make target in this environment, with this Python."""
    command = ["make", "--no-print-directory", "-o", ".venv/.set-up", f"PY={sys.executable}", *arguments]
    environ = {**os.environ, "MAKEFLAGS": "", "MAKELEVEL": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert bool(done.returncode) == bool(status), done.stderr
    return done


def run(*arguments: str, status: int = 0, stdin: str | None = None) -> Result:
    """Run a command in this process; its output is that of a pipe."""
    result = CliRunner().invoke(main, arguments, input=stdin)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result


class Stage:
    """The queues of a stage without a system: what lies in them stays there."""

    def __init__(self, sqs: Any) -> None:
        self.name = next(STAGES)
        self.sqs = sqs
        self.inbox_url, self.dlq_url = (
            self.sqs.create_queue(QueueName=f"triggers-api-{self.name}-{name}")["QueueUrl"]
            for name in ("inbox-queue", "inbox-dlq")
        )

    def bury(self, body: str | dict[str, object], reason: str = "") -> None:
        text = body if isinstance(body, str) else compact(body)
        attributes = {"Reason": {"DataType": "String", "StringValue": reason}} if reason else {}
        self.sqs.send_message(QueueUrl=self.dlq_url, MessageBody=text, MessageAttributes=attributes)

    def visible(self, url: str) -> tuple[int, int]:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(attributes[names[0]]), int(attributes[names[1]])


@pytest.fixture(scope="module")
def sqs(emulator: str) -> Iterator[Any]:
    client = boto3.Session("local", "local", region_name="us-east-1").client("sqs", endpoint_url=emulator)
    yield client
    client.close()


@pytest.fixture
def stage(sqs: Any) -> Stage:
    return Stage(sqs)


def dead(number: int, **other: object) -> dict[str, object]:
    return {
        "event_id": f"evt_{number:032x}",
        "reason": "permanent",
        "last_status_code": 404,
        "last_error": None,
        "delivery_attempts": 1,
        "failed_at": f"2026-11-25T02:00:{number:02}.000000Z",
        **other,
    }


def test_dlq_counts_dead_letters_by_reason_and_cause_and_tells_when(stage: Stage) -> None:
    stage.bury(dead(1), "permanent")
    stage.bury(dead(2), "permanent")
    exhausted = {"reason": "exhausted", "last_status_code": None, "last_error": "no answer in time"}
    stage.bury(dead(3, **exhausted, delivery_attempts=20), "exhausted")

    told = json.loads(run("dlq", "--stage", stage.name, "--json").stdout)

    assert told["reasons"] == {"permanent": 2, "exhausted": 1}
    assert told["causes"] == {"404": 2, "no answer in time": 1}
    assert (told["depth"], told["seen"]) == (3, 3)
    assert (told["oldest_failed_at"][-10:], told["newest_failed_at"][-10:]) == ("01.000000Z", "03.000000Z")
    assert [message["event_id"][-1] for message in told["messages"]] == ["1", "2", "3"]
    assert told["messages"][2]["delivery_attempts"] == 20


def test_looking_at_many_dead_letters_leaves_each_where_it_was_and_visible(stage: Stage) -> None:
    for number in range(25):
        stage.bury(dead(number), "permanent")

    told = json.loads(run("dlq", "--stage", stage.name, "--json").stdout)

    assert len({message["message_id"] for message in told["messages"]}) == 25
    assert stage.visible(stage.dlq_url) == (25, 0)


def test_dlq_says_so_when_it_did_not_see_all(stage: Stage) -> None:
    for number in range(12):
        stage.bury(dead(number), "permanent")

    result = run("dlq", "--stage", stage.name, "--limit", "11")

    assert result.stderr == "11 of about 12 messages seen: raise --limit\n"
    assert stage.visible(stage.dlq_url) == (12, 0)


def test_dlq_gives_back_what_it_holds_when_it_is_stopped(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        stage.bury(dead(number), "permanent")
    received: list[object] = []

    class Stopped:
        def __getattr__(self, name: str) -> Any:
            return getattr(stage.sqs, name)

        def receive_message(self, **parameters: Any) -> Any:
            if received:
                raise KeyboardInterrupt
            received.append(parameters)
            return stage.sqs.receive_message(**parameters)

    with pytest.raises(KeyboardInterrupt):
        queues.peek(queues.Queues(Stopped(), stage.inbox_url, stage.dlq_url), 100, lambda *_: None)
    assert stage.visible(stage.dlq_url) == (12, 0)


@pytest.mark.parametrize(
    ("body", "attribute", "reason"),
    [
        ("secret text \x1b[31m", "malformed", "malformed"),
        ('{"event_id": "evt_00000000000000000000000000000000", "payload": "secret"}', "unknown_event", "unknown_event"),
        ('{"event_id": "evt_00000000000000000000000000000000"}', "", "unserved"),
        ('{"event_id": "secret", "reason": "permanent"}', "permanent", "unserved"),
        ("[" * 100_000, "", "unserved"),
    ],
)
def test_what_is_no_dead_letter_is_named_and_its_text_never_shown(
    stage: Stage, body: str, attribute: str, reason: str
) -> None:
    stage.bury(body, attribute)

    shown = run("dlq", "--stage", stage.name)
    told = json.loads(run("dlq", "--stage", stage.name, "--json").stdout)

    assert told["reasons"] == {reason: 1}
    assert reason in shown.stdout
    for output in (shown.output, json.dumps(told)):
        assert "secret" not in output
        assert "\x1b" not in output
        assert "[[" not in output


def test_an_error_from_a_dead_letter_cannot_steer_the_terminal(stage: Stage) -> None:
    stage.bury(dead(1, last_status_code=None, last_error="\x1b[2J[red]gone"), "permanent")

    assert "?[2J[red]gone" in run("dlq", "--stage", stage.name).stdout


def test_dlq_can_tell_a_script_that_something_is_there(stage: Stage) -> None:
    run("dlq", "--stage", stage.name, "--exit-code")
    stage.bury(dead(1), "permanent")
    run("dlq", "--stage", stage.name)
    run("dlq", "--stage", stage.name, "--exit-code", status=4)


@pytest.mark.parametrize("command", ["dlq", "redrive"])
def test_a_stage_that_is_not_there_is_one_line_and_status_3(command: str) -> None:
    result = run(command, "--stage", "nowhere", status=3)

    assert (result.stdout, result.stderr) == ("", "error: stage nowhere has no queues in this account and region\n")


@pytest.mark.parametrize("command", ["dlq", "redrive"])
def test_an_aws_that_is_not_reached_is_one_line_and_status_1(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", receivers.refused_url())
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    result = run(command, status=1)

    assert result.stdout == ""
    assert re.fullmatch("error: AWS: Could not connect.*\n", result.stderr)


def test_redrive_names_the_inbox_queue_and_moves_everything_there(stage: Stage, move_tasks: MoveTasks) -> None:
    for number in range(25):
        stage.bury(dead(number), "permanent")

    told = json.loads(run("redrive", "--stage", stage.name, "--rate", "50", "--json").stdout)

    assert told == {"status": "completed", "moved": 25, "failure": None}
    [started] = move_tasks.started
    assert started["SourceArn"].endswith(f":triggers-api-{stage.name}-inbox-dlq")
    assert started["DestinationArn"].endswith(f":triggers-api-{stage.name}-inbox-queue")
    assert started["MaxNumberOfMessagesPerSecond"] == 50
    assert (stage.visible(stage.dlq_url)[0], stage.visible(stage.inbox_url)[0]) == (0, 25)


def test_a_second_redrive_waits_for_its_own_move(stage: Stage, move_tasks: MoveTasks) -> None:
    move_tasks.lag = 2
    for number in (1, 2):
        stage.bury(dead(number), "permanent")
        assert "1 message moved" in run("redrive", "--stage", stage.name).stdout
    assert (len(move_tasks.started), stage.visible(stage.inbox_url)[0]) == (2, 2)


def test_an_empty_dead_letter_queue_starts_no_move(stage: Stage, move_tasks: MoveTasks) -> None:
    assert run("redrive", "--stage", stage.name).stderr.endswith("is empty\n")
    assert move_tasks.started == []


def test_a_move_goes_on_without_its_watcher_and_can_be_joined(stage: Stage, move_tasks: MoveTasks) -> None:
    move_tasks.step = 0
    stage.bury(dead(1), "permanent")
    stage.bury(dead(2), "permanent")
    command = [sys.executable, "-m", "tools.ops", "redrive", "--stage", stage.name, "--json"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, text=True) as watcher:
        wait_until(lambda: move_tasks.started)
        watcher.send_signal(signal.SIGINT)
        _, errors = watcher.communicate(timeout=20)

    assert watcher.returncode == 130
    python = os.path.relpath(sys.executable, ROOT)
    assert f"{python} -m tools.ops redrive --stage {stage.name} --json --cancel" in errors
    assert "Traceback" not in errors
    move_tasks.step = 1
    joined = run("redrive", "--stage", stage.name)
    assert joined.stderr == "a move is running already: joined\n"
    assert len(move_tasks.started) == 1


def test_a_move_can_be_cancelled_while_it_runs(stage: Stage, move_tasks: MoveTasks) -> None:
    run("redrive", "--stage", stage.name, "--cancel", status=3)
    move_tasks.tasks = [{
        "TaskHandle": "task", "Status": "RUNNING", "StartedTimestamp": 1, "ApproximateNumberOfMessagesMoved": 7,
        "SourceArn": queues.Queues(stage.sqs, "", "").arn(stage.dlq_url),
        "DestinationArn": queues.Queues(stage.sqs, "", "").arn(stage.inbox_url),
    }]  # fmt: skip
    move_tasks.step = 0
    stage.bury(dead(1), "permanent")

    assert "about 7 messages" in run("redrive", "--stage", stage.name, "--cancel").stdout
    run("redrive", "--stage", stage.name, "--cancel", status=3)


def test_a_move_that_fails_is_told_with_its_reason(stage: Stage, move_tasks: MoveTasks) -> None:
    stage.bury(dead(1), "permanent")
    move_tasks._move = lambda response, task: task.update(  # type: ignore[method-assign]
        Status="FAILED", FailureReason="AccessDenied"
    )

    assert run("redrive", "--stage", stage.name, status=1).stderr == "error: the move ended as failed: AccessDenied\n"
    del move_tasks._move


@pytest.mark.parametrize("options", [(), ("--cancel",)])
def test_an_aws_without_move_tasks_is_told_in_one_line(
    stage: Stage, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.bury(dead(0))
    monkeypatch.delattr(SQSResponse, "list_message_move_tasks")

    result = run("redrive", "--stage", stage.name, *options, status=1)

    assert (
        result.stderr == "error: this AWS moves no messages, as emulators do not: use replay, which pushes them too\n"
    )


# By the HTTP API


@pytest.fixture(scope="module")
def webhook() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture(scope="module")
def system(emulator: str, webhook: Receiver) -> Iterator[Run]:
    aws = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_DEFAULT_REGION": "us-east-1"}
    pace = {"MAX_DELIVERY_ATTEMPTS": "3", "BACKOFF_BASE_SECONDS": "0.02", "BREAKER_FAILURES": "1000"}
    settings = {"AWS_ENDPOINT_URL": emulator, "STAGE": "live", "ZAPIER_WEBHOOK_URL": webhook.url, **aws, **pace}
    with running(**settings) as made:
        yield made


@pytest.fixture
def api(system: Run, webhook: Receiver, monkeypatch: pytest.MonkeyPatch) -> Api:
    webhook.default = receivers.status(200)
    url = f"http://127.0.0.1:{system.port}"
    monkeypatch.setenv("TRIGGERS_URL", url)
    monkeypatch.setenv("TRIGGERS_API_KEY", system.key)
    return Api(url, system.key)


def post(api: Api, event_type: str, **headers: Any) -> str:
    body = compact({"event_type": event_type, "payload": {"card": "secret-payload"}}).encode()
    return str(api.post(body, f"{event_type}-{next(NUMBERS)}", respond_async=False)[0]["event_id"])


def settled(api: Api, event_id: str, status: str) -> dict[str, Any]:
    wait_until(lambda: api.event(event_id)["status"] == status)
    event: dict[str, Any] = api.event(event_id)
    return event


def bodies(webhook: Receiver, event_type: str) -> list[dict[str, Any]]:
    return [body for request in webhook.requests if (body := request.json())["event_type"] == event_type]


def pushes(webhook: Receiver, event_id: str) -> int:
    return sum(request.headers["webhook-id"] == event_id for request in webhook.requests)


def test_what_is_redriven_is_delivered_once_the_receiver_is_mended(
    api: Api, webhook: Receiver, move_tasks: MoveTasks
) -> None:
    webhook.default = receivers.status(404)
    dead = post(api, "redrive.me")
    webhook.default = receivers.status(200)

    [letter] = json.loads(run("dlq", "--stage", "live", "--json").stdout)["messages"]
    run("redrive", "--stage", "live")

    assert (letter["event_id"], letter["reason"], letter["last_status_code"]) == (dead, "permanent", 404)
    settled(api, dead, "delivered")
    run("dlq", "--stage", "live", "--exit-code")


def test_events_are_listed_by_what_is_asked_for(api: Api, webhook: Receiver) -> None:
    first, second = post(api, "list.me"), post(api, "list.me")
    webhook.script(receivers.status(410))
    third = post(api, "list.me")

    def listed(*arguments: str) -> list[str]:
        lines = run("events", "--event-type", "list.me", "--json", *arguments).stdout.splitlines()
        return [json.loads(line)["event_id"] for line in lines]

    assert listed() == [third, second, first]
    assert listed("--order", "oldest", "--limit", "2") == [first, second]
    assert listed("--status", "failed") == [third]
    shown = run("events", "--event-type", "list.me").stdout
    assert re.search(rf"{third} +failed +1 +list.me", shown)
    assert "\x1b" not in shown


def test_new_events_are_shown_as_they_come(api: Api) -> None:
    old = post(api, "follow.me")
    command = [sys.executable, "-m", "tools.ops", "events", "--event-type", "follow.me", "--follow", "--json"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout
        assert json.loads(watcher.stdout.readline())["event_id"] == old
        new = [post(api, "follow.me"), post(api, "follow.me")]
        assert [json.loads(watcher.stdout.readline())["event_id"] for _ in new] == new
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(timeout=10) == 130


def page(*numbers: int, more: bool = False) -> receivers.Behaviour:
    """Answer with events as the listing has them."""
    made = [
        {
            "event_id": f"evt_{number:032x}",
            "created_at": f"2026-11-25T02:00:00.{number:06}Z",
            "status": "delivered",
            "delivery_attempts": 1,
            "event_type": "a",
        }
        for number in numbers
    ]
    return receivers.status(200, body=compact({"events": made, "next_cursor": "c" if more else None}).encode())


def stop(exchange: receivers.Exchange) -> None:
    """Press Ctrl-C while the answer is waited for."""
    os.kill(os.getpid(), signal.SIGINT)
    exchange.wait_until_left()


def test_following_outlasts_an_outage_and_tells_of_it_once(fake: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators_events, "FOLLOW_SECONDS", 0)
    outage = receivers.status(500, body=b'{"detail": "Trouble."}')
    fake.script(page(1), outage, *[receivers.close_without_answer()] * 5, outage, page(2, 1), stop)

    result = run("events", "--follow", "--json", status=130)

    assert [json.loads(line)["event_id"][-1] for line in result.stdout.splitlines()] == ["1", "2"]
    assert result.stderr == "500: Trouble.; still trying\nthe API answers again\n"


def test_following_is_of_what_is_posted_not_of_what_becomes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIGGERS_API_KEY", "k")
    told = run("events", "--url", "http://127.0.0.1:1", "--follow", "--status", "failed", status=2)
    assert "no --status" in told.stderr


def test_following_ends_when_the_key_is_refused(fake: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators_events, "FOLLOW_SECONDS", 0)
    fake.script(page(1), receivers.status(401, body=b'{"detail": "No."}'))

    run("events", "--follow", status=1)


def test_following_shows_all_that_came_in_between(fake: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators_events, "FOLLOW_SECONDS", 0)
    new = [page(*range(start, start - 100, -1), more=True) for start in range(1000, 0, -100)]
    fake.script(page(0), *new, page(0), stop)

    lines = run("events", "--follow", "--json", status=130).stdout.splitlines()

    assert [json.loads(line)["event_id"] for line in lines] == [f"evt_{number:032x}" for number in range(1001)]


def on_terminal(columns: int, *arguments: str, stream: str = "stdout") -> str:
    """Run a command whose output, or another stream, is a terminal of so many columns; return what it wrote there."""
    master, terminal = os.openpty()
    environ = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    command = [sys.executable, "-m", "tools.ops", *arguments]
    streams: dict[str, int] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, stream: terminal}
    with subprocess.Popen(command, cwd=ROOT, env=environ, **streams) as process:  # type: ignore[call-overload]
        os.close(terminal)
        written = b""
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while part := os.read(master, 4096):
                written += part
    os.close(master)
    assert process.returncode == 0
    return click.unstyle(written.decode().replace("\r\n", "\n"))


def narrow_and_wide(columns: int, *arguments: str) -> list[list[str]]:
    """Return the characters of what a command shows on a terminal and in a pipe, sorted: folding moves them."""
    shown = on_terminal(columns, *arguments)
    assert max(map(len, shown.splitlines())) <= columns
    return [sorted(re.findall(r"[\w.,:-]", text)) for text in (shown, run(*arguments).stdout)]


@pytest.mark.parametrize("columns", [30, 40, 60, 70, 80])
def test_a_terminal_that_is_too_narrow_folds_and_cuts_nothing(api: Api, stage: Stage, columns: int) -> None:
    event_id = post(api, "narrow.type-that-is-long-enough-to-be-folded")
    stage.bury(dead(1, last_status_code=None, last_error="the certificate does not verify"), "permanent")

    listed, wide = narrow_and_wide(columns, "events", "--event-type", "narrow.type-that-is-long-enough-to-be-folded")
    assert listed == wide
    told, wide = narrow_and_wide(columns, "show", event_id)
    assert told == wide
    buried, wide = narrow_and_wide(columns, "dlq", "--stage", stage.name)
    assert buried == wide


@pytest.mark.parametrize("columns", [30, 40, 60])
def test_stats_are_drawn_as_wide_as_the_terminal_is(api: Api, columns: int) -> None:
    post(api, f"stats.narrow-{columns}")

    lines = on_terminal(columns, "stats", "--event-type", f"stats.narrow-{columns}").splitlines()

    assert max(map(len, lines)) <= columns
    whole_bars = [line for line in lines if line.endswith("██")]
    assert [line.split()[0] for line in whole_bars] == ["delivered", "up"]
    assert [line.split() for line in lines if line.endswith(" now")] == [["-1", "h", "now"]]


@pytest.mark.parametrize("name", ["events", "stats", "dlq", "replay"])
def test_a_terminal_shows_that_something_is_read(api: Api, name: str) -> None:
    options = {"dlq": ["--stage", "live"], "replay": ["--since", "1h", "--dry-run"]}.get(name, [])

    assert "reading" in on_terminal(80, name, *options, stream="stderr")
    assert "reading" not in run(name, *options).output


def test_a_pipe_gets_numbers_under_each_other_and_no_spaces_at_the_ends(stage: Stage) -> None:
    stage.bury(dead(1), "permanent")
    stage.bury(dead(2, delivery_attempts=12, reason="exhausted", last_status_code=503), "exhausted")

    lines = run("dlq", "--stage", stage.name).stdout.splitlines()

    assert [line[46:52] for line in lines[:3]] == [" tries", "     1", "    12"]
    assert [line for line in lines if line != line.rstrip()] == []


def test_show_tells_the_life_of_an_event_and_not_its_payload(api: Api, webhook: Receiver) -> None:
    webhook.script(*[receivers.status(503)] * 3)
    event_id = post(api, "show.me")
    settled(api, event_id, "failed")
    run("replay", event_id)
    settled(api, event_id, "delivered")

    shown = run("show", event_id).stdout

    told = [line[23:].split() for line in shown.splitlines()[4:]]
    names = ["created", "attempt", "attempt", "attempt", "replayed", "attempt 1", "delivered"]
    assert [name for name, line in zip(names, told, strict=True) if name not in " ".join(line)] == []
    assert shown.count("503") == 3
    for output in (shown, run("show", event_id, "--json").stdout):
        assert "secret-payload" not in output
        assert event_id in output


def test_show_tells_when_an_event_became_a_dead_letter(api: Api, webhook: Receiver) -> None:
    webhook.script(receivers.status(404))
    event_id = post(api, "show.dead")
    [attempt] = api.event(event_id)["attempts"]

    line = run("show", event_id).stdout.splitlines()[-1]

    assert attempt["at"][:23].replace("T", " ") <= line[:23]
    assert line.split()[-3:] == ["dead", "letter", "failed"]


@pytest.mark.parametrize("command", ["show", "replay"])
def test_an_event_that_is_not_there_is_status_3_and_a_misspelt_one_status_2(api: Api, command: str) -> None:
    run(command, f"evt_{0:032x}", status=3)
    run(command, "evt_../../health", status=2)


def test_a_replay_of_many_takes_what_failed_in_that_time_alone(api: Api, webhook: Receiver) -> None:
    webhook.default = receivers.status(404)
    failed = [post(api, "replay.failed") for _ in range(4)]
    webhook.default = receivers.status(200)
    delivered = post(api, "replay.failed")
    since, until = (api.event(event_id)["created_at"] for event_id in (failed[1], failed[2]))
    asked = ("replay", "--since", since, "--until", until, "--event-type", "replay.failed", "--rate", "1000", "--json")

    dry = json.loads(run(*asked, "--dry-run").stdout)
    assert api.event(failed[1])["status"] == "failed"
    told = json.loads(run(*asked).stdout)

    assert [match["event_id"] for match in dry["first"]] == failed[1:3]
    assert told == {"matches": 2, "replayed": 2, "gone": 0, "busy": 0}
    assert settled(api, failed[1], "delivered")["delivery_attempts"] == 1
    settled(api, failed[2], "delivered")
    assert [pushes(webhook, event_id) for event_id in (failed[0], failed[3], delivered)] == [1, 1, 1]
    assert json.loads(run(*asked).stdout)["matches"] == 0


def test_make_replay_says_what_it_would_push_until_it_is_told_to_go(api: Api, webhook: Receiver) -> None:
    event_id = post(api, "replay.made")
    asked = ("replay", "SINCE=1h", "STATUS=delivered", "EVENT_TYPE=replay.made", "RATE=100")

    for more in ([], ["GO=0"], ["GO=/usr/bin/go"]):
        dry = make(*asked, *more)
        assert "to be replayed: 1" in dry.stdout
        assert "add GO=1" in dry.stderr
    assert event_id in make("show", f"EVENT_ID={event_id}").stdout
    assert pushes(webhook, event_id) == 1

    make(*asked, "GO=1")
    wait_until(lambda: pushes(webhook, event_id) == 2)


@pytest.mark.parametrize("target", ["replay", "show"])
def test_a_make_target_that_lacks_its_variable_says_so_in_one_line(api: Api, target: str) -> None:
    errors = make(target, status=2).stderr.splitlines()

    assert [line.split()[0] for line in errors] == ["error:", "make:"]


@pytest.mark.parametrize("option", ["--dry-run", "--status=failed", "--event-type=a", "--until=1h", "--rate=5"])
def test_what_is_meant_for_many_is_refused_for_one_event(api: Api, webhook: Receiver, option: str) -> None:
    event_id = post(api, "ops.one")
    before = pushes(webhook, event_id)

    result = run("replay", event_id, option, status=2)

    assert "is for many events, not for one EVENT_ID" in result.stderr
    assert pushes(webhook, event_id) == before == 1


def test_a_stopped_replay_says_how_to_go_on_and_takes_none_twice(
    api: Api, webhook: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [post(api, "replay.stopped") for _ in range(4)]
    since = api.event(ids[0])["created_at"]
    replay = Api.replay

    def replay_and_stop(self: Api, event_id: str) -> Any:
        answer = replay(self, event_id)
        if event_id == ids[1]:
            signal.raise_signal(signal.SIGINT)  # the API has it, and its answer is not read yet
        return answer

    monkeypatch.setattr(Api, "replay", replay_and_stop)
    asked = ("replay", "--since", since, "--status", "delivered", "--event-type", "replay.stopped", "--rate", "1000")
    stopping, remark = run(*asked, "--json", status=130).stderr.splitlines()
    assert stopping.startswith("stopping once this call is answered")
    told, command = remark.split(" To go on: ")
    assert told == "2 replayed."
    done = subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"matches": 2, "replayed": 2, "gone": 0, "busy": 0}

    wait_until(lambda: all(pushes(webhook, event_id) == 2 for event_id in ids))


def test_a_replay_that_was_stopped_before_its_first_goes_on_where_the_one_before_it_was(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [post(api, "replay.rest") for _ in range(2)]
    after = f"{api.event(ids[0])['created_at']}/{ids[0]}"
    monkeypatch.setattr(Pace, "wait", lambda self: signal.raise_signal(signal.SIGINT))
    asked = ("replay", "--since", "1h", "--status", "delivered", "--event-type", "replay.rest", "--after", after)

    assert run(*asked, status=130).stderr.endswith(f" --after {after}\n")


def test_a_replay_that_ctrl_c_is_not_for_goes_on(api: Api, webhook: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a job that a script left in the background."""
    event_id, replay = post(api, "replay.ignoring"), Api.replay

    def replay_meanwhile(self: Api, event_id: str) -> Any:
        signal.raise_signal(signal.SIGINT)
        return replay(self, event_id)

    monkeypatch.setattr(Api, "replay", replay_meanwhile)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run("replay", "--since", "1h", "--status", "delivered", "--event-type", "replay.ignoring")
    finally:
        signal.signal(signal.SIGINT, before)

    wait_until(lambda: pushes(webhook, event_id) == 2)


def test_what_was_passed_over_is_told_when_a_replay_is_stopped(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    busy = post(api, "replay.busy")

    def busy_and_stopped(self: Api, event_id: str) -> Any:
        signal.raise_signal(signal.SIGINT)
        raise BusyError("409: a push is running")

    monkeypatch.setattr(Api, "replay", busy_and_stopped)
    stopped = run("replay", "--since", "1h", "--status", "delivered", "--event-type", "replay.busy", status=130)

    assert stopped.stderr.splitlines()[-1].endswith(f"passed over then: {busy}")


def test_a_second_ctrl_c_does_not_wait_for_the_call(fake: Receiver) -> None:
    page = {"events": [{"created_at": "2999", "event_id": "evt_1", "event_type": "a"}], "next_cursor": None}

    def stop_twice_and_hang(exchange: receivers.Exchange) -> None:
        waiting = signal.getsignal(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: signal.getsignal(signal.SIGINT) is not waiting)
        os.kill(os.getpid(), signal.SIGINT)
        exchange.wait_until_left()

    fake.script(receivers.status(200, body=compact(page).encode()), stop_twice_and_hang)

    stopped = run("replay", "--since", "1h", "--until", "3000-01-01", status=130)

    assert "0 replayed. To go on: " in stopped.stderr
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_dead_and_is_replayed_is_still_in_the_queue_and_that_is_said(api: Api, webhook: Receiver) -> None:
    webhook.script(*[receivers.status(404)] * 2)
    first, second, delivered = (post(api, "replay.dead") for _ in range(3))
    many = ("replay", "--since", "1h", "--event-type", "replay.dead")

    said = "the messages of dead letters stay in the dead letter queue: make redrive clears them\n"
    assert run("replay", first).stderr == said
    settled(api, first, "delivered")
    assert run(*many).stderr == said
    settled(api, second, "delivered")
    assert run(*many).stderr == ""
    assert run("replay", delivered).stderr == ""


@pytest.fixture
def events_file(tmp_path: Path) -> Path:
    lines = [compact({"event_type": "send.me", "payload": {"number": number}}) for number in range(5)]
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join([*lines[:2], "", *lines[2:]]) + "\n")
    return file


def test_a_file_that_is_sent_again_after_a_stop_sends_nothing_twice(
    api: Api, webhook: Receiver, events_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Api.post

    stopped = threading.Event()

    def post_or_stop(self: Api, body: bytes, idempotency_key: str, *, respond_async: bool) -> Any:
        if b'"number":3' in body:
            os.kill(os.getpid(), signal.SIGINT)
            stopped.wait(20)
            raise OpsError("stopped")
        return real(self, body, idempotency_key, respond_async=respond_async)

    asked = ("send", "-f", str(events_file), "--rate", "1000", "--concurrency", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Api, "post", post_or_stop)
        run(*asked, status=130)
        stopped.set()
    lines = [json.loads(line) for line in run(*asked, "--json").stdout.splitlines()]

    assert [line["line"] for line in lines] == [1, 2, 4, 5, 6]
    assert [line["already_there"] for line in lines][:3] == [True, True, True]
    pushed = [body["payload"]["number"] for body in bodies(webhook, "send.me")]
    assert sorted(pushed) == [0, 1, 2, 3, 4]
    again = run(*asked)
    assert again.stdout == "5 events: 5 already there\n"
    assert "To send them anew, give an --idempotency-prefix" in again.stderr
    assert "5 events: 5 delivered" in run(*asked, "--idempotency-prefix", "another").stdout


def test_sending_stops_at_once_while_the_api_hangs_and_says_how_far_it_was(fake: Receiver, events_file: Path) -> None:
    fake.default = receivers.hang()
    command = [sys.executable, "-m", "tools.ops", "send", "-f", str(events_file), "--rate", "1000"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, text=True) as sender:
        fake.wait_for(4, timeout=20)
        sender.send_signal(signal.SIGINT)
        _, errors = sender.communicate(timeout=5)

    assert sender.returncode == 130
    assert errors == "stopped after at least 0 of 5: run it again, and nothing is sent twice\n"


@pytest.mark.parametrize("option", ["--payload", "--metadata"])
@pytest.mark.parametrize("text", ['{}, "event_type": "other"', "[]", "{", "", "[" * 100_000])
def test_what_is_no_json_object_is_refused_before_anything_is_sent(fake: Receiver, option: str, text: str) -> None:
    result = run("send", "--type", "a", option, text, status=2)

    assert result.stderr == f"error: Invalid value for '{option}': not a JSON object\n"
    assert fake.requests == []


@pytest.mark.parametrize("option", ["--payload", "--metadata"])
def test_what_belongs_to_one_event_is_refused_with_a_file(api: Api, events_file: Path, option: str) -> None:
    assert "--type" in run("send", "-f", str(events_file), option, "{}", status=2).stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "0 events\n"),
        ('\ufeff{"event_type": "send.few", "payload": {}}\r\n', "1 event: 1 delivered\n"),
    ],
)
def test_a_file_of_few_is_told_as_such(api: Api, tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text(text, encoding="utf-8")

    result = run("send", "-f", str(file))

    assert (result.stdout, result.stderr) == (told, "")


def test_a_script_is_told_of_a_refusal_once(api: Api, events_file: Path) -> None:
    events_file.write_text("not json\n")

    result = run("send", "-f", str(events_file), "--json", status=1)

    assert json.loads(result.stdout)["line"] == 1
    assert result.stderr == "error: refused: 1 of 1\n"


def test_a_line_that_is_refused_is_told_and_the_rest_is_sent(api: Api, events_file: Path) -> None:
    with events_file.open("a") as file:
        file.write('{"event_type": "send.bad", "payload": 7}\nnot json\n')

    result = run("send", "-f", str(events_file), "--rate", "1000", "--async", status=1)

    assert "7 events: 5 pending, 2 refused" in result.stdout
    assert "line 7: 400: " in result.stderr
    assert "payload: is required, and must be" in result.stderr
    assert result.stderr.endswith("error: refused: 2 of 7\n")


def test_an_event_from_the_command_line_is_told_by_its_id(api: Api) -> None:
    told = run("send", "--type", "send.told").stdout

    event_id = told.split(":")[0]
    assert api.event(event_id)["event_type"] == "send.told"


BIG = '{"z":1%s1,"a":"é"}' % ("0" * 4000)  # integers of any size, members in their order


def test_one_event_is_sent_and_so_are_lines_from_standard_input(api: Api) -> None:
    told = json.loads(
        run("send", "--type", "send.one", "--payload", BIG, "--metadata", '{"source": "shop"}', "--json").stdout
    )
    event = api.event(told["event_id"])
    assert compact(event["payload"]) == BIG
    assert event["metadata"] == {"source": "shop"}

    run("send", "-f", "-", stdin="{}", status=2)
    line = '{"event_type": "send.stdin", "payload": {}}'
    assert "1 delivered" in run("send", "-f", "-", "--idempotency-prefix", "stdin", stdin=line).stdout


def test_stats_tell_what_became_of_the_events_of_a_window(api: Api, webhook: Receiver) -> None:
    post(api, "stats.me")
    webhook.script(receivers.status(503))
    settled(api, post(api, "stats.me"), "delivered")
    webhook.script(receivers.status(404))
    post(api, "stats.me")

    told = json.loads(run("stats", "--event-type", "stats.me", "--json").stdout)
    shown = run("stats", "--event-type", "stats.me", "--window", "15m").stdout

    counts = {name: told[name] for name in ("accepted", "delivered", "pending", "failed", "retried", "acknowledged")}
    assert counts == {"accepted": 3, "delivered": 2, "pending": 0, "failed": 1, "retried": 1, "acknowledged": 0}
    assert told["success_rate"] == pytest.approx(2 / 3)
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p99"] == told["latency_ms"]["max"]
    assert sum(told["latency_counts"]) == 2
    assert (sum(told["accepted_by_slice"]), sum(told["undelivered_by_slice"])) == (3, 1)
    assert "66.67%" in shown
    assert [line[:13].split() for line in shown.splitlines()[10:14]] == [["accepted"], ["undelivered"], [], []]
    assert re.search(r"\n {13}-15 min +now\n {13}█ [123] events? in 15 s\n", shown)
    assert max(map(len, shown.splitlines())) <= 80


def test_stats_of_nothing_are_no_error(api: Api) -> None:
    assert "accepted" in run("stats", "--event-type", "nothing.here").stdout


@pytest.mark.parametrize(("percent", "expected"), [(50, 50), (95, 95), (99, 99), (100, 100), (0, 1)])
def test_a_percentile_is_the_value_of_its_rank(percent: int, expected: int) -> None:
    assert percentile(list(range(1, 101)), percent) == expected
    assert percentile([7], percent) == 7


def test_figures_are_drawn_small() -> None:
    assert sparkline([0, 1, 4, 8], 8) == " ▂▅█"
    assert sparkline([1, 4], 8) == "▂▅"
    assert merged([1] * 60, 60) == [1] * 60
    assert merged([1] * 60, 59) == [2] * 30
    assert merged([1] * 60, 0) == [60]
    assert [human(ms) for ms in (7, 999, 1_500, 90_000, 5_400_000)] == ["7 ms", "999 ms", "1.5 s", "1.5 min", "1.5 h"]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """An API that answers as a test tells it to."""
    with Receiver() as made:
        monkeypatch.setenv("TRIGGERS_URL", f"http://127.0.0.1:{made.port}")
        monkeypatch.setenv("TRIGGERS_API_KEY", "trk_secret-key")
        made.default = receivers.status(500, body=b"{}")
        yield made


PENDING = compact({"event_id": f"evt_{1:032x}", "message": "Stored.", "status": "pending"}).encode()


NOTHING = r"nothing is at this path: is TRIGGERS_URL right\?"


@pytest.mark.parametrize("code", [409, 429, 503])
def test_a_call_is_made_again_not_before_retry_after(fake: Receiver, code: int) -> None:
    found, busy = receivers.status(200, body=PENDING), receivers.status(code, headers={"Retry-After": "1"}, body=b"{}")
    fake.script(found, busy, receivers.status(202, body=PENDING))

    run("replay", f"evt_{1:032x}")

    _, first, second = fake.requests
    assert second.at - first.at >= 1


@pytest.mark.parametrize("arguments", [("show", f"evt_{1:032x}", "--json"), ("send", "--type", "a")])
def test_a_call_that_may_be_repeated_is_made_again_when_a_gateway_did_not_wait(
    fake: Receiver, arguments: tuple[str, ...]
) -> None:
    fake.script(receivers.status(504, body=b"{}"), receivers.status(202, body=PENDING))

    run(*arguments)


def test_a_replay_that_a_gateway_did_not_wait_for_is_not_repeated(fake: Receiver) -> None:
    fake.script(receivers.status(200, body=PENDING), receivers.status(504, body=b'{"detail": "No answer."}'))

    assert run("replay", f"evt_{1:032x}", status=1).stderr == "error: 504: No answer.\n"
    assert len(fake.requests) == 2


@pytest.mark.parametrize(
    ("url", "told"),
    [("http://127.0.0.1:1", "refuses connections"), ("https://no-such-host.invalid", "is not found: no such host")],
)
def test_an_api_that_is_not_there_is_told_in_words(url: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators_api, "TRIES", 1)  # without a network, a name takes its time
    monkeypatch.setenv("TRIGGERS_API_KEY", "trk_key")

    assert run("events", "--url", url + "/api", status=1).stderr == f"error: {url} {told}\n"


def test_a_replay_whose_answer_is_lost_is_not_repeated(fake: Receiver) -> None:
    fake.script(receivers.status(200, body=PENDING), receivers.close_without_answer())

    run("replay", f"evt_{1:032x}", status=1)

    assert len(fake.requests) == 2


def test_a_post_whose_answer_is_lost_is_repeated_with_its_key(fake: Receiver) -> None:
    fake.script(receivers.close_without_answer(), receivers.status(202, body=PENDING))

    run("send", "--type", "a")

    assert len({request.headers["idempotency-key"] for request in fake.requests}) == 1
    assert len(fake.requests) == 2


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (receivers.status(401, body=b'{"detail": "No."}'), r"error: 401: No. \(TRIGGERS_API_KEY\)"),
        (receivers.status(500, body=b'{"detail": "a\\u001b[2Jb"}'), r"error: 500: a\?\[2Jb"),
        (receivers.status(200, body=b"<html>"), "error: .* answers 200, and not as the API does.*"),
        (receivers.redirect("http://127.0.0.1:9/", 307), "error: .* answers 307, and not as the API does.*"),
        (receivers.status(404, body=b'{"detail": "There is nothing at this path."}'), f"error: {NOTHING}"),
        (receivers.status(404, body=b"<html>"), f"error: {NOTHING}"),
        (receivers.status(403, body=b'{"message": "Missing Authentication Token"}'), f"error: {NOTHING}"),
        (receivers.garbage(), r"error: http://127.0.0.1:\d+ does not speak HTTP"),
        (receivers.close_without_answer(), r"error: http://127.0.0.1:\d+ breaks off the connection"),
        (receivers.hang(), r"error: http://127.0.0.1:\d+ gives no answer in 0.05 s"),
    ],
)
def test_what_goes_wrong_is_one_line_without_the_key(
    fake: Receiver, behaviour: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators_api, "READ_SECONDS", 0.05)
    fake.script(*[behaviour] * 5)

    result = run("show", f"evt_{1:032x}", status=1)

    assert (result.stdout, "trk_" in result.stderr) == ("", False)
    assert re.fullmatch(told + "\n", result.stderr)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://example.com", "trk_key"),
        ("https://user:password@example.com", "trk_key"),
        ("example.com", "trk_key"),
        ("https://", "trk_key"),
        ("http://127.0.0.1:99999999", "trk_key"),
        ("https://example.com", ""),
        ("https://example.com", "trk_\nx"),
        ("https://example.com", "trk_é"),
    ],
)
def test_no_call_is_made_without_a_safe_url_and_a_key(url: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIGGERS_API_KEY", key)

    result = run("events", "--url", url, status=2)

    assert "password" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("nonsense",),
        ("show",),
        ("events", "--nonsense"),
        ("events", "--limit", "0"),
        ("events", "--status", "nonsense"),
        ("events",),
    ],
)
def test_what_is_used_wrongly_is_told_in_one_line(arguments: tuple[str, ...]) -> None:
    result = run(*arguments, status=2)

    assert result.stdout == ""
    assert re.fullmatch(r"error: .*\n", result.stderr)


def test_without_a_command_there_is_help() -> None:
    assert "Commands:" in run(status=2).stderr


def test_a_certificate_that_does_not_verify_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIGGERS_API_KEY", "trk_key")
    with Receiver(tls=receivers.certificates().valid()) as other:
        result = run("events", "--url", f"https://localhost:{other.port}", status=1)

    assert "certificate verify failed" in result.stderr
    assert other.requests == []


def wait_until(holds: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)
