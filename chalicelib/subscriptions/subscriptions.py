"""Subscriptions (REST Hooks): who gets a copy of which events."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from operator import attrgetter
from typing import NamedTuple

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
from chalicelib.subscriptions.outcomes import MissReason
from chalicelib.subscriptions.subscription import (
    DESCRIPTION_ATTRIBUTE,
    DESCRIPTION_FIELDS,
    ENABLE,
    STATE,
    Description,
    Edit,
    EventTypes,
    Subscription,
    check_headers,
    new_secret,
)

MAX_SUBSCRIPTIONS = 100  # of each tenant
NEWEST_SETTLED = 5  # copies by which `_delivers` judges a subscription
FIRST_ROWS = 25  # that `_delivers` reads; then 100 and 400, if most copies are pending
MAX_PAGES = 3
CACHED_TENANTS = 32  # a hundred subscriptions with the longest filters take 2.5 MB
CACHE_SECONDS = 10
# The partition of all subscriptions in the index for lookups, and of those without a tenant in the
# index of statuses.
ALL = "subscription"

# The reason for which a filter takes no payload that is nested too deep for it.
TOO_DEEP = MissReason("filter", member=None)

# Conditions of writes. The placeholders are the fields of the subscription as it was read.
# It was not deleted and made anew since, with the same id and another time of creation.
SAME = "sort_key = :sort_key"
SAME_TARGET = f"{SAME} AND target_url = :target_url"
UNCHANGED = f"{SAME_TARGET} AND event_types = :described"
ENABLED = f"{SAME} AND attribute_not_exists(disabled_at)"
NOT_FAILING = f"{ENABLED} AND attribute_not_exists(failing_since)"
FAILING = f"{ENABLED} AND failing_since = :failing_since"
TARGET_ENABLED = f"{ENABLED} AND {SAME_TARGET}"


class CreateResult(NamedTuple):
    """The subscription that `Subscriptions.create` returns."""

    subscription: Subscription
    # Whether the call stored the subscription; False: it was there.
    is_new: bool


class Subscriptions(Table):
    """The subscriptions of a stage, in the table of events.

    Methods raise StorageUnavailableError when DynamoDB fails, unless they say otherwise.
    """

    def __init__(self, services: CoreServices) -> None:
        name = services.settings.events_table_name
        super().__init__(services.make_client("dynamodb"), name, clock=services.clock)
        self._services = services
        self._lists = lru_cache(CACHED_TENANTS)(self._read_allowed)

    def create(
        self,
        created_by: str,
        target_url: str,
        tenant: str | None,
        event_types: EventTypes,
        description: Description,
    ) -> CreateResult:
        """Store a subscription, unless the same one is there.

        A subscription is the same if it was made with the same API key, URL, event types and
        tenant, and was not edited since: see `_make_again`. Raises ApiError 409 if the tenant has
        MAX_SUBSCRIPTIONS; concurrent calls may exceed that slightly. Raises what `check_headers`
        and `_make_again` raise.

        :param created_by: The name of the API key.
        :param target_url: The URL to which copies are pushed; its host is allowed.
        :param tenant: The tenant whose events the subscription gets; None: all tenants' events.
        :param event_types: Event types, or prefixes followed by `*`; None: all.
        :param description: The other members that were given.
        """
        check_headers(description.get("headers"), description.get("header_prefix"))
        # The index may lag: listed subscriptions are read as they are now, the latest by their ids.
        found = self.get_many(known.subscription_id for known in self.of_tenant(tenant))
        identity = seed_of(created_by, target_url, tenant, event_types)
        seed = identity
        while existing := self.get(make_id(seed)):
            found[existing.subscription_id] = existing
            seed += "\0edited"
        # Edits may have made several alike: the subscription that is as described comes first.
        in_order = sorted(
            found.values(),
            key=lambda known: (len(self._differences(known, description)), known.sort_key),
        )
        # If a subscription is edited meanwhile, the next one is looked at: a secret or header that
        # is given for one URL never goes to another URL.
        for known in in_order:
            same = self._make_again(known, identity, description)
            if same:
                return CreateResult(same, is_new=False)
        if len(found) >= MAX_SUBSCRIPTIONS:
            detail = f"There are {MAX_SUBSCRIPTIONS} subscriptions; delete one first."
            raise ApiError(409, "too_many_subscriptions", detail)
        secret = description.get("secret") or new_secret()
        members: Json = {**description, "event_types": event_types, "given": {"0": secret}}
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
                DESCRIPTION_ATTRIBUTE: dumps(
                    {name: members.get(name) for name in DESCRIPTION_FIELDS}
                ),
            }
        )
        try:
            written = self._write("put_item", "attribute_not_exists(event_id)", {"Item": item})
        finally:  # if the answer was lost, it may be there
            self._lists.cache_clear()
        if written.applied:
            return CreateResult(Subscription.from_item(item), is_new=True)
        # Another call stored it meanwhile, or this one, if the response of boto3's first try was
        # lost: now it is found.
        return self.create(created_by, target_url, tenant, event_types, description)

    def _make_again(
        self, known: Subscription, identity: str, description: Description
    ) -> Subscription | None:
        """Return a subscription that is made again, if it has the given identity still: enabled,
        unless it was disabled by hand, and with the new name, if there is one.

        Return None if the subscription has another identity or is gone. Raises ApiError 409 if
        another member of the description differs, and names these members.

        :param known: The subscription as it was just read.
        :param identity: The text that `seed_of` returns for the subscription to be made.
        """

        def find_changes(current: Subscription) -> Json | None:
            types = current.event_types
            if seed_of(current.created_by, current.target_url, current.tenant, types) != identity:
                return None
            differs = self._differences(current, description)
            if differs:
                there = {"subscription_id": current.subscription_id, "differs": differs}
                detail = (
                    f"{current.subscription_id} has this URL and these types, but differs in"
                    f" {', '.join(differs)}: edit it by its id."
                )
                raise ApiError(409, "subscription_exists", detail, members=there)
            renamed = {"name": description.get("name") or current.name}
            return ENABLE | renamed if current.state == "disabled" else renamed

        return self._edit(known, find_changes)

    def _differences(self, current: Subscription, description: Description) -> list[str]:
        """Return the names of the members of a description in which a subscription differs.

        The name does not count, nor a member that is null, nor a secret that signs pushes now.
        """
        compared: Json = {**vars(current), "name": description.get("name"), "secret": None}
        secret = description.get("secret")
        if secret in current.secrets(self._clock()):
            compared["secret"] = secret
        differing = []
        for member, value in description.items():
            # An empty object is stored as it was given, and means the same as null.
            is_same = comparable(value or None) == comparable(compared[member] or None)
            if value is not None and not is_same:
                differing.append(member)
        return differing

    def _edit(
        self, current: Subscription | None, find_changes: Callable[[Subscription], Json | None]
    ) -> Subscription | None:
        """Change a subscription and return it, or return None if it is gone.

        If somebody else changes the subscription at the same time, the changes are found anew and
        made to the subscription as it is then. A new `target_url` removes headers and `slow_since`,
        unless they are among the changes: they belong to the old URL. Raises what `check_headers`
        and `find_changes` raise.

        :param current: The subscription as it was just read; None: it is gone.
        :param find_changes: Returns the new values of fields, by name, of the subscription as it is
            now; None: it is no longer the subscription that is meant, and counts as gone.
        """
        while current:
            changes = find_changes(current)
            if changes is None:
                return None
            if changes.get("target_url", current.target_url) != current.target_url:
                changes = {"headers": None, "slow_since": None, **changes}
            edited = replace(current, **changes)
            check_headers(edited.headers, edited.header_prefix)
            attributes = {
                "target_url": edited.target_url,
                DESCRIPTION_ATTRIBUTE: edited.description(),
                **{name: changes[name] for name in changes.keys() & STATE},
            }
            applied, item = self._update(
                current.subscription_id, UNCHANGED, attributes, _as_read(current)
            )
            if applied:
                self._lists.cache_clear()
                return edited
            current = Subscription.from_item(item) if item else None
        return None

    def edit(self, subscription: Subscription, edit: Edit) -> Subscription | None:
        """Change the members of a subscription that an edit has, with its secret in the same write;
        return the subscription, or None if it is gone.

        Raises ApiError 409 if the edit has headers and no URL, and somebody else has changed the
        URL since the subscription was read. Raises what `check_headers` raises. After an error
        nothing has changed.

        :param edit: The new values, by name. The secret, if there is one, is renewed as by
            `renew_secret`.
        """
        changes: Json = {**edit}
        secret = changes.pop("secret", None)
        has_headers_alone = "headers" in edit and "target_url" not in edit

        def find_changes(current: Subscription) -> Json:
            if has_headers_alone and current.target_url != subscription.target_url:
                raise ApiError(
                    409,
                    "edited_meanwhile",
                    "The URL was changed meanwhile: repeat the call, if its headers are for the"
                    " new one.",
                )
            return changes | (current.renewed(secret, self._clock()) if secret else {})

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
        """Renew the secret of a subscription; return the subscription, or None if it is gone.

        Of two calls at the same time, the later one finds the renewal of the other: without a
        secret it changes nothing, and a given secret takes the place of the other call's.

        :param subscription: The subscription as it was just read.
        :param secret: The new secret; None: a random one.
        """
        return self._edit(subscription, lambda current: current.renewed(secret, self._clock()))

    def delete(
        self,
        subscription_id: str,
        condition: str = "attribute_exists(event_id)",
        values: Values = NO_VALUES,
    ) -> bool:
        """Delete a subscription, if a condition holds; return whether it was deleted.

        :param condition: A condition expression; by default, that the subscription exists.
        :param values: The values of its placeholders.
        """
        key = {"Key": key_of(subscription_id)}
        written = self._write("delete_item", condition, key, values)
        self._lists.cache_clear()
        return written.applied

    def end(self, subscription: Subscription) -> bool:
        """Delete a subscription whose target responded 410; return whether it was deleted.

        It is not deleted if its URL was edited, or it was deleted or made anew since it was read,
        or if DynamoDB fails: then the next attempt gets another 410. Raises nothing.
        """
        key = subscription.subscription_id
        with suppress(StorageUnavailableError):
            if self.delete(key, SAME_TARGET, _as_read(subscription)):
                logger.warning("subscription ended by its target", extra={"subscription_id": key})
                return True
        return False

    def disable(self, subscription: Subscription, error: str | None) -> Subscription | None:
        """Disable a subscription, if it is enabled and still has the URL that was read; return the
        subscription if this call disabled it, else None. Raises nothing.

        :param error: The error of the attempt for which it is disabled; None: it is not known.
        """
        return self._mark("disabled_at", subscription, error, TARGET_ENABLED)

    def disable_broken(self, subscription: Subscription, error: str | None) -> Subscription | None:
        """Disable a subscription that has been failing for SUBSCRIPTION_DISABLE_DAYS, unless one of
        its newest copies was delivered; return the subscription if this call disabled it, else
        None.

        Two refused events a week apart do not mean that the subscription is broken. Raises nothing.

        :param error: The error of the latest attempt; None: it is not known.
        """
        days = self._services.settings.subscription_disable_days
        is_broken = (subscription.failing_since or HIGHEST) <= self._after(-days * DAY_SECONDS)
        if is_broken and not self._delivers(subscription, LOWEST):
            return self._mark("disabled_at", subscription, error, FAILING)
        return None

    def set_failing(
        self, subscription: Subscription, error: str | None, since: str
    ) -> Subscription | None:
        """Set `failing_since` to now, unless it is set, or one of the newest copies was delivered;
        return the subscription if this call set it, else None. Raises nothing.

        :param error: The error of the latest attempt; None: it is not known.
        :param since: The time (RFC 3339) from which on copies were created that count as newest.
        """
        if subscription.failing_since or self._delivers(subscription, since):
            return None
        return self._mark("failing_since", subscription, error, NOT_FAILING)

    def _mark(
        self, name: str, subscription: Subscription, error: str | None, condition: str
    ) -> Subscription | None:
        """Set `failing_since` or `disabled_at` to now, and log the new state with its metric;
        return the subscription if this call set it, else None.

        If DynamoDB fails, nothing is set. Raises nothing.

        :param name: The attribute to set.
        :param error: The error of the latest attempt; None: it is not known.
        :param condition: The condition of the write.
        """
        # The error of an attempt that was not recorded is not known.
        changes = {name: self._after(0), "last_error": error or subscription.last_error}
        marked = self._change(subscription, condition, changes)
        if marked:
            metrics = {f"Subscriptions{marked.state.capitalize()}": 1}
            extra = {"subscription_id": marked.subscription_id, "metrics": metrics}
            logger.warning(f"subscription {marked.state}", extra=extra)
        return marked

    def _delivers(self, subscription: Subscription, since: str) -> bool:
        """Return whether one of the newest copies of a subscription was delivered.

        The newest are up to NEWEST_SETTLED copies that were created from `since` (RFC 3339) on and
        are delivered or failed. If DynamoDB fails, the subscription counts as working: the next
        attempt asks again. Most often one page is read.
        """
        pages = self.pages(
            subscription.subscription_id,
            {":low": since},
            index=BY_LOOKUP,
            newest_first=True,
            first_rows=FIRST_ROWS,
        )
        rows = chain.from_iterable(page["Items"] for page in islice(pages, MAX_PAGES))
        statuses = (from_item(row).status for row in rows)
        settled = (status for status in statuses if status is not Status.PENDING)
        with suppress(StorageUnavailableError):
            return Status.DELIVERED in islice(settled, NEWEST_SETTLED)
        return True

    def clear_failing(self, subscription: Subscription) -> None:
        """Clear `failing_since` and `last_error` of a subscription, unless `failing_since` was set
        anew since the subscription was read.

        If DynamoDB fails, nothing is cleared. Raises nothing.
        """
        self._change(subscription, FAILING, {"failing_since": None, "last_error": None})

    def set_slow(self, subscription: Subscription, slow_since: str | None) -> None:
        """Set `slow_since` of a subscription, if nothing that its owner describes was changed since
        it was read.

        If DynamoDB fails, nothing is set. Raises nothing.

        :param slow_since: The time (RFC 3339); None: the subscription is not slow any more.
        """
        marked = replace(subscription, slow_since=slow_since)
        self._change(subscription, UNCHANGED, {DESCRIPTION_ATTRIBUTE: marked.description()})

    def _change(
        self,
        subscription: Subscription,
        condition: str,
        changes: Values,
    ) -> Subscription | None:
        """Change attributes of a subscription after an attempt, if a condition holds; return the
        subscription if it has the changes now, else None.

        If DynamoDB fails, nothing is changed: a mark of the subscription must not cost the record
        or the message of the attempt. Raises nothing.

        :param changes: The new values of attributes by name; None removes the attribute.
        """
        try:
            _, item = self._update(
                subscription.subscription_id,
                condition,
                changes,
                _as_read(subscription),
                returns_item=True,
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
        """Return a page of subscriptions, the oldest first, and the sort key after which the next
        page begins; None: this is the last page.

        :param tenant: The tenant whose subscriptions are returned; None: subscriptions without a
            tenant; `*`: all.
        :param state: A state of `Subscription.is_listed`; None: any.
        :param limit: How many subscriptions are read, before subscriptions in other states
            are left out: a page may have fewer, or none.
        :param cursor: The sort key after which the page begins; empty: at the oldest.
        """
        low = f"{cursor} "  # a space comes before all that may follow
        index = BY_LOOKUP if tenant == "*" else BY_STATUS
        pages = self.pages(_partition(tenant), {":low": low}, index=index, first_rows=limit)
        response = next(pages)
        found = self.get_many(row["event_id"]["S"] for row in response["Items"])
        in_order = sorted(found.values(), key=attrgetter("sort_key"))
        shown = [row for row in in_order if state is None or row.is_listed(state)]
        last_key = response.get("LastEvaluatedKey")
        return shown, last_key["sort_key"]["S"] if last_key else None

    def get(self, subscription_id: str | None) -> Subscription | None:
        """Return a subscription, read consistently; None if it is absent, or the id is None."""
        item = self._get(subscription_id) if subscription_id else None
        return Subscription.from_item(item) if item else None

    def get_many(self, subscription_ids: Iterable[str]) -> dict[str, Subscription]:
        """Return subscriptions by id, read consistently; absent subscriptions are left out."""
        found = map(Subscription.from_item, self._get_many([*subscription_ids]))
        return {subscription.subscription_id: subscription for subscription in found}

    def matching(self, event: Event) -> list[Subscription]:
        """Return the subscriptions that get a copy of a new event, which are subscriptions of its
        tenant and subscriptions without a tenant.

        The lists of subscriptions are at most CACHE_SECONDS old. Raises InvalidRequestError if the
        payload is nested too deep for a filter, which has more calls on the stack than the parser.
        """
        period = self._clock() // CACHE_SECONDS
        keys = dict.fromkeys((None, event.tenant))
        found = []
        for known in chain.from_iterable(self._lists(key, period) for key in keys):
            mismatch = find_mismatch(known, event)
            if mismatch == TOO_DEEP:
                raise InvalidRequestError(FieldFault("payload", "is nested too deep"))
            if mismatch is None:
                found.append(known)
        return found

    def _read_allowed(self, tenant: str | None, _period: float) -> list[Subscription]:
        """Read the subscriptions of a tenant whose hosts are allowed; None: without a tenant.

        The cache of this method has an entry for each tenant and period.
        """
        hosts = self._services.settings.subscription_hosts
        return [known for known in self.of_tenant(tenant) if hosts.allows(known.target_url)]


def find_mismatch(subscription: Subscription, event: Event) -> MissReason | None:
    """Return why the event types (`event_types`) or the filter (`filter`) of a subscription do not
    match an event; None: they match.

    A report is not filtered: its payload is not the caller's.
    """
    if not subscription.matches(event.event_type):
        return MissReason("event_types")
    if subscription.filter is None or event.is_report:
        return None
    return find_filter_mismatch(subscription.filter, event.payload)


def find_filter_mismatch(pattern: Json, payload: str) -> MissReason | None:
    """Return the first member of a payload (JSON) that a filter does not match; None: the filter
    matches.

    TOO_DEEP if the payload is nested too deep for the filter.
    """
    try:
        path = filters.find_mismatched_path(pattern, payload)
    except RecursionError:
        return TOO_DEEP
    return None if path is None else MissReason("filter", path)


def _as_read(subscription: Subscription) -> Values:
    """Return the fields of a subscription as values of placeholders, such as `:target_url`."""
    return {f":{name}": value for name, value in vars(subscription).items()}


def _partition(tenant: str | None) -> str:
    """Return the partition key of a tenant's subscriptions in the index of statuses or, for `*`, of
    all subscriptions in the index for lookups.

    :param tenant: The tenant, or `*`. None: the subscriptions without a tenant, whose partition key
        in the index of statuses is the same text, ALL, as that of all in the other index.
    """
    return ALL if tenant in (None, "*") else f"subscription#{tenant}"


def seed_of(
    created_by: str,
    target_url: str,
    tenant: str | None,
    event_types: EventTypes,
) -> str:
    """Return the text that identifies a subscription, from which `make_id` makes its id.

    A subscription with the same arguments has the same text. `created_by` is the name of the API
    key, and the order of the event types does not matter.
    """
    types = None if event_types is None else dumps(sorted(set(event_types)))
    return "\0".join((created_by, tenant or "", target_url, str(types)))


def make_id(seed: str) -> str:
    """Return the id of a subscription made from a text; see `seed_of`."""
    return f"sub_{id_digits(seed)}"
