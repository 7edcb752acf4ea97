import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chalicelib.errors import BodyTooLargeError, InvalidRequestError
from chalicelib.validation import parse_new_event

MOST = 256 * 1024

NUMBERS = st.integers() | st.integers(-(10**99), 10**99) | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), JSON, max_size=3)
on_a_busy_machine_too = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])


def post(payload: str = "{}", event_type: str = '"t"', **others: str) -> bytes:
    """Return a body of members that are JSON texts already."""
    members = {"event_type": event_type, "payload": payload, **others}
    return ("{" + ",".join(f'"{name}":{text}' for name, text in members.items()) + "}").encode()


def faults(body: bytes) -> dict[str, str]:
    with pytest.raises(InvalidRequestError) as refused:
        parse_new_event(body)
    return {fault.field: fault.message for fault in refused.value.faults}


@on_a_busy_machine_too
@given(payload=OBJECTS, metadata=st.none() | OBJECTS, ascii_only=st.booleans())
@example(payload={"": -0.0, "big": 10**4300 - 1, "z": [], "a": "\u2028\0😀"}, metadata={}, ascii_only=True)
def test_payload_and_metadata_come_back_as_they_were_sent(payload: Any, metadata: Any, ascii_only: bool) -> None:
    body = {"event_type": "order.created", "payload": payload, "metadata": metadata}
    new = parse_new_event(json.dumps(body, ensure_ascii=ascii_only, indent=1).encode())
    # repr: order of members, 1 and true and 1.0, and the last bit of a double all tell.
    assert repr(json.loads(new.payload)) == repr(payload)
    assert repr(json.loads(new.metadata)) == repr(metadata)
    assert new.size >= len(new.payload.encode()) + len(new.metadata.encode())


def test_what_is_stored_is_compact_and_unescaped() -> None:
    new = parse_new_event(b'\n{ "payload" : {"b": "\\u00e9\\ud83d\\ude00", "a": [1, 2.50]}, "event_type": "t" }\r\n')
    assert (new.payload, new.metadata) == ('{"b":"é😀","a":[1,2.5]}', "null")


