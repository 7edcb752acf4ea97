"""Filters of subscriptions: which payloads match, by parts of Amazon EventBridge's event patterns.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html

A customer's filter runs while the caller of POST /events waits: each part of the payload is looked
at by one member of the filter at most, and its distinct scalars by that member's entries, so that
the work is bounded.
"""

from bisect import bisect_left, bisect_right
from typing import Any

from chalicelib.core.event import dumps

MAX_BYTES = 2048
MAX_LEVELS = 5
MAX_ENTRIES = 50
MAX_PATH = 128
SCALARS = (str, int, float, type(None))  # bool is an int
NUMBERS = {int, float}
RANGES = [["="], ["<"], ["<="], [">"], [">="], [">", "<"], [">", "<="], [">=", "<"], [">=", "<="]]
OPERATORS = (
    '{"prefix": "a"}, {"suffix": "a"}, {"anything-but": ["a", 1]}, {"exists": true}, '
    '{"numeric": [">", 0, "<=", 5]}'
)
EXPECTED = f"must be an object, not empty, at most {MAX_LEVELS} levels deep"
EXPECTED_BELOW = f"{EXPECTED}, or a list of 1 to {MAX_ENTRIES} scalars or {OPERATORS}"


def filter_fault(pattern: Any) -> str | None:
    """Return what is wrong with a filter, after the path of the member, or None."""
    fault = _fault(pattern, "", MAX_LEVELS)
    is_long = not fault and len(dumps(pattern).encode()) > MAX_BYTES
    return f"must have at most {MAX_BYTES} bytes as compact JSON" if is_long else fault


def _fault(pattern: Any, path: str, levels: int) -> str | None:
    """Return the first fault of a member; `levels` of objects are allowed from it on."""
    if isinstance(pattern, dict) and pattern and levels:
        members = (
            (f"{path}.{name}".removeprefix(".")[:MAX_PATH], value)
            for name, value in pattern.items()
        )
        return next(
            filter(None, (_fault(value, member, levels - 1) for member, value in members)), None
        )
    if levels == MAX_LEVELS:
        return EXPECTED
    return (
        None if _is_list(pattern) and all(map(_is_entry, pattern)) else f"{path} {EXPECTED_BELOW}"
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= MAX_ENTRIES


def _is_entry(entry: Any) -> bool:
    match entry:
        case dict() if len(entry) != 1:
            return False
        case (
            str()
            | int()
            | float()
            | None
            | {"prefix": str()}
            | {"suffix": str()}
            | {"exists": bool()}
        ):
            return True
        case {"anything-but": values}:
            return _is_list(values) and all(isinstance(value, SCALARS) for value in values)
        case {"numeric": [*terms]} if terms[::2] in RANGES:
            return [type(term) in NUMBERS for term in terms] == [False, True] * len(terms[::2])
    return False


def matches(pattern: dict[str, Any], payload: dict[str, Any]) -> bool:
    """Return whether a payload matches a filter that has no fault."""
    return _match(pattern, [payload])


def _match(pattern: Any, values: list[Any]) -> bool:
    """Return whether a member of a filter matches; `values` are the payload's for it, none if the
    member is absent.

    There are several where the object around the member is in a list: all objects of a list are
    taken together.
    """
    elements = list(values)
    for element in elements:  # grows meanwhile: a payload may be nested deeper than calls can be
        elements += element if isinstance(element, list) else ()
    if isinstance(pattern, list):
        return bool(values) in _operands(pattern, "exists") or _match_scalars(pattern, elements)
    members: dict[str, list[Any]] = {name: [] for name in pattern}
    for element in elements:
        # as quick as the smaller one
        for name in pattern.keys() & element.keys() if isinstance(element, dict) else ():
            members[name].append(element[name])
    return all(_match(member, members[name]) for name, member in pattern.items())


def _match_scalars(entries: list[Any], elements: list[Any]) -> bool:
    """Return whether one of the entries matches one of the scalars among the elements."""
    keys = {_key(element) for element in elements if isinstance(element, SCALARS)}
    prefixes, suffixes = tuple(_operands(entries, "prefix")), tuple(_operands(entries, "suffix"))
    texts = (value for _, value in keys if isinstance(value, str))
    numbers = sorted(value for _, value in keys if type(value) in NUMBERS)
    return (
        any(_key(entry) in keys for entry in entries if not isinstance(entry, dict))
        or any(text.startswith(prefixes) or text.endswith(suffixes) for text in texts)
        or any(
            not keys <= set(map(_key, excluded)) for excluded in _operands(entries, "anything-but")
        )
        or any(_has_number(numbers, terms) for terms in _operands(entries, "numeric"))
    )


def _has_number(numbers: list[Any], terms: list[Any]) -> bool:
    """Return whether one of the sorted numbers meets the comparisons, which are pairs of an
    operator and a bound.
    """
    for operator, bound in zip(terms[::2], terms[1::2], strict=True):
        left, right = bisect_left(numbers, bound), bisect_right(numbers, bound)
        met = {
            "=": (left, right),
            "<": (0, left),
            "<=": (0, right),
            ">": (right, None),
            ">=": (left, None),
        }
        numbers = numbers[slice(*met[operator])]
    return bool(numbers)


def _operands(entries: list[Any], operator: str) -> list[Any]:
    return [entry[operator] for entry in entries if isinstance(entry, dict) and operator in entry]


def _key(scalar: Any) -> tuple[bool, Any]:
    """Return what only equal scalars have in common: to Python, 1 equals 1.0, and True."""
    return isinstance(scalar, bool), scalar
