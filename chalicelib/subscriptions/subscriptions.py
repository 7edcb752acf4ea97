"""Subscriptions (REST Hooks): who gets a copy of which events."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from operator import attrgetter
from typing import Any

from chalicelib.core.event import Event, Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import from_item
from chalicelib.infra.errors import (
    ApiError,
    FieldFault,
    InvalidRequestError,
    StorageUnavailableError,
)
from chalicelib.infra.parsing import Json, comparable, dumps, id_digits
from chalicelib.infra.table import (
    BY_LOOKUP,
    BY_STATUS,
    HIGHEST,
    LOWEST,
    NO_VALUES,
    Table,
    Values,
    key_of,
    serialize,
)
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import DAY_SECONDS
from chalicelib.subscriptions import filters
from chalicelib.subscriptions.outcomes import Missed
from chalicelib.subscriptions.subscription import (
    DESCRIBED,
    DESCRIPTION_ATTRIBUTE,
    ENABLE,
    STATE,
    EventTypes,
    Subscription,
    check_headers,
    new_secret,
)

MAX_SUBSCRIPTIONS = 100  # of each tenant
CACHED_TENANTS = 32  # a hundred subscriptions with the longest filters take 2.5 MB
CACHE_SECONDS = 10
# A subscription works if it delivered one of its newest so many copies that are delivered or
# failed.
TELLING_COPIES = 5
FIRST_ROWS = 25  # of copies that are read for that; then 100 and 400, if most are pending
MAX_PAGES = 3
# The partition of all subscriptions in the index for lookups, and of those without a tenant in the
# index of statuses.
ALL = "subscription"

TOO_DEEP = Missed("filter")  # the payload is nested too deep for a filter
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
        **described: Any,
    ) -> tuple[Subscription, bool]:
        """Store a subscription; return it, and whether it is new.

        The same key, URL, types and tenant make the same one, unless it was edited since: see
        `_make_again`. Raises ApiError 409 if there are MAX_SUBSCRIPTIONS of the tenant; concurrent
        calls may exceed that slightly. Raises what `check_headers` and `_make_again` raise.
        """
        check_headers(described)
        # The index may lag: what it lists is read as it is now, and the latest by their ids.
        found = self.get_many(known.subscription_id for known in self.of_tenant(tenant))
        identity = seed_of(created_by, target_url, tenant, event_types)
        seed = identity
        while existing := self.get(make_id(seed)):
            found[existing.subscription_id] = existing
            seed += "\0edited"
        # Edits may have made several alike: the subscription that is as described comes first.
        in_order = sorted(
            found.values(),
            key=lambda known: (len(self._differences(known, described)), known.sort_key),
        )
        # If a subscription is edited meanwhile, the next one is looked at: a secret or header that
        # is given for one URL never goes to another URL.
        for known in in_order:
            same = self._make_again(known, identity, described)
            if same:
                return same, False
        if len(found) >= MAX_SUBSCRIPTIONS:
            detail = f"There are {MAX_SUBSCRIPTIONS} subscriptions; delete one first."
            raise ApiError(409, "too_many_subscriptions", detail)
        secret = described.get("secret") or new_secret()
        description = {**described, "event_types": event_types, "given": {"0": secret}}
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
                DESCRIPTION_ATTRIBUTE: dumps({name: description.get(name) for name in DESCRIBED}),
            }
        )
        try:
            written = self._write("put_item", "attribute_not_exists(event_id)", Item=item)
        finally:  # if the answer was lost, it may be there
            self._lists.cache_clear()
        if written.applied:
            return Subscription.from_item(item), True
        # Another call stored it meanwhile, or this one, if the response of boto3's first try was
        # lost: now it is found.
        return self.create(created_by, target_url, tenant, event_types, **described)

    def _make_again(
        self, known: Subscription, identity: str, described: Json
    ) -> Subscription | None:
        """Enable a subscription that is made again, if it was disabled and not by hand, and take
        over its name; return it, or None if it does not have the `identity` any more.

        Raises ApiError 409 if it has not what else is `described`.
        """

        def find_changes(current: Subscription) -> Json | None:
            types = current.event_types
            if seed_of(current.created_by, current.target_url, current.tenant, types) != identity:
                return None
            differs = self._differences(current, described)
            if differs:
                there = {"subscription_id": current.subscription_id, "differs": differs}
                detail = (
                    f"{current.subscription_id} has this URL and these types, but differs in"
                    f" {', '.join(differs)}: edit it by its id."
                )
                raise ApiError(409, "subscription_exists", detail, members=there)
            renamed = {"name": described.get("name") or current.name}
            return ENABLE | renamed if current.state == "disabled" else renamed

        return self._edit(known, find_changes)

    def _differences(self, current: Subscription, described: Json) -> list[str]:
        """Return the `described` members that a subscription has otherwise, but its name.

        It has a secret that signs now. What is not given, or null, does not differ.
        """
        has = {**vars(current), "name": described.get("name"), "secret": None}
        secret = described.get("secret")
        if secret in current.secrets(self._clock()):
            has["secret"] = secret
        return [
            member
            for member, value in described.items()
            if value is not None and comparable(value or None) != comparable(has[member] or None)
        ]

    def _edit(
        self, current: Subscription | None, find_changes: Callable[[Subscription], Json | None]
    ) -> Subscription | None:
        """Change a subscription that was just read; return it, or None if it is gone.

        If somebody else changed it since, it is changed as it is by then. Another `target_url`
        removes headers that are not among the changes: what they say is for one URL. Raises what
        `check_headers` raises.

        :param find_changes: Returns what changes in the subscription as it is then; None: it is
            another by now, and counts as gone.
        """
        while current:
            changes = find_changes(current)
            if changes is None:
                return None
            if changes.get("target_url", current.target_url) != current.target_url:
                changes = {"headers": None, "slow_since": None, **changes}
            edited = replace(current, **changes)
            check_headers(vars(edited))
            attributes = {
                "target_url": edited.target_url,
                DESCRIPTION_ATTRIBUTE: edited.description(),
                **{name: changes[name] for name in changes.keys() & STATE},
            }
            applied, item = self._update(
                current.subscription_id, UNCHANGED, attributes, _seen(current)
            )
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

        Raises ApiError 409 if headers alone are described, and the URL was changed meanwhile, and
        what `check_headers` raises: then nothing has changed.
        """
        has_headers_alone = described.keys() & {"headers", "target_url"} == {"headers"}

        def find_changes(current: Subscription) -> Json:
            if has_headers_alone and current.target_url != subscription.target_url:
                raise ApiError(
                    409,
                    "edited_meanwhile",
                    "The URL was changed meanwhile: repeat the call, if its headers are for the"
                    " new one.",
                )
            return described | (current.renewed(secret, self._clock()) if secret else {})

        return self._edit(subscription, find_changes)

    def enable(self, subscription: Subscription) -> Subscription | None:
        """Enable a subscription; return it, or None if it is gone."""
        return self._edit(subscription, lambda _: ENABLE)

    def pause(self, subscription: Subscription) -> Subscription | None:
        """Disable a subscription by hand, if it is enabled; return it, or None if it is gone."""
        if subscription.disabled_at:
            return subscription
        changes = {"disabled_at": self._after(0), "last_error": "disabled by hand", "paused": True}
        return self._edit(subscription, lambda _: changes)

    def renew_secret(
        self, subscription: Subscription, secret: str | None = None
    ) -> Subscription | None:
        """Renew the secret of a subscription that was just read, or give it one; return it, or None
        if it is gone.

        Of two calls at once, the later one finds a renewal that has just been made: without a
        secret it changes nothing, and another secret takes the place of that one's.
        """
        return self._edit(subscription, lambda current: current.renewed(secret, self._clock()))

    def delete(
        self,
        subscription_id: str,
        condition: str = "attribute_exists(event_id)",
        values: Values = NO_VALUES,
    ) -> bool:
        """Delete a subscription, if it exists and `condition` holds; return whether it did."""
        written = self._write("delete_item", condition, values, Key=key_of(subscription_id))
        self._lists.cache_clear()
        return written.applied

    def end(self, subscription: Subscription) -> bool:
        """Delete this subscription, whose target asked for it, if it is there as it is known.

        Return whether it was. If DynamoDB fails, it counts as not there: the next attempt finds
        out.
        """
        key = subscription.subscription_id
        with suppress(StorageUnavailableError):
            if self.delete(key, SAME_TARGET, _seen(subscription)):
                logger.warning("subscription ended by its target", extra={"subscription_id": key})
                return True
        return False

    def disable(self, subscription: Subscription, error: str | None) -> Subscription | None:
        """Disable this subscription, if it is enabled and has this URL; return it if this call
        did.
        """
        return self._mark("disabled_at", subscription, error, TARGET_ENABLED)

    def disable_broken(self, subscription: Subscription, error: str | None) -> Subscription | None:
        """Disable a subscription that has been failing for days, unless it works; return it if this
        call did.

        Two refused events a week apart do not mean that the subscription is broken.
        """
        days = self._services.settings.subscription_disable_days
        is_broken = (subscription.failing_since or HIGHEST) <= self._after(-days * DAY_SECONDS)
        if is_broken and not self._works(subscription, LOWEST):
            return self._mark("disabled_at", subscription, error, FAILING)
        return None

    def set_failing(
        self, subscription: Subscription, error: str | None, since: str
    ) -> Subscription | None:
        """Set `failing_since`, unless it is set, or the subscription works since a time (RFC 3339);
        return the subscription if this call set it.
        """
        if subscription.failing_since or self._works(subscription, since):
            return None
        return self._mark("failing_since", subscription, error, NOT_FAILING)

    def _mark(
        self, name: str, subscription: Subscription, error: str | None, condition: str
    ) -> Subscription | None:
        """Set `failing_since` or `disabled_at` to now, and log it with the metric; return the
        subscription if this call set it.
        """
        # Of an attempt that was not recorded no error is known.
        changes = {name: self._after(0), "last_error": error or subscription.last_error}
        marked = self._change(subscription, condition, changes)
        if marked:
            metrics = {f"Subscriptions{marked.state.capitalize()}": 1}
            extra = {"subscription_id": marked.subscription_id, "metrics": metrics}
            logger.warning(f"subscription {marked.state}", extra=extra)
        return marked

    def _works(self, subscription: Subscription, since: str) -> bool:
        """Return whether a subscription delivered one of its newest TELLING_COPIES.

        Only copies count that were created from `since` on and are delivered or failed.

        Reads up to MAX_PAGES, most often one. If DynamoDB fails, the subscription counts as
        working: the next attempt asks again.
        """
        pages = self.pages(
            subscription.subscription_id,
            {":low": since},
            IndexName=BY_LOOKUP,
            ScanIndexForward=False,
            Limit=FIRST_ROWS,
        )
        rows = chain.from_iterable(page["Items"] for page in islice(pages, MAX_PAGES))
        statuses = (from_item(row).status for row in rows)
        settled = (status for status in statuses if status is not Status.PENDING)
        with suppress(StorageUnavailableError):
            return Status.DELIVERED in islice(settled, TELLING_COPIES)
        return True

    def clear_failing(self, subscription: Subscription) -> None:
        """Clear the known `failing_since`, if the subscription has no newer one."""
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
        """Change this subscription, unless it was made anew since; return it if changed.

        If DynamoDB fails, nothing is changed: what is noted about an attempt must not cost the
        record or the message of the attempt.
        """
        try:
            _, item = self._update(
                subscription.subscription_id,
                condition,
                changes,
                _seen(subscription),
                ReturnValues="ALL_NEW",
            )
        except StorageUnavailableError:
            return None
        # Alarm and report have no second chance: if the response of boto3's first try was lost, the
        # second one finds its own times.
        if item is None or not serialize(changes).items() <= item.items():
            return None
        self._lists.cache_clear()  # so that this container sees it at once
        return Subscription.from_item(item)

    def of_tenant(self, tenant: str | None) -> list[Subscription]:
        """Return the subscriptions of a tenant, or those without one, the oldest first."""
        return [
            Subscription.from_item(row)
            for page in self.pages(_partition(tenant))
            for row in page["Items"]
        ]

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
        :param limit: How many are read. Of these, only subscriptions in the state are returned.
        :param cursor: The sort key after which the page begins.
        """
        low = f"{cursor} "  # a space comes before all that may follow
        index = BY_LOOKUP if tenant == "*" else BY_STATUS
        response = next(self.pages(_partition(tenant), {":low": low}, IndexName=index, Limit=limit))
        found = self.get_many(row["event_id"]["S"] for row in response["Items"])
        in_order = sorted(found.values(), key=attrgetter("sort_key"))
        shown = [row for row in in_order if state is None or row.is_listed(state)]
        last_key = response.get("LastEvaluatedKey")
        return shown, last_key["sort_key"]["S"] if last_key else None

    def get(self, subscription_id: str | None) -> Subscription | None:
        """Return a subscription, read consistently, or None: also without an id."""
        item = self._get(subscription_id) if subscription_id else None
        return Subscription.from_item(item) if item else None

    def get_many(self, subscription_ids: Iterable[str]) -> dict[str, Subscription]:
        """Return those subscriptions that exist, by id, read consistently."""
        found = map(Subscription.from_item, self._get_many([*subscription_ids]))
        return {subscription.subscription_id: subscription for subscription in found}

    def matching(self, event: Event) -> list[Subscription]:
        """Return the subscriptions that get a copy, by lists that are at most CACHE_SECONDS old.

        Subscriptions of the event's tenant and subscriptions without a tenant may match. Raises
        InvalidRequestError if
        the payload, which was parsed with fewer calls on the stack, is nested too deep.
        """
        period = self._clock() // CACHE_SECONDS
        keys = dict.fromkeys((None, event.tenant))
        found = []
        for known in chain.from_iterable(self._lists(key, period) for key in keys):
            not_taken = why_not_taken(known, event)
            if not_taken == TOO_DEEP:
                raise InvalidRequestError(FieldFault("payload", "is nested too deep"))
            if not_taken.reason is None:
                found.append(known)
        return found

    def _allowed(self, tenant: str | None, _period: float) -> list[Subscription]:
        """Return the subscriptions of a tenant whose hosts are allowed, read once in a period."""
        hosts = self._services.settings.subscription_hosts
        return [known for known in self.of_tenant(tenant) if hosts.allows(known.target_url)]


def why_not_taken(subscription: Subscription, event: Event) -> Missed:
    """Return why the types or the filter of a subscription do not take an event, if so.

    A report has no payload of the caller's: it is not filtered.
    """
    if not subscription.matches(event.event_type):
        return Missed("event_types")
    if subscription.filter is None or event.is_report:
        return Missed()
    return why_filtered(subscription.filter, event.payload)


def why_filtered(pattern: Json, payload: str) -> Missed:
    """Return that a filter does not take a payload (JSON), if so, and which member it is."""
    try:
        member = filters.mismatch(pattern, payload)
    except RecursionError:
        return TOO_DEEP
    return Missed() if member is None else Missed("filter", member)


def _seen(subscription: Subscription) -> Values:
    """Return the placeholders of conditions: the subscription as it is known."""
    return {f":{name}": value for name, value in vars(subscription).items()}


def _partition(tenant: str | None) -> str:
    return ALL if tenant in (None, "*") else f"subscription#{tenant}"


def seed_of(
    created_by: str,
    target_url: str,
    tenant: str | None,
    event_types: EventTypes,
) -> str:
    """Return the text from which the id of a subscription is made.

    A subscription that is made again has the same text, and the same id unless an edited
    subscription has that id.
    """
    types = None if event_types is None else dumps(sorted(set(event_types)))
    return "\0".join((created_by, tenant or "", target_url, str(types)))


def make_id(seed: str) -> str:
    return f"sub_{id_digits(seed)}"
