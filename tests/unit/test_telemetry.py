import logging

import pytest

from chalicelib import telemetry
from chalicelib.events import unix_seconds
from chalicelib.telemetry import Metrics, logger
from tests.conftest import Output


def test_a_line_is_one_json_object_with_time_level_message_and_extra(output: Output) -> None:
    logger.info("sent", extra={"event_id": "evt_1", "text": "é\u2028\ud800\n", "nothing": None, "odd": {1}})
    (line,) = output.lines()
    assert unix_seconds(line.pop("time")) > 1_700_000_000
    fields = {"event_id": "evt_1", "text": "é\u2028\ud800\n", "nothing": None, "odd": "{1}"}
    assert line == {"level": "INFO", "message": "sent", **fields, "request_id": None}


def test_the_traceback_of_an_exception_is_in_the_same_line(output: Output) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logger.exception("it failed", extra={"event_id": "evt_1"})
    (line,) = output.lines()
    assert (line["level"], line["event_id"]) == ("ERROR", "evt_1")
    assert line["trace"].startswith("Traceback")
    assert line["trace"].endswith("ValueError: first\nsecond")


def test_the_request_id_is_on_every_line_of_its_context(output: Output) -> None:
    def fail() -> None:
        with telemetry.request_id("inner"):
            logger.info("1")
            raise RuntimeError

    with telemetry.request_id("outer"):
        with pytest.raises(RuntimeError):
            fail()
        logger.info("2")
    logger.info("3")
    assert [line["request_id"] for line in output.lines()] == ["inner", "outer", None]


def test_other_loggers_are_left_alone(output: Output) -> None:
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    telemetry.configure("DEBUG")
    logging.getLogger("another").warning("not ours")
    telemetry.configure("INFO")
    assert (root.level, root.handlers) == before
    assert output.lines() == []


def test_metrics_are_one_line_in_the_embedded_metric_format(output: Output) -> None:
    Metrics("TriggersApi", "prod", clock=lambda: 1_795_000_000.9876).emit(DeliverySuccess=1, OldestPendingAge=0.5)
    named = [{"Name": "DeliverySuccess", "Unit": "Count"}, {"Name": "OldestPendingAge", "Unit": "Seconds"}]
    directive = {"Namespace": "TriggersApi", "Dimensions": [["Stage"]], "Metrics": named}
    assert output.lines() == [
        {
            "_aws": {"Timestamp": 1_795_000_000_987, "CloudWatchMetrics": [directive]},
            "Stage": "prod",
            "DeliverySuccess": 1,
            "OldestPendingAge": 0.5,
        }
    ]
