"""`send`: one event or a file of them posted by the HTTP API; nothing is sent twice, however often it is run again."""

import codecs
import hashlib
import json
import os
import secrets
import sys
from collections import Counter
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import click

from chalicelib.events import compact
from tools.ops.api import Api, Pace, RefusedError, api_option
from tools.ops.output import OpsError, Output, output_option, plural

REFUSALS_SHOWN = 10

Line = tuple[int, bytes]  # its number, from 1, and its text


class JsonObject(click.ParamType[str]):
    """The text of one JSON object, as it was given: whatever size its integers have."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            parsed = json.loads(value, parse_int=str)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            self.fail("not a JSON object", param, ctx)
        return str(value)


@click.command(short_help="Post one event, or a file of them.")
@click.option("--type", "event_type", help="Of one event.")
@click.option("--payload", type=JsonObject(), help="Of one event: a JSON object; {} by default.")
@click.option("--metadata", type=JsonObject(), help="Of one event: a JSON object.")
@click.option("-f", "--file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), help="One event a line.")
@click.option("--idempotency-prefix", help="Instead of the file's path.")
@click.option("--async", "respond_async", is_flag=True, help="Store and queue, and wait for no push.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True, help="A second.")
@click.option("--concurrency", type=click.IntRange(1, 16), default=4, show_default=True, help="Calls at a time.")
@api_option
@output_option
def send(
    output: Output,
    *,
    api: Api,
    event_type: str | None,
    payload: str | None,
    metadata: str | None,
    file: str | None,
    idempotency_prefix: str | None,
    respond_async: bool,
    rate: float,
    concurrency: int,
) -> None:
    """Post one event (--type, --payload, --metadata), or each line of a file (-f events.jsonl, - for standard input).

    A line is the body of one POST /events: {"event_type": "order.created", "payload": {"order_id": "12345"}}.

    Each line has an Idempotency-Key of its own, made of the file's path, the line's number and its text: run it again
    after a stop, with a key of the same name, and nothing is sent twice. --idempotency-prefix stands in for the path,
    when the file has moved or is to be sent anew. Standard input has no path and needs it.

    A line that the API refuses is told by its number; the rest is sent, and the exit code is 1. Ctrl-C waits for no
    answer.
    """
    if (event_type is None) == (file is None):
        raise click.UsageError("give --type for one event, or -f for a file of them")
    if file and (payload or metadata):
        raise click.UsageError("--payload and --metadata are of one event (--type); in a file each line has its own")
    if file == "-" and not idempotency_prefix:
        raise click.UsageError("standard input needs --idempotency-prefix")
    pace = Pace(rate)

    def post(numbered: Line) -> dict[str, Any]:
        number, line = numbered
        pace.wait()
        try:
            event, known = api.post(line, idempotency_key(prefix, number, line), respond_async=respond_async)
        except RefusedError as refusal:
            return {"line": number, "error": refusal.message}
        return {"line": number, "event_id": event["event_id"], "status": event["status"], "already_there": known}

    if file is None:
        prefix = idempotency_prefix or secrets.token_hex(16)
        members = f'"event_type":{compact(event_type)},"payload":{payload or "{}"}'
        body = f'{{{members},"metadata":{metadata}}}' if metadata else f"{{{members}}}"
        _tell_one(output, post((1, os.fsencode(body))))
    else:
        prefix = idempotency_prefix or str(Path(file).resolve())
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        split = enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1)
        lines = [(number, line) for number, line in split if line.strip()]
        _send_all(output, lines, post, concurrency)


def idempotency_key(prefix: str, number: int, line: bytes) -> str:
    digest = hashlib.sha256(b"\0".join((os.fsencode(prefix), str(number).encode(), line.strip())))
    return f"ops-{digest.hexdigest()}"


def _tell_one(output: Output, sent: dict[str, Any]) -> None:
    if "error" in sent:
        raise OpsError(sent["error"])
    if output.as_json:
        output.json(sent)
    else:
        output.show(f"{sent['event_id']}: {sent['status']}")


def _send_all(output: Output, lines: list[Line], post: Callable[[Line], dict[str, Any]], concurrency: int) -> None:
    counts: Counter[str] = Counter()
    try:
        # Not the threads of concurrent.futures: a process does not end before those have their answers.
        with ThreadPool(concurrency) as pool, output.progress("sending", len(lines)) as progress:
            for number, sent in enumerate(pool.imap(post, lines), 1):
                _tell(output, sent, counts)
                progress(number, len(lines))
    except (KeyboardInterrupt, OpsError):
        output.remark(
            f"stopped after at least {counts.total()} of {len(lines)}: run it again, and nothing is sent twice"
        )
        raise
    if not output.as_json:
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        output.show(plural(len(lines), "event") + (f": {told}" if told else ""))
    if lines and counts["already there"] == len(lines):
        output.remark("nothing was sent: all were there already. To send them anew, give an --idempotency-prefix")
    if counts["refused"]:
        raise OpsError(f"refused: {counts['refused']} of {len(lines)}")


def _tell(output: Output, sent: dict[str, Any], counts: Counter[str]) -> None:
    if output.as_json:
        output.json(sent)
    if "error" in sent:
        counts["refused"] += 1
        if counts["refused"] <= REFUSALS_SHOWN and not output.as_json:
            output.remark(f"line {sent['line']}: {sent['error']}")
    elif sent["already_there"]:
        counts["already there"] += 1
    else:
        counts[sent["status"]] += 1
