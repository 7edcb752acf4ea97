import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chalicelib.errors import InvalidRequestError
from chalicelib.validation import LeaseRequest, parse_lease_request, parse_new_event

NUMBERS = st.integers() | st.integers(-(10**99), 10**99) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)
RELAXED = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


def post(payload: str = "{}", event_type: str = '"t"', **others: str) -> bytes:
    """Return a body of members that are JSON texts already."""
    members = {"event_type": event_type, "payload": payload, **others}
    return ("{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}").encode()


@RELAXED
@given(payload=OBJECTS, metadata=st.none() | OBJECTS, ascii_only=st.booleans())
@example(payload={"": -0.0, "big": 10**4300 - 1, "z": [], "a": "\u2028\0😀"}, metadata={}, ascii_only=True)
def test_payload_and_metadata_are_kept_as_they_were_sent(payload: Any, metadata: Any, ascii_only: bool) -> None:
    body = {"event_type": "order.created", "payload": payload, "metadata": metadata}
    new = parse_new_event(json.dumps(body, ensure_ascii=ascii_only, indent=1).encode())
    # repr shows the order of members, 1 and true and 1.0, and the last bit of a double.
    assert repr(json.loads(new.payload)) == repr(payload)
    assert repr(json.loads(new.metadata)) == repr(metadata)
    assert new.size >= len(new.payload.encode()) + len(new.metadata.encode())


def test_the_stored_text_is_compact_and_unescaped() -> None:
    new = parse_new_event(b'\n{ "payload" : {"b": "\\u00e9\\ud83d\\ude00", "a": [1, 2.50]}, "event_type": "t" }\r\n')
    assert (new.payload, new.metadata) == ('{"b":"é😀","a":[1,2.5]}', "null")


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(element, chance) for element in value]
    if not isinstance(value, dict):
        return value
    return {name: shuffled(value[name], chance) for name in chance.sample(sorted(value), len(value))}


@RELAXED
@given(payload=OBJECTS, chance=st.randoms(use_true_random=False), ascii_only=st.booleans())
def test_spacing_order_and_escapes_do_not_change_the_hash(
    payload: Any, chance: random.Random, ascii_only: bool
) -> None:
    body = {"event_type": "t", "payload": payload, "metadata": {"b": 1, "a": 2}}
    one = parse_new_event(json.dumps(body).encode())
    other = parse_new_event(json.dumps(shuffled(body, chance), indent=2, ensure_ascii=ascii_only).encode())
    assert one.body_hash == other.body_hash


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", LeaseRequest(10, 300, None)),
        (b" {} ", LeaseRequest(10, 300, None)),
        (b'{"limit": 100, "lease_seconds": 3600, "event_type": "a"}', LeaseRequest(100, 3600, "a")),
        (b'{"limit": 0, "lease_seconds": 3601, "event_type": "a b"}', ["limit", "lease_seconds", "event_type"]),
        (b'{"limit": true, "lease_seconds": 1.0, "colour": 1}', ["colour", "limit", "lease_seconds"]),
        (b'{"limit": "5"}', ["limit"]),
        (b"[]", ["body"]),
        (b"{", ["body"]),
    ],
)
def test_a_lease_request_has_defaults_and_limits(body: bytes, expected: LeaseRequest | list[str]) -> None:
    if isinstance(expected, LeaseRequest):
        assert parse_lease_request(body) == expected
    else:
        with pytest.raises(InvalidRequestError) as raised:
            parse_lease_request(body)
        assert [fault.field for fault in raised.value.errors] == expected
