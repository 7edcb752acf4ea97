"""Operator commands: inspect and redrive the dead letter queue; show, replay, erase and send
events; make tokens.

Results go to standard output, progress and errors to standard error. Payloads are shown only by
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
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any
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
    print_table,
    rate_option,
    since_option,
    stage_option,
    tell_place,
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

EVENTS = {"order": "oldest", "limit": "100"}
EVENT_COLUMNS = ("event_id", "created_at", "event_type", "status", "last_error")
SEARCHED = 1000  # the newest events and copies are searched for those whose id begins as was given
NO_ERASE = (
    "the key in TRIGGERS_API_KEY lacks the scope erase, with which this erases (docs/runbook.md)"
)
WAIT_SECONDS = 2  # a long poll asks all of SQS's servers, a short one only some


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

    dlq and redrive use the AWS credentials, region and AWS_ENDPOINT_URL that boto3 finds. The
    others call the API at TRIGGERS_URL with the key in TRIGGERS_API_KEY.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. make returns 2 where a
    command returns 1 or 2, and counts without GO=1 as done.
    """


def open_queues(stage: str) -> tuple[Any, str, str]:
    """Return an SQS client and the URLs of the work queue and of the dead letter queue; print where
    they are.
    """
    tell_place(stage)
    sqs = boto3.client("sqs", config=Config(connect_timeout=5, read_timeout=30))
    prefix = f"triggers-api-{stage}-inbox-"
    urls = []
    try:
        for name in (f"{prefix}queue", f"{prefix}dlq"):
            urls.append(sqs.get_queue_url(QueueName=name)["QueueUrl"])
    except sqs.exceptions.QueueDoesNotExist as error:
        raise click.ClickException(f"there is no queue {name}") from error
    return sqs, *urls


def depths(sqs: Any, url: str) -> tuple[int, int]:
    """Return how many messages a queue holds, and how many of them are in flight: received and not
    deleted yet.
    """
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    in_flight = int(attributes["ApproximateNumberOfMessagesNotVisible"])
    return int(attributes["ApproximateNumberOfMessages"]) + in_flight, in_flight


@cli.command(short_help="Show the depth of the dead letter queue, and reasons.")
@stage_option
@option(
    "--limit",
    type=click.IntRange(1, 1000),
    metavar="NUMBER",
    default=100,
    help="Size of the sample, up to 1000.",
)
def dlq(stage: str, limit: int) -> None:
    """Show how many dead letters there are, and those of a sample by destination and reason, each
    with its latest.

    The destination is the webhook, or a subscription. Nothing is removed: the messages of the
    sample are received and at once made visible again.
    """
    sqs, _, url = open_queues(stage)
    total, in_flight = depths(sqs, url)
    sample = peek(sqs, url, min(limit, total - in_flight))
    described = sorted(map(describe, sample))
    counts = Counter(group for group, _ in described)
    rows = [(*group, counts[group], *latest) for group, latest in dict(described).items()]
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
    held = "is empty"
    if total:
        count = counted(total, "message")
        held = f"holds {count}, {in_flight:,} of them in flight; sample: {len(sample)}"
    print(f"{url.rsplit('/', 1)[-1]} {held}")


def peek(sqs: Any, url: str, limit: int) -> list[Message]:
    """Receive up to `limit` messages and make them visible again."""
    seen: list[Message] = []
    try:
        seen += receive(Queue(sqs, url), limit)
    finally:
        for message in seen:
            sqs.change_message_visibility(
                QueueUrl=url, ReceiptHandle=message.receipt_handle, VisibilityTimeout=0
            )
    return seen


def receive(queue: Queue, count: int, size: int = BATCH_SIZE) -> Iterator[Message]:
    """Yield up to `count` messages, so that it ends even if some come back; at most `size` of them
    are received before they are wanted.
    """
    while count > 0:
        messages = queue.receive(min(size, count), WAIT_SECONDS)
        if not messages:
            return
        count -= len(messages)
        yield from messages


