"""Subscriptions (REST Hooks): who gets a copy of which events."""

import hashlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from operator import attrgetter
from typing import Any

from chalicelib.core.event import Event, Status, dumps
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import COPY
from chalicelib.customers import filters
from chalicelib.customers.subscription import (
    DESCRIBED,
    DESCRIPTION_ATTRIBUTE,
    ENABLE,
    STATE,
    EventTypes,
    Subscription,
    check_headers,
    new_secret,
)
from chalicelib.infra.errors import (
    ApiError,
    FieldFault,
    InvalidRequestError,
    StorageUnavailableError,
)
from chalicelib.infra.parsing import Json
from chalicelib.infra.table import BY_LOOKUP, HIGHEST, LOWEST, Table, Values, key_of, serialize
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import DAY_SECONDS

MAX_SUBSCRIPTIONS = 100  # of each tenant
CACHED_TENANTS = 32  # a hundred subscriptions with the longest filters take 2.5 MB
CACHE_SECONDS = 10
TELLING_COPIES = 5  # the newest; while one of them was delivered, a subscription is not disabled
DELIVERED = "begins_with(status_shard, :delivered)"
BY_HAND = "disabled by hand"
# The partition of all subscriptions in the index for lookups, and of those without a tenant in the
# index of statuses.
ALL = "subscription"

Identity = tuple[str, str, str]  # who made it, target URL, and types in canonical order
Renewal = Callable[[Subscription], Json]  # returns what changes in one that was just read

EDITED = "The URL was changed meanwhile: repeat the call, if its headers are for the new one."
UNUSED_ID = "attribute_not_exists(event_id)"
SAME = "sort_key = :sort_key"  # has the time of creation: not a later one with the same id
SAME_TARGET = f"{SAME} AND target_url = :target_url"
UNCHANGED = f"{SAME_TARGET} AND event_types = :described"
ENABLED = f"{SAME} AND attribute_not_exists(disabled_at)"
NOT_FAILING = f"{ENABLED} AND attribute_not_exists(failing_since)"
FAILING = f"{ENABLED} AND failing_since = :failing_since"
TARGET_ENABLED = f"{ENABLED} AND {SAME_TARGET}"


