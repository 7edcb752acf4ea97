"""Commands for subscriptions: list, enable and disable subscriptions, send an event to a
subscription, and list and recover the events that a subscription missed.
"""

from collections import Counter
from typing import NamedTuple
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
    "--subscription-id", required=True, metavar="SUBSCRIPTION_ID", help="The subscription."
)
missed_until_option = option(
    "--until", type=parse_time, metavar="TIME", help="Created before this time or age."
)


@click.command("send-to", short_help="Send an event to one subscription.")
@subscription_option
@option("--event-id", required=True, metavar="EVENT_ID", help="The event; not a copy.")
def send_to(subscription_id: str, event_id: str) -> None:
    """Create and queue the copy of an event for a subscription, even if the event types or the
    filter of the subscription leave it out.

    If the copy exists already, it is pushed again. The event itself is not pushed.
    """
    path = path_of(subscription_id, "send")
    # The call is not repeated when its response is lost: it would push again a copy that was
    # delivered meanwhile.
    copy = Api().call("POST", path, json={"event_id": event_id}, read_retries=0).content
    print(printable(f"{copy['event_id']}: {copy['message']}"))


@click.command(short_help="List the events that a subscription did not get, and why.")
@subscription_option
@since_option
@missed_until_option
@option(
    "--subject",
    metavar="SUBJECT",
    help="All events with this subject, each with the state of its copy.",
)
def missed(subscription_id: str, since: str | None, until: str | None, subject: str | None) -> None:
    """List the deliveries of a subscription that failed, or that wait for another attempt.

    With --since, also list the events since then that were never sent to the subscription.
    Dismissed deliveries are left out, unless --subject is given.

    \f
    :param since: The start of the period, RFC 3339; None: without --since.
    :param until: The end of the period, RFC 3339; None: no end.
    :param subject: The subject of the events to list, whether they were missed or not; None:
        without --subject.
    """
    found = find_missed(Api(), subscription_id, since, until, subject)
    if found.events:
        rows = [
            (event["event_id"], event["created_at"], event["subject"], explain_missed(event))
            for event in found.events
        ]
        print_table(("event_id", "created_at", "subject", "why"), rows)
    print(found.summary)


@click.command(short_help="Count the events that a subscription missed, or send them (--go).")
@subscription_option
@since_option
@missed_until_option
@click.option("--go", is_flag=True, help="Send the events. Without it, they are counted.")
def recover(subscription_id: str, since: str | None, until: str | None, *, go: bool) -> None:
    """Push the deliveries of a subscription again that failed or that wait. With --since, also send
    the events since then that the subscription takes now and that were never sent to it.

    The command can be repeated, also after it was stopped: nothing is sent twice.

    \f
    :param since: The start of the period, RFC 3339; None: without --since.
    :param until: The end of the period, RFC 3339; None: no end, or now if there is a start.
    :param go: Whether to push and send. Otherwise the events are only counted.
    """
    api = Api()
    subscription = api.get("/subscriptions", subscription_id)
    if go and subscription["disabled_at"]:
        enabling = command_line("enable", {"subscription_id": subscription_id})
        state = subscription["state"]
        raise click.ClickException(f"it is {state}; to enable it first: {enabling}")
    if not go:
        found = find_missed(api, subscription_id, since, until, subject=None)
        print(found.summary)
        if found.events:
            print(f"To recover them: {again(go='1')}")
        return
    if since and not until:
        # One end for all pages: otherwise each call would also examine the events that were created
        # since the previous call.
        until = parse_time("0s")
    body: Json = {"since": since, "until": until}
    total = Counter[str]()
    with Console(stderr=True).status("recovering") as progress:
        while True:
            # Each call recovers one page of events. The response has the number of events that were
            # examined, sent, replayed and left as they are, and the cursor of the next page.
            page = api.call("POST", path_of(subscription_id, "recover"), json=body).content
            body["cursor"] = page.pop("next_cursor")
            total.update(page)
            done = ", ".join(f"{total[name]:,} {name}" for name in ("sent", "replayed", "left"))
            summary = f"{done} of {counted(total['examined'], 'event')}"
            progress.update(summary)
            if body["cursor"] is None:
                break
    print(summary)


