"""Parsers of settings, query parameters and members of bodies; forms of texts."""

import base64
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from chalicelib.infra.errors import FieldFault, InvalidValueError

Json = dict[str, Any]  # an object of JSON, or a part of a call to AWS
Parser = Callable[[Any], Any]  # returns the value of a text or member; raises InvalidValueError

Parsers = Mapping[str, Parser]

EVENT_TYPE = re.compile(r"[A-Za-z0-9._\-:/]{1,128}")


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
