"""`replay`: one event or many pushed again, by the HTTP API, in a run that may be stopped at any moment."""

import time
from collections import Counter
from typing import NamedTuple

import click
from click.core import ParameterSource

from chalicelib.events import Status, rfc3339
from tools.ops.api import Api, BusyError, Pace, api_option
from tools.ops.events import EventId, status_choice
from tools.ops.output import Moment, NotFoundError, OpsError, Output, command_line, output_option, plural, table

LEFT_IN_DLQ = "the messages of dead letters stay in the dead letter queue: make redrive clears them"
OF_MANY = ("until", "status", "event_type", "after", "rate", "dry_run")


class Match(NamedTuple):
    """An event to replay. These sort as time goes."""

    created_at: str
    event_id: str
    event_type: str

    @property
    def position(self) -> str:
        return f"{self.created_at}/{self.event_id}"


@click.command(short_help="Have one event, or many, pushed again.")
@click.argument("event_id", type=EventId(), required=False)
@click.option("--since", type=Moment(), help="Created then or later: 2h, 2026-11-25, 2026-11-25T02:00:00Z.")
@click.option("--until", type=Moment(), help="Created then or earlier; by default now.")
@click.option("--status", type=status_choice, default="failed", show_default=True)
@click.option("--event-type")
@click.option("--after", default="", help="Go on behind this one: what a run that was stopped has printed.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="A second.")
@click.option("--dry-run", is_flag=True, help="Say how many there are, and which come first.")
@api_option
@output_option
def replay(
    output: Output,
    event_id: str | None,
    *,
    api: Api,
    since: str | None,
    rate: float,
    dry_run: bool,
    after: str,
    until: str | None,
    **query: str | None,
) -> None:
    """Have EVENT_ID pushed again, or all events of a time, oldest first.

    Ctrl-C stops a run as soon as the call that is running is answered; a second one does not wait. A run that was
    stopped prints the command that goes on where it was. With --status failed the first command does as well: what
    was replayed is no longer failed, unless it failed again.

    An event that is being pushed is waited for, a minute at most.
    """
    if (event_id is None) == (since is None):
        raise click.UsageError("give an EVENT_ID, or --since for many: --since 2h; with make, SINCE=2h")
    if event_id:
        of_many = [name for name in OF_MANY if is_given(name)]
        if of_many:
            raise click.UsageError(f"--{of_many[0].replace('_', '-')} is for many events, not for one EVENT_ID")
        was_failed = api.event(event_id)["status"] == Status.FAILED
        event = api.replay(event_id)
        if output.as_json:
            output.json(event)
        else:
            output.show(f"{event_id}: {event['message']}")
        if was_failed:
            output.remark(LEFT_IN_DLQ)
        return
    since, until = str(since), until or rfc3339(time.time())
    found = output.reading(api.events_since(since, query))
    matches = [Match(event["created_at"], event["event_id"], event["event_type"]) for event in found]
    matches = [match for match in reversed(matches) if match.created_at <= until and match.position > after]
    if dry_run:
        first = [match._asdict() for match in matches[:10]]
        if output.as_json:
            output.json({"matches": len(matches), "first": first})
        else:
            output.show(f"to be replayed: {len(matches)}" + (", first of all:" if first else ""))
            if first:
                output.show(table("created at", "event", "type", rows=(match.values() for match in first)))
                output.remark("a dry run: nothing was pushed. To push, leave out --dry-run; with make, add GO=1")
        return
    command = ["replay", "--url", api.url, "--since", since, "--until", until, "--rate", f"{rate:g}"]
    for name, value in query.items():
        command += [f"--{name.replace('_', '-')}", value] if value else []
    command += ["--json"] if output.as_json else []
    _replay_all(output, api, matches, Pace(rate), command=command, position=after)
    if query["status"] == Status.FAILED and matches:
        output.remark(LEFT_IN_DLQ)


def is_given(name: str) -> bool:
    """Whether an option of the running command was given, and is not its default."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def _replay_all(
    output: Output, api: Api, matches: list[Match], pace: Pace, *, command: list[str], position: str
) -> None:
    counts: Counter[str] = Counter()
    busy: list[str] = []
    try:
        with output.progress("replaying", len(matches)) as progress:
            for number, match in enumerate(matches, 1):
                pace.wait()
                with output.undisturbed():
                    outcome = _replay_one(api, match.event_id)
                    counts[outcome] += 1
                    busy += [match.event_id] if outcome == "busy" else []
                    position = match.position
                progress(number, len(matches))
    except (KeyboardInterrupt, OpsError):
        rest = ["--after", position] if position else []
        output.remark(f"{counts['replayed']} replayed. To go on: {command_line(*command, *rest)}")
        if busy:
            output.remark(f"being pushed each time they were asked for, and passed over then: {' '.join(busy)}")
        raise
    if output.as_json:
        output.json({"matches": len(matches)} | {name: counts[name] for name in ("replayed", "gone", "busy")})
    else:
        gone = f", {counts['gone']} expired meanwhile" if counts["gone"] else ""
        output.show(f"{counts['replayed']} of {len(matches)} events replayed{gone}")
    if counts["busy"]:
        raise OpsError(f"being pushed each time it was asked for: {plural(counts['busy'], 'event')}; try again later")


def _replay_one(api: Api, event_id: str) -> str:
    try:
        api.replay(event_id)
    except NotFoundError:
        return "gone"
    except BusyError:
        return "busy"
    return "replayed"
