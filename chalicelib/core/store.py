"""The event store on DynamoDB: every state transition is one conditional write.

A failed condition is returned, not raised; the result carries the current event. Transitions that
consumers and operators ask for are in `events.inbox`, `events.replay` and `events.erasure`; the
sweep's is in `operations.schedules`.
"""

import base64
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar, NamedTuple

from chalicelib.core.event import (
    COPY_PREFIX,
    Attempt,
    DeliveredVia,
    Event,
    Status,
    lookup_key,
)
from chalicelib.core.outcome import Outcome, Reason
from chalicelib.infra.errors import EventNotFoundError, StorageUnavailableError
from chalicelib.infra.parsing import Json, Parser, Parsers, dumps
from chalicelib.infra.table import (
    BY_STATUS,
    LOWEST,
    NO_VALUES,
    UNDELIVERED,
    ItemResult,
    Table,
    Values,
    key_of,
    serialize,
)
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import DAY_SECONDS, Clock, rfc3339, unix_seconds
from chalicelib.settings import Settings

SHARDS = 4  # an index partition takes 1,000 writes a second; may be raised, never lowered
# More than the worker's timeout of 50 s: the holder of an expired claim has ended.
CLAIM_SECONDS = 60

# Who may write an event, and when:
#
#   created      claimed by a push        claim ends              expires_at        TTL deletes
#   |------------|------------------------|-----------------------|-----------------|------>
#   | CLAIMABLE  | MINE: the holder alone | CLAIMABLE by others   | absent: ABSENT holds,
#   | when due   | records                | MINE holds until then | a new event may be put
#
# An event counts as absent from its expiry on, though DynamoDB deletes it up to days later.
NOT_EXPIRED = "expires_at > :now_seconds"
# The mark of an erasure has no `status_shard`: it exists only for whoever erases again.
EXISTS = f"attribute_exists(status_shard) AND {NOT_EXPIRED}"
EXPIRED = "expires_at <= :now_seconds"
# A new event takes the place of an expired one, which DynamoDB may still hold.
ABSENT = f"attribute_not_exists(event_id) OR {EXPIRED}"
# A copy that was erased alone may be made again: only the mark of its event forbids that.
COPY_ABSENT = f"{ABSENT} OR attribute_not_exists(status_shard)"
# It is not another event of the same Idempotency-Key, which would list other copies. Copies are
# added to the list, never removed.
LISTS_SAME = "(attribute_not_exists(copies) OR copies = :copies)"
SAME_STATUS = f"{EXISTS} AND #status = :status"
# No event expires earlier than it would have: EVENT_RETENTION_DAYS may have been lowered since.
KEPT_LONGER = f"{SAME_STATUS} AND expires_at < :new_expires_at"
AS_READ = f"{SAME_STATUS} AND sort_key = :sort_key AND {LISTS_SAME} AND expires_at <= :until"
# Whoever held an expired claim has ended, or finds another `claim_id` when it records.
UNCLAIMED = "(attribute_not_exists(claimed_until) OR claimed_until < :now)"
# The optimistic lock of a record: nobody claimed or replayed the event since.
MINE = "claim_id = :mine"
PENDING = f"{EXISTS} AND #status = :pending"
# Without `next_attempt_at`, as in pull-only mode, an event is never due.
CLAIMABLE = f"{PENDING} AND next_attempt_at <= :now AND {UNCLAIMED}"
# Not once a consumer acknowledged the event: it is delivered then.
RECORDABLE = f"{PENDING} AND {MINE}"

