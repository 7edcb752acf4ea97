"""Outcomes of pushes, and the decision that follows from each: pure, without I/O or a clock.

`delivery` carries decisions out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from chalicelib.infra.parsing import Json
from chalicelib.settings import Settings

TIMED_OUT = "timed out"
BREAKER_OPEN = "not pushed: the receiver keeps failing"
MAX_RETRY_AFTER_SECONDS = 3600
UNPUSHED_RETRY_SECONDS = 60  # until the next attempt where no push could be made
# The status codes after which no later attempt of the same event can succeed. After any other the
# receiver may be repaired while attempts last.
FINAL_STATUS_CODES = frozenset({400, 405, 406, 410, 411, 413, 414, 415, 422, 431})


class Outcome(StrEnum):
    """The outcome of a push, as `attempts` of the API show it."""

    DELIVERED = "delivered"
    RETRY = "retry"
    FAILED = "failed"

    @classmethod
    def of(cls, status_code: int) -> "Outcome":
        """Return the outcome of a push for the status code of its final response: DELIVERED for
        2xx, FAILED for FINAL_STATUS_CODES, else RETRY, also for redirects, which are not followed.
        """
        if 200 <= status_code < 300:
            return cls.DELIVERED
        return cls.FAILED if status_code in FINAL_STATUS_CODES else cls.RETRY


class Reason(StrEnum):
    """Why an event failed."""

    # The receiver refused it: no later attempt can succeed.
    PERMANENT = "permanent"
    # It was the last attempt.
    EXHAUSTED = "exhausted"
    # Its subscription is disabled, or its tenant suspended: a copy that is kept, without a message
    # in the DLQ.
    DISABLED = "disabled"


@dataclass(frozen=True)
class PushResult:
    """The result of a push, or of a push that an open breaker refused."""

    outcome: Outcome
    duration_ms: int = 0
    # The status code of the final response; None if no response came.
    status_code: int | None = None
    # What went wrong, without secrets; None if the event was delivered.
    error: str | None = None
    # What the receiver asked for, or the time until the next trial of an open breaker; 0: neither.
    retry_after_seconds: float = 0.0
    # The beginning of the response body; None if no response came, or the event was delivered.
    response: str | None = None
    # The headers of the response that say who answered; empty if the event was delivered.
    response_headers: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Delivered:
    """The receiver took the event."""


@dataclass(frozen=True)
class Retry:
    """The next attempt is due later; a message or, after more than 900 s, the sweep asks for it."""

    # After how many seconds it is due.
    delay_seconds: float
    # When it is due (RFC 3339), if the event was due at this moment before the attempt, too: then
    # no message is sent, because one is on its way, or the sweep sends it. None: a message is sent.
    due_at: str | None = None


@dataclass(frozen=True)
class DeadLetter:
    """The event fails: it is pushed again only if someone asks for that.

    The operator gets a message in the DLQ, unless the target is a customer's.
    """

    reason: Reason


@dataclass(frozen=True)
class KeptFailed:
    """A copy is kept as failed, without a message in the DLQ: an alarm was raised when its
    subscription was disabled.
    """

    # The new `last_error` of the copy; None: the error of its latest attempt stays.
    error: str | None = None


@dataclass(frozen=True)
class Dropped:
    """The copy is deleted, because its subscription is gone."""


@dataclass(frozen=True)
class Unscheduled:
    """The event waits in the inbox for a consumer, because there is no URL to push to."""


Random = Callable[[], float]  # returns a number from 0 to 1
NotPushed = KeptFailed | Dropped | Unscheduled
Decision = Delivered | Retry | DeadLetter | NotPushed


def decide(result: PushResult, attempt: int, settings: Settings, random: Random) -> Decision:
    """Return the decision about an event after a push: delivered, a dead letter, or a retry.

    :param attempt: The number of the attempt, from 1.
    :param random: Draws the jitter.
    """
    if result.outcome is Outcome.DELIVERED:
        return Delivered()
    if result.outcome is Outcome.FAILED:
        return DeadLetter(Reason.PERMANENT)
    if attempt >= settings.max_delivery_attempts:
        return DeadLetter(Reason.EXHAUSTED)
    return back_off(result, attempt, settings, random)


def back_off(result: PushResult, attempt: int, settings: Settings, random: Random) -> Retry:
    """Return the retry after an attempt that failed: after the backoff with its jitter, or after
    `result.retry_after_seconds` if that is longer.

    :param attempt: The number of the attempt that failed, from 1.
    :param random: Draws the jitter.
    """
    # Equal jitter. Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
    longest_seconds = _longest_delay_seconds(attempt, settings)
    delay_seconds = longest_seconds / 2 + random() * longest_seconds / 2
    return Retry(max(delay_seconds, result.retry_after_seconds))


def longest_retry_seconds(settings: Settings) -> float:
    """Return the longest time in seconds from the first attempt of an event to the last attempt
    that the settings allow, if `Retry-After` prolongs each shorter delay to
    MAX_RETRY_AFTER_SECONDS. No attempt follows the last one, so its delay is not added.
    """
    return sum(
        max(_longest_delay_seconds(attempt, settings), MAX_RETRY_AFTER_SECONDS)
        for attempt in range(1, settings.max_delivery_attempts)
    )


def _longest_delay_seconds(attempt: int, settings: Settings) -> float:
    """Return the longest backoff in seconds after an attempt (from 1). It doubles with each attempt
    up to the setting's cap.
    """
    growing_seconds = settings.backoff_base_seconds * 2.0 ** (attempt - 1)
    return min(settings.backoff_cap_seconds, growing_seconds)
