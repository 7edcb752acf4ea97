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
from chalicelib.infra.times import rfc3339, unix_seconds
from tests.support.in_memory_aws import typed
from tests.support.world import Json

NEVER = rfc3339(0)
# acknowledged after its claim
MAY_BE_PUSHED = ((Status.PENDING, None), (Status.DELIVERED, DeliveredVia.PULL))

Item = Json


class ViolationError(AssertionError):
    """A promise was broken."""


@dataclass
class Push:
    """A push that reached the receiver."""

    event: Event
    invocation: object
    started: float
    # How often the event had been stored or replayed.
    replay_number: int = 0
    # None: the receiver did not respond.
    status_code: int | None = None
    # Whether the sender never saw the response.
    is_lost: bool = False
    # Whether the invocation has written a record of the event since.
    is_recorded: bool = False

    @property
    def arrived(self) -> bool:
        return self.status_code is not None and 200 <= self.status_code < 300


class History:
    """What callers, consumers, the receiver and the table saw.

    :param item: Returns the item that the table has under a key, or None.
    """

    def __init__(self, item: Callable[[str], Json | None]) -> None:
        self.item = item
        self.max_skew_seconds = 0.0  # how far the clock of a container may be off, either way
        self.accepted = dict[str, float]()  # and when their POST began
        self.acknowledged = set[str]()
        self.pushes = defaultdict[str, list[Push]](list)
        self.running = set[str]()
        self.replays = Counter[str]()  # of an event: how often it was stored or replayed
        self.faults = 0
        self.struck = set[object]()  # invocations with a fault
        self.not_made = Counter[tuple[str, int]]()  # attempts without a push
        self.violations = list[str]()
        self.leases = set[tuple[str, str]]()  # and their events, as the table took them
        self.subscribed_at = dict[str, float]()  # of the subscriptions that there are
        # of subscriptions that were deleted, for the last time
        self.ended_at = dict[str, float]()
        # of subscriptions that were; infinity: they are
        self.disabled_until = dict[str, float]()
        self.stored_at = dict[str, float]()  # of events, for the last time
        # of events: stored or replayed for the last time
        self.pending_since = dict[str, float]()
        self.pushes_copies_alone = False  # by some container
        self.moved_back = dict[tuple[str, str], float]()  # dead letters, and when
        self.deleted = set[str]()  # copies
        self.messages = Counter[str]()  # that were sent to a queue, by event
        self.customers = set[str]()  # subscriptions with a tenant
        self.logged = set[str]()  # events with a line of the log that says "dead letter"
        self.sent = set[str]()  # copies that were made after their event
        self.erased_at = dict[str, float]()  # of events, when the latest erasure began
        self.erased_copies = set[tuple[str, str]]()  # their events and subscriptions
        self.expected_copies = dict[tuple[str, str], float]()  # and when their POST began

    def forbid(self, is_broken: bool, violation: str) -> None:
        """Note a violation; it is not raised, for the code under test catches exceptions."""
        if is_broken:
            self.violations.append(violation)

    def see_write(self, before: Item | None, after: Item | None, now: float) -> None:
        """Check a write to the table."""
        item = after or before or {}
        event_id = item["event_id"]
        if event_id.startswith((MENDED, TESTED)):  # not an event
            return
        self._see_undelivered(before or {}, after or {})
        if "status" not in item:
            self._see_subscription(event_id, before, after, now)
        elif after is None:
            self._see_deletion(item, now)
        elif (
            before is None
            or before["sort_key"] != after["sort_key"]
            or _is_sent_again(before, after)
        ):
            # The same id may be stored again after it was deleted or has expired: its attempts
            # begin anew.
            is_free = before is None or before["expires_at"] <= now + self.max_skew_seconds
            is_free = is_free or _is_sent_again(before, after)
            self.forbid(not is_free, "an event was stored in place of another")
            self.stored_at[event_id] = self.pending_since[event_id] = now
            self.replays[event_id] += 1
            self.deleted.discard(event_id)
            self.sent.discard(event_id)
            if "replayed_at" in after:
                self._see_sent_copy(after)
        else:
            self._see_change(event_id, before, after, now)

    def _see_undelivered(self, before: Item, after: Item) -> None:
        """Check that a copy is in the index of what was not delivered from the record of its first
        failure until it is delivered.
        """
        if not after.get("event_id", "").startswith(COPY_PREFIX):
            self.forbid("undelivered_key" in after, "an event is marked as a copy is")
            return
        status = after["status"]
        is_marked = "undelivered_key" in after
        is_attempted = newest_attempt(after) not in ({}, newest_attempt(before))
        is_failure = status == Status.FAILED or (status == Status.PENDING and is_attempted)
        self.forbid(is_failure and not is_marked, "a copy failed and is not marked")
        is_settled = status in (Status.DELIVERED, Status.ERASED)
        self.forbid(is_settled and is_marked, "a copy was delivered or erased and is marked")

    def _see_sent_copy(self, copy: Item) -> None:
        """Check that a copy made after its event is in the list of that, which is not erased."""
        self.sent.add(copy["event_id"])
        source = self.item(copy["source_event_id"]) or {"status": Status.ERASED}
        is_listed = copy["event_id"] in source.get("copies", "")
        is_right = is_listed and source["status"] != Status.ERASED
        self.forbid(not is_right, "a copy was sent of an event that is erased or does not list it")

    def _see_change(self, event_id: str, before: Item, after: Item, now: float) -> None:
        claim_id = after["claim_id"]
        held_until = unix_seconds(before.get("claimed_until", NEVER))
        is_erased = after["status"] == Status.ERASED
        is_taken = is_erased or (claim_id != before["claim_id"] and not _is_released(before, after))
        if is_taken and now <= held_until - self.max_skew_seconds:
            self.violations.append("an event was taken from who held it")
        if is_erased:
            self._see_erasure(after, now)
            return
        self.forbid(before["status"] == Status.ERASED, "an erased event was changed")
        is_shorter = after["expires_at"] < before["expires_at"] - 2 * self.max_skew_seconds - 1
        self.forbid(is_shorter, "an event ends earlier than it would have")
        revived = before["status"] != Status.PENDING == after["status"]
        if (
            revived
            or before.get("replayed_at") != after.get("replayed_at")
            or before.get("delivery_attempts", 0) > 0
        ):
            self.replays[event_id] += after.get("delivery_attempts", 0) == 0
        if before.get("replayed_at") != after.get("replayed_at"):
            self.pending_since[event_id] = now
        if before.get("reason") != after.get("reason") == Reason.DISABLED:
            self._see_quiet_failure(after)
        if revived and after.get("delivery_attempts", 0) > 0:
            self.violations.append(f"{before['status']} became pending without a replay")
        if before.get("lease_count", 0) < after.get("lease_count", 0):
            self.leases.add((event_id, claim_id))
            self.forbid(before["status"] == Status.DELIVERED, "a delivered event was leased")
        attempt = newest_attempt(after)
        is_recorded = attempt != newest_attempt(before)
        if is_recorded and attempt.get("error") == BREAKER_OPEN:
            self.not_made[event_id, self.replays[event_id]] += 1
        counted = after.get("delivery_attempts", 0)
        if is_recorded and 0 < counted < before.get("delivery_attempts", 0):
            # It was one of a catch-up, which does not count.
            self.not_made[event_id, self.replays[event_id]] -= 1
        became_so = (
            DeliveredVia.SUBSCRIPTIONS == after.get("delivered_via") != before.get("delivered_via")
        )
        self.forbid(
            became_so, "an event that was stored already became delivered via subscriptions"
        )

    def _see_quiet_failure(self, event: Item) -> None:
        """Check that the subscription of a copy was disabled since the copy was to be pushed."""
        subscription_id = event["subscription_id"]
        since = self.pending_since[event["event_id"]]
        # not made again since
        was_there = self.subscribed_at.get(subscription_id, math.inf) <= since
        if self.disabled_until.get(subscription_id, 0.0) < since and was_there:
            self.violations.append("a copy failed as disabled, though its subscription was not")

    def _see_subscription(
        self, subscription_id: str, before: Item | None, after: Item | None, now: float
    ) -> None:
        if after and "tenant" in after:
            self.customers.add(subscription_id)
        if after and "disabled_at" in after:
            self.disabled_until[subscription_id] = math.inf
        elif before and "disabled_at" in before:
            self.disabled_until[subscription_id] = now
        if after is None and self.subscribed_at.pop(subscription_id, 0.0):
            self.ended_at[subscription_id] = now
        elif after and (before is None or before["sort_key"] != after["sort_key"]):
            self.subscribed_at[subscription_id] = now

    def _see_erasure(self, event: Item, now: float) -> None:
        """Check that the mark of an erased event has nothing of the event's content."""
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
        """Check that it has expired, or is a copy, whose event was erased or does not list it, or
        whose subscription is gone.
        """
        if event["expires_at"] <= now + self.max_skew_seconds:
            return
        event_id = event["event_id"]
        subscribed_at = self.subscribed_at.get(event.get("subscription_id", ""))
        self.forbid(event_id in self.running, "an event was deleted while it was pushed")
        source = self.item(event.get("source_event_id", "")) or {}
        if source.get("status") == Status.ERASED:
            return
        self.deleted.add(event_id)
        is_of_another = subscribed_at is None or self.stored_at[event_id] <= subscribed_at
        is_unlisted = source and event_id not in source.get("copies", "")
        is_unwanted = event_id.startswith(COPY_PREFIX) and (is_of_another or is_unlisted)
        self.forbid(
            not is_unwanted,
            "an event was deleted that was no copy, or a copy that somebody waits for",
        )

    def see_sent(self, event_id: str, group_id: str) -> None:
        self.messages[event_id] += 1
        item = self.item(event_id)
        if item and group_id != item.get("subscription_id", "webhook"):
            self.violations.append(f"a message about {event_id} is in the group {group_id!r}")

    def see_leased(self, leased: Iterable[tuple[str, str]]) -> None:
        self.forbid(
            not self.leases.issuperset(leased), "a consumer was given an event without a lease"
        )

    def see_erased(self, event_id: str, replay_number: int) -> None:
        """Check that an event is gone, or was stored anew after its number of replays was noted."""
        is_there = (self.item(event_id) or {}).get("status", Status.ERASED) != Status.ERASED
        if is_there and self.replays[event_id] == replay_number:
            self.violations.append("an event is there whose erasure was said to be complete")

    def see_accepted(
        self, event_id: str, payload: str, subscription_ids: set[str], began: float
    ) -> None:
        """Note an accepted event; each of the subscriptions is to get a copy, unless it ends
        meanwhile.
        """
        self.accepted[event_id] = began
        self.expected_copies |= dict.fromkeys(
            ((event_id, each) for each in subscription_ids), began
        )
        item = self.item(event_id)
        is_same = self.erased_at.get(event_id, 0) < began
        if item and is_same and from_item(typed(item)).payload != payload:
            self.violations.append("a body was accepted, and another is stored")

    def see_moved_back(self, body: str, now: float) -> None:
        if body.startswith("{"):
            letter = json.loads(body)
            self.moved_back[letter["event_id"], letter["failed_at"]] = now

    def may_be_dropped(self, event: Event) -> bool:
        """Return whether its dead letter may have been moved back while it, or its subscription,
        was not pushed.
        """
        moved_at = self.moved_back.get((event.event_id, event.failed_at or ""))
        if not event.is_copy:
            return moved_at is not None and self.pushes_copies_alone
        until = max(
            each.get(event.subscription_id or "", 0.0)
            for each in (self.disabled_until, self.ended_at)
        )
        until = max(until, self.subscribed_at.get(event.subscription_id or "", math.inf))
        return moved_at is not None and moved_at <= until

    def subscriptions_at(self, time: float, tenant: str | None) -> set[str]:
        """Return the subscriptions to events of a tenant that there have been since a time."""
        return {
            key
            for key, subscribed_at in self.subscribed_at.items()
            if subscribed_at <= time and (self.item(key) or {}).get("tenant") in (None, tenant)
        }

    def see_push(self, push: Push, stored: Item | None) -> None:
        """Check a push that begins; `stored` is what the table has of the event at this moment."""
        event = push.event
        push.replay_number = self.replays[event.event_id]
        self.forbid(event.event_id in self.running, "two pushes of one event at the same time")
        if stored is None or stored["claim_id"] != event.claim_id:
            self.violations.append("a push under a claim that is not held")
        elif (
            event.status != Status.PENDING
            or (stored["status"], stored.get("delivered_via")) not in MAY_BE_PUSHED
        ):
            self.violations.append(f"a push of a {stored['status']} event")
        source = self.item(event.source_event_id or "")
        if (
            source
            and event.event_id not in source.get("copies", "")
            and not self.may_be_unlisted(event)
        ):
            self.violations.append("a push of a copy that its event does not list")
        for earlier in self.pushes[event.event_id]:
            if earlier.arrived and earlier.replay_number == push.replay_number:
                is_excused = earlier.invocation in self.struck and not earlier.is_recorded
                self.forbid(not is_excused, "pushed again after a 2xx that could be recorded")
        self.running.add(event.event_id)
        self.pushes[event.event_id].append(push)

    def see_record(self, event_id: str, invocation: object) -> None:
        """Note a write that was answered: what the invocation pushed, unless its response was lost,
        is recorded.
        """
        for push in self.pushes.get(event_id, ()):
            if push.invocation is invocation and event_id not in self.running and not push.is_lost:
                push.is_recorded = True

    def see_fault(self, invocation: object) -> None:
        self.faults += 1
        self.struck.add(invocation)

    def see_lost(self, event_id: str, invocation: object) -> None:
        """Note that an invocation does not see the response to its latest push of an event."""
        for push in self.pushes[event_id][-1:]:
            push.is_lost |= push.invocation is invocation

    def may_be_unlisted(self, copy: Event) -> bool:
        """Return whether the POST that stored a copy could not delete it.

        That is after a fault, and if somebody replayed the copy meanwhile: the POST deletes it
        under its claim, which a replay takes, and a replay that was answered is a promise to push.
        """
        if copy.event_type.startswith(RESERVED_PREFIX):  # reports are made at best effort
            return True
        return self.faults > 0 or copy.replayed_at is not None


