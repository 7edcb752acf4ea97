"""Filters of subscriptions: which payloads match, by parts of Amazon EventBridge's event patterns.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html

A customer's filter runs while the caller of POST /events waits, so that its work is bounded: each
part of the payload is looked at by one member of the filter at most. Only the filter's scalars go
into sets: to Python all multiples of 2^61 - 1 have one hash, and a set of a payload's integers
would take the square of their number.
"""

from bisect import bisect_left, bisect_right
from typing import Any

from chalicelib.core.event import dumps
from chalicelib.infra.parsing import Json

MAX_BYTES = 2048
MAX_LEVELS = 5
MAX_ENTRIES = 50
MAX_PATH = 128  # characters of the path of a member
SCALARS = (str, int, float, type(None))  # bool is an int
NUMBERS = {int, float}
RANGES = [["="], ["<"], ["<="], [">"], [">="], [">", "<"], [">", "<="], [">=", "<"], [">=", "<="]]
OPERATORS = {"prefix", "suffix", "anything-but", "exists", "numeric"}
EXAMPLES = (
    '{"prefix": "a"}, {"suffix": "a"}, {"anything-but": ["a", 1]}, {"exists": true}, '
    '{"numeric": [">", 0, "<=", 5]}'
)
EXPECTED = f"must be an object, not empty, at most {MAX_LEVELS} levels deep"
EXPECTED_BELOW = f"{EXPECTED}, or a list of 1 to {MAX_ENTRIES} scalars or {EXAMPLES}"


def filter_fault(pattern: Any) -> str | None:
    """Return what is wrong with a filter, after the path of the member, or None."""
    fault = _fault(pattern, "", MAX_LEVELS)
    if fault is None and len(dumps(pattern).encode()) > MAX_BYTES:
        return f"must have at most {MAX_BYTES} bytes as compact JSON"
    return fault


def _fault(pattern: Any, path: str, levels: int) -> str | None:
    """Return the first fault of a member; `levels` of objects are allowed from it on."""
    if isinstance(pattern, dict) and pattern and levels:
        faults = (_fault(value, _join(path, name), levels - 1) for name, value in pattern.items())
        return next(filter(None, faults), None)
    if levels == MAX_LEVELS:
        return EXPECTED
    if _is_list(pattern):
        names = set[str]().union(*[entry for entry in pattern if isinstance(entry, dict)])
        unknown = sorted(names - OPERATORS)
        if unknown:
            name = unknown[0][:MAX_PATH]
            return f"{path}: {name} is no operator; there are {', '.join(sorted(OPERATORS))}"
        if all(map(_is_entry, pattern)):
            return None
    return f"{path} {EXPECTED_BELOW}"


def _join(path: str, name: str) -> str:
    """Return the path of a member, cut off after MAX_PATH characters."""
    return f"{path}.{name}".removeprefix(".")[:MAX_PATH]


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= MAX_ENTRIES


def _is_entry(entry: Any) -> bool:
    match entry:
        case str() | int() | float() | None:
            return True
        case dict() if len(entry) != 1:
            return False
        case {"prefix": str()} | {"suffix": str()} | {"exists": bool()}:
            return True
        case {"anything-but": values}:
            return _is_list(values) and all(isinstance(value, SCALARS) for value in values)
        case {"numeric": [*terms]} if terms[::2] in RANGES:
            return [type(term) in NUMBERS for term in terms] == [False, True] * len(terms[::2])
    return False


def mismatch(pattern: Json, payload: Json) -> str | None:
    """Return the path of the first member of a filter that does not match a payload.

    None: the payload matches. The filter has no fault.
    """
    return _mismatch(pattern, [payload], "")


def _mismatch(pattern: Any, values: list[Any], path: str) -> str | None:
    """Return the path of the first member that does not match, from the member at `path` on.

    `values` are the payload's for that member, none if it is absent. There are several where the
    object around the member is in a list: all objects of a list are taken together.
    """
    elements = list(values)
    for element in elements:  # grows meanwhile: a payload may be nested deeper than calls can be
        elements += element if isinstance(element, list) else ()
    if isinstance(pattern, list):
        is_asked_for = bool(values) in _operands(pattern, "exists")
        return None if is_asked_for or _has_scalar(pattern, elements) else path
    members: dict[str, list[Any]] = {name: [] for name in pattern}
    for element in elements:
        if isinstance(element, dict):
            for name in pattern.keys() & element.keys():  # as quick as the smaller one
                members[name].append(element[name])
    paths = (_mismatch(pattern[name], members[name], _join(path, name)) for name in pattern)
    return next((path for path in paths if path is not None), None)


def _has_scalar(entries: list[Any], elements: list[Any]) -> bool:
    """Return whether one of the entries matches one of the scalars among the elements."""
    keys = [_key(element) for element in elements if isinstance(element, SCALARS)]
    equal = {_key(entry) for entry in entries if not isinstance(entry, dict)}
    if any(key in equal for key in keys):
        return True
    # What one entry excludes another may take: no entry takes what all exclude.
    excluded = [set(map(_key, operand)) for operand in _operands(entries, "anything-but")]
    if excluded and not all(map(set.intersection(*excluded).__contains__, keys)):
        return True
    prefixes = tuple(_operands(entries, "prefix"))
    suffixes = tuple(_operands(entries, "suffix"))
    texts = [value for _, value in keys if isinstance(value, str)]
    if any(text.startswith(prefixes) or text.endswith(suffixes) for text in texts):
        return True
    numbers = sorted(value for _, value in keys if type(value) in NUMBERS)
    return any(_has_number(numbers, terms) for terms in _operands(entries, "numeric"))


def _has_number(numbers: list[Any], terms: list[Any]) -> bool:
    """Return whether one of the sorted numbers meets all comparisons.

    `terms` are pairs of an operator and a bound.
    """
    for operator, bound in zip(terms[::2], terms[1::2], strict=True):
        left = bisect_left(numbers, bound)
        right = bisect_right(numbers, bound)
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
