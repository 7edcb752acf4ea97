"""Validation of request bodies."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from chalicelib.errors import ApiError, FieldFault, InvalidRequestError
from chalicelib.events import EVENT_TYPE, compact

MAX_BODY_BYTES = 256 * 1024
MAX_DEPTH = 100
MAX_LEASED_EVENTS = 100
MAX_LEASE_SECONDS = 3600
EVENT_TYPE_RULE = "must be 1 to 128 characters of A-Z a-z 0-9 . _ - : /"

_encode_canonically = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False
).encode


@dataclass(frozen=True)
class NewEvent:
    """A valid body of POST /events. `payload` and `metadata` are compact JSON; equal JSON has an equal `body_hash`."""

    event_type: str
    payload: str
    metadata: str
    body_hash: str


@dataclass(frozen=True)
class LeaseRequest:
    """A valid body of POST /inbox/lease."""

    limit: int = 10
    lease_seconds: int = 300
    event_type: str | None = None


def parse_new_event(body: bytes, header_errors: Sequence[FieldFault] = ()) -> NewEvent:
    """Return the event in `body`; `header_errors` are reported together with the faults of the body.

    Raises ApiError 413 over MAX_BODY_BYTES, as sent or as compact JSON (250 KB of `1e15` would exceed DynamoDB's
    400 KB), and InvalidRequestError with every fault.
    """
    document, canonical, errors = parse_object(body, ("event_type", "payload", "metadata"), header_errors)
    if len(canonical) > MAX_BODY_BYTES:
        raise ApiError(413, f"The body must have at most {MAX_BODY_BYTES} bytes as compact JSON.")
    errors += [FieldFault(name, "is required") for name in ("event_type", "payload") if name not in document]
    if "event_type" in document and not is_event_type(document["event_type"]):
        errors.append(FieldFault("event_type", EVENT_TYPE_RULE))
    if "payload" in document and not isinstance(document["payload"], dict):
        errors.append(FieldFault("payload", "must be a JSON object"))
    if not isinstance(document.get("metadata"), dict | None):
        errors.append(FieldFault("metadata", "must be a JSON object or null"))
    if errors:
        raise InvalidRequestError(*errors)
    return NewEvent(
        event_type=document["event_type"],
        payload=compact(document["payload"]),
        metadata=compact(document.get("metadata")),
        body_hash=hashlib.sha256(canonical).hexdigest(),
    )


def parse_lease_request(body: bytes) -> LeaseRequest:
    """Return the lease request in `body`, which may be empty; raise InvalidRequestError with every fault."""
    if not body.strip():
        return LeaseRequest()
    document, _, errors = parse_object(body, ("limit", "lease_seconds", "event_type"))
    request = LeaseRequest(**{name: value for name, value in document.items() if value is not None})
    for name, maximum in (("limit", MAX_LEASED_EVENTS), ("lease_seconds", MAX_LEASE_SECONDS)):
        value = getattr(request, name)
        if type(value) is not int or not 1 <= value <= maximum:
            errors.append(FieldFault(name, f"must be an integer from 1 to {maximum}"))
    if request.event_type is not None and not is_event_type(request.event_type):
        errors.append(FieldFault("event_type", EVENT_TYPE_RULE))
    if errors:
        raise InvalidRequestError(*errors)
    return request


def parse_object(
    body: bytes, members: Sequence[str], header_errors: Sequence[FieldFault] = ()
) -> tuple[dict[str, Any], bytes, list[FieldFault]]:
    """Return the JSON object in `body`, its canonical JSON (members sorted), and the faults found so far.

    A fault is each of `header_errors` and each member that is not one of `members`, which is left out. Raises ApiError
    413 over MAX_BODY_BYTES, and InvalidRequestError if the body is not a JSON object.
    """
    if len(body) > MAX_BODY_BYTES:
        raise ApiError(413, f"The body must have at most {MAX_BODY_BYTES} bytes.")
    document, canonical, fault = _decode(body)
    if fault is not None:
        raise InvalidRequestError(*header_errors, FieldFault("body", fault))
    unknown = sorted(document.keys() - set(members))
    errors = [FieldFault(name[:128], f"is not one of {', '.join(members)}") for name in unknown]
    return {name: document[name] for name in members if name in document}, canonical, [*header_errors, *errors]


def is_event_type(value: object) -> bool:
    return isinstance(value, str) and EVENT_TYPE.fullmatch(value) is not None


def _decode(body: bytes) -> tuple[Any, bytes, str | None]:
    """Return a JSON object, its canonical JSON, and what is wrong with it, if anything."""
    try:
        document = json.loads(body.decode("utf-8"))
        if not isinstance(document, dict):
            return None, b"", "must be a JSON object"
        # More than MAX_DEPTH brackets are needed for that depth: most bodies need no walk.
        if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(document) > MAX_DEPTH:
            return None, b"", f"must not be nested deeper than {MAX_DEPTH}"
        return document, _encode_canonically(document).encode(), None
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
    return None, b"", fault


def _depth(document: Any) -> int:
    depth, level = 0, [document]
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [child for value in level for child in (value.values() if isinstance(value, dict) else value)]
    return depth