# The causes of a catch-up: a delivery after long trouble, or of a test event. MENDED is also the
# partition of the marks of both in the index of undelivered copies.
MENDED = "mended"
TESTED = "tested"
RESTART_SECONDS = 900  # the least time between two catch-ups of a destination with the same cause
# The mark is in the index: its catch-up is under way, or begins when its time comes.
IN_INDEX = "attribute_exists(undelivered_key)"
# The destination failed, and delivered again, since the catch-up began.
AGAIN = f"({IN_INDEX} AND again_at > :since)"
COPY = "copy-"  # copies have partitions of their own, so that they never hide the inbox
REPLAYED = "replayed-"  # so have events that are kept longer than the retention period
UNSETTLED = (Status.PENDING, Status.FAILED)
SWEEP_PERIOD_SECONDS = 60  # app.py schedules it so
MAX_MARK_SECONDS = 900  # how far ahead the sweep's mark `requeue_at` is at most
MAX_EXPIRED = 25  # how many expired rows a search deletes
# How long the mark of an erasure stays once the copies are gone: calls that still write or delete a
# copy have ended by then.
ERASED_SECONDS = 3600

EVENT_FIELDS = [field.name for field in fields(Event)]
# The attributes that the record of an attempt writes. Others may change the rest meanwhile: a
# `send` lists its copy.
RECORDED = (
    "status",
    "status_shard",
    "claimed_until",
    "next_attempt_at",
    "requeue_at",
    "resume_at",
    "delivery_attempts",
    "attempts",
    "last_error",
    "delivered_at",
    "delivered_via",
    "failed_at",
    "reason",
    "undelivered_key",
)
# The fields that are no attributes: they are in `sort_key` and `content`.
NOT_STORED = ("created_at", "payload", "metadata")
# The attributes of an event without its content.
SUMMARY = ("sort_key", "status_shard", *sorted({*EVENT_FIELDS} - {*NOT_STORED}))


class CatchUp(NamedTuple):
    """The mark of a destination that delivers again, by which the sweep finds it."""

    # The key of the mark's item: the cause, MENDED or TESTED, and the destination.
    item_key: str
    # When the catch-up began (RFC 3339).
    since: str

    @property
    def cause(self) -> str:
        """MENDED or TESTED."""
        return self.item_key.partition("#")[0]

    @property
    def destination(self) -> str:
        """The id of a subscription, or WEBHOOK."""
        return self.item_key.partition("#")[2]


@dataclass(frozen=True)
class WriteResult:
    """The result of a conditional write of an event."""

    # Whether the condition held, and the event was written.
    applied: bool
    # The event as it is after the write; None if it is absent, expired or erased, or if the write
    # returns no item.
    event: Event | None = None
    # When the mark of an erasure expires (Unix seconds); 0: the event was not erased.
    erased_until: int = 0


