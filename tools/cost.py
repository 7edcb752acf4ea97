"""`make cost`: what a million events cost, from what the real handlers use (tools/meter.py) and list prices.

Prices and their sources are data (tools/prices.json), assumptions are flags, and all of them are printed. What the
always-free tier leaves to pay is told apart.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from chalicelib.settings import load_event_source
from chalicelib.sqs import BATCH_SIZE
from tests.support.receiver import Receiver
from tools.meter import GB, Assumptions, Meter, Usage, answers, meter

ROOT = Path(__file__).parent.parent
PRICES = ROOT / "tools" / "prices.json"
MILLION = 1_000_000
HOUR_SECONDS = 3600
MONTH_MINUTES = 43_800  # 730 hours, as AWS counts
MONTH_DAYS = 730 / 24
# "Configuring scaling behavior for SQS event source mappings", AWS Lambda Developer Guide: five batches at a time at
# the least; the optimization to two is not available with maximum concurrency set. Each waits 20 s (resources.json).
IDLE_POLLS = 5 * MONTH_MINUTES * 60 // 20
ROUNDS = 10  # of a measurement, to even out the delays
INIT_IS_BILLED = 'since August 2025 ("AWS Lambda standardizes billing for INIT Phase", AWS Compute Blog)'
OUTAGE = "in the outage all events come within the hour and are queued; trial pushes, one each 30 s, are left out"
MEASURED = {
    "lambda_requests": "invocations",
    "billed_ms": "billed ms",
    "aws_calls": "AWS calls",
    "dynamodb_write_units": "write units, table",
    "dynamodb_index_write_units": "write units, index",
    "dynamodb_read_units": "read units",
    "sqs_requests": "SQS requests",
    "log_gb": "log bytes",
    "transfer_out_gb": "bytes out",
}


@dataclass(frozen=True)
class Scenario:
    """What is billed for a million events in one situation, or for a month; `seen`: what one event or run used."""

    name: str
    usage: Usage
    seen: dict[str, Usage]


def cost(usage: Usage, prices: dict[str, Any]) -> dict[str, float]:
    """Return the dollars for each name of `usage` that has a price."""
    return {
        name: count / prices[name]["per"] * prices[name]["dollars"]
        for name, count in usage.units.items()
        if name in prices
    }


def beyond(usage: Usage, free: dict[str, float]) -> Usage:
    """Return what is left of `usage` after the allowances of a free tier."""
    return Usage({name: max(0, count - free.get(name, 0)) for name, count in usage.units.items()})


def plan_cost(plan: dict[str, Any], events: int) -> float:
    """Return the dollars that a plan of somebody else costs in a month with so many events."""
    over = max(0, events - plan["included"]) / plan["per"]
    return float(plan["monthly"] + over * plan["dollars"])


def kept(stored_bytes: tuple[float, float], log_gb: float, retention_days: int) -> Usage:
    """Return the storage of one event: in the table, its index and its backup for the retention; its logs a month."""
    months = retention_days / MONTH_DAYS
    table_bytes, index_bytes = stored_bytes
    return Usage(
        {
            "dynamodb_gb_months": (table_bytes + index_bytes) / GB * months,
            "dynamodb_pitr_gb_months": table_bytes / GB * months,
            "log_gb_months": log_gb,
        }
    )


def at_once(system: Meter, receiver: Receiver) -> Scenario:
    """Every event is delivered by the push that POST /events makes."""
    del receiver
    events = 2 * BATCH_SIZE
    for _ in range(events):
        system.post()
    return _million("all delivered at once", system, system.taken() * (1 / events), {})


def retried_twice(system: Meter, receiver: Receiver) -> Scenario:
    """Of five events one needs two more attempts, which the worker makes, alone in its batch."""
    ok, down = (answers(system.clock, system.assumptions, code) for code in (200, 503))
    events = ROUNDS * 5
    for _ in range(ROUNDS):
        receiver.script(ok, ok, ok, ok, down, down, ok)
        for _ in range(5):
            system.post()
        system.clock.sleep(2)
        _run_worker(system, 1)
    return _million("a fifth retried twice", system, system.taken() * (1 / events), {})


def outage(system: Meter, receiver: Receiver) -> Scenario:
    """A million events within the hour in which the receiver answers 503; then the queue is drained."""
    ok, down = (answers(system.clock, system.assumptions, code) for code in (200, 503))
    concurrency = load_event_source({}).maximum_concurrency
    receiver.default = down
    for _ in range(3):
        system.post()
    system.world.lose_messages()  # the breaker is open now
    system.taken()

    for _ in range(2 * BATCH_SIZE):
        system.post()
    posted = system.taken() * (1 / (2 * BATCH_SIZE))
    _run_worker(system, BATCH_SIZE)
    failing, failing_seconds = system.taken(), system.last_seconds
    receiver.default = ok
    _run_worker(system, BATCH_SIZE)
    draining, draining_seconds = system.taken(), system.last_seconds
    system.clock.sleep(60)
    _run_worker(system, BATCH_SIZE)
    again = system.taken()

    failing_batches = min(MILLION / BATCH_SIZE, concurrency * HOUR_SECONDS / failing_seconds)
    first_batches = MILLION / BATCH_SIZE - failing_batches
    drain_seconds = (first_batches + failing_batches) * draining_seconds / concurrency
    system.world.fill_inbox(1000)
    system.run_schedule("sweep")
    gated = system.taken()
    usage = posted * MILLION + failing * failing_batches + draining * first_batches + again * failing_batches
    usage += gated * ((HOUR_SECONDS + drain_seconds) / 60)
    seen = {"batch of ten, receiver down": failing, "batch of ten, drained": draining, "sweep, gate closed": gated}
    return _million("receiver down for an hour", system, usage * (1 / MILLION), seen)


def idle_month(system: Meter, receiver: Receiver) -> Scenario:
    """Nothing happens but schedules and polls."""
    del receiver
    system.run_schedule("sweep")
    sweep = system.taken()
    system.run_schedule("check_dlq")
    check = system.taken()
    usage = sweep * MONTH_MINUTES + check * (MONTH_MINUTES / 5)
    usage += Usage({"log_gb_months": usage.units["log_gb"], "sqs_requests": IDLE_POLLS})
    usage += Usage({"custom_metrics": len(system.metric_names), **_watching()})
    return Scenario("an idle month", usage, {"sweep": sweep, "check_dlq": check})


SCENARIOS: tuple[Callable[[Meter, Receiver], Scenario], ...] = (at_once, retried_twice, outage, idle_month)


def _million(name: str, system: Meter, event: Usage, seen: dict[str, Usage]) -> Scenario:
    days = system.world.services.settings.event_retention_days
    event += kept(system.stored(), event.units["log_gb"], days)
    usage = event * MILLION + Usage({"custom_metrics": len(system.metric_names)})
    return Scenario(name, usage, {"event": event, **seen})


def _run_worker(system: Meter, messages: int) -> None:
    """Run the worker on a batch of so many messages; a measurement that finds others is of something else."""
    found = system.run_worker()
    if found != messages:
        raise RuntimeError(f"a batch of {found} messages instead of {messages}")


def _watching() -> dict[str, float]:
    """Return the alarms and dashboards of resources.json; an alarm counts once for each metric that it watches."""
    resources = json.loads((ROOT / "resources.json").read_text(encoding="utf-8"))["Resources"].values()
    alarms = [part["Properties"] for part in resources if part["Type"] == "AWS::CloudWatch::Alarm"]
    metrics = sum(sum("MetricStat" in metric for metric in alarm.get("Metrics", ())) or 1 for alarm in alarms)
    return {
        "alarm_metrics": metrics,
        "dashboards": sum(part["Type"] == "AWS::CloudWatch::Dashboard" for part in resources),
    }


def measure(assumptions: Assumptions) -> list[Scenario]:
    scenarios = []
    with meter(assumptions) as (system, receiver):
        for scenario in SCENARIOS:
            system.start_anew()
            scenarios.append(scenario(system, receiver))
    return scenarios


def report(scenarios: Sequence[Scenario], assumptions: Assumptions, prices: dict[str, Any]) -> dict[str, Any]:
    """Return everything that is printed, as plain data."""
    return {
        "region": prices["region"],
        "assumptions": asdict(assumptions),
        "dollars": {scenario.name: cost(scenario.usage, prices["aws"]) for scenario in scenarios},
        "beyond_free": {
            scenario.name: sum(cost(beyond(scenario.usage, prices["free"]["units"]), prices["aws"]).values())
            for scenario in scenarios
        },
        "units": {scenario.name: dict(scenario.usage.units) for scenario in scenarios},
        "seen": {
            scenario.name: {what: dict(usage.units) for what, usage in scenario.seen.items()} for scenario in scenarios
        },
        "others": {plan["name"]: plan_cost(plan, MILLION) for plan in prices["others"]},
        "prices": prices,
    }


def show(console: Console, told: dict[str, Any]) -> None:
    prices = told["prices"]
    console.print(_dollar_table(told))
    console.print(_measured_table(told))
    console.print(_others_table(told))
    console.print("[bold]Assumed[/]")
    for line in _assumed(told["assumptions"]):
        console.print(f"- {line}", highlight=False, soft_wrap=True)
    console.print(f"[bold]Prices[/], {prices['region']}, read on {prices['read']} in stored copies of these pages")
    free = prices["free"]
    console.print(
        f"- {free['label']}: {free['page']}, {free['url']} ({free['as_of']})", highlight=False, soft_wrap=True
    )
    for page, lines in _sources([*prices["aws"].values(), *prices["others"]]).items():
        console.print(f"- {page}", highlight=False, soft_wrap=True)
        for line in lines:
            console.print(f"    {line}", highlight=False, soft_wrap=True)


def _sources(prices: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the prices that each page was read for, as a person reads them."""
    lines: dict[str, list[str]] = {}
    for price in prices:
        older = "; an older page, no newer one was found" if price.get("older") else ""
        page = f"{price['page']}, {price['url']} ({price['as_of']}{older})"
        monthly = f"${price['monthly']:g} a month with {price['included']:,}, then " if "monthly" in price else ""
        dollars = f"{price['dollars']:.10f}".rstrip("0").rstrip(".")
        line = f"{price.get('label') or price['name']}: {monthly}${dollars} for {price['per']:,}"
        lines.setdefault(page, []).append(line)
    return lines


