"""The promises, checked for every run, whatever failed in it.

A history watches the table, the receiver, callers and consumers; at the end the store is compared
with what it saw. A fault excuses a push that its invocation could not record.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chalicelib.core.event import COPY_PREFIX, DeliveredVia, Event, Status
from chalicelib.core.outcome import BREAKER_OPEN, Reason
from chalicelib.core.store import MENDED, TESTED, from_item
from chalicelib.infra.parsing import RESERVED_PREFIX
from chalicelib.infra.times import unix_seconds
from tests.support.in_memory_aws import typed
from tests.support.world import Json

# The status and `delivered_via` of a stored event while a push of it is made. The second is that of
# an event that a consumer acknowledged after it was claimed for the push.
MAY_BE_PUSHED = ((Status.PENDING, None), (Status.DELIVERED, DeliveredVia.PULL))

Item = Json


class ViolationError(AssertionError):
    """A promise was broken."""


@dataclass
class Push:
    """A push that reached the receiver."""

    # The event as the invocation had it.
    event: Event
    # The invocation that made the push.
    invocation: object
    # When the push reached the receiver.
    started: float
    # How often the event had been stored or replayed then.
    replay_number: int = 0
    # None: the receiver did not respond.
    status_code: int | None = None
    # Whether the sender never saw the response.
    is_lost: bool = False
    # Whether the invocation has written a record of the event since.
    is_recorded: bool = False

    @property
    def arrived(self) -> bool:
        """Whether the receiver responded with a status code from 200 to 299."""
        return self.status_code is not None and 200 <= self.status_code < 300


class History:
    """What callers, consumers, the receiver and the table saw.

    In all methods, events include copies, and times are Unix seconds.
    """

    def __init__(self, item: Callable[[str], Json | None]) -> None:
        """Begin a history in which nothing was seen.

        :param item: Returns the item that the table has under a key, or None.
        """
        self.item = item
        # How far the clock of a container may be off, either way.
        self.max_skew_seconds = 0.0
        # When the POST of each accepted event began, by the id of the event.
        self.accepted = dict[str, float]()
        # The ids of the events that consumers acknowledged, or tried to.
        self.acknowledged = set[str]()
        # The pushes of each event, by its id, the oldest first.
        self.pushes = defaultdict[str, list[Push]](list)
        # The ids of the events a push of which is under way.
        self.running = set[str]()
        # How often each event was stored or replayed.
        self.replays = Counter[str]()
        # How many calls had a fault, and the invocations that made these calls.
        self.faults = 0
        self.struck = set[object]()
        # How many attempts were counted without a push, less the pushes that were not counted as
        # attempts, by the id of the event and its `replays` then.
        self.not_made = Counter[tuple[str, int]]()
        # The promises that were broken, in words.
        self.violations = list[str]()
        # The ids of an event and its lease, for each lease that was written to the table.
        self.leases = set[tuple[str, str]]()
        # When each subscription that exists was created.
        self.subscribed_at = dict[str, float]()
        # When each subscription that was deleted was deleted for the last time.
        self.ended_at = dict[str, float]()
        # Until when each subscription that was disabled was so; infinity: it is disabled.
        self.disabled_until = dict[str, float]()
        # When each event was stored for the last time, and when it was stored or replayed.
        self.stored_at = dict[str, float]()
        self.pending_since = dict[str, float]()
        # Whether a container has COPIES_ONLY as its webhook.
        self.pushes_copies_alone = False
        # When a dead letter was moved back to its queue, by its event and its time of failure.
        self.moved_back = dict[tuple[str, str], float]()
        # The ids of the copies that were deleted.
        self.deleted = set[str]()
        # How many messages about each event were sent to a queue.
        self.messages = Counter[str]()
        # The ids of the subscriptions with a tenant.
        self.customers = set[str]()
        # The ids of the events with a line of the log that says "dead letter".
        self.logged = set[str]()
        # The ids of the copies that were made by a send or a recover, after their event was stored.
        self.sent = set[str]()
        # When the latest erasure of each erased event began.
        self.erased_at = dict[str, float]()
        # The event and the subscription of each copy that was erased.
        self.erased_copies = set[tuple[str, str]]()
        # When the POST of the event began, by the event and the subscription of each copy that it
        # should have made.
        self.expected_copies = dict[tuple[str, str], float]()

    def forbid(self, is_broken: bool, violation: str) -> None:
        """Note a violation if a promise is broken. It is not raised, because the code under test
        catches exceptions.
        """
        if is_broken:
            self.violations.append(violation)

    def see_write(self, before: Item | None, after: Item | None, now: float) -> None:
        """Check a write of an item to the table, and note what it changes.

        :param before: The item before the write; None: it did not exist.
        :param after: The item after the write; None: it was deleted.
        """
        item = after or before or {}
        key = item["event_id"]  # the key of each item, also of a subscription
        is_mark_of_catch_up = key.startswith((MENDED, TESTED))
        if is_mark_of_catch_up:
            return
        self._see_undelivered(before or {}, after or {})
        is_subscription = "status" not in item  # only events have it
        if is_subscription:
            self._see_subscription(key, before, after, now)
        elif after is None:
            self._see_deletion(item, now)
        elif before is None or _is_created_anew(before, after) or _is_sent_again(before, after):
            self._see_new_event(key, before, after, now)
        else:
            self._see_change(key, before, after, now)

    def _see_new_event(self, event_id: str, before: Item | None, after: Item, now: float) -> None:
        """Check an event that was stored: not in place of another event, unless that had expired,
        or was erased and is sent again. Note when it was stored, and that its attempts begin anew.

        :param before: The item before the write; None: it did not exist.
        """
        has_expired = before is not None and before["expires_at"] <= now + self.max_skew_seconds
        is_free = before is None or has_expired or _is_sent_again(before, after)
        self.forbid(not is_free, "an event was stored in place of another")
        self.stored_at[event_id] = now
        self.pending_since[event_id] = now
        self.replays[event_id] += 1
        self.deleted.discard(event_id)
        self.sent.discard(event_id)
        if "replayed_at" in after:  # from the start: a copy that a send or a recover made
            self._see_sent_copy(after)

    def _see_undelivered(self, before: Item, after: Item) -> None:
        """Check a write of an event: that a copy is in the index of undelivered copies, which has
        the items with the attribute `undelivered_key`, from the record of its first failure until
        it is delivered or erased, and that no other item is in this index.

        :param before: The item before the write; empty: it did not exist.
        :param after: The item after the write; empty: it was deleted.
        """
        is_in_index = "undelivered_key" in after
        is_copy = after.get("event_id", "").startswith(COPY_PREFIX)
        if not is_copy:
            self.forbid(is_in_index, "an event is marked as a copy is")
            return
        status = after["status"]
        attempt = newest_attempt(after)  # empty if there was none
        is_attempt_recorded = bool(attempt) and attempt != newest_attempt(before)
        # A copy that is pending after an attempt is retried.
        has_failed = status == Status.FAILED or (status == Status.PENDING and is_attempt_recorded)
        self.forbid(has_failed and not is_in_index, "a copy failed and is not marked")
        is_settled = status in (Status.DELIVERED, Status.ERASED)
        self.forbid(is_settled and is_in_index, "a copy was delivered or erased and is marked")

    def _see_sent_copy(self, copy: Item) -> None:
        """Note a copy that a send or a recover made, and check it: its event, of which it is a
        copy, must exist, must list the copy in `copies`, and must not be erased.
        """
        self.sent.add(copy["event_id"])
        source = self.item(copy["source_event_id"])
        is_right = (
            source is not None
            and source["status"] != Status.ERASED
            and copy["event_id"] in source.get("copies", "")
        )
        self.forbid(not is_right, "a copy was sent of an event that is erased or does not list it")

    def _see_change(self, event_id: str, before: Item, after: Item, now: float) -> None:
        """Check a change of a stored event, and note what it was: an erasure, a replay, a lease, or
        the record of an attempt.

        These changes are forbidden: to erase an event or to claim it while it is claimed, to change
        an erased event, to let an event expire earlier, to lease a delivered event, and to let an
        event become delivered via subscriptions, which is decided when it is stored.

        :param before: The item before the write.
        :param after: The item after the write.
        """
        claim_id = after["claim_id"]
        is_erased = after["status"] == Status.ERASED
        has_new_claim = claim_id != before["claim_id"] and not _is_released(before, after)
        was_claimed = False
        if "claimed_until" in before:
            # Until then, the claim has not ended by the clock of any container.
            until = unix_seconds(before["claimed_until"]) - self.max_skew_seconds
            was_claimed = now <= until
        if was_claimed and (is_erased or has_new_claim):
            self.violations.append("an event was taken from who held it")
        if is_erased:
            self._see_erasure(after, now)
            return
        self.forbid(before["status"] == Status.ERASED, "an erased event was changed")
        # Two clocks can be off, in opposite directions, and the expiry is in whole seconds.
        tolerance_seconds = 2 * self.max_skew_seconds + 1
        is_shorter = after["expires_at"] < before["expires_at"] - tolerance_seconds
        self.forbid(is_shorter, "an event ends earlier than it would have")
        self._see_replay(event_id, before, after, now)
        if after.get("reason") == Reason.DISABLED and before.get("reason") != Reason.DISABLED:
            self._see_failure_as_disabled(after)
        is_leased = after.get("lease_count", 0) > before.get("lease_count", 0)
        if is_leased:
            self.leases.add((event_id, claim_id))  # a lease is a claim, and has its id
            self.forbid(before["status"] == Status.DELIVERED, "a delivered event was leased")
        self._see_attempt(event_id, before, after)
        became_delivered_via = after.get("delivered_via")
        if before.get("delivered_via") != became_delivered_via:
            self.forbid(
                became_delivered_via == DeliveredVia.SUBSCRIPTIONS,
                "an event that was stored already became delivered via subscriptions",
            )

    def _see_replay(self, event_id: str, before: Item, after: Item, now: float) -> None:
        """Note if a change of an event is a replay, which sets the number of its attempts to 0.
        Check that an event that was delivered or had failed becomes pending by a replay alone.

        :param before: The item before the write.
        :param after: The item after the write.
        """
        attempts_before = before.get("delivery_attempts", 0)
        attempts = after.get("delivery_attempts", 0)
        became_pending = before["status"] != Status.PENDING and after["status"] == Status.PENDING
        has_new_replay = before.get("replayed_at") != after.get("replayed_at")
        # Without this condition, any other change of an event that has had no attempts, such as a
        # lease, would count as a replay.
        can_be_replay = became_pending or has_new_replay or attempts_before > 0
        if can_be_replay and attempts == 0:
            self.replays[event_id] += 1
        if has_new_replay:
            self.pending_since[event_id] = now
        if became_pending and attempts > 0:
            self.violations.append(f"{before['status']} became pending without a replay")

    def _see_attempt(self, event_id: str, before: Item, after: Item) -> None:
        """Update `not_made` for a change of an event: the number of attempts without a push since
        the latest replay. Add 1 for an attempt that was recorded without a push, because the
        breaker was open; subtract 1 for a push by a catch-up, which does not count as an attempt.
        At the end, the pushes and `not_made` together are compared with the attempts.

        :param before: The item before the write.
        :param after: The item after the write.
        """
        attempt = newest_attempt(after)
        is_recorded = attempt != newest_attempt(before)
        key = (event_id, self.replays[event_id])
        if is_recorded and attempt.get("error") == BREAKER_OPEN:
            self.not_made[key] += 1
        # The claim counted the attempt, and the record of a catch-up takes the count back. (A
        # replay sets it to 0.)
        is_taken_back = 0 < after.get("delivery_attempts", 0) < before.get("delivery_attempts", 0)
        if is_recorded and is_taken_back:
            self.not_made[key] -= 1

    def _see_failure_as_disabled(self, copy: Item) -> None:
        """Check that the subscription of a copy, which failed for this reason, was disabled at some
        time since the copy became pending, or was created again since.
        """
        subscription_id = copy["subscription_id"]
        since = self.pending_since[copy["event_id"]]
        is_same = self.subscribed_at.get(subscription_id, math.inf) <= since
        was_enabled = self.disabled_until.get(subscription_id, 0.0) < since
        if is_same and was_enabled:
            self.violations.append("a copy failed as disabled, though its subscription was not")

    def _see_subscription(
        self, subscription_id: str, before: Item | None, after: Item | None, now: float
    ) -> None:
        """Note whether a subscription has a tenant, until when it was disabled, and when it was
        created or deleted.

        :param before: The item before the write; None: it did not exist.
        :param after: The item after the write; None: it was deleted.
        """
        if after and "tenant" in after:
            self.customers.add(subscription_id)
        if after and "disabled_at" in after:
            self.disabled_until[subscription_id] = math.inf
        elif before and "disabled_at" in before:
            self.disabled_until[subscription_id] = now
        if after is None:
            was_subscribed = self.subscribed_at.pop(subscription_id, None) is not None
            if was_subscribed:
                self.ended_at[subscription_id] = now
        elif before is None or _is_created_anew(before, after):
            self.subscribed_at[subscription_id] = now

    def _see_erasure(self, event: Item, now: float) -> None:
        """Note the erasure of an event. Check that the mark, the item that is left of the event,
        has nothing of its content.
        """
        self.erased_at[event["event_id"]] = now
        if event["event_id"].startswith(COPY_PREFIX):
            self.erased_copies.add((event["source_event_id"], event["subscription_id"]))
            self.deleted.add(event["event_id"])
        kept = event.keys() & {
            "content",
            "attempts",
            "last_error",
            "tenant",
            "body_hash",
            "status_shard",
        }
        self.forbid(bool(kept), "an erased event has its content, or is listed")

    def _see_deletion(self, event: Item, now: float) -> None:
        """Check the deletion of an event: the event must have expired, or be a copy that nobody
        waits for. This is a copy whose event was erased or does not list the copy, or whose
        subscription was deleted, or created again after the copy.

        :param event: The item that was deleted.
        """
        has_expired = event["expires_at"] <= now + self.max_skew_seconds
        if has_expired:
            return
        event_id = event["event_id"]
        self.forbid(event_id in self.running, "an event was deleted while it was pushed")
        # The event of which the deleted one is a copy; None: it is no copy, or its event is gone.
        source = self.item(event.get("source_event_id", ""))
        if source and source["status"] == Status.ERASED:
            return
        self.deleted.add(event_id)
        # When the subscription of the copy was created; None: it does not exist now.
        subscribed_at = self.subscribed_at.get(event.get("subscription_id", ""))
        is_subscription_gone = subscribed_at is None or self.stored_at[event_id] <= subscribed_at
        is_unlisted = source is not None and event_id not in source.get("copies", "")
        is_copy = event_id.startswith(COPY_PREFIX)
        self.forbid(
            not (is_copy and (is_subscription_gone or is_unlisted)),
            "an event was deleted that was no copy, or a copy that somebody waits for",
        )

    def see_sent(self, event_id: str, group_id: str) -> None:
        """Count a message about an event; check that its MessageGroupId is its destination's."""
        self.messages[event_id] += 1
        item = self.item(event_id)
        if item and group_id != item.get("subscription_id", "webhook"):
            self.violations.append(f"a message about {event_id} is in the group {group_id!r}")

    def see_leased(self, leased: Iterable[tuple[str, str]]) -> None:
        """Check that each event that a consumer was given has the lease in the table.

        :param leased: The ids of each event and of its lease.
        """
        self.forbid(
            not self.leases.issuperset(leased), "a consumer was given an event without a lease"
        )

    def see_erased(self, event_id: str, replay_number: int) -> None:
        """Check that an event is gone after a complete erasure, or was stored again meanwhile.

        :param replay_number: The `replays` of the event before the call that erased it.
        """
        item = self.item(event_id)
        is_there = item is not None and item["status"] != Status.ERASED
        is_stored_again = self.replays[event_id] != replay_number
        if is_there and not is_stored_again:
            self.violations.append("an event is there whose erasure was said to be complete")

    def see_accepted(
        self, event_id: str, payload: str, subscription_ids: set[str], began: float
    ) -> None:
        """Note an accepted event, and that each of some subscriptions must get a copy, unless it is
        deleted meanwhile. Check that the event is stored with the accepted payload.

        :param payload: The payload in the POST, as JSON.
        :param subscription_ids: The ids of the subscriptions.
        :param began: When the POST began.
        """
        self.accepted[event_id] = began
        for subscription_id in subscription_ids:
            self.expected_copies[event_id, subscription_id] = began
        item = self.item(event_id)
        was_erased_since = self.erased_at.get(event_id, 0) >= began
        if item and not was_erased_since and from_item(typed(item)).payload != payload:
            self.violations.append("a body was accepted, and another is stored")

    def see_moved_back(self, body: str, now: float) -> None:
        """Note that a message of the DLQ was moved back to its queue. A message whose body is not
        JSON is not about an event.
        """
        if body.startswith("{"):
            dead_letter = json.loads(body)
            self.moved_back[dead_letter["event_id"], dead_letter["failed_at"]] = now

    def may_be_dropped(self, event: Event) -> bool:
        """Return whether the dead letter of a failed event may be gone from the DLQ without a push:
        it was moved back while events were not pushed or, for a copy, before its subscription was
        last disabled, deleted or created. Return False if it was not moved back.
        """
        moved_at = self.moved_back.get((event.event_id, event.failed_at or ""))
        if moved_at is None:
            return False
        if not event.is_copy:
            return self.pushes_copies_alone
        subscription_id = event.subscription_id or ""
        not_pushed_until = max(
            self.disabled_until.get(subscription_id, 0.0),
            self.ended_at.get(subscription_id, 0.0),
            # Infinity: the subscription does not exist.
            self.subscribed_at.get(subscription_id, math.inf),
        )
        return moved_at <= not_pushed_until

    def subscriptions_at(self, time: float, tenant: str | None) -> set[str]:
        """Return the ids of the subscriptions that have existed since a time and get the events of
        a tenant: those of the tenant, and those without a tenant.

        :param tenant: The tenant; None: the events have none.
        """
        return {
            key
            for key, subscribed_at in self.subscribed_at.items()
            if subscribed_at <= time and (self.item(key) or {}).get("tenant") in (None, tenant)
        }

    def see_push(self, push: Push, stored: Item | None) -> None:
        """Note a push that begins, and check that it may be made: under the present claim of the
        event, while the event is pending (or was acknowledged since it was claimed), not beside
        another push of the event, and not after a push to which the receiver responded with 2xx.

        :param stored: The item of the event at this moment; None: there is none.
        """
        event = push.event
        push.replay_number = self.replays[event.event_id]
        self.forbid(event.event_id in self.running, "two pushes of one event at the same time")
        if stored is None or stored["claim_id"] != event.claim_id:
            self.violations.append("a push under a claim that is not held")
        else:
            state = (stored["status"], stored.get("delivered_via"))
            may_be_pushed = event.status == Status.PENDING and state in MAY_BE_PUSHED
            self.forbid(not may_be_pushed, f"a push of a {stored['status']} event")
        # The event of which this one is a copy; None: it is no copy, or its event is gone.
        source = self.item(event.source_event_id or "")
        is_unlisted = source is not None and event.event_id not in source.get("copies", "")
        if is_unlisted and not self.may_be_unlisted(event):
            self.violations.append("a push of a copy that its event does not list")
        for earlier in self.pushes[event.event_id]:
            is_replayed_since = earlier.replay_number != push.replay_number
            if earlier.arrived and not is_replayed_since:
                # A fault can have kept the earlier invocation from the record of its push.
                is_excused = earlier.invocation in self.struck and not earlier.is_recorded
                self.forbid(not is_excused, "pushed again after a 2xx that could be recorded")
        self.running.add(event.event_id)
        self.pushes[event.event_id].append(push)

    def see_record(self, event_id: str, invocation: object) -> None:
        """Note that an invocation wrote a record of an event, and got the response to this write.
        Mark as recorded its pushes of the event, unless their responses were lost. If a push of the
        event is still under way, the record is not about a push: mark none.
        """
        if event_id in self.running:
            return
        for push in self.pushes.get(event_id, ()):
            if push.invocation is invocation and not push.is_lost:
                push.is_recorded = True

    def see_fault(self, invocation: object) -> None:
        """Note that a call of an invocation had a fault, which excuses the invocation."""
        self.faults += 1
        self.struck.add(invocation)

    def see_lost(self, event_id: str, invocation: object) -> None:
        """Note that an invocation does not see the response to its latest push of an event. Do
        nothing if the latest push is one of another invocation, or there is none.
        """
        pushes = self.pushes[event_id]
        if pushes and pushes[-1].invocation is invocation:
            pushes[-1].is_lost = True

    def may_be_unlisted(self, copy: Event) -> bool:
        """Return whether a copy may exist that its event does not list, because the POST that
        stored the copy and then failed could not delete it.

        This can be so after a fault, and if somebody replayed the copy meanwhile: the POST deletes
        the copy under its own claim, which a replay ends, and the response to a replay promises a
        push.
        """
        if copy.event_type.startswith(RESERVED_PREFIX):  # reports are made at best effort
            return True
        return self.faults > 0 or copy.replayed_at is not None


