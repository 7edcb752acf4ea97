"""`python -m tests.crash.hasty`: the system of `make run` by a fast wall clock, so that a claim of 60 s ends soon.

HASTE is how many seconds pass in one, counted from HASTE_FROM (Unix seconds) in every process alike.
"""

import os
import time

_haste, _start, _real = float(os.environ["HASTE"]), float(os.environ["HASTE_FROM"]), time.time


def _fast() -> float:
    return _start + (_real() - _start) * _haste


time.time = _fast  # before anything is imported that keeps it

from tools import local, run  # noqa: E402

local.SWEEP_SECONDS /= _haste

if __name__ == "__main__":
    os._exit(run.main())
