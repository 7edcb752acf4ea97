"""`make mutants`: break the code in ways that matter, one at a time, and show that a test fails for each.

Each works on a copy; a mutant that survives is named, and ends this with status 1.
"""

import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

ROOT = Path(__file__).parent.parent
POINTS = "tests/crash/test_crash_points.py"
STORMS = "tests/crash/test_simulation.py"


@dataclass(frozen=True)
class Mutant:
    """One way to break a module: `old` stands in it exactly once."""

    what: str
    module: str
    old: str
    new: str
    suite: str = POINTS


MUTANTS = (
    Mutant(
        "the put overwrites",
        "dynamodb",
        'ABSENT = "attribute_not_exists(event_id) OR ',
        'ABSENT = "attribute_exists(event_id) OR attribute_not_exists(event_id) OR ',
    ),
    Mutant(
        "the lease is forgotten",
        "dynamodb",
        "next_attempt_at <= :now AND {UNCLAIMED}",
        "next_attempt_at <= :now",
        STORMS,
    ),
    Mutant(
        "a claim is taken before the event is due",
        "dynamodb",
        "{PENDING} AND next_attempt_at <= :now AND",
        "{PENDING} AND",
        "tests/functional/test_worker.py",
    ),
    Mutant(
        "anybody may record",
        "dynamodb",
        'RECORDABLE = f"{PENDING} AND claim_id = :mine"',
        'RECORDABLE = f"{PENDING} AND (claim_id = :mine OR attribute_exists(claim_id))"',
        "tests/unit/test_dynamodb.py",
    ),
    Mutant(
        "a record overwrites an acknowledgement",
        "dynamodb",
        'RECORDABLE = f"{PENDING} AND',
        'RECORDABLE = f"{EXISTS} AND',
        "tests/unit/test_dynamodb.py",
    ),
    Mutant(
        "a replay cuts into a running push",
        "dynamodb",
        'REPLAYABLE = f"{EXISTS} AND {UNCLAIMED}"',
        'REPLAYABLE = f"{EXISTS}"',
        STORMS,
    ),
    Mutant(
        "any dead letter that comes back replays",
        "dynamodb",
        "{REPLAYABLE} AND #status = :failed AND failed_at = :failure",
        "{REPLAYABLE} AND (failed_at = :failure OR attribute_exists(event_id)) AND (#status = :failed OR attribute_exists(event_id))",
        "tests/functional/test_worker.py",
    ),
    Mutant(
        "every sweep queues",
        "dynamodb",
        "{PENDING} AND requeue_at = :seen",
        "{PENDING} AND (requeue_at = :seen OR attribute_exists(requeue_at))",
        "tests/functional/test_schedules.py",
    ),
    Mutant(
        "attempts are not counted",
        "dynamodb",
        'ADD": "delivery_attempts :one" if count_attempt',
        'ADD": "delivery_attempts :one" if count_attempt and False',
    ),
    Mutant(
        "a write that was its own is taken for another's",
        "dynamodb",
        "bool(current and claim_id and current.claim_id == claim_id)",
        "False",
        "tests/unit/test_dynamodb.py",
    ),
    Mutant(
        "a write looks like its own when it is another's",
        "dynamodb",
        "bool(current and claim_id and current.claim_id == claim_id)",
        "bool(current and claim_id)",
        STORMS,
    ),
    Mutant(
        "the record is made before the dead letter",
        "delivery",
        "    try:\n        services.dlq.send(messages.dead_letter_body(failed)",
        "    services.store.record_failed(failed)\n    try:\n        services.dlq.send(messages.dead_letter_body(failed)",
    ),
    Mutant(
        "the push comes before the put",
        "delivery",
        "    written = services.store.put(_new_event(",
        "    services.push.send(_new_event(new, services, created_by, idempotency_key, claimed=push_now), 5.0)\n    written = services.store.put(_new_event(",
        "tests/functional",
    ),
    Mutant(
        "attempts never end",
        "delivery",
        "event.delivery_attempts >= settings.max_delivery_attempts",
        "event.delivery_attempts > 10 * settings.max_delivery_attempts",
        "tests/functional/test_flows.py",
    ),
    Mutant(
        "a claim over the last attempt pushes",
        "delivery",
        "if event.reason or event.delivery_attempts > services.settings.max_delivery_attempts:",
        "if event.reason:",
        "tests/functional/test_worker.py",
    ),
    Mutant(
        "an event whose dead letter is owed is pushed again",
        "delivery",
        "if event.reason or event.delivery_attempts > services",
        "if event.delivery_attempts > services",
        "tests/functional",
    ),
    Mutant(
        "a process that stood still pushes past its claim",
        "delivery",
        "if not event.is_claimed(rfc3339(started + timeout_seconds)):",
        "if False:",
        "tests/functional",
    ),
    Mutant(
        "Retry-After is passed over",
        "delivery",
        "return max(scheduled, outcome.retry_after_seconds)",
        "return scheduled",
        "tests/functional/test_worker.py",
    ),
    Mutant(
        "a failure after the put is told to the caller",
        "delivery",
        "    except Exception:  # the promise",
        "    except ZeroDivisionError:  # the promise",
        "tests/functional/test_faults.py",
    ),
    Mutant(
        "an early message is dropped",
        "delivery",
        "return max(0.0, epoch_seconds(event.next_attempt_at) - now)",
        "return None",
        "tests/functional/test_worker.py",
    ),
    Mutant(
        "an unknown event's message is dropped",
        "batch",
        '_set_aside(body, "unknown_event", services)',
        "pass",
        "tests/functional/test_worker.py",
    ),
    Mutant(
        "a failing message is taken as served",
        "batch",
        "            return False\n        return True",
        "            return True\n        return True",
    ),
    Mutant("the sweep sends nothing", "schedules", "services.inbox.send_many(wake_ups)", "len(wake_ups)"),
    Mutant(
        "the sweep feeds a long queue",
        "schedules",
        "if visible >= QUEUE_IS_LONG:",
        "if False:",
        "tests/functional/test_schedules.py",
    ),
    Mutant(
        "a claim outlives its event's wait for the sweep",
        "dynamodb",
        '"claimed_until": until, "requeue_at": until}',
        '"claimed_until": until, "requeue_at": self._in(10**8)}',
        "tests/functional/test_schedules.py",
    ),
    Mutant(
        "jitter goes below half",
        "backoff",
        "return backoff / 2 + random() * backoff / 2",
        "return random() * backoff",
        "tests/unit/test_backoff.py",
    ),
    Mutant(
        "the loop waits past its invocation",
        "backoff",
        "or clock() + delay > patience.last_start",
        "",
        "tests/unit/test_backoff.py",
    ),
    Mutant(
        "redirects are taken as delivered",
        "push",
        "if 200 <= status_code < 300:",
        "if 200 <= status_code < 400:",
        "tests/unit/test_push.py",
    ),
    Mutant(
        "the total timeout starts anew with each byte",
        "connection",
        "self.settimeout(remaining)",
        "self.settimeout(10)",
        "tests/unit/test_push.py",
    ),
    Mutant(
        "another body under the same key is taken",
        "delivery",
        "if event.body_hash != new.body_hash:",
        "if False:",
        "tests/functional/test_api.py",
    ),
    Mutant(
        "half an answer of AWS is taken for a whole one",
        "aws",
        'made.meta.events.register("after-call", _refuse_what_is_no_answer)',
        "pass",
        "tests/unit/test_aws.py",
    ),
    Mutant(
        "a trial that is not made is not given back",
        "breaker",
        "with self._lock:\n            self._open_until = 0.0",
        "pass",
        "tests/unit/test_breaker.py",
    ),
    Mutant(
        "a wait may end too late for a push",
        "batch",
        " - services.settings.push_timeout_seconds",
        "",
        "tests/functional/test_worker.py",
    ),
    Mutant(
        "the sweep has no end",
        "schedules",
        "if count >= MOST_OF_A_SHARD or services.clock() > deadline:",
        "if count >= MOST_OF_A_SHARD:",
        "tests/functional/test_schedules.py",
    ),
    Mutant(
        "what was acknowledged meanwhile is pushed",
        "delivery",
        "    if event.status is not Status.PENDING:\n        return event  #",
        "    if False:\n        return event  #",
        "tests/functional/test_owed.py",
    ),
    Mutant(
        "a failure is counted though it was not recorded",
        "delivery",
        "    if written.done:\n        services.metrics.emit(DeliveryFailure=1)",
        "    if True:\n        services.metrics.emit(DeliveryFailure=1)",
        "tests/functional/test_api.py",
    ),
    Mutant(
        "a page counts bytes that Lambda multiplies",
        "validation",
        "return max(len(text.encode()), len(json.dumps(text)) // 2)",
        "return len(text.encode())",
        "tests/functional/test_api.py",
    ),
    Mutant(
        "the breaker never opens",
        "breaker",
        "if self._failures < self._threshold:",
        "if True:",
        "tests/unit/test_breaker.py",
    ),
)


def survives(mutant: Mutant) -> bool:
    """Return whether the suite concerned is content with the mutant."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*cache", ".git", ".venv", ".local", ".hypothesis"))
        module = copy / "chalicelib" / f"{mutant.module}.py"
        text = module.read_text()
        if text.count(mutant.old) != 1:
            raise ValueError(
                f"{mutant.what}: its place is not in {module.name} once, but {text.count(mutant.old)} times"
            )
        module.write_text(text.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", mutant.suite]
        return subprocess.run(command, cwd=copy, capture_output=True, check=False).returncode == 0  # noqa: S603


def main() -> int:
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(track(pool.map(survives, MUTANTS), "mutants", total=len(MUTANTS)))
    alive = [mutant for mutant, survived in zip(MUTANTS, outcomes, strict=True) if survived]
    for mutant in alive:
        print(f"survived: {mutant.what} ({mutant.module}.py, {mutant.suite})")
    print(f"{len(MUTANTS) - len(alive)} of {len(MUTANTS)} mutants were caught")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
