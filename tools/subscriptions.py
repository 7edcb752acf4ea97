"""Commands about subscriptions: list, enable and disable them; send one an event, list and recover
what it missed.
"""

from collections import Counter
from typing import Any
from urllib.parse import quote

import click
from rich.console import Console

from chalicelib.infra.parsing import RESERVED_PREFIX, Json
from tools.api import Api, printable
from tools.command_line import (
    again,
    command_line,
    counted,
    option,
    parse_time,
    print_items,
    print_table,
    since_option,
)

COLUMNS = ("subscription_id", "name", "tenant", "target_host")
STATE_COLUMNS = (*COLUMNS, "state")

subscription_option = option(
    "--subscription-id", required=True, metavar="SUBSCRIPTION_ID", help="Which subscription."
)
missed_until_option = option("--until", type=parse_time, metavar="TIME", help="Created before.")


@click.command("send-to", short_help="Send an event to one subscription.")
@subscription_option
@option("--event-id", required=True, metavar="EVENT_ID", help="An event that is no copy.")
def send_to(subscription_id: str, event_id: str) -> None:
    """Make the copy of an event for a subscription, whatever its types and filter say, and queue
    it.

    A copy that is there is pushed again. The event itself is not pushed.
    """
    path = path_of(subscription_id, "send")
    # Not repeated when the response is lost: that would push again what is delivered meanwhile.
    copy, _ = Api().call("POST", path, json={"event_id": event_id}, read_retries=0)
    print(printable(f"{copy['event_id']}: {copy['message']}"))


@click.command(short_help="List what a subscription did not get, and why.")
@subscription_option
@since_option
@missed_until_option
@option("--subject", metavar="SUBJECT", help="All events with this subject, and what became of it.")
def missed(subscription_id: str, since: str | None, until: str | None, subject: str | None) -> None:
    """List the deliveries of a subscription that failed, or wait for another attempt.

    With --since its events are looked through for those that were never sent, too. What was
    dismissed is left out, but with --subject.
    """
    events, told = read_missed(Api(), subscription_id, since, until, subject)
    if events:
        rows = [
            (event["event_id"], event["created_at"], event["subject"], tell_why(event))
            for event in events
        ]
        print_table(("event_id", "created_at", "subject", "why"), rows)
    print(told)


@click.command(short_help="Count what a subscription missed, or get it there (--go).")
@subscription_option
@since_option
@missed_until_option
@click.option("--go", is_flag=True, help="Send and replay it. Without it, it is counted.")
def recover(subscription_id: str, since: str | None, until: str | None, *, go: bool) -> None:
    """Push again what failed or waits. With --since also send the events that the subscription
    takes now and that have no copy for it.

    Repeating the command sends nothing twice: when it is stopped, it can be given again.
    """
    api = Api()
    subscription = api.get("/subscriptions", subscription_id)
    if go and subscription["disabled_at"]:
        enabling = command_line("enable", {"subscription_id": subscription_id})
        state = subscription["state"]
        raise click.ClickException(f"it is {state}; to enable it first: {enabling}")
    if not go:
        events, told = read_missed(api, subscription_id, since, until)
        print(told)
        if events:
            print(f"To recover them: {again(go='1')}")
        return
    # one end for all calls
    body: Json = {"since": since, "until": until or (since and parse_time("0s"))}
    total = Counter[str]()
    with Console(stderr=True).status("recovering") as progress:
        while True:
            answer, _ = api.call("POST", path_of(subscription_id, "recover"), json=body)
            body["cursor"] = answer.pop("next_cursor")
            total.update(answer)
            done = ", ".join(f"{total[name]:,} {name}" for name in ("sent", "replayed", "left"))
            told = f"{done} of {counted(total['examined'], 'event')}"
            progress.update(told)
            if body["cursor"] is None:
                break
    print(told)


