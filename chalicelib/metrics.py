"""CloudWatch metrics in the embedded metric format: a line on standard output, and no call to AWS.

Source: "Specification: Embedded metric format", Amazon CloudWatch User Guide.
"""

import json
from collections.abc import Callable

UNITS = {
    "EventsAccepted": "Count",
    "DeliverySuccess": "Count",
    "DeliveryFailure": "Count",
    "DeliveryRetry": "Count",
    "PushDuration": "Milliseconds",
    "DeliveryLatency": "Milliseconds",
    "DLQDepth": "Count",
    "InboxDepth": "Count",
    "OldestPendingAge": "Seconds",
}


class Metrics:
    """Writes one line for each `emit`, with the dimension Stage."""

    def __init__(self, namespace: str, stage: str, *, clock: Callable[[], float], write: Callable[[str], None]) -> None:
        self._namespace = namespace
        self._stage = stage
        self._clock = clock
        self._write = write

    def emit(self, **values: float) -> None:
        """Publish `values`, each a name of UNITS and a number in its unit."""
        directive = {
            "Namespace": self._namespace,
            "Dimensions": [["Stage"]],
            "Metrics": [{"Name": name, "Unit": UNITS[name]} for name in values],
        }
        line = {
            "_aws": {"Timestamp": int(self._clock() * 1000), "CloudWatchMetrics": [directive]},
            "Stage": self._stage,
            **values,
        }
        self._write(json.dumps(line))
