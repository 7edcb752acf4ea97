"""Validate query parameters and request bodies."""

import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from chalicelib.core.event import (
    EVENT_TYPE_OR_PREFIX,
    NewEvent,
    Status,
)
from chalicelib.core.store import UNSETTLED
from chalicelib.infra.addresses import EXPECTED_URL, AllowedHosts, parse_push_url
from chalicelib.infra.errors import (
    ApiError,
    FieldFault,
    InvalidRequestError,
    InvalidValueError,
)
from chalicelib.infra.parsing import (
    EVENT_TYPE,
    NAME,
    Json,
    Parser,
    Parsers,
    canonical,
    dumps,
    is_list,
    must_be,
    parse_all,
    parse_json_object,
    parse_type,
    parser,
    without_fault,
)
from chalicelib.infra.times import rfc3339_of
from chalicelib.settings import WHSEC, WHSEC_FORM, decode_secret
from chalicelib.subscriptions.filters import filter_fault
from chalicelib.subscriptions.subscription import PAYLOAD, SUBSCRIPTION_ID, SVIX, show_secret

MAX_BODY_BYTES = 256 * 1024
MAX_LEASED_EVENTS = 100
# Headers that every push has, headers for the next hop alone, and cookies. Some receivers read an
# underscore as a hyphen.
RESERVED = (
    "content-type|user-agent|webhook-(id|timestamp|signature|event-type)|host|connection|content-length"
    "|content-encoding|transfer-encoding|expect|upgrade|te|trailer|keep-alive|http2-settings"
    "|cookie|proxy-.*"
).replace("-", "[-_]")
# a token: RFC 9110, section 5.6.2
HEADER_NAME = re.compile(rf"(?!(?i:{RESERVED})$)[\w!#$%&'*+.^`|~-]{{1,64}}", re.ASCII)
# urllib3 leaves out a header with the value of its constant SKIP_HEADER.
HEADER_VALUE = re.compile(r"(?!@@@SKIP_HEADER@@@$)[ -~]{1,1024}")


def parse_query(query: Json, parsers: Parsers) -> Json:
    """Return the parsed values of query parameters by name.

    :param query: For each name the list of its texts.
    :param parsers: The parameters of the call, each with its parser.
    :raises InvalidRequestError: With every fault: a parameter that is not known, is given twice or
        cannot be parsed.
    """
    values, faults = parse_all({name: texts[0] for name, texts in query.items()}, parsers)
    unknown = sorted(query.keys() - parsers.keys())
    # An unknown name may have any length: an error shows 128 characters.
    faults += [FieldFault(name[:128], "is not a query parameter of this call") for name in unknown]
    repeated = [name for name, texts in query.items() if len(texts) > 1]
    faults += [FieldFault(name, "must be given only once") for name in repeated]
    if faults:
        raise InvalidRequestError(*faults)
    return values


def list_of(items: str, maximum: int, pattern: str) -> Parser:
    """Return the parser of lists of 1 to `maximum` texts that match a pattern.

    :param items: What the texts are, for the error message: `ids`.
    """

    def is_valid(value: Any) -> bool:
        """Return whether a value is a list of 1 to `maximum` texts that match the pattern."""
        return is_list(value, maximum) and all(
            isinstance(item, str) and re.fullmatch(pattern, item) for item in value
        )

    return must_be(f"a list of 1 to {maximum} {items}", is_valid)


def select_parsers(parsers: Parsers, *names: str) -> Parsers:
    """Return the parsers of the given names."""
    return {name: parsers[name] for name in names}


def integer(maximum: int, minimum: int = 1) -> Parser:
    """Return the parser of integers from `minimum` to `maximum`.

    A float without a fraction such as 60.0 is an integer, as in JSON Schema.
    """

    def parse(value: Any) -> int:
        """Return an integer in the range; raise InvalidValueError for any other value."""
        # In Python, True equals 1.
        if isinstance(value, bool) or value not in range(minimum, maximum + 1):
            raise InvalidValueError(f"must be an integer from {minimum} to {maximum}")
        return int(value)

    return parse


def _printable(text: str) -> str:
    """Return the text; raise ValueError if it has a character that is not printable."""
    if not text.isprintable():
        raise ValueError
    return text


MAX_HEADERS = 5


def headers_fault(headers: Any) -> str | None:
    """Return an error message for a subscription's member `headers`, or None if it is valid.

    The message begins with the name of the unusable header, and does not repeat its value.
    """
    if not isinstance(headers, dict) or len(headers) > MAX_HEADERS:
        return f"must be an object of at most {MAX_HEADERS} names and values"
    lowered = [name.lower() for name in headers]
    for name, value in headers.items():
        # HEADER_NAME matches no name that is reserved.
        if not HEADER_NAME.fullmatch(name) or lowered.count(name.lower()) > 1:
            # The text after a colon is not shown: in the name `Authorization: ...` it is a secret.
            shown = name.partition(":")[0][:64]
            return f"{shown} must be a token of 1 to 64 characters, given once, and not reserved"
        if not isinstance(value, str) or not HEADER_VALUE.fullmatch(value):
            return f"{name} must have 1 to 1,024 printable ASCII characters"
    return None


