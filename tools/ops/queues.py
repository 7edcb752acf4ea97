"""`dlq` and `redrive`: what lies in the dead letter queue, and SQS's own way of moving it back.

Knows AWS and nothing of the HTTP API.
"""

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import boto3
import click
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from chalicelib.events import EVENT_ID, Reason, rfc3339
from chalicelib.sqs import BATCH_SIZE
from tools.ops.output import (
    Exit,
    NotFoundError,
    OpsError,
    Output,
    command_line,
    numeric,
    output_option,
    plural,
    short_time,
    table,
)

POLL_SECONDS = 2
WAIT_SECONDS = 1  # a long poll asks all of SQS's servers, a short one some
APPEARS_SECONDS = 60  # a task that was started is in the list by then
MOVING = ("RUNNING", "CANCELLING")

NOTES = {
    "malformed": "unreadable; its text is not shown",
    "unknown_event": "no such event, or expired",
    "unserved": "the worker never finished with it",
}

stage_option = click.option(
    "--stage", envvar="STAGE", default="dev", show_default=True, show_envvar=True, help="Whose queues."
)


@dataclass(frozen=True)
class DeadLetter:
    """One message of the dead letter queue, without its text. Times are RFC 3339."""

    message_id: str
    sent_at: str
    reason: str
    event_id: str | None = None
    last_status_code: int | None = None
    last_error: str | None = None
    delivery_attempts: int | None = None
    failed_at: str | None = None
    note: str | None = None

    @property
    def cause(self) -> str:
        return str(self.last_status_code or self.last_error or "-")