class Subscriptions(Table):
    """The subscriptions of a stage, in the table of events."""

    def __init__(self, services: CoreServices) -> None:
        name = services.settings.events_table_name
        super().__init__(services.make_client("dynamodb"), name, clock=services.clock)
        self._services = services
        self._lists = lru_cache(CACHED_TENANTS)(self._allowed)

    def create(
        self,
        created_by: str,
        target_url: str,
        tenant: str | None,
        event_types: EventTypes = None,
        secret: str | None = None,
        **described: Any,
    ) -> tuple[Subscription, bool]:
        """Store a subscription; return it, and whether it is new.

        The same key, URL, types and tenant make the same one, unless it was edited since; it is
        enabled, and takes what is `described`, its name, filter, headers and form of pushes, and a
        `secret` that does not sign yet. Raises ApiError 409 if there are MAX_SUBSCRIPTIONS of the
        tenant; concurrent calls may exceed that slightly. Raises what `check_headers` raises.
        """
        check_headers(described)
        identity = (created_by, target_url, _canonical(event_types))
        listed = self.of_tenant(tenant)
        found = [*listed]  # the index may lag: the latest are found by their ids
        seed = seed_of(created_by, target_url, tenant, event_types)
        while existing := self.get(make_id(seed)):
            found.append(existing)
            seed.append("edited")
        renewal = partial(self._add_secret, secret) if secret else None
        # One that is edited meanwhile is another: what is given for one URL never goes to another.
        for known in found:
            same = self.edit(known, identity, renewal, **described)
            if same:
                return same, False
        if len(listed) >= MAX_SUBSCRIPTIONS:
            detail = f"There are {MAX_SUBSCRIPTIONS} subscriptions; delete one first."
            raise ApiError(409, "too_many_subscriptions", detail)
        description = {**dict.fromkeys(DESCRIBED), "event_types": event_types, **described}
        description["given"] = {"0": secret or new_secret()}
        subscription_id = make_id(seed)
        item = serialize(
            {
                "event_id": subscription_id,
                "status_shard": _partition(tenant),
                "sort_key": f"{self._after(0)}#{subscription_id}",
                "lookup_key": ALL,
                "created_by": created_by,
                "target_url": target_url,
                "tenant": tenant,
                DESCRIPTION_ATTRIBUTE: dumps(description),
            }
        )
        applied, _ = self._write("put_item", UNUSED_ID, Item=item)
        self._lists.cache_clear()
        if applied:
            return Subscription.from_item(item), True
        # Another call stored it meanwhile, or this one, if the response of boto3's first try was
        # lost: now it is found.
        return self.create(created_by, target_url, tenant, event_types, secret, **described)

    def edit(
        self,
        subscription: Subscription,
        identity: Identity | None = None,
        renewal: Renewal | None = None,
        **changes: Any,
    ) -> Subscription | None:
        """Change a subscription that was just read; return it, or None if it is gone.

        If somebody else changed it since, it is changed as it is by then. With an `identity` it is
        made again: only while it has that, and enabled unless it is paused. What headers say is for
        one URL: another `target_url` removes those that are not among the changes, and ApiError 409
        is raised if headers alone are changed, and the URL meanwhile. Raises what `check_headers`
        raises.
        """
        current: Subscription | None = subscription
        has_headers_alone = changes.keys() & {"headers", "target_url"} == {"headers"}
        while current and identity in (None, _identity(current)):
            if has_headers_alone and current.target_url != subscription.target_url:
                raise ApiError(409, "edited_meanwhile", EDITED)
            wanted = changes if identity is None or current.paused else ENABLE | changes
            if renewal:
                wanted = wanted | renewal(current)
            edited = replace(current, **wanted)
            if edited.target_url != current.target_url:
                edited = replace(current, **{"headers": None, "slow_since": None, **wanted})
            check_headers(vars(edited))
            attributes = {
                "target_url": edited.target_url,
                DESCRIPTION_ATTRIBUTE: edited.description(),
                "lookup_key": ALL,  # which some of 0.4 may not have
            }
            attributes |= {name: wanted[name] for name in STATE if name in wanted}
            key = current.subscription_id
            applied, item = self._update(key, UNCHANGED, attributes, _seen(current))
            if applied:
                self._lists.cache_clear()
                return edited
            current = Subscription.from_item(item) if item else None
        return None

    def describe(
        self, subscription: Subscription, secret: str | None = None, **described: Any
    ) -> Subscription | None:
        """Change what is `described` of a subscription, and in the same write its secret, if there
        is one; return it, or None if it is gone.

        Raises what `edit` raises: then nothing has changed.
        """
        renewal = partial(self._renew, secret) if secret else None
        return self.edit(subscription, renewal=renewal, **described)

    def pause(self, subscription: Subscription) -> Subscription | None:
        """Disable a subscription by hand, if it is enabled; return it, or None if it is gone."""
        if subscription.disabled_at:
            return subscription
        return self.edit(subscription, disabled_at=self._after(0), last_error=BY_HAND, paused=True)

    def renew_secret(
        self, subscription: Subscription, secret: str | None = None
    ) -> Subscription | None:
        """Renew the secret of a subscription that was just read, or give it one; return it, or None
        if it is gone.

        Of two calls at once, the later one finds a renewal that has just been made: without a
        secret it changes nothing, and another secret takes the place of that one's.
        """
        return self.edit(subscription, renewal=partial(self._renew, secret))

    def _renew(self, secret: str | None, current: Subscription) -> Json:
        """Return what changes, unless it is the present secret."""
        if secret and secret == current.secret:
            return {}
        return current.renewed(secret, self._clock())

    def _add_secret(self, secret: str, current: Subscription) -> Json:
        """Return what changes, unless it is a secret that signs now."""
        now = self._clock()
        return {} if secret in current.secrets(now) else current.renewed(secret, now)

    def delete(self, subscription_id: str) -> None:
        """Delete a subscription, if it exists."""
        self._write("delete_item", "attribute_exists(event_id)", Key=key_of(subscription_id))
        self._lists.cache_clear()

    def end(self, subscription: Subscription) -> bool:
        """Delete this subscription, whose target asked for it, if it is there as it is known.

        Return whether it was. If DynamoDB fails, it counts as not there: the next attempt tells.
        """
        applied = False
        with suppress(StorageUnavailableError):
            key = key_of(subscription.subscription_id)
            applied, _ = self._write("delete_item", SAME_TARGET, _seen(subscription), Key=key)
        if applied:
            self._lists.cache_clear()
            logger.warning(
                "subscription ended by its target",
                extra={"subscription_id": subscription.subscription_id},
            )
        return applied

    def disable(
        self, subscription: Subscription, error: str | None, condition: str
    ) -> Subscription | None:
        """Disable this subscription; return it if this call did.

        :param condition: TARGET_ENABLED or FAILING.
        """
        changes = {"disabled_at": self._after(0), "last_error": error or subscription.last_error}
        disabled = self._change(subscription, condition, changes)
        _tell(disabled, "disabled")
        return disabled

    def disable_broken(self, subscription: Subscription, error: str | None) -> Subscription | None:
        """Disable a subscription that has been failing for days, unless one of its newest copies
        was delivered; return it if this call did.

        Two events a week apart that are refused do not make it one that is broken.
        """
        days = self._services.settings.subscription_disable_days
        if (subscription.failing_since or HIGHEST) > self._after(-days * DAY_SECONDS):
            return None
        newest = {"IndexName": BY_LOOKUP, "ScanIndexForward": False, "Limit": TELLING_COPIES}
        key = subscription.subscription_id
        values = {":delivered": f"{COPY}{Status.DELIVERED}"}
        delivered = self.pages(key, values, FilterExpression=DELIVERED, **newest)
        with suppress(StorageUnavailableError):  # the next dead letter tells
            if not next(delivered)["Items"]:
                return self.disable(subscription, error, FAILING)
        return None

    def set_failing(self, subscription: Subscription, error: str | None) -> Subscription | None:
        """Set `failing_since` unless it is set; return the subscription if this call set it."""
        changes = {"failing_since": self._after(0), "last_error": error}
        failing = self._change(subscription, NOT_FAILING, changes)
        _tell(failing, "failing")
        return failing

    def clear_failing(self, subscription: Subscription) -> None:
        """Clear `failing_since` if the subscription is known to have it, and has no newer one."""
        if subscription.failing_since is not None:
            self._change(subscription, FAILING, {"failing_since": None, "last_error": None})

    def set_slow(self, subscription: Subscription, slow_since: str | None) -> None:
        """Set or clear `slow_since`, if the subscription is as it was read before the push."""
        marked = replace(subscription, slow_since=slow_since)
        self._change(subscription, UNCHANGED, {DESCRIPTION_ATTRIBUTE: marked.description()})

    def _change(
        self,
        subscription: Subscription,
        condition: str,
        changes: Values,
    ) -> Subscription | None:
        """Change this subscription, not one that was made anew since; return it if changed.

        If DynamoDB fails, nothing is changed: what is told of an attempt must not cost its record
        or message.
        """
        try:
            applied, item = self._update(
                subscription.subscription_id,
                condition,
                changes,
                _seen(subscription),
                ReturnValues="ALL_NEW",
            )
        except StorageUnavailableError:
            return None
        if item is None:
            return None
        # Alarm and report have no second chance: if the response of boto3's first try was lost, the
        # second one finds its own times.
        is_own = serialize(changes).items() <= item.items()
        if not applied and not is_own:
            return None
        self._lists.cache_clear()  # so that this container sees it at once
        return Subscription.from_item(item)

    def of_tenant(self, tenant: str | None) -> tuple[Subscription, ...]:
        """Return the subscriptions of a tenant, or those without one, the oldest first."""
        pages = self.pages(_partition(tenant))
        return tuple(Subscription.from_item(row) for page in pages for row in page["Items"])

    def page(
        self,
        tenant: str | None,
        *,
        state: str | None = None,
        limit: int = 100,
        cursor: str = "",
    ) -> tuple[list[Subscription], str | None]:
        """Return subscriptions, the oldest first, and the sort key to go on from, if any.

        :param tenant: Whose; None: those without a tenant; `*`: all.
        :param limit: How many are read; those in another `state` are left out of them.
        :param cursor: The sort key after which the page begins.
        """
        low = f"{cursor} " if cursor else LOWEST  # a space comes before all that may follow
        if tenant == "*":
            pages = self.pages(ALL, {":low": low}, IndexName=BY_LOOKUP, Limit=limit)
        else:
            pages = self.pages(_partition(tenant), {":low": low}, Limit=limit)
        response = next(pages)
        items = self._get_many([row["event_id"]["S"] for row in response["Items"]])
        found = sorted(map(Subscription.from_item, items), key=attrgetter("sort_key"))
        # a paused one is disabled, too
        states = ("paused", "disabled") if state == "disabled" else (state,)
        shown = [row for row in found if state is None or row.state in states]
        last_key = response.get("LastEvaluatedKey")
        return shown, last_key["sort_key"]["S"] if last_key else None

    def get(self, subscription_id: str) -> Subscription | None:
        """Return a subscription, read consistently, or None."""
        item = self._get(subscription_id)
        return Subscription.from_item(item) if item else None

    def get_many(self, subscription_ids: Iterable[str]) -> dict[str, Subscription]:
        """Return those subscriptions that exist, by id, read consistently."""
        found = map(Subscription.from_item, self._get_many([*subscription_ids]))
        return {subscription.subscription_id: subscription for subscription in found}

    def matching(self, event: Event) -> list[Subscription]:
        """Return the subscriptions that get a copy, by lists that are at most CACHE_SECONDS old.

        They are those of the event's tenant and those without one. Raises InvalidRequestError if
        the payload, which was parsed with fewer calls on the stack, is nested too deep.
        """
        period = self._clock() // CACHE_SECONDS
        keys = dict.fromkeys((None, event.tenant))
        listed = [subscription for key in keys for subscription in self._lists(key, period)]
        typed = [known for known in listed if known.matches(event.event_type)]
        if event.is_report:  # it has no payload of the caller's
            return typed
        try:
            return [
                subscription
                for subscription in typed
                if subscription.filter is None
                or filters.mismatch(subscription.filter, event.payload) is None
            ]
        except RecursionError:
            raise InvalidRequestError(FieldFault("payload", "is nested too deep")) from None

    def _allowed(self, tenant: str | None, _period: float) -> list[Subscription]:
        """Return the subscriptions of a tenant whose hosts are allowed, read once in a period."""
        hosts = self._services.settings.subscription_hosts
        return [known for known in self.of_tenant(tenant) if hosts.allows(known.target_url)]


