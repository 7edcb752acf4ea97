"""Commands about one subscription: send it an event, recover what it missed, enable, disable."""

from collections import Counter
from urllib.parse import quote

import click
from rich.console import Console

from chalicelib.infra.parsing import Json
from tools.api import Api, printable
from tools.command_line import (
    command_line,
    counted,
    option,
    since_option,
    until_option,
)

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


@click.command(short_help="Count what a subscription missed, or send it (--go).")
@subscription_option
@since_option
@until_option
@click.option("--go", is_flag=True, help="Send it. Without it, it is counted.")
def recover(subscription_id: str, since: str | None, until: str, *, go: bool) -> None:
    """Send the events of a period that the subscription takes now and that have no copy for it.

    Repeating the command sends nothing twice: when it is stopped, it can be given again.
    """
    if since is None:
        raise click.UsageError("give --since")
    api = Api()
    path = path_of(subscription_id, "recover")
    body: Json = {"since": since, "until": until, "only_count": not go}
    total = Counter[str]()
    with Console(stderr=True).status("recovering") as progress:
        while True:
            answer, _ = api.call("POST", path, json=body)
            total.update(examined=answer["examined"], sent=answer["sent"])
            progress.update(f"{total['sent']:,} of {counted(total['examined'], 'event')}")
            body["cursor"] = answer["next_cursor"]
            if body["cursor"] is None:
                break
    examined = counted(total["examined"], "event")
    if go:
        print(f"{total['sent']:,} of {examined} sent")
        return
    print(f"{total['sent']:,} of {examined} would be sent")
    if total["sent"]:
        options = {
            "subscription_id": subscription_id,
            "since": since,
            "until": until,
            "go": "1",
        }
        print(f"To send them: {command_line('recover', options)}")


@click.command(short_help="Enable a subscription.")
@subscription_option
def enable(subscription_id: str) -> None:
    """Push to a subscription again. What failed meanwhile stays failed: replay pushes that."""
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
