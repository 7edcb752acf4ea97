"""Circuit breakers, which decide who may push now: a destination that fails or hangs costs the others nothing.

Each container has its own. They are safe to share between threads; all times are Unix seconds.
"""

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from urllib.parse import urlsplit

from chalicelib.settings import Settings

MAX_URLS = 2000  # the one used least recently is forgotten
MAX_HANGS = 3  # in a row
MAX_FAILURES = 100  # in a row
LONG_SECONDS = 3600  # of all attempts of an event
HANGS, FAILS = "not pushed: the receiver hangs", "not pushed: the receiver keeps failing"


@dataclass
class _Seen:
    """What was seen of one URL or host."""

    failures: int = 0  # in a row
    hangs: int = 0  # in a row
    last_push_at: float = 0.0
    last_success_at: float = 0.0


class Breaker:
    """The breaker of POST /events, for each URL: while it is open, events are queued at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen = lru_cache(MAX_URLS)(lambda _url: _Seen())

    def take_push(self, url: str, now: float, settings: Settings) -> bool:
        """Return whether to push now.

        After BREAKER_FAILURES failures in a row, or one timeout, one caller in BREAKER_OPEN_SECONDS gets True.
        """
        with self._lock:
            seen = self._seen(url)
            if seen.failures < settings.breaker_failures and not seen.hangs:
                return True
            if now < seen.last_push_at + settings.breaker_open_seconds:
                return False
            seen.last_push_at = now
            return True

    def record(self, url: str, now: float, *, failed: bool, timed_out: bool) -> None:
        """Count the result of a push that ended at `now`."""
        with self._lock:
            seen = self._seen(url)
            seen.last_push_at = now
            seen.failures = seen.failures + 1 if failed else 0
            seen.hangs = seen.hangs + 1 if timed_out else 0


class WorkerBreaker:
    """The breaker of the worker, for all destinations: what hangs or keeps failing gets few of its pushes.

    A URL hangs after MAX_HANGS pushes in a row that hung, or if another container has found that out. So does its host
    (name and port) after that many to any of its URLs, for those URLs whose own last push did not succeed. Of all that
    hangs, one is tried at a time. A URL keeps failing after MAX_FAILURES pushes in a row, which counts only if attempts
    go on for LONG_SECONDS: no event may end for pushes that were not made in a short outage.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._seen = lru_cache(2 * MAX_URLS)(lambda _url_or_host: _Seen())
        self._trial_url: str | None = None
        self._next_trial_at = 0.0

    def may_wait(self, url: str, settings: Settings) -> bool:
        """Return whether to wait for the next attempt in process: not after BREAKER_FAILURES failures in a row."""
        with self._lock:
            return self._seen(url).failures < settings.breaker_failures

    def refusal(self, url: str, now: float, settings: Settings, *, not_before: float | None = None) -> str | None:
        """Return why not to push now, HANGS or FAILS; None: push.

        Of a destination that hangs or keeps failing, this is the only trial in BREAKER_OPEN_SECONDS.

        :param not_before: When a destination that another container saw hang may be tried; None: no container did.
        """
        with self._lock:
            own, host = self._seen(url), self._seen(_host(url))
            host_hangs = host.hangs >= MAX_HANGS and (own.failures > 0 or not own.last_success_at)
            hangs = own.hangs >= MAX_HANGS or host_hangs or not_before is not None
            fails = own.failures >= MAX_FAILURES and settings.retry_policy.shortest_seconds() >= LONG_SECONDS
            if not hangs and not fails:
                return None
            open_until = own.last_push_at + settings.breaker_open_seconds
            if now < (max(open_until, self._next_trial_at, not_before or 0.0) if hangs else open_until):
                return HANGS if hangs else FAILS
            own.last_push_at = now
            if hangs:
                self._trial_url = url
                self._next_trial_at = now + settings.push_timeout_seconds + settings.breaker_open_seconds
            return None

    def record(self, url: str, started: float, now: float, *, failed: bool, hung: bool, pause_seconds: float) -> bool:
        """Count the result of a push from `started` to `now`; return whether it shows that the URL (still) hangs.

        A push that hung counts only if none succeeded since it was started: the others of its batch end before it. The
        next trial comes `pause_seconds` after one that hung.
        """
        with self._lock:
            own, host = self._seen(url), self._seen(_host(url))
            for seen in (own, host):
                seen.last_push_at = now
                seen.failures = seen.failures + 1 if failed else 0
                seen.last_success_at = seen.last_success_at if failed else now
                if not hung:
                    seen.hangs = 0
                elif started >= seen.last_success_at:
                    seen.hangs += 1
            must_tell = hung and (own.hangs == MAX_HANGS or url == self._trial_url)
            if must_tell or url == self._trial_url:
                self._next_trial_at = now + (pause_seconds if hung else 0.0)
            if not hung and url == self._trial_url:
                self._trial_url = None
            return must_tell


def _host(url: str) -> str:
    return urlsplit(url).netloc