@click.command(short_help="List what did not arrive at a tenant's webhooks (status 1 if any).")
@option("--tenant", metavar="TENANT", help="At the webhooks of this tenant. Without it, at all.")
@option("--since", type=parse_time, metavar="TIME", default="1d", help="Created at or after.")
@click.pass_context
def undelivered(context: click.Context, tenant: str | None, since: str) -> None:
    """List the copies that failed or are waiting for another attempt, and count them by webhook.

    What was dismissed is left out, and so are reports. The exit status is 0 if everything that was
    sent arrived, and 1 if something did not, or if there is no webhook.
    """
    api = Api()
    webhooks = [*api.list_all("/subscriptions", tenant=tenant or "*", include="deliveries")]
    if not webhooks:
        nobody = f"{tenant} has no webhook" if tenant else "there is no webhook"
        raise click.ClickException(printable(nobody))
    rows = []
    counts = []
    total = Counter[str]()
    for webhook in webhooks:
        copies = find_undelivered(api, webhook, since)
        states = Counter(state_of(copy) for copy in copies)
        total += states
        if copies:
            counts.append({**webhook, "failed": states["failed"], "waiting": states["waiting"]})
        rows += [
            (
                copy["created_at"],
                copy["subject"] or copy["event_id"],
                name_of(webhook),
                state_of(copy),
                copy["last_error"],
            )
            for copy in copies
        ]
    if rows:
        print_table(("created_at", "event", "webhook", "state", "error"), sorted(rows))
        print()
        print_items((*COLUMNS, "failed", "waiting"), counts)
        print()
    whose = f" of {tenant}" if tenant else ""
    until = parse_time("0s")
    print(
        printable(
            f"Looked at {counted(len(webhooks), 'webhook')}{whose}, at what was created from"
            f" {since} to {until}."
        )
    )
    if rows:
        print(f"{total['failed']:,} failed, {total['waiting']:,} waiting")
    else:
        print("Everything that was sent arrived: nothing failed, and nothing is waiting.")
    missed_command = command_line("missed", {"subscription_id": "sub_...", "since": since})
    print(f"Events that were never sent to a webhook are listed by {missed_command}")
    if rows:
        context.exit(1)


def find_undelivered(api: Api, webhook: Json, since: str) -> list[Json]:
    """Return the copies for a webhook that failed or are waiting, the oldest first, as `deliveries`
    counts them.

    A webhook whose `deliveries` count all, and none, is not asked.
    """
    deliveries = webhook["deliveries"]
    if not (deliveries["failed"] or deliveries["waiting"] or deliveries["has_more"]):
        return []
    copies = api.list_all(
        "/events",
        subscription_id=webhook["subscription_id"],
        status="undelivered",
        since=since,
        order="oldest",
        limit="100",
    )
    dismissed_until = webhook["dismissed_until"] or ""
    return [
        copy
        for copy in copies
        if copy["created_at"] > dismissed_until
        and not copy["event_type"].startswith(RESERVED_PREFIX)
        and state_of(copy) != "pending"  # replayed since the index was written
    ]


def state_of(copy: Json) -> str:
    """Return the state of a copy in the words of the API's outcomes."""
    return "waiting" if copy["status"] == "pending" and copy["last_error"] else str(copy["status"])


def name_of(webhook: Json) -> str:
    return str(webhook["name"] or webhook["target_host"])


WHY = {
    "event_types": "not asked for: event_types",
    "filter": "not asked for: filter",
    "host": "not sent: its host is no longer allowed",
    "deleted": "not sent: its copy was erased",
    "later": "not sent: the subscription was made later",
    "edited": "not sent: the subscription was edited later",
    "waiting": "waiting for another attempt",
}


def tell_why(event: Json) -> str:
    """Return why a subscription did not get an event, or what became of its copy."""
    copy = event["copy"] or {}
    reason = event["reason"] or copy["status"]
    told = [WHY.get(reason, reason), event["member"], copy.get("last_error")]
    return ", ".join(filter(None, told))


