"""What may be posted as an event: the body of POST /events, checked as a whole.

Knows nothing of headers or storage.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from chalicelib.errors import BodyTooLargeError, Fault, InvalidRequestError
from chalicelib.events import EVENT_TYPE, compact

MAX_BODY_BYTES = 256 * 1024
MAX_DEPTH = 100

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
        """The bytes that were posted, or half of what they become in Lambda's answer if that is more.

        Lambda quotes a page as JSON once more and, before Python 3.12, escapes what is not ASCII: 2 bytes become 6.
        """
        text = self.payload + self.metadata
        return max(len(text.encode()), len(json.dumps(text)) // 2)


def parse_new_event(body: bytes, other_faults: tuple[Fault, ...] = ()) -> NewEvent:
    """Return the event that `body` describes; `other_faults` of its request are told with its own.

    Raises BodyTooLargeError over 256 KiB, as sent or as compact JSON (250 KB of `1e15` grows past what DynamoDB
    stores), and InvalidRequestError with every fault found.
    """
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLargeError(f"The body may have {MAX_BODY_BYTES} bytes at most.")
    try:
        document = _parse_json(body)
        canonical = _canonical(document)
    except InvalidRequestError as error:
        raise InvalidRequestError(*other_faults, *error.faults) from None
    if len(canonical) > MAX_BODY_BYTES:
        raise BodyTooLargeError(f"The body may have {MAX_BODY_BYTES} bytes at most, as compact JSON too.")
    faults = [*other_faults, *_faults(document)]
    if faults:
        raise InvalidRequestError(*faults)
    return NewEvent(
        event_type=document["event_type"],
        payload=compact(document["payload"]),
        metadata=compact(document.get("metadata")),
        body_hash=hashlib.sha256(canonical).hexdigest(),
    )


def _parse_json(body: bytes) -> Any:
    try:
        document = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise _unusable("must be UTF-8") from None
    except json.JSONDecodeError as error:
        raise _unusable(f"must be JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise _unusable(f"must not be nested deeper than {MAX_DEPTH}") from None
    except ValueError:  # CPython converts no integer of more than 4,300 digits
        raise _unusable("must not hold an integer of more than 4,300 digits") from None
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _depth(document) > MAX_DEPTH:  # else too few to be so deep
        raise _unusable(f"must not be nested deeper than {MAX_DEPTH}")
    return document


def _canonical(document: Any) -> bytes:
    """Return one text for all spellings of the same JSON: members sorted, nothing between them.

    `json` reads NaN, and 1e400 as Infinity, and lone surrogates: none of them can be written again.
    """
    try:
        return _encode_canonically(document).encode()
    except UnicodeEncodeError:
        raise _unusable("must not hold lone surrogates") from None
    except ValueError:
        raise _unusable("must hold finite numbers only, none beyond the range of a double") from None


def _depth(document: Any) -> int:
    depth, level = 0, [document]
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [child for value in level for child in (value.values() if isinstance(value, dict) else value)]
    return depth


def _unusable(message: str) -> InvalidRequestError:
    return InvalidRequestError(Fault("body", message))


def _faults(document: Any) -> list[Fault]:
    if not isinstance(document, dict):
        return [Fault("body", "must be a JSON object")]
    faults = []
    event_type = document.get("event_type")
    if not (isinstance(event_type, str) and EVENT_TYPE.fullmatch(event_type)):
        faults.append(Fault("event_type", "is required, and must be 1 to 128 characters of A-Z a-z 0-9 . _ - : /"))
    if not isinstance(document.get("payload"), dict):
        faults.append(Fault("payload", "is required, and must be a JSON object"))
    if not isinstance(document.get("metadata"), dict | None):
        faults.append(Fault("metadata", "must be a JSON object or null"))
    unknown = document.keys() - {"event_type", "payload", "metadata"}
    faults += [Fault(name[:128], "is not a member of an event") for name in sorted(unknown)]
    return faults
