"""Operator commands: inspect and redrive the dead letter queue; show, replay, erase and send
events; create tokens.

Results go to standard output, progress and errors to standard error. Payloads are printed only by
`show --payload`.
"""

import hashlib
import json
import logging
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import boto3
import click
from botocore.config import Config

from chalicelib.infra.parsing import Json
from chalicelib.infra.queue import BATCH_SIZE, Message, Queue
from tools.api import MAX_CALLS, Api, printable
from tools.command_line import (
    COMPARABLE,
    ID_LENGTH,
    METADATA_HELP,
    Commands,
    act_on_each,
    again,
    counted,
    file_option,
    numbered_lines,
    option,
    parse_duration,
    parse_json,
    parse_metadata,
    print_items,
    print_place,
    print_table,
    rate_option,
    since_option,
    stage_option,
    tenant_option,
    until_option,
)
from tools.import_subscriptions import import_subscriptions
from tools.subscriptions import (
    COLUMNS,
    disable,
    enable,
    missed,
    recover,
    send_to,
    subscriptions,
    undelivered,
)

# The query of a list of all events and copies, the oldest first.
OLDEST_FIRST = {"order": "oldest", "limit": "100"}
EVENT_COLUMNS = ("event_id", "created_at", "event_type", "status", "last_error")