def read_missed(
    api: Api, subscription_id: str, since: str | None, until: str | None, subject: str | None = None
) -> tuple[list[Json], str]:
    """Return what a subscription missed, and how many for each reason; if it missed none of the
    events that were looked at, how many of these it took.
    """
    until = until or (since and parse_time("0s"))
    query = {"since": since, "until": until, "subject": subject}
    events: list[Json] = []
    examined = 0
    with Console(stderr=True).status("counting") as progress:
        for page in api.pages(path_of(subscription_id, "missed"), **query):
            events += page["events"]
            examined += page["examined"]
            progress.update(f"{len(events):,} of {counted(examined, 'event')}")
    if events:
        counts = Counter(event["reason"] or "not missed" for event in events)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        return events, f"{reasons} of {counted(examined, 'event')}"
    if not (since or subject):
        return events, (
            f"nothing failed, and nothing waits, of what was created before {until or 'now'}; "
            "SINCE=3d looks for what was never sent"
        )
    copies = api.list_all("/events", **query, subscription_id=subscription_id)
    taken = sum(not copy["event_type"].startswith(RESERVED_PREFIX) for copy in copies)
    left_out = f"types and filter leave out {examined - taken:,}"
    return events, f"It was sent all that it takes: {taken:,} of {examined:,}; {left_out}"


one_option = option("--subscription-id", metavar="SUBSCRIPTION_ID", help="Which subscription.")
all_option = option("--tenant", metavar="TENANT", help="All subscriptions of this tenant.")
go_option = click.option(
    "--go", is_flag=True, help="Change those of a tenant. Without it they are listed and counted."
)
dismiss_option = option(
    "--dismiss", is_flag=True, help="What it lost until now does not count any more."
)


@click.command(short_help="Enable a subscription, or all of a tenant (--go).")
@one_option
@all_option
@dismiss_option
@go_option
def enable(**asked: Any) -> None:
    """Push to a subscription again. What failed meanwhile stays failed: recover pushes that, unless
    --dismiss says that nobody wants it.

    With --tenant it enables those that were disabled for failing and those that were paused.
    """
    change("enable", **asked)


@click.command(short_help="Disable a subscription, or all of a tenant (--go): no push.")
@one_option
@all_option
@go_option
def disable(**asked: Any) -> None:
    """Push nothing to a subscription until it is enabled. Its copies fail and are kept."""
    change("disable", **asked)


def change(
    verb: str,
    subscription_id: str | None,
    tenant: str | None,
    *,
    go: bool,
    dismiss: bool = False,
) -> None:
    """Enable or disable a subscription or, with `go`, those of a tenant that are not so yet, and
    say how each is now.

    With `dismiss`, what they lost until now is dismissed first.
    """
    if bool(subscription_id) == bool(tenant):
        raise click.UsageError("give either --subscription-id or --tenant")
    api = Api()
    changed_ids = [subscription_id or ""]
    if tenant:
        listed = api.list_all("/subscriptions", tenant=tenant)
        found = [row for row in listed if bool(row["disabled_at"]) is (verb == "enable")]
        changed_ids = [row["subscription_id"] for row in found]
        if not (go and found):
            print_items(STATE_COLUMNS, found)
            print(f"{counted(len(found), 'subscription')} would be {verb}d")
            if found:
                print(f"To {verb} them: {again(go='1')}")
            return
    for changed_id in changed_ids:
        if dismiss:
            # By the clock of the API, which takes no time that lies ahead.
            told = api.get("/subscriptions", changed_id, include="deliveries")
            body = {"dismissed_until": told["deliveries"]["last_at"]}
            api.call("PATCH", path_of(changed_id), json=body)
        subscription, _ = api.call("POST", path_of(changed_id, verb))
        print(printable(f"{changed_id} ({name_of(subscription)}): {verb}d"))


@click.command(short_help="List subscriptions.")
@option("--tenant", metavar="TENANT", default="*", help="Those of this tenant; * is all.")
@option("--state", type=click.Choice(["active", "failing", "paused", "disabled", "slow"]))
def subscriptions(**query: str) -> None:
    """List subscriptions, the oldest first: those of a tenant, and those in a state; disabled has
    those that are paused, too, and slow has those in the slow lane, whatever else they are. Each
    has how many copies failed or wait, and since when.
    """
    listed = Api().list_all("/subscriptions", **query, include="deliveries")
    found = [row | row["deliveries"] for row in listed]
    if found:
        print_items((*STATE_COLUMNS, "failed", "waiting", "oldest_missed_at"), found)
    print(counted(len(found), "subscription"))


def path_of(subscription_id: str, *verb: str) -> str:
    return "/".join(("/subscriptions", quote(subscription_id, safe=""), *verb))