def _dollar_table(told: dict[str, Any]) -> Table:
    table = Table(title=f"Dollars for a million events ({told['region']}, list prices)")
    table.add_column("billed")
    for name in told["dollars"]:
        table.add_column(name, justify="right")
    columns = list(told["dollars"].values())
    for name, price in told["prices"]["aws"].items():
        if any(name in column for column in columns):
            table.add_row(price["label"], *(f"{column.get(name, 0):,.2f}" for column in columns))
    totals = [sum(column.values()) for column in columns]
    table.add_section()
    table.add_row("together", *(f"{total:,.2f}" for total in totals), style="bold")
    table.add_row("and the idle month's", *(f"{total + totals[-1]:,.2f}" for total in totals[:-1]), "")
    free = told["beyond_free"].values()
    table.add_row("together, where the always-free tier is unused", *(f"{dollars:,.2f}" for dollars in free))
    return table


def _measured_table(told: dict[str, Any]) -> Table:
    table = Table(title="Measured: what one of these uses, on average")
    table.add_column("one", no_wrap=True)
    for title in MEASURED.values():
        table.add_column(title, justify="right")
    for name, seen in told["seen"].items():
        for what, units in seen.items():
            table.add_row(f"event, {name}" if what == "event" else what, *(_measured(unit, units) for unit in MEASURED))
    return table