def _tell(changed: Subscription | None, change: str) -> None:
    """Log that a subscription became failing or disabled, with the metric, if it did."""
    if changed:
        metrics = {f"Subscriptions{change.capitalize()}": 1}
        extra = {"subscription_id": changed.subscription_id, "metrics": metrics}
        logger.warning(f"subscription {change}", extra=extra)


def _seen(subscription: Subscription) -> Values:
    """Return the placeholders of conditions: the subscription as it is known."""
    known = ("sort_key", "target_url", "failing_since", "described")
    return {f":{name}": getattr(subscription, name) for name in known}


def _partition(tenant: str | None) -> str:
    return ALL if tenant is None else f"subscription#{tenant}"


def _identity(subscription: Subscription) -> Identity:
    """Return what makes it the same when it is made again."""
    types = _canonical(subscription.event_types)
    return subscription.created_by, subscription.target_url, types


def _canonical(event_types: EventTypes) -> str:
    return "None" if event_types is None else dumps(sorted(set(event_types)))


def seed_of(
    created_by: str,
    target_url: str,
    tenant: str | None,
    event_types: EventTypes,
) -> list[str]:
    """Return what the id of a subscription is made of, unless one that was edited has that id."""
    return [created_by, tenant or "", target_url, _canonical(event_types)]


def make_id(seed: Iterable[str]) -> str:
    return "sub_" + hashlib.sha256("\0".join(seed).encode()).hexdigest()[:32]
