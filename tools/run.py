"""`make run`: the whole system on this machine, in one process, until Ctrl-C or SIGTERM, or until nobody can read it.

Each ends it with status 0; a second signal ends it at once. What keeps it from starting is one line, and status 1.
"""

import contextlib
import gc
import logging
import os
import select
import signal
import sys
import time
from typing import TextIO

GONE = select.POLLERR | select.POLLHUP


def main() -> int:
    # Set both: a shell that starts this in the background has SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return _serve(sys.stdout)
    except (KeyboardInterrupt, BrokenPipeError):
        return 0


def _serve(output: TextIO) -> int:
    gc.disable()  # moto brings some million objects that stay: looking through them takes half of the start
    from tools import local  # an impatient Ctrl-C should show no trace here either

    try:
        system = local.start()
    except local.StartError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    gc.freeze()
    gc.enable()
    try:
        _await_end_of_reader(output)
    finally:
        system.stop()
    return 0


def _await_end_of_reader(output: TextIO) -> None:
    """Return when the other end of a pipe or of a terminal is gone; never for a file."""
    logging.raiseExceptions = False  # no trace from a thread that writes just then
    watch = select.poll()
    watch.register(output.fileno(), GONE)
    while not any(happened & GONE for _, happened in watch.poll(0)):
        time.sleep(0.5)  # not in poll: for what it cannot watch it returns at once


if __name__ == "__main__":
    status = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)  # waits for no thread: what was under way is found by the next sweep
