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

# Compact JSON; json.dumps would build an encoder for each value. Raises ValueError for NaN.
dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
# The same for equal values alone: in Python, true is 1.
canonical = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode

EVENT_TYPE = re.compile(r"[A-Za-z0-9._\-:/]{1,128}")
NAME = "1 to 128 characters of A-Z a-z 0-9 . _ - : /"
RESERVED_PREFIX = "triggers."  # of the types of reports


def comparable(value: Any) -> str:
    """Return a text that two values of JSON share if they are equal, with numbers by their value:
    1 is 1.0, but true is not 1.
    """
    return canonical(json.loads(canonical(value), parse_float=_parse_number))


def _parse_number(text: str) -> float:
    """Return a number, as an integer if it is whole."""
    number = float(text)
    return int(number) if number.is_integer() else number


def join_object(*members: Json, **texts: str) -> str:
    """Return a JSON object of `members` and, after the first of these, of `texts`, whose values are
    JSON already: a payload is never parsed only to be written again.
    """
    first, *rest = [dumps(some)[1:-1] for some in members]
    inserted = [f'"{name}":{text}' for name, text in texts.items()]
    return f"{{{','.join(filter(None, [first, *inserted, *rest]))}}}"


def join_list(texts: Iterable[str]) -> str:
    """Return a JSON list of texts that are JSON already."""
    return f"[{','.join(texts)}]"


def parser(pattern: str, expected: str, convert: Callable[[str], Any] = str) -> Parser:
    """Return the parser of texts that match `pattern` and that `convert` takes.

    `expected` says what a text must be, after "must be".
    """

    def parse(text: Any) -> Any:
        with suppress(ValueError, OverflowError):
            if isinstance(text, str) and re.fullmatch(pattern, text, re.ASCII):
                return convert(text)
        raise InvalidValueError(f"must be {expected}")

    return parse


def without_fault(find_fault: Callable[[Any], str | None]) -> Parser:
    """Return the parser of values of which `find_fault` returns no fault."""

    def parse(value: Any) -> Any:
        fault = find_fault(value)
        if fault:
            raise InvalidValueError(fault)
        return value

    return parse


def must_be(expected: str, is_valid: Callable[[Any], bool]) -> Parser:
    """Return the parser of values that are valid."""
    return without_fault(lambda value: None if is_valid(value) else f"must be {expected}")


def is_list(value: Any, maximum: int) -> bool:
    """Return whether a value is a list of 1 to `maximum` entries."""
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
    """Return the values of the texts that have a parser, by name, and the faults of the others."""
    values: Json = {}
    faults = []
    for name in sorted(texts.keys() & parsers.keys()):
        try:
            values[name] = parsers[name](texts[name])
        except InvalidValueError as error:
            faults.append(FieldFault(name, str(error)))
    return values, faults


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def id_digits(text: str) -> str:
    """Return the digits of the id that derives from a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]
