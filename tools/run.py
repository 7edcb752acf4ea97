"""`make run`: the whole system on this machine, in one process, until Ctrl-C or SIGTERM.

Both end it with status 0; a second one ends it at once. What keeps it from starting is one line, and status 1.
"""

import os
import signal
import sys
import time


def main() -> int:
    # Set both: a shell that starts this in the background has SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return _serve()
    except KeyboardInterrupt:
        return 0


def _serve() -> int:
    from tools import local  # takes a second, in which an impatient Ctrl-C should show no trace either

    try:
        system = local.start()
    except local.StartError as error:
        print(f"make run: {error}", file=sys.stderr)
        return 1
    try:
        while True:
            time.sleep(1)
    finally:
        system.stop()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # waits for no thread: what was under way is found by the next sweep
