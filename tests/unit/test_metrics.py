import json

import pytest

from chalicelib.telemetry import Metrics

UNITS = {
    **dict.fromkeys(("EventsAccepted", "DeliverySuccess", "DeliveryFailure", "DeliveryRetry"), "Count"),
    **dict.fromkeys(("PushDuration", "DeliveryLatency"), "Milliseconds"),
    **dict.fromkeys(("DLQDepth", "InboxDepth"), "Count"),
    "OldestPendingAge": "Seconds",
}


def line_of(**values: float) -> str:
    lines: list[str] = []
    Metrics("TriggersApi", "prod", clock=lambda: 1_795_000_000.9876, write=lines.append).emit(**values)
    (line,) = lines
    return line


def test_values_that_belong_together_are_one_line_in_the_embedded_metric_format() -> None:
    line = line_of(DeliverySuccess=1, OldestPendingAge=0.5)
    named = [{"Name": "DeliverySuccess", "Unit": "Count"}, {"Name": "OldestPendingAge", "Unit": "Seconds"}]
    directive = {"Namespace": "TriggersApi", "Dimensions": [["Stage"]], "Metrics": named}
    assert "\n" not in line
    assert json.loads(line) == {
        "_aws": {"Timestamp": 1_795_000_000_987, "CloudWatchMetrics": [directive]},
        "Stage": "prod",
        "DeliverySuccess": 1,
        "OldestPendingAge": 0.5,
    }


@pytest.mark.parametrize(("name", "unit"), UNITS.items())
def test_every_promised_metric_has_its_unit(name: str, unit: str) -> None:
    line = json.loads(line_of(**{name: 3}))
    # As the specification has it: what a directive names is a member at the root, a number or, a dimension, a text.
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Metrics"] == [{"Name": name, "Unit": unit}]
    assert (line[name], line["Stage"]) == (3, "prod")
    assert type(line["_aws"]["Timestamp"]) is int
