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
# The quantities, of those in PRICES, that have a column of the table.
COLUMN_QUANTITIES = ("table_units", "index_units", "sqs_requests", "log_bytes", "lambda_ms")
LINE = "| {:<38} | {:>11} | {:>11} | {:>12} | {:>9} | {:>9} | {:>12} | {:>10} | {:>7} | {:<3} |"
COLUMNS = (
    "an event",
    *(name.replace("_", " ") for name in COLUMN_QUANTITIES),
    "a million, $",
    "a month, $",
    "goal",
    "met",
)
# The largest price of a million events that are delivered at once, in dollars, by the size of the
# payload in bytes; None: there is no goal for this size.
GOALS = {300: None, 1_000: 9.10, 10_000: 15.00, 50_000: None}
BATCH = 10  # how many events a batch has
BATCH_GOAL = 4.85  # for a million events in batches, in dollars
MOST_LOG_BYTES = 1_000  # the goal for what is logged of a POST that is delivered
LOGGED_BYTES = 1_000  # the payload of the event for which the goal is, of those in GOALS
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
    """Return a random order as shops post them, as compact JSON of exactly `size` bytes: as many
    line items as fit and, for the rest, a note.

    :param size: At least 200, so that an order without line items and note fits.
    """
    order_id = random.getrandbits(44)
    customer = random.getrandbits(40)
    words = TITLES.split()
    note = " ".join(random.choices(words, k=100))  # longer than a line item, the most that is left
    items: list[str] = []
    text = ORDER % (order_id, customer, "", "")
    while len(text) + MAX_LINE_ITEM < size:
        title = " ".join(random.sample(words, 4))
        item_id = random.getrandbits(44)
        variant_id = random.getrandbits(44)
        sku = random.getrandbits(40)
        price = random.uniform(5, 200)
        tax = random.uniform(1, 40)
        items.append(LINE_ITEM % (item_id, variant_id, title, sku, price, tax))
        text = ORDER % (order_id, customer, ",".join(items), "")
    rest = size - len(text)
    return ORDER % (order_id, customer, ",".join(items), note[:rest])


def deliver(*payloads: str) -> Counter[str]:
    """Post events in one request, several of them as a batch, and wait until they and their copies
    are delivered, as the request does. Return how much of each quantity in PRICES this took,
    and the number of different metrics that were logged, as `metrics`.

    :param payloads: The payload of each event, as JSON.
    """
    standin.meter()  # resets the counts, so that earlier requests are not counted
    output = io.StringIO()
    events = [f'{{"event_type":"order.created","payload":{payload}}}' for payload in payloads]
    if len(events) == 1:
        path = "/events"
        body = events[0]
    else:
        path = "/events/batch"
        body = f'{{"events":[{",".join(events)}]}}'
    started = time.process_time()
    with contextlib.redirect_stdout(output):
        response = call("POST", path, body)
    cpu_ms = (time.process_time() - started) * 1000
    log = output.getvalue()
    used = standin.meter().used
    waited_ms = used.pop("waited_us") / 1000
    used["requests"] = 1
    used["invocations"] = 1
    # A function has only a part of a core, so its CPU time takes longer there than here.
    used["lambda_ms"] = round(cpu_ms / CORES + waited_ms + COLD_START_MS)
    used["log_bytes"] = len(log)  # Lambda writes nothing of its own: `LoggingConfig`
    used["metrics"] = len({*re.findall(r'"Name": ?"(\w+)"', log)})
    used["sent_bytes"] = len(dumps(response)) + used.pop("pushed_bytes")
    return used


def average(size: int, batch: int = 1) -> Counter[str]:
    """Return what one event takes on average of ROUNDS requests, as `deliver` counts it. `metrics`
    is the number of metrics of a request instead.

    :param size: The bytes of the payload of each event.
    :param batch: How many events each request has.
    """
    deliver("{}")  # connects, and reads the subscriptions
    total = Counter[str]()
    for request in range(ROUNDS):
        payloads = [order(size, Random(f"{request}.{number}")) for number in range(batch)]
        total += deliver(*payloads)
    # A request logs the same metrics for all of its events. So the division by `batch` is undone.
    total["metrics"] *= batch
    return Counter({name: count / ROUNDS / batch for name, count in total.items()})


def row(name: str, used: Counter[str], goal: float | None = None) -> Row:
    """Return the row of the table for one event: its name, the quantities in COLUMN_QUANTITIES, the
    price of a million events, the price of its metrics for a month, the goal, and whether the goal
    is met (None: there is no goal).

    :param name: The name of the row.
    :param used: What the event takes, as `average` returns it.
    :param goal: The largest price of a million such events, in dollars; None: there is no goal.
    """
    dollars = sum(price * used[quantity] for quantity, price in PRICES.items()) * 1_000_000
    metrics_dollars = METRIC_PRICE * used["metrics"]
    quantities = [f"{used[quantity]:,.4g}" for quantity in COLUMN_QUANTITIES]
    goal_text = f"≤ {goal:.2f}" if goal else ""
    is_met = dollars <= goal if goal else None
    return name, *quantities, f"{dollars:.2f}", f"{metrics_dollars:.2f}", goal_text, is_met


def measure() -> Iterator[Row]:
    """Yield the rows of the table: one for each size of the payload in GOALS, after that of
    LOGGED_BYTES one with the goal for its log, then one for an event in a batch, and one for an
    event with one, two and three copies each.
    """
    standin.start(call_seconds=AWS_CALL_SECONDS, push_seconds=RECEIVER_SECONDS)
    for size, goal in GOALS.items():
        used = average(size)
        yield row(f"{size:,} bytes, delivered at once", used, goal)
        if size == LOGGED_BYTES:
            log_bytes = used["log_bytes"]
            # The fourth quantity is that of the log; all other columns are empty.
            quantities = ("", "", "", f"{log_bytes:,.4g}", "")
            is_met = log_bytes <= MOST_LOG_BYTES
            yield "its log bytes", *quantities, "", "", f"≤ {MOST_LOG_BYTES}", is_met
    used = average(LOGGED_BYTES, BATCH)
    yield row(f"{LOGGED_BYTES:,} bytes, in a batch of {BATCH}", used, BATCH_GOAL)
    # Each round adds a subscription, whose copies the events of all later rounds have, too.
    for number in (1, 2, 3):
        target_url = f"{os.environ['ZAPIER_WEBHOOK_URL']}?{number}"
        call("POST", "/subscriptions", dumps({"target_url": target_url}))
        yield row(f"{LOGGED_BYTES:,} bytes, webhook and copies: {number}", average(LOGGED_BYTES))
