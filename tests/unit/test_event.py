import json

import pytest

from chalicelib.core.store import from_item
from tests.support.in_memory_aws import typed
from tests.support.world import Json


@pytest.mark.parametrize("name", ["status", "delivered_via", "reason", "outcome"])
def test_a_value_that_a_later_version_stored_reads_as_null(name: str) -> None:
    attempt = {"at": "", "status_code": 503, "error": None, "duration_ms": 1, "outcome": "later"}
    attempt["region"] = "a member of a later version"
    item: Json = {
        "sort_key": "2026-11-25T00:00:00Z#evt_1",
        "event_type": "a",
        "created_by": "b",
        "attempts": json.dumps([attempt]),
        "response_bytes": 4,
        "expires_at": 1,
    }
    known = {"status": "failed", "delivered_via": "push", "reason": "permanent"}

    shown = json.loads(from_item(typed({**item, **known, name: "later"})).full_json())

    assert shown["attempts"][0]["outcome"] is None
    for member in ("status", "delivered_via"):
        assert shown[member] == (None if name == member else known[member])
