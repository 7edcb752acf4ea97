"""Filters of subscriptions: which payloads match, by parts of Amazon EventBridge's event patterns.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-create-pattern-operators.html

A customer's filter runs while the caller of POST /events waits, so that its work is bounded: the
payload is sorted once for all filters of an event, and what a filter looks for is found in that.
"""

import json
from bisect import bisect_left, bisect_right
from collections import defaultdict
from functools import cached_property, lru_cache
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
    """Return what is wrong with a filter, as the rest of a sentence that names the filter; None:
    nothing is wrong.

    The text begins with the path of the faulty member, if it is not the whole filter.

    :param pattern: The filter: any value of JSON, as the caller gave it.
    """
    fault = _fault(pattern, path="", levels=MAX_LEVELS)
    if fault is None and len(dumps(pattern).encode()) > MAX_BYTES:
        return f"must have at most {MAX_BYTES} bytes as compact JSON"
    return fault


def _fault(pattern: Any, path: str, levels: int) -> str | None:
    """Return what is wrong with a part of a filter, beginning with its path; None: nothing is.

    A part is an object with further parts, or a list of scalars and operators.

    :param pattern: The part: any value of JSON.
    :param path: The names of the members around it, joined by dots; empty: the whole filter.
    :param levels: How many objects may be nested in each other from this part on; MAX_LEVELS: the
        part is the whole filter.
    """
    if isinstance(pattern, dict) and pattern and levels:
        faults = (_fault(value, _join(path, name), levels - 1) for name, value in pattern.items())
        return next(filter(None, faults), None)  # the first fault
    if levels == MAX_LEVELS:
        return EXPECTED  # the whole filter must be an object
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
    """Return the path of a member of the object at `path`, cut off after MAX_PATH characters."""
    return f"{path}.{name}".removeprefix(".")[:MAX_PATH]


def _is_entry(entry: Any) -> bool:
    """Return whether a value may be in a list of a filter.

    It may be a scalar, or an object with one operator: `{"prefix": text}`, `{"suffix": text}`,
    `{"exists": true or false}`, `{"anything-but": list of scalars}`, or `{"numeric": comparisons}`
    such as `[">", 0, "<=", 5]`.
    """
    match entry:
        case dict() if len(entry) != 1:
            return False
        case {"prefix": str()} | {"suffix": str()} | {"exists": bool()}:
            return True
        case {"anything-but": values}:
            return is_list(values, MAX_ENTRIES) and all(
                isinstance(value, SCALARS) for value in values
            )
        # Every other term, from the first on, is an operator. RANGES has the lists of operators
        # that are allowed.
        case {"numeric": [*terms]} if terms[::2] in RANGES:
            # Each operator has a number after it, the last one, too.
            are_numbers = [type(term) in NUMBERS for term in terms]
            return are_numbers == [False, True] * len(terms[::2])
    return isinstance(entry, SCALARS)


class _Values:
    """The values that a payload has for one member, sorted once for all filters of an event.

    :param given: The values: an empty list if the payload has no such member, several values if the
        object around the member is in a list, whose objects are all taken together.
    """

    def __init__(self, given: list[Any]) -> None:
        """Sort values by what filters look for: scalars, numbers, texts and objects.

        :param given: The values of one member, of any types; empty: the payload has no such member.
        """
        # The values, the elements of lists among them, the elements of lists among these, and so
        # on. The loop goes on with the elements that it appends. Recursion would fail: a payload
        # may be nested deeper than calls can be.
        elements = [*given]
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
        """The members of the objects among these values, by name. A member has the values that it
        has in all of the objects.
        """
        found = defaultdict[str, list[Any]](list)
        for document in self._objects:
            for name, value in document.items():
                found[name].append(value)
        return {name: _Values(values) for name, values in found.items()}


@lru_cache(1)  # the filters of an event come one after another
def _values_of(payload: str) -> _Values:
    """Return a payload (JSON), parsed and sorted."""
    return _Values([json.loads(payload)])


def find_mismatched_path(pattern: Json, payload: str) -> str | None:
    """Return the path of the first member of a filter that a payload does not match, such as
    `order.total`; None: the payload matches the filter.

    :param pattern: A filter in which `filter_fault` finds no fault.
    :param payload: The payload as a text of JSON.
    :raises RecursionError: If the payload is nested too deep to be compared.
    """
    return _find_mismatched_path(pattern, _values_of(payload), path="")


def _find_mismatched_path(pattern: Any, values: _Values, path: str) -> str | None:
    """Return the path of the first list in a part of a filter that the payload does not match;
    None: the payload matches the part.

    :param pattern: The part: a list, of which one entry must match, or an object, of which all
        members must match.
    :param values: The values that the payload has at the path of the part.
    :param path: The path of the part; empty: the whole filter.
    """
    if isinstance(pattern, list):
        return None if any(_matches(entry, values) for entry in pattern) else path
    found = values.members
    # NOTHING: the payload has no such member. An entry may match that, such as {"exists": false}.
    paths = (
        _find_mismatched_path(pattern[name], found.get(name, NOTHING), _join(path, name))
        for name in pattern
    )
    return next((path for path in paths if path is not None), None)


def _matches(entry: Any, values: _Values) -> bool:
    """Return whether an entry of a filter's list matches the values of a member.

    A scalar, `prefix`, `suffix` and `numeric` match if one of the values does. `exists` says if
    the payload must have the member. `anything-but` matches if one of the values is a scalar that
    it does not list, and so never matches a member without scalars.

    :param entry: A scalar, or an object with one operator, such as `{"prefix": "a"}`.
    :param values: The values that the payload has for the member.
    """
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
    """Return whether one number meets all comparisons.

    :param numbers: The numbers in ascending order.
    :param terms: An operator and its bound, then perhaps a second operator and its bound:
        `[">", 0, "<=", 5]`.
    """
    # The numbers from index `first` to before index `end` meet the comparisons so far.
    first = 0
    end = len(numbers)
    for operator, bound in zip(terms[::2], terms[1::2], strict=True):
        left = bisect_left(numbers, bound)
        right = bisect_right(numbers, bound)
        # For each operator, the range of indexes of the numbers that meet it.
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
    """Return a text that is the same for two scalars if they are equal in JSON, and only then: 1
    equals 1.0, but neither true nor "1".

    The texts are put in sets. Sets of the scalars themselves would be slow for a malicious payload,
    because Python hashes all multiples of 2^61 - 1 alike.

    :param scalar: A text, number, True, False or None.
    """
    if isinstance(scalar, str):  # the quotation mark is enough: no other scalar begins with it
        return f'"{scalar}'
    is_integral = isinstance(scalar, float) and scalar.is_integer()
    return str(int(scalar) if is_integral else scalar)


NOTHING = _Values([])
