"""Times: numbers are Unix seconds, texts are RFC 3339."""

from datetime import UTC, datetime

DAY_SECONDS = 86_400


def rfc3339(unix_seconds: float) -> str:
    """Return RFC 3339 UTC with microseconds and `Z`: fixed width, so that strings compare as times
    do.
    """
    return (
        datetime.fromtimestamp(unix_seconds, UTC)
        .isoformat(timespec="microseconds")
        .removesuffix("+00:00")
        + "Z"
    )


def unix_seconds(timestamp: str) -> float:
    """Return the Unix seconds of a timestamp made by `rfc3339`."""
    return datetime.fromisoformat(timestamp).timestamp()