def _measured(name: str, units: dict[str, float]) -> str:
    count = units.get(name, 0) * (GB if name.endswith("_gb") else 1)
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def _others_table(told: dict[str, Any]) -> Table:
    table = Table(title="Others: dollars for a million events in a month, by list price")
    table.add_column("what")
    table.add_column("dollars", justify="right")
    for name, dollars in told["others"].items():
        table.add_row(name, f"{dollars:,.2f}")
    return table


def _assumed(given: dict[str, Any]) -> list[str]:
    return [
        f"the receiver takes {given['receiver_ms']:g} ms, also to answer 503 (--receiver-ms)",
        f"a call to DynamoDB or SQS takes {given['aws_call_ms']:g} ms (--aws-call-ms)",
        "CPU time is that of the machine on which this runs; a function has memory / 1,769 MB of a vCPU (--memory-mb)",
        f"{given['cold_percent']:g} % of invocations start a container (--cold-percent)",
        f"its init of {given['init_ms']:g} ms (--init-ms) is billed {INIT_IS_BILLED}",
        f"a payload has {given['payload_bytes']:,} bytes (--payload-bytes)",
        "an event is kept for EVENT_RETENTION_DAYS; its logs for one month, uncompressed",
        "the worker finds a retried event alone in its batch, and a backlog in batches of ten",
        OUTAGE,
        f"Lambda asks an idle queue {IDLE_POLLS:,} times a month (5 pollers that wait 20 s)",
        "EventBridge's scheduled rules cost nothing: no price for them was found, only one for EventBridge Scheduler",
        "data transfer counts bytes of HTTP, not of TLS and TCP",
        "left out: mails of the alarm topic, API Gateway's access logs, requests to the key that encrypts the table",
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What a million events cost.")
    parser.add_argument("--json", action="store_true", help="print plain data")
    for field in fields(Assumptions):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default, help=f"default {field.default}")
    given = vars(parser.parse_args(arguments))
    as_json = given.pop("json")
    assumptions = Assumptions(**given)
    told = report(measure(assumptions), assumptions, json.loads(PRICES.read_text(encoding="utf-8")))
    if as_json:
        print(json.dumps(told, indent=2))
    else:
        show(Console(width=max(140, Console().width)), told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
