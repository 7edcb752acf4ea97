"""JSON log lines with CloudWatch metrics, on standard output.

Only the project's own logger is configured: botocore's and urllib3's lines carry URLs and payloads.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

from chalicelib.infra.parsing import Json
from chalicelib.infra.times import rfc3339

logger = logging.getLogger("triggers_api")
logging.getLogger("urllib3").setLevel(logging.CRITICAL)  # its messages contain the webhook URL
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_RECORD_ATTRIBUTES = vars(logging.makeLogRecord({})).keys() | {"message", "asctime", "taskName"}

# json.dumps would build an encoder for each line.
_encode = json.JSONEncoder(default=str, separators=(",", ":")).encode

NAMESPACE = "TriggersApi"
UNITS = {
    "PushDuration": "Milliseconds",
    "DeliveryLatency": "Milliseconds",
    "OldestPendingAge": "Seconds",
}


class StdoutHandler(logging.Handler):
    """A handler that writes records as JSON lines to the current `sys.stdout`, which Lambda and
    tests replace.
    """

    # The lowest level of the records that are written; a record with metrics is written anyway.
    lowest = logging.INFO
    # The value of the metrics' dimension `Stage`.
    stage = ""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= self.lowest or bool(getattr(record, "metrics", None))

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed output must not stop deliveries
            sys.stdout.write(self.format(record) + "\n")
            sys.stdout.flush()

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a text with one JSON object: time, level, message, the members of
        `extra` that are not None, the id of the request and the traceback.

        The member `metrics` of `extra`, numbers by name, becomes metrics of CloudWatch with the
        dimension `Stage`. A metric has its unit of UNITS, or else the unit `Count`. Source:
        "Specification: Embedded metric format", Amazon CloudWatch User Guide.
        """
        line: Json = {
            "timestamp": rfc3339(record.created),
            "level": record.levelname,
            "message": record.getMessage(),
        }
        line |= {
            name: value
            for name, value in vars(record).items()
            if name not in _RECORD_ATTRIBUTES and value is not None
        }
        metrics = line.pop("metrics", None)
        if metrics:
            definitions = [{"Name": name, "Unit": UNITS.get(name, "Count")} for name in metrics]
            directive = {
                "Namespace": NAMESPACE,
                "Dimensions": [["Stage"]],
                "Metrics": definitions,
            }
            timestamp = int(record.created * 1000)
            line["_aws"] = {"Timestamp": timestamp, "CloudWatchMetrics": [directive]}
            line["Stage"] = self.stage
            line |= metrics
        line["request_id"] = _request_id.get()
        if record.exc_info:
            line["trace"] = logging.Formatter().formatException(record.exc_info)
        return _encode(line)


_handler = StdoutHandler()


def configure(level: str, stage: str = "") -> None:
    """Let the project's logger write records of `level` and above, and records with metrics, to
    standard output.

    :param level: The name of a level of `logging`, such as `INFO`.
    :param stage: The value of the metrics' dimension `Stage`.
    """
    _handler.stage = stage
    _handler.lowest = logging.getLevelNamesMapping()[level]
    logger.addHandler(_handler)
    # Records with metrics have the level INFO or a higher one. The handler leaves out the others.
    logger.setLevel(min(_handler.lowest, logging.INFO))
    logger.propagate = False


@contextlib.contextmanager
def request_id(value: str | None) -> Iterator[None]:
    """Return a context manager in whose block log lines have the member `request_id`.

    :param value: The id of the request; None: the member is null.
    """
    token = _request_id.set(value)
    try:
        yield
    finally:
        _request_id.reset(token)


def thread_pool(size: int) -> ThreadPoolExecutor:
    """Return a pool of up to `size` threads that log the `request_id` of the calling thread."""
    return ThreadPoolExecutor(size, initializer=_request_id.set, initargs=(_request_id.get(),))
