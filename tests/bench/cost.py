"""Compute the cost of an event from what was really written for it: the table of docs/cost.md."""

import contextlib
import io
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator
from random import Random

from chalicelib import deps as services
from chalicelib.core.event import dumps
from chalicelib.core.messages import push_message
from chalicelib.core.outcome import Outcome, PushResult, RetryPolicy
from chalicelib.deps import Services
from chalicelib.infra.queue import MAX_DELAY_SECONDS
from chalicelib.infra.times import rfc3339
from chalicelib.operations.schedules import UNCHANGED
from tests.bench import standin
from tests.bench.bench import Row, call, prepare_worker, use_settings
from tests.support.receiver import Receiver

# Dollars, list prices of us-east-1 read on 2026-11-25; docs/cost.md tells which were compared with
# AWS's pages since.
PRICES = {
    "requests": 3.50e-6,  # API Gateway
    "invocations": 0.20e-6,
    "lambda_ms": 0.0000133334 * 0.5 / 1000,  # a GB-second on arm64; functions have 512 MB
    "table_units": 0.625e-6,
    "index_units": 0.625e-6,
    # for a month, with point-in-time recovery, which costs nothing for an index
    "table_bytes": (0.25 + 0.20) / 1e9,
    "index_bytes": 0.25 / 1e9,
    "sqs_requests": 0.50e-6,  # of a fair queue: 0.10 more than of another
    "log_bytes": (0.50 + 0.03) / 1e9,  # taken in, and kept for a month
    "sent_bytes": 0.09 / 1e9,
}
METRIC_PRICE = 0.30  # for a month, whatever number of events comes
SHOWN = ("table_units", "index_units", "sqs_requests", "log_bytes", "lambda_ms")
LINE = "| {:<38} | {:>11} | {:>11} | {:>12} | {:>9} | {:>9} | {:>12} | {:>10} | {:>7} | {:<3} |"
COLUMNS = (
    "an event",
    *(name.replace("_", " ") for name in SHOWN),
    "a million, $",
    "a month, $",
    "goal",
    "met",
)
GOALS = {300: None, 1_000: 9.10, 10_000: 15.00, 50_000: None}  # delivered at once
MOST_LOG_BYTES = 1_000  # of a delivered POST
CASES = {0: "delivered at once", 2: "retried twice"}
# of events with a copy, and that fail for good; and of the one whose log has a goal
OTHER_BYTES = LOGGED_BYTES = 1_000
ROUNDS = 20
# Assumed, since nothing here is as slow as AWS. CPU time is measured, and divided by the share of a
# core of 512 MB.
# 1 % of starts are cold, and take 500 ms
AWS_CALL_MS, RECEIVER_MS, COLD_START_MS, CORES = 10, 100, 5, 0.29
POLL_REQUESTS = 2  # Lambda receives each message of the worker, and deletes it
WORDS = (
    "alpine",
    "organic",
    "cotton",
    "merino",
    "shirt",
    "jacket",
    "light",
    "grey",
    "navy",
    "red",
    "slim",
    "large",
)
ORDER = '{"id":%d,"created_at":"2026-11-25T09:30:00+01:00","email":"%x@example.com","line_items":[%s],"note":"%s"}'  # noqa: E501
LINE_ITEM = (
    '{"id":%d,"variant_id":%d,"title":"%s","sku":"%X","price":"%.2f","requires_shipping":true,'
    '"tax_lines":[{"title":"VAT","rate":0.19,"price":"%.2f"}],"fulfillment_status":null}'
)


def order(size: int, random: Random) -> str:
    """Return an order as shops post them, as compact JSON of `size` bytes."""
    head, items, note = (
        (random.getrandbits(44), random.getrandbits(40)),
        list[str](),
        random.choices(WORDS, k=100),
    )
    while len(text := ORDER % (*head, ",".join(items), "")) + 300 < size:
        title = " ".join(random.sample(WORDS, 4))
        numbers = (random.getrandbits(44), random.getrandbits(44), random.getrandbits(40))
        items.append(
            LINE_ITEM
            % (*numbers[:2], title, numbers[2], random.uniform(5, 200), random.uniform(1, 40))
        )
    return ORDER % (*head, ",".join(items), " ".join(note)[: size - len(text)])