class EventStore(Table):
    """The events in the table of a stage.

    boto3 retries a write whose response was lost, and the condition of the retry fails because of
    what the first try wrote. If the first try wrote a new `claim_id` or a record, the write counts
    as applied. Any other write counts as not applied; a repeated call or the sweep makes up for it.

    Methods raise StorageUnavailableError when DynamoDB fails, unless they say otherwise.
    """

    own_values: ClassVar[Values] = {":pending": Status.PENDING, ":failed": Status.FAILED}

    def __init__(self, client: Any, settings: Settings, *, clock: Clock) -> None:
        super().__init__(client, settings.events_table_name, clock=clock)
        self._retention_seconds = settings.event_retention_days * DAY_SECONDS
        self._kept_seconds = cache(self._find_kept_seconds)

    def pages(
        self,
        partition: str,
        values: Values = NO_VALUES,
        *,
        index: str = BY_STATUS,
        condition: str = "",
        newest_first: bool = False,
        first_rows: int | None = None,
    ) -> Iterator[Json]:
        """Yield the responses of a query of one partition of an index, as `Table.pages` does.

        A partition of pending or failed events is read from the earliest time at which an event
        that still exists can have been created: DynamoDB deletes expired rows up to days late, and
        each query would read them. Other partitions (copies, replayed events, a tenant, in whose
        name there is no #) are read whole.
        """
        values = {":low": LOWEST, **values}
        if partition.startswith(("pending#", "failed#")):
            oldest = self._after(-self._kept_seconds(partition))
            values[":low"] = max(str(values[":low"]), oldest)
        yield from super().pages(
            partition,
            values,
            index=index,
            condition=condition,
            newest_first=newest_first,
            first_rows=first_rows,
        )

    def _find_kept_seconds(self, partition: str) -> float:
        """Return how many seconds after its creation an event of a partition expires at the latest.

        This is the retention period. If EVENT_RETENTION_DAYS was lowered, the oldest event of the
        partition may be kept for longer, and then its time counts.
        """
        first_page = next(super().pages(partition, first_rows=1))
        # The rows are sorted by their creation. The list is empty if the partition is.
        oldest = [from_item(item) for item in first_page["Items"]]
        kept_seconds = [event.expires_at - unix_seconds(event.created_at) for event in oldest]
        return max([self._retention_seconds, *kept_seconds])

    def put(self, event: Event, content: bytes) -> WriteResult:
        """Store a new event or copy, unless one with this id is stored already.

        :param event: The event, with a new `claim_id`. If boto3 repeats the put because its
            response was lost, the stored `claim_id` shows that this call stored the event.
        :param content: Its payload and metadata, as `compressed` returns them.
        :returns: Applied if this call stored the event. Otherwise the result carries the event that
            is stored already or, if that was erased, `erased_until`.
        """
        item = serialize({**to_attributes(event), "content": content})
        return self._result(self._write("put_item", ABSENT, {"Item": item}), event.claim_id)

    def put_listed(self, copy: Event, original: Event) -> WriteResult:
        """Store a copy and add its id to the list of copies in its event, both or neither: an
        erasure deletes the copies in this list, and must miss none.

        The event is kept at least as long as the copy.

        :param copy: The copy (the event made for one subscription), with a new `claim_id`.
        :param original: The event of the copy, as it was read.
        :returns: Applied, with the copy, if both were written. Not applied, with the copy that is
            stored already, if there is one. Not applied, without a copy, if the event was changed
            since it was read, or another transaction is changing one of the two: read the event
            again, and repeat the call.
        """
        # A dict has each id once: the event may list the copy already.
        listed = dict.fromkeys((*original.copies, copy.event_id))
        values: Values = {
            ":sort_key": original.sort_key,
            ":copies": dumps(original.copies),
            ":listed": dumps([*listed]),
            ":until": max(copy.expires_at, original.expires_at),
            **_kept_longer(original),
        }
        put = {
            "Item": serialize({**to_attributes(copy), "content": compressed(copy)}),
            "ConditionExpression": COPY_ABSENT,
        }
        update = {
            "Key": serialize({"event_id": original.event_id}),
            "UpdateExpression": "SET copies = :listed, expires_at = :until, status_shard = :shard",
            "ConditionExpression": AS_READ,
        }
        reasons = self._transact(values, ("Put", put), ("Update", update))
        if not reasons:
            return WriteResult(applied=True, event=copy)
        reason_of_put, reason_of_update = reasons
        # `_result` says "applied" if the stored copy is the one that a lost try of boto3 wrote.
        put_result = ItemResult(applied=False, item=reason_of_put.get("Item"))
        result = self._result(put_result, copy.claim_id)
        # DynamoDB's text "None": the update of the event was not the cause.
        is_event_as_read = reason_of_update["Code"] == "None"
        if result.applied or is_event_as_read:
            return result
        return WriteResult(applied=False)

    def renew(self, event_id: str, expires_at: int) -> None:
        """Let an event expire at `expires_at` (Unix seconds), if it would expire earlier.

        Call it for the event of a copy that is kept longer: a caller erases a copy by erasing its
        event, so the event must not expire before its copies. Nothing happens if the event has
        expired. Raises EventNotFoundError if it was erased.
        """
        # The condition fails if the event was changed after it was read: read it again. The loop
        # ends without a write if the event is absent, or expires late enough already.
        while (event := self.get(event_id)) and event.expires_at < expires_at:
            values = _kept_longer(event)
            changes = {"expires_at": expires_at, "status_shard": values[":shard"]}
            if self.change(event_id, KEPT_LONGER, changes, values).applied:
                return
        # An absent event has expired, or was erased.
        if event is None and self.read(event_id).erased_until:
            raise EventNotFoundError

    def claim(self, event_id: str, claim_id: str) -> WriteResult:
        """Claim a due event: take the exclusive right to push it for CLAIM_SECONDS, count the
        attempt, and remove the mark of a sweep (`requeue_at`).

        :param claim_id: A new id for the claim.
        :returns: Applied, with the claimed event. Not applied if the event is not due, or is
            claimed by a push or a lease: then the result carries the event as it is, or None if
            there is no such event.
        """
        until = self._after(CLAIM_SECONDS)
        changes = {"claim_id": claim_id, "claimed_until": until, "requeue_at": None}
        return self.change(
            event_id, CLAIMABLE, changes, counter="delivery_attempts", returns_event=True
        )

    def record(self, event: Event) -> WriteResult:
        """Write the state of a claimed event after an attempt and end its claim.

        :param event: The event as `Event.after` returns it: with its new state, and with the
            `claim_id` of the claim that ends.
        :returns: Not applied, and logged, if a consumer acknowledged the event meanwhile, or if
            somebody else claimed it after the claim had expired.
        """
        is_kept_longer = event.expires_at > unix_seconds(event.created_at) + self._retention_seconds
        attributes = to_attributes(event, kept_longer=is_kept_longer)
        # None for an attribute that the event does not have any more: `change` removes it.
        changes = {name: attributes.get(name) for name in RECORDED}
        result = self.change(event.event_id, RECORDABLE, changes, {":mine": event.claim_id})
        current = result.event  # None if the write was applied: it returns no item
        written = (event.claim_id, event.status, event.attempts)
        if current and (current.claim_id, current.status, current.attempts) == written:
            # boto3's first try wrote the event, and its response was lost; the condition of the
            # second try failed, because the event was not pending any more.
            return WriteResult(applied=True)
        if not result.applied:
            extra = {"event_id": event.event_id}
            logger.warning("not recorded: acknowledged, or claimed by another", extra=extra)
        return result

    def delete_claimed(self, event: Event) -> WriteResult:
        """Delete a copy, if nobody else has claimed it since `event` was claimed or made; the
        result says whether it was deleted.
        """
        return self.delete(event.event_id, MINE, {":mine": event.claim_id})

    def delete(self, event_id: str, condition: str, values: Values = NO_VALUES) -> WriteResult:
        """Delete an event, if a condition holds.

        :param condition: A condition expression. It may also hold for an absent event.
        :param values: The values of its placeholders.
        :returns: Applied if the condition held. Otherwise the result carries the current event.
        """
        return self._result(
            self._write("delete_item", condition, {"Key": key_of(event_id)}, values)
        )

    def delete_expired(self, event_id: str) -> None:
        """Delete an event, if it has expired; do nothing if it has not, or if DynamoDB fails.

        DynamoDB itself deletes expired events up to days late, and each search reads their rows
        until then.
        """
        with suppress(StorageUnavailableError):
            self.delete(event_id, EXPIRED)

    def start_catch_up(self, destination: str, cause: str = MENDED) -> bool:
        """Start a catch-up of a destination that delivers again: the sweep pushes the pending
        events of the destination before they are due.

        The catch-up is stored as a mark, an item by which the sweep finds the destination. There is
        one mark for each destination and cause. If there is one already, this depends on the mark:

        * Its catch-up has not ended: another catch-up is noted in it, to follow that one.
        * Its catch-up has ended, but began less than RESTART_SECONDS ago: with MENDED, another
          catch-up is to begin when that time is over; with TESTED, nothing is done.

        :param destination: The id of a subscription, or WEBHOOK.
        :param cause: MENDED: a delivery ended long trouble. TESTED: a test event was delivered.
        :returns: Whether a catch-up with this cause is under way now.
        """
        new_mark: Json = {
            "undelivered_key": MENDED,  # the partition of all marks, whatever their cause
            "sort_key": self._after(0),  # when the catch-up begins
            "expires_at": int(self._clock()) + DAY_SECONDS,
        }
        item_key = f"{cause}#{destination}"
        item = serialize({"event_id": item_key, **new_mark})
        written = self._write("put_item", ABSENT, {"Item": item})
        # Without an item, the mark that was there expired after the condition had failed.
        if written.applied or written.item is None:
            return True
        mark = written.item
        if _is_in_index(mark):
            mark = self._note_next_catch_up(item_key, mark)
        if cause == MENDED and not _is_in_index(mark):
            # The catch-up has ended. `end_catch_up` let its mark expire when the next may begin.
            new_mark["sort_key"] = rfc3339(int(mark["expires_at"]["N"]))
            self._update(item_key, f"NOT {IN_INDEX}", new_mark, NO_VALUES)
        return self._is_under_way(mark)

    def _note_next_catch_up(self, item_key: str, mark: Json) -> Json:
        """Note in the mark of a catch-up that has not ended that another catch-up is to follow.

        In the first minute of the catch-up nothing is noted: events that failed in that minute have
        a backoff of a minute at most, and several containers may note one and the same delivery.

        :param mark: The mark as it was read, in DynamoDB's format.
        :returns: The mark. If the catch-up has ended since it was read, the mark as it is now.
        """
        is_old = mark["sort_key"]["S"] <= self._after(-SWEEP_PERIOD_SECONDS)
        if not is_old:
            return mark
        noted = self._update(item_key, IN_INDEX, {"again_at": self._after(0)}, NO_VALUES)
        # The result has an item only if the condition failed, because the catch-up has ended.
        return noted.item or mark

    def is_catching_up(self, destination: str) -> bool:
        """Return whether a catch-up of a destination is under way, whatever its cause: a delivery
        after long trouble, or a test event that was delivered.

        :param destination: The id of a subscription, or WEBHOOK.
        """
        marks = self._get_many([f"{cause}#{destination}" for cause in (MENDED, TESTED)])
        return any(map(self._is_under_way, marks))

    def _is_under_way(self, mark: Json) -> bool:
        """Return whether a catch-up is under way: its mark is in the index in which the sweep looks
        for marks, its beginning has passed, and the mark has not expired.

        :param mark: The item of the mark, in DynamoDB's format.
        """
        has_begun = mark["sort_key"]["S"] <= self._after(0)
        is_expired = int(mark["expires_at"]["N"]) <= self._clock()
        return _is_in_index(mark) and has_begun and not is_expired

    def catch_ups(self) -> list[CatchUp]:
        """Return the marks of the catch-ups that are under way, the oldest first.

        A mark is an item that `start_catch_up` stores for a destination that delivers again, whose
        pending events the sweep then pushes before they are due. One page of the index is read,
        1 MB with thousands of marks: the sweep calls this again each minute.
        """
        # The sort key of a mark is the time at which its catch-up begins, perhaps a later one.
        values = {":high": self._after(0)}
        # All marks are in the partition MENDED, whatever the cause of their catch-up.
        rows = next(self.pages(MENDED, values, index=UNDELIVERED, condition=NOT_EXPIRED))
        return [CatchUp(row["event_id"]["S"], row["sort_key"]["S"]) for row in rows["Items"]]

    def end_catch_up(self, mark: CatchUp) -> None:
        """End a catch-up: take its mark out of the index in which the sweep looks for marks. If
        another catch-up was noted in the mark meanwhile, let that begin instead.

        The mark that leaves the index is deleted RESTART_SECONDS after the catch-up began, so that
        a destination that flaps does not begin to catch up all the time. A catch-up that was noted
        begins at once or, if a test event caused the ended one, RESTART_SECONDS after that began.
        If the mark was changed by another call since it was read, nothing happens.

        :param mark: The mark as it was read.
        """
        as_read: Values = {":since": mark.since}
        restart_at = int(unix_seconds(mark.since)) + RESTART_SECONDS  # Unix seconds
        ended: Values = {"undelivered_key": None, "expires_at": restart_at}
        # AGAIN: another catch-up was noted in the mark after `:since`.
        has_no_next = f"sort_key = :since AND NOT {AGAIN}"
        if self._update(mark.item_key, has_no_next, ended, as_read).applied:
            return
        begins_at = self._clock()
        if mark.cause == TESTED:
            begins_at = max(begins_at, restart_at)
        next_mark: Values = {
            "sort_key": rfc3339(begins_at),
            "expires_at": int(begins_at) + DAY_SECONDS,
        }
        self._update(mark.item_key, f"sort_key = :since AND {AGAIN}", next_mark, as_read)

    def get(self, event_id: str) -> Event | None:
        """Return an event or copy, read consistently; None: it is absent, expired or erased."""
        return self.read(event_id).event

    def read(self, event_id: str) -> WriteResult:
        """Read an event consistently.

        :returns: A result that is not applied, since nothing is written. It carries the event or,
            if that was erased, `erased_until`; neither if the event is absent or has expired.
        """
        item = self._get(event_id)
        return self._result(ItemResult(applied=False, item=item))

    def get_many(self, event_ids: Sequence[str], *, with_content: bool = True) -> dict[str, Event]:
        """Return events and copies by id, read consistently; absent, expired and erased events are
        left out.

        :param with_content: Whether payload and metadata are read, too.
        """
        names = () if with_content else SUMMARY  # no names: all attributes are read
        items = self._get_many(event_ids, names)
        # `_result` finds out which items are expired or erased, as after a write that was not
        # applied. Nothing is written here.
        results = [self._result(ItemResult(applied=False, item=item)) for item in items]
        return {result.event.event_id: result.event for result in results if result.event}

    def change(
        self,
        event_id: str,
        condition: str,
        changes: Values,
        values: Values = NO_VALUES,
        *,
        counter: str = "",
        returns_event: bool = False,
    ) -> WriteResult:
        """Change attributes of an event by one write, if a condition holds.

        :param condition: A condition expression.
        :param changes: The new values of attributes by name; None removes the attribute.
        :param values: The values of the placeholders in `condition`.
        :param counter: The name of an attribute to which 1 is added; empty: none.
        :param returns_event: Whether the result carries the event as it is after the write; False:
            a result that is applied has no event. If the condition failed, the result carries the
            current event anyway.
        :returns: Applied if the condition held. Also applied if the condition failed and the event
            has the `claim_id` of `changes`: then boto3's first try wrote it, and its response was
            lost.
        """
        written = self._update(
            event_id, condition, changes, values, counter=counter, returns_item=returns_event
        )
        return self._result(written, changes.get("claim_id", ""))

    def _result(self, written: ItemResult, new_claim_id: object = "") -> WriteResult:
        """Return the result of the write of an event, for the result of the write of its item.

        :param written: Whether the condition of the write held, and the item.
        :param new_claim_id: The `claim_id` that the write sets; empty: it sets none. If the
            condition failed and the event has this `claim_id`, boto3's first try wrote it: the
            write counts as applied, unless a consumer acknowledged the event since.
        :returns: Applied, with the event if the write returns the item. Not applied, with the
            current event, with `erased_until` if it was erased, or with neither if there is none.
        """
        applied, item = written
        if applied:
            return WriteResult(applied=True, event=from_item(item) if item else None)
        current = self._unexpired(item)
        if current is None:
            return WriteResult(applied=False)
        if current.status is Status.ERASED:
            return WriteResult(applied=False, erased_until=current.expires_at)
        is_own = current.claim_id == new_claim_id
        is_acknowledged = current.delivered_via is DeliveredVia.PULL
        return WriteResult(applied=is_own and not is_acknowledged, event=current)

    def _unexpired(self, item: Any) -> Event | None:
        """Return the event of an item; None: there is no item, or its event has expired."""
        if item is None:
            return None
        event = from_item(item)
        return event if event.expires_at > self._clock() else None


