"""`make run`: run the whole system on this machine until Ctrl-C or SIGTERM, and exit with 0.

If it cannot start, print the reason in one line on standard error, and exit with 1.
"""

import os
import signal
import sys
import time


def end(status: int) -> None:
    """End the process without waiting for its threads, and print the name of the log file, if there
    is one.

    :param status: The exit status of the process.
    """
    # If standard output is a terminal, `local.start` has replaced sys.stdout by the log file.
    if sys.stdout is not sys.__stdout__:
        print(f"logs: {sys.stdout.name}", file=sys.stderr, flush=True)
    os._exit(status)


def main() -> int:
    """Start the system, and let it run until a signal ends the process; return 1 if it cannot
    start.
    """
    # A signal ends the process in the middle of its work: after the next start, the sweep finds the
    # events that were in progress. SIGINT gets a handler, too, because a shell lets a background
    # process ignore it. The handlers are set before the imports below, which take a while.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: end(0))
    import click

    from chalicelib.infra.errors import SettingsError
    from tools import local

    try:
        local.start()
    except (SettingsError, click.ClickException) as error:
        print(f"make run: {error}", file=sys.stderr, flush=True)
        return 1
    while True:  # in short waits: a signal just before a wait is handled after it
        time.sleep(1)


if __name__ == "__main__":
    end(main())
