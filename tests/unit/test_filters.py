"""Filters: what matches, as in EventBridge's documentation, what is refused, and the work."""

import json
import re
import subprocess
import time
from typing import Any

import pytest

from chalicelib.infra.parsing import dumps
from chalicelib.infra.table import serialize
from chalicelib.subscriptions.filters import EXAMPLES, filter_fault, find_mismatched_path
from chalicelib.subscriptions.subscription import DESCRIPTION_FIELDS, Subscription
from tests.support.world import ROOT


def matches(pattern: Any, payload: Any) -> bool:
    return find_mismatched_path(pattern, json.dumps(payload)) is None


BIG = 2**63 + 1


@pytest.mark.parametrize(
    "payload",
    [
        {"a": 1, "b": {"c": 2}},
        {"a": 1, "b": [{"c": 3}, {"c": 2}]},
        {"a": 1, "b": [[{}], [{"c": 2}]]},
    ],
)
def test_all_members_must_match_also_those_of_objects_in_lists(payload: Any) -> None:
    assert matches({"a": [1], "b": {"c": [2]}}, payload)
    assert not matches({"a": [2], "b": {"c": [2]}}, payload)
    assert not matches({"a": [1], "b": {"c": [4]}}, payload)


@pytest.mark.parametrize(
    "entries, matching, others",
    [
        ([1], [1, 1.0, [0, 1], [[[1]]]], [True, "1", 2, None, [True], {}, [{}]]),
        ([None], [None], [0, False, "", "null", {}, []]),
        ([True], [True, [False, True]], [False, 1, 1.0, "true", "True", None, {}]),
        ([False], [False], [True, 0, "", "false", None, []]),
        ([BIG], [BIG], [BIG - 1, float(BIG)]),
        (["a", 2, "a"], ["a", 2, ["b", "a"]], ["A", "aa", "b"]),
        ([{"prefix": "a"}], ["a", "ab", [1, "ac"]], ["ba", "A", 1, None, {"a": "a"}]),
        ([{"suffix": "é"}, {"suffix": "b"}], ["é", "ab", ["x", "b"]], ["éa", 1]),
        (
            [{"anything-but": ["a", 1]}],
            ["b", True, None, ["a", "b"]],
            ["a", 1.0, ["a", 1], {}, [{}]],
        ),
        ([{"anything-but": ["a"]}, {"anything-but": ["b"]}], ["a", "b"], []),
        ([{"exists": True}], [None, {}, [], 0, {"a": 1}], []),
        ([{"exists": False}], [], [None, {}, [], 0]),
        ([{"numeric": ["=", 1]}], [1, 1.0], [True, "1", 0.9]),
        ([{"numeric": ["<", 1]}], [0.9, -(10**400), [2, 0]], [1, True, False, "0", [2]]),
        ([{"numeric": ["<=", 1]}], [1], [1.1]),
        ([{"numeric": [">", BIG]}], [BIG + 1], [BIG, float(2**63)]),
        ([{"numeric": [">=", 1]}], [1], [0.9]),
        ([{"numeric": [">=", 1, "<", 2]}], [1, 1.5], [2, 0, [0, 3]]),
    ],
)
def test_an_entry_matches_what_is_equal_or_one_of_a_list(
    entries: Any, matching: list[Any], others: list[Any]
) -> None:
    assert filter_fault({"a": entries}) is None
    assert [matches({"a": entries}, {"a": value}) for value in matching] == [True] * len(matching)
    assert [matches({"a": entries}, {"a": value}) for value in others] == [False] * len(others)


@pytest.mark.parametrize(
    "entry", [None, "", 0, False, {"prefix": ""}, {"anything-but": ["a"]}, {"exists": True}]
)
@pytest.mark.parametrize(
    "payload", [{}, {"a": 1}, {"a": None}, {"a": []}, {"a": {}}, {"a": [1]}, {"a": {"c": "b"}}]
)
def test_an_absent_member_matches_exists_false_alone(entry: Any, payload: Any) -> None:
    assert not matches({"a": {"b": [entry]}}, payload)
    assert matches({"a": {"b": [entry, {"exists": False}]}}, payload)
    assert matches({"a": {"b": {"c": [{"exists": False}]}}}, payload)


@pytest.mark.parametrize("operator", EXAMPLES)
def test_an_operator_is_taken_applied_and_documented(operator: str) -> None:
    entry = json.loads(EXAMPLES[operator])
    results = {matches({"a": [entry]}, payload) for payload in ({}, {"a": "a"}, {"a": 5}, {"a": 6})}

    assert filter_fault({"a": [entry]}) is None
    assert results == {True, False}
    openapi = json.loads((ROOT / "chalicelib/openapi.json").read_text(encoding="utf-8"))
    assert f'`{{"{operator}": ' in openapi["components"]["schemas"]["Filter"]["description"]
    assert f"`{operator}`" in (ROOT / "docs/customers.md").read_text(encoding="utf-8")
    page = ROOT / "chalicelib/console"
    [listed] = re.findall(r"syntax</a>: (.*)\.", (page / "subscriptions.html").read_text("utf-8"))
    assert operator in re.split(", | and ", listed)
    reasons = (page / "reasons.js").read_text(encoding="utf-8")
    program = f"const short = String; {reasons}; console.log(tellFilter([{json.dumps(entry)}]))"
    reason = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    assert reason.stdout.strip()
    assert "undefined" not in reason.stdout


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1) if levels > 1 else [1]}