def check(history: History, stored: Mapping[str, Event], dead_letters: Iterable[Json]) -> None:
    """Raise ViolationError unless a settled world kept its promises."""
    dead_letter_keys = {
        (dead_letter.get("event_id"), dead_letter.get("failed_at")) for dead_letter in dead_letters
    }
    for event_id, began in history.accepted.items():
        is_lost = event_id not in stored and history.erased_at.get(event_id, 0) < began
        history.forbid(is_lost, f"accepted and not stored: {event_id}")
    for event in stored.values():
        _check_end(event, history, dead_letter_keys)
        _check_attempts(event, history)
        lost = {copy_id for copy_id in event.copies if copy_id not in stored} - history.deleted
        history.forbid(bool(lost), f"copies that were not stored: {lost}")
        source = stored.get(event.source_event_id or "")
        is_listed = not event.is_copy or (source is not None and event.event_id in source.copies)
        may_be = is_listed or history.may_be_unlisted(event)
        may_be = may_be and (is_listed or event.event_id not in history.sent)
        history.forbid(not may_be, f"{event.event_id} is a copy that no event lists")
    copies = {
        (event.source_event_id, event.subscription_id) for event in stored.values()
    } | history.erased_copies
    for (event_id, subscription_id), began in history.expected_copies.items():
        is_missing = event_id in stored and (event_id, subscription_id) not in copies
        has_ended = history.ended_at.get(subscription_id, 0) >= began
        history.forbid(is_missing and not has_ended, f"{event_id} was accepted without a copy")
    for violation in history.violations:
        raise ViolationError(violation)