@click.command(
    short_help="List the events that did not arrive at a tenant's webhooks (status 1 if any)."
)
@option("--tenant", metavar="TENANT", help="Only webhooks of this tenant.")
@option(
    "--since",
    type=parse_time,
    metavar="TIME",
    default="1d",
    help="Created at or after this time or age.",
)
@click.pass_context
def undelivered(context: click.Context, tenant: str | None, since: str) -> None:
    """List the copies that failed or that wait for another attempt, and count them for each
    webhook, that is, for each subscription.

    Dismissed copies and reports are left out. The exit status is 0 if everything that was sent
    arrived, and 1 if something did not arrive or if there is no webhook.

    \f
    :param tenant: Whose webhooks are checked; None: the webhooks of all tenants.
    :param since: The start of the period in which the copies were created, RFC 3339.
    """
    api = Api()
    webhooks = [*api.list_all("/subscriptions", tenant=tenant or "*", include="deliveries")]
    if not webhooks:
        problem = f"{tenant} has no webhook" if tenant else "there is no webhook"
        raise click.ClickException(printable(problem))
    rows = []
    counts = []
    total = Counter[str]()
    for webhook in webhooks:
        copies = find_undelivered(api, webhook, since)
        states = Counter(state_of(copy) for copy in copies)  # `failed` or `waiting`
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
    of_tenant = f" of {tenant}" if tenant else ""
    until = parse_time("0s")
    checked = counted(len(webhooks), "webhook")
    print(printable(f"Checked {checked}{of_tenant} for events created from {since} to {until}."))
    if rows:
        print(f"{total['failed']:,} failed, {total['waiting']:,} waiting")
    else:
        print("Everything that was sent arrived: nothing failed, and nothing is waiting.")
    missed_command = command_line("missed", {"subscription_id": "sub_...", "since": since})
    print(f"To list events that were never sent to a webhook: {missed_command}")
    if rows:
        context.exit(1)


def find_undelivered(api: Api, webhook: Json, since: str) -> list[Json]:
    """Return the copies for a webhook that failed, or that wait after an attempt that failed, the
    oldest first. A copy is the event made for one subscription.

    Dismissed copies, reports (events about an event or a subscription), and pending copies without
    an error are left out. No call is made if the webhook's `deliveries` show that no copy failed or
    waits.

    :param webhook: A subscription as the API lists it with `include=deliveries`.
    :param since: The start of the period in which the copies were created, RFC 3339.
    """
    deliveries = webhook["deliveries"]
    # `has_more`: the API stopped counting, so there may be copies although it counted none.
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
    # The text "" is before every time. It is used if no delivery of the webhook was dismissed.
    dismissed_until = webhook["dismissed_until"] or ""
    found = []
    for copy in copies:
        is_dismissed = copy["created_at"] <= dismissed_until
        is_report = copy["event_type"].startswith(RESERVED_PREFIX)
        # Pending without an error: the copy was replayed, and has had no attempt since.
        is_only_replayed = state_of(copy) == "pending"
        if not (is_dismissed or is_report or is_only_replayed):
            found.append(copy)
    return found


def state_of(copy: Json) -> str:
    """Return the status of a copy, or `waiting` for a pending copy whose last attempt failed."""
    if copy["status"] == "pending" and copy["last_error"]:
        return "waiting"
    return str(copy["status"])


def name_of(webhook: Json) -> str:
    """Return the name of a subscription or, if it has none, the host of its URL."""
    return str(webhook["name"] or webhook["target_host"])


# Explanations of the API's reasons for which a subscription missed an event.
EXPLANATIONS = {
    "event_types": "not subscribed to: event_types",
    "filter": "not subscribed to: filter",
    "host": "not sent: its host is no longer allowed",
    "deleted": "not sent: its copy was erased",
    "later": "not sent: the subscription was created later",
    "edited": "not sent: the subscription was edited later",
    "waiting": "waiting for another attempt",
}


