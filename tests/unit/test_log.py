import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from logging.handlers import BufferingHandler
from threading import Barrier
from typing import Any

import pytest

from chalicelib import log
from chalicelib.events import unix_seconds

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """What was written to standard output, line by line."""
    telemetry.configure("INFO")
    yield lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    telemetry.configure("INFO")


def test_a_line_is_one_json_object_with_time_level_message_and_fields(lines: Lines) -> None:
    log.info("sent 100%s\n", event_id="evt_1", text="é\u2028\ud800\n", nothing=None, odd={1})
    (line,) = lines()
    assert unix_seconds(line.pop("time")) > 1_700_000_000
    fields = {"event_id": "evt_1", "text": "é\u2028\ud800\n", "nothing": None, "odd": "{1}"}
    assert line == {"level": "INFO", "message": "sent 100%s\n", **fields, "request_id": None}


def test_an_exceptions_trace_stands_in_the_same_line(lines: Lines) -> None:
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("it failed", event_id="evt_1")
    (line,) = lines()
    assert (line["level"], line["event_id"]) == ("ERROR", "evt_1")
    assert line["trace"].startswith("Traceback")
    assert line["trace"].endswith("ValueError: first\nsecond")


def test_lines_below_the_level_are_not_written_and_the_level_may_change(lines: Lines) -> None:
    telemetry.configure("WARNING")
    log.info("no")
    telemetry.configure("INFO")
    log.info("yes")
    telemetry.configure("ERROR")
    log.warning("no")
    assert [line["message"] for line in lines()] == ["yes"]  # once, however often it was configured


def test_the_request_id_stands_on_every_line_inside_and_on_none_outside(lines: Lines) -> None:
    def fail() -> None:
        with telemetry.request_id("inner"):
            log.info("1")
            raise RuntimeError

    with telemetry.request_id("outer"):
        with pytest.raises(RuntimeError):
            fail()
        log.info("2")
    log.info("3")
    assert [line["request_id"] for line in lines()] == ["inner", "outer", None]


def test_each_thread_has_a_request_id_of_its_own(lines: Lines) -> None:
    barrier = Barrier(8)

    def serve(name: str) -> None:
        with telemetry.request_id(name):
            barrier.wait()
            log.info("served", name=name)

    with telemetry.request_id("batch"), ThreadPoolExecutor(8) as pool:
        list(pool.map(serve, "abcdefgh"))
    assert sorted((line["name"], line["request_id"]) for line in lines()) == [(name, name) for name in "abcdefgh"]


def test_threads_of_a_pool_log_the_request_id_of_who_made_it(lines: Lines) -> None:
    for request_id in ("one", "two"):
        with telemetry.request_id(request_id), telemetry.thread_pool(4) as pool:
            list(pool.map(log.info, "abcd"))
    with telemetry.thread_pool(4) as pool:
        list(pool.map(log.info, "a"))
    assert [line["request_id"] for line in lines()] == ["one"] * 4 + ["two"] * 4 + [None]


def test_the_root_logger_is_left_alone_and_sees_nothing(lines: Lines) -> None:
    root, handler = logging.getLogger(), BufferingHandler(100)
    root.addHandler(handler)
    before = root.level, root.handlers[:], root.filters[:]
    telemetry.configure("DEBUG")
    log.warning("ours")
    logging.getLogger("another").warning("theirs")
    after = root.level, root.handlers[:], root.filters[:]
    root.removeHandler(handler)
    assert after == before
    assert [record.getMessage() for record in handler.buffer] == ["theirs"]
    assert [line["message"] for line in lines()] == ["ours"]