def deliver(payload: str, failures: int, receiver: Receiver, naps: list[float]) -> Counter[str]:
    """Deliver an event that the receiver refuses `failures` times before, or let it fail; return
    what that took.

    What is due after more than 900 s is marked and queued as the sweep does.
    """
    settings, invocations = services.get().settings, 1
    policy, waits, now = RetryPolicy.of(settings), list[float](), time.time()
    destination = services.get().targets.webhook.destination
    services.get().worker_breaker.record(destination, now, now, PushResult(Outcome.DELIVERED), 0)
    receiver.script(*[503] * failures)
    receiver.requests.clear()
    naps.clear()
    standin.post("/meter")
    output, started = io.StringIO(), time.thread_time()
    with contextlib.redirect_stdout(output):
        event = call("POST", "/events", f'{{"event_type":"order.created","payload":{payload}}}')
        while (made := len(receiver.requests)) < min(failures + 1, settings.max_delivery_attempts):
            delay_seconds = policy.delay_seconds(made, retry_after_seconds=0, random=lambda: 0.5)
            waits.append(delay_seconds)  # for which nobody pays
            naps.append(delay_seconds)
            if delay_seconds > MAX_DELAY_SECONDS:
                queue_overdue(event["event_id"])
            prepare_worker(event["event_id"])()
            invocations += 1
    cpu_ms, log = (time.thread_time() - started) * 1000, output.getvalue()
    used = Counter[str](standin.post("/meter")[0])
    slept_seconds = sum(naps) - sum(waits)
    waited_ms = (
        AWS_CALL_MS * used.pop("calls")
        + RECEIVER_MS * len(receiver.requests)
        + slept_seconds * 1000
    )
    used["requests"], used["invocations"] = 1, invocations
    used["lambda_ms"] = round(cpu_ms / CORES + waited_ms + COLD_START_MS * invocations)
    used["sqs_requests"] += POLL_REQUESTS * (invocations - 1)
    used["log_bytes"] = len(log)  # Lambda writes nothing of its own: `LoggingConfig`
    used["metrics"] = len({*re.findall(r'"Name": ?"(\w+)"', log)})
    pushed_bytes = sum(len(push.body) + len(str(push.headers)) for push in receiver.requests)
    used["sent_bytes"] = len(dumps(event)) + pushed_bytes
    return used


def queue_overdue(event_id: str) -> None:
    """Mark and queue an event as the sweep does."""
    store, event = services.get().store, services.get().store.get(event_id)
    marked = {"requeue_at": rfc3339(time.time() + 9e6)}
    if (
        event is None
        or not store.change(event_id, UNCHANGED, marked, {":seen": event.requeue_at}).applied
    ):
        raise RuntimeError(f"{event_id} cannot be queued")
    services.get().work_queue.send_many([push_message(event)])


def measure() -> Iterator[Row]:
    """Yield a row for each size of the payload, delivered at once or retried: the average of ROUNDS
    events.

    Then one for an event that fails for good, and one for an event with a copy.
    """
    naps: list[float] = []  # seconds that were slept, or seem to have been
    with Receiver() as receiver:
        settings = use_settings(EVENTS_TABLE_NAME="cost", ZAPIER_WEBHOOK_URL=receiver.url).settings
        services.use(
            Services(
                settings,
                clock=lambda: time.time() + sum(naps),
                sleep=naps.append,
                random=lambda: 0.5,
            )
        )
        cases = [(*size, *case) for size, case in itertools.product(GOALS.items(), CASES.items())]
        fails = f"failed after {settings.max_delivery_attempts} attempts"
        others = [
            (OTHER_BYTES, None, settings.max_delivery_attempts, fails),
            (OTHER_BYTES, None, 0, "and a copy"),
        ]
        for size, goal, failures, name in [*cases, *others]:
            if name == "and a copy":
                call("POST", "/subscriptions", dumps({"target_url": receiver.url}))
            total = Counter[str]()
            for number in range(ROUNDS):
                # connects, reads the subscriptions, closes the circuit breaker
                deliver("{}", 0, receiver, naps)
                total += deliver(order(size, Random(number)), failures, receiver, naps)
            used = {each: total[each] / ROUNDS for each in (*PRICES, "metrics")}
            dollars = sum(PRICES[each] * used[each] for each in PRICES) * 1_000_000
            aim = ("", None) if failures or goal is None else (f"≤ {goal:.2f}", dollars <= goal)
            prices = (f"{dollars:.2f}", f"{METRIC_PRICE * used['metrics']:.2f}")
            yield (
                f"{size:,} bytes, {name}",
                *(f"{used[each]:,.4g}" for each in SHOWN),
                *prices,
                *aim,
            )
            if size == LOGGED_BYTES and not failures and goal:
                log_bytes = used["log_bytes"]
                aim = (f"≤ {MOST_LOG_BYTES}", log_bytes <= MOST_LOG_BYTES)
                yield "its log bytes", *[""] * 3, f"{log_bytes:,.4g}", *[""] * 3, *aim
