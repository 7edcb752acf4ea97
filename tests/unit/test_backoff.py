import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chalicelib.backoff import Patience, delay_seconds, repeat

NOW = 1_795_000_000.0
SECONDS = st.floats(0, 86_400)


@settings(deadline=None)
@given(attempt=st.integers(1, 1000), base=SECONDS, cap=SECONDS, drawn=st.floats(0, 1, exclude_max=True))
@example(attempt=1000, base=86_400, cap=86_400, drawn=0.5)
def test_a_delay_is_between_half_and_all_of_the_backoff(attempt: int, base: float, cap: float, drawn: float) -> None:
    most = min(cap, base * 2 ** (attempt - 1))
    assert most / 2 <= delay_seconds(attempt, base=base, cap=cap, random=lambda: drawn) <= most


def test_the_backoff_doubles_from_the_base_up_to_the_cap_and_is_eight_hours_in_all() -> None:
    # The 20th attempt is the last: nothing is waited for after it.
    longest = [delay_seconds(attempt, base=1, cap=3600, random=lambda: 1.0) for attempt in range(1, 20)]
    assert longest == [2**doubled for doubled in range(12)] + [3600] * 7
    assert 7.5 * 3600 < sum(longest) < 8.5 * 3600


@pytest.mark.parametrize(("drawn", "delay"), [(0.0, 2.0), (0.25, 2.5), (0.5, 3.0), (0.75, 3.5)])
def test_the_delay_is_drawn_evenly(drawn: float, delay: float) -> None:
    assert delay_seconds(3, base=1, cap=3600, random=lambda: drawn) == delay


class Invocation:
    """A virtual clock, and a step that takes `step_seconds` and asks for these delays, then is settled."""

    def __init__(self, delays: list[float], step_seconds: float) -> None:
        self.now = NOW
        self.began: list[float] = []
        self.slept: list[float] = []
        self._delays = iter(delays)
        self._step_seconds = step_seconds

    def step(self) -> float | None:
        self.began.append(self.now)
        self.now += self._step_seconds
        return next(self._delays, None)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def run(self, wait_seconds: float, last_start: float) -> float | None:
        return repeat(self.step, Patience(wait_seconds, NOW + last_start), clock=lambda: self.now, sleep=self.sleep)


@pytest.mark.parametrize(
    ("delays", "step_seconds", "wait_seconds", "last_start", "slept", "left"),
    [
        ([], 0, 8, 50, 0, None),  # settled at once
        ([1, 2, 5], 0, 8, 50, 3, None),  # settled in the very last second of the wait
        ([1, 2, 5.1], 0, 8, 50, 2, 5.1),  # the wait counts in all, not each
        ([0.5], 0, 0, 50, 0, 0.5),  # no waiting wanted
        ([3, 3], 10, 8, 26, 2, None),  # 10 + 3 + 10 + 3: the last start is just reached
        ([3, 3], 10, 8, 25.9, 1, 3),
        ([1], 60, 8, 50, 0, 1),  # the step itself used all the time up
    ],
)
def test_the_loop_waits_while_there_is_room_and_hands_back_the_delay_that_does_not_fit(
    delays: list[float], step_seconds: float, wait_seconds: float, last_start: float, slept: int, left: float | None
) -> None:
    invocation = Invocation(delays, step_seconds)
    assert invocation.run(wait_seconds, last_start) == left
    assert invocation.slept == delays[:slept]
    assert len(invocation.began) == slept + 1


@settings(deadline=None)
@given(
    delays=st.lists(st.integers(0, 10)),
    step_seconds=st.integers(0, 5),
    wait_seconds=st.integers(0, 30),
    last_start=st.integers(0, 60),
)
def test_no_step_begins_too_late_and_no_wait_is_too_long(
    delays: list[float], step_seconds: int, wait_seconds: int, last_start: int
) -> None:
    invocation = Invocation(delays, step_seconds)
    left = invocation.run(wait_seconds, last_start)
    assert sum(invocation.slept) <= wait_seconds
    assert max(invocation.began) <= NOW + last_start
    assert [*invocation.slept, left] == [*delays, None][: len(invocation.began)]
