"""The catalogue of event types, which the operator may keep with the code in event_types.json:

    {"order.created": {"description": "An order was placed.", "example": {"order_id": "4711"}}}

Customers read it; nothing that is posted is checked against it.
"""

import json
from typing import Any

from chalicelib.infra.errors import InvalidValueError
from chalicelib.infra.parsing import Json, dumps, parse_json_object, parse_type, without_fault

MAX_BYTES = 1024 * 1024  # a response of Lambda has at most 6 MB
MAX_MEMBER_BYTES = 64 * 1024
MEMBERS = {"description": str, "example": dict}
ENTRY = (
    "an object with a description (a text), an example (an object), or both, each of at most"
    f" {MAX_MEMBER_BYTES} bytes as compact JSON"
)


def parse_catalogue(data: bytes) -> Json:
    """Return the catalogue in the bytes of a file: an entry for each event type, by its name.

    Raises InvalidValueError if the file is too long, is not JSON, or has a name or entry with a
    fault; the text begins with the name.
    """
    if len(data) > MAX_BYTES:
        raise InvalidValueError(f"must have at most {MAX_BYTES} bytes")
    name = "the file"
    try:
        catalogue: Json = parse_json_object(json.loads(data, object_pairs_hook=_object))
        for name, entry in catalogue.items():
            parse_type(name)
            parse_entry(entry)
    # ValueError also for bytes that are not UTF-8, NaN, lone surrogates and too many digits;
    # RecursionError for nesting that is too deep
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"must be corrected in {name[:128]}: {error}") from None
    return catalogue


def _object(pairs: list[tuple[str, Any]]) -> Json:
    """Return the JSON object of pairs of a name and a value; raise ValueError if a name is
    repeated.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        # Names may be long: an error shows 1,000 characters of them.
        raise ValueError(f"a name stands twice among {', '.join(found)[:1000]!r}")
    return found


def _find_fault(entry: Any) -> str | None:
    """Return what is wrong with the entry of an event type, beginning with "must"; None if nothing
    is.

    Raises ValueError if a value cannot be written as JSON, such as NaN.
    """
    if not isinstance(entry, dict):
        return f"must be {ENTRY}"
    for member, value in entry.items():
        if member not in MEMBERS:
            return f"must not have {member[:128]!r}, and must be {ENTRY}"
        is_too_long = len(dumps(value).encode()) > MAX_MEMBER_BYTES
        if is_too_long or not isinstance(value, MEMBERS[member]):
            return f"must be {ENTRY}"
    return None


parse_entry = without_fault(_find_fault)
