"""The operator's commands against a running system, with an AWS whose queues can be looked into."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result
from moto.core.responses import ActionResult
from moto.server import ThreadedMotoServer
from moto.sqs.responses import SQSResponse

from chalicelib.events import compact
from tests.support import receiver as receivers
from tests.support.running import ROOT
from tools.ops import queues
from tools.ops.__main__ import main

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*not supported by moto"),
    pytest.mark.xdist_group("ops"),  # most of these tests look at one system
]

STAGES = map("stage-{}".format, itertools.count())


class MoveTasks:
    """SQS's move tasks, which moto lacks: each look at a task moves `step` messages on."""

    def __init__(self) -> None:
        self.step = 10
        self.started: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []

    def start(self, response: SQSResponse) -> ActionResult:
        asked = {
            name: response._get_param(name) for name in ("SourceArn", "DestinationArn", "MaxNumberOfMessagesPerSecond")
        }
        assert not any(task["Status"] == "RUNNING" for task in self.tasks), "AWS refuses a second one"
        source = response.sqs_backend.get_queue(asked["SourceArn"].rsplit(":", 1)[-1])
        self.started.append(asked)
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


def run(*arguments: str, status: int = 0, stdin: str | None = None) -> Result:
    """Run a command in this process; its output is that of a pipe."""
    result = CliRunner().invoke(main, arguments, input=stdin)
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result


class Stage:
    """The queues of a stage without a system: what lies in them stays there."""

    def __init__(self) -> None:
        self.name = next(STAGES)
        self.sqs: Any = boto3.Session().client("sqs")
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


@pytest.fixture
def stage(_environment: None) -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.sqs.close()


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
        queues.peek(queues.Queues(Stopped(), stage.inbox_url, stage.dlq_url), 100)
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
    for number in (1, 2):
        stage.bury(dead(number), "permanent")
        assert "1 messages moved" in run("redrive", "--stage", stage.name).stdout
    assert len(move_tasks.started) == 2


def test_an_empty_dead_letter_queue_starts_no_move(stage: Stage, move_tasks: MoveTasks) -> None:
    assert run("redrive", "--stage", stage.name).stderr.endswith("is empty\n")
    assert move_tasks.started == []


def test_a_move_goes_on_without_its_watcher_and_can_be_joined(stage: Stage, move_tasks: MoveTasks) -> None:
    move_tasks.step = 0
    stage.bury(dead(1), "permanent")
    stage.bury(dead(2), "permanent")
    command = [sys.executable, "-m", "tools.ops", "redrive", "--stage", stage.name]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ, stderr=subprocess.PIPE, text=True) as watcher:
        wait_until(lambda: move_tasks.started)
        watcher.send_signal(signal.SIGINT)
        _, errors = watcher.communicate(timeout=20)

    assert watcher.returncode == 130
    assert f"redrive --stage {stage.name} --cancel" in errors
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


def wait_until(holds: Any, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.05)
