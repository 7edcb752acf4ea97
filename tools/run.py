"""`make run`: the whole system on this machine, in one process, until Ctrl-C or SIGTERM, which end it with status 0.

What keeps it from starting is one line on standard error, and status 1.
"""

import contextlib
import gc
import os
import signal
import sys
import threading


def main() -> int:
    # Both are set because a shell that starts this in the background has SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        gc.disable()  # moto's objects stay; looking through them takes a third of the start
        from tools import local  # slow, and Ctrl-C should show no traceback

        try:
            local.start()
        except local.StartError as error:
            print(f"make run: {error}", file=sys.stderr)
            return 1
        gc.freeze()
        gc.enable()
        threading.Event().wait()
    return 0


if __name__ == "__main__":
    status = main()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)  # waits for no thread; the next sweep finds what was in progress