def newest_attempt(event: Item) -> Json:
    """Return the members by which the newest attempt of a stored event is known, or none.

    The attempts before it may go without a new one: 1.0.0 drops those that this version stored in
    it, compressed, when it writes an event.
    """
    [*_, newest] = json.loads(event.get("attempts") or "[{}]")
    names = ("at", "outcome", "status_code", "error", "duration_ms")
    return {name: newest[name] for name in names if name in newest}


def _is_sent_again(before: Item | None, after: Item) -> bool:
    """Return whether a copy was made in place of the mark of its own erasure."""
    was_erased = before is not None and before["status"] == Status.ERASED
    is_made = was_erased and after["status"] != Status.ERASED
    return is_made and bool(after["event_id"].startswith(COPY_PREFIX))


def _check_end(event: Event, history: History, dead_letter_keys: set[tuple[Any, Any]]) -> None:
    """Check that an event is delivered or failed, also if its POST was answered with 503, and that
    a failed one was announced.

    :param dead_letter_keys: Ids and times of failure of the messages in the dead letter queue.
    """
    history.forbid(event.status is Status.PENDING, "pending for ever")
    has_letter = (event.event_id, event.failed_at) in dead_letter_keys
    is_announced = has_letter or history.may_be_dropped(event)
    if event.subscription_id in history.customers:
        is_announced = event.event_id in history.logged
        history.forbid(has_letter, "a customer's copy has a message in the dead letter queue")
    is_silent = (
        event.status is Status.FAILED and event.reason is not Reason.DISABLED and not is_announced
    )
    history.forbid(is_silent, f"{event.event_id} failed, and was not announced")
    if event.delivered_via is DeliveredVia.PULL:
        history.forbid(
            event.event_id not in history.acknowledged, "delivered by pull, and nobody acknowledged"
        )
    if event.delivered_via is DeliveredVia.PUSH:
        has_arrived = any(push.arrived for push in history.pushes[event.event_id])
        history.forbid(not has_arrived, "delivered by push, and the receiver never answered 2xx")
    if event.delivered_via is DeliveredVia.SUBSCRIPTIONS:
        history.forbid(
            event.is_copy or bool(event.attempts),
            "delivered via subscriptions, and a copy or pushed",
        )


def _is_released(before: Item, after: Item) -> bool:
    """Return whether a consumer gave up its lease, and nothing else of the event was changed."""
    ended = {"claim_id", "claimed_until", "requeue_at"}
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    was_leased = before["claim_id"].startswith("lse_")
    return was_leased and "claimed_until" not in after and changed <= ended


def _check_attempts(event: Event, history: History) -> None:
    replay_number = history.replays[event.event_id]
    seen = sum(push.replay_number == replay_number for push in history.pushes[event.event_id])
    seen += history.not_made[event.event_id, replay_number]
    counted = event.delivery_attempts
    faults = history.faults
    # A claim counts an attempt. If no push follows, the count is taken back, unless the event was
    # acknowledged since.
    is_right = seen <= counted <= seen + faults + (event.delivered_via is DeliveredVia.PULL)
    history.forbid(not is_right, f"{counted} attempts counted, {seen} seen, {faults} faults")
