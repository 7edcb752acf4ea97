"""Validation of texts, query parameters and request bodies."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from chalicelib.core.event import EVENT_ID, EVENT_TYPE, RESERVED_PREFIX, dumps
from chalicelib.infra.errors import ApiError, EventNotFoundError, FieldFault, InvalidRequestError, InvalidValueError

MAX_BODY_BYTES = 256 * 1024
MAX_DEPTH = 100
MAX_LEASED_EVENTS = 100
MAX_LEASE_SECONDS = 3600

Check = Callable[[Any], str | None]  # returns what a value must be, or None if it is valid
Parser = Callable[[str], Any]  # returns the value of a text; raises InvalidValueError

_canonical_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False).encode


@dataclass(frozen=True)
class NewEvent:
    """A valid body of POST /events. `payload` and `metadata` are compact JSON; equal JSON has an equal `body_hash`.

    There is a `body_hash` only with an `idempotency_key`.
    """

    event_type: str
    payload: str
    metadata: str
    tenant: str | None
    idempotency_key: str | None = None
    body_hash: str | None = None


def parser(pattern: str, expected: str, convert: Callable[[str], Any] = str) -> Parser:
    """Return the parser of texts that match `pattern` and that `convert` takes; `expected` says what they must be."""

    def parse(text: str) -> Any:
        try:
            if re.fullmatch(pattern, text):
                return convert(text)
        except (ValueError, OverflowError):
            pass
        raise InvalidValueError(f"must be {expected}")

    return parse


def parse_query(query: Mapping[str, Sequence[str]], parsers: Mapping[str, Parser]) -> dict[str, Any]:
    """Return the values of query parameters; raise InvalidRequestError with every fault."""
    values: dict[str, Any] = {}
    faults: list[FieldFault] = []
    for name, texts in query.items():
        if name not in parsers:
            faults.append(FieldFault(name[:128], "is not a parameter of this call"))
        elif len(texts) > 1:
            faults.append(FieldFault(name, "must be given once"))
        else:
            try:
                values[name] = parsers[name](texts[0])
            except InvalidValueError as error:
                faults.append(FieldFault(name, str(error)))
    if faults:
        raise InvalidRequestError(*faults)
    return values


def must_be(expected: str, is_valid: Callable[[Any], bool]) -> Check:
    """Return the check that a value `is_valid`."""
    return lambda value: None if is_valid(value) else f"must be {expected}"


def matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def is_list(value: object, maximum: int, is_valid: Callable[[Any], bool]) -> bool:
    """Return whether `value` is a list of 1 to `maximum` values that are valid."""
    return isinstance(value, list) and 1 <= len(value) <= maximum and all(map(is_valid, value))


def integer(maximum: int, minimum: int = 1) -> Check:
    numbers, expected = range(minimum, maximum + 1), f"an integer from {minimum} to {maximum}"
    return must_be(expected, lambda value: not isinstance(value, bool) and value in numbers)


check_event_type = must_be("1 to 128 characters of A-Z a-z 0-9 . _ - : /", partial(matches, EVENT_TYPE))
check_not_reserved = must_be(
    f"another type: those that begin with {RESERVED_PREFIX} are reserved",
    lambda value: not value.startswith(RESERVED_PREFIX),
)
EVENT_MEMBERS: dict[str, Check] = {
    "event_type": lambda value: check_event_type(value) or check_not_reserved(value),
    "payload": must_be("a JSON object", lambda value: isinstance(value, dict)),
    "metadata": must_be("a JSON object or null", lambda value: isinstance(value, dict)),
    "tenant": check_event_type,
}
LEASE_MEMBERS: dict[str, Check] = {
    "limit": integer(MAX_LEASED_EVENTS),
    "lease_seconds": integer(MAX_LEASE_SECONDS),
    "event_type": check_event_type,
    "tenant": check_event_type,
}
ACKNOWLEDGEMENT_MEMBERS: dict[str, Check] = {
    "lease_id": must_be("a lease_id as it was returned", partial(matches, re.compile("lse_[0-9a-f]{32}"))),
    "event_ids": must_be(
        f"a list of 1 to {MAX_LEASED_EVENTS} ids",
        lambda value: is_list(value, MAX_LEASED_EVENTS, lambda each: isinstance(each, str)),
    ),
}


def parse_new_event(body: bytes, idempotency_key: str | None = None) -> NewEvent:
    """Return the event in `body`.

    Raises ApiError 413 over MAX_BODY_BYTES, as sent or as compact JSON (250 KB of `1e15` would exceed DynamoDB's
    400 KB), and InvalidRequestError with every fault, that of the Idempotency-Key included.
    """
    faults = []
    if idempotency_key is not None and not re.fullmatch(r"[\x20-\x7e]{1,255}", idempotency_key):
        faults.append(FieldFault("Idempotency-Key", "must be 1 to 255 printable ASCII characters"))
    document, canonical = parse_object(body, EVENT_MEMBERS, ("event_type", "payload"), faults)
    if len(canonical) > MAX_BODY_BYTES:
        raise ApiError(413, "payload_too_large", f"The body must have at most {MAX_BODY_BYTES} bytes as compact JSON.")
    return NewEvent(
        event_type=document["event_type"],
        payload=dumps(document["payload"]),
        metadata=dumps(document.get("metadata")),
        tenant=document.get("tenant"),
        idempotency_key=idempotency_key,
        body_hash=hashlib.sha256(canonical).hexdigest() if idempotency_key is not None else None,
    )


def parse_lease_request(body: bytes) -> dict[str, Any]:
    """Return the members of `body`, which may be empty; raise InvalidRequestError with every fault."""
    document, _ = parse_object(body.strip() or b"{}", LEASE_MEMBERS)
    # To JSON Schema, 60.0 is an integer.
    given = {name: int(value) if isinstance(value, float) else value for name, value in document.items()}
    return {"limit": 10, "lease_seconds": 300, **given}


def parse_acknowledgement(body: bytes) -> tuple[str, list[str]]:
    """Return the lease and the ids in `body`, each once; raise InvalidRequestError with every fault."""
    document, _ = parse_object(body, ACKNOWLEDGEMENT_MEMBERS, tuple(ACKNOWLEDGEMENT_MEMBERS))
    return document["lease_id"], list(dict.fromkeys(document["event_ids"]))


def parse_object(
    body: bytes, members: Mapping[str, Check], required: Sequence[str] = (), header_faults: Sequence[FieldFault] = ()
) -> tuple[dict[str, Any], bytes]:
    """Return the members of the JSON object in `body` that are not null, and its canonical JSON (members sorted).

    Raises ApiError 413 over MAX_BODY_BYTES, and InvalidRequestError with every fault: `header_faults`, members that are
    not among `members` or whose check fails, and those of `required` that are absent.
    """
    if len(body) > MAX_BODY_BYTES:
        raise ApiError(413, "payload_too_large", f"The body must have at most {MAX_BODY_BYTES} bytes.")
    try:
        document, canonical = _decode(body)
    except InvalidValueError as error:
        raise InvalidRequestError(*header_faults, FieldFault("body", str(error))) from None
    unknown = sorted(document.keys() - members.keys())
    faults = [*header_faults, *(FieldFault(name[:128], f"is not one of {', '.join(members)}") for name in unknown)]
    faults += [FieldFault(name, "is required") for name in required if name not in document]
    given = {name: document[name] for name in members if name in document}
    given = {name: value for name, value in given.items() if value is not None or name in required}
    faults += [FieldFault(name, fault) for name, value in given.items() if (fault := members[name](value))]
    if faults:
        raise InvalidRequestError(*faults)
    return given, canonical


def valid_id(event_id: str) -> str:
    """Return the id of an event; raise EventNotFoundError if it is malformed."""
    if not EVENT_ID.fullmatch(event_id):
        raise EventNotFoundError
    return event_id


def _decode(body: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a JSON object and its canonical JSON; raise InvalidValueError."""
    try:
        document = json.loads(body.decode("utf-8"))
        if body.count(b"{") + body.count(b"[") > MAX_DEPTH:  # most bodies need no walk
            _check_depth(document)
        if isinstance(document, dict):
            return document, _canonical_json(document).encode()
        fault = "must be a JSON object"
    except UnicodeDecodeError:
        fault = "must be UTF-8"
    except json.JSONDecodeError as error:
        fault = f"must be JSON: {error.msg} at line {error.lineno} column {error.colno}"
    except RecursionError:
        fault = f"must not be nested deeper than {MAX_DEPTH}"
    except UnicodeEncodeError:
        fault = "must not contain lone surrogates"
    except ValueError:  # json.loads accepts NaN, reads 1e400 as Infinity, and has CPython's limit of digits
        fault = "must contain only finite numbers within the range of a double, and integers of at most 4,300 digits"
    raise InvalidValueError(fault)


def _check_depth(document: Any) -> None:
    """Raise RecursionError if a document is nested deeper than MAX_DEPTH."""
    level = [document]
    for _ in range(MAX_DEPTH):
        containers = [value for value in level if isinstance(value, dict | list)]
        level = [child for value in containers for child in (value.values() if isinstance(value, dict) else value)]
    if any(isinstance(value, dict | list) for value in level):
        raise RecursionError