def explain_missed(event: Json) -> str:
    """Return why a subscription missed an event or, if it did not miss the event, the status of the
    copy that was made for the subscription. The last error of the copy follows, if there is one.

    :param event: An event as `GET /subscriptions/{id}/missed` lists it. Its `reason` is None if the
        event was not missed; there is a copy then. Its `member` is the path of the member of the
        payload that the subscription's filter does not match, or None. Its `copy` is None if there
        is no copy.
    """
    copy = event["copy"] or {}
    reason = event["reason"] or copy["status"]
    explanation = EXPLANATIONS.get(reason, reason)
    parts = [explanation, event["member"], copy.get("last_error")]
    return ", ".join(part for part in parts if part)


class MissedEvents(NamedTuple):
    """The events that a subscription missed."""

    # As `GET /subscriptions/{id}/missed` lists them.
    events: list[Json]
    # A line with the number of events for each reason. If no event was missed, it has the number of
    # events that the subscription got.
    summary: str


def find_missed(
    api: Api, subscription_id: str, since: str | None, until: str | None, subject: str | None
) -> MissedEvents:
    """Return the events that a subscription missed, and a line that summarizes them. Show the
    progress on standard error.

    An event was missed if its copy for the subscription failed or waits for another attempt, or if
    there is no copy. The latter is found only with `since` or `subject`. With `subject`, the events
    that were not missed are returned, too; the member `reason` of each is None.

    :param since: The start of the period in which the events were created, RFC 3339; None: no
        start.
    :param until: The end of the period, RFC 3339; None: no end, or now if `since` is given.
    :param subject: The subject of the events; None: any.
    """
    if since and not until:
        # One end for all pages: otherwise each call would also examine the events that were created
        # since the previous call.
        until = parse_time("0s")
    query = {"since": since, "until": until, "subject": subject}
    events: list[Json] = []
    examined = 0
    with Console(stderr=True).status("counting") as progress:
        for page in api.pages(path_of(subscription_id, "missed"), **query):
            events += page["events"]
            examined += page["examined"]
            progress.update(f"{len(events):,} of {counted(examined, 'event')}")
    if events:
        counts = Counter[str]()
        for event in events:
            is_missed = event["reason"] is not None
            counts[event["reason"] if is_missed else "not missed"] += 1
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        return MissedEvents(events, f"{reasons} of {counted(examined, 'event')}")
    if not since and not subject:  # so the API examined failed and waiting copies only
        end = until or "now"
        summary = (
            f"No delivery of an event created before {end} failed or waits. "
            "SINCE=3d also finds events that were never sent."
        )
        return MissedEvents(events, summary)
    # Nothing was missed, so each event that the subscription asks for has a copy. Copies of reports
    # (events about an event or a subscription) are not counted, because they were not examined.
    copies = api.list_all("/events", **query, subscription_id=subscription_id)
    taken = sum(not copy["event_type"].startswith(RESERVED_PREFIX) for copy in copies)
    summary = (
        f"Every event that the subscription takes was sent to it: {taken:,} of {examined:,}. Its "
        f"event types and filter leave out {examined - taken:,}."
    )
    return MissedEvents(events, summary)


one_option = option("--subscription-id", metavar="SUBSCRIPTION_ID", help="The subscription.")
all_option = option("--tenant", metavar="TENANT", help="All subscriptions of this tenant.")
go_option = click.option(
    "--go",
    is_flag=True,
    help="Change the subscriptions of a tenant. Without it, they are listed and counted.",
)
dismiss_option = option(
    "--dismiss",
    is_flag=True,
    help="Dismiss the failed deliveries so far, which then do not count any more.",
)


@click.command(short_help="Enable a subscription, or all of a tenant (--go).")
@one_option
@all_option
@dismiss_option
@go_option
def enable(*, subscription_id: str | None, tenant: str | None, dismiss: bool, go: bool) -> None:
    """Push to a subscription again. Deliveries that failed meanwhile stay failed until `recover`
    pushes them. With --dismiss, they are dismissed and `recover` leaves them out.

    With --tenant, enable all subscriptions of the tenant that were paused, or that were disabled
    because their deliveries failed.

    \f
    :param subscription_id: The subscription; None: `tenant` is given.
    :param tenant: Whose subscriptions are enabled; None: `subscription_id` is given.
    :param dismiss: Whether the deliveries that failed so far are dismissed.
    :param go: Whether the subscriptions of a tenant are enabled. Otherwise they are only listed.
    """
    change("enable", subscription_id, tenant, dismiss=dismiss, go=go)