parse_name = parser(EVENT_TYPE.pattern, NAME)
SUBJECT = r"(?! ).{1,128}(?<! )"
SUBJECT_FORM = "1 to 128 printable characters without a space at either end"
EVENT_MEMBERS = {
    "event_type": parse_type,
    "payload": parse_json_object,
    "metadata": parse_json_object,
    "tenant": parse_name,
    "subject": parser(SUBJECT, SUBJECT_FORM, _printable),
}
KEY = r"[\x20-\x7e]{1,255}"
KEY_FORM = "1 to 255 printable ASCII characters"
BATCHED_MEMBERS = {**EVENT_MEMBERS, "idempotency_key": parser(KEY, KEY_FORM)}
BATCH_MEMBERS = {
    "events": must_be("a list of 1 to 10 events", lambda value: is_list(value, 10)),
}
TEST_MEMBERS = select_parsers(EVENT_MEMBERS, "event_type", "payload")
LEASE_MEMBERS = {
    "limit": integer(MAX_LEASED_EVENTS),
    "lease_seconds": integer(3600),
    "event_type": parse_name,
    "tenant": parse_name,
}
ACKNOWLEDGEMENT_MEMBERS = {
    "lease_id": parser("lse_[0-9a-f]{32}", "a lease_id as it was returned"),
    "event_ids": list_of("ids", MAX_LEASED_EVENTS, "(?s).*"),
}
SEND_MEMBERS = {"event_id": parser("(?s).*", "an event_id")}
TOKEN_MEMBERS = {"tenant": parse_name, "expires_in_seconds": integer(30 * 24 * 3600, 60)}
DESCRIPTION_MEMBERS = {
    "event_types": list_of(
        "event types or prefixes followed by *",
        50,
        EVENT_TYPE_OR_PREFIX.pattern,
    ),
    "name": parser(".{1,100}", "1 to 100 printable characters", _printable),
    "filter": without_fault(filter_fault),
    "headers": without_fault(headers_fault),
    "body": parser(PAYLOAD, f"{PAYLOAD}, or null"),
    "header_prefix": parser(SVIX, f"{SVIX}, or null"),
}
FILTER_MEMBERS = {"filter": DESCRIPTION_MEMBERS["filter"], "payload": parse_json_object}
SECRET_MEMBER = {"secret": parser(WHSEC, WHSEC_FORM, lambda text: show_secret(decode_secret(text)))}


# RFC 3339, section 5.6. An unescaped + of the offset arrives as a space, and some generated
# clients leave out its colon.
TIMESTAMP = r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+ -]\d\d:?\d\d)"
# a sort key, fit for a URL
CURSOR = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z~(evt|cpy|sub)_[0-9a-f]{32}"


def encode_cursor(sort_key: str | None) -> str | None:
    """Return the cursor of the page that begins after a sort key: the sort key with `~` in place of
    `#`, which begins the fragment of a URL.

    :param sort_key: None: there is no next page, and so no cursor; None is returned.
    """
    return None if sort_key is None else sort_key.replace("#", "~")


def _utc(timestamp: str) -> str:
    """Return a timestamp of the form TIMESTAMP, which has an offset, in UTC, as sort keys begin
    (`2026-11-25T02:25:03.464098Z`); raise ValueError or OverflowError if there is no such time.
    """
    date = timestamp[:10]
    # A + before the offset that was not escaped in a URL has become a space.
    time = timestamp[11:].upper().replace(" ", "+")
    return rfc3339_of(datetime.fromisoformat(f"{date}T{time}").astimezone(UTC))


