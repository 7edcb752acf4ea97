"""Record the calls that the system of a test makes to AWS, and let some of them fail."""

import itertools
import threading
from collections.abc import Callable
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from tests.support.world import Json, World


class Fault(StrEnum):
    """What happens to a call to AWS."""

    REFUSED = "AWS returns an error"
    UNREACHED = "AWS is not reached"
    LOST = "the call takes effect, and no response arrives"
    REPEATED = "the first response is lost, and boto3 sends the call again"


class Aws:
    """A recorder of the calls to AWS that the functions of a world make. It can let calls fail.

    It works until `close` is called.
    """

    def __init__(self, world: World) -> None:
        """Record the calls of the functions' DynamoDB and SQS clients from now on. No call fails
        until `fail` is called.
        """
        # The names of the operations that were called, such as `PutItem`.
        self.calls: list[str] = []
        # The number of calls to which a fault happened since `fail` was called.
        self.faults = 0
        self._lock = threading.Lock()
        # Returns the fault that happens to the next call of an operation.
        self._plan: Callable[[str], Fault | None] = _no_fault
        # The functions that botocore calls, by the names of its events.
        handlers: dict[str, Callable[..., object]] = {
            "before-call": self._before,
            "needs-retry": self._needs_retry,
            "after-call": self._after,
        }
        self._registrations = [
            (client.meta.events, event_name, handler)
            for client in (world.dynamodb, world.sqs)
            for event_name, handler in handlers.items()
        ]
        for events, event_name, handler in self._registrations:
            events.register(event_name, handler)

    def close(self) -> None:
        """Stop recording calls and letting them fail."""
        for events, event_name, handler in self._registrations:
            events.unregister(event_name, handler)

    def fail(self, *operations: str, fault: Fault = Fault.REFUSED, at: int | None = None) -> None:
        """Let calls fail from now on, in place of an earlier `fail`, and count from 0 in `faults`.

        :param operations: The names of the operations that fail; without any, all operations fail.
        :param fault: How the calls fail.
        :param at: The number of the only call that fails, counted from 1 from now on over these
            operations; None: all of their calls fail.
        """
        numbers = itertools.count(1)  # of the calls of these operations

        def plan(operation: str) -> Fault | None:
            """Return the fault of the next call of an operation: that of `fail`, if the operation
            is one of those that `fail` names and the call is the one with the number `at`; None:
            the call succeeds.
            """
            is_named = not operations or operation in operations
            if not is_named:
                return None
            number = next(numbers)
            is_chosen = at is None or number == at
            return fault if is_chosen else None

        self.faults = 0
        self._plan = plan

    def heal(self) -> None:
        """Let no call fail from now on."""
        self._plan = _no_fault

    def during(self, act: Callable[[], object]) -> list[str]:
        """Call a function, and return the names of the operations that were called meanwhile."""
        start = len(self.calls)
        act()
        return self.calls[start:]

    def _before(
        self, model: Any, context: Json, **_: object
    ) -> tuple[SimpleNamespace, Json] | None:
        """Handle botocore's event `before-call`: record the call, and let it fail now if its fault
        keeps it from AWS.

        :param model: botocore's model of the operation.
        :param context: botocore's data of this call, in which the fault is noted for the handlers
            of later events.
        :returns: The HTTP response and the parsed response that botocore uses instead of making the
            call, for REFUSED; None: botocore makes the call.
        :raises EndpointConnectionError: For UNREACHED.
        """
        with self._lock:
            self.calls.append(model.name)
            fault = self._plan(model.name)
            context["fault"] = fault
            if fault is not None:
                self.faults += 1
        if fault is Fault.REFUSED:
            error = {"Code": "InternalServerError", "Message": "injected by a test"}
            return SimpleNamespace(status_code=500), {
                "Error": error,
                "ResponseMetadata": {"HTTPStatusCode": 500},
            }
        if fault is Fault.UNREACHED:
            raise EndpointConnectionError(endpoint_url="https://aws.test")
        return None

    def _needs_retry(self, request_dict: Json, attempts: int, **_: object) -> float | None:
        """Handle botocore's event `needs-retry`, after each response: for REPEATED, let botocore
        send the call once more, although the response is good.

        :param attempts: How often the call was sent.
        :returns: The seconds until the call is sent again: 0; None: botocore decides.
        """
        is_repeated = request_dict["context"]["fault"] is Fault.REPEATED
        return 0.0 if is_repeated and attempts == 1 else None

    def _after(self, context: Json, **_: object) -> None:
        """Handle botocore's event `after-call`: for LOST, raise ReadTimeoutError, although the call
        took effect.
        """
        if context["fault"] is Fault.LOST:
            raise ReadTimeoutError(endpoint_url="https://aws.test")


def _no_fault(operation: str) -> Fault | None:
    """Return None: no call fails, whatever its operation."""
    return None
