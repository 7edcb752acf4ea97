"""Subscriptions (REST Hooks): who gets a copy of which events."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from chalicelib.core.event import RESERVED_PREFIX, dumps
from chalicelib.infra.errors import ApiError, StorageUnavailableError
from chalicelib.infra.table import Table, serialize
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import DAY_SECONDS
from chalicelib.settings import Settings

SUBSCRIPTION_ID = re.compile(r"sub_[0-9a-f]{32}")
MAX_SUBSCRIPTIONS = 100  # of each tenant
MAX_CACHED_LISTS = 1000
CACHE_SECONDS = 10
HIDDEN = ("target_url",)
EventTypes = list[str] | None

SUBSCRIBED = "attribute_exists(event_id)"
ABSENT = "attribute_not_exists(event_id)"
SAME = "sort_key = :sort_key"  # has the time of creation: not a later one with the same id
SAME_TARGET = f"{SAME} AND target_url = :target_url"
ENABLED = f"{SAME} AND attribute_not_exists(disabled_at)"
NOT_FAILING = f"{ENABLED} AND attribute_not_exists(failing_since)"
FAILING = f"{ENABLED} AND failing_since = :failing_since"
FAILING_LONG = f"{ENABLED} AND failing_since <= :long_ago"

ENABLE: dict[str, Any] = dict.fromkeys(("failing_since", "disabled_at"))


@dataclass(frozen=True)
class Subscription:
    """A target URL, which is a secret except for its host, and the event types that it gets; None stands for all.

    Times are RFC 3339; `Subscriptions.set_failing` and `disable` set `failing_since` and `disabled_at`.
    """

    subscription_id: str
    target_url: str
    event_types: EventTypes
    tenant: str | None
    name: str | None
    created_at: str
    created_by: str
    failing_since: str | None
    disabled_at: str | None

    @classmethod
    def from_item(cls, item: Mapping[str, Mapping[str, Any]]) -> "Subscription":
        values: dict[str, Any] = {name: value["S"] for name, value in item.items()}
        values["created_at"], values["subscription_id"] = values["sort_key"].split("#")
        values |= json.loads(values["event_types"])  # has the name, too: an index projects 20 attributes at most
        known: Any = {field.name: values.get(field.name) for field in fields(cls)}
        return cls(**known)

    @property
    def sort_key(self) -> str:
        return f"{self.created_at}#{self.subscription_id}"

    def matches(self, event_type: str) -> bool:
        """Return whether the subscription gets events of this type; an entry may be a prefix followed by `*`.

        A report goes to those that name it by an entry that begins with RESERVED_PREFIX.
        """
        entries = ["*"] if self.event_types is None else self.event_types
        if event_type.startswith(RESERVED_PREFIX):
            entries = [entry for entry in entries if entry.startswith(RESERVED_PREFIX)]
        prefixes = tuple(entry[:-1] for entry in entries if entry.endswith("*"))
        return event_type in entries or event_type.startswith(prefixes)

    def secrets(self, signing_secrets: Iterable[bytes]) -> tuple[bytes, ...]:
        """Return the secrets that its copies are signed with, one derived from each signing secret."""
        text = f"{self.subscription_id}.{self.created_at}".encode()
        return tuple(hmac.digest(secret, text, hashlib.sha256) for secret in signing_secrets)

    def to_json(self, **more: Any) -> str:
        """Return the subscription as callers see it, with `more` members."""
        members = {name: value for name, value in vars(self).items() if name not in HIDDEN}
        return dumps({**members, "target_host": urlsplit(self.target_url).hostname, **more})

    def to_json_with_secret(self, signing_secrets: Iterable[bytes], **more: Any) -> str:
        """Return the subscription with its `secret`, None without signing secrets, and `more` members."""
        encoded = ["whsec_" + base64.b64encode(secret).decode() for secret in self.secrets(signing_secrets)]
        return self.to_json(secret=encoded[0] if encoded else None, **more)


class Subscriptions(Table):
    """The subscriptions of a stage, in the table of events."""

    def __init__(
        self, client: Any, settings: Settings, *, clock: Callable[[], float], metrics: Callable[..., dict[str, Any]]
    ) -> None:
        super().__init__(client, settings.events_table_name, clock=clock)
        self._settings = settings
        self._metrics = metrics
        self._lists = lru_cache(MAX_CACHED_LISTS)(self._read_allowed)
        self._period = 0.0

    def create(
        self, created_by: str, target_url: str, event_types: EventTypes, tenant: str | None, name: str | None
    ) -> tuple[Subscription, bool]:
        """Store a subscription; return it, and whether it is new.

        The same key, URL, types and tenant make the same one, which is enabled, and takes a new name. Raises ApiError
        409 if there are MAX_SUBSCRIPTIONS of the tenant; concurrent calls may exceed that slightly.
        """
        types = dumps(sorted(set(event_types))) if event_types is not None else None
        text = "\0".join((created_by, tenant or "", target_url, str(types)))
        subscription_id = f"sub_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        described = dumps({"event_types": event_types, "name": name})
        if existing := self.enable(subscription_id, **({"event_types": described} if name is not None else {})):
            return existing, False
        if len(self.of_tenant(tenant)) >= MAX_SUBSCRIPTIONS:
            detail = f"There are {MAX_SUBSCRIPTIONS} subscriptions; delete one first."
            raise ApiError(409, "too_many_subscriptions", detail)
        item = serialize(
            {
                "event_id": subscription_id,
                "status_shard": _partition(tenant),
                "sort_key": f"{self._after(0)}#{subscription_id}",
                "target_url": target_url,
                "event_types": described,
                "tenant": tenant,
                "created_by": created_by,
            }
        )
        applied, current = self._write("put_item", ABSENT, {}, Item=item)
        self._lists.cache_clear()
        return Subscription.from_item(current or item), applied

    def enable(self, subscription_id: str, **changes: str) -> Subscription | None:
        """Enable a subscription, with other `changes`; return it, or None if there is none."""
        self._lists.cache_clear()
        applied, item = self._update(subscription_id, SUBSCRIBED, {**ENABLE, **changes}, None, ReturnValues="ALL_NEW")
        return Subscription.from_item(item) if applied and item else None

    def delete(self, subscription_id: str) -> None:
        """Delete a subscription, if it exists."""
        self._lists.cache_clear()
        self._call("delete_item", Key=serialize({"event_id": subscription_id}))

    def end(self, subscription: Subscription) -> bool:
        """Delete this subscription, whose target asked for it; return whether it was there as it is known."""
        self._lists.cache_clear()
        applied, _ = self._delete(subscription.subscription_id, SAME_TARGET, _same(subscription))
        if applied:
            logger.warning("subscription ended by its target", extra={"subscription_id": subscription.subscription_id})
        return applied

    def disable(self, subscription: Subscription) -> Subscription | None:
        """Disable this subscription, whose target asked for it; return it, or None if it is not as it is known."""
        return self._disable(subscription, f"{ENABLED} AND {SAME_TARGET}", {})

    def disable_failing(self, subscription: Subscription) -> Subscription | None:
        """Disable a subscription that has been failing for SUBSCRIPTION_DISABLE_DAYS; return it if this call did."""
        long_ago = {":long_ago": self._after(-self._settings.subscription_disable_days * DAY_SECONDS)}
        return self._disable(subscription, FAILING_LONG, long_ago)

    def _disable(self, subscription: Subscription, condition: str, values: Mapping[str, str]) -> Subscription | None:
        disabled = self._change(subscription, condition, {"disabled_at": self._after(0)}, values)
        if disabled:
            extra = {"subscription_id": disabled.subscription_id, **self._metrics(SubscriptionsDisabled=1)}
            logger.warning("subscription disabled", extra=extra)
        return disabled

    def set_failing(self, subscription: Subscription) -> Subscription | None:
        """Set `failing_since` of a subscription, unless it is set; return the subscription if this call set it."""
        return self._change(subscription, NOT_FAILING, {"failing_since": self._after(0)})

    def clear_failing(self, subscription: Subscription) -> None:
        """Clear `failing_since` of a subscription, if it is known to have it, and has no newer one."""
        if subscription.failing_since is not None:
            seen = {":failing_since": subscription.failing_since}
            self._change(subscription, FAILING, {"failing_since": None}, seen)

    def _change(
        self, subscription: Subscription, condition: str, changes: Mapping[str, str | None], values: Any = None
    ) -> Subscription | None:
        """Change this subscription, not one that was made anew since; return it if this call changed it.

        If DynamoDB fails, nothing is changed: what is told of an attempt must not cost its record or message.
        """
        seen = {**_same(subscription), **(values or {})}
        try:
            applied, item = self._update(subscription.subscription_id, condition, changes, seen, ReturnValues="ALL_NEW")
        except StorageUnavailableError:
            return None
        # Alarm and report have no second chance: if the response of boto3's first try was lost, the second one finds
        # its own times.
        if item is None or not (applied or serialize(changes).items() <= item.items()):
            return None
        self._lists.cache_clear()  # so that this container sees it at once
        return Subscription.from_item(item)

    def of_tenant(self, tenant: str | None) -> tuple[Subscription, ...]:
        """Return the subscriptions of a tenant, or those without one, the oldest first."""
        pages = self.pages(_partition(tenant))
        return tuple(Subscription.from_item(row) for page in pages for row in page["Items"])

    def get(self, subscription_id: str) -> Subscription | None:
        """Return a subscription, read consistently, or None."""
        item = self._get(subscription_id)
        return Subscription.from_item(item) if item else None

    def matching(self, event_type: str, tenant: str | None) -> list[Subscription]:
        """Return the subscriptions that get a copy, a tenant's and those without one, from lists of CACHE_SECONDS."""
        if (period := self._clock() // CACHE_SECONDS) != self._period:
            self._lists.cache_clear()
            self._period = period
        listed = [subscription for key in dict.fromkeys((None, tenant)) for subscription in self._lists(key)]
        return [subscription for subscription in listed if subscription.matches(event_type)]

    def _read_allowed(self, tenant: str | None) -> list[Subscription]:
        """Read the subscriptions of a tenant whose hosts are allowed."""
        hosts = self._settings.subscription_hosts
        return [subscription for subscription in self.of_tenant(tenant) if hosts.allows(subscription.target_url)]


def _same(subscription: Subscription) -> dict[str, str]:
    return {":sort_key": subscription.sort_key, ":target_url": subscription.target_url}


def _partition(tenant: str | None) -> str:
    return "subscription" if tenant is None else f"subscription#{tenant}"
