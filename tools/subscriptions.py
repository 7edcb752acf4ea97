"""Commands about one subscription: send it an event, list and recover what it missed, enable and
disable it.
"""

from collections import Counter
from collections.abc import Iterable
from urllib.parse import quote

import click
from rich.console import Console

from chalicelib.infra.parsing import Json
from chalicelib.infra.times import rfc3339, unix_seconds
from tools.api import Api, printable
from tools.command_line import (
    command_line,
    counted,
    option,
    parse_time,
    print_table,
    since_option,
    until_option,
)

MOST_SECONDS = 3 * 86400  # that the attempts of an event last

subscription_option = option(
    "--subscription-id", required=True, metavar="SUBSCRIPTION_ID", help="Which subscription."
)


@click.command("send-to", short_help="Send an event to one subscription.")
@subscription_option
@option("--event-id", required=True, metavar="EVENT_ID", help="An event that is no copy.")
def send_to(subscription_id: str, event_id: str) -> None:
    """Make the copy of an event for a subscription, whatever its types and filter say, and queue
    it.

    A copy that is there is pushed again. The event itself is not pushed.
    """
    # Not repeated when the response is lost: that would push again what is delivered meanwhile.
    path = path_of(subscription_id, "send")
    copy, _ = Api().call("POST", path, json={"event_id": event_id}, read_retries=0)
    print(printable(f"{copy['event_id']}: {copy['message']}"))


@click.command(short_help="List what a subscription did not get, and why.")
@subscription_option
@since_option
@until_option
@option("--subject", metavar="SUBJECT", help="All events with this subject, and what became of it.")
def missed(subscription_id: str, since: str | None, until: str, subject: str | None) -> None:
    """List the events that a subscription did not get: never sent, failed, or waiting for a next
    attempt that is more than a minute ahead.

    Without --since from three days before it began to fail or was disabled, or before now: what
    failed since may have been created earlier.
    """
    api = Api()
    since = since or (None if subject else begin_of_trouble(api, subscription_id))
    events, examined = read_missed(api, subscription_id, since, until, subject)
    rows = []
    for event in events:
        copy = event["copy"]
        told = [event["reason"] or copy["status"], event["member"], copy and copy["last_error"]]
        why = ", ".join(filter(None, told))
        rows.append((event["event_id"], event["created_at"], event["subject"], why))
    if rows:
        print_table(("event_id", "created_at", "subject", "why"), rows)
    print(f"{by_reason(events)} of {counted(examined, 'event')}")


@click.command(short_help="Count what a subscription missed, or get it there (--go).")
@subscription_option
@since_option
@until_option
@click.option("--go", is_flag=True, help="Send and replay it. Without it, it is counted.")
def recover(subscription_id: str, since: str | None, until: str, *, go: bool) -> None:
    """Send the events that the subscription takes now and that have no copy for it; push again
    those that failed or wait.

    Without --since as for missed. Repeating the command sends nothing twice: when it is stopped, it
    can be given again.
    """
    api = Api()
    since = since or begin_of_trouble(api, subscription_id)
    if not go:
        events, examined = read_missed(api, subscription_id, since, until)
        print(f"{by_reason(events)} of {counted(examined, 'event')} since {since}")
        if events:
            options = {
                "subscription_id": subscription_id,
                "since": since,
                "until": until,
                "go": "1",
            }
            print(f"To recover them: {command_line('recover', options)}")
        return
    body: Json = {"since": since, "until": until}
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


def begin_of_trouble(api: Api, subscription_id: str) -> str:
    """Return three days before a subscription began to fail, or before now: attempts last so
    long.
    """
    subscription = api.get("/subscriptions", subscription_id)
    known = [subscription[name] for name in ("failing_since", "disabled_at")]
    since = min(filter(None, known), default=parse_time("0s"))
    return rfc3339(unix_seconds(since) - MOST_SECONDS)


def read_missed(
    api: Api, subscription_id: str, since: str | None, until: str, subject: str | None = None
) -> tuple[list[Json], int]:
    """Return what a subscription missed, and how many events were looked at."""
    path = path_of(subscription_id, "missed")
    events: list[Json] = []
    examined = 0
    with Console(stderr=True).status("counting") as progress:
        for page in api.pages(path, since=since, until=until, subject=subject):
            events += page["events"]
            examined += page["examined"]
            progress.update(f"{len(events):,} of {counted(examined, 'event')}")
    return events, examined


def by_reason(events: Iterable[Json]) -> str:
    """Return how many events were missed for each reason."""
    counts = Counter(event["reason"] or "not missed" for event in events)
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) or "0 missed"


@click.command(short_help="Enable a subscription.")
@subscription_option
def enable(subscription_id: str) -> None:
    """Push to a subscription again. What failed meanwhile stays failed: recover pushes that."""
    change(subscription_id, "enable")


@click.command(short_help="Disable a subscription: no push until it is enabled.")
@subscription_option
def disable(subscription_id: str) -> None:
    """Push nothing to a subscription until it is enabled. Its copies fail and are kept."""
    change(subscription_id, "disable")


def change(subscription_id: str, verb: str) -> None:
    """Enable or disable a subscription, and say how it is now."""
    subscription, _ = Api().call("POST", path_of(subscription_id, verb))
    name = subscription["name"] or subscription["target_host"]
    print(printable(f"{subscription_id} ({name}): {verb}d"))


def path_of(subscription_id: str, verb: str) -> str:
    return f"/subscriptions/{quote(subscription_id, safe='')}/{verb}"
