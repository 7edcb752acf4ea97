"""One JSON object a line on standard output, each with the request id of what caused it.

Only the project's own logger is touched: botocore's would write URLs and payloads.
"""

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

from chalicelib.events import rfc3339

_logger = logging.getLogger("triggers_api")
_encode = json.JSONEncoder(default=str).encode
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


class JsonLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = {
            "time": rfc3339(record.created),
            "level": record.levelname,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = logging.Formatter().formatException(record.exc_info)
        print_line(_encode(line))


def print_line(line: str) -> None:
    """Write to what is `sys.stdout` at this moment, in one piece: threads write at the same time."""
    with contextlib.suppress(OSError, ValueError):  # nobody reads it: no reason to stop delivering
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def configure(level: str) -> None:
    """Send lines of `level` and above to standard output, unless a handler is there already."""
    if not _logger.handlers:
        _logger.addHandler(JsonLines())
    _logger.setLevel(level)
    _logger.propagate = False


@contextlib.contextmanager
def request_id(value: str | None) -> Iterator[None]:
    """Put `value` on every line that is written inside, in this thread."""
    token = _request_id.set(value)
    try:
        yield
    finally:
        _request_id.reset(token)


def pool(size: int) -> ThreadPoolExecutor:
    """Return a pool of threads that log the request id of whoever made it."""
    return ThreadPoolExecutor(size, initializer=_request_id.set, initargs=(_request_id.get(),))


def info(message: str, **fields: object) -> None:
    _write(logging.INFO, message, fields)


def warning(message: str, **fields: object) -> None:
    _write(logging.WARNING, message, fields)


def exception(message: str, **fields: object) -> None:
    """Log an error with the trace of the exception being handled."""
    _write(logging.ERROR, message, fields, exc_info=True)


def _write(level: int, message: str, fields: dict[str, object], *, exc_info: bool = False) -> None:
    if _logger.isEnabledFor(level):
        trace = sys.exc_info() if exc_info else None
        # Not by `log`, which would look for its caller through all frames.
        record = logging.LogRecord(_logger.name, level, "", 0, message, None, trace)
        record.fields = {**fields, "request_id": _request_id.get()}
        _logger.handle(record)
