"""Every way a call can end badly, each saying what the caller does next.

Knows nothing of HTTP beyond the status code that each one means.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing wrong with what a caller sent: where, and what it should be."""

    field: str
    message: str


class TriggersError(Exception):
    """What a caller is answered instead of a result. `str()` is one sentence without secrets."""

    status_code = 500
    detail = "Something went wrong here; it is in the log."
    retry_after_seconds: int | None = None
    faults: tuple[Fault, ...] = ()

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or self.detail)


class InvalidRequestError(TriggersError):
    """Correct the request: every fault found is in `faults`."""

    status_code = 400

    def __init__(self, *faults: Fault) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.message}" for fault in faults))
        self.faults = faults


class UnauthorizedError(TriggersError):
    """Send a key that is known."""

    status_code = 401
    detail = "A valid API key is needed: Authorization: Bearer <key>."


class ForbiddenError(TriggersError):
    """Use a key that has the scope."""

    status_code = 403


class EventNotFoundError(TriggersError):
    """There is no such event, or none that this key may see."""

    status_code = 404
    detail = "There is no such event."


class MethodNotAllowedError(TriggersError):
    """Use a method that the resource has: the answer's `Allow` names them."""

    status_code = 405


class PushRunningError(TriggersError):
    """A push of the event is running: ask again when its claim has run out."""

    status_code = 409
    detail = "A push of this event is running; ask again when it has ended."

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class BodyTooLargeError(TriggersError):
    """Send less."""

    status_code = 413


class UnsupportedMediaTypeError(TriggersError):
    """Send JSON."""

    status_code = 415
    detail = "The body must be application/json."


class IdempotencyConflictError(TriggersError):
    """Use a new key for a new event."""

    status_code = 422
    detail = "This Idempotency-Key was used before, with another body."


class StorageUnavailableError(TriggersError):
    """DynamoDB failed: ask again. Whether a write took effect is not known."""

    status_code = 503
    detail = "The event store did not answer; try again."
    retry_after_seconds = 2


class QueueUnavailableError(Exception):
    """SQS failed: whether a message was sent is not known. The sweep makes up for it; no caller is told."""
