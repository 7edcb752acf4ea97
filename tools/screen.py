"""What a person sees: what is where, then one line for each thing that happens to an event. JSON is for the log.

Shows no payload but the one that the built-in receiver got, and no character that would steer a terminal.
"""

import contextlib
import logging
import shlex
import shutil
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, TextIO

GREEN, YELLOW, RED = "32", "33", "31"
COLORS = {"delivered": GREEN, "retry": YELLOW, "failed": RED, "dead letter": RED, "warning": YELLOW}
DETAILS_COLUMN = 38  # time, event, what happened, and what keeps them apart
WITHOUT_TERMINAL = (120, 24)
FOLD = " \\\n    "  # of a command, for a terminal; a pipe gets a command as one line, which a script can find


class Screen:
    """Writes whole lines, from any thread."""

    def __init__(self, stream: TextIO, *, color: bool) -> None:
        self._stream = stream
        self._color = color
        self._lock = Lock()

    def say(self, text: str = "") -> None:
        with self._lock, contextlib.suppress(OSError):  # nobody reads it any more, which is no fault of an event
            self._stream.write(text + "\n")
            self._stream.flush()

    def event(self, event_id: str, what: str, details: str, *, cut: bool = False) -> None:
        """Say `what` happened to an event: eight characters of its id are enough to tell it from its neighbours.

        `cut` keeps it to one line of the terminal.
        """
        label, room = f"{what:<12}", shutil.get_terminal_size(WITHOUT_TERMINAL).columns - DETAILS_COLUMN
        if self._color and what in COLORS:
            label = f"\x1b[{COLORS[what]}m{label}\x1b[0m"
        if cut and len(details) > room:
            details = f"{details[: max(0, room - 1)]}…"
        self.say(f"{time.strftime('%H:%M:%S')}  {event_id[:12]:<12}  {label}  {printable(details)}".rstrip())


class ScreenHandler(logging.Handler):
    """Turns the log lines that tell an event's life, and warnings, into lines for a person."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        told = describe(record)
        if told:
            what, details = told
            event_id = getattr(record, "fields", {}).get("event_id")
            self._screen.event(str(event_id or ""), what, details)


class FirstDeadLetter(logging.Handler):
    """Says once what a person can do: when there is a dead letter for the first time."""

    def __init__(self, screen: Screen, what_next: Callable[[str], str]) -> None:
        super().__init__()
        self._screen = screen
        self._what_next = what_next
        self._said = False

    def emit(self, record: logging.LogRecord) -> None:
        fields = getattr(record, "fields", {})
        if not self._said and record.getMessage() == "status changed" and fields.get("to") == "failed":
            self._said = True
            self._screen.say(self._what_next(str(fields.get("event_id"))))


def describe(record: logging.LogRecord) -> tuple[str, str] | None:
    """Return what happened and its details, or None when a person need not see it."""
    message, fields = record.getMessage(), getattr(record, "fields", {})
    match message:
        case "event accepted":
            return "accepted", str(fields.get("event_type", ""))
        case "attempt":
            return str(fields.get("outcome")), _attempt(fields)
        case "status changed":
            return _status_change(fields)
    if record.levelno < logging.WARNING:
        return None
    facts = [f"{name}={value}" for name, value in fields.items() if value is not None and name != "event_id"]
    return "warning", " ".join([message, *facts])


def what_is_where(url: str, key: str, pushes_to: str, aws_place: str, log_place: str) -> str:
    rows = {"API": url, "key": key, "pushes to": pushes_to, "AWS": aws_place, "logs": log_place}
    return "".join(f"  {name:<11}{value}\n" for name, value in rows.items())


def what_to_try(url: str, key: str | None, receiver_url: str | None, fold: str) -> str:
    """Return commands that can be pasted as they stand."""
    authorization = f"-H 'Authorization: Bearer {key}'" if key else '-H "Authorization: Bearer $TRIGGERS_API_KEY"'
    event = """-d '{"event_type": "order.created", "payload": {"order_id": "12345"}}'"""
    inbox = (f"curl -sS -w '\\n' {url}/inbox", authorization)
    post = (f"curl -sS -w '\\n' {url}/events", authorization, "-H 'Content-Type: application/json'", event)
    lines = [
        "  Post an event:",
        f"  {fold.join(post)}",
        "  See what is not delivered:",
        f"  {fold.join(inbox)}",
    ]
    if receiver_url:
        lines += [
            "  Make two deliveries fail, then post again and watch the third attempt:",
            f"  curl -sS -X POST '{receiver_url}/fail?status=503&times=2'",
            "  Make one be refused for good, then post again for a dead letter:",
            f"  curl -sS -X POST '{receiver_url}/fail?status=404'",
        ]
    return "\n".join(lines) + "\n"


def what_next(event_id: str, *, url: str, key: str | None, python: str, aws: Mapping[str, str], fold: str) -> str:
    """Return commands that show a dead letter, and have it pushed again. `aws` is what finds its queue."""
    ops = f"{python} -m tools.ops"
    variables = [f"{name}={shlex.quote(value)}" for name, value in aws.items()]
    return "\n".join(
        [
            "\n  It is not pushed again by itself. In another terminal, in the project's",
            "  folder, show it, replay it, and look into the dead letter queue:",
            f"  export TRIGGERS_URL={url}",
            *([f"  export TRIGGERS_API_KEY={key}"] if key else []),
            f"  {ops} show {event_id}",
            f"  {ops} replay {event_id}",
            f"  {fold.join([*variables, f'{ops} dlq'])}\n",
        ]
    )


def printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)


def _attempt(fields: dict[str, Any]) -> str:
    answer = fields.get("status_code") or fields.get("error") or "no answer"
    text = f"attempt {fields.get('attempt')}: {answer}, {fields.get('duration_ms')} ms"
    retry_in_seconds = fields.get("retry_in_seconds")
    return text if retry_in_seconds is None else f"{text}, next in {retry_in_seconds:.1f} s"


def _status_change(fields: dict[str, Any]) -> tuple[str, str] | None:
    if fields.get("to") == "failed":
        return "dead letter", str(fields.get("reason") or "")
    if fields.get("via") == "pull":
        return "acknowledged", ""
    if fields.get("reason") == "replay":
        return "replayed", ""
    return None
