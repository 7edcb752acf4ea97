"""The query parameters of listings, and the cursors of their pages."""

from datetime import UTC, datetime

from chalicelib.core.event import EVENT_TYPE, EVENT_TYPE_OR_PREFIX, Status
from chalicelib.customers.subscription import SUBSCRIPTION_ID
from chalicelib.infra.parsing import Parser, parser
from chalicelib.web.validation import SUBJECT, SUBJECT_FORM

# RFC 3339, section 5.6; an unescaped + of the offset arrives as a space.
TIMESTAMP = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+ -]\d\d:\d\d)"
CURSOR = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z~(evt|cpy|sub)_[0-9a-f]{32}"  # a sort key, fit for a URL


def encode_cursor(sort_key: str) -> str:
    """Return the cursor that goes on after a sort key."""
    return sort_key.replace("#", "~")


def _utc(timestamp: str) -> str:
    """Return an RFC 3339 time in UTC with microseconds, as sort keys begin; raise ValueError or OverflowError."""
    date, time = timestamp[:10], timestamp[11:].upper().replace(" ", "+")
    moment = datetime.fromisoformat(f"{date}T{time}").astimezone(UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


_time = parser(TIMESTAMP, "a time such as 2026-11-25T02:25:03Z", _utc)
PARAMETERS: dict[str, Parser] = {
    "cursor": parser(f"({CURSOR})?", "a next_cursor as it was returned", lambda cursor: cursor.replace("~", "#")),
    "event_type": parser(EVENT_TYPE_OR_PREFIX.pattern, "an event type, or a prefix followed by *"),
    "include": parser("payload", "payload"),
    "limit": parser("[1-9][0-9]?|100", "a whole number from 1 to 100", int),
    "order": parser("oldest|newest", "oldest or newest"),
    "since": _time,
    "source": parser("original", "original"),
    "status": parser("pending|delivered|failed", "pending, delivered or failed", lambda status: (Status(status),)),
    "subject": parser(SUBJECT, SUBJECT_FORM),
    "subscription_id": parser(SUBSCRIPTION_ID.pattern, "sub_ and 32 hexadecimal digits"),
    "tenant": parser(EVENT_TYPE.pattern, "1 to 128 characters of A-Z a-z 0-9 . _ - : /"),
    "until": _time,
}
SUBSCRIPTION_PARAMETERS = {
    "cursor": PARAMETERS["cursor"],
    "limit": PARAMETERS["limit"],
    "state": parser("active|failing|disabled", "active, failing or disabled"),
    "tenant": parser(rf"\*|{EVENT_TYPE.pattern}", "1 to 128 characters of A-Z a-z 0-9 . _ - : /, or * for all"),
}
INBOX_PARAMETERS = {name: PARAMETERS[name] for name in ("cursor", "event_type", "limit", "order", "tenant")}