def partitions(*statuses: Status, of_copies: bool = False) -> list[str]:
    """Return the keys of the partitions of `status-index` that have the events with some statuses.

    :param of_copies: True: the partitions of copies are returned. False: the partitions of other
        events, among them those of events that are kept longer than the retention period, such as
        replayed events. Only pending and failed events that are kept longer have such partitions.
    """
    prefix = COPY if of_copies else ""
    keys = [f"{prefix}{status}#{shard}" for status in statuses for shard in range(SHARDS)]
    if not of_copies:
        keys += [f"{REPLAYED}{status}" for status in statuses if status in UNSETTLED]
    return keys


def _is_in_index(mark: Json) -> bool:
    """Return whether the mark of a catch-up is in the index in which the sweep looks for marks: its
    catch-up has not ended.

    :param mark: The item of the mark, in DynamoDB's format.
    """
    return "undelivered_key" in mark


def status_attributes(event_id: str, status: Status, *, kept_longer: bool = False) -> Values:
    """Return the attributes `status` and `status_shard` (the partition of `status-index`) of an
    event or copy.

    :param kept_longer: Whether the event is kept for longer than the retention period. Then, as
        long as it is pending or failed, it is in a partition for such events; a copy never is.
    """
    key = f"{status}#{zlib.crc32(event_id.encode()) % SHARDS}"
    if event_id.startswith(COPY_PREFIX):
        key = f"{COPY}{key}"
    elif kept_longer and status in UNSETTLED:
        key = f"{REPLAYED}{status}"  # few: one partition for each status is enough
    return {"status": status, "status_shard": key}


