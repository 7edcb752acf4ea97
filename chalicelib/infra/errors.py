"""Errors that callers of the API or of a service handle."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

# what a boto3 call raises when AWS fails
AWS_ERRORS = (ClientError, BotoCoreError, ResponseParserError)


@dataclass(frozen=True)
class FieldFault:
    """One fault in a request: the member, header or parameter, and what it must be."""

    field: str
    message: str


class InvalidValueError(ValueError):
    """A value is unusable; the text says what it must be and does not repeat it."""


Members = Mapping[str, Any]
NONE: Members = {}


class ApiError(Exception):
    """An error response: status code, a word for programs, one sentence without secrets.

    `headers` has `Retry-After` if a retry helps, `members` what else the problem document says.
    """

    def __init__(
        self,
        status_code: int,
        code: str,
        detail: str,
        headers: Members = NONE,
        members: Members = NONE,
    ) -> None:
        super().__init__(detail)
        self.status_code = status_code
        self.code = code
        self.headers = headers
        self.members = members


class UnavailableError(ApiError):
    """503: the call may be repeated."""

    def __init__(self, detail: str) -> None:
        super().__init__(503, "unavailable", detail, {"Retry-After": "2"})


class SettingsError(UnavailableError):
    """503: one line that names each missing or unusable variable and what it should be."""


class InvalidRequestError(ApiError):
    """400: the request has the given faults."""

    def __init__(self, *errors: FieldFault) -> None:
        detail = "; ".join(f"{error.field}: {error.message}" for error in errors)
        members = {"errors": [vars(error) for error in errors]}
        super().__init__(400, "invalid_request", detail, members=members)


class EventNotFoundError(ApiError):
    """404: the event does not exist, has expired, or is not visible to this API key."""

    def __init__(self) -> None:
        super().__init__(404, "not_found", "There is no such event.")


class LeaseLostError(ApiError):
    """409: the lease does not hold the event, and has not acknowledged it."""

    def __init__(self) -> None:
        super().__init__(409, "lease_lost", "This lease does not hold the event.")


class EventClaimedError(ApiError):
    """409: the event is pushed, leased or erased now; repeat the call after `seconds`."""

    def __init__(
        self,
        detail: str = "The event is claimed; try again when the claim ends.",
        seconds: float = 0,
    ) -> None:
        wait_seconds = max(1, math.ceil(seconds))
        super().__init__(
            409,
            "event_claimed",
            detail,
            {"Retry-After": str(wait_seconds)},
        )


class StorageUnavailableError(UnavailableError):
    """503: DynamoDB failed. Whether a write took effect is unknown."""

    def __init__(self) -> None:
        super().__init__("The event store is unavailable; try again.")


class OutOfTimeError(UnavailableError):
    """503: the function ends too soon for a push."""

    def __init__(self) -> None:
        super().__init__("There was no time left for a push; try again.")


class QueueUnavailableError(Exception):
    """SQS failed. Whether a message was sent or deleted is unknown."""


def error_code(error: Exception) -> str:
    """Return the AWS error code or the class name, for logs.

    The text of the error may repeat the request.
    """
    if isinstance(error, ClientError):
        return str(error.response["Error"].get("Code"))
    return type(error).__name__
