"""Times: numbers are Unix seconds, texts are RFC 3339."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]  # returns Unix seconds
DAY_SECONDS = 86_400


def rfc3339(unix_seconds: float) -> str:
    """Return a time as a text in UTC with microseconds and `Z`: `2026-11-25T02:25:03.464098Z`.

    The width is fixed, so that texts compare as times do.
    """
    return rfc3339_of(datetime.fromtimestamp(unix_seconds, UTC))


def rfc3339_of(moment: datetime) -> str:
    """Return a datetime in UTC as the text that `rfc3339` returns."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def ms_since(started: float) -> int:
    """Return the whole milliseconds since `started`, a time of `time.monotonic`."""
    return round((time.monotonic() - started) * 1000)


def unix_seconds(timestamp: str) -> float:
    """Return the Unix seconds of a timestamp made by `rfc3339`."""
    return datetime.fromisoformat(timestamp).timestamp()