_time = parser(TIMESTAMP, "a time such as 2026-11-25T02:25:03Z", _utc)
PARAMETERS = {
    "cursor": parser(
        f"({CURSOR})?",
        "a next_cursor as it was returned",
        lambda cursor: cursor.replace("~", "#"),
    ),
    "event_type": parser(EVENT_TYPE_OR_PREFIX.pattern, "an event type, or a prefix followed by *"),
    "include": parser("payload|subject|outcome", "payload, subject or outcome"),
    "limit": parser("[1-9][0-9]?|100", "a whole number from 1 to 100", int),
    "order": parser("oldest|newest", "oldest or newest"),
    "since": _time,
    "source": parser("original", "original"),
    "status": parser(
        "pending|delivered|failed|undelivered",
        "pending, delivered, failed or undelivered",
        lambda status: UNSETTLED if status == "undelivered" else (Status(status),),
    ),
    "subject": parser(SUBJECT, SUBJECT_FORM),
    "subscription_id": parser(SUBSCRIPTION_ID.pattern, "sub_ and 32 hexadecimal digits"),
    "tenant": parse_name,
    "until": _time,
}
INCLUDE_DELIVERIES = parser("deliveries", "deliveries")
INCLUDE_CATALOGUE = parser("catalogue", "catalogue")
SUBSCRIPTION_PARAMETERS = {
    "cursor": PARAMETERS["cursor"],
    "include": INCLUDE_DELIVERIES,
    "limit": PARAMETERS["limit"],
    "state": parser(
        "active|failing|paused|disabled|slow", "active, failing, paused, disabled or slow"
    ),
    "tenant": parser(rf"\*|{EVENT_TYPE.pattern}", f"{NAME}, or * for all"),
}
MISSED_PARAMETERS = select_parsers(PARAMETERS, "cursor", "limit", "since", "subject", "until")
RECOVER_MEMBERS = select_parsers(PARAMETERS, "since", "until", "cursor")
INBOX_PARAMETERS = select_parsers(PARAMETERS, "cursor", "event_type", "limit", "order", "tenant")


MAX_BATCH_BYTES = 2_700_000


def parse_batch(body: bytes) -> list[Any]:
    """Return the entries of a batch of events, which are not parsed yet.

    Raises ApiError 413 over MAX_BATCH_BYTES, and InvalidRequestError if the body is not an object
    with the list `events`.
    """
    document = _parse_json(body, MAX_BATCH_BYTES)
    return list(parse_object(document, BATCH_MEMBERS, ("events",))["events"])


def parse_batch_event(document: Any) -> NewEvent:
    """Return the new event of an entry of a batch.

    Raises ApiError 413 over MAX_BODY_BYTES, and InvalidRequestError with every fault.
    """
    _check_compact(document)
    return parse_new_event(document, members=BATCHED_MEMBERS)


def parse_new_event(
    document: Any, idempotency_key: str | None = None, members: Parsers = EVENT_MEMBERS
) -> NewEvent:
    """Return the new event of a JSON value.

    :param idempotency_key: The value of the `Idempotency-Key` header; None: the request has no such
        header. In a batch, the value is a member of the event instead.
    :param members: The members that the value may have: EVENT_MEMBERS; BATCHED_MEMBERS, which
        include the idempotency key; or TEST_MEMBERS.
    :raises InvalidRequestError: With every fault.
    """
    if idempotency_key is not None and not re.fullmatch(KEY, idempotency_key):
        raise InvalidRequestError(FieldFault("Idempotency-Key", f"must be {KEY_FORM}"))
    document = parse_object(document, members, ("event_type", "payload"))
    idempotency_key = document.pop("idempotency_key", idempotency_key)
    body_hash = None
    if idempotency_key is not None:
        # By the hash, a later call with the same key shows whether it has the same body. Writing
        # sorted JSON may reach Python's limit of nesting where parsing did not.
        with _must_be_json():
            compact = canonical(document).encode()
        body_hash = hashlib.sha256(compact).hexdigest()
    return NewEvent(
        event_type=document["event_type"],
        payload=dumps(document["payload"]),
        metadata=dumps(document.get("metadata")),
        tenant=document.get("tenant"),
        subject=document.get("subject"),
        idempotency_key=idempotency_key,
        body_hash=body_hash,
    )


def parse_new_subscription(document: Any, hosts: AllowedHosts, *, names_hosts: bool) -> Json:
    """Return the parsed members of the body of POST /subscriptions.

    :param hosts: The hosts that target URLs may have.
    :param names_hosts: Whether the error message for a target URL lists the allowed hosts.
    :raises InvalidRequestError: With every fault.
    """
    members = {**_subscription_members(hosts, names_hosts=names_hosts), "tenant": parse_name}
    return parse_object(document, members, ("target_url",))


def parse_subscription_changes(
    document: Any, hosts: AllowedHosts, *, names_hosts: bool, now: str
) -> Json:
    """Return the parsed members of the body of PATCH /subscriptions/{subscription_id}.

    A member that is null is None in the result, and is to be removed; `target_url` and `secret`
    must not be null.

    :param hosts: The hosts that target URLs may have.
    :param names_hosts: Whether the error message for a target URL lists the allowed hosts.
    :param now: RFC 3339; `dismissed_until` must not be later.
    :raises InvalidRequestError: With every fault.
    """

    def parse_past(text: Any) -> str:
        """Return a time (RFC 3339) in UTC; raise InvalidValueError if it is later than `now`."""
        time = str(_time(text))
        if time > now:  # both are in UTC with the same number of digits
            raise InvalidValueError("must not be in the future")
        return time

    members = {
        **_subscription_members(hosts, names_hosts=names_hosts),
        "dismissed_until": parse_past,
    }
    return parse_object(document, members, never_null=("target_url", "secret"))


