"""Options, times, tables and loops that the operator commands share."""

import codecs
import json
import math
import os
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import click
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from chalicelib.infra.errors import AWS_ERRORS, QueueUnavailableError
from chalicelib.infra.times import rfc3339
from tools.api import ApiCallError, printable

# The types of metadata values that `erase` compares. A value of type bool does not match.
COMPARABLE = (str, int, float)
ID_LENGTH = len(f"evt_{0:032}")  # of events, copies and subscriptions
DURATION = "[0-9]{1,6}[smhd]"
UNIT_SECONDS = {
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86400,
}


class Commands(click.Group):
    """A group of commands that prints AWS errors in one line and exits with 1, and exits with 130
    after Ctrl-C.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the arguments name, and return its result. Exit with 130 after
        Ctrl-C. Raise ClickException, which click prints in one line, for an error of AWS and, if
        make runs the command, for wrong usage.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(130)
        except click.UsageError as error:
            # A user of make has set variables, and does not know the options of the message.
            if is_make():
                raise click.ClickException(as_typed(error.format_message())) from error
            raise
        except (*AWS_ERRORS, QueueUnavailableError) as error:
            reason = " ".join(str(error).split())
            raise click.ClickException(f"AWS: {reason}") from error


def is_make() -> bool:
    """Return whether make runs this command. With make, variables take the place of options, as in
    `make replay SINCE=2h`.
    """
    return "MAKELEVEL" in os.environ


def variable(option_name: str) -> str:
    """Return the environment variable of an option, such as EVENT_TYPE for --event-type."""
    return option_name.strip("-").replace("-", "_").upper()


def as_typed(text: str) -> str:
    """Return a text with each option replaced by its variable of make: `SINCE=` for --since."""
    return re.sub(r"'?(--[a-z-]+|EVENT_ID)'?", lambda match: f"{variable(match[1])}=", text)


class Option(click.Option):
    """An option that make sets by an environment variable. Without make, the variable is ignored,
    because it may be meant for another program.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the value of the option's environment variable; None without make."""
        return super().resolve_envvar_value(ctx) if is_make() else None


def option(*names: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return a decorator that adds an option to a click command. If make runs the command, the
    option can also be set by the environment variable of its name: SUBSCRIPTION_ID sets
    --subscription-id.

    :param names: The names of the option; the first one begins with `--`.
    :param attributes: Other keyword arguments of `click.option`, such as `help`.
    """
    return click.option(*names, cls=Option, envvar=variable(names[0]), **attributes)


stage_option = click.option(
    "--stage", envvar="STAGE", metavar="NAME", required=True, help="The stage."
)
rate_option = option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    default=20,
    help="At most so many a second.",
)


def parse_json(value: str) -> object:
    """Return the value of a JSON text; raise BadParameter if it is not JSON."""
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter("it must be JSON") from error


def parse_duration(value: str) -> int:
    """Return the seconds of a duration such as 15m; raise BadParameter if it is malformed."""
    if not re.fullmatch(DURATION, value):
        raise click.BadParameter(f"{value!r} is not a duration (15m, 2h, 7d)")
    count = int(value[:-1])
    return count * UNIT_SECONDS[value[-1]]


def parse_time(value: str) -> str:
    """Return a time as the API writes it: RFC 3339 in UTC with microseconds. Raise BadParameter if
    the given text is malformed.

    :param value: A time such as 2026-11-25T02:00Z, which is in UTC if it has no offset, or an age
        such as 15m: the time 15 minutes ago.
    """
    try:
        if re.fullmatch(DURATION, value):
            return rfc3339(time.time() - parse_duration(value))
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return rfc3339(moment.timestamp())
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(
            f"{value!r} is neither a time (2026-11-25T02:00Z) nor an age (15m, 2h, 7d)"
        ) from error


def parse_metadata(value: str) -> dict[str, str]:
    """Return the members of a text `name=value,name=value` or of a JSON object, with their values
    as texts.

    :raises BadParameter: If the text is malformed or empty, if a name or a value is empty, if a
        value is neither a string nor a number, or if a name occurs twice.
    """
    metadata = {}
    pairs: list[Any] = []  # of a name and a value
    try:
        if value.lstrip().startswith("{"):
            # As a list of pairs, because a dict would lose a repeated name.
            pairs = json.loads(value, object_pairs_hook=list)
        else:
            pairs = [[part.strip() for part in pair.split("=", 1)] for pair in value.split(",")]
        for name, content in pairs:
            if name and content != "" and type(content) in COMPARABLE:
                metadata[name] = str(content)
    except (ValueError, RecursionError):
        metadata.clear()
    # There are fewer members than pairs if a pair was left out above, or if a name is repeated.
    if not metadata or len(metadata) < len(pairs):
        raise click.BadParameter(
            "it must be name=value,name=value or a JSON object of strings and numbers"
        )
    return metadata


METADATA_HELP = (
    "Only events whose metadata has all these members: user_id=42,region=eu or, if a value has a "
    'comma, {"name": "Doe, J."}.'
)
since_option = option(
    "--since",
    type=parse_time,
    metavar="TIME",
    help="Created at or after this time or age: 2h, 2026-11-25T02:00Z.",
)
until_option = option(
    "--until",
    type=parse_time,
    metavar="TIME",
    default="0s",
    help="Created before this time or age; 0s is now.",
)
tenant_option = option("--tenant", metavar="TENANT", help="Only events of this tenant.")
file_option = partial(
    option,
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of JSON lines.",
)


def print_table(columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Print rows with headings. The table is 250 characters wide, also on a narrower terminal, so
    that no id is folded: people copy ids.

    :param columns: The headings.
    :param rows: Values in the order of the columns; None is printed as an empty cell.
    """
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(Text("" if value is None else printable(str(value))) for value in row))
    Console(width=250).print(table, crop=False)