@pytest.mark.parametrize("event_type", ["a", "Z9._-:/", "order.created", "x" * 128])
def test_an_event_type_may_be_1_to_128_of_its_characters(event_type: str) -> None:
    assert parse_new_event(post(event_type=json.dumps(event_type))).event_type == event_type


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        *((post(event_type=json.dumps(bad)), ["event_type"]) for bad in ("", "a b", "a\n", "é", "a+b", "x" * 129)),
        *((post(event_type=bad), ["event_type"]) for bad in ("1", "null", "true", '["t"]')),
        *((post(payload=bad), ["payload"]) for bad in ("null", "[]", '"{}"', "1", "false")),
        *((post(metadata=bad), ["metadata"]) for bad in ("[]", '""', "0", "false")),
        (b'{"event_type":"t"}', ["payload"]),
        (b'{"payload":{}}', ["event_type"]),
        (b"{}", ["event_type", "payload"]),
        (post(**{"x" * 5000: "1"}), ["x" * 128]),  # a name is cut
        (post(id="1", Payload="{}", event_id="2"), ["Payload", "event_id", "id"]),
        (
            post(event_type='""', payload="[]", metadata="1", b="1", a="2"),
            ["event_type", "payload", "metadata", "a", "b"],
        ),
        *((body, ["body"]) for body in (b"[]", b"null", b"1", b'"t"', b"true")),
    ],
)
def test_every_fault_found_is_named(body: bytes, fields: list[str]) -> None:
    assert list(faults(body)) == fields


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (post() + b"x", "must be JSON"),
        (b"{'event_type':'t','payload':{}}", "must be JSON"),
        (b"\xef\xbb\xbf" + post(), "must be JSON"),  # a byte order mark
        (post().decode().encode("utf-16-le"), "must be JSON"),
        (post().decode().encode("utf-16"), "must be UTF-8"),
        (post().decode().encode("utf-32-be"), "must be JSON"),
        (post('{"a":"é"}').decode().encode("latin-1"), "must be UTF-8"),
        (post().replace(b'"t"', b'"\xed\xa0\x80"'), "must be UTF-8"),  # a surrogate in bytes
        *((post(f'{{"a":{bad}}}'), "finite numbers") for bad in ("NaN", "Infinity", "-Infinity", "1e400", "-1e400")),
        (post(metadata='{"a":[[1e999]]}'), "finite numbers"),
        (post('{"a":"\\ud800"}'), "lone surrogates"),
        (post('{"a":["x\\udfffy"]}'), "lone surrogates"),
        (post('{"\\ud800":1}'), "lone surrogates"),
        (post(metadata='{"a":{"\\udc00\\ud800":1}}'), "lone surrogates"),
        (post(event_type='"\\ud800"'), "lone surrogates"),
        (post(**{"\\ud800": "1"}), "lone surrogates"),
        (post('{"a":' + "1" * 5000 + "}"), "4,300 digits"),
        (post('{"a":-' + "1" * 4301 + "}"), "4,300 digits"),
        (DEEP.encode(), "deeper than 100"),
        (DEEP[:100_000].encode(), "deeper than 100"),
        (post(f'{{"a":{DEEP}}}'), "deeper than 100"),
        (b'{"a":' * 40_000, "deeper than 100"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_what_cannot_be_json_here_is_refused_and_said_why(body: bytes, message: str) -> None:
    assert message in faults(body)["body"]


@pytest.mark.parametrize("member", ["payload", "metadata"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_hundred_levels_are_nested_well_and_one_more_is_not(member: str, opening: str, closing: str) -> None:
    def nested(levels: int) -> bytes:
        below = levels - 2  # the body is the first, the member's object the second
        return post(**{member: '{"a":' + opening * below + "1" + closing * below + "}"})

    parse_new_event(nested(100))
    assert "deeper than 100" in faults(nested(101))["body"]


def padded(length: int) -> bytes:
    return post('{"a":"' + "x" * (length - len(post('{"a":""}'))) + '"}')


@pytest.mark.parametrize("body", [padded(MOST), post() + b" " * (MOST - len(post()))], ids=["text", "spaces"])
def test_a_body_of_256_kib_is_taken(body: bytes) -> None:
    assert len(body) == MOST
    assert parse_new_event(body).event_type == "t"


@pytest.mark.parametrize(
    "body",
    [
        padded(MOST + 1),
        post() + b" " * MOST,  # small as compact JSON, but too large as sent
        post('{"a":[' + ",".join(["1e15"] * 20_000) + "]}"),  # 100 KB as sent, 360 KB as compact JSON
        b"x" * (MOST + 1),  # nobody looks at what it is
    ],
    ids=["one byte more", "spaces", "1e15", "not JSON"],
)
def test_a_body_larger_as_sent_or_as_compact_json_is_refused(body: bytes) -> None:
    with pytest.raises(BodyTooLargeError):
        parse_new_event(body)


def shuffled(value: Any, chance: random.Random) -> Any:
    if isinstance(value, list):
        return [shuffled(each, chance) for each in value]
    if not isinstance(value, dict):
        return value
    return {name: shuffled(value[name], chance) for name in chance.sample(sorted(value), len(value))}


@on_a_busy_machine_too
@given(payload=OBJECTS, chance=st.randoms(use_true_random=False), ascii_only=st.booleans())
def test_spacing_and_order_and_escapes_do_not_change_the_hash(
    payload: Any, chance: random.Random, ascii_only: bool
) -> None:
    body = {"event_type": "t", "payload": payload, "metadata": {"b": 1, "a": 2}}
    one = parse_new_event(json.dumps(body).encode())
    other = parse_new_event(json.dumps(shuffled(body, chance), indent=2, ensure_ascii=ascii_only).encode())
    assert one.body_hash == other.body_hash


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (post('{"a":true}'), post('{"a":1}')),
        (post('{"a":false}'), post('{"a":0}')),
        (post('{"a":null}'), post("{}")),
        (post('{"a":"1"}'), post('{"a":1}')),
        (post('{"a":[1,2]}'), post('{"a":[2,1]}')),
        (post('{"a":[]}'), post('{"a":{}}')),
        (post('{"a":9007199254740993}'), post('{"a":9007199254740992}')),
        (post('{"a":"é"}'), post('{"a":"e\u0301"}')),
        (post('{"a":1}'), post("{}", metadata='{"a":1}')),
        (post(event_type='"t"'), post(event_type='"T"')),
    ],
)
def test_other_json_has_another_hash(one: bytes, other: bytes) -> None:
    assert parse_new_event(one).body_hash != parse_new_event(other).body_hash
