"""However AWS and the receiver hang, a caller is answered in 28 s and the worker ends in its 50 s."""

import pytest

from chalicelib.aws import CALL_SECONDS
from tests.crash.rig import Fault, FaultAt, Process, Rig

HANGS = {"INLINE_PUSH_TIMEOUT_SECONDS": "20", "PUSH_TIMEOUT_SECONDS": "20"}


def hanging_at(rig: Rig, point: int) -> FaultAt:
    """Return a plan in which one call to AWS takes as long as any may, and fails."""

    def plan(number: int, label: str) -> Fault | None:
        if number != point or label == "push":
            return None
        rig.clock.sleep(CALL_SECONDS)
        return Fault.UNREACHED

    return plan


@pytest.mark.parametrize("answer", [200, 404, 503, None])
def test_a_caller_is_answered_in_28_seconds_whichever_call_hangs(answer: int | None) -> None:
    for point in range(4):
        rig = Rig(HANGS)
        rig.answers = [answer]
        started = rig.clock()
        Process(rig, hanging_at(rig, point)).post()
        assert rig.clock() - started <= 28, point


@pytest.mark.parametrize("answer", [200, 404, 503, None])
def test_the_worker_ends_in_its_50_seconds_whichever_call_hangs(answer: int | None) -> None:
    for point in range(12):
        rig = Rig({**HANGS, "IN_PROCESS_WAIT_SECONDS": "900"})
        Process(rig).post(prefer="respond-async")
        rig.answers = [answer] * 9
        started = rig.clock()
        Process(rig, hanging_at(rig, point)).work()
        assert rig.clock() - started <= 50, point


def test_the_worker_ends_in_its_50_seconds_though_every_call_hangs() -> None:
    rig = Rig(HANGS)
    Process(rig).post(prefer="respond-async")
    started = rig.clock()

    def plan(number: int, label: str) -> Fault | None:
        if label == "push":
            return None
        rig.clock.sleep(CALL_SECONDS)
        return Fault.ANSWER_LOST  # as late as can be, and still an answer

    rig.answers = [None]
    Process(rig, plan).work()
    assert rig.clock() - started <= 50