def _subscription_members(hosts: AllowedHosts, *, names_hosts: bool) -> Parsers:
    """Return the parsers of the members that a caller can give when a subscription is created, and
    change later.

    :param hosts: The hosts that target URLs may have.
    :param names_hosts: Whether the error message for a target URL lists the allowed hosts; False,
        for a token: it says that the operator allows hosts.
    """
    allowed = f"SUBSCRIPTION_HOSTS ({', '.join(hosts.entries)})" if names_hosts else "the operator"

    def url_fault(url: Any) -> str | None:
        """Return an error message for a target URL, or None if it is allowed."""
        if hosts.allows(url):
            return None
        if not str(url).lower().startswith("https://"):
            return "must begin with https://"
        host = f"of a public host that is allowed by {allowed}"
        try:
            parse_push_url(str(url))
        except InvalidValueError:
            return f"must be {EXPECTED_URL}, {host}"
        return f"must be {host}"

    return {"target_url": without_fault(url_fault), **DESCRIPTION_MEMBERS, **SECRET_MEMBER}


def load_json(body: bytes) -> Any:
    """Return the JSON value of a request body.

    Raises InvalidRequestError if the body is not JSON, and ApiError 413 if it has more than
    MAX_BODY_BYTES as it was sent or as compact JSON.
    """
    document = _parse_json(body, MAX_BODY_BYTES)
    _check_compact(document)
    return document


def _parse_json(body: bytes, max_bytes: int) -> Any:
    """Return the JSON value of a request body, which may have NaN, infinity and lone surrogates:
    `_check_compact` must check each part of it that is stored.

    Raises ApiError 413 over `max_bytes`, and InvalidRequestError if the body is not UTF-8, not
    JSON, or nested too deep.
    """
    _check_size(body, max_bytes)
    with _must_be_json():
        return json.loads(body.decode(), parse_int=_parse_integer)


def _parse_integer(digits: str) -> float:
    """Return an integer, or infinity if it has more digits than Python converts."""
    try:
        return int(digits)
    except ValueError:
        return math.inf


def _check_compact(document: Any) -> None:
    """Check that a JSON value can be written as compact JSON in UTF-8 of at most MAX_BODY_BYTES.

    Raises InvalidRequestError for NaN, infinity (`1e400`, an integer of 4,301 digits) and half an
    emoji (a lone surrogate). Raises ApiError 413 if it is too large: 250 KB of `1e15` become more
    than DynamoDB's 400 KB.
    """
    with _must_be_json():
        compact = dumps(document).encode()
    _check_size(compact, MAX_BODY_BYTES)


@contextmanager
def _must_be_json() -> Iterator[None]:
    """Return a context manager that raises InvalidRequestError ("must be JSON") in place of the
    errors that the json module and UTF-8 codecs raise in its block.
    """
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(FieldFault("body", f"must be JSON: {error}")) from None


def parse_object(
    document: Any,
    members: Parsers,
    required: Collection[str] = (),
    *,
    never_null: Collection[str] = (),
) -> Json:
    """Return a JSON object with its members parsed. A member that is null is not parsed, and is
    None in the result.

    :param document: The JSON value, which may be no object.
    :param members: The members that the object may have, each with its parser.
    :param required: Names of members that must be there, and must not be null.
    :param never_null: Names of members that may be absent, but must not be null.
    :raises InvalidRequestError: With every fault.
    """
    if not isinstance(document, dict):
        raise InvalidRequestError(FieldFault("body", "must be a JSON object"))
    given = without_nulls(document)
    not_known = f"is not one of {', '.join(members)}"
    unknown = sorted(document.keys() - members.keys())
    # An unknown name may have any length: an error shows 128 characters.
    faults = [FieldFault(name[:128], not_known) for name in unknown]
    faults += [FieldFault(name, "is required") for name in required if name not in given]
    nulls = [name for name in never_null if name in document and document[name] is None]
    faults += [FieldFault(name, "must not be null") for name in nulls]
    values, unusable = parse_all(given, members)
    faults += unusable
    if faults:
        raise InvalidRequestError(*faults)
    return {**document, **values}


def _check_size(body: bytes, max_bytes: int) -> None:
    """Raise ApiError 413 if a body has more than `max_bytes` bytes."""
    if len(body) > max_bytes:
        detail = f"The body must have at most {max_bytes} bytes, as sent and as compact JSON."
        raise ApiError(413, "payload_too_large", detail)


def without_nulls(document: Json) -> Json:
    """Return the members of a JSON object that are not null."""
    return {name: value for name, value in document.items() if value is not None}
