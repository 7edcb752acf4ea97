"""`events` and `show`: what there is, and the life of one event, by the HTTP API. Shows no payload."""

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any, NoReturn

import click
from rich.table import Column

from chalicelib.events import EVENT_ID, MAX_ATTEMPTS_SHOWN, Status, epoch_seconds, rfc3339
from tools.ops.api import Api, Event, OutageError, Query, api_option
from tools.ops.output import Output, numeric, output_option, short_time, table

FOLLOW_SECONDS = 2

status_choice = click.Choice([status.value for status in Status])


class EventId(click.ParamType[str]):
    """The id of an event, checked before anything is asked."""

    name = "event_id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not EVENT_ID.fullmatch(value):
            self.fail("an event id is evt_ and 32 characters of 0-9a-f", param, ctx)
        return str(value)


@click.command(short_help="List events, or watch new ones come.")
@click.option("--status", type=status_choice)
@click.option("--event-type")
@click.option("--order", type=click.Choice(["newest", "oldest"]), help="Which come first; newest by default.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many in all.")
@click.option("--follow", is_flag=True, help="Show the newest, then new ones as they come, until Ctrl-C.")
@api_option
@output_option
def events(output: Output, *, api: Api, order: str | None, limit: int, follow: bool, **query: str | None) -> None:
    """List events without their payloads. With --json, one event a line.

    The listing follows an index that lags a moment behind; `show` tells the truth of one event.
    """
    if follow and order:
        raise click.UsageError("--follow has an order of its own")
    if follow and query["status"]:
        raise click.UsageError("--follow shows events as they are posted, whatever becomes of them: no --status")
    found = list(output.reading(islice(api.events(query, order or "newest"), limit)))
    _list(output, reversed(found) if follow else found, header=True)
    if follow:
        _follow(output, api, found, query, limit)


def _follow(output: Output, api: Api, found: list[Event], query: Query, limit: int) -> NoReturn:
    """Show what comes after the events that were found, newest first, at most `limit`. An outage ends nothing."""
    seen = {event["event_id"] for event in found}
    start = found[-1]["created_at"] if len(found) == limit else ""
    is_out = False
    while True:
        time.sleep(FOLLOW_SECONDS)
        try:
            fresh = _unseen(api, seen, start, query)
        except OutageError as error:
            if not is_out:
                output.remark(f"{error.message}; still trying")
            is_out = True
            continue
        if is_out:
            output.remark("the API answers again")
        is_out = False
        seen |= {event["event_id"] for event in fresh}
        _list(output, fresh, header=False)


def _unseen(api: Api, seen: set[str], start: str, query: Query) -> list[Event]:
    """Return the events created since `start` that are not among `seen`, oldest first."""
    fresh: list[Event] = []
    for page in api.pages(query):
        unseen = [event for event in page if event["event_id"] not in seen and event["created_at"] >= start]
        if page and not unseen:
            break
        fresh += unseen
    return fresh[::-1]


def _list(output: Output, found: Iterable[Event], *, header: bool) -> None:
    if output.as_json:
        for event in found:
            output.json(event)
        return
    rows = [
        (short_time(e["created_at"]), e["event_id"], e["status"], e["delivery_attempts"], e["event_type"])
        for e in found
    ]
    if rows or header:
        widths = {"created at": 14, "event": 36, "status": 9}  # the same in every table of --follow
        columns = [Column(name, min_width=width) for name, width in widths.items()]
        output.show(table(*columns, numeric("try", 3), "type", rows=rows, header=header))


@click.command(short_help="The life of one event.")
@click.argument("event_id", type=EventId())
@api_option
@output_option
def show(output: Output, event_id: str, *, api: Api) -> None:
    """Show the life of one event as a timeline: created, attempts, what became of it.

    `wait` is the time since the step before had ended. The API keeps the last 25 attempts and not the moment of a
    replay: it is shown where the attempts tell that there was one. The payload is not shown.
    """
    event = api.event(event_id)
    if output.as_json:
        output.json({name: value for name, value in event.items() if name not in ("payload", "metadata")})
        return
    output.show(f"{event['event_id']}  {event['event_type']}  by {event['created_by']}", event["message"], "")
    rows = timeline(event)
    output.show(table("time (UTC)", numeric("wait"), "what", "outcome", numeric("took"), "answer", rows=rows))


def timeline(event: Event) -> Iterator[tuple[str, ...]]:
    """Yield the rows that tell an event's life: time, wait before, what, outcome, duration, answer."""
    attempts, ended = event["attempts"], event["created_at"]
    older = len(attempts) - event["delivery_attempts"]  # attempts before the last replay
    if older < 0 and len(attempts) < MAX_ATTEMPTS_SHOWN:
        older = 0  # one is running, or was never recorded
    yield _row("created", ended)
    for index, attempt in enumerate(attempts):
        if index and (index == older or attempts[index - 1]["outcome"] != "retry"):
            yield _row("replayed")
        name = f"attempt {index + 1 - older}" if index >= older else "attempt"
        answer = str(attempt["status_code"] or attempt["error"] or "")
        yield _row(name, attempt["at"], ended, attempt["outcome"], f"{attempt['duration_ms']:,} ms", answer)
        ended = rfc3339(epoch_seconds(attempt["at"]) + attempt["duration_ms"] / 1000)
    match event["status"]:
        case "delivered":
            what = "acknowledged" if event["delivered_via"] == "pull" else "delivered"
            yield _row(what, event["delivered_at"], ended, "delivered")
        case "failed":
            yield _row("dead letter", ended if attempts else "", outcome="failed")
        case "pending":
            if attempts and (event["delivery_attempts"] == 0 or attempts[-1]["outcome"] != "retry"):
                yield _row("replayed")
            yield _row("attempt due", event["next_attempt_at"], ended, "pending")


def _row(what: str, at: str = "", since: str = "", outcome: str = "", *more: str) -> tuple[str, ...]:
    return at[:23].replace("T", " "), _wait(since, at) if since else "", what, outcome, *(*more, "", "")[:2]


def _wait(since: str, until: str) -> str:
    seconds = max(0.0, epoch_seconds(until) - epoch_seconds(since))
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 600 else str(timedelta(seconds=round(seconds)))
