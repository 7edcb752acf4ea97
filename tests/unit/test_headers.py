"""Which headers a subscription may have."""

from typing import Any

import pytest
from urllib3.util import SKIP_HEADER

from chalicelib.web.validation import headers_fault

SECRET = "s3cret"
REFUSED = (
    "Content-Type User-Agent webhook-id Webhook-Timestamp WEBHOOK-SIGNATURE Host Connection "
    "Content-Length Transfer-Encoding Expect Upgrade TE te Trailer Cookie "
    "Proxy-Authorization proxy-x Proxy_X Content_Length transfer_encoding Keep-Alive "
    "Content-Encoding HTTP2-Settings Webhook_Id webhook-Event_type"
)


FIVE = {"X-A": "1", "x-b": "2", "!#$%&'*+-.^_`|~09": "3", "Hosts": "4", "Test": "5"}


@pytest.mark.parametrize(
    "headers", [{}, {"Authorization": "Bearer abc"}, FIVE, {"a" * 64: "~" * 1024, "x": "a b"}]
)
def test_headers_are_taken(headers: Any) -> None:
    assert headers_fault(headers) is None


@pytest.mark.parametrize("headers", [[], "a", {f"x-{number}": "1" for number in range(6)}])
def test_anything_but_an_object_of_at_most_five_is_refused(headers: Any) -> None:
    assert "at most 5" in str(headers_fault(headers))


@pytest.mark.parametrize(
    "name", [*REFUSED.split(), "", "a" * 65, "a b", "a:b", "é", "a\n", "Authorization: Bearer"]
)
def test_a_name_that_is_reserved_or_no_token_is_refused_and_named(name: str) -> None:
    fault = headers_fault({"x-fine": "1", name: SECRET})
    assert fault
    assert fault.startswith(name.partition(":")[0][:64])
    assert SECRET not in fault


def test_a_value_in_a_name_is_not_repeated() -> None:
    assert SECRET not in str(headers_fault({f"Authorization: Bearer {SECRET}": ""}))


def test_names_that_are_alike_in_any_case_are_refused() -> None:
    assert str(headers_fault({"X-Key": SECRET, "x-key": SECRET})).startswith("X-Key must")


@pytest.mark.parametrize(
    "value", ["", f"{SECRET}é", f"{SECRET}\r\nx: 1", "a" * 1025, 1, None, SKIP_HEADER]
)
def test_a_value_that_cannot_be_sent_as_it_is_is_refused_and_never_repeated(value: Any) -> None:
    fault = headers_fault({"x-fine": "1", "X-Key": value})
    assert str(fault).startswith("X-Key must")
    assert SECRET not in str(fault)
