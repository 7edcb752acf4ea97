"""The catalogue of event types, which the operator may keep with the code in event_types.json:

    {"order.created": {"description": "An order was placed.", "example": {"order_id": "4711"}}}

Customers read it; nothing that is posted is checked against it.
"""

import json
from functools import lru_cache
from typing import Any

from chalicelib.infra.errors import InvalidValueError
from chalicelib.infra.parsing import EVENT_TYPE, Json

MAX_BYTES = 1024 * 1024  # a response of Lambda has at most 6 MB
MAX_EXAMPLE_BYTES = 64 * 1024
MAX_DESCRIPTION = 1000
MEMBERS = {"description", "example"}
# a file with a typing error at each line would fill the screen
MOST_SHOWN = 5


@lru_cache(maxsize=1)  # a container reads its settings again and again
def parse_catalogue(data: bytes) -> Json:
    """Return what a file says of event types, by name; raise InvalidValueError with the faults."""
    if len(data) > MAX_BYTES:
        raise InvalidValueError(f"must have at most {MAX_BYTES} bytes")
    try:
        catalogue = json.loads(data)
        _dumps(catalogue)
    # also for what is no Unicode, NaN, lone surrogates, too many digits, and nesting
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"must be JSON: {error}") from None
    if not isinstance(catalogue, dict):
        raise InvalidValueError("must be an object with a member for each event type")
    faults = [f"{name[:128]!r} {fault}" for name in catalogue if (fault := _fault(name, catalogue))]
    if faults:
        raise InvalidValueError(f"must be corrected: {'; '.join(faults[:MOST_SHOWN])}")
    return catalogue


def _dumps(value: Any) -> bytes:
    """Return compact JSON; raise ValueError for what JSON or UTF-8 cannot write."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _fault(name: str, catalogue: Json) -> str | None:
    """Return what is wrong with an event type and what is said of it, or None."""
    told = catalogue[name]
    if not EVENT_TYPE.fullmatch(name):
        return "is no event type: 1 to 128 characters of A-Z a-z 0-9 . _ - : /"
    if not isinstance(told, dict) or not told.keys() <= MEMBERS:
        return "must be an object with no members but description and example"
    description = told.get("description", "")
    if not isinstance(description, str) or len(description) > MAX_DESCRIPTION:
        return f"must have a description of at most {MAX_DESCRIPTION} characters"
    example = told.get("example", {})
    if not isinstance(example, dict) or len(_dumps(example)) > MAX_EXAMPLE_BYTES:
        return f"must have an object of at most {MAX_EXAMPLE_BYTES} bytes as its example"
    return None
