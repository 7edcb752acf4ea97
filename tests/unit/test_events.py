import re
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.events import rfc3339, unix_seconds

MICROSECONDS = st.integers(0, 4_000_000_000 * 10**6)


@settings(deadline=None)
@given(MICROSECONDS, MICROSECONDS)
def test_times_are_rfc_3339_of_one_width_and_sort_as_time_does(one: int, other: int) -> None:
    first, second = rfc3339(one / 10**6), rfc3339(other / 10**6)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first)
    assert datetime.fromisoformat(first) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=one)
    assert (first < second) == (one < other)
    assert rfc3339(unix_seconds(first)) == first