def sized(size: int) -> Any:
    """Return a filter of so many bytes as compact JSON, most of them in characters of two bytes."""
    return {"a": ["é" * ((size - 10) // 2) + "e" * (size % 2)]}


@pytest.mark.parametrize(
    "pattern", [nested(5), sized(2048), {"a": [{"anything-but": [1] * 50}] * 2}, {"": [*range(50)]}]
)
def test_filters_may_be_as_large_as_promised(pattern: Any) -> None:
    assert filter_fault(pattern) is None


@pytest.mark.parametrize("pattern", [None, {}, [], "a", ["a"], sized(2049)])
def test_what_is_no_object_or_too_long_is_refused(pattern: Any) -> None:
    assert str(filter_fault(pattern)).startswith("must ")


@pytest.mark.parametrize(
    "entry",
    [
        {}, [], ["a"], [{"prefix": "a"}], {"a": ["b"]}, {"prefix": "a", "suffix": "b"},
        {"wildcard": "a*"}, {"": 1},
        {"prefix": 1}, {"prefix": {"equals-ignore-case": "a"}}, {"suffix": None},
        {"exists": 1}, {"exists": None},
        {"anything-but": "a"}, {"anything-but": []}, {"anything-but": [["a"]]},
        {"anything-but": [1] * 51},
        {"anything-but": {"prefix": "a"}}, {"numeric": []}, {"numeric": "="}, {"numeric": ["="]},
        {"numeric": ["!=", 1]}, {"numeric": ["=", "1"]}, {"numeric": ["=", True]},
        {"numeric": ["<", 1, ">", 0]},
        {"numeric": ["=", 1, "<", 2]},
        {"numeric": [">", 1, "<"]}, {"numeric": [1, "<"]}, {"numeric": [">", 1, "<", 2, "<",
        3]}, {"numeric": [[], 1]},
    ],
)  # fmt: skip
def test_an_entry_that_is_not_taken_is_refused_and_its_member_named(entry: Any) -> None:
    fault = str(filter_fault({"x": ["fine"], "order": {"total": [1, entry]}}))
    assert fault.startswith(("order.total must ", "order.total: "))


@pytest.mark.parametrize(
    "wanted, fault",
    [
        ([1, {"numric": [">", 1]}], ": numric is no operator; there are anything-but, "),
        ([1, {"numeric": [">", "1"]}], ' must be as in {"numeric": [">", 0, "<=", 5]}'),
        (100, " must be a list, such as [100]"),
    ],
)
def test_a_fault_of_a_filter_says_what_to_write(wanted: Any, fault: str) -> None:
    assert str(filter_fault({"total": wanted})).startswith(f"total{fault}")


PRIME = 2**61 - 1  # Python hashes all multiples of it to 0
ALIKE = [PRIME * number for number in range(1, 11_000)]


@pytest.mark.parametrize(
    "entries",
    [
        ["x"],
        [PRIME * -number for number in range(1, 51)],
        [{"anything-but": [0, 1, "a"]}] * 50,
        [{"prefix": f"{number}-"} for number in range(50)],
        [{"suffix": f"-{number}"} for number in range(50)],
        [{"numeric": ["<", -number]} for number in range(50)],
        {f"{number}": ["x"] for number in range(50)},
    ],
)
@pytest.mark.parametrize(
    "values",
    [
        ALIKE,
        [0] * 130_000,
        ["a"] * 65_000,
        [f"{number}" for number in range(30_000)],
        [{}] * 80_000,
        [10**4200 + number for number in range(60)],
    ],
)
def test_the_work_of_all_filters_that_an_event_meets_is_bounded(entries: Any, values: Any) -> None:
    payload = json.dumps({"a": values})
    assert len(payload) > 200_000
    began = time.thread_time()
    for _ in range(10):
        json.loads(payload)
    parsed_at = time.thread_time()
    for _ in range(200):
        find_mismatched_path({"a": entries}, payload)
    assert time.thread_time() - parsed_at < 15 * (parsed_at - began)


def test_the_work_of_all_event_types_that_an_event_meets_is_bounded() -> None:
    entries = [f"order.of-{number}.*" for number in range(200 * 50)]
    described = dict.fromkeys(DESCRIPTION_FIELDS) | {"event_types": entries}
    item = {"target_url": "", "created_by": "", "sort_key": "#", "event_types": dumps(described)}
    subscription = Subscription.from_item(serialize(item))
    began = time.thread_time()
    for _ in range(10):
        json.loads(subscription.described)
    parsed_at = time.thread_time()
    assert subscription.matches("order.of-9999.paid")
    assert not subscription.matches("order.of-9999")
    assert time.thread_time() - parsed_at < 5 * (parsed_at - began)


@pytest.mark.parametrize("value", [None, "a", 1, {}, [], [1] * 51, nested(4), {"b": []}])
def test_a_member_that_is_no_list_or_object_or_too_deep_is_refused_and_named(value: Any) -> None:
    assert str(filter_fault({"order": {"lines": value}})).startswith("order.lines")


def test_the_path_of_a_member_is_named_by_its_beginning() -> None:
    assert str(filter_fault({"a": {"b" * 200: 1}})).startswith(f"a.{'b' * 126} must ")
