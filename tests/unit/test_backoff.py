import pytest

from chalicelib.backoff import Delay, delay_seconds, retry_in_process

NOW = 1_795_000_000.0


def test_the_delay_doubles_from_the_base_up_to_the_cap() -> None:
    longest = [delay_seconds(attempt, base=1, cap=3600, random=lambda: 1.0) for attempt in range(1, 20)]
    assert longest == [2**doublings for doublings in range(12)] + [3600] * 7
    assert delay_seconds(1000, base=86_400, cap=86_400, random=lambda: 1.0) == 86_400


@pytest.mark.parametrize(("drawn", "delay"), [(0.0, 2.0), (0.25, 2.5), (0.5, 3.0), (0.75, 3.5)])
def test_the_jitter_is_uniform_between_half_and_all_of_the_delay(drawn: float, delay: float) -> None:
    assert delay_seconds(3, base=1, cap=3600, random=lambda: drawn) == delay


@pytest.mark.parametrize(
    ("delays", "step_seconds", "wait_seconds", "last_start", "waited", "left"),
    [
        ([], 0, 8, 50, 0, None),  # settled at once
        ([1, 2, 5], 0, 8, 50, 3, None),  # settled after the last second of waiting
        ([1, 2, 5.1], 0, 8, 50, 2, 5.1),  # the limit is for all waits together
        ([0.5], 0, 0, 50, 0, 0.5),
        ([3, 3], 10, 8, 26, 2, None),  # 10 + 3 + 10 + 3: just in time
        ([3, 3], 10, 8, 25.9, 1, 3),
        ([1], 60, 8, 50, 0, 1),  # the step took all the time
    ],
)
def test_the_loop_waits_while_there_is_time_and_returns_the_delay_that_does_not_fit(
    delays: list[float], step_seconds: float, wait_seconds: float, last_start: float, waited: int, left: float | None
) -> None:
    now, slept, remaining = NOW, [], iter(delays)

    def step() -> Delay | None:
        nonlocal now
        now += step_seconds
        delay = next(remaining, None)
        return None if delay is None else Delay(delay)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    result = retry_in_process(
        step, wait_seconds=wait_seconds, last_start=NOW + last_start, clock=lambda: now, sleep=sleep
    )

    assert (slept, result) == (delays[:waited], left)


def test_the_loop_does_not_wait_if_the_step_forbids_it() -> None:
    delays = iter([Delay(1), Delay(2, may_wait=False)])
    slept: list[float] = []
    step = lambda: next(delays)  # noqa: E731

    assert retry_in_process(step, wait_seconds=8, last_start=NOW + 50, clock=lambda: NOW, sleep=slept.append) == 2
    assert slept == [1]
