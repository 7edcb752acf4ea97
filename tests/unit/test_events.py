import json
import re

import pytest

from chalicelib.core.store import from_item
from chalicelib.infra.times import rfc3339, unix_seconds
from tests.support.in_memory_aws import typed
from tests.support.world import Json


def test_times_are_rfc_3339_of_one_width_and_sort_as_time_does() -> None:
    moments = [0.0, 0.000001, 0.999999, 1.0, 1_795_000_000.0, 1_795_000_000.000001, 4_000_000_000.5]

    texts = [rfc3339(moment) for moment in moments]

    assert texts == sorted(texts)
    assert texts[:2] == ["1970-01-01T00:00:00.000000Z", "1970-01-01T00:00:00.000001Z"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text) for text in texts)
    assert [rfc3339(unix_seconds(text)) for text in texts] == texts


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

    shown = json.loads(from_item(typed({**item, **known, name: "later"})).whole())

    assert shown["attempts"][0]["outcome"] is None
    for member in ("status", "delivered_via"):
        assert shown[member] == (None if name == member else known[member])