@click.group(
    cls=Commands,
    commands=(
        subscriptions,
        undelivered,
        send_to,
        missed,
        recover,
        enable,
        disable,
        import_subscriptions,
    ),
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
def cli() -> None:
    """Operate a running Triggers API.

    The commands dlq and redrive use the AWS credentials, region and AWS_ENDPOINT_URL that boto3
    finds. All other commands call the API at TRIGGERS_URL with the key in TRIGGERS_API_KEY.

    The exit status is 0 if the command succeeded, 1 if it failed, 2 if its usage was wrong, and 130
    if Ctrl-C stopped it. make exits with 2 where the command exits with 1 or 2, and with 0 if a
    command only counted because GO=1 was missing.
    """


@dataclass(frozen=True)
class StageQueues:
    """The queues of a stage that the commands read and write."""

    # An SQS client.
    sqs: Any
    work_queue_url: str
    dlq_url: str


def find_queues(stage: str) -> StageQueues:
    """Find the queues of a stage, and print its account and region; raise ClickException with the
    name of a queue that does not exist.
    """
    print_place(stage)
    sqs = boto3.client("sqs", config=Config(connect_timeout=5, read_timeout=30))
    prefix = f"triggers-api-{stage}-inbox-"
    urls = []
    try:
        for name in (f"{prefix}queue", f"{prefix}dlq"):
            urls.append(sqs.get_queue_url(QueueName=name)["QueueUrl"])
    except sqs.exceptions.QueueDoesNotExist as error:
        raise click.ClickException(f"there is no queue {name}") from error
    return StageQueues(sqs, *urls)


class Depth(NamedTuple):
    """How many messages a queue has."""

    total: int
    # How many of the total were received and are not deleted yet.
    in_flight: int


def read_depth(sqs: Any, url: str) -> Depth:
    """Return the approximate number of messages of a dead letter queue, in which no message is
    delayed.
    """
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    in_flight = int(attributes["ApproximateNumberOfMessagesNotVisible"])
    total = int(attributes["ApproximateNumberOfMessages"]) + in_flight
    return Depth(total, in_flight)


@cli.command(short_help="Show the depth of the dead letter queue, and the reasons.")
@stage_option
@option(
    "--limit",
    type=click.IntRange(1, 1000),
    metavar="NUMBER",
    default=100,
    help="The size of the sample, up to 1000.",
)
def dlq(stage: str, limit: int) -> None:
    """Show how many messages the dead letter queue has, and group a sample of them by destination
    and reason. Each group is shown with its latest message.

    The destination is the webhook or a subscription. Nothing is removed: the command receives the
    messages of the sample and makes them visible again at once.
    """
    queues = find_queues(stage)
    depth = read_depth(queues.sqs, queues.dlq_url)
    sample = peek(queues.sqs, queues.dlq_url, min(limit, depth.total - depth.in_flight))
    counts = Counter[tuple[str, str]]()
    latest: dict[tuple[str, str], DeadLetter] = {}
    for letter in sorted(map(describe, sample)):
        group = (letter.destination, letter.reason)
        counts[group] += 1
        latest[group] = letter
    rows = [
        (
            *group,
            counts[group],
            letter.failed_at,
            letter.event_id,
            letter.attempts,
            letter.last_error,
        )
        for group, letter in latest.items()
    ]
    if rows:
        print_table(
            (
                "destination",
                "reason",
                "messages",
                "latest",
                "event_id",
                "attempts",
                "last_error",
            ),
            rows,
        )
    queue_name = queues.dlq_url.rsplit("/", 1)[-1]
    if not depth.total:
        print(f"{queue_name} is empty")
        return
    count = counted(depth.total, "message")
    print(
        f"{queue_name} holds {count}, {depth.in_flight:,} of them in flight; sample: {len(sample)}"
    )


def peek(sqs: Any, url: str, limit: int) -> list[Message]:
    """Receive up to `limit` messages from a queue, make them visible again, and return them."""
    received: list[Message] = []
    try:
        received += receive(Queue(sqs, url), limit)
    finally:
        for message in received:
            sqs.change_message_visibility(
                QueueUrl=url, ReceiptHandle=message.receipt_handle, VisibilityTimeout=0
            )
    return received


WAIT_SECONDS = 2  # a long poll asks all of SQS's servers, a short one only some


def receive(queue: Queue, limit: int, batch_size: int = BATCH_SIZE) -> Iterator[Message]:
    """Yield the messages of a queue until none is visible, or until there were `limit` messages:
    messages that come back would keep an unlimited loop going for ever.

    :param batch_size: How many messages are received at a time, at most 10. They are in flight
        until the caller handles them.
    """
    left = limit
    while left > 0:
        messages = queue.receive(min(batch_size, left), WAIT_SECONDS)
        if not messages:
            return
        left -= len(messages)
        yield from messages


class DeadLetter(NamedTuple):
    """A message of the dead letter queue as `dlq` shows it. Dead letters sort by destination,
    reason and time of failure.
    """

    # The id of the subscription, or `webhook`.
    destination: str
    # Why the event is not pushed any more: `malformed` if the message cannot be read.
    reason: str
    # RFC 3339; empty: not known.
    failed_at: str
    # The id of the event or, if that is not known, of the message.
    event_id: str
    # The number of attempts; empty: not known.
    attempts: str
    last_error: str


def describe(message: Message) -> DeadLetter:
    """Return the destination, the reason and the event of a message in the dead letter queue."""
    content: Json = {}
    try:
        content |= json.loads(message.body)
    except (ValueError, RecursionError, TypeError):
        content["reason"] = "malformed"

    def text(name: str, default: str = "") -> str:
        return str(content.get(name) or default)

    return DeadLetter(
        destination=text("subscription_id", message.group_id),
        # SQS moves a message without a reason if the worker received it too often without finishing
        reason=text("reason", message.attributes.get("Reason", "unprocessed")),
        failed_at=text("failed_at"),
        event_id=text("event_id", f"message {message.message_id}"),
        attempts=text("delivery_attempts"),
        last_error=text("last_error"),
    )


@cli.command(short_help="Move dead letters back to the work queue.")
@stage_option
@rate_option
def redrive(stage: str, rate: float) -> None:
    """Move the dead letters back to the work queue. The worker pushes their events again.

    Fix the cause first, or the messages come back. The command can be stopped without loss: it
    deletes a message only after it sent the message on, and an event whose message was sent twice
    is pushed once. The worker drops messages of events that were replayed or acknowledged
    meanwhile, and returns messages that it cannot read.
    """
    queues = find_queues(stage)
    work_queue = Queue(queues.sqs, queues.work_queue_url)
    dead_letters = Queue(queues.sqs, queues.dlq_url)
    total = read_depth(queues.sqs, queues.dlq_url).total

    def move(message: Message) -> str:
        work_queue.send_many([message])
        dead_letters.delete_many([message.receipt_handle])
        return f"moved from {dead_letters.name} to {work_queue.name}"

    per_second = min(BATCH_SIZE, max(1, int(rate)))
    act_on_each(
        "message",
        receive(dead_letters, total, per_second),
        move,
        total=total,
        rate=rate,
        rest=lambda _: f"To move the rest (in flight for 30 s): {again()}",
    )


MAX_SEARCHED = 1000  # events and copies


@cli.command(short_help="Show the timeline of one event, or a subscription.")
@click.argument("event_id", default="", envvar="EVENT_ID")
@option(
    "--subject",
    metavar="SUBJECT",
    help="Show the event with this subject, or a list if several events have it.",
)
@click.option("--payload", is_flag=True, help="Also show the payload and the metadata.")
def show(event_id: str, subject: str | None, *, payload: bool) -> None:
    """Show the timeline of an event: its creation, its last 25 attempts, its state, and which
    recipients got it or why they did not. With a sub_... id, show that subscription.

    The beginning of an id is enough. The command searches the newest 1,000 events and copies, or
    all subscriptions, and prints a list if several match.
    """
    if bool(event_id) == bool(subject):
        raise click.UsageError("give either EVENT_ID or --subject")
    api = Api()
    path = "/events"
    columns: Sequence[str] = (*EVENT_COLUMNS, "tenant")
    query = {"limit": "100", "subject": subject, "include": "outcome" if subject else None}
    max_searched: int | None = MAX_SEARCHED
    if event_id.startswith("sub_"):
        path = "/subscriptions"
        columns = COLUMNS
        query = {"tenant": "*"}
        max_searched = None
    id_name = columns[0]
    if len(event_id) >= ID_LENGTH:
        found: list[Json] = [{id_name: event_id}]
    else:  # the beginning of an id, or nothing with --subject, with which every id begins
        items = islice(api.list_all(path, **query), max_searched)
        found = [item for item in items if item[id_name].startswith(event_id)]
    if not found:
        searched_for = event_id or subject
        raise click.ClickException(
            printable(f"nothing found: {searched_for} (ids begin with evt_, cpy_ or sub_)")
        )
    if len(found) > 1:
        print_items(columns, map(show_outcome, found))
        return
    item = api.get(path, found[0][id_name])
    if path == "/events":
        print_event(api, item, payload=payload)
    else:
        print(json.dumps(item, indent=2))


def show_outcome(event: Json) -> Json:
    """Return an event with the state and error of its outcome as its status and last error; return
    it unchanged if it has no outcome.
    """
    outcome = event.get("outcome")
    if not outcome:
        return event
    return {
        **event,
        "status": outcome["state"].replace("_", " "),
        "last_error": outcome["error"],
    }


def print_event(api: Api, event: Json, *, payload: bool) -> None:
    """Print the timeline of an event, and a line for each recipient.

    :param payload: Whether to print the payload and the metadata, too.
    """
    # The answer has no recipients if the event is a copy, or if the key lacks the scope.
    content = api.request("GET", f"/events/{event['event_id']}/recipients").content
    recipients = content.get("recipients")
    event = show_outcome({**event, "outcome": content.get("outcome")})
    print(
        f"{event['event_id']}  {event['event_type']}  {event['status']}  posted by "
        f"{event['created_by']}"
    )
    print(f"{'The event itself: ' if recipients else ''}{event['message']}")
    for name in (
        "tenant",
        "subject",
        "subscription_id",
        "source_event_id",
        "lease_id",
        "leased_until",
        "lease_count",
    ):
        if event.get(name):
            print(f"{name}: {event[name]}")
    rows: list[tuple[object, ...]] = [(event["created_at"], "created")]
    for attempt in event["attempts"]:
        what = f"attempt: {attempt['outcome']}"
        duration = f"{attempt['duration_ms']:,} ms"
        answer = attempt["status_code"] or attempt["error"]
        # The API of version 1.0 has no response headers.
        headers = attempt.get("response_headers") or {}
        shown_headers = ", ".join(f"{name}: {value}" for name, value in headers.items())
        rows.append((attempt["at"], what, duration, answer, attempt["response"], shown_headers))
    if event["next_attempt_at"]:
        rows.append((event["next_attempt_at"], "next attempt"))
    if event["delivered_via"] in ("pull", "subscriptions"):
        rows.append((event["delivered_at"], f"delivered by {event['delivered_via']}"))
    print()
    print_table(("time", "what", "took", "answer", "response", "response headers"), rows)
    if recipients:
        print()
        print_table(("recipient", "subscription", "copy"), map(recipient_row, recipients))
    if payload:
        print(json.dumps({"payload": event["payload"], "metadata": event["metadata"]}, indent=2))


def recipient_row(recipient: Json) -> tuple[object, ...]:
    """Return the row of a recipient: its name with the state of its copy or the reason why there is
    no copy, the id of the subscription, and the id of the copy.
    """
    text = recipient["name"] or recipient["target_host"] or recipient["state"]
    if recipient["tenant"]:
        text += f" ({recipient['tenant']})"
    copy = recipient["copy"]
    state = [copy["status"], copy["last_error"]] if copy else ["no copy", recipient["reason"]]
    text = ": ".join([text, *filter(None, state)])
    if recipient["member"]:
        text += f", {recipient['member']}"
    return text, recipient["subscription_id"], copy and copy["event_id"]


@cli.command(short_help="Count events, or push them again (--go).")
@click.argument("event_id", nargs=-1, envvar="EVENT_ID")
@since_option
@until_option
@tenant_option
@option(
    "--status",
    type=click.Choice(["pending", "delivered", "failed"]),
    default="failed",
    help="Only events with this status.",
)
@option(
    "--event-type",
    metavar="TYPE",
    help="Only events of this type. A prefix ends with .*, as in order.*",
)
@option("--subscription-id", metavar="SUBSCRIPTION_ID", help="Only copies for this subscription.")
@rate_option
@click.option(
    "--go",
    is_flag=True,
    help="Push the events. Without it, they are counted, and the first ten are listed.",
)
def replay(
    event_id: tuple[str, ...],
    *,
    since: str | None,
    until: str,
    tenant: str | None,
    status: str,
    event_type: str | None,
    subscription_id: str | None,
    rate: float,
    go: bool,
) -> None:
    """Push events again: the events that are named, or all events since a time, the oldest first.

    When the command is stopped, it prints the command that continues. Events that are being pushed
    or are leased are skipped and named. The messages of replayed events stay in the dead letter
    queue until a redrive, which drops them.
    """
    if bool(event_id) == bool(since):
        raise click.UsageError("give either EVENT_ID or --since")
    api = Api()
    found = [api.get("/events", named_id) for named_id in event_id]
    if since:
        found += api.list_all(
            "/events",
            **OLDEST_FIRST,
            since=since,
            until=until,
            tenant=tenant,
            status=status,
            event_type=event_type,
            subscription_id=subscription_id,
        )
    event_ids = [event["event_id"] for event in found]

    def how_to_push_from(first: int) -> str:
        """Return the command that pushes the events from a position in the list on."""
        rest = {"event_id": " ".join(event_ids[first:])}
        if since:
            rest = {"since": found[first]["created_at"]}
        return f"To push them: {again(**rest, go='1')}"

    if not event_ids:
        print("0 events would be replayed")
        return
    if not go:
        print_items(EVENT_COLUMNS, found[:10])
        count = counted(len(event_ids), "event")
        print(f"{count} would be replayed. {how_to_push_from(0)}")
        return

    def push(pushed_id: str) -> str:
        # The call is not repeated when its response is lost: it would push again an event that was
        # delivered meanwhile.
        api.call("POST", f"/events/{quote(pushed_id, safe='')}/replay", read_retries=0)
        return "queued"

    act_on_each(
        "event",
        event_ids,
        push,
        total=len(event_ids),
        rate=rate,
        rest=how_to_push_from,
    )


def find_matching(
    api: Api, metadata: dict[str, str], query: Mapping[str, str | None], erased: Set[str]
) -> dict[str, list[str]]:
    """Return the ids of the matching events and copies, grouped by the id of the original event.

    Copies are searched, too: a copy can exist without its event, if the event expired or its
    erasure was interrupted.

    :param metadata: Members that the event's metadata must have; empty: any metadata matches.
    :param query: Parameters of `GET /events`.
    :param erased: Ids to leave out, because lists show erased events for some seconds.
    """
    found: dict[str, list[str]] = {}
    for event in api.list_all("/events", **OLDEST_FIRST, **query, include="payload"):
        texts = {}
        for name, value in (event["metadata"] or {}).items():
            if type(value) in COMPARABLE:
                texts[name] = str(value)
        event_id = event["event_id"]
        if metadata.items() <= texts.items() and event_id not in erased:
            found.setdefault(event["source_event_id"] or event_id, []).append(event_id)
    return found


NO_ERASE = "the key in TRIGGERS_API_KEY lacks the scope erase, which --go needs (docs/runbook.md)"


@cli.command(short_help="Count the events of a person or a tenant, or erase them (--go).")
@option("--metadata", type=parse_metadata, metavar="PAIRS", help=METADATA_HELP)
@tenant_option
@since_option
@until_option
@rate_option
@click.option("--go", is_flag=True, help="Erase them. Without it, they are counted.")
def erase(
    *,
    metadata: dict[str, str] | None,
    tenant: str | None,
    since: str | None,
    until: str,
    rate: float,
    go: bool,
) -> None:
    """Erase the events of a person (--metadata) or a tenant (--tenant), and their copies. Erased
    events cannot be restored.

    A value in --metadata matches a JSON string or number that is written the same way. Without
    --metadata, all subscriptions of the tenant are deleted, too, whatever --since says.

    Lists lag behind by some seconds, so the command searches again until it finds nothing new.
    Events that are being pushed or are leased are skipped and named: repeat the command, which is
    safe. The API key needs the scopes consume and erase.
    """
    if not (metadata or tenant):
        raise click.UsageError("give --metadata or --tenant")
    api = Api()
    me = api.call("GET", "/me").content
    refusal = "" if "erase" in me["scopes"] else NO_ERASE
    if go and refusal:
        raise click.ClickException(refusal)
    query = {"tenant": tenant, "since": since, "until": until}
    erased: set[str] = set()
    command = again(metadata=json.dumps(metadata) if metadata else "", go="1")
    while True:
        found = find_matching(api, metadata or {}, query, erased)
        listed = [] if metadata else api.list_all("/subscriptions", tenant=tenant)
        subscriptions = [row for row in listed if row["subscription_id"] not in erased]
        if subscriptions:
            print_items(COLUMNS, subscriptions)
        event_ids = list(chain.from_iterable(found.values()))
        for event_id in event_ids:
            print(event_id)
        copies = sum(event_id.startswith("cpy_") for event_id in event_ids)
        print(
            f"matching: events {len(event_ids) - copies:,}, copies {copies:,}, "
            f"subscriptions {len(subscriptions):,}"
        )
        items = [subscription["subscription_id"] for subscription in subscriptions]
        items += found
        if not items:
            return
        if not go:
            print(refusal or f"To erase them: {command}")
            return
        act_on_each(
            "item",
            items,
            partial(remove_item, api, found),
            total=len(items),
            rate=rate,
            rest=lambda _: f"To complete it: {command}",
        )
        erased.update(items, event_ids)


def remove_item(api: Api, found: Mapping[str, Sequence[str]], item: str) -> str:
    """Delete a subscription, or an event with the copies that were found; return `erased`.

    :param found: The ids of matching events and copies, by the id of the original event.
    :param item: The id of a subscription or of an original event.
    """
    if item.startswith("sub_"):
        api.call("DELETE", f"/subscriptions/{item}")
        return "erased"
    for event_id in dict.fromkeys([item, *found[item]]):
        api.call("DELETE", f"/events/{event_id}")
    return "erased"


@cli.command(short_help="Create a token for a tenant, and the link that opens its page.")
@option(
    "--tenant",
    required=True,
    metavar="TENANT",
    help="The tenant whose subscriptions the token manages.",
)
@option(
    "--expires-in",
    type=parse_duration,
    metavar="DURATION",
    default="1h",
    help="How long the token is valid, from 60s to 30d.",
)
def token(tenant: str, expires_in: int) -> None:
    """Create a token. A customer uses it to manage the subscriptions of one tenant on the page or
    through the API.

    A single token cannot be revoked. It is valid until it expires, or until the API key that
    created it is removed from API_KEYS.
    """
    api = Api()
    body = {"tenant": tenant, "expires_in_seconds": expires_in}
    made = api.call("POST", "/tokens", json=body).content
    print(made["token"])
    print(f"valid until {made['expires_at']}")
    print(f"{api.url.rstrip('/')}/#key={made['token']}")
    count = sum(1 for _ in api.list_all("/subscriptions", tenant=tenant))
    print(f"{tenant} has {counted(count, 'webhook')}")


@cli.command(short_help="Post one event, or a file of JSON lines.")
@option("--type", "event_type", metavar="TYPE", help="The type of the event.")
@option(
    "--payload",
    type=parse_json,
    metavar="JSON",
    help="The payload of the event, a JSON object. The default is {}.",
)
@option(
    "--metadata",
    type=parse_json,
    metavar="JSON",
    help="The metadata of the event, a JSON object.",
)
@option("--tenant", metavar="TENANT", help="The tenant of the event.")
@option(
    "--subject",
    metavar="SUBJECT",
    help="What the event is about, such as order-4711. Events can be found by their subject.",
)
@file_option()
def send(
    *,
    event_type: str | None,
    payload: object,
    metadata: object,
    tenant: str | None,
    subject: str | None,
    file: Path | None,
) -> None:
    """Post one event (--type), or an event for each line of a file (--file). A line looks like
    {"event_type": "order.created", "payload": {}}.

    The events of a file are queued, and the worker pushes them. A line may have an
    "idempotency_key". Otherwise its key is made from the file's path and the line's text, so that
    running the command again sends only the lines that were not sent before. Lines that the API
    refuses are named, the others are sent, and the exit status is 1.
    """
    members = {"payload": payload, "metadata": metadata, "tenant": tenant, "subject": subject}
    given = {name: value for name, value in members.items() if value is not None}
    if bool(event_type) == bool(file) or (file and given):
        raise click.UsageError(
            "give either --type (with --payload, --metadata, --tenant, --subject) or --file"
        )
    api = Api()
    if file:
        send_lines(api, file.read_bytes(), str(file.resolve()))
        return
    body = json.dumps({"event_type": event_type, "payload": {}, **given})
    event = api.post_event(body.encode(), secrets.token_hex(16)).event
    error = f" ({event['last_error']})" if event["last_error"] else ""
    print(printable(f"{event['event_id']}: {event['message']}{error}"))


def send_lines(api: Api, content: bytes, path: str) -> None:
    """Post each line that is not blank, MAX_CALLS lines at a time.

    A line may have an `idempotency_key` of its own. The key of any other line is made from the path
    of the file, the line, and how often the line has occurred: equal lines are different events,
    and a repeated command sends only what was not sent before. A line that the API refuses is
    named, and the others are posted; any other error ends the command.

    :param path: The path of the file.
    """
    lines = numbered_lines(content)
    occurrences = Counter[bytes]()

    def post(line: bytes, count: int) -> str:
        counted_line = f"{path}\n{count}\n".encode() + line
        key = f"ops-{hashlib.sha256(counted_line).hexdigest()}"
        with suppress(ValueError, AttributeError):  # the API says what is wrong with the line
            event = json.loads(line)
            own_key = event.pop("idempotency_key", "")
            if own_key.isascii() and own_key.isprintable() and own_key:
                key = own_key
                line = json.dumps(event).encode()
        posted = api.post_event(line, key, Prefer="respond-async")
        return "sent before" if posted.is_repeated else "sent"

    pool = ThreadPoolExecutor(MAX_CALLS)
    posts: dict[str, Future[str]] = {}
    for name, line in lines.items():
        occurrences[line] += 1
        posts[name] = pool.submit(post, line, occurrences[line])

    def wait(name: str) -> str:
        return posts[name].result()

    try:
        act_on_each(
            "line",
            posts,
            wait,
            total=len(posts),
            rest=lambda _: "To send the rest, repeat the command.",
        )
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    logging.basicConfig(handlers=[logging.NullHandler()])  # the commands report errors themselves
    cli(prog_name="python -m tools.ops")
