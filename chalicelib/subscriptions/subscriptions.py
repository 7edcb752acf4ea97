"""Subscriptions (REST Hooks): who gets a copy of which events."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
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
# The partition of all subscriptions in the index BY_LOOKUP.
ALL_SUBSCRIPTIONS = "subscription"
# The partition of the subscriptions without a tenant in the index BY_STATUS.
WITHOUT_TENANT = "subscription"

# The reason for which no filter matches a payload that is nested too deep.
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


class SubscriptionPage(NamedTuple):
    """A page that `Subscriptions.page` returns."""

    # The subscriptions, the oldest first.
    subscriptions: list[Subscription]
    # The sort key after which the next page begins; None: this is the last page.
    next_cursor: str | None


class Subscriptions(Table):
    """The subscriptions of a stage, in the table of events.

    Methods raise StorageUnavailableError when DynamoDB fails, unless they say otherwise.
    """

    def __init__(self, services: CoreServices) -> None:
        """Use the DynamoDB table, the settings and the clock of the services."""
        name = services.settings.events_table_name
        super().__init__(services.make_client("dynamodb"), name, clock=services.clock)
        self._services = services
        # The subscriptions by tenant and period of time, for `matching`: see `_read_allowed`.
        self._lists = lru_cache(CACHED_TENANTS)(self._read_allowed)

    def create(
        self,
        created_by: str,
        target_url: str,
        tenant: str | None,
        event_types: EventTypes,
        description: Description,
    ) -> CreateResult:
        """Store a subscription, unless the same one exists: then enable and rename that one.

        A stored subscription is the same if its API key, URL, event types and tenant are the same
        now. `_make_again` says what is changed in it.

        :param created_by: The name of the API key that makes the subscription.
        :param target_url: The URL to which copies are pushed. The caller has checked that its host
            is allowed.
        :param tenant: The tenant whose events the subscription gets; None: all tenants' events.
        :param event_types: Event types, or prefixes followed by `*`; None: all.
        :param description: The other members that were given. Without a `secret`, a new
            subscription gets a random one.
        :returns: The subscription as it is stored, and whether this call stored it.
        :raises ApiError: 409, if the tenant has MAX_SUBSCRIPTIONS (concurrent calls may exceed that
            slightly), or if the same subscription exists and another member differs.
        :raises InvalidRequestError: If `check_headers` refuses the headers.
        """
        check_headers(description.get("headers"), description.get("header_prefix"))
        # The index that lists the subscriptions may lag behind the table. So each listed
        # subscription is read from the table, and one that is not listed yet is read by its id.
        found = self.get_many(known.subscription_id for known in self.of_tenant(tenant))
        identity = seed_of(created_by, target_url, tenant, event_types)
        # A subscription keeps its id when an edit gives it another identity. So an id that is in
        # use may belong to another subscription now, and the next id is tried.
        seed = identity
        while existing := self.get(make_id(seed)):
            found[existing.subscription_id] = existing
            seed += "\0edited"
        # Edits may have given several subscriptions the same identity: the one that differs least
        # from the description comes first, and of several such the oldest.
        in_order = sorted(
            found.values(),
            key=lambda known: (len(self._differences(known, description)), known.sort_key),
        )
        for known in in_order:
            # None if `known` has another identity, perhaps because it was edited a moment ago: a
            # secret or header that is given for one URL never goes to another URL.
            same = self._make_again(known, identity, description)
            if same:
                return CreateResult(same, is_new=False)
        if len(found) >= MAX_SUBSCRIPTIONS:
            detail = f"There are {MAX_SUBSCRIPTIONS} subscriptions; delete one first."
            raise ApiError(409, "too_many_subscriptions", detail)
        secret = description.get("secret") or new_secret()
        # `given` has the secrets by the number of the renewal that made each; 0: the first secret.
        members: Json = {**description, "event_types": event_types, "given": {"0": secret}}
        subscription_id = make_id(seed)  # no subscription has this id
        item = serialize(
            {
                "event_id": subscription_id,
                "status_shard": _partition(tenant),
                "sort_key": f"{self._after(0)}#{subscription_id}",
                "lookup_key": ALL_SUBSCRIPTIONS,
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
        finally:  # also after an error: the subscription may be stored and the response lost
            self._lists.cache_clear()
        if written.applied:
            return CreateResult(Subscription.from_item(item), is_new=True)
        # The id was taken meanwhile: by another call, or by this one if the response of boto3's
        # first try was lost. The repeated call finds the subscription.
        return self.create(created_by, target_url, tenant, event_types, description)

    def _make_again(
        self, known: Subscription, identity: str, description: Description
    ) -> Subscription | None:
        """Enable and rename a stored subscription, because a call would create the same one again;
        return the changed subscription.

        It is renamed only if the call has a name, and not enabled if it was disabled by hand.
        Nothing is changed if its identity is not the given one: then it is not the same.

        :param known: The subscription as it was just read.
        :param identity: The text that `seed_of` returns for the subscription to be created.
        :param description: The members that the call has, besides those of the identity.
        :returns: None if the subscription has another identity or was deleted.
        :raises ApiError: 409, if a member of the description other than the name differs from the
            stored subscription, which is not changed. The error names these members.
        """
        find_changes = partial(self._find_repeat_changes, identity, description)
        return self._edit(known, find_changes)

    def _find_repeat_changes(
        self, identity: str, description: Description, current: Subscription
    ) -> Json | None:
        """Return the new values of the fields that change, by name, when a call would create a
        subscription that exists: its name and, if it is disabled but not paused by hand, the fields
        that enable it. None: the subscription has another identity.

        :param identity: The text that `seed_of` returns for the subscription to be created.
        :param description: The members that the call has, besides those of the identity.
        :param current: The stored subscription.
        :raises ApiError: 409, as `_make_again` does.
        """
        types = current.event_types
        if seed_of(current.created_by, current.target_url, current.tenant, types) != identity:
            return None
        differing = self._differences(current, description)
        if differing:
            members = {"subscription_id": current.subscription_id, "differs": differing}
            detail = (
                f"{current.subscription_id} has this URL and these types, but differs in"
                f" {', '.join(differing)}: edit it by its id."
            )
            raise ApiError(409, "subscription_exists", detail, members=members)
        changes = {"name": description.get("name") or current.name}
        # ENABLE also clears the errors. A subscription disabled by hand has the state `paused`.
        return ENABLE | changes if current.state == "disabled" else changes

    def _differences(self, current: Subscription, description: Description) -> list[str]:
        """Return the names of the members of a description in which a subscription differs.

        A `name` never differs, nor does a member of the description that is null, nor a `secret`
        that signs the subscription's pushes now (after a renewal, two secrets do).
        """
        differing = []
        for member, value in description.items():
            if value is None or member == "name":
                continue
            if member == "secret":
                is_same = value in current.secrets(self._clock())
            else:
                # An empty object, such as headers without a header, means the same as null.
                stored = getattr(current, member)
                is_same = comparable(value or None) == comparable(stored or None)
            if not is_same:
                differing.append(member)
        return differing

    def _edit(
        self, current: Subscription | None, find_changes: Callable[[Subscription], Json | None]
    ) -> Subscription | None:
        """Change a subscription; return the changed subscription, or None if it is gone.

        The write is made only if the subscription is as it was read. If another call has changed
        it meanwhile, `find_changes` is called again with the subscription as it is then. A new
        `target_url` removes `headers` and `slow_since`, unless they are among the changes: they
        belong to the old URL.

        :param current: The subscription as it was just read; None: it is gone.
        :param find_changes: A function that gets the subscription as it is now and returns the new
            values of fields, by name. If it returns None, nothing is changed and None is returned.
        :raises InvalidRequestError: If `check_headers` refuses the changed headers. Errors of
            `find_changes` are not caught.
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
                # The other fields, but for those in STATE, which are attributes of their own.
                DESCRIPTION_ATTRIBUTE: edited.description(),
                **{name: changes[name] for name in changes.keys() & STATE},
            }
            applied, item = self._update(
                current.subscription_id, UNCHANGED, attributes, _as_read(current)
            )
            if applied:
                self._lists.cache_clear()
                return edited
            # Not as it was read: `item` is the subscription as it is now.
            current = Subscription.from_item(item) if item else None
        return None

    def edit(self, subscription: Subscription, edit: Edit) -> Subscription | None:
        """Change members of a subscription in one write; return the changed subscription, or None
        if it is gone. After an error nothing has changed.

        :param subscription: The subscription as it was read.
        :param edit: The new values of the members to change, by name. A `secret` becomes the
            signing secret as by `renew_secret`; without one, or with null, the secret stays.
        :raises ApiError: 409, if the edit has headers and no URL, and another call has changed the
            URL since the subscription was read.
        :raises InvalidRequestError: If `check_headers` refuses the changed headers.
        """
        changes: Json = {**edit}
        secret = changes.pop("secret", None)
        # Without a URL, the headers are for the URL that the caller has seen.
        has_headers_alone = "headers" in edit and "target_url" not in edit

        def find_changes(current: Subscription) -> Json:
            """Return the new values of fields, by name: those of the edit (`changes`) and, if it
            has a new secret, the fields that the renewal of the secret changes.

            Raise ApiError 409 if `has_headers_alone` and the URL is not the one that was read.
            """
            if has_headers_alone and current.target_url != subscription.target_url:
                raise ApiError(
                    409,
                    "edited_meanwhile",
                    "The URL was changed meanwhile: repeat the call, if its headers are for the"
                    " new one.",
                )
            if secret:
                return changes | current.renewed(secret, self._clock())
            return changes

        return self._edit(subscription, find_changes)

    def enable(self, subscription: Subscription) -> Subscription | None:
        """Enable a subscription, also after a pause, and clear its errors; return it, or None if it
        is gone.
        """
        # The same fields are set, whatever state the subscription has.
        return self._edit(subscription, lambda _: ENABLE)

    def pause(self, subscription: Subscription) -> Subscription | None:
        """Disable a subscription by hand; return the disabled subscription, or None if it is gone.

        A subscription that is disabled already is returned as it is.
        """
        if subscription.disabled_at:
            return subscription
        changes = {"disabled_at": self._after(0), "last_error": "disabled by hand", "paused": True}
        return self._edit(subscription, lambda _: changes)

    def renew_secret(
        self, subscription: Subscription, secret: str | None = None
    ) -> Subscription | None:
        """Renew the signing secret of a subscription; return the changed subscription, or None if
        it is gone.

        `Subscription.renewed` decides what changes: a second call within a minute without a secret
        changes nothing, and one with a secret replaces the secret of the first call. This also
        holds for two calls at the same time.

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

        :param condition: The condition expression of the write; by default, that the subscription
            exists.
        :param values: The values of the placeholders in the condition, such as `:target_url`.
        """
        key = {"Key": key_of(subscription_id)}
        written = self._write("delete_item", condition, key, values)
        self._lists.cache_clear()
        return written.applied

    def end(self, subscription: Subscription) -> bool:
        """Delete a subscription whose target responded 410 Gone; return whether it was deleted.

        It is not deleted if, since it was read, its URL was edited, or it was deleted or made
        anew. If DynamoDB fails, it is not deleted either, and the next attempt gets another 410.
        Raises nothing.
        """
        key = subscription.subscription_id
        with suppress(StorageUnavailableError):
            if self.delete(key, SAME_TARGET, _as_read(subscription)):
                logger.warning("subscription ended by its target", extra={"subscription_id": key})
                return True
        return False

    def disable(self, subscription: Subscription, error: str | None) -> Subscription | None:
        """Disable a subscription, if it is enabled and still has the URL that was read; return the
        disabled subscription, or None if this call did not disable it, also because DynamoDB
        failed. Raises nothing.

        :param subscription: The subscription as it was read.
        :param error: The error of the attempt for which it is disabled; None: it is not known.
        """
        return self._mark("disabled_at", subscription, error, TARGET_ENABLED)

    def disable_broken(self, subscription: Subscription, error: str | None) -> Subscription | None:
        """Disable a subscription that has been failing for the days of the setting
        SUBSCRIPTION_DISABLE_DAYS, unless one of its newest copies was delivered; return the
        disabled subscription, or None if this call did not disable it. Raises nothing.

        A delivered copy shows that the subscription works: without deliveries in between, two
        refused events a week apart would look like a week of trouble.

        :param error: The error of the latest attempt; None: it is not known.
        """
        if subscription.failing_since is None:
            return None
        days = self._services.settings.subscription_disable_days
        is_broken = subscription.failing_since <= self._after(-days * DAY_SECONDS)
        # LOWEST: the newest copies count whenever they were created.
        if is_broken and not self._delivers(subscription, LOWEST):
            return self._mark("disabled_at", subscription, error, FAILING)
        return None

    def set_failing(
        self, subscription: Subscription, error: str | None, since: str
    ) -> Subscription | None:
        """Set `failing_since` of a subscription to now; return the changed subscription, or None if
        this call did not set it. Raises nothing.

        It is not set if it is set already, if the subscription is disabled, if one of its newest
        copies was delivered (see `_delivers`), or if DynamoDB fails.

        :param error: The error of the latest attempt; None: it is not known.
        :param since: The creation time (RFC 3339) of the oldest copy that counts among the newest.
        """
        if subscription.failing_since or self._delivers(subscription, since):
            return None
        return self._mark("failing_since", subscription, error, NOT_FAILING)

    def _mark(
        self, name: str, subscription: Subscription, error: str | None, condition: str
    ) -> Subscription | None:
        """Set `failing_since` or `disabled_at` of a subscription to now, and log its new state with
        a metric; return the changed subscription, or None if this call did not set it.

        If the condition does not hold or DynamoDB fails, nothing is set. Raises nothing.

        :param name: The attribute to set: `failing_since` or `disabled_at`.
        :param error: The error of the latest attempt, to be stored as `last_error`; None: it is not
            known, and the stored one stays.
        :param condition: The condition expression of the write.
        """
        changes = {name: self._after(0), "last_error": error or subscription.last_error}
        marked = self._change(subscription, condition, changes)
        if marked:
            metrics = {f"Subscriptions{marked.state.capitalize()}": 1}
            extra = {"subscription_id": marked.subscription_id, "metrics": metrics}
            logger.warning(f"subscription {marked.state}", extra=extra)
        return marked

    def _delivers(self, subscription: Subscription, since: str) -> bool:
        """Return whether one of the newest copies of a subscription was delivered.

        Of the copies created at or after `since`, the NEWEST_SETTLED newest ones that are
        delivered or failed are looked at; pending copies are passed over. At most MAX_PAGES pages
        are read. If DynamoDB fails, True is returned: the subscription counts as working, and a
        later attempt asks again.

        :param since: A creation time (RFC 3339).
        """
        pages = self.pages(
            subscription.subscription_id,
            {":low": since},
            index=BY_LOOKUP,
            newest_first=True,
            first_rows=FIRST_ROWS,
        )
        # These are generators: another page is read only if the rows before do not suffice.
        rows = chain.from_iterable(page["Items"] for page in islice(pages, MAX_PAGES))
        statuses = (from_item(row).status for row in rows)
        settled = (status for status in statuses if status is not Status.PENDING)
        with suppress(StorageUnavailableError):
            return Status.DELIVERED in islice(settled, NEWEST_SETTLED)
        return True

    def clear_failing(self, subscription: Subscription) -> None:
        """Clear `failing_since` and `last_error` of a subscription, unless it was disabled, or
        `failing_since` was set anew, since the subscription was read.

        If DynamoDB fails, nothing is cleared. Raises nothing.
        """
        self._change(subscription, FAILING, {"failing_since": None, "last_error": None})

    def set_slow(self, subscription: Subscription, slow_since: str | None) -> None:
        """Set `slow_since` of a subscription, unless the subscription was edited since it was read.

        If DynamoDB fails, nothing is set. Raises nothing.

        :param slow_since: Since when its pushes are slow (RFC 3339); None: they no longer are.
        """
        marked = replace(subscription, slow_since=slow_since)
        # `slow_since` is stored in one attribute with what the owner edits. UNCHANGED keeps the
        # write from taking an edit back.
        self._change(subscription, UNCHANGED, {DESCRIPTION_ATTRIBUTE: marked.description()})

    def _change(
        self,
        subscription: Subscription,
        condition: str,
        changes: Values,
    ) -> Subscription | None:
        """Change attributes of a subscription after an attempt, if a condition holds; return the
        subscription if it has the new values now, otherwise None.

        If DynamoDB fails, None is returned. Raises nothing, because an error would keep the attempt
        from being recorded.

        :param condition: A condition expression. Its placeholders are the fields of the
            subscription as it was read, such as `:target_url`.
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
        # Compare the item, instead of asking whether the condition held. If the response of
        # boto3's first try was lost, its second try fails the condition, although this call made
        # the change. The caller must know, because it logs and reports the change only once.
        # (`serialize` leaves out attributes that are removed, so these are not compared.)
        if item is None or not serialize(changes).items() <= item.items():
            return None
        self._lists.cache_clear()  # so that this container sees it at once
        return Subscription.from_item(item)

    def of_tenant(self, tenant: str | None) -> list[Subscription]:
        """Return the subscriptions of a tenant as an index has them, the oldest first.

        The index may lag behind the table by some seconds.

        :param tenant: None: the subscriptions without a tenant.
        """
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
    ) -> SubscriptionPage:
        """Return a page of subscriptions, the oldest first, with the cursor of the next page.

        :param tenant: The tenant whose subscriptions are returned; None: subscriptions without a
            tenant; `*`: all.
        :param state: A state of `Subscription.is_listed`; None: any.
        :param limit: How many subscriptions are read, before subscriptions in other states
            are left out: a page may have fewer, or none.
        :param cursor: The sort key after which the page begins; empty: at the oldest.
        """
        is_all = tenant == "*"
        index = BY_LOOKUP if is_all else BY_STATUS
        partition = ALL_SUBSCRIPTIONS if is_all else _partition(tenant)
        # A range of a query includes its lower bound. With the space, the bound is higher than the
        # cursor and lower than the next sort key.
        low = f"{cursor} "
        pages = self.pages(partition, {":low": low}, index=index, first_rows=limit)
        response = next(pages)
        found = self.get_many(row["event_id"]["S"] for row in response["Items"])
        in_order = sorted(found.values(), key=attrgetter("sort_key"))
        shown = [known for known in in_order if state is None or known.is_listed(state)]
        last_key = response.get("LastEvaluatedKey")
        next_cursor = last_key["sort_key"]["S"] if last_key else None
        return SubscriptionPage(shown, next_cursor)

    def get(self, subscription_id: str | None) -> Subscription | None:
        """Return a subscription, read consistently; None if it is absent, or the id is None."""
        item = self._get(subscription_id) if subscription_id else None
        return Subscription.from_item(item) if item else None

    def get_many(self, subscription_ids: Iterable[str]) -> dict[str, Subscription]:
        """Return subscriptions by id, read consistently; absent subscriptions are left out."""
        found = map(Subscription.from_item, self._get_many([*subscription_ids]))
        return {subscription.subscription_id: subscription for subscription in found}

    def matching(self, event: Event) -> list[Subscription]:
        """Return the subscriptions that get a copy of a new event.

        They are the subscriptions without a tenant and the subscriptions of the event's tenant
        whose event types and filter match the event, and whose host is allowed. The lists of
        subscriptions come from a cache and are at most CACHE_SECONDS old.

        :raises InvalidRequestError: If the payload is nested too deep for a filter: deeper than the
            filter's recursion, which needs more calls on the stack than parsing the payload.
        """
        period = self._clock() // CACHE_SECONDS
        # None: the subscriptions without a tenant. An event without a tenant has this key alone.
        tenants = dict.fromkeys((None, event.tenant))
        found = []
        for known in chain.from_iterable(self._lists(tenant, period) for tenant in tenants):
            mismatch = find_mismatch(known, event)
            if mismatch == TOO_DEEP:
                raise InvalidRequestError(FieldFault("payload", "is nested too deep"))
            if mismatch is None:
                found.append(known)
        return found

    def _read_allowed(self, tenant: str | None, _period: float) -> list[Subscription]:
        """Return the subscriptions of a tenant whose hosts are allowed.

        :param tenant: None: the subscriptions without a tenant.
        :param _period: The number of the current period of CACHE_SECONDS. It is only part of the
            cache's key: in the next period, the cache has no entry and the list is read again.
        """
        hosts = self._services.settings.subscription_hosts
        return [known for known in self.of_tenant(tenant) if hosts.allows(known.target_url)]


def find_mismatch(subscription: Subscription, event: Event) -> MissReason | None:
    """Return why a subscription does not match an event; None: it matches.

    The reason is `event_types`, or `filter` with the first member of the payload that does not
    match. The filter does not apply to a report, an event that this service made itself.
    """
    if not subscription.matches(event.event_type):
        return MissReason("event_types")
    if subscription.filter is None or event.is_report:
        return None
    return find_filter_mismatch(subscription.filter, event.payload)


def find_filter_mismatch(pattern: Json, payload: str) -> MissReason | None:
    """Return the reason for which a filter does not match a payload; None: it matches.

    The reason names the first member that does not match, or is TOO_DEEP if the payload is nested
    so deep that the comparison exceeds Python's limit of recursion.

    :param payload: A text of JSON.
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
    """Return the partition key of a tenant's subscriptions in the index BY_STATUS.

    :param tenant: None: the subscriptions without a tenant.
    """
    return WITHOUT_TENANT if tenant is None else f"subscription#{tenant}"


def seed_of(
    created_by: str,
    target_url: str,
    tenant: str | None,
    event_types: EventTypes,
) -> str:
    """Return the text that identifies a subscription; `make_id` makes the id from it.

    The order of the event types does not matter, nor whether one is repeated.

    :param created_by: The name of the API key that makes the subscription.
    :param tenant: None: the subscription has no tenant.
    :param event_types: None: all event types.
    """
    types = "None" if event_types is None else dumps(sorted(set(event_types)))
    return "\0".join((created_by, tenant or "", target_url, types))


def make_id(seed: str) -> str:
    """Return the id of a subscription made from a text; see `seed_of`."""
    return f"sub_{id_digits(seed)}"
