"""Errors that callers of the API or of a service handle."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

# The errors that a boto3 call raises when AWS fails.
AWS_ERRORS = (ClientError, BotoCoreError, ResponseParserError)


@dataclass(frozen=True)
class FieldFault:
    """One fault in a request."""

    # The member, header or parameter.
    field: str
    # What it must be: "must be a JSON object".
    message: str


class InvalidValueError(ValueError):
    """A value is unusable. The text says what it must be, and does not repeat the value."""


Members = Mapping[str, Any]
EMPTY: Members = {}


class ApiError(Exception):
    """An error that the API answers with a problem document (RFC 9457).

    :param status_code: The HTTP status code.
    :param code: A word for programs, the member `code`.
    :param detail: A sentence for people without secrets, the member `detail`.
    :param headers: Headers of the response: `Retry-After` if a retry helps.
    :param members: Further members of the problem document.
    """

    def __init__(
        self,
        status_code: int,
        code: str,
        detail: str,
        headers: Members = EMPTY,
        members: Members = EMPTY,
    ) -> None:
        """Make an error that the API answers with a problem document.

        :param status_code: The HTTP status code.
        :param code: A word for programs, the member `code`.
        :param detail: A sentence for people without secrets, the member `detail`.
        :param headers: Headers of the response: `Retry-After` if a retry helps.
        :param members: Further members of the problem document.
        """
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
    """503: a setting is missing or unusable. The text names each of them in one line, and says what
    it should be.
    """


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
    """409: the lease does not hold the event, and did not acknowledge it."""

    def __init__(self) -> None:
        super().__init__(409, "lease_lost", "This lease does not hold the event.")


class EventClaimedError(ApiError):
    """409: the event is being pushed, leased or erased.

    :param seconds: After how long a repeated call may succeed; the header has at least 1.
    """

    def __init__(
        self,
        detail: str = "The event is claimed; try again when the claim ends.",
        seconds: float = 0,
    ) -> None:
        """Make an error 409 with the code `event_claimed`.

        :param detail: A sentence for people.
        :param seconds: After how long a repeated call may succeed. It is rounded up to whole
            seconds, at least 1, for the header `Retry-After`; 0 or less: the claim has ended.
        """
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
    """503: the time that the function has left does not suffice for a push."""

    def __init__(self) -> None:
        super().__init__("There was no time left for a push; try again.")


class QueueUnavailableError(Exception):
    """SQS failed. Whether a message was sent or deleted is unknown."""


def error_code(error: Exception) -> str:
    """Return the text by which logs name one of AWS_ERRORS: the error code in the response of AWS
    or, for an error without a response, the name of the error's class.

    The text of the error itself is not logged: it may repeat the request.
    """
    if isinstance(error, ClientError):
        return str(error.response["Error"].get("Code"))
    return type(error).__name__