def check(history: History, stored: Mapping[str, Event], dead_letters: Iterable[Json]) -> None:
    """Check that a settled world kept its promises; raise ViolationError with the first violation
    if it did not.

    :param stored: The events and copies that are stored, by their ids, without erased ones.
    :param dead_letters: The bodies of the messages in the DLQ.
    """
    dead_letter_keys = {
        (dead_letter.get("event_id"), dead_letter.get("failed_at")) for dead_letter in dead_letters
    }
    for event_id, began in history.accepted.items():
        was_erased_since = history.erased_at.get(event_id, 0) >= began
        is_lost = event_id not in stored and not was_erased_since
        history.forbid(is_lost, f"accepted and not stored: {event_id}")
    for event in stored.values():
        _check_end(event, history, dead_letter_keys)
        _check_attempts(event, history)
        lost = {copy_id for copy_id in event.copies if copy_id not in stored} - history.deleted
        history.forbid(bool(lost), f"copies that were not stored: {lost}")
        if event.is_copy:
            source = stored.get(event.source_event_id or "")
            is_listed = source is not None and event.event_id in source.copies
            # A send or a recover lists a copy in the same transaction in which it stores the copy.
            may_be_unlisted = history.may_be_unlisted(event) and event.event_id not in history.sent
            is_right = is_listed or may_be_unlisted
            history.forbid(not is_right, f"{event.event_id} is a copy that no event lists")
    # The event and the subscription of each copy that is or was stored.
    copies = {(event.source_event_id, event.subscription_id) for event in stored.values()}
    copies |= history.erased_copies
    for (event_id, subscription_id), began in history.expected_copies.items():
        is_missing = event_id in stored and (event_id, subscription_id) not in copies
        # If the subscription was deleted since the POST began, no copy is needed.
        was_deleted_since = history.ended_at.get(subscription_id, 0) >= began
        history.forbid(
            is_missing and not was_deleted_since, f"{event_id} was accepted without a copy"
        )
    if history.violations:
        raise ViolationError(history.violations[0])


