"""One subscription: whose copies of which events go where, signed with which secret."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from chalicelib.core.event import RESERVED_PREFIX, dumps

MAX_HEADERS = 5
RESERVED = (  # those that a push has by itself, and those for the next hop alone
    "content-type|user-agent|webhook-(id|timestamp|signature)|host|connection|content-length|transfer-encoding|expect"
    "|upgrade|te|trailer|cookie|proxy-.*"
)
# a token: RFC 9110, section 5.6.2
NAME = re.compile(rf"(?!(?i:{RESERVED})$)[\w!#$%&'*+.^`|~-]{{1,64}}", re.ASCII)
VALUE = re.compile(r"[ -~]{1,1024}")


def headers_fault(headers: Any) -> str | None:
    """Return what is wrong with the headers of a subscription, after the name of the header, or
    None.
    """
    if not isinstance(headers, dict) or len(headers) > MAX_HEADERS:
        return f"must be an object of at most {MAX_HEADERS} names and values"
    lowered = [name.lower() for name in headers]
    for name, value in headers.items():
        if not NAME.fullmatch(name) or lowered.count(name.lower()) > 1:
            # not the value, if a name is `Authorization: Bearer ...`
            shown = name.partition(":")[0][:64]
            return f"{shown} must be a token of 1 to 64 characters, given once, and not reserved"
        if not isinstance(value, str) or not VALUE.fullmatch(value):
            return f"{name} must have 1 to 1,024 printable ASCII characters"
    return None


SUBSCRIPTION_ID = re.compile(r"sub_[0-9a-f]{32}")
EventTypes = list[str] | None

# The attribute that has all that its owner describes but the URL: an index projects 20 attributes,
# and this one.
DESCRIPTION, DESCRIBED = "event_types", ("event_types", "name", "filter", "headers")
SHOWN = (
    "event_types",
    "tenant",
    "created_at",
    "created_by",
    "failing_since",
    "disabled_at",
    "last_error",
)
ENABLE: dict[str, Any] = dict.fromkeys(("failing_since", "disabled_at", "last_error"))


@dataclass(frozen=True)
class Subscription:
    """A target URL, which is a secret except for its host, and which events it gets: None stands
    for all.

    Times are RFC 3339; `Subscriptions.set_failing` and `disable` set `failing_since`, `disabled_at`
    and `last_error`. The values of `headers` are secrets. `described` is the text of what is in
    DESCRIPTION, as it was read.
    """

    subscription_id: str
    target_url: str = field(repr=False)
    event_types: EventTypes
    name: str | None
    filter: dict[str, Any] | None
    headers: dict[str, str] | None = field(repr=False)
    tenant: str | None
    created_at: str
    created_by: str
    failing_since: str | None
    disabled_at: str | None
    last_error: str | None
    described: str = field(repr=False)

    @classmethod
    def from_item(cls, item: Mapping[str, Mapping[str, Any]]) -> "Subscription":
        values: dict[str, Any] = {name: value["S"] for name, value in item.items()}
        values["created_at"], values["subscription_id"] = values["sort_key"].split("#")
        values |= {"described": values[DESCRIPTION], **json.loads(values[DESCRIPTION])}
        known: Any = {row.name: values.get(row.name) for row in fields(cls)}
        return cls(**known)

    @property
    def sort_key(self) -> str:
        return f"{self.created_at}#{self.subscription_id}"

    @property
    def state(self) -> str:
        """`disabled`, `failing` or `active`."""
        return "disabled" if self.disabled_at else "failing" if self.failing_since else "active"

    def description(self) -> str:
        """Return the text to be stored in DESCRIPTION."""
        return dumps({name: getattr(self, name) for name in DESCRIBED})

    def matches(self, event_type: str) -> bool:
        """Return whether the subscription gets events of this type; an entry may be a prefix
        followed by `*`.

        A report goes to those that name it by an entry that begins with RESERVED_PREFIX.
        """
        entries = ["*"] if self.event_types is None else self.event_types
        if event_type.startswith(RESERVED_PREFIX):
            entries = [entry for entry in entries if entry.startswith(RESERVED_PREFIX)]
        prefixes = tuple(entry[:-1] for entry in entries if entry.endswith("*"))
        return event_type in entries or event_type.startswith(prefixes)

    def secrets(self, signing_secrets: Iterable[bytes]) -> tuple[bytes, ...]:
        """Return the secrets that its copies are signed with, one derived from each signing
        secret.
        """
        text = f"{self.subscription_id}.{self.created_at}".encode()
        return tuple(hmac.digest(secret, text, hashlib.sha256) for secret in signing_secrets)

    def secret(self, signing_secrets: Iterable[bytes]) -> str | None:
        """Return the secret that its owner is shown: that of the first signing secret; None without
        one.
        """
        encoded = [
            "whsec_" + base64.b64encode(secret).decode() for secret in self.secrets(signing_secrets)
        ]
        return encoded[0] if encoded else None

    def to_json(self, **more: Any) -> str:
        """Return the subscription as callers see it, with `more` members."""
        first = {"subscription_id": self.subscription_id, "name": self.name}
        first |= {"target_host": urlsplit(self.target_url).hostname}
        shown = {"filter": self.filter, "header_names": list(self.headers or {})}
        return dumps({**first, **shown, **{name: getattr(self, name) for name in SHOWN}, **more})
