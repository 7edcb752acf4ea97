"""Errors that callers of the API or of a service handle."""

from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

AWS_ERRORS = (ClientError, BotoCoreError, ResponseParserError)  # what a boto3 call raises when AWS fails


@dataclass(frozen=True)
class FieldFault:
    """One fault in a request: the member, header or parameter, and what it must be."""

    field: str
    message: str


class ApiError(Exception):
    """An error response: status code, one sentence without secrets, and seconds for `Retry-After` if a retry helps."""

    def __init__(self, status_code: int, detail: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(detail)
        self.status_code = status_code
        self.retry_after_seconds = retry_after_seconds
        self.errors: tuple[FieldFault, ...] = ()


class InvalidRequestError(ApiError):
    """400: the request has the given faults."""

    def __init__(self, *errors: FieldFault) -> None:
        super().__init__(400, "; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = errors


class EventNotFoundError(ApiError):
    """404: the event does not exist, has expired, or is not visible to this API key."""

    def __init__(self) -> None:
        super().__init__(404, "There is no such event.")


class StorageUnavailableError(ApiError):
    """503: DynamoDB failed. Whether a write took effect is unknown."""

    def __init__(self) -> None:
        super().__init__(503, "The event store is unavailable; try again.", retry_after_seconds=2)


class QueueUnavailableError(Exception):
    """SQS failed. Whether a message was sent or deleted is unknown."""


def error_code(error: Exception) -> str:
    """Return the AWS error code or the class name, for logs: the text of the error may repeat the request."""
    return str(error.response["Error"].get("Code")) if isinstance(error, ClientError) else type(error).__name__
