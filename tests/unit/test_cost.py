"""What AWS bills, by its documented rules, and what a run of the real handlers comes to."""

import json
from typing import Any

import pytest
from rich.console import Console

from tests.support.world import Clock
from tools import cost, meter, sizes
from tools.meter import Abreast, Assumptions, Usage

KEY = frozenset({"status_shard"})
PRICES: dict[str, Any] = json.loads(cost.PRICES.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("item", "size"),
    [
        ({}, 0),
        ({"a": {"S": ""}}, 1),
        ({"name": {"S": "ü"}}, 6),
        ({"n": {"N": "0"}}, 2),
        ({"n": {"N": "7"}}, 3),
        ({"n": {"N": "123"}}, 4),
        ({"n": {"N": "1200"}}, 3),
        ({"n": {"N": "-12"}}, 3),
        ({"a": {"S": "xy"}, "expires_at": {"N": "1795000000"}}, 16),
    ],
)
def test_an_item_is_as_large_as_its_names_and_values(item: sizes.Item, size: int) -> None:
    assert sizes.item_bytes(item) == size


def sized(size: int, shard: str = "pending#1") -> sizes.Item:
    """Return an item of `size` bytes."""
    item = {"status_shard": {"S": shard}, "a": {"S": ""}}
    return {**item, "a": {"S": "x" * (size - sizes.item_bytes(item))}}


@pytest.mark.parametrize(
    ("before", "after", "units"),
    [({}, sized(1024), 1), ({}, sized(1025), 2), (sized(3000), sized(100), 3), ({}, {}, 1)],
)
def test_a_write_takes_a_unit_for_each_kb_of_the_larger_item(before: sizes.Item, after: sizes.Item, units: int) -> None:
    assert sizes.write_units(before, after) == units


@pytest.mark.parametrize(
    ("before", "after", "units"),
    [
        ({}, sized(400), 1),
        (sized(400), sized(400), 0),
        (sized(400), sized(401), 1),
        (sized(400), sized(400, "delivered#1"), 2),
        (sized(1100), sized(400, "delivered#1"), 3),
        (sized(400), {}, 1),
    ],
)
def test_an_index_is_written_when_it_changes_and_twice_when_its_key_does(
    before: sizes.Item, after: sizes.Item, units: int
) -> None:
    assert sizes.index_write_units(before, after, KEY) == units


@pytest.mark.parametrize(("size", "units"), [(0, 0.5), (4096, 0.5), (4097, 1.0), (16_000, 2.0)])
def test_an_eventually_consistent_query_takes_half_a_unit_for_each_4_kb(size: int, units: float) -> None:
    assert sizes.read_units(size) == units


@pytest.mark.parametrize(("size", "requests"), [(1, 1), (65_536, 1), (65_537, 2)])
def test_sqs_bills_a_request_for_each_64_kib(size: int, requests: int) -> None:
    assert meter.sqs_requests(size) == requests


@pytest.mark.parametrize(
    ("waited", "cpu", "memory_mb", "seconds"),
    [(0.1, 0, 512, 0.1), (0.1001, 0, 512, 0.101), (1, 1, 1769, 2), (0, 1, 3538, 1)],
)
def test_cpu_time_grows_as_the_share_of_a_vcpu_shrinks(
    waited: float, cpu: float, memory_mb: int, seconds: float
) -> None:
    assert meter.billed_seconds(waited, cpu, memory_mb) == seconds
    assert meter.billed_seconds(0, 0.1, 177) > 0.99


def test_tasks_that_run_abreast_take_as_long_as_the_slowest() -> None:
    clock = Clock(0)

    Abreast(clock).map(clock.sleep, [1, 5, 3])

    assert clock.now == 5


def test_usage_adds_up_and_multiplies() -> None:
    total = (Usage({"a": 1, "b": 2}) + Usage({"b": 3, "c": 4})) * 2

    assert total.units == {"a": 2, "b": 10, "c": 8}


def test_what_has_no_price_costs_nothing() -> None:
    prices = {"api_requests": {"dollars": 3.5, "per": 1_000_000}}

    assert cost.cost(Usage({"api_requests": 2_000_000, "aws_calls": 9}), prices) == {"api_requests": 7.0}


def test_what_a_free_tier_allows_is_not_paid() -> None:
    left = cost.beyond(
        Usage({"dashboards": 4, "alarm_metrics": 9, "log_gb": 1}), {"dashboards": 3, "alarm_metrics": 10}
    )

    assert left.units == {"dashboards": 1, "alarm_metrics": 0, "log_gb": 1}


@pytest.mark.parametrize(("events", "dollars"), [(0, 10), (100, 10), (1100, 30)])
def test_a_plan_costs_its_month_and_what_goes_beyond_it(events: int, dollars: float) -> None:
    assert cost.plan_cost({"monthly": 10, "included": 100, "dollars": 2, "per": 100}, events) == dollars


def test_every_price_names_its_page() -> None:
    for price in (*PRICES["aws"].values(), PRICES["free"], *PRICES["others"]):
        assert price["page"]
        assert price["url"].startswith("https://")
        assert price["as_of"]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    assumptions = Assumptions(receiver_ms=100, aws_call_ms=10, cold_percent=0)
    return cost.report(cost.measure(assumptions), assumptions, PRICES)


def test_all_that_is_used_has_a_price_or_is_shown(told: dict[str, Any]) -> None:
    used = {name for units in told["units"].values() for name in units}

    assert used - {"billed_ms", "aws_calls"} == set(PRICES["aws"])


def test_an_event_delivered_at_once_is_two_writes_and_one_push(told: dict[str, Any]) -> None:
    event = told["seen"]["all delivered at once"]["event"]

    assert event["aws_calls"] == pytest.approx(2)
    assert event["dynamodb_write_units"] == pytest.approx(4)  # two writes of over 1 KB
    assert event["dynamodb_index_write_units"] == pytest.approx(3)  # put, then moved to another partition
    assert 120 <= event["billed_ms"] <= 400


def test_waiting_between_attempts_is_what_a_retry_costs(told: dict[str, Any]) -> None:
    event = told["seen"]["a fifth retried twice"]["event"]

    assert event["aws_calls"] == pytest.approx(2 + 0.2 * 5)  # SendMessage, then claim and record twice
    assert event["sqs_requests"] == pytest.approx(0.2 * 3)  # sent, received, deleted
    assert event["billed_ms"] > told["seen"]["all delivered at once"]["event"]["billed_ms"] + 0.2 * 1000


def test_a_sweep_whose_gate_is_closed_reads_nothing(told: dict[str, Any]) -> None:
    gated = told["seen"]["receiver down for an hour"]["sweep, gate closed"]

    assert gated["aws_calls"] == 1
    assert "dynamodb_read_units" not in gated
    assert told["seen"]["an idle month"]["sweep"]["dynamodb_read_units"] == 4  # eight empty partitions


def test_ten_drained_messages_share_an_invocation(told: dict[str, Any]) -> None:
    batch = told["seen"]["receiver down for an hour"]["batch of ten, drained"]

    assert batch["lambda_requests"] == 1
    assert batch["aws_calls"] == 20
    assert 120 <= batch["billed_ms"] <= 600


def test_the_table_can_be_printed(told: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    cost.show(Console(width=160), told)

    printed = capsys.readouterr().out
    assert "together" in printed
    assert "Svix, Professional plan" in printed
