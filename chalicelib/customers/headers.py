"""Headers that a subscription adds to the pushes to its target. Their values are secrets."""

import re
from typing import Any

MAX_HEADERS = 5
RESERVED = (  # those that a push has by itself, and those for the next hop alone
    "content-type|user-agent|webhook-(id|timestamp|signature)|host|connection|content-length|transfer-encoding|expect"
    "|upgrade|te|trailer|cookie|proxy-.*"
)
NAME = re.compile(rf"(?!(?i:{RESERVED})$)[\w!#$%&'*+.^`|~-]{{1,64}}", re.ASCII)  # a token: RFC 9110, section 5.6.2
VALUE = re.compile(r"[ -~]{1,1024}")


def headers_fault(headers: Any) -> str | None:
    """Return what is wrong with the headers of a subscription, after the name of the header, or None."""
    if not isinstance(headers, dict) or len(headers) > MAX_HEADERS:
        return f"must be an object of at most {MAX_HEADERS} names and values"
    lowered = [name.lower() for name in headers]
    for name, value in headers.items():
        if not NAME.fullmatch(name) or lowered.count(name.lower()) > 1:
            shown = name.partition(":")[0][:64]  # not the value, if a name is `Authorization: Bearer ...`
            return f"{shown} must be a token of 1 to 64 characters, given once, and not reserved"
        if not isinstance(value, str) or not VALUE.fullmatch(value):
            return f"{name} must have 1 to 1,024 printable ASCII characters"
    return None