def _status_of_shard(status_shard: str) -> str:
    """Return the status in a partition key of `status-index`, as `status_attributes` makes it:
    `pending#3`, `copy-pending#3` or `replayed-pending`.
    """
    without_number = status_shard.split("#")[0]
    return without_number.rpartition("-")[2]


def _kept_longer(event: Event) -> Values:
    """Return the values of `:status` and `:shard` for a write that keeps an event longer than the
    retention period.

    `:status` is the event's status, which stays. `:shard` is the partition of `status-index` for
    events that are kept longer: searches do not find old events in the other partitions.
    """
    attributes = status_attributes(event.event_id, event.status, kept_longer=True)
    return {":status": event.status, ":shard": attributes["status_shard"]}


def compressed(event: Event) -> bytes:
    """Return the payload and metadata of an event as they are stored: compressed, with a line break
    between them, which compact JSON does not have.

    A content that cannot be compressed grows by about a dozen bytes.
    """
    return zlib.compress(f"{event.payload}\n{event.metadata}".encode())


def to_attributes(event: Event, *, kept_longer: bool = False) -> Values:
    """Return the attributes of the item that stores an event, without `content` (the compressed
    payload and metadata). Fields whose value is None, 0 or empty are left out. A key of an index in
    which the event is not is None, and is left out when the item is written.

    :param kept_longer: Whether the event is kept for longer than the retention period. Pending and
        failed events then have partitions of `status-index` of their own.
    """
    kept = {name: value for name, value in vars(event).items() if value and name not in NOT_STORED}
    return {
        **kept,
        **status_attributes(event.event_id, event.status, kept_longer=kept_longer),
        "sort_key": event.sort_key,
        "lookup_key": lookup_key(event.subscription_id, event.subject),
        "undelivered_key": event.undelivered_key,
        # The fields that are stored as texts of JSON, in place of their values in `kept`.
        **{name: encode(kept[name]) for name, encode in ENCODERS.items() if name in kept},
    }


