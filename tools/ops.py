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
    urls = {}
    for name in ("queue", "dlq"):
        queue_name = f"{prefix}{name}"
        try:
            urls[name] = sqs.get_queue_url(QueueName=queue_name)["QueueUrl"]
        except sqs.exceptions.QueueDoesNotExist as error:
            raise click.ClickException(f"there is no queue {queue_name}") from error
    return StageQueues(sqs, work_queue_url=urls["queue"], dlq_url=urls["dlq"])


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

    \f
    :param limit: The size of the sample, at most.
    """
    queues = find_queues(stage)
    depth = read_depth(queues.sqs, queues.dlq_url)
    # Messages in flight cannot be received.
    receivable = depth.total - depth.in_flight
    sample = peek(queues.sqs, queues.dlq_url, min(limit, receivable))
    # How many messages of the sample each group has, and the latest one of each group.
    counts = Counter[tuple[str, str]]()
    latest: dict[tuple[str, str], DeadLetter] = {}
    # By destination, reason and time of failure, so that the latest message of a group is the last.
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
    """Receive up to `limit` messages from a queue, make them visible again, and return them. After
    an error, make the messages visible that were received before it.
    """
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
    """Return the destination, the reason and the event of a message in the dead letter queue. If
    the body of the message is not a JSON object, the reason is `malformed`.
    """
    try:
        content = dict(json.loads(message.body))
    except (ValueError, RecursionError, TypeError):  # TypeError: not an object
        content = {"reason": "malformed"}

    def text(name: str, default: str = "") -> str:
        """Return a member of the body as text, or a default if it is missing or empty."""
        return str(content.get(name) or default)

    # The body has no reason if SQS itself moved the message, which the worker had received too
    # often without finishing.
    default_reason = message.attributes.get("Reason", "unprocessed")
    return DeadLetter(
        # The group of a message is its subscription or the webhook.
        destination=text("subscription_id", default=message.group_id),
        reason=text("reason", default=default_reason),
        failed_at=text("failed_at"),
        event_id=text("event_id", default=f"message {message.message_id}"),
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

    \f
    :param rate: How many messages are moved in a second, at most.
    """
    queues = find_queues(stage)
    work_queue = Queue(queues.sqs, queues.work_queue_url)
    dead_letters = Queue(queues.sqs, queues.dlq_url)
    total = read_depth(queues.sqs, queues.dlq_url).total

    def move(message: Message) -> str:
        """Send a message to the work queue, and delete it from the dead letter queue; return the
        outcome in words.
        """
        work_queue.send_many([message])
        dead_letters.delete_many([message.receipt_handle])
        return f"moved from {dead_letters.name} to {work_queue.name}"

    def how_to_move_rest(_moved: int) -> str:
        """Return the command that moves the remaining messages. The messages that were received but
        not moved become visible again when 30 s have passed.
        """
        return f"To move the rest (in flight for 30 s): {again()}"

    # At most the messages of one second are received at a time, so that none of them becomes
    # visible again before it is moved. SQS returns at most BATCH_SIZE messages.
    per_second = max(1, int(rate))
    act_on_each(
        "message",
        receive(dead_letters, total, batch_size=min(BATCH_SIZE, per_second)),
        move,
        total=total,
        rate=rate,
        rest=how_to_move_rest,
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

    \f
    :param event_id: The id of an event, a copy or a subscription, or its beginning; empty:
        `subject` is given.
    :param subject: The subject of the events to show; None: `event_id` is given.
    :param payload: Whether to print the payload and the metadata of an event, too.
    """
    if bool(event_id) == bool(subject):
        raise click.UsageError("give either EVENT_ID or --subject")
    api = Api()
    is_subscription = event_id.startswith("sub_")
    path = "/events"
    id_name = "event_id"
    columns: Sequence[str] = (*EVENT_COLUMNS, "tenant")
    query = {"limit": "100", "subject": subject, "include": "outcome" if subject else None}
    max_searched: int | None = MAX_SEARCHED
    if is_subscription:
        path = "/subscriptions"
        id_name = "subscription_id"
        columns = COLUMNS
        query = {"tenant": "*"}
        max_searched = None  # all subscriptions are searched
    if len(event_id) >= ID_LENGTH:
        found_ids = [event_id]
    else:  # the beginning of an id or, with --subject, "": every id begins with it
        items = islice(api.list_all(path, **query), max_searched)
        found = [item for item in items if item[id_name].startswith(event_id)]
        if len(found) > 1:
            print_items(columns, map(show_outcome, found))
            return
        found_ids = [item[id_name] for item in found]
    if not found_ids:
        searched_for = event_id or subject
        raise click.ClickException(
            printable(f"nothing found: {searched_for} (ids begin with evt_, cpy_ or sub_)")
        )
    item = api.get(path, found_ids[0])
    if is_subscription:
        print(json.dumps(item, indent=2))
    else:
        print_event(api, item, payload=payload)


def show_outcome(event: Json) -> Json:
    """Return an event with the state and error of its outcome as its status and last error; return
    it unchanged if it has no outcome.

    :param event: An event as the API returns it. Its `outcome`, which summarizes what became of the
        event and its copies, is missing or None if the API was not asked for it. A subscription has
        no outcome, either.
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
    """Print the timeline of an event or a copy, and a line for each recipient of an event. A
    recipient is a subscription that got a copy of the event, or could have got one.

    :param event: The event or the copy as `GET /events/{id}` returns it.
    :param payload: Whether to print the payload and the metadata, too.
    """
    # An error is no reason to stop: the API refuses a copy, which has no recipients, and a key that
    # lacks the scope. The content is that of the error then, without recipients and outcome.
    content = api.request("GET", f"/events/{event['event_id']}/recipients").content
    recipients = content.get("recipients")
    event = show_outcome({**event, "outcome": content.get("outcome")})
    print(
        f"{event['event_id']}  {event['event_type']}  {event['status']}  posted by "
        f"{event['created_by']}"
    )
    # The message is about the push to the webhook alone, and the status about the copies, too.
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
        shown_headers = ", ".join(f"{header}: {value}" for header, value in headers.items())
        rows.append((attempt["at"], what, duration, answer, attempt["response"], shown_headers))
    if event["next_attempt_at"]:
        rows.append((event["next_attempt_at"], "next attempt"))
    # These deliveries have no attempt: a consumer acknowledged the event, or only subscriptions get
    # events.
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
    no copy, the id of the subscription, and the id of the copy or None.

    :param recipient: A subscription as `GET /events/{id}/recipients` lists it. Its `copy` is None
        if there is no copy. Its `member` is the path of the member of the payload that the
        subscription's filter does not match, or None. A deleted subscription has neither name nor
        host, only the state `gone`.
    """
    name = recipient["name"] or recipient["target_host"] or recipient["state"]
    if recipient["tenant"]:
        name += f" ({recipient['tenant']})"
    copy = recipient["copy"]
    if copy:
        copy_id = copy["event_id"]
        parts = [name, copy["status"], copy["last_error"]]
    else:
        copy_id = None
        parts = [name, "no copy", recipient["reason"]]
    text = ": ".join(part for part in parts if part)
    if recipient["member"]:
        text += f", {recipient['member']}"
    return text, recipient["subscription_id"], copy_id


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

    \f
    :param event_id: The ids of events and copies; empty: `since` is given.
    :param since: The start of the period in which the events were created, RFC 3339; None:
        `event_id` is given. Only with `since`, the next five parameters choose the events.
    :param until: The end of the period, RFC 3339.
    :param tenant: The tenant of the events; None: events of all tenants, and without a tenant.
    :param status: The status of the events.
    :param event_type: Their type, or a prefix of it such as `order.*`; None: any.
    :param subscription_id: The subscription of the copies; None: events and copies of any.
    :param rate: How many events are pushed in a second, at most.
    :param go: Whether the events are pushed. Otherwise they are only counted.
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
        """Return the command that pushes the events from a position in the list on: the same
        command with the remaining ids or, if a period was given, with a later start.

        :param first: The index of the first event that is not pushed yet.
        """
        if since:
            return f"To push them: {again(since=found[first]['created_at'], go='1')}"
        return f"To push them: {again(event_id=' '.join(event_ids[first:]), go='1')}"

    if not event_ids:
        print("0 events would be replayed")
        return
    if not go:
        print_items(EVENT_COLUMNS, found[:10])
        count = counted(len(event_ids), "event")
        print(f"{count} would be replayed. {how_to_push_from(0)}")
        return

    def push(pushed_id: str) -> str:
        """Let the worker push an event or a copy once more; return the outcome in words."""
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
    The original of a copy is the event from which it was made; an event is its own original.

    Copies are searched, too: a copy can exist without its event, if the event expired or its
    erasure was interrupted.

    :param metadata: Members that the event's metadata must have, with their values as texts; empty:
        any metadata matches.
    :param query: Parameters of `GET /events`. Parameters that are None are left out.
    :param erased: Ids to leave out, because lists show erased events for some seconds.
    """
    found: dict[str, list[str]] = {}
    for event in api.list_all("/events", **OLDEST_FIRST, **query, include="payload"):
        texts = {}
        for name, value in (event["metadata"] or {}).items():
            if type(value) in COMPARABLE:  # strings and numbers; not `isinstance`: no booleans
                texts[name] = str(value)
        event_id = event["event_id"]
        if metadata.items() <= texts.items() and event_id not in erased:
            original_id = event["source_event_id"] or event_id
            found.setdefault(original_id, []).append(event_id)
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

    \f
    :param metadata: Members that the metadata of each event must have, with their values as texts;
        None: `tenant` alone chooses the events.
    :param tenant: The tenant of the events; None: events of all tenants, and without a tenant.
    :param since: The start of the period in which the events were created, RFC 3339; None: no
        start.
    :param until: The end of the period, RFC 3339.
    :param rate: How many events and subscriptions are erased in a second, at most.
    :param go: Whether they are erased. Otherwise they are only listed and counted.
    """
    if not (metadata or tenant):
        raise click.UsageError("give --metadata or --tenant")
    api = Api()
    me = api.call("GET", "/me").content
    may_erase = "erase" in me["scopes"]
    if go and not may_erase:
        raise click.ClickException(NO_ERASE)
    query = {"tenant": tenant, "since": since, "until": until}
    # The ids of the events, copies and subscriptions that this run has erased.
    erased: set[str] = set()
    command = again(metadata=json.dumps(metadata) if metadata else "", go="1")
    while True:
        # The ids of events and copies, by the id of the original event.
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
        # Subscriptions first, so that no more copies are made for them; then each original event,
        # with which `remove_item` erases its copies.
        items = [subscription["subscription_id"] for subscription in subscriptions]
        items += found.keys()
        if not items:
            return
        if not go:
            print(f"To erase them: {command}" if may_erase else NO_ERASE)
            return
        act_on_each(
            "item",
            items,
            partial(remove_item, api, found),
            total=len(items),
            rate=rate,
            rest=lambda _erased: f"To complete it: {command}",
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
    # The original event is among the found ids only if it matched, too. No id is deleted twice.
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

    \f
    :param tenant: The tenant whose subscriptions the token manages.
    :param expires_in: How long the token is valid, in seconds.
    """
    api = Api()
    body = {"tenant": tenant, "expires_in_seconds": expires_in}
    made = api.call("POST", "/tokens", json=body).content
    print(made["token"])
    print(f"valid until {made['expires_at']}")
    print(f"{api.url.rstrip('/')}/#key={made['token']}")
    subscriptions = [*api.list_all("/subscriptions", tenant=tenant)]
    print(f"{tenant} has {counted(len(subscriptions), 'webhook')}")


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

    \f
    :param event_type: The type of the event; None: `file` is given, and all others are None.
    :param payload: The parsed JSON of the payload; None: the payload is `{}`.
    :param metadata: The parsed JSON of the metadata; None: the event has none.
    :param tenant: The tenant of the event; None: the event has none.
    :param subject: The subject of the event; None: the event has none.
    :param file: The path of the file; None: `event_type` is given.
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
    # A random key, with which Api repeats a request whose response is lost.
    idempotency_key = secrets.token_hex(16)
    event = api.post_event(body.encode(), idempotency_key).event
    error = f" ({event['last_error']})" if event["last_error"] else ""
    print(printable(f"{event['event_id']}: {event['message']}{error}"))


def send_lines(api: Api, content: bytes, path: str) -> None:
    """Post an event for each line of a file that is not blank, MAX_CALLS events at a time.

    A line may have an `idempotency_key` of its own. The key of any other line is made from the path
    of the file, the line, and how often the line has occurred: equal lines are different events,
    and a repeated command sends only what was not sent before. A line that the API refuses is
    named, and the others are posted; any other error ends the command.

    :param content: The content of the file: an event as JSON in each line.
    :param path: The path of the file.
    """
    lines = numbered_lines(content)
    occurrences = Counter[bytes]()

    def post(line: bytes, count: int) -> str:
        """Post the event of a line with the idempotency key that it has, or with a key made from
        the path of the file, `count` and the line; return the outcome in words.

        :param count: How often the line has occurred in the file so far, 1 at the first time.
        """
        counted_line = f"{path}\n{count}\n".encode() + line
        key = f"ops-{hashlib.sha256(counted_line).hexdigest()}"
        # A malformed line is posted as it is: the API says what is wrong with it.
        with suppress(ValueError, AttributeError, TypeError):
            event = json.loads(line)
            own_key = event.pop("idempotency_key", "")
            is_usable = own_key and own_key.isascii() and own_key.isprintable()
            if is_usable:
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
        """Wait for the post of the line with a name; return its outcome, or raise its error."""
        return posts[name].result()

    try:
        act_on_each(
            "line",
            posts,
            wait,
            total=len(posts),
            rest=lambda _sent: "To send the rest, repeat the command.",
        )
    finally:
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    logging.basicConfig(handlers=[logging.NullHandler()])  # the commands report errors themselves
    cli(prog_name="python -m tools.ops")