def newest_attempt(event: Item) -> Json:
    """Return some members of the newest attempt of a stored event, by which it can be told from
    another attempt; an empty dict if there is no attempt.

    Its other members can change without a new attempt: this version stores the earlier attempts in
    one of them, compressed, and 1.0.0 drops this member when it writes the event.
    """
    [*_, newest] = json.loads(event.get("attempts") or "[{}]")
    names = ("at", "outcome", "status_code", "error", "duration_ms")
    return {name: newest[name] for name in names if name in newest}


def _is_created_anew(before: Item, after: Item) -> bool:
    """Return whether a write stores a new event or subscription in place of an item with the same
    key: whether `sort_key`, which begins with the time of the creation, has changed.
    """
    return bool(before["sort_key"] != after["sort_key"])


def _is_sent_again(before: Item | None, after: Item) -> bool:
    """Return whether a write stores a copy in place of the mark of its own erasure, as a send or a
    recover does.

    :param before: The item before the write; None: it did not exist.
    """
    was_erased = before is not None and before["status"] == Status.ERASED
    is_made = was_erased and after["status"] != Status.ERASED
    return is_made and bool(after["event_id"].startswith(COPY_PREFIX))


def _check_end(event: Event, history: History, dead_letter_keys: set[tuple[Any, Any]]) -> None:
    """Check the last state of an event: it is delivered or has failed, also if its POST was
    answered with 503. A failure was announced: by a message in the DLQ or, for a copy of a
    customer's subscription, by a line in the log. A delivery took place as `delivered_via` says.

    :param dead_letter_keys: The id of the event and the time of its failure, for each message in
        the DLQ.
    """
    history.forbid(event.status is Status.PENDING, "pending for ever")
    has_dead_letter = (event.event_id, event.failed_at) in dead_letter_keys
    is_of_customer = event.subscription_id in history.customers  # of a subscription with a tenant
    if is_of_customer:
        history.forbid(has_dead_letter, "a customer's copy has a message in the dead letter queue")
        is_announced = event.event_id in history.logged
    else:
        is_announced = has_dead_letter or history.may_be_dropped(event)
    # The failure of a copy whose subscription is disabled is not announced.
    must_be_announced = event.status is Status.FAILED and event.reason is not Reason.DISABLED
    history.forbid(
        must_be_announced and not is_announced, f"{event.event_id} failed, and was not announced"
    )
    if event.delivered_via is DeliveredVia.PULL:
        history.forbid(
            event.event_id not in history.acknowledged, "delivered by pull, and nobody acknowledged"
        )
    if event.delivered_via is DeliveredVia.PUSH:
        has_arrived = any(push.arrived for push in history.pushes[event.event_id])
        history.forbid(not has_arrived, "delivered by push, and the receiver never answered 2xx")
    if event.delivered_via is DeliveredVia.SUBSCRIPTIONS:
        # Such an event has copies and is not pushed itself, and a copy has no copies.
        history.forbid(
            event.is_copy or bool(event.attempts),
            "delivered via subscriptions, and a copy or pushed",
        )


def _is_released(before: Item, after: Item) -> bool:
    """Return whether a change of an event is the release of its lease by the consumer: only the
    attributes of the claim changed, and no claim is left.
    """
    of_claim = {"claim_id", "claimed_until", "requeue_at"}
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    was_leased = before["claim_id"].startswith("lse_")
    return was_leased and "claimed_until" not in after and changed <= of_claim


def _check_attempts(event: Event, history: History) -> None:
    """Check that an event counts as many attempts since its latest replay as there were: pushes,
    and attempts without a push. It may count one more for each fault.
    """
    replay_number = history.replays[event.event_id]
    seen = sum(push.replay_number == replay_number for push in history.pushes[event.event_id])
    seen += history.not_made[event.event_id, replay_number]
    counted = event.delivery_attempts
    faults = history.faults
    # A claim counts an attempt. If no push follows, the count is taken back, unless a consumer has
    # acknowledged the event since.
    not_taken_back = 1 if event.delivered_via is DeliveredVia.PULL else 0
    is_right = seen <= counted <= seen + faults + not_taken_back
    history.forbid(not is_right, f"{counted} attempts counted, {seen} seen, {faults} faults")
