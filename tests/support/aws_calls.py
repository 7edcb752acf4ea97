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
        # The names of the operations that were called, such as `PutItem`.
        self.calls: list[str] = []
        # The number of calls that failed since `fail` was called.
        self.faults = 0
        self._lock = threading.Lock()
        self._plan: Callable[[str], Fault | None] = _no_fault
        hooks = (
            ("before-call", self._before),
            ("needs-retry", self._needs_retry),
            ("after-call", self._after),
        )
        self._hooks = [
            (c.meta.events, *hook) for c in (world.dynamodb, world.sqs) for hook in hooks
        ]
        for events, name, hook in self._hooks:
            events.register(name, hook)

    def close(self) -> None:
        """Stop recording calls and letting them fail."""
        for events, name, hook in self._hooks:
            events.unregister(name, hook)

    def fail(self, *operations: str, fault: Fault = Fault.REFUSED, at: int | None = None) -> None:
        """Let calls fail from now on, in place of an earlier `fail`.

        :param operations: The names of the operations that fail; without any, all operations fail.
        :param fault: How the calls fail.
        :param at: The number of the only call that fails, counted from 1 over these operations;
            None: all calls fail.
        """
        numbers = itertools.count(1)

        def plan(name: str) -> Fault | None:
            if operations and name not in operations:
                return None
            return fault if at in (None, next(numbers)) else None

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

    def _before(self, model: Any, context: Json, **_: object) -> Any:
        with self._lock:
            self.calls.append(model.name)
            fault = context["fault"] = self._plan(model.name)
            self.faults += fault is not None
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
        return 0.0 if attempts == 1 and request_dict["context"]["fault"] is Fault.REPEATED else None

    def _after(self, context: Json, **_: object) -> None:
        if context["fault"] is Fault.LOST:
            raise ReadTimeoutError(endpoint_url="https://aws.test")


def _no_fault(operation: str) -> Fault | None:
    return None
