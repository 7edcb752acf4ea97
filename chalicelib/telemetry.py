"""JSON log lines and CloudWatch metrics, both on standard output.

Only the project's own logger is configured: botocore's and urllib3's lines carry URLs and payloads.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

from chalicelib.events import rfc3339

logger = logging.getLogger("triggers_api")
logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # its messages contain the webhook URL
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_collected: ContextVar[dict[str, float] | None] = ContextVar("collected", default=None)
_RECORD_ATTRIBUTES = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}

_encode = json.JSONEncoder(default=str, separators=(",", ":")).encode  # json.dumps would build one for each line

NAMESPACE = "TriggersApi"
UNITS = {"PushDuration": "Milliseconds", "DeliveryLatency": "Milliseconds", "OldestPendingAge": "Seconds"}


class JsonFormatter(logging.Formatter):
    """Format a record as one JSON object: time, level, message, request id, and everything passed as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in vars(record).items() if name not in _RECORD_ATTRIBUTES}
        line = {"time": rfc3339(record.created), "level": record.levelname, "message": record.getMessage()}
        line |= extra | {"request_id": _request_id.get()}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return _encode(line)


class StdoutHandler(logging.Handler):
    """Write to the current `sys.stdout`, which Lambda and tests replace."""

    def emit(self, record: logging.LogRecord) -> None:
        write_line(self.format(record))


def configure(level: str) -> None:
    """Log lines of `level` and above to standard output."""
    if not logger.handlers:
        handler = StdoutHandler()
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def write_line(line: str) -> None:
    """Write one line to standard output; a closed output must not stop deliveries."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


@contextlib.contextmanager
def request_id(value: str | None) -> Iterator[None]:
    """Add `value` as `request_id` to the lines logged in this context."""
    token = _request_id.set(value)
    try:
        yield
    finally:
        _request_id.reset(token)


def thread_pool(size: int) -> ThreadPoolExecutor:
    """Return a pool of threads that log the request id of the calling thread."""
    return ThreadPoolExecutor(size, initializer=_request_id.set, initargs=(_request_id.get(),))


class Metrics:
    """Publish metrics in the CloudWatch embedded metric format, with the dimension `Stage`.

    Source: "Specification: Embedded metric format", Amazon CloudWatch User Guide.
    """

    def __init__(self, stage: str, *, clock: Callable[[], float]) -> None:
        self._stage = stage
        self._clock = clock

    @contextlib.contextmanager
    def one_line(self) -> Iterator[None]:
        """Write all that this thread emits in this context as one line. No name may be emitted twice."""
        values: dict[str, float] = {}
        token = _collected.set(values)
        try:
            yield
        finally:
            _collected.reset(token)
            if values:
                self.emit(**values)

    def emit(self, **values: float) -> None:
        """Write one line with `values`, in the units of UNITS, or else counts."""
        collected = _collected.get()
        if collected is not None:
            collected.update(values)
            return
        directive = {
            "Namespace": NAMESPACE,
            "Dimensions": [["Stage"]],
            "Metrics": [{"Name": name, "Unit": UNITS.get(name, "Count")} for name in values],
        }
        metadata = {"Timestamp": int(self._clock() * 1000), "CloudWatchMetrics": [directive]}
        write_line(_encode({"_aws": metadata, "Stage": self._stage, **values}))
