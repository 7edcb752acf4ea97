"""One subscription: whose copies of which events go where, signed with which secret."""

import json
import os
import re
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from chalicelib.infra.errors import ApiError, FieldFault, InvalidRequestError
from chalicelib.infra.parsing import RESERVED_PREFIX, Json, dumps, to_base64
from chalicelib.infra.table import HIGHEST, LOWEST
from chalicelib.infra.times import DAY_SECONDS, rfc3339, unix_seconds
from chalicelib.settings import Settings

SUBSCRIPTION_ID = re.compile(r"sub_[0-9a-f]{32}")
EventTypes = list[str] | None

# The attribute that has all that its owner describes but the URL. Its name is that of its first
# member, because an index that projects it cannot be changed.
DESCRIPTION_ATTRIBUTE = "event_types"
DESCRIBED = (
    "event_types",
    "name",
    "filter",
    "headers",
    "body",
    "header_prefix",
    "given",
    "paused",
    "renewals",
    "renewed_at",
    "slow_since",
    "dismissed_until",
)
SHOWN = (
    "subscription_id",
    "name",
    "target_host",
    "filter",
    "header_names",
    "body",
    "header_prefix",
    "dismissed_until",
    "state",
    "event_types",
    "tenant",
    "created_at",
    "created_by",
    "failing_since",
    "slow_since",
    "disabled_at",
    "last_error",
)
STATE = ("failing_since", "disabled_at", "last_error")
ENABLE: Json = dict.fromkeys((*STATE, "paused"))
PREVIOUS_SECONDS = DAY_SECONDS  # how long the secret before a renewal signs, too
RENEWAL_SECONDS = 60  # a secret is renewed once in this time
PAYLOAD = "payload"  # the `body` of pushes that have the payload alone
SVIX = "svix"  # the `header_prefix` of pushes whose receiver picks Svix' headers by name
# Some receivers read an underscore as a hyphen.
SVIX_HEADER = re.compile("(?im)^svix[-_](id|timestamp|signature)$")


