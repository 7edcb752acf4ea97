"""Filters of subscriptions: which payloads match, by parts of Amazon EventBridge's event patterns.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html

A customer's filter runs while the caller of POST /events waits, so that its work is bounded: the
payload is sorted once for all filters of an event, and what a filter looks for is found in that.
"""

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

from chalicelib.infra.parsing import Json, dumps, is_list

MAX_BYTES = 2048
MAX_LEVELS = 5
MAX_ENTRIES = 50
MAX_PATH = 128  # characters of the path of a member
SCALARS = (str, int, float, type(None))  # bool is an int
NUMBERS = {int, float}
RANGES = [["="], ["<"], ["<="], [">"], [">="], [">", "<"], [">", "<="], [">=", "<"], [">=", "<="]]
EXAMPLES = {
    "prefix": '{"prefix": "a"}',
    "suffix": '{"suffix": "a"}',
    "anything-but": '{"anything-but": ["a", 1]}',
    "exists": '{"exists": true}',
    "numeric": '{"numeric": [">", 0, "<=", 5]}',
}
EXPECTED = f"must be an object, not empty, at most {MAX_LEVELS} levels deep"
EXPECTED_BELOW = (
    f"{EXPECTED}, or a list of 1 to {MAX_ENTRIES} scalars or {', '.join(EXAMPLES.values())}"
)


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
    if is_list(pattern, MAX_ENTRIES):
        names = {name for entry in pattern if isinstance(entry, dict) for name in entry}
        unknown = sorted(names - EXAMPLES.keys())
        if unknown:
            name = unknown[0][:MAX_PATH]
            return f"{path}: {name} is no operator; there are {', '.join(sorted(EXAMPLES))}"
        if all(map(_is_entry, pattern)):
            return None
        if names:
            return f"{path} must be as in {' or '.join(EXAMPLES[name] for name in sorted(names))}"
    elif isinstance(pattern, SCALARS):
        return f"{path} must be a list, such as [{dumps(pattern)[:MAX_PATH]}]"
    return f"{path} {EXPECTED_BELOW}"


def _join(path: str, name: str) -> str:
    """Return the path of a member, cut off after MAX_PATH characters."""
    return f"{path}.{name}".removeprefix(".")[:MAX_PATH]


def _is_entry(entry: Any) -> bool:
    match entry:
        case dict() if len(entry) != 1:
            return False
        case {"prefix": str()} | {"suffix": str()} | {"exists": bool()}:
            return True
        case {"anything-but": values}:
            return is_list(values, MAX_ENTRIES) and all(
                isinstance(value, SCALARS) for value in values
            )
        case {"numeric": [*terms]} if terms[::2] in RANGES:
            return [type(term) in NUMBERS for term in terms] == [False, True] * len(terms[::2])
    return isinstance(entry, SCALARS)


class _Values:
    """What a payload has for one member: looked at once, for all filters of an event.

    `given` is empty if the member is absent, and has several values where the object around the
    member is in a list: all objects of a list are taken together.
    """

    def __init__(self, given: list[Any]) -> None:
        elements = [*given]
        # It grows meanwhile: a payload may be nested deeper than calls can be.
        for element in elements:
            elements += element if isinstance(element, list) else ()
        scalars: list[Any] = [element for element in elements if isinstance(element, SCALARS)]
        self.is_there = bool(given)
        self.keys = set(map(_key, scalars))
        self.numbers = sorted(scalar for scalar in scalars if type(scalar) in NUMBERS)
        self.texts = sorted(scalar for scalar in scalars if isinstance(scalar, str))
        self.reversed_texts = sorted(text[::-1] for text in self.texts)
        self._objects = [element for element in elements if isinstance(element, dict)]

    @cached_property
    def members(self) -> dict[str, "_Values"]:
        found = defaultdict[str, list[Any]](list)
        for name, value in chain.from_iterable(map(dict.items, self._objects)):
            found[name].append(value)
        return {name: _Values(values) for name, values in found.items()}


@lru_cache(1)  # the filters of an event come one after another
def _values(payload: str) -> _Values:
    return _Values([json.loads(payload)])


def mismatch(pattern: Json, payload: str) -> str | None:
    """Return the path of the first member of a filter that does not match a payload (JSON).

    None: the payload matches. The filter has no fault. Raises RecursionError if the payload is
    nested too deep.
    """
    return _mismatch(pattern, _values(payload), "")


def _mismatch(pattern: Any, values: _Values, path: str) -> str | None:
    """Return the path of the first member that does not match, from the member at `path` on."""
    if isinstance(pattern, list):
        return None if any(_matches(entry, values) for entry in pattern) else path
    found = values.members
    paths = (
        _mismatch(pattern[name], found.get(name, NOTHING), _join(path, name)) for name in pattern
    )
    return next((path for path in paths if path is not None), None)


def _matches(entry: Any, values: _Values) -> bool:
    """Return whether an entry of a list matches one of the scalars among the values."""
    match entry:
        case {"prefix": text}:
            return _has_prefix(values.texts, text)
        case {"suffix": text}:
            return _has_prefix(values.reversed_texts, text[::-1])
        case {"exists": is_there}:
            return values.is_there is is_there
        case {"anything-but": others}:
            return not values.keys <= set(map(_key, others))
        case {"numeric": terms}:
            return _has_number(values.numbers, terms)
    return _key(entry) in values.keys


def _has_prefix(texts: list[str], prefix: str) -> bool:
    """Return whether one of the sorted texts begins with a prefix."""
    at = bisect_left(texts, prefix)
    return at < len(texts) and texts[at].startswith(prefix)


def _has_number(numbers: list[Any], terms: list[Any]) -> bool:
    """Return whether one of the sorted numbers meets all comparisons.

    `terms` are pairs of an operator and a bound.
    """
    first = 0
    end = len(numbers)
    for operator, bound in zip(terms[::2], terms[1::2], strict=True):
        left = bisect_left(numbers, bound)
        right = bisect_right(numbers, bound)
        met = {
            "=": (left, right),
            "<": (0, left),
            "<=": (0, right),
            ">": (right, end),
            ">=": (left, end),
        }
        first = max(first, met[operator][0])
        end = min(end, met[operator][1])
    return first < end


def _key(scalar: Any) -> str:
    """Return what only equal scalars have in common: 1 equals 1.0, and neither True nor a text.

    To Python all multiples of 2^61 - 1, 0 among them, have one hash: it is that of a text.
    """
    if isinstance(scalar, str):
        return f'"{scalar}'
    is_integral = isinstance(scalar, float) and scalar.is_integer()
    return str(int(scalar) if is_integral else scalar)


NOTHING = _Values([])
