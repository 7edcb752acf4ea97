"""`python -m tools.ops`: see, mend and measure a running system."""

import io
import logging
import sys
from typing import Any, NoReturn

import click

from tools.ops.events import events, show
from tools.ops.output import Exit
from tools.ops.queues import dlq, redrive
from tools.ops.replay import replay
from tools.ops.send import send
from tools.ops.stats import stats
from tools.screen import printable


class Commands(click.Group):
    """Commands that say in one line what is wrong, and that Ctrl-C stops as it stops any other program: with 130."""

    def main(self, *arguments: Any, **options: Any) -> NoReturn:
        try:
            status = super().main(*arguments, **{**options, "standalone_mode": False})
        except click.exceptions.NoArgsIsHelpError as wanted:
            wanted.show()
            status = wanted.exit_code
        except click.ClickException as error:
            line = printable(" ".join(error.format_message().split()))
            click.echo(f"error: {line if len(line) <= 300 else line[:299] + '…'}", err=True)
            status = error.exit_code
        sys.exit(status)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(Exit.STOPPED) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """See, mend and measure a running Triggers API.

    \b
    By AWS, with your own credentials:     dlq, redrive
    By the HTTP API, with an API key:      events, show, replay, send, stats

    Each command takes --json for scripts. Results go to standard output, progress, remarks and an error, one line, to
    standard error.

    \b
    Exit codes:
      0    done
      1    failed
      2    used wrongly
      3    not found: no such event, queue or running move
      4    the dead letter queue is not empty (dlq --exit-code)
      130  stopped by Ctrl-C; how to go on, where there is more to do, is on standard error
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows another


for command in (dlq, redrive, events, show, replay, send, stats):
    main.add_command(command)


if __name__ == "__main__":
    logging.lastResort = None  # what a library says of a call that it makes again is not for this screen
    main(prog_name="python -m tools.ops")
