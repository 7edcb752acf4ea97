"""What follows from an attempt, decided without I/O; `delivery.settle` carries it out."""

from collections.abc import Callable
from dataclasses import dataclass

from chalicelib.core.event import Reason
from chalicelib.core.http_push import PushResult
from chalicelib.core.outcome import Outcome, RetryPolicy


@dataclass(frozen=True)
class Delivered:
    """The receiver took the event."""


@dataclass(frozen=True)
class RetryLater:
    """The next attempt is due after `delay_seconds`; `in_process`: the worker waits for it, without a message."""

    delay_seconds: float
    in_process: bool = False


@dataclass(frozen=True)
class DeadLetter:
    """The event will not be pushed again unless someone asks; a message in the DLQ tells a person."""

    reason: Reason


@dataclass(frozen=True)
class KeptFailed:
    """A copy is kept as failed, without a message in the DLQ: an alarm told that its subscription is disabled.

    `error` is its last error, unless an attempt told one.
    """

    error: str | None = None


@dataclass(frozen=True)
class Dropped:
    """A copy is deleted: its subscription is gone, and nobody waits for it."""


@dataclass(frozen=True)
class Unscheduled:
    """There is no URL to push to: the event waits in the inbox."""


NotPushed = KeptFailed | Dropped | Unscheduled
Decision = Delivered | RetryLater | DeadLetter | NotPushed


def decide(
    result: PushResult, attempt: int, policy: RetryPolicy, random: Callable[[], float], max_wait_seconds: float
) -> Delivered | RetryLater | DeadLetter:
    """Decide what follows from `attempt` (from 1).

    A delay of up to `max_wait_seconds` is waited for in process; none is if that is negative.
    """
    if result.outcome is Outcome.DELIVERED:
        return Delivered()
    if result.outcome is Outcome.FAILED:
        return DeadLetter(Reason.PERMANENT)
    if policy.is_over(attempt + 1):
        return DeadLetter(Reason.EXHAUSTED)
    delay_seconds = policy.delay_seconds(attempt, retry_after_seconds=result.retry_after_seconds, random=random)
    return RetryLater(delay_seconds, delay_seconds <= max_wait_seconds)
