import pytest

from chalicelib.backoff import delay_seconds


def test_the_delay_doubles_from_the_base_up_to_the_cap() -> None:
    longest = [delay_seconds(attempt, base=1, cap=3600, random=lambda: 1.0) for attempt in range(1, 20)]
    assert longest == [2**doublings for doublings in range(12)] + [3600] * 7
    assert delay_seconds(1000, base=86_400, cap=86_400, random=lambda: 1.0) == 86_400


@pytest.mark.parametrize(("drawn", "delay"), [(0.0, 2.0), (0.25, 2.5), (0.5, 3.0), (0.75, 3.5)])
def test_the_jitter_is_uniform_between_half_and_all_of_the_delay(drawn: float, delay: float) -> None:
    assert delay_seconds(3, base=1, cap=3600, random=lambda: drawn) == delay