@click.command(short_help="Disable a subscription, or all of a tenant (--go): no push.")
@one_option
@all_option
@go_option
def disable(*, subscription_id: str | None, tenant: str | None, go: bool) -> None:
    """Push nothing to a subscription until it is enabled. Its copies fail meanwhile, and are
    kept.

    \f
    :param subscription_id: The subscription; None: `tenant` is given.
    :param tenant: Whose subscriptions are disabled; None: `subscription_id` is given.
    :param go: Whether the subscriptions of a tenant are disabled. Otherwise they are only listed.
    """
    change("disable", subscription_id, tenant, dismiss=False, go=go)


def change(
    verb: str,
    subscription_id: str | None,
    tenant: str | None,
    *,
    dismiss: bool,
    go: bool,
) -> None:
    """Enable or disable a subscription, or all subscriptions of a tenant; print a line for each.

    Raise UsageError unless either a subscription or a tenant is given.

    :param verb: `enable` or `disable`.
    :param subscription_id: The id of the subscription; None: a tenant is given.
    :param tenant: The tenant; None: a subscription is given.
    :param dismiss: Whether to dismiss first the deliveries that have failed so far.
    :param go: Whether to change the subscriptions of a tenant, which are only listed and counted
        otherwise. A single subscription is always changed.
    """
    if bool(subscription_id) == bool(tenant):
        raise click.UsageError("give either --subscription-id or --tenant")
    api = Api()
    if subscription_id:
        changed_ids = [subscription_id]
    else:
        listed = api.list_all("/subscriptions", tenant=tenant)
        # Only disabled subscriptions can be enabled, and only enabled ones disabled.
        must_be_disabled = verb == "enable"
        found = [row for row in listed if bool(row["disabled_at"]) == must_be_disabled]
        changed_ids = [row["subscription_id"] for row in found]
        if not (go and found):
            print_items(STATE_COLUMNS, found)
            print(f"{counted(len(found), 'subscription')} would be {verb}d")
            if found:
                print(f"To {verb} them: {again(go='1')}")
            return
    for changed_id in changed_ids:
        if dismiss:
            # The copies until this time are dismissed. It is a time of the API's own clock, because
            # the API refuses a time in the future.
            current = api.get("/subscriptions", changed_id, include="deliveries")
            body = {"dismissed_until": current["deliveries"]["last_at"]}
            api.call("PATCH", path_of(changed_id), json=body)
        subscription = api.call("POST", path_of(changed_id, verb)).content
        print(printable(f"{changed_id} ({name_of(subscription)}): {verb}d"))


@click.command(short_help="List subscriptions.")
@option(
    "--tenant",
    metavar="TENANT",
    default="*",
    help="Only subscriptions of this tenant. * lists the subscriptions of all tenants.",
)
@option(
    "--state",
    type=click.Choice(["active", "failing", "paused", "disabled", "slow"]),
    help="Only subscriptions in this state.",
)
def subscriptions(tenant: str, state: str | None) -> None:
    """List subscriptions, the oldest first, each with the number of its copies that failed or wait,
    and the time of the oldest one.

    The state disabled includes paused subscriptions. The state slow means all subscriptions in the
    slow lane, whatever other state they have.

    \f
    :param tenant: Whose subscriptions are listed; `*`: those of all tenants.
    :param state: The state of the listed subscriptions; None: any.
    """
    listed = Api().list_all("/subscriptions", tenant=tenant, state=state, include="deliveries")
    found = [row | row["deliveries"] for row in listed]
    if found:
        print_items((*STATE_COLUMNS, "failed", "waiting", "oldest_missed_at"), found)
    print(counted(len(found), "subscription"))


def path_of(subscription_id: str, *verb: str) -> str:
    """Return the path of a subscription in the API: `/subscriptions/sub_...` or, with a verb,
    `/subscriptions/sub_.../enable`.

    :param verb: The last part of the path, or nothing.
    """
    return "/".join(("/subscriptions", quote(subscription_id, safe=""), *verb))
