"""How every command speaks: tables for a person, JSON for a script, one line for an error.

Results go to standard output, progress and remarks to standard error. Nothing of an event can steer a terminal or be
taken for markup.
"""

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import wraps
from typing import IO, Any, TypeVar

import click
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from chalicelib.events import rfc3339
from tools.screen import printable

PIPED_WIDTH = 200  # nobody looks at a pipe: nothing is folded to 80 columns there
LAST_COLUMN_WIDTH = 12  # less than this, and it is hard to read
STYLES = {"delivered": "green", "pending": "yellow", "retry": "yellow", "failed": "red"}


Found = TypeVar("Found")


class Exit(IntEnum):
    """What a script learns. Click itself exits with 2 when a command is used wrongly."""

    FAILED = 1
    NOT_FOUND = 3
    NOT_EMPTY = 4
    STOPPED = 130


class OpsError(click.ClickException):
    """It cannot go on: `str()` is one line for a person, without secrets."""

    exit_code = Exit.FAILED


class NotFoundError(OpsError):
    """What was asked for is not there."""

    exit_code = Exit.NOT_FOUND


class Output:
    """Where a command writes, and whether a script reads it."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._out = _console(sys.stdout, stderr=False)
        self._err = _console(sys.stderr, stderr=True)

    @property
    def width(self) -> int:
        return self._out.width

    def json(self, value: object) -> None:
        """Write one line of JSON, in ASCII: no character of it can steer a terminal."""
        click.echo(json.dumps(value, separators=(",", ":")))

    def show(self, *what: Table | str) -> None:
        for part in what:
            with self._out.capture() as shown:
                if isinstance(part, str):
                    self._out.print(Text(printable(part)), soft_wrap=not self._out.is_terminal)
                else:
                    self._out.print(fitted(part, self.width))
            click.echo("".join(f"{line.rstrip()}\n" for line in shown.get().splitlines()), nl=False)

    def remark(self, text: str) -> None:
        self._err.print(Text(printable(text)), soft_wrap=True)  # a command in it can be pasted

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Let Ctrl-C wait for the end of the block, and stop then. A second one stops at once."""
        pressed = False

        def wait(*_: object) -> None:
            nonlocal pressed
            pressed = True
            signal.signal(signal.SIGINT, before)
            self.remark("stopping once this call is answered; Ctrl-C again stops at once")

        before = signal.getsignal(signal.SIGINT)
        if before in (signal.SIG_IGN, None):  # a script's background job, which Ctrl-C is not for
            yield
            return
        signal.signal(signal.SIGINT, wait)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        if pressed:
            raise KeyboardInterrupt

    def reading(self, found: Iterable[Found]) -> Iterator[Found]:
        """Yield what is found, and show meanwhile how much that is. It wants to be read to its end."""
        with self.progress("reading", None, transient=True) as progress:
            for number, one in enumerate(found, 1):
                progress(number, None)
                yield one

    @contextmanager
    def progress(
        self, label: str, total: int | None, *, transient: bool = False
    ) -> Iterator[Callable[[int, int | None], None]]:
        """Give what moves a bar to so many of so many; there is no bar where nobody looks."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        hidden = self.as_json or not self._err.is_terminal
        with Progress(*columns, console=self._err, disable=hidden, transient=transient) as bar:
            task = bar.add_task(label, total=total)
            yield lambda done, of: bar.update(task, completed=done, total=of)


def _console(stream: IO[str], *, stderr: bool) -> Console:
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def command_line(*arguments: str) -> str:
    """Return a command of these tools, to be pasted into a shell where this one was."""
    return shlex.join([os.path.relpath(sys.executable), "-m", "tools.ops", *arguments])


def output_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--json`, and an `Output` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Write JSON on standard output, and no decoration.")
    @wraps(command)
    def with_output(*arguments: Any, as_json: bool, **options: Any) -> Any:
        return command(Output(as_json=as_json), *arguments, **options)

    return with_output


def table(*columns: Column | str, rows: Iterable[Iterable[object]], header: bool = True) -> Table:
    made = Table(*columns, box=None, padding=(0, 1, 0, 0), pad_edge=False, show_header=header)
    for row in rows:
        made.add_row(*map(cell, row))
    return made


def numeric(header: str = "", min_width: int | None = None) -> Column:
    return Column(header, justify="right", min_width=min_width)


def fitted(made: Table, width: int) -> Table:
    """Return a table that cuts nothing: it folds the last column where it is too wide, and each if that is not enough.

    A column that is not folded would be cut.
    """
    texts = [[str(text) for text in (column.header, *column.cells)] for column in made.columns]
    widths = [max(column.min_width or 0, *map(cell_len, of)) for column, of in zip(made.columns, texts, strict=True)]
    fits = sum(widths[:-1]) + len(widths[:-1]) + min(widths[-1], LAST_COLUMN_WIDTH) <= width
    for column in made.columns:
        column.overflow = "fold"
        column.no_wrap = fits and column is not made.columns[-1]
        column.min_width = column.min_width if fits else None
    return made


def cell(value: object) -> Text:
    text = "" if value is None else printable(str(value))
    return Text(text, style=STYLES.get(text, ""))


def short_time(timestamp: str | None) -> str:
    """Return `11-25 02:25:03` of an RFC 3339 timestamp in UTC."""
    return timestamp[5:19].replace("T", " ") if timestamp else ""


UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Duration(click.ParamType[timedelta]):
    """`90s`, `15m`, `1h`, `2d`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        number, unit = value[:-1], UNITS.get(value[-1:])
        if not (unit and number.isascii() and number.isdigit() and 0 < int(number) <= 100_000):
            self.fail(f"{value!r} is not like 90s, 15m, 1h or 2d", param, ctx)
        return timedelta(**{unit: int(number)})


class Moment(click.ParamType[str]):
    """An RFC 3339 time or a date, taken as UTC where it has no zone, or a duration: so long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return RFC 3339 UTC with microseconds, as the API writes it, so that text compares as time does."""
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = datetime.now(UTC) - Duration().convert(value, param, ctx)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return rfc3339(moment.timestamp())
