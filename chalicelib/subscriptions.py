"""Subscriptions (REST Hooks): who gets a copy of which events."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from chalicelib.errors import ApiError, FieldFault, InvalidRequestError
from chalicelib.events import EVENT_TYPE, compact
from chalicelib.store import Table, serialize
from chalicelib.targets import AllowedHosts
from chalicelib.telemetry import logger
from chalicelib.validation import parse_object

SUBSCRIPTION_ID = re.compile(r"sub_[0-9a-f]{32}")
PARTITION = "subscription"
MAX_SUBSCRIPTIONS = 100
MAX_EVENT_TYPES = 50  # one page of a query, 1 MB, holds all subscriptions
MAX_URL_LENGTH = 2048
CACHE_SECONDS = 10
EventTypes = tuple[str, ...] | None


@dataclass(frozen=True)
class Subscription:
    """A target URL, which is a secret but for its host, and the event types that it gets; None stands for all."""

    subscription_id: str
    target_url: str
    event_types: EventTypes
    created_at: str
    created_by: str

    @classmethod
    def from_item(cls, item: Mapping[str, Mapping[str, str]]) -> "Subscription":
        types = item.get("event_types")
        return cls(
            item["event_id"]["S"],
            item["target_url"]["S"],
            tuple(json.loads(types["S"])) if types else None,
            item["sort_key"]["S"].split("#")[0],
            item["created_by"]["S"],
        )

    @property
    def sort_key(self) -> str:
        """The sort key of the index: creation time, then id. It tells a subscription from one made anew."""
        return f"{self.created_at}#{self.subscription_id}"

    def matches(self, event_type: str) -> bool:
        """Return whether the subscription gets events of this type; an entry may be a prefix followed by `*`."""
        return self.event_types is None or any(
            event_type.startswith(entry[:-1]) if entry.endswith("*") else event_type == entry
            for entry in self.event_types
        )

    def to_json(self) -> str:
        """Return the subscription as callers see it."""
        members = {
            "subscription_id": self.subscription_id,
            "target_host": urlsplit(self.target_url).hostname,
            "event_types": self.event_types,
            "created_at": self.created_at,
            "created_by": self.created_by,
        }
        return compact(members)


class Subscriptions(Table):
    """The subscriptions of a stage, in the table of events. `hosts` are those that targets may be on."""

    def __init__(self, client: Any, name: str, *, hosts: AllowedHosts, clock: Callable[[], float]) -> None:
        super().__init__(client, name, clock=clock)
        self._hosts = hosts
        self._cached: tuple[Subscription, ...] = ()
        self._cached_until = 0.0

    def create(self, target_url: str, event_types: EventTypes, created_by: str) -> tuple[Subscription, bool]:
        """Store a subscription; return it, and whether it is new: the same key, URL and types make the same one.

        Raises ApiError 409 if there are MAX_SUBSCRIPTIONS already. Concurrent calls may exceed that limit slightly.
        """
        types = compact(sorted(set(event_types))) if event_types is not None else None
        digest = hashlib.sha256(f"{created_by}\0{target_url}\0{types}".encode()).hexdigest()
        subscription_id = f"sub_{digest[:32]}"
        if existing := self._get(subscription_id):  # a put alone would count an existing one against the limit
            return Subscription.from_item(existing), False
        if len(self.all()) >= MAX_SUBSCRIPTIONS:
            raise ApiError(409, f"There are {MAX_SUBSCRIPTIONS} subscriptions; delete one first.")
        item = serialize(
            {
                "event_id": subscription_id,
                "status_shard": PARTITION,
                "sort_key": f"{self._after(0)}#{subscription_id}",
                "target_url": target_url,
                "event_types": compact(event_types) if event_types is not None else None,
                "created_by": created_by,
            }
        )
        applied, current = self._write("put_item", "attribute_not_exists(event_id)", {}, Item=item)
        self._cached_until = 0.0
        return Subscription.from_item(current or item), applied

    def delete(self, subscription_id: str) -> None:
        """Delete a subscription, if it exists."""
        self._cached_until = 0.0
        self._call("delete_item", Key=serialize({"event_id": subscription_id}))

    def end(self, subscription: Subscription) -> bool:
        """Delete this subscription, whose target asked for it, not one made anew since; return whether it is gone."""
        self._cached_until = 0.0
        key = serialize({"event_id": subscription.subscription_id})
        seen = {":sort_key": subscription.sort_key}
        applied, current = self._write("delete_item", "sort_key = :sort_key", seen, Key=key)
        if applied:
            logger.warning("subscription ended by its target", extra={"subscription_id": subscription.subscription_id})
        return applied or current is None

    def all(self) -> tuple[Subscription, ...]:
        """Return all subscriptions, the oldest first."""
        return tuple(Subscription.from_item(row) for page in self.pages(PARTITION, {}) for row in page["Items"])

    def matching(self, event_type: str) -> list[Subscription]:
        """Return the subscriptions that get events of this type, from a list that is at most CACHE_SECONDS old.

        Those whose host is no longer allowed are left out.
        """
        matching = [subscription for subscription in self._recent() if subscription.matches(event_type)]
        return [subscription for subscription in matching if not self.fault(subscription)]

    def fault(self, subscription: Subscription) -> str | None:
        """Return why nothing may be pushed to a subscription any more, or None."""
        return self._hosts.fault(subscription.target_url)

    def find(self, subscription_id: str) -> Subscription | None:
        """Return a subscription, from the recent list or else read consistently, or None if it is gone."""
        recent = {subscription.subscription_id: subscription for subscription in self._recent()}
        if subscription_id in recent:
            return recent[subscription_id]
        item = self._get(subscription_id)
        return Subscription.from_item(item) if item else None

    def _recent(self) -> tuple[Subscription, ...]:
        now = self._clock()
        if now >= self._cached_until:
            self._cached = self.all()
            self._cached_until = now + CACHE_SECONDS
        return self._cached


def parse_subscription(body: bytes, hosts: AllowedHosts) -> tuple[str, EventTypes]:
    """Return target URL and event types of the body of POST /subscriptions; raise InvalidRequestError."""
    document, _, errors = parse_object(body, ("target_url", "event_types"))
    target_url, event_types = document.get("target_url"), document.get("event_types")
    if target_url is None:
        errors.append(FieldFault("target_url", "is required"))
    elif not isinstance(target_url, str) or len(target_url) > MAX_URL_LENGTH:
        errors.append(FieldFault("target_url", f"must be a URL of at most {MAX_URL_LENGTH} characters"))
    elif fault := hosts.fault(target_url):
        errors.append(FieldFault("target_url", fault))
    if event_types is not None and not _are_event_types(event_types):
        expected = f"must be a list of 1 to {MAX_EVENT_TYPES} event types or prefixes followed by *"
        errors.append(FieldFault("event_types", expected))
    if errors:
        raise InvalidRequestError(*errors)
    return document["target_url"], tuple(event_types) if event_types is not None else None


def _are_event_types(value: Any) -> bool:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_EVENT_TYPES:
        return False
    return all(
        isinstance(entry, str) and (entry == "*" or EVENT_TYPE.fullmatch(entry.removesuffix("*"))) for entry in value
    )
