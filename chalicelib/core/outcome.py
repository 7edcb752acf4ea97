"""The retry policy: what a response or an error means, when the next attempt is due, and when attempts end."""

import http.client
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import urllib3
from urllib3.exceptions import HTTPError, ReadTimeoutError

from chalicelib.infra.connection import AddressNotAllowedError

MAX_RETRY_AFTER_SECONDS = 3600
RETRY_AFTER = urllib3.Retry(retry_after_max=MAX_RETRY_AFTER_SECONDS)
# What no later attempt of the same event can get over; anything else may be mended while attempts last.
FINAL_STATUS_CODES = frozenset({400, 405, 406, 410, 411, 413, 414, 415, 422, 431})
RETRY_AFTER_STATUS_CODES = frozenset({429, 503})
# What a push raises if there is no response.
PUSH_ERRORS = (OSError, http.client.HTTPException, HTTPError, UnicodeError)


class Outcome(StrEnum):
    DELIVERED = "delivered"
    RETRY = "retry"
    FAILED = "failed"


@dataclass(frozen=True)
class ErrorRule:
    """What an error of these types means; `text` describes it and never has a secret."""

    types: tuple[type[BaseException], ...]
    text: str
    outcome: Outcome = Outcome.RETRY
    timed_out: bool = False


ERROR_RULES = (  # the first that applies
    ErrorRule((AddressNotAllowedError,), "address not allowed", Outcome.FAILED),
    ErrorRule((TimeoutError, ReadTimeoutError), "timed out", timed_out=True),
    ErrorRule((ssl.SSLCertVerificationError,), "certificate does not verify"),
    ErrorRule((ssl.SSLError,), "TLS failed"),
    ErrorRule((socket.gaierror, UnicodeError), "host name does not resolve"),  # IDNA does not allow every label
    ErrorRule((ConnectionRefusedError,), "connection refused"),
    ErrorRule((http.client.RemoteDisconnected,), "connection closed without a response"),
    ErrorRule((ConnectionError,), "connection reset"),
    ErrorRule((http.client.HTTPException,), "response is not HTTP"),
    ErrorRule((OSError,), "receiver cannot be reached"),
    ErrorRule((HTTPError,), "response is not HTTP"),
)


@dataclass(frozen=True)
class RetryPolicy:
    """When to push an event again.

    :param max_attempts: Attempts of an event, from 1; the last one that fails makes a dead letter.
    :param base_seconds: Upper bound of the delay after the first attempt, in seconds; it doubles with each attempt.
    :param cap_seconds: Upper bound of every delay, in seconds.
    """

    max_attempts: int
    base_seconds: float
    cap_seconds: float

    def is_over(self, attempt: int) -> bool:
        """Return whether `attempt` (from 1) is more than an event may have."""
        return attempt > self.max_attempts

    def delay_seconds(self, attempt: int, retry_after_seconds: float, random: Callable[[], float]) -> float:
        """Return the seconds between `attempt` (from 1), which failed, and the next.

        Equal jitter: between half and all of min(cap, base * 2**(attempt - 1)), and not less than
        `retry_after_seconds`. Source: "Exponential Backoff And Jitter", AWS Architecture Blog.
        """
        ceiling = self._ceiling_seconds(attempt)
        return max(ceiling / 2 + random() * ceiling / 2, retry_after_seconds)

    def longest_seconds(self) -> float:
        """Return the seconds that all attempts can take: the longest delays between them."""
        return sum(max(self._ceiling_seconds(n), MAX_RETRY_AFTER_SECONDS) for n in range(1, self.max_attempts))

    def _ceiling_seconds(self, attempt: int) -> float:
        return min(self.cap_seconds, self.base_seconds * 2.0 ** (attempt - 1))


def outcome_of(status_code: int) -> Outcome:
    """Return the outcome for the status code of a final response; redirects are not followed."""
    if 200 <= status_code < 300:
        return Outcome.DELIVERED
    return Outcome.FAILED if status_code in FINAL_STATUS_CODES else Outcome.RETRY


def rule_of(error: BaseException | None) -> ErrorRule:
    """Return the rule for one of PUSH_ERRORS. urllib3 wraps errors up to three times."""
    causes = []
    while error is not None:
        causes.append(error)
        error = error.__cause__ or error.__context__
    return next(rule for rule in ERROR_RULES if any(isinstance(cause, rule.types) for cause in causes))


def retry_after_seconds(response: urllib3.BaseHTTPResponse) -> float:
    """Return the seconds that `Retry-After` of a 429 or 503 asks for, at most MAX_RETRY_AFTER_SECONDS; 0 if none.

    Source: RFC 9110, section 10.2.3.
    """
    if response.status not in RETRY_AFTER_STATUS_CODES:
        return 0.0
    try:
        return RETRY_AFTER.get_retry_after(response) or 0.0
    except (HTTPError, ValueError, OverflowError):  # neither seconds nor a date
        return 0.0