def from_item(item: Json) -> Event:
    """Return the event of an item of the table or of an index.

    :param item: The item in DynamoDB's format, with a `sort_key`. Attributes that it does not have,
        because an index does not project them, become the defaults of the event's fields.
    """
    values = {name: _plain(value) for name, value in item.items()}
    values["created_at"], values["event_id"] = values["sort_key"].split("#")
    if "delivered_at" in values:  # the clock of another container may be late
        values["delivered_at"] = max(values["delivered_at"], values["created_at"])
    if "status_shard" in values:  # an index may project this attribute alone, and not `status`
        values["status"] = _status_of_shard(values["status_shard"])
    if "content" in values:  # as `compressed` makes it
        content = zlib.decompress(values["content"]).decode()
        values["payload"], values["metadata"] = content.split("\n")
    # Attributes that have another form than the fields: texts of JSON, and members of enums.
    for name, decode in DECODERS.items():
        if name in values:
            values[name] = decode(values[name])
    return Event(**{name: values[name] for name in EVENT_FIELDS if name in values})


def _plain(value: Json) -> Any:
    """Return the Python value of an attribute in DynamoDB's format: 1 for `{"N": "1"}`."""
    return int(value["N"]) if "N" in value else next(iter(value.values()))


def _encode_attempts(attempts: Sequence[Attempt]) -> str:
    """Return the text in which attempts are stored: a JSON list of the newest attempt alone, whose
    member EARLIER has the attempts before it, compressed.

    The earlier attempts are compressed, because each write of an event that fails for days pays
    for all of its attempts. Functions of version 1.0 ignore the member, and go on from the newest
    attempt; their erasures remove the attribute, and EARLIER with it.

    :param attempts: At least one attempt, the oldest first.
    """
    *earlier, newest = map(_stored_attempt, attempts)
    if not earlier:
        return dumps([newest])
    # Most attempts are alike: with the newest attempt as the dictionary, which the reader has, too,
    # the first of the others is short.
    compressor = zlib.compressobj(zdict=dumps(newest).encode())
    compressed_earlier = compressor.compress(dumps(earlier).encode()) + compressor.flush()
    return dumps([{**newest, EARLIER: base64.b85encode(compressed_earlier).decode()}])


