import re

from chalicelib.core.event import Attempt
from chalicelib.infra.times import rfc3339, unix_seconds


def test_times_are_rfc_3339_of_one_width_and_sort_as_time_does() -> None:
    moments = [0.0, 0.000001, 0.999999, 1.0, 1_795_000_000.0, 1_795_000_000.000001, 4_000_000_000.5]

    texts = [rfc3339(moment) for moment in moments]

    assert texts == sorted(texts)
    assert texts[:2] == ["1970-01-01T00:00:00.000000Z", "1970-01-01T00:00:00.000001Z"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text) for text in texts)
    assert [rfc3339(unix_seconds(text)) for text in texts] == texts


def test_an_attempt_that_a_newer_version_recorded_can_be_read() -> None:
    attempt = Attempt("2026-11-25T00:00:00Z", "retry", 503, "receiver responded 503", 12)
    assert Attempt.from_json({**vars(attempt), "region": "eu"}) == attempt
