"""The retry policy's arithmetic; what responses and errors mean is shown by test_push."""

import pytest

from chalicelib.retry import RetryPolicy


@pytest.mark.parametrize(
    ("attempt", "random", "seconds"), [(1, 0, 0.5), (1, 1, 1), (4, 0.5, 6), (30, 0, 50), (30, 1, 100)]
)
def test_the_delay_is_between_half_and_all_of_its_bound(attempt: int, random: float, seconds: float) -> None:
    policy = RetryPolicy(max_attempts=40, base_seconds=1, cap_seconds=100)
    assert policy.next_delay_seconds(attempt, retry_after_seconds=0, random=lambda: random) == seconds


def test_there_is_no_next_attempt_after_the_last() -> None:
    policy = RetryPolicy(max_attempts=3, base_seconds=1, cap_seconds=100)
    delays = [
        policy.next_delay_seconds(attempt, retry_after_seconds=60, random=lambda: 0.0) for attempt in (1, 2, 3, 4)
    ]
    assert delays == [60, 60, None, None]


@pytest.mark.parametrize(("attempts", "cap", "days"), [(1, 3600, 1), (25, 3600, 2), (49, 60, 3), (25, 86_400, 25)])
def test_the_longest_retries_count_retry_after_and_a_day_more(attempts: int, cap: float, days: int) -> None:
    assert RetryPolicy(max_attempts=attempts, base_seconds=86_400, cap_seconds=cap).longest_days() == days