def describe(message: Message) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return destination and reason of a dead letter, and what it tells of its event; that begins
    with the time of its failure.
    """
    content: Json = {}
    try:
        content |= json.loads(message.body)
    except (ValueError, RecursionError, TypeError):
        content["reason"] = "malformed"

    def text(name: str, default: str = "") -> str:
        return str(content.get(name) or default)

    # SQS moved a message without a reason: the worker received it too often and never finished.
    reason = text("reason", message.attributes.get("Reason", "unprocessed"))
    group = text("subscription_id", message.group_id), reason
    event_id = text("event_id", f"message {message.message_id}")
    return group, (text("failed_at"), event_id, text("delivery_attempts"), text("last_error"))


@cli.command(short_help="Move dead letters back to the work queue.")
@stage_option
@rate_option
def redrive(stage: str, rate: float) -> None:
    """Move the dead letters back to the work queue; the worker pushes their events again.

    Fix the cause first, or they come back. A message is deleted after it was sent on: stopping
    loses nothing, and what was sent twice is pushed once. The worker drops messages of events that
    were replayed or acknowledged meanwhile, and returns what it cannot read.
    """
    sqs, queue_url, dlq_url = open_queues(stage)
    work_queue = Queue(sqs, queue_url)
    source = Queue(sqs, dlq_url)
    total, _ = depths(sqs, dlq_url)

    def move(message: Message) -> str:
        work_queue.send_many([message])
        source.delete_many([message.receipt_handle])
        return f"moved from {source.name} to {work_queue.name}"

    second = min(BATCH_SIZE, max(1, int(rate)))  # so many are in flight
    act_on_each(
        "message",
        receive(source, total, second),
        move,
        total=total,
        rate=rate,
        rest=lambda _: f"To move the rest (in flight for 30 s): {again()}",
    )


@cli.command(short_help="Show the life of one event, or a subscription.")
@click.argument("event_id", default="", envvar="EVENT_ID")
@option("--subject", metavar="SUBJECT", help="The event with this subject, or a list of several.")
@click.option("--payload", is_flag=True, help="Show payload and metadata, too.")
def show(event_id: str, subject: str | None, *, payload: bool) -> None:
    """Show the timeline of an event: creation, the last 25 attempts, state, and who got it
    or why not; or a subscription (sub_...).

    The beginning of an id is enough: it is looked for among the newest 1,000 events and copies, or
    all subscriptions. Several that have it, or the subject, are listed.
    """
    if bool(event_id) == bool(subject):
        raise click.UsageError("give either EVENT_ID or --subject")
    api = Api()
    path = "/events"
    columns: Sequence[str] = (*EVENT_COLUMNS, "tenant")
    query = {"limit": "100", "subject": subject, "include": subject and "outcome"}
    searched: int | None = SEARCHED
    if event_id.startswith("sub_"):
        path = "/subscriptions"
        columns = COLUMNS
        query = {"tenant": "*"}
        searched = None
    id_name = columns[0]
    found: list[Json] = [{id_name: event_id}]
    if len(event_id) < ID_LENGTH:
        items = islice(api.list_all(path, **query), searched)
        found = [item for item in items if item[id_name].startswith(event_id)]
    if not found:
        told = f"nothing found: {event_id or subject} (ids: evt_, cpy_ or sub_)"
        raise click.ClickException(printable(told))
    if len(found) > 1:
        print_items(columns, map(judged, found))
        return
    item = api.get(path, found[0][id_name])
    if path == "/events":
        print_event(api, item, payload=payload)
    else:
        print(json.dumps(item, indent=2))


def judged(event: Json) -> Json:
    """Return an event with what became of it for its customers, where that is known, as status."""
    outcome = event.get("outcome")
    if not outcome:
        return event
    return {
        **event,
        "status": outcome["state"].replace("_", " "),
        "last_error": outcome["error"],
    }


def print_event(api: Api, event: Json, *, payload: bool) -> None:
    """Print the timeline of an event, and a line for each recipient."""
    # Not of a copy, nor with a key that may not ask.
    _, content, _ = api.request("GET", f"/events/{event['event_id']}/recipients")
    recipients = content.get("recipients")
    event = judged({**event, "outcome": content.get("outcome")})
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
        took = f"{attempt['duration_ms']:,} ms"
        answer = attempt["status_code"] or attempt["error"]
        # Functions of version 1.0 do not show them.
        headers = attempt.get("response_headers") or {}
        who = ", ".join(f"{name}: {value}" for name, value in headers.items())
        rows.append((attempt["at"], what, took, answer, attempt["response"], who))
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
    """Return who a recipient is, what became of its copy, or why there is none, and both ids."""
    who = recipient["name"] or recipient["target_host"] or recipient["state"]
    if recipient["tenant"]:
        who += f" ({recipient['tenant']})"
    copy = recipient["copy"]
    why = [copy["status"], copy["last_error"]] if copy else ["no copy", recipient["reason"]]
    text = ": ".join([who, *filter(None, why)])
    if recipient["member"]:
        text += f", {recipient['member']}"
    return text, recipient["subscription_id"], copy and copy["event_id"]


@cli.command(short_help="Count events, or push them again (--go).")
@click.argument("event_id", nargs=-1, envvar="EVENT_ID")
@since_option
@until_option
@tenant_option
@option("--status", type=click.Choice(["pending", "delivered", "failed"]), default="failed")
@option(
    "--event-type",
    metavar="TYPE",
    help="Only events of this type; order.* takes all that begin with order.",
)
@option("--subscription-id", metavar="SUBSCRIPTION_ID", help="Only copies for this subscription.")
@rate_option
@click.option(
    "--go",
    is_flag=True,
    help="Push them. Without it they are counted, and the first ten are shown.",
)
def replay(
    event_id: tuple[str, ...],
    *,
    since: str | None,
    until: str,
    rate: float,
    go: bool,
    **query: str,
) -> None:
    """Push events again: those named, or all that were created since a time, oldest first.

    When it is stopped it prints the command that continues. Events that are being pushed or are
    leased are skipped and named. Dead letters of replayed events stay in the dead letter queue
    until a redrive, which drops them.
    """
    if bool(event_id) == bool(since):
        raise click.UsageError("give either EVENT_ID or --since")
    api = Api()
    found = [api.get("/events", named_id) for named_id in event_id]
    if since:
        found += api.list_all("/events", **EVENTS, since=since, until=until, **query)
    event_ids = [event["event_id"] for event in found]

    def how_to_push_from(first: int) -> str:
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
        # Not repeated when the response is lost: that would push again what is delivered meanwhile.
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
    """Return the ids of matching events and copies that are not among the erased ones, by the event
    that they belong to, which may be gone already.

    Copies are looked for, too: one may be left of an event that expired, or whose erasure was
    interrupted.
    """
    found: dict[str, list[str]] = {}
    for event in api.list_all("/events", **EVENTS, **query, include="payload"):
        texts = {}
        for name, value in (event["metadata"] or {}).items():
            if type(value) in COMPARABLE:
                texts[name] = str(value)
        event_id = event["event_id"]
        if metadata.items() <= texts.items() and event_id not in erased:
            found.setdefault(event["source_event_id"] or event_id, []).append(event_id)
    return found


@cli.command(short_help="Count the events of a person or a tenant, or erase them (--go).")
@option("--metadata", type=parse_metadata, metavar="PAIRS", help=METADATA_HELP)
@tenant_option
@since_option
@until_option
@rate_option
@click.option("--go", is_flag=True, help="Erase them. Without it they are counted.")
def erase(*, rate: float, go: bool, metadata: dict[str, str] | None, **query: str | None) -> None:
    """Erase the events of a person (--metadata) or a tenant (--tenant) and their copies. They
    cannot be restored.

    A value of the metadata matches a JSON string or number that is written the same. Without
    --metadata all subscriptions of the tenant are deleted, too, whatever --since says. It looks
    again until it finds nothing new: lists lag behind by some seconds. Events that are being pushed
    or leased are named: repeat the command, which is safe. The API key needs the scopes consume and
    erase.
    """
    if not (metadata or query["tenant"]):
        raise click.UsageError("give --metadata or --tenant")
    api = Api()
    me, _ = api.call("GET", "/me")
    refusal = "" if "erase" in me["scopes"] else NO_ERASE
    if go and refusal:
        raise click.ClickException(refusal)
    erased: set[str] = set()
    command = again(metadata=json.dumps(metadata) if metadata else "", go="1")
    while True:
        found = find_matching(api, metadata or {}, query, erased)
        listed = [] if metadata else api.list_all("/subscriptions", tenant=query["tenant"])
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
    """Delete a subscription, or an event and those copies of it that were found."""
    if item.startswith("sub_"):
        api.call("DELETE", f"/subscriptions/{item}")
        return "erased"
    for event_id in dict.fromkeys([item, *found[item]]):
        api.call("DELETE", f"/events/{event_id}")
    return "erased"


@cli.command(short_help="Make a token for a tenant, and the link that opens its page.")
@option("--tenant", required=True, metavar="TENANT", help="Whose subscriptions it is for.")
@option(
    "--expires-in", type=parse_duration, metavar="DURATION", default="1h", help="From 60s to 30d."
)
def token(tenant: str, expires_in: int) -> None:
    """Make a token, with which a customer manages the subscriptions of one tenant, by the page or
    by the API.

    It cannot be taken back alone: it lasts until its end, or until the API key that made it is
    taken out of API_KEYS.
    """
    api = Api()
    made, _ = api.call("POST", "/tokens", json={"tenant": tenant, "expires_in_seconds": expires_in})
    print(made["token"])
    print(f"valid until {made['expires_at']}")
    print(f"{api.url.rstrip('/')}/#key={made['token']}")
    count = sum(1 for _ in api.list_all("/subscriptions", tenant=tenant))
    print(f"{tenant} has {counted(count, 'webhook')}")


@cli.command(short_help="Post one event, or a file of JSON lines.")
@option("--type", "event_type", metavar="TYPE", help="Type of one event.")
@option(
    "--payload",
    type=parse_json,
    metavar="JSON",
    help="Payload of one event: a JSON object. Default: {}.",
)
@option("--metadata", type=parse_json, metavar="JSON", help="Metadata of one event: a JSON object.")
@option("--tenant", metavar="TENANT", help="Tenant of one event.")
@option(
    "--subject",
    metavar="SUBJECT",
    help="What one event is about, by which it is found: order-4711.",
)
@file_option()
def send(event_type: str | None, file: Path | None, **contents: Any) -> None:
    """Post one event (--type), or each line of a file (--file): {"event_type": "order.created",
    "payload": {}}.

    The lines of a file are queued and pushed by the worker. Each may have an "idempotency_key";
    else its key is made of the file's path and the line's text, so that running the command again
    sends only what was not sent. A line that the API refuses is named, the others are sent, and the
    exit code is 1.
    """
    given = {name: value for name, value in contents.items() if value is not None}
    if bool(event_type) == bool(file) or (file and given):
        raise click.UsageError(
            "give either --type (with --payload, --metadata, --tenant, --subject) or --file"
        )
    api = Api()
    if file:
        send_lines(api, file.read_bytes(), str(file.resolve()))
        return
    body = json.dumps({"event_type": event_type, "payload": {}, **given})
    event, _ = api.post_event(body.encode(), secrets.token_hex(16))
    error = f" ({event['last_error']})" if event["last_error"] else ""
    print(printable(f"{event['event_id']}: {event['message']}{error}"))


def send_lines(api: Api, content: bytes, prefix: str) -> None:
    """Post each line that is not blank, MAX_CALLS at a time. Equal lines are different events: the
    key counts them.
    """
    lines = numbered_lines(content)
    occurrences = Counter[bytes]()

    def post(line: bytes, count: int) -> str:
        counted_line = f"{prefix}\n{count}\n".encode() + line
        key = f"ops-{hashlib.sha256(counted_line).hexdigest()}"
        with suppress(ValueError, AttributeError):  # the API says what is wrong with the line
            event = json.loads(line)
            own_key = event.pop("idempotency_key", "")
            if own_key.isascii() and own_key.isprintable() and own_key:
                key = own_key
                line = json.dumps(event).encode()
        _, is_repeated = api.post_event(line, key, Prefer="respond-async")
        return "sent before" if is_repeated else "sent"

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
