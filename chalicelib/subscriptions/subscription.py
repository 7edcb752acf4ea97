"""One subscription: its target URL, the events it gets, and the secrets that sign its pushes."""

import json
import os
import re
from dataclasses import dataclass, fields
from typing import Any, TypedDict
from urllib.parse import urlsplit

from chalicelib.infra.errors import ApiError, FieldFault, InvalidRequestError
from chalicelib.infra.parsing import NO_MEMBERS, RESERVED_PREFIX, Json, dumps, to_base64
from chalicelib.infra.table import HIGHEST, LOWEST
from chalicelib.infra.times import DAY_SECONDS, rfc3339, unix_seconds
from chalicelib.settings import Settings

SUBSCRIPTION_ID = re.compile(r"sub_[0-9a-f]{32}")
EventTypes = list[str] | None

# The attribute that stores the fields in DESCRIPTION_FIELDS together, as one JSON object. It has
# the name of the first field, because an index that projects it cannot be changed.
DESCRIPTION_ATTRIBUTE = "event_types"
DESCRIPTION_FIELDS = (
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
# The members of a subscription in answers, in this order.
API_MEMBERS = (
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
# The fields that are attributes of their own, which a write sets or removes.
STATE = ("failing_since", "disabled_at", "last_error")
# The changes that enable a subscription.
ENABLE: Json = dict.fromkeys((*STATE, "paused"))
PAYLOAD = "payload"  # the `body` of pushes that have the payload alone
RENEWAL_SECONDS = 60  # a secret is renewed once in this time
SVIX = "svix"  # the `header_prefix` of pushes whose receiver picks Svix' headers by name


class Description(TypedDict, total=False):
    """The members with which an owner describes a new subscription, besides its URL, tenant and
    event types. Absent members are null.

    The values are as in `Subscription`.
    """

    name: str | None
    filter: Json | None
    headers: Json | None
    body: str | None
    header_prefix: str | None
    # The signing secret as Standard Webhooks writes it; null: a random one.
    secret: str | None


class Edit(Description, total=False):
    """The members that an owner changes in a subscription. Absent members stay as they are."""

    target_url: str
    event_types: EventTypes
    dismissed_until: str | None


@dataclass(frozen=True, repr=False)
class Subscription:
    """A target URL, and which events are pushed there.

    Times are RFC 3339. The fields in DESCRIPTION_FIELDS are stored together in
    DESCRIPTION_ATTRIBUTE: the index shows that attribute, and a write that changes it is made only
    if all of them are as they were read. Some fields are secrets, so no repr shows any field.
    """

    subscription_id: str
    # Creation time and id: its place in lists.
    sort_key: str
    # A secret, except for its host.
    target_url: str
    # Event types, or prefixes followed by `*`; None: all.
    event_types: EventTypes
    # A name that its owner gave it; None: it has none.
    name: str | None
    # The filter that a payload has to match; None: every payload matches.
    filter: Json | None
    # Additional headers of each push, whose values are secrets; None: there are none.
    headers: Json | None
    # PAYLOAD if a push has the payload alone as its body; None: the whole event.
    body: str | None
    # SVIX if the three `webhook-` headers are sent a second time as `svix-` headers, else None.
    header_prefix: str | None
    # The present signing secret and, after a renewal, the previous one, by the number of the
    # renewal that made each; "0" is the secret from the beginning.
    given: dict[str, str]
    # The tenant whose events it gets; None: it gets all tenants' events.
    tenant: str | None
    created_at: str
    # The name of the API key that made it.
    created_by: str
    # Since when deliveries fail; None: they do not.
    failing_since: str | None
    # When it was disabled, by hand or because it failed; None: it is enabled.
    disabled_at: str | None
    # The error of the latest attempt when it became failing or disabled; None: it is active.
    last_error: str | None
    # Whether it was disabled by hand; None: it was not.
    paused: bool | None
    # How often the signing secret was renewed; None: never.
    renewals: int | None
    # When the signing secret was renewed for the last time.
    renewed_at: str | None
    # Since when its pushes are slow; None: they are not.
    slow_since: str | None
    # Copies created until then do not count as undelivered, because its owner dismissed them; None:
    # all copies count.
    dismissed_until: str | None
    # The text of DESCRIPTION_ATTRIBUTE as it was read.
    described: str

    @classmethod
    def from_item(cls, item: Json) -> "Subscription":
        """Return the subscription that an item of the table or of an index stores.

        Fields that the item does not have are None.

        :param item: The attributes in DynamoDB's format, all of them texts: `{"name": {"S": …}}`.
        """
        values: Any = {name: value["S"] for name, value in item.items()}
        # The sort key is `<created_at>#<subscription_id>`.
        values["created_at"], values["subscription_id"] = values["sort_key"].split("#")
        # One attribute has all fields that its owner describes, as a JSON object.
        values["described"] = values[DESCRIPTION_ATTRIBUTE]
        values |= json.loads(values["described"])
        return cls(**{field.name: values.get(field.name) for field in fields(cls)})

    @property
    def target_host(self) -> str | None:
        """The host of the target URL, which is no secret."""
        return urlsplit(self.target_url).hostname

    @property
    def header_names(self) -> list[str]:
        """The names of the additional headers, which are no secrets."""
        return list(self.headers or {})

    @property
    def state(self) -> str:
        """`paused` (disabled by hand), `disabled`, `failing` or `active`."""
        if self.disabled_at:
            return "paused" if self.paused else "disabled"
        return "failing" if self.failing_since else "active"

    def is_listed(self, state: str) -> bool:
        """Return whether a list of the subscriptions in one state has this subscription.

        The list `disabled` also has paused subscriptions. The list `slow` has subscriptions with
        `slow_since`, whatever their state.

        :param state: A value of `Subscription.state`, or `slow`.
        """
        if state == "disabled":
            return self.disabled_at is not None
        if state == "slow":
            return self.slow_since is not None
        return self.state == state

    @property
    def wanted_after(self) -> str:
        """The sort key after which undelivered copies count and are recovered: the owner dismissed
        the copies that were created until `dismissed_until`, inclusive. If none were dismissed, it
        comes before all copies.
        """
        # A sort key is a creation time and an id. HIGHEST comes after every id of that time.
        return f"{self.dismissed_until or LOWEST}{HIGHEST}"

    def refusal(self, settings: Settings) -> ApiError | None:
        """Return the error 409 that says why copies are not pushed to the subscription now: its
        tenant is suspended, or it is disabled. None: copies are pushed.
        """
        if self.tenant in settings.suspended_tenants:
            return ApiError(409, "suspended", "not pushed: the tenant is suspended")
        if self.disabled_at:
            detail = "not pushed: the subscription is disabled"
            return ApiError(409, "subscription_disabled", detail)
        return None

    def recover_refusal(self, settings: Settings) -> ApiError | None:
        """Return the error 409 that says why no copy can be sent to the subscription or recovered
        now: its tenant is suspended, it is disabled, or the host of its target URL is no longer
        allowed. None: copies can be sent.
        """
        refusal = self.refusal(settings)
        if refusal or settings.subscription_hosts.allows(self.target_url):
            return refusal
        detail = "The host of the target URL is no longer allowed."
        return ApiError(409, "host_not_allowed", detail)

    def description(self) -> str:
        """Return the JSON object to store in the attribute DESCRIPTION_ATTRIBUTE: the fields in
        DESCRIPTION_FIELDS, by name.

        Members that this version does not know stay, because a newer version stored them.
        """
        known = {name: getattr(self, name) for name in DESCRIPTION_FIELDS}
        return dumps({**json.loads(self.described), **known})

    def matches(self, event_type: str) -> bool:
        """Return whether an event type is among the subscription's event types.

        An entry of these is a type, or the beginning of types followed by `*`; without entries,
        all types match. But the type of a report, which begins with RESERVED_PREFIX, matches only
        entries that begin with RESERVED_PREFIX, too.
        """
        entries = self.event_types or ["*"]
        if event_type.startswith(RESERVED_PREFIX):
            entries = [entry for entry in entries if entry.startswith(RESERVED_PREFIX)]
        # Not by fnmatch, which compiles an expression for each entry: for two hundred webhooks this
        # takes 2 s.
        prefixes = tuple(entry[:-1] for entry in entries if entry.endswith("*"))
        return event_type in entries or event_type.startswith(prefixes)

    def secrets(self, now: float) -> list[str]:
        """Return the secrets that sign pushes at `now` (Unix seconds).

        They are the present secret and, for a day after a renewal, the previous secret.
        """
        if self.previous_until(now):
            return [*reversed(self.given.values())]  # the present one is the last in `given`
        return [self.secret]

    def renewed(self, secret: str | None, now: float) -> Json:
        """Return the fields that a renewal of the signing secret changes, by name; empty: nothing
        changes.

        A renewal keeps the present secret as the previous one. Within RENEWAL_SECONDS of the last
        renewal there is no other one, because clients repeat calls: then a call without a secret
        changes nothing, and a given secret replaces the present one, which was mistyped. The
        present secret, given again, never changes anything.

        :param secret: The new secret; None: a random one.
        :param now: Unix seconds.
        """
        if secret == self.secret:
            return {}
        number = self.renewals or 0  # None: the secret was never renewed
        renewed_at = self.renewed_at or ""
        if renewed_at <= rfc3339(now - RENEWAL_SECONDS):
            number += 1
            renewed_at = rfc3339(now)
        elif secret is None:
            return {}
        # `given` has a secret by the number of the renewal that made it: the previous and the new.
        previous = f"{number - 1}"
        given = {previous: self.given[previous], f"{number}": secret or new_secret()}
        return {"given": given, "renewals": number, "renewed_at": renewed_at}

    @property
    def secret(self) -> str:
        """The signing secret that the API shows to the owner of the subscription."""
        return self.given[f"{self.renewals or 0}"]

    def previous_until(self, now: float) -> str | None:
        """Return the time (RFC 3339) until which the previous secret also signs pushes, a day after
        the renewal; None: it no longer signs pushes, or the secret was never renewed.

        :param now: Unix seconds.
        """
        if self.renewed_at is None:
            return None
        until = unix_seconds(self.renewed_at) + DAY_SECONDS
        return rfc3339(until) if until > now else None

    def to_json(self, members: Json = NO_MEMBERS) -> str:
        """Return the subscription as a JSON object with the members that the API shows.

        :param members: Further members of the object, such as `deliveries`.
        """
        return dumps({name: getattr(self, name) for name in API_MEMBERS} | members)


# Some receivers read an underscore as a hyphen.
SVIX_HEADER = re.compile("(?im)^svix[-_](id|timestamp|signature)$")


def check_headers(headers: Json | None, header_prefix: str | None) -> None:
    """Raise InvalidRequestError if the pushes of a subscription would have a header twice: among
    the additional headers of its owner, and as one of the `svix-` headers.

    :param headers: The additional headers; None: there are none.
    :param header_prefix: `svix` if pushes have the `svix-` headers; None: they do not.
    """
    names = "\n".join(headers or ())  # one name in each line, as SVIX_HEADER expects
    if header_prefix and SVIX_HEADER.search(names):
        fault = "must have none of svix-id, svix-timestamp and svix-signature with header_prefix"
        raise InvalidRequestError(FieldFault("headers", fault))


def show_secret(secret: bytes) -> str:
    """Return a secret as Standard Webhooks writes it: `whsec_` and the bytes in Base64."""
    return f"whsec_{to_base64(secret)}"


def new_secret() -> str:
    """Return a random secret of 32 bytes as `show_secret` writes it."""
    return show_secret(os.urandom(32))
