"""Parsers of settings, query parameters and members of bodies; forms of texts."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from chalicelib.infra.errors import FieldFault, InvalidValueError

Json = dict[str, Any]  # an object of JSON, or a part of a call to AWS
NO_MEMBERS: Json = {}
# Takes a text or a member of a body and returns its value, or raises InvalidValueError.
Parser = Callable[[Any], Any]
Parsers = Mapping[str, Parser]

# Returns a value as compact JSON; raises ValueError for NaN. json.dumps would build an encoder for
# each value.
dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
# Returns a value as compact JSON with sorted names: two values have the same text only if they are
# equal in JSON (in Python, True == 1).
canonical = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode

EVENT_TYPE = re.compile(r"[A-Za-z0-9._\-:/]{1,128}")
NAME = "1 to 128 characters of A-Z a-z 0-9 . _ - : /"
RESERVED_PREFIX = "triggers."  # of the types of reports


def comparable(value: Any) -> str:
    """Return a text that is the same for two values of JSON if, and only if, they are equal: 1
    equals 1.0, the order of members does not matter, and true does not equal 1.
    """
    # Written and read again, whole numbers such as 1.0 become integers.
    with_integers = json.loads(canonical(value), parse_float=_parse_number)
    return canonical(with_integers)


def _parse_number(text: str) -> float:
    """Return the number of a text with a fraction or an exponent, as an integer if it is whole."""
    number = float(text)
    return int(number) if number.is_integer() else number


def join_object(*members: Json, **texts: str) -> str:
    """Return a JSON object of members whose values are Python values, and of members whose values
    are JSON texts: a payload is never parsed only to be written again.

    :param members: Groups of members with Python values, at least one group. The object has the
        first group, then the members in `texts`, then the other groups.
    :param texts: Values as JSON texts, by name.
    """
    first, *rest = [dumps(group)[1:-1] for group in members]  # without the braces
    inserted = [f'"{name}":{text}' for name, text in texts.items()]
    not_empty = filter(None, [first, *inserted, *rest])
    return f"{{{','.join(not_empty)}}}"


def join_list(texts: Iterable[str]) -> str:
    """Return a JSON list whose elements are given as JSON texts."""
    return f"[{','.join(texts)}]"


def parser(pattern: str, expected: str, convert: Callable[[str], Any] = str) -> Parser:
    """Return a parser of texts that match a pattern.

    :param pattern: A regular expression that the whole text must match, with ASCII classes.
    :param expected: What the text must be, for the error: "must be {expected}".
    :param convert: Returns the value of a text that matches the pattern; raises ValueError or
        OverflowError if the text is unusable all the same.
    :returns: The parser: it returns the value of a text, and raises InvalidValueError for a text
        that does not match or that `convert` refuses, and for any value that is no text.
    """

    def parse(text: Any) -> Any:
        """Return the value of a text; raise InvalidValueError if it is unusable, or no text."""
        with suppress(ValueError, OverflowError):
            if isinstance(text, str) and re.fullmatch(pattern, text, re.ASCII):
                return convert(text)
        raise InvalidValueError(f"must be {expected}")

    return parse


def without_fault(find_fault: Callable[[Any], str | None]) -> Parser:
    """Return a parser that returns a value unchanged if it has no fault, and raises
    InvalidValueError with the fault otherwise.

    :param find_fault: Returns what is wrong with a value as an error message ("must be a list"), or
        None if nothing is wrong.
    """

    def parse(value: Any) -> Any:
        """Return a value unchanged; raise InvalidValueError if `find_fault` finds a fault."""
        fault = find_fault(value)
        if fault:
            raise InvalidValueError(fault)
        return value

    return parse


def must_be(expected: str, is_valid: Callable[[Any], bool]) -> Parser:
    """Return a parser that returns a value unchanged if `is_valid` returns True for it, and raises
    InvalidValueError with the text "must be {expected}" otherwise.
    """

    def find_fault(value: Any) -> str | None:
        """Return the error message for a value, or None if the value is valid."""
        return None if is_valid(value) else f"must be {expected}"

    return without_fault(find_fault)


def is_list(value: Any, maximum: int) -> bool:
    """Return whether a value of JSON is a list of 1 to `maximum` entries."""
    return isinstance(value, list) and 1 <= len(value) <= maximum


parse_json_object = must_be("a JSON object", lambda value: isinstance(value, dict))
parse_type = parser(
    rf"(?!{re.escape(RESERVED_PREFIX)}){EVENT_TYPE.pattern}",
    f"{NAME}, not beginning with {RESERVED_PREFIX}, which is reserved",
)


def parse_all(
    texts: Json,
    parsers: Parsers,
) -> tuple[Json, list[FieldFault]]:
    """Parse each text with the parser of the same name; return the values by name, and a fault for
    each text that its parser refused, in the order of the names.

    A text without a parser is in neither. A parser without a text is not called.

    :param texts: Texts, or members of a body, by name.
    :param parsers: The parsers by name.
    """
    values: Json = {}
    faults = []
    for name in sorted(texts.keys() & parsers.keys()):
        try:
            values[name] = parsers[name](texts[name])
        except InvalidValueError as error:
            faults.append(FieldFault(name, str(error)))
    return values, faults


def to_base64(data: bytes) -> str:
    """Return bytes in standard Base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(data).decode()


def id_digits(text: str) -> str:
    """Return the 32 hexadecimal digits of the id that derives from a text, always the same."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