def print_items(columns: Sequence[str], items: Iterable[Mapping[str, object]]) -> None:
    """Print a table of events or subscriptions.

    :param columns: The members to print.
    """
    print_table(columns, ([item[name] for name in columns] for item in items))


def numbered_lines(content: bytes) -> dict[str, bytes]:
    """Return the lines of a file that are not blank, without spaces around them, by their names:
    `line 1` and so on. Raise ClickException if there are none.

    :param content: The content of the file. A byte order mark at its beginning is ignored.
    """
    lines = {}
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        if line.strip():
            lines[f"line {number}"] = line.strip()
    if not lines:
        raise click.ClickException("the file has no lines")
    return lines


def counted(count: int, noun: str) -> str:
    """Return a number with a noun in the singular or plural, such as `2 events`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_place(stage: str) -> str:
    """Print the AWS account, the region and the stage of a command; return the account's number."""
    sts = boto3.client("sts")
    account = str(sts.get_caller_identity()["Account"])
    print(f"account {account}, region {sts.meta.region_name}, stage {stage}", flush=True)
    return account


def command_line(command: str, options: Mapping[str, object]) -> str:
    """Return a make command that can be pasted into a shell, such as `make replay SINCE=2h`.

    :param command: The name of the make target.
    :param options: Values by the name of the option or variable. Values that are None, False or
        empty are left out.
    """
    words = ["make", command]
    words += [f"{variable(name)}={value}" for name, value in options.items() if value]
    return shlex.join(words)


def again(**changes: str) -> str:
    """Return the make command that runs the present click command again, with its own options
    except for the given ones.

    :param changes: Values of other options, by name; an empty value leaves an option out.
    """
    context = click.get_current_context()
    return command_line(str(context.info_name), context.params | changes)


def act_on_each(
    unit: str,
    items: Iterable[Any],
    act: Callable[[Any], str],
    *,
    total: int,
    rest: Callable[[int], str],
    rate: float = math.inf,
) -> None:
    """Call a function for each item, show the progress, and print how many items had each outcome.

    An item that the API refuses (ApiCallError with one of the status codes below) is named and
    counted as `refused`, and the loop continues; at the end ClickException is raised. Any other
    error ends the loop and is raised, because it concerns every item.

    :param unit: The noun for an item, in the singular.
    :param act: Handles an item, and returns the outcome in a few words, such as `sent`.
    :param total: The expected number of items, for the progress and for the summary at the end.
    :param rest: Returns the advice that is printed when the loop ends early, given the number of
        items that were handled.
    :param rate: How many items are handled in a second, at most; infinite: without a limit.
    """
    outcomes = Counter[str]()
    console = Console(stderr=True)
    tracked = track(
        items,
        f"{unit}s",
        total,
        console=console,
        disable=not console.is_terminal,
    )
    try:
        for item in tracked:
            time.sleep(1 / rate)
            try:
                outcomes[act(item)] += 1
            except ApiCallError as error:
                if error.status not in (400, 404, 409, 413, 415, 422):
                    raise
                click.echo(f"{item}: {error.message}", err=True)
                outcomes["refused"] += 1
    finally:
        done = outcomes.total()
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
        click.echo(f"{done:,} of {counted(total, unit)}: {counts or 'none done'}", err=done < total)
        if done < total:
            click.echo(rest(done), err=True)
    if outcomes["refused"]:
        raise click.ClickException(f"some {unit}s were refused")
