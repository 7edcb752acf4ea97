"""Compute the cost of an event from what was really written for it: the table of docs/cost.md."""

import contextlib
import io
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from random import Random

from chalicelib.infra.parsing import dumps
from measure.bench import standin
from measure.bench.bench import Row, call

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
BATCH = 10
BATCH_GOAL = 4.85
MOST_LOG_BYTES = 1_000  # of a delivered POST
LOGGED_BYTES = 1_000  # of the one whose log has a goal
ROUNDS = 20
# Assumed. What waits in parallel counts once.
AWS_CALL_SECONDS = 0.01
RECEIVER_SECONDS = 0.1
COLD_START_MS = 5  # 1 % of starts are cold, and take 500 ms
CORES = 0.29  # that 512 MB have: the CPU time of all threads, which is measured, is divided by it
TITLES = "alpine organic cotton merino shirt jacket light grey navy red slim large"
ORDER = (
    '{"id":%d,"created_at":"2026-11-25T09:30:00+01:00","email":"%x@example.com","line_items":[%s],'
    '"note":"%s"}'
)
LINE_ITEM = (
    '{"id":%d,"variant_id":%d,"title":"%s","sku":"%X","price":"%.2f","requires_shipping":true,'
    '"tax_lines":[{"title":"VAT","rate":0.19,"price":"%.2f"}],"fulfillment_status":null}'
)
MAX_LINE_ITEM = 300  # bytes


def order(size: int, random: Random) -> str:
    """Return an order as shops post them, as compact JSON of `size` bytes: line items and, for the
    rest, a note.

    :param size: At least 500.
    """
    order_id, customer = random.getrandbits(44), random.getrandbits(40)
    words = TITLES.split()
    note = " ".join(random.choices(words, k=100))
    items: list[str] = []
    text = ORDER % (order_id, customer, "", "")
    while len(text) + MAX_LINE_ITEM < size:
        title = " ".join(random.sample(words, 4))
        numbers = (random.getrandbits(44), random.getrandbits(44), title, random.getrandbits(40))
        prices = (random.uniform(5, 200), random.uniform(1, 40))
        items.append(LINE_ITEM % (*numbers, *prices))
        text = ORDER % (order_id, customer, ",".join(items), "")
    return ORDER % (order_id, customer, ",".join(items), note[: size - len(text)])


def deliver(*payloads: str) -> Counter[str]:
    """Post events in one request, several of them as a batch, and have them and their copies
    delivered at once; return the counts of what this took, by the names in PRICES.

    The result also has `metrics`, the number of different metrics that were logged.

    :param payloads: The payload of each event, as JSON.
    """
    standin.meter()
    output = io.StringIO()
    events = [f'{{"event_type":"order.created","payload":{payload}}}' for payload in payloads]
    path, body = "/events", events[0]
    if len(events) > 1:
        path, body = "/events/batch", f'{{"events":[{",".join(events)}]}}'
    started = time.process_time()
    with contextlib.redirect_stdout(output):
        event = call("POST", path, body)
    cpu_ms = (time.process_time() - started) * 1000
    log = output.getvalue()
    used = Counter[str](standin.meter()[0])
    used["requests"] = used["invocations"] = 1
    used["lambda_ms"] = round(cpu_ms / CORES + used.pop("waited_us") / 1000 + COLD_START_MS)
    used["log_bytes"] = len(log)  # Lambda writes nothing of its own: `LoggingConfig`
    used["metrics"] = len({*re.findall(r'"Name": ?"(\w+)"', log)})
    used["sent_bytes"] = len(dumps(event)) + used.pop("pushed_bytes")
    return used


def average(size: int, batch: int = 1) -> Counter[str]:
    """Return what one event takes on average in ROUNDS requests, as `deliver` counts it.

    :param size: The bytes of the payload of each event.
    :param batch: How many events each request has.
    """
    deliver("{}")  # connects, and reads the subscriptions
    total = Counter[str]()
    for number in range(ROUNDS):
        total += deliver(*(order(size, Random(f"{number}.{each}")) for each in range(batch)))
    total["metrics"] *= batch  # whose number does not depend on that of events
    return Counter({name: count / ROUNDS / batch for name, count in total.items()})


def row(name: str, used: Counter[str], goal: float | None = None) -> Row:
    """Return the row of the table for one event.

    :param name: The name of the row.
    :param used: What the event takes, as `average` returns it.
    :param goal: The largest price of a million such events, in dollars; None: there is no goal.
    """
    dollars = sum(price * used[each] for each, price in PRICES.items()) * 1_000_000
    metrics = METRIC_PRICE * used["metrics"]
    aim = (f"≤ {goal:.2f}", dollars <= goal) if goal else ("", None)
    return name, *[f"{used[each]:,.4g}" for each in SHOWN], f"{dollars:.2f}", f"{metrics:.2f}", *aim


def measure() -> Iterator[Row]:
    """Yield a row for each size of the payload, then those for an event with copies."""
    standin.start(call_seconds=AWS_CALL_SECONDS, push_seconds=RECEIVER_SECONDS)
    for size, goal in GOALS.items():
        used = average(size)
        yield row(f"{size:,} bytes, delivered at once", used, goal)
        if size == LOGGED_BYTES:
            log_bytes = used["log_bytes"]
            aim = (f"≤ {MOST_LOG_BYTES}", log_bytes <= MOST_LOG_BYTES)
            yield "its log bytes", *[""] * 3, f"{log_bytes:,.4g}", *[""] * 3, *aim
    used = average(LOGGED_BYTES, BATCH)
    yield row(f"{LOGGED_BYTES:,} bytes, in a batch of {BATCH}", used, BATCH_GOAL)
    for number in (1, 2, 3):
        target_url = f"{os.environ['ZAPIER_WEBHOOK_URL']}?{number}"
        call("POST", "/subscriptions", dumps({"target_url": target_url}))
        yield row(f"{LOGGED_BYTES:,} bytes, webhook and copies: {number}", average(LOGGED_BYTES))
