import json
from dataclasses import replace

import pytest

from chalicelib.events import Attempt, Event, Reason, Status
from chalicelib.messages import MalformedMessageError, Message, dead_letter_body, wake_up_body, parse

ID = "evt_0123456789abcdef0123456789abcdef"
FAILED_AT = "2026-11-25T00:00:09.500000Z"
DEAD = replace(
    Event(ID, "order.created", Status.PENDING, FAILED_AT, "acme", expires_at=1, size=1, payload='{"card":"secret"}'),
    delivery_attempts=2,
    attempts=(Attempt("1", "retry", 503, "first", 1), Attempt("2", "failed", 404, "the receiver answered 404", 2)),
    failed_at=FAILED_AT,
    reason=Reason.PERMANENT,
)


def test_a_wake_up_names_the_event_and_nothing_else() -> None:
    assert wake_up_body(ID) == f'{{"event_id":"{ID}"}}'
    assert parse(wake_up_body(ID)) == Message(ID, failed_at=None)


@pytest.mark.parametrize(
    ("event", "code", "error", "reason"),
    [
        (DEAD, 404, "the receiver answered 404", "permanent"),
        (replace(DEAD, attempts=DEAD.attempts[:1], reason=Reason.EXHAUSTED), 503, "first", "exhausted"),
        (replace(DEAD, attempts=(), reason=Reason.EXHAUSTED), None, None, "exhausted"),  # every attempt crashed
    ],
)
def test_a_death_notice_tells_of_the_last_failure(event: Event, code: int, error: str, reason: str) -> None:
    notice = dead_letter_body(event)
    assert list(json.loads(notice).items()) == [
        ("event_id", ID),
        ("reason", reason),
        ("last_status_code", code),
        ("last_error", error),
        ("delivery_attempts", 2),
        ("failed_at", FAILED_AT),
    ]
    assert parse(notice) == Message(ID, FAILED_AT)


def test_an_empty_failed_at_is_still_that_of_a_death_notice() -> None:
    assert parse(f'{{"event_id": "{ID}", "failed_at": ""}}') == Message(ID, failed_at="")


def test_a_message_with_members_of_a_later_version_is_read_all_the_same() -> None:
    assert parse(f' {{"v": 2, "event_id": "{ID}", "failed_at": null}}\n') == Message(ID, failed_at=None)


@pytest.mark.parametrize(
    "body",
    [
        *("", " ", "hello", ID, f'"{ID}"', f'["{ID}"]', "null", "1", "{}", '{"event_id":', "[" * 100_000),
        '{"event_id":' + "1" * 5000 + "}",
        *(json.dumps({"event_id": no_id}) for no_id in ("", "evt_1", ID.upper(), f"{ID}0", f"{ID}\n")),
        *(f'{{"event_id": {no_text}}}' for no_text in ("null", "1", f'["{ID}"]')),
        *(f'{{"event_id": "{ID}", "failed_at": {no_text}}}' for no_text in ("0", "1.5", "true", "[]", "{}")),
    ],
    ids=lambda body: repr(body[:60]),
)
def test_any_other_text_is_malformed(body: str) -> None:
    with pytest.raises(MalformedMessageError):
        parse(body)