@dataclass(frozen=True, repr=False)
class Subscription:
    """A target URL, and which events are pushed there.

    Times are RFC 3339. The members in DESCRIBED are stored together in DESCRIPTION_ATTRIBUTE: the
    index shows that attribute, and a write that changes it finds all of them as they were read.
    Some fields are secrets, so no repr shows any field.
    """

    subscription_id: str
    # Creation time and id: its place in lists.
    sort_key: str
    # A secret, except for its host.
    target_url: str
    # Event types, or prefixes followed by `*`; None: all.
    event_types: EventTypes
    # A name that its owner gave it.
    name: str | None
    # What a payload has to match; None: every payload matches.
    filter: Json | None
    # Additional headers of each push, whose values are secrets.
    headers: Json | None
    # PAYLOAD if a push has the payload alone as its body; None: the whole event.
    body: str | None
    # SVIX if the three `webhook-` headers are sent a second time as `svix-` headers, else None.
    header_prefix: str | None
    # The signing secrets, by the number of their renewal: the present one and the one before.
    given: dict[str, str]
    # Whose events it gets; None: all tenants' events.
    tenant: str | None
    created_at: str
    # The name of the API key that made it.
    created_by: str
    # Since when deliveries fail, until one succeeds.
    failing_since: str | None
    # When it was disabled, by hand or because it failed; None: it is enabled.
    disabled_at: str | None
    # What the latest attempt said when it became failing or disabled.
    last_error: str | None
    # Whether it was disabled by hand.
    paused: bool | None
    # How often the signing secret was renewed; None: never.
    renewals: int | None
    # When the signing secret was renewed for the last time.
    renewed_at: str | None
    # Since when its pushes are slow.
    slow_since: str | None
    # Copies created until then do not count as undelivered: its owner does not want them.
    dismissed_until: str | None
    # The text of DESCRIPTION_ATTRIBUTE as it was read.
    described: str

    @classmethod
    def from_item(cls, item: Json) -> "Subscription":
        values: Any = {name: value["S"] for name, value in item.items()}
        values["created_at"], values["subscription_id"] = values["sort_key"].split("#")
        values["described"] = values[DESCRIPTION_ATTRIBUTE]
        values |= json.loads(values["described"])
        return cls(**{row.name: values.get(row.name) for row in fields(cls)})

    @property
    def target_host(self) -> str | None:
        return urlsplit(self.target_url).hostname

    @property
    def header_names(self) -> list[str]:
        return list(self.headers or {})

    @property
    def state(self) -> str:
        """`paused` (disabled by hand), `disabled`, `failing` or `active`."""
        if self.disabled_at:
            return "paused" if self.paused else "disabled"
        return "failing" if self.failing_since else "active"

    def is_listed(self, state: str) -> bool:
        """Return whether a list of subscriptions in a state has this one.

        The list `disabled` also has paused subscriptions. The list `slow` has subscriptions with
        `slow_since`, whatever their state.
        """
        marks = {"disabled": self.disabled_at, "slow": self.slow_since}
        return bool(marks.get(state, self.state == state))

    @property
    def wanted_after(self) -> str:
        """The sort key after which undelivered copies count, and are recovered: behind all copies
        created at `dismissed_until`.
        """
        return f"{self.dismissed_until or LOWEST}{HIGHEST}"

    def refusal(self, settings: Settings) -> ApiError | None:
        """Return why copies of the subscription are kept as failed and not pushed; None: they are
        pushed.
        """
        if self.tenant in settings.suspended_tenants:
            return ApiError(409, "suspended", "not pushed: the tenant is suspended")
        if self.disabled_at:
            detail = "not pushed: the subscription is disabled"
            return ApiError(409, "subscription_disabled", detail)
        return None

    def recover_refusal(self, settings: Settings) -> ApiError | None:
        """Return why nothing that waits for the subscription can be pushed now: what `refusal`
        returns, or that the host of the target URL is no longer allowed. None: it can be pushed.
        """
        refusal = self.refusal(settings)
        if refusal or settings.subscription_hosts.allows(self.target_url):
            return refusal
        detail = "The host of the target URL is no longer allowed."
        return ApiError(409, "host_not_allowed", detail)

    def description(self) -> str:
        """Return the text to be stored in DESCRIPTION_ATTRIBUTE.

        What a newer version described there stays.
        """
        known = {name: getattr(self, name) for name in DESCRIBED}
        return dumps({**json.loads(self.described), **known})

    def matches(self, event_type: str) -> bool:
        """Return whether the subscription gets events of this type.

        An entry may be a prefix followed by `*`. A report goes to subscriptions that name it by an
        entry that begins with RESERVED_PREFIX.
        """
        entries = self.event_types or ["*"]
        if event_type.startswith(RESERVED_PREFIX):
            entries = [entry for entry in entries if entry.startswith(RESERVED_PREFIX)]
        # Not by fnmatch: it compiles an expression for each entry, two hundred webhooks' in 2 s.
        prefixes = tuple(entry[:-1] for entry in entries if entry.endswith("*"))
        return event_type in entries or event_type.startswith(prefixes)

    def secrets(self, now: float) -> list[str]:
        """Return the secrets that sign pushes at `now` (Unix seconds).

        They are the present secret and, for PREVIOUS_SECONDS after a renewal, the secret before.
        """
        return [*reversed(self.given.values())] if self.previous_until(now) else [self.secret]

    def renewed(self, secret: str | None, now: float) -> Json:
        """Return what changes when the secret is renewed at `now` (Unix seconds), or one is given.

        Within RENEWAL_SECONDS of the last renewal nothing is renewed, because clients repeat calls;
        another secret takes the place of the present one, which was mistyped. The present secret
        changes nothing, either.
        """
        if secret == self.secret:
            return {}
        number = self.renewals or 0
        renewed_at = self.renewed_at or ""
        if renewed_at <= rfc3339(now - RENEWAL_SECONDS):
            number += 1
            renewed_at = rfc3339(now)
        elif secret is None:
            return {}
        previous = f"{number - 1}"
        given = {previous: self.given[previous], f"{number}": secret or new_secret()}
        return {"given": given, "renewals": number, "renewed_at": renewed_at}

    @property
    def secret(self) -> str:
        """The signing secret that the API shows to the owner of the subscription."""
        return self.given[f"{self.renewals or 0}"]

    def previous_until(self, now: float) -> str | None:
        """Return until when the secret before the last renewal also signs pushes (RFC 3339); None:
        it no longer does, or there was no renewal.
        """
        if self.renewed_at is None:
            return None
        until = unix_seconds(self.renewed_at) + PREVIOUS_SECONDS
        return rfc3339(until) if until > now else None

    def to_json(self, **more: Any) -> str:
        """Return the subscription as callers see it, with `more` members."""
        return dumps({name: getattr(self, name) for name in SHOWN} | more)


def check_headers(members: Json) -> None:
    """Raise InvalidRequestError if a subscription with these members had a header twice."""
    names = "\n".join(members.get("headers") or ())
    if members.get("header_prefix") and SVIX_HEADER.search(names):
        fault = "must have none of svix-id, svix-timestamp and svix-signature with header_prefix"
        raise InvalidRequestError(FieldFault("headers", fault))


def show_secret(secret: bytes) -> str:
    """Return a secret as Standard Webhooks writes it."""
    return f"whsec_{to_base64(secret)}"


def new_secret() -> str:
    """Return a random secret."""
    return show_secret(os.urandom(32))
