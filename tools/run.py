"""`make run`: the whole system on this machine until Ctrl-C or SIGTERM, which end it with status 0.

What keeps it from starting is one line on standard error, and status 1.
"""

import os
import signal
import sys
import time


def end(status: int) -> None:
    """End the process, which waits for no thread, and name the file of the logs, if there is
    one.
    """
    if sys.stdout is not sys.__stdout__:
        print(f"logs: {sys.stdout.name}", file=sys.stderr, flush=True)
    os._exit(status)


def main() -> int:
    # Both are set because a shell that starts this in the background has SIGINT ignored. What was
    # in progress is found by the next sweep.
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
    while True:  # a signal that arrives just before a wait is handled after it
        time.sleep(1)


if __name__ == "__main__":
    end(main())
