"""Subscriptions (REST Hooks): who gets a copy of which events."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from chalicelib.core.event import RESERVED_PREFIX, dumps
from chalicelib.infra.errors import ApiError, StorageUnavailableError
from chalicelib.infra.table import Table, serialize
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import DAY_SECONDS, rfc3339, unix_seconds
from chalicelib.settings import Settings

SUBSCRIPTION_ID = re.compile(r"sub_[0-9a-f]{32}")
MAX_SUBSCRIPTIONS = 100  # of each tenant
MAX_MADE_WITH_TOKENS = 10  # of those
MAX_CACHED_LISTS = 1000
CACHE_SECONDS = 10
PUSHES_SECONDS = 3600  # what all pushes of an event may take, besides the delays between them
HIDDEN = ("target_url", "next_attempt_at", "missed_since")
EventTypes = list[str] | None

SUBSCRIBED = "attribute_exists(event_id)"
ABSENT = "attribute_not_exists(event_id)"
SAME = "sort_key = :sort_key"  # has the time of creation: not a later one with the same id
ENABLED = f"{SAME} AND attribute_not_exists(disabled_at)"
NOT_FAILING = f"{ENABLED} AND attribute_not_exists(failing_since)"
FAILING = f"{ENABLED} AND failing_since = :failing_since"
FAILING_LONG = f"{ENABLED} AND failing_since <= :long_ago"

ENABLE: dict[str, Any] = dict.fromkeys(("failing_since", "disabled_at", "next_attempt_at"))


@dataclass(frozen=True)
class Subscription:
    """A target URL, which is a secret except for its host, and the event types that it gets; None stands for all.

    Times are RFC 3339; `Subscriptions.record_failing` and `record_dead_letter` set `failing_since` and `disabled_at`. A
    target that a worker saw hang has `next_attempt_at`: no worker pushes before, and then for a trial alone.
    `missed_since` is stored nowhere: of one that was just enabled, since when it may have missed events.
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
    next_attempt_at: str | None = None
    missed_since: str | None = None

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
        self, client: Any, settings: Settings, *, clock: Callable[[], float], parallel_map: Callable[..., Any]
    ) -> None:
        super().__init__(client, settings.events_table_name, clock=clock)
        self._settings = settings
        self._map = parallel_map
        self._lists = lru_cache(MAX_CACHED_LISTS)(lambda tenant, _period: self.of_tenant(tenant))
        self._candidates = lru_cache(MAX_CACHED_LISTS)(self._read_candidates)

    def create(
        self, created_by: str, target_url: str, event_types: EventTypes, tenant: str | None, name: str | None
    ) -> tuple[Subscription, bool]:
        """Store a subscription; return it, and whether it is new.

        The same key, URL, types and tenant make the same one, which is enabled, and takes a new name. Raises ApiError
        409 if there are MAX_SUBSCRIPTIONS of the tenant, or MAX_MADE_WITH_TOKENS that were made with its tokens.
        Concurrent calls may exceed these limits slightly.
        """
        types = dumps(sorted(set(event_types))) if event_types is not None else None
        text = "\0".join((created_by, tenant or "", target_url, str(types)))
        subscription_id = f"sub_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        described = dumps({"event_types": event_types, "name": name})
        changes = {"event_types": described} if name is not None else {}
        if (seen := self.get(subscription_id)) and (existing := self.enable(seen, **changes)):
            return existing, False
        listed = self.of_tenant(tenant)
        with_tokens = [each for each in listed if each.created_by == created_by == f"tenant:{tenant}"]
        for made, limit in ((listed, MAX_SUBSCRIPTIONS), (with_tokens, MAX_MADE_WITH_TOKENS)):
            if len(made) >= limit:
                raise ApiError(409, "too_many_subscriptions", f"There are {limit} subscriptions; delete one first.")
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
        self._forget()
        return Subscription.from_item(current or item), applied or current == item  # by either of boto3's tries

    def enable(self, seen: Subscription, **changes: str) -> Subscription | None:
        """Enable a subscription that was just read, with other `changes`; return it, or None if it is gone."""
        self._forget()
        changed = {**ENABLE, **changes}
        applied, item = self._update(seen.subscription_id, SUBSCRIBED, changed, None, ReturnValues="ALL_OLD")
        if not applied or item is None:
            return None
        before = Subscription.from_item({**item, **serialize(changes)})
        # If the response of boto3's first try was lost, the second one finds a subscription that is enabled.
        times = (seen.failing_since, seen.disabled_at, before.failing_since, before.disabled_at)
        troubled_since = min(filter(None, times), default=None)
        longest_seconds = self._settings.retry_policy.longest_seconds() + PUSHES_SECONDS
        missed = rfc3339(unix_seconds(troubled_since) - longest_seconds) if troubled_since else None
        return replace(before, **ENABLE, missed_since=missed)

    def delete(self, subscription_id: str) -> None:
        """Delete a subscription, if it exists."""
        self._forget()
        self._call("delete_item", Key=serialize({"event_id": subscription_id}))

    def end(self, subscription: Subscription) -> bool:
        """Delete this subscription, whose target asked for it, not one made anew since; return whether it is gone."""
        self._forget()
        applied, current = self._delete(subscription.subscription_id, SAME, {":sort_key": subscription.sort_key})
        if applied:
            logger.warning("subscription ended by its target", extra={"subscription_id": subscription.subscription_id})
        return applied or current is None

    def record_delivery(self, subscription: Subscription) -> None:
        """Clear `failing_since` of a subscription, if the recent list that it comes from has it."""
        if subscription.failing_since is not None:
            seen = {":failing_since": subscription.failing_since}
            self._change(subscription, FAILING, {"failing_since": None}, seen)

    def postpone_pushes(self, subscription: Subscription, until: str | None) -> None:
        """Let no worker push to the target, which hangs, before `until` (RFC 3339); None: it no longer hangs."""
        self._change(subscription, SAME, {"next_attempt_at": until})

    def record_failing(self, subscription: Subscription) -> Subscription | None:
        """Set `failing_since` of a subscription, unless it is set; return the subscription if this call set it."""
        return self._change(subscription, NOT_FAILING, {"failing_since": self._after(0)})

    def record_dead_letter(self, subscription: Subscription) -> Subscription | None:
        """Set `failing_since`, or disable a subscription for which that was SUBSCRIPTION_DISABLE_DAYS ago or more.

        Returns the subscription if this call changed it.
        """
        long_ago = {":long_ago": self._after(-self._settings.subscription_disable_days * DAY_SECONDS)}
        failing = self.record_failing(subscription)
        return failing or self._change(subscription, FAILING_LONG, {"disabled_at": self._after(0)}, long_ago)

    def of_tenant(self, tenant: str | None) -> tuple[Subscription, ...]:
        """Return the subscriptions of a tenant, or those without one, the oldest first."""
        pages = self.pages(_partition(tenant))
        return tuple(Subscription.from_item(row) for page in pages for row in page["Items"])

    def matching(self, event_type: str, tenant: str | None) -> list[Subscription]:
        """Return the subscriptions that get a copy, from recent lists: the tenant's, and those without one."""
        candidates = self._candidates(tenant, self._period())
        return [subscription for subscription in candidates if subscription.matches(event_type)]

    def read_again(self, subscriptions: Iterable[Subscription]) -> list[Subscription]:
        """Return those that exist, each that a list shows as disabled as a consistent read shows it."""
        disabled = [each.subscription_id for each in subscriptions if each.disabled_at]
        current = {each.subscription_id: each for each in map(Subscription.from_item, self._get_many(disabled))}
        found = (current.get(each.subscription_id) if each.disabled_at else each for each in subscriptions)
        return [each for each in found if each]

    def get(self, subscription_id: str, tenant: str | None = None) -> Subscription | None:
        """Return a subscription, read consistently, or None; with `tenant`, only if it is that tenant's."""
        item = self._get(subscription_id)
        subscription = Subscription.from_item(item) if item else None
        return subscription if subscription and tenant in (None, subscription.tenant) else None

    def find(self, subscription_id: str, tenant: str | None) -> Subscription | None:
        """Return the subscription that an event of a tenant was copied for, or None if it is gone.

        It comes from recent lists, or else, and if they show it as disabled, from a consistent read.
        """
        candidates = self._candidates(tenant, self._period())
        found = (each for each in candidates if each.subscription_id == subscription_id and not each.disabled_at)
        return next(found, None) or self.get(subscription_id)

    def _read_candidates(self, tenant: str | None, period: float) -> list[Subscription]:
        lists = self._map(lambda each: self._lists(each, period), list(dict.fromkeys((None, tenant))))
        found = [subscription for listed in lists for subscription in listed]
        return [each for each in found if self._settings.subscription_hosts.allows(each.target_url)]

    def _period(self) -> float:
        return self._clock() // CACHE_SECONDS

    def _forget(self) -> None:
        self._lists.cache_clear()
        self._candidates.cache_clear()

    def _change(
        self, subscription: Subscription, condition: str, changes: Mapping[str, str | None], values: Any = None
    ) -> Subscription | None:
        """Change this subscription, not one that was made anew since; return it if this call changed it.

        If DynamoDB fails, nothing is changed: what is told of an attempt must not cost its record or message.
        """
        seen = {":sort_key": subscription.sort_key, **(values or {})}
        try:
            applied, item = self._update(subscription.subscription_id, condition, changes, seen, ReturnValues="ALL_NEW")
        except StorageUnavailableError:
            return None
        # If the response of boto3's first try was lost, the second one finds its own times.
        if item is None or not (applied or serialize(changes).items() <= item.items()):
            return None
        self._forget()  # so that this container sees it at once
        return Subscription.from_item(item)


def _partition(tenant: str | None) -> str:
    return "subscription" if tenant is None else f"subscription#{tenant}"