@dataclass(frozen=True)
class Queues:
    """The two queues of a stage."""

    sqs: Any
    inbox_url: str
    dlq_url: str

    @property
    def dlq_name(self) -> str:
        return self.dlq_url.rsplit("/", 1)[-1]

    def arn(self, url: str) -> str:
        return str(self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"])

    def depth(self) -> tuple[int, int]:
        """Return how many dead letters are visible, and how many somebody holds. SQS calls both approximate."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = self.sqs.get_queue_attributes(QueueUrl=self.dlq_url, AttributeNames=names)["Attributes"]
        return int(attributes[names[0]]), int(attributes[names[1]])


@contextmanager
def queues_of(stage: str) -> Iterator[Queues]:
    """Give the queues of `stage`; what AWS refuses meanwhile is raised as an OpsError."""
    try:
        sqs = boto3.Session().client(
            "sqs", config=Config(connect_timeout=5, read_timeout=30, retries={"mode": "standard"})
        )
        urls = [
            sqs.get_queue_url(QueueName=f"triggers-api-{stage}-{name}")["QueueUrl"]
            for name in ("inbox-queue", "inbox-dlq")
        ]
        yield Queues(sqs, *urls)
    except ClientError as error:
        code, message = error.response["Error"].get("Code", ""), error.response["Error"].get("Message", "")
        if code.rsplit(".", 1)[-1] in ("QueueDoesNotExist", "NonExistentQueue"):
            raise NotFoundError(f"stage {stage} has no queues in this account and region") from error
        if "MessageMoveTask" in error.operation_name and not re.fullmatch(r"[A-Za-z.]+", code):
            raise OpsError(
                "this AWS moves no messages, as emulators do not: use replay, which pushes them too"
            ) from error
        raise OpsError(f"AWS: {error.operation_name}: {code}: {message}") from error
    except (BotoCoreError, ResponseParserError, ValueError) as error:
        raise OpsError(f"AWS: {' '.join(str(error).split())}") from error


@click.command(short_help="What is in the dead letter queue, and why.")
@stage_option
@click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Messages to look at.")
@click.option("--exit-code", is_flag=True, help="Exit with 4 when the queue holds anything, for scripts.")
@output_option
def dlq(output: Output, stage: str, limit: int, *, exit_code: bool) -> None:
    """Show what is in the dead letter queue of a stage, and why.

    \b
    Reasons:
      permanent      the receiver refused the event for good
      exhausted      every attempt failed
      malformed      a message that the worker cannot read
      unknown_event  a message for an event that is not stored
      unserved       SQS gave up: the worker took it again and again and never finished

    Looking takes nothing away: messages are received, hidden for a short time and given back at once. Only one at a
    time can hold a message, so two who look at the same time, or a running redrive, may each see a part.

    Needs sqs:GetQueueUrl, GetQueueAttributes, ReceiveMessage and ChangeMessageVisibility on the queue. Credentials,
    region and AWS_ENDPOINT_URL are taken as boto3 finds them.
    """
    with queues_of(stage) as queues:
        visible, held = queues.depth()
        total = min(visible, limit)
        with output.progress("reading", total, transient=True) as progress:
            messages = peek(queues, limit, lambda seen: progress(seen, total))
        letters = sorted(map(read, messages), key=lambda letter: letter.failed_at or letter.sent_at)
    deep = max(visible + held, len(letters))
    if output.as_json:
        output.json({"queue": queues.dlq_name, "depth": deep, "seen": len(letters), **summary(letters)})
    elif letters:
        _show(output, letters)
    if len(letters) < deep:
        why = "raise --limit" if len(letters) == limit else "others are held by somebody else, or came late: look again"
        output.remark(f"{len(letters)} of about {deep} messages seen: {why}")
    elif not letters:
        output.remark(f"{queues.dlq_name} is empty")
    if exit_code and deep:
        raise click.exceptions.Exit(Exit.NOT_EMPTY)


def peek(queues: Queues, limit: int, on_seen: Callable[[int], None]) -> list[dict[str, Any]]:
    """Return up to `limit` messages of the dead letter queue, given back as soon as they were seen.

    `on_seen` is told how many that were so far.
    """
    # Half a second for each receive: none comes back before the last is seen, and none is hidden for long by a crash.
    hidden_seconds = 30 + limit // 20
    seen: dict[str, dict[str, Any]] = {}
    try:
        while len(seen) < limit:
            answer = queues.sqs.receive_message(
                QueueUrl=queues.dlq_url,
                MaxNumberOfMessages=min(BATCH_SIZE, limit - len(seen)),
                VisibilityTimeout=hidden_seconds,
                WaitTimeSeconds=WAIT_SECONDS,
                MessageSystemAttributeNames=["SentTimestamp"],
                MessageAttributeNames=["Reason"],
            )
            known = len(seen)
            seen |= {message["MessageId"]: message for message in answer.get("Messages", ())}
            if len(seen) == known:
                break
            on_seen(len(seen))
    finally:
        messages = list(seen.values())
        for start in range(0, len(messages), BATCH_SIZE):
            batch = enumerate(messages[start : start + BATCH_SIZE])
            entries = [
                {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": 0}
                for number, message in batch
            ]
            # One that is refused is visible already.
            queues.sqs.change_message_visibility_batch(QueueUrl=queues.dlq_url, Entries=entries)
    return messages


def read(message: dict[str, Any]) -> DeadLetter:
    """Return what a message tells. Anybody may have put it there: what is not of the expected form is left out."""
    sent_at = rfc3339(int(message["Attributes"]["SentTimestamp"]) / 1000)
    reason = message.get("MessageAttributes", {}).get("Reason", {}).get("StringValue")
    try:
        content = json.loads(message["Body"])
    except (ValueError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}

    def given(name: str, pattern: str) -> str | None:
        value = content.get(name)
        return value if isinstance(value, str) and re.fullmatch(pattern, value) else None

    event_id = given("event_id", EVENT_ID.pattern)
    told = content.get("reason") if event_id else None
    if reason in NOTES or told not in tuple(Reason):
        reason = reason if reason in NOTES else "unserved"
        return DeadLetter(message["MessageId"], sent_at, reason, event_id, note=NOTES[reason])
    return DeadLetter(
        message["MessageId"],
        sent_at,
        told,
        event_id,
        _number(content.get("last_status_code")),
        given("last_error", r".{1,200}"),
        _number(content.get("delivery_attempts")),
        given("failed_at", r"[0-9T:.Z-]{20,27}"),
    )


def _number(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < 1000 else None


def summary(letters: list[DeadLetter]) -> dict[str, Any]:
    died = [letter.failed_at for letter in letters if letter.failed_at]
    return {
        "reasons": dict(Counter(letter.reason for letter in letters).most_common()),
        "causes": dict(Counter(letter.cause for letter in letters if letter.failed_at).most_common()),
        "oldest_failed_at": min(died, default=None),
        "newest_failed_at": max(died, default=None),
        "messages": [asdict(letter) for letter in letters],
    }


def _show(output: Output, letters: list[DeadLetter]) -> None:
    dead = [letter for letter in letters if letter.note is None]
    others = [letter for letter in letters if letter.note is not None]
    if dead:
        rows = [(x.event_id, x.reason, x.delivery_attempts, short_time(x.failed_at), x.cause) for x in dead]
        output.show(table("event", "reason", numeric("tries"), "failed at", "cause", rows=rows), "")
    if others:
        notes = [(x.event_id or x.message_id, x.reason, short_time(x.sent_at), x.note) for x in others]
        output.show(table("event or message", "reason", "sent at", "what it is", rows=notes), "")
    told = summary(letters)
    output.show(table(numeric("messages"), "reason", rows=((n, name) for name, n in told["reasons"].items())))
    if dead:
        output.show("", table(numeric("messages"), "cause", rows=((n, name) for name, n in told["causes"].items())))
        output.show("", f"failed between {told['oldest_failed_at']} and {told['newest_failed_at']}")


@click.command(short_help="Move the dead letter queue back to the inbox queue.")
@stage_option
@click.option("--rate", type=click.IntRange(1, 500), help="Messages a second at most; without it SQS decides.")
@click.option("--cancel", is_flag=True, help="Cancel the move that is running. What was moved stays moved.")
@output_option
def redrive(output: Output, stage: str, rate: int | None, *, cancel: bool) -> None:
    """Move everything in the dead letter queue back to the inbox queue, by SQS's own move task, and wait for its end.

    The worker replays an event whose failure the message tells of; a message of an event that was replayed or
    acknowledged since is dropped. Malformed messages and those of unknown events come back to the dead letter queue.
    Mend the cause first: events that fail again come back, too.

    A move that is running already is joined, not started twice. Ctrl-C stops the waiting, not the move.

    Needs sqs:StartMessageMoveTask, ListMessageMoveTasks, CancelMessageMoveTask, ReceiveMessage, DeleteMessage and
    GetQueueAttributes on the dead letter queue, SendMessage and GetQueueAttributes on the inbox queue, and
    GetQueueUrl on both.
    """
    with queues_of(stage) as queues:
        source = queues.arn(queues.dlq_url)
        before = newest_task(queues.sqs, source)
        moving = before.get("Status") in MOVING
        if cancel:
            _cancel(output, queues.sqs, before)
            return
        if not moving and sum(queues.depth()) == 0:
            output.remark(f"{queues.dlq_name} is empty")
            if output.as_json:
                output.json({"status": None, "moved": 0, "failure": None})
            return
        try:
            if moving:
                output.remark("a move is running already: joined" + (", its rate stays as it is" if rate else ""))
            else:
                _start(queues, source, rate)
            task = _await_end(output, queues.sqs, source, None if moving else before)
        except KeyboardInterrupt:
            command = command_line("redrive", "--stage", stage, *(["--json"] if output.as_json else []))
            output.remark(f"the move goes on without you. To watch it: {command}; to cancel it: {command} --cancel")
            raise
    moved = int(task.get("ApproximateNumberOfMessagesMoved", 0))
    if output.as_json:
        output.json({"status": task["Status"].lower(), "moved": moved, "failure": task.get("FailureReason")})
    else:
        output.show(f"{plural(moved, 'message')} moved from {queues.dlq_name} to the inbox queue")
    if task["Status"] != "COMPLETED":
        raise OpsError(f"the move ended as {task['Status'].lower()}: {task.get('FailureReason') or 'no reason given'}")


def newest_task(sqs: Any, source: str) -> dict[str, Any]:
    """Return the move task that was started last, or an empty one."""
    tasks = sqs.list_message_move_tasks(SourceArn=source, MaxResults=10).get("Results", ())
    return dict(max(tasks, key=_started, default={}))


def _start(queues: Queues, source: str, rate: int | None) -> None:
    """Start a move. Dead letters were put there by SendMessage and have no source, so SQS wants a destination."""
    limit = {"MaxNumberOfMessagesPerSecond": rate} if rate else {}
    queues.sqs.start_message_move_task(SourceArn=source, DestinationArn=queues.arn(queues.inbox_url), **limit)


def _started(task: dict[str, Any]) -> int:
    return int(task.get("StartedTimestamp", 0))


def _await_end(output: Output, sqs: Any, source: str, before: dict[str, Any] | None) -> dict[str, Any]:
    """Return the newest task once it has ended; with `before`, only one that was started after that."""
    deadline = time.monotonic() + APPEARS_SECONDS
    with output.progress("moving", None) as show:
        while True:
            task = newest_task(sqs, source)
            if before is not None and _started(task) <= _started(before):  # the list lags behind
                if time.monotonic() > deadline:
                    raise OpsError("the move was started and SQS does not list it: look again later")
            elif task.get("Status") not in MOVING:
                return task
            else:
                show(
                    int(task.get("ApproximateNumberOfMessagesMoved", 0)), task.get("ApproximateNumberOfMessagesToMove")
                )
            time.sleep(POLL_SECONDS)


def _cancel(output: Output, sqs: Any, task: dict[str, Any]) -> None:
    if task.get("Status") != "RUNNING":
        raise NotFoundError("no move is running")
    answer = sqs.cancel_message_move_task(TaskHandle=task["TaskHandle"])
    moved = int(answer.get("ApproximateNumberOfMessagesMoved", 0))
    if output.as_json:
        output.json({"status": "cancelling", "moved": moved})
    else:
        output.show(f"cancelled; moved before: about {plural(moved, 'message')}")
