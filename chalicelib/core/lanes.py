"""Two lanes: the events of slow destinations have a queue and a worker of their own.

A batch of the worker ends when its slowest push does: a push that takes ten seconds makes nine
others wait. So pushes of the fast lane have a short timeout, and slow destinations share the other
lane. Each container counts for itself; its threads share the counts. All times are Unix seconds.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock

from chalicelib.core.breaker import MAX_DESTINATIONS
from chalicelib.core.outcome import TIMED_OUT, Outcome, PushResult
from chalicelib.core.target import Target

FAST_PUSH_SECONDS = 3.0  # the timeout of a push in the fast lane
# Pushes crowd a container if they keep two of its ten threads busy all the time. Their busy
# seconds, halved every 3.5 seconds, add up to 10.1 then: 2 * 3.5 / ln 2.
HALF_LIFE_SECONDS = 3.5
CROWDING_SECONDS = 10.1
SLOW_SECONDS = 2.0  # a push that takes so long is slow
SLOW_PUSHES = 3  # so many slow pushes in a row make a destination slow
QUICK_SECONDS = 1.0  # a delivery that takes less is quick
QUICK_DELIVERIES = 10  # so many quick deliveries in a row end that
# How long a container treats a destination as slow after its own pushes marked it.
MARK_SECONDS = 300
# How long a container remembers the stored mark of a subscription: longer than an attempt takes.
MEMORY_SECONDS = 60
READ_AGE_SECONDS = 10  # how old the subscriptions in its cached lists may be
OLD_MARK_SECONDS = 3600  # a stored mark that is older ends with the next delivery that is not slow


@dataclass
class _Pace:
    """How quick the pushes of a container to one URL of a destination are."""

    # The URL; an edited URL begins with a new pace.
    url: str = field(default="", repr=False)
    # When the latest push that was not slow ended; 0: none did.
    last_quick_at: float = 0.0
    # Slow pushes in a row.
    slow_pushes: int = 0
    # How long threads were busy with its pushes, halved every HALF_LIFE_SECONDS, at `counted_at`.
    busy_seconds: float = 0.0
    # When `busy_seconds` was computed; 0: no push was counted.
    counted_at: float = 0.0
    # Deliveries in a row that took less than QUICK_SECONDS.
    quick_deliveries: int = 0
    # Whether the stored mark is older than OLD_MARK_SECONDS.
    has_old_mark: bool = False
    # When the container's own pushes marked the destination; 0: they did not.
    marked_at: float = 0.0
    # Until when the destination is treated as slow; 0: it is not.
    slow_until: float = 0.0

    def crowds(self, seconds: float, now: float) -> bool:
        """Count the time of a push that ended now; return whether the pushes counted here have kept
        two threads busy in the last seconds.

        `busy_seconds` is a sum that halves every HALF_LIFE_SECONDS. It reaches CROWDING_SECONDS if
        two threads are busy all the time.

        :param seconds: How long the push took; 0 if other events did not wait for it.
        :param now: Unix seconds.
        """
        half_lives = max(0.0, now - self.counted_at) / HALF_LIFE_SECONDS
        self.busy_seconds = seconds + self.busy_seconds * 0.5**half_lives
        self.counted_at = now
        return self.busy_seconds >= CROWDING_SECONDS

    def count_slow(self, started: float, now: float, needed: int) -> None:
        """Count a slow push; mark the destination as slow after `needed` slow pushes in a row.

        A slow push that began before the latest quick push ended is not counted: a destination
        that hangs at 5 % of its pushes is not slow.

        :param started: When the push began (Unix seconds).
        :param now: When the push ended (Unix seconds).
        """
        self.quick_deliveries = 0
        if started >= self.last_quick_at:
            self.slow_pushes += 1
        if self.slow_pushes >= needed:
            self.mark(now)

    def count_other(self, now: float, *, is_delivered: bool, is_quick: bool) -> None:
        """Count a push that was not slow; after QUICK_DELIVERIES quick deliveries in a row, do not
        treat the destination as slow any more.

        If the stored mark of the destination as slow is old, one delivery suffices: no container
        lives long enough for ten deliveries to a destination that gets an event an hour, and a
        destination that always takes a second has no quick deliveries.

        :param now: When the push ended (Unix seconds).
        :param is_delivered: Whether the push delivered its event.
        :param is_quick: Whether it did so in less than QUICK_SECONDS.
        """
        self.last_quick_at = now
        self.slow_pushes = 0
        self.quick_deliveries = self.quick_deliveries + 1 if is_quick else 0
        is_over = is_delivered and self.has_old_mark
        if is_over or self.quick_deliveries >= QUICK_DELIVERIES:
            self.quick_deliveries = 0
            self.slow_until = 0.0

    def mark(self, now: float) -> None:
        """Mark the destination as slow for MARK_SECONDS, because of its pushes."""
        self.marked_at = now
        self.slow_until = now + MARK_SECONDS


UNKNOWN = _Pace(url="none")  # the pace of a destination that got no push yet


class Lanes:
    """Knows for a while which destinations are slow.

    The mark of a subscription is stored, too (`slow_since`), and remembered here when it is read.
    The mark of the webhook is not stored: each container has its own.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._slow = _Pace()  # counts the slow pushes of all destinations together
        self._paces: OrderedDict[str, _Pace] = OrderedDict()

    def is_slow(self, destination: str, now: float) -> bool:
        """Return whether a destination is known to be slow at `now` (Unix seconds)."""
        return now < self._paces.get(destination, UNKNOWN).slow_until

    def remember(self, target: Target, now: float, slow_since: float | None) -> None:
        """Remember whether a subscription that was read now is stored as slow.

        A slow destination is treated as slow for MEMORY_SECONDS from now, at least. If it is not
        stored as slow, it is not treated as slow any more, unless this container's own pushes found
        it slow within READ_AGE_SECONDS: the subscription may have been read before that was stored.

        :param target: The target of the subscription.
        :param now: Unix seconds.
        :param slow_since: Since when it is stored as slow (Unix seconds); None: it is not.
        """
        with self._lock:
            pace = self._pace(target)
            # An old mark ends with the next delivery that is not slow (`count_other`).
            pace.has_old_mark = slow_since is not None and now - slow_since > OLD_MARK_SECONDS
            if slow_since is not None:
                pace.slow_until = max(pace.slow_until, now + MEMORY_SECONDS)
            elif now >= pace.marked_at + READ_AGE_SECONDS:
                pace.slow_until = 0.0

    def record(
        self,
        target: Target,
        started: float,
        now: float,
        result: PushResult,
        *,
        in_fast_lane: bool,
    ) -> None:
        """Count a push that was made, and find out whether its destination is slow.

        The destination is marked as slow after SLOW_PUSHES slow pushes in a row. It is also marked
        by the first timeout if the slow pushes to all destinations together keep two threads busy,
        and by a push of QUICK_SECONDS or more if the pushes to the destination that are not slow
        keep two threads busy. The mark ends after QUICK_DELIVERIES quick deliveries in a row. A
        push that is not slow ends a row of slow pushes, even if it fails. Any push but a quick
        delivery ends a row of quick deliveries.

        :param started: When the push began (Unix seconds).
        :param now: When the push ended (Unix seconds).
        :param in_fast_lane: Whether other events waited for the push. The time of other pushes is
            not counted as busy time: pushes of the slow lane, such as thousands of recovered events
            at a second each, and pushes during a POST keep no other event waiting.
        """
        with self._lock:
            pace = self._pace(target)
            seconds = now - started
            has_timed_out = result.error == TIMED_OUT
            busy_seconds = seconds if in_fast_lane else 0.0
            if seconds >= SLOW_SECONDS or has_timed_out:
                # Many destinations that begin to hang at once are marked at their first timeout.
                # `_slow` counts the slow pushes of all destinations, this one included.
                are_crowding = self._slow.crowds(busy_seconds, now)
                is_marked_at_once = are_crowding and has_timed_out
                pace.count_slow(started, now, needed=1 if is_marked_at_once else SLOW_PUSHES)
                return
            is_crowding = pace.crowds(busy_seconds, now)
            if is_crowding and seconds >= QUICK_SECONDS:
                pace.mark(now)
            is_delivered = result.outcome is Outcome.DELIVERED
            is_quick = is_delivered and seconds < QUICK_SECONDS
            pace.count_other(now, is_delivered=is_delivered, is_quick=is_quick)

    def _pace(self, target: Target) -> _Pace:
        """Return the pace of a destination: the counts of its quick and slow pushes, by which it is
        marked as slow. They begin anew if the destination is new, or its URL was edited.

        Beyond MAX_DESTINATIONS, the pace that was used least recently is forgotten.
        """
        pace = self._paces.get(target.destination, UNKNOWN)
        if pace.url != target.url:
            pace = _Pace(target.url)
            self._paces[target.destination] = pace
        self._paces.move_to_end(target.destination)
        if len(self._paces) > MAX_DESTINATIONS:
            self._paces.popitem(last=False)
        return pace
