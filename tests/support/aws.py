"""A hand on every call that a world's system makes to AWS: see them, and let some fail."""

import itertools
import threading
from collections.abc import Callable
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from tests.support.world import World


class Fault(StrEnum):
    REFUSED = "AWS answers with an error"
    UNREACHED = "AWS is not reached"
    LOST = "the call took effect, and no answer came"
    REPEATED = "the first answer is lost, and boto3 sends the call again"


class Aws:
    """Every call of the system by its operation; `fail` says which of the next ones do not go well."""

    def __init__(self, world: World) -> None:
        self.calls: list[str] = []
        self.faults = 0
        self._lock = threading.Lock()
        self._plan: Callable[[str], Fault | None] = _all_well
        hooks = (("before-call", self._before), ("needs-retry", self._needs_retry), ("after-call", self._after))
        self._hooks = [(c.meta.events, *hook) for c in (world.dynamodb, world.sqs) for hook in hooks]
        for events, name, hook in self._hooks:
            events.register(name, hook)

    def let_go(self) -> None:
        for events, name, hook in self._hooks:
            events.unregister(name, hook)

    def fail(self, fault: Fault, *operations: str, at: int | None = None) -> None:
        """Let every call fail, or those of `operations`, or of the next ones of these only number `at` (from 1)."""
        numbers = itertools.count(1)

        def plan(name: str) -> Fault | None:
            if operations and name not in operations:
                return None
            return fault if at in (None, next(numbers)) else None

        self.faults, self._plan = 0, plan

    def heal(self) -> None:
        self._plan = _all_well

    def during(self, act: Callable[[], object]) -> list[str]:
        """Return the calls that `act` causes."""
        start = len(self.calls)
        act()
        return self.calls[start:]

    def _before(self, model: Any, context: dict[str, Any], **_: object) -> Any:
        with self._lock:
            self.calls.append(model.name)
            fault = context["fault"] = self._plan(model.name)
            self.faults += fault is not None
        if fault is Fault.REFUSED:
            error = {"Code": "InternalServerError", "Message": "made up by a test"}
            return SimpleNamespace(status_code=500), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 500}}
        if fault is Fault.UNREACHED:
            raise EndpointConnectionError(endpoint_url="https://aws.test")
        return None

    def _needs_retry(self, request_dict: dict[str, Any], attempts: int, **_: object) -> float | None:
        return 0.0 if attempts == 1 and request_dict["context"]["fault"] is Fault.REPEATED else None

    def _after(self, context: dict[str, Any], **_: object) -> None:
        if context["fault"] is Fault.LOST:
            raise ReadTimeoutError(endpoint_url="https://aws.test")


def _all_well(operation: str) -> Fault | None:
    return None
