"""Validation of request bodies."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from chalicelib.errors import ApiError, FieldError, InvalidRequestError
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

    @property
    def size(self) -> int:
        """Bytes of payload and metadata, or half of their size in a Lambda response if that is more.

        Lambda quotes a response as JSON once more and, before Python 3.12, escapes all but ASCII.
        """
        text = self.payload + self.metadata
        return max(len(text.encode()), len(json.dumps(text)) // 2)


@dataclass(frozen=True)
class LeaseRequest:
    """A valid body of POST /inbox/lease."""

    limit: int = 10
    lease_seconds: int = 300
    event_type: str | None = None


def parse_new_event(body: bytes, header_errors: tuple[FieldError, ...] = ()) -> NewEvent:
    """Return the event in `body`; `header_errors` are reported together with the faults of the body.

    Raises ApiError 413 over MAX_BODY_BYTES, as sent or as compact JSON (250 KB of `1e15` would exceed DynamoDB's
    400 KB), and InvalidRequestError with every fault.
    """
    document, canonical, error = _parse_json(body)
    if len(canonical) > MAX_BODY_BYTES:
        raise ApiError(413, f"The body must have at most {MAX_BODY_BYTES} bytes as compact JSON.")
    errors = [*header_errors, *([FieldError("body", error)] if error else _field_errors(document))]
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
    document, errors = parse_object(body, ("limit", "lease_seconds", "event_type"))
    request = LeaseRequest(**{name: value for name, value in document.items() if value is not None})
    maxima = {"limit": MAX_LEASED_EVENTS, "lease_seconds": MAX_LEASE_SECONDS}
    for name, maximum in maxima.items():
        value = getattr(request, name)
        if type(value) is not int or not 1 <= value <= maximum:
            errors.append(FieldError(name, f"must be an integer from 1 to {maximum}"))
    if request.event_type is not None and not is_event_type(request.event_type):
        errors.append(FieldError("event_type", EVENT_TYPE_RULE))
    if errors:
        raise InvalidRequestError(*errors)
    return request


def parse_object(body: bytes, members: tuple[str, ...]) -> tuple[dict[str, Any], list[FieldError]]:
    """Return those of `members` that the JSON object in `body` has, and a fault for each other member.

    Raises ApiError 413 over MAX_BODY_BYTES, and InvalidRequestError if the body is not a JSON object.
    """
    document, _, error = _parse_json(body)
    if error is None and not isinstance(document, dict):
        error = "must be a JSON object"
    if error is not None:
        raise InvalidRequestError(FieldError("body", error))
    unknown = sorted(document.keys() - set(members))
    errors = [FieldError(name[:128], f"is not one of {', '.join(members)}") for name in unknown]
    return {name: document[name] for name in members if name in document}, errors


def is_event_type(value: object) -> bool:
    return isinstance(value, str) and EVENT_TYPE.fullmatch(value) is not None


def _parse_json(body: bytes) -> tuple[Any, bytes, str | None]:
    """Return the document, its canonical JSON (members sorted, no spaces), and what is wrong with it, if anything.

    Raises ApiError 413 over MAX_BODY_BYTES.
    """
    if len(body) > MAX_BODY_BYTES:
        raise ApiError(413, f"The body must have at most {MAX_BODY_BYTES} bytes.")
    too_deep = f"must not be nested deeper than {MAX_DEPTH}"
    try:
        document = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        return None, b"", "must be UTF-8"
    except json.JSONDecodeError as error:
        return None, b"", f"must be JSON: {error.msg} at line {error.lineno} column {error.colno}"
    except RecursionError:
        return None, b"", too_deep
    except ValueError:  # CPython's limit for converting integers
        return None, b"", "must not contain an integer of more than 4,300 digits"
    # More than MAX_DEPTH brackets are needed for that depth: most bodies need no walk.
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(document) > MAX_DEPTH:
        return None, b"", too_deep
    try:
        return document, _encode_canonically(document).encode(), None
    except UnicodeEncodeError:
        return None, b"", "must not contain lone surrogates"
    except ValueError:  # json.loads accepts NaN, and reads 1e400 as Infinity
        return None, b"", "must contain only finite numbers within the range of a double"


def _depth(document: Any) -> int:
    depth, level = 0, [document]
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [child for value in level for child in (value.values() if isinstance(value, dict) else value)]
    return depth


def _field_errors(document: Any) -> list[FieldError]:
    if not isinstance(document, dict):
        return [FieldError("body", "must be a JSON object")]
    errors = []
    if "event_type" not in document:
        errors.append(FieldError("event_type", "is required"))
    elif not is_event_type(document["event_type"]):
        errors.append(FieldError("event_type", EVENT_TYPE_RULE))
    if "payload" not in document:
        errors.append(FieldError("payload", "is required"))
    elif not isinstance(document["payload"], dict):
        errors.append(FieldError("payload", "must be a JSON object"))
    if not isinstance(document.get("metadata"), dict | None):
        errors.append(FieldError("metadata", "must be a JSON object or null"))
    unknown = sorted(document.keys() - {"event_type", "payload", "metadata"})
    return errors + [FieldError(name[:128], "is not a member of an event") for name in unknown]