def _stored_attempt(attempt: Attempt) -> Json:
    """Return the members of an attempt that are stored: `response_headers` only if it has some,
    because each write pays for the bytes of each member, and version 1.0 does not read this one.
    """
    members = dict(vars(attempt))
    if members["response_headers"] is None:
        del members["response_headers"]
    return members


def _decode_attempts(text: str) -> tuple[Attempt, ...]:
    """Return the attempts in a text of `_encode_attempts`, the oldest first.

    A plain JSON list, as version 1.0 stored them, is read, too. Members that a newer version added
    are ignored.
    """
    documents = json.loads(text)
    # The last attempt of the list has the compressed JSON list of the attempts before it; the
    # dictionary of the compression is the JSON of that last attempt without this member.
    compressed_earlier = documents[-1].pop(EARLIER, None)
    if compressed_earlier:
        decompressor = zlib.decompressobj(zdict=dumps(documents[-1]).encode())
        earlier = decompressor.decompress(base64.b85decode(compressed_earlier))
        documents = json.loads(earlier) + documents
    attempts = []
    for stored in documents:
        known = {name: stored.get(name) for name in ATTEMPT_FIELDS}
        known["outcome"] = OUTCOMES(stored["outcome"])  # the Outcome of its text
        attempts.append(Attempt(**known))
    return tuple(attempts)


def _member_parser(kind: type[StrEnum]) -> Parser:
    """Return a function that returns the member of an enum for a text, or None for a text that no
    member has: a later version may have stored it.
    """
    return {str(member): member for member in kind}.get


EARLIER = "earlier"  # the member of the newest stored attempt that has the attempts before it
ATTEMPT_FIELDS = [field.name for field in fields(Attempt)]
OUTCOMES = _member_parser(Outcome)
# How values of attributes are stored, and how stored values are read.
ENCODERS: Parsers = {
    "attempts": _encode_attempts,
    "copies": dumps,
}
DECODERS: Parsers = {
    "status": _member_parser(Status),
    "delivered_via": _member_parser(DeliveredVia),
    "reason": _member_parser(Reason),
    "attempts": _decode_attempts,
    "copies": lambda text: tuple(json.loads(text)),
}
