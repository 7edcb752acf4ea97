from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import unix_seconds
from tests.conftest import Output


def test_a_line_is_one_json_object_with_time_level_message_and_what_is_given(output: Output) -> None:
    logger.info("sent", extra={"event_id": "evt_1", "text": "é\u2028\ud800\n", "nothing": None, "odd": {1}})
    (line,) = output.lines()
    assert unix_seconds(line.pop("timestamp")) > 1_700_000_000
    fields = {"event_id": "evt_1", "text": "é\u2028\ud800\n", "odd": "{1}"}
    assert line == {"level": "INFO", "message": "sent", **fields, "request_id": None}
