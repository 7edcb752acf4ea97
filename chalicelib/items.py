"""An event as a DynamoDB item, and back.

Attributes are strings, and whole numbers where DynamoDB must count or expire. Knows nothing of calls.
"""

import json
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from chalicelib.events import Attempt, Event, Reason, Status, Via, compact

SHARDS = 8  # an index partition takes 1,000 writes a second; each of these takes an eighth of them

Item = Mapping[str, Mapping[str, str]]
FIELDS = tuple(field.name for field in fields(Event))


def partition(status: Status, shard: int) -> str:
    """Return the partition of the index that holds a status' events of one shard, 0 to SHARDS - 1."""
    return f"{status}#{shard}"


def partition_of(event_id: str, status: Status) -> str:
    return partition(status, zlib.crc32(event_id.encode()) % SHARDS)


def sort_key(event: Event) -> str:
    """Return what orders the index: by time, and the event itself where two share it."""
    return f"{event.created_at}#{event.event_id}"


def attributes(event: Event) -> dict[str, str | int | None]:
    """Return everything stored of an event by name; None for what it has not."""
    stored: dict[str, Any] = {name: getattr(event, name) for name in FIELDS}
    stored["attempts"] = compact([vars(attempt) for attempt in event.attempts])
    stored["status_shard"] = partition_of(event.event_id, event.status)
    stored["sort_key"] = sort_key(event)
    return stored


def event_of(item: Item) -> Event:
    """Return the event of an item of the table or, without what is not projected, of the index."""
    stored: dict[str, Any] = {name: value(item[name]) for name in FIELDS if name in item}
    created_at, event_id = value(item["sort_key"]).split("#")
    stored |= {"event_id": event_id, "created_at": created_at}
    stored["status"] = Status(value(item["status_shard"]).split("#")[0])
    if "attempts" in stored:
        stored["attempts"] = tuple(Attempt(**attempt) for attempt in json.loads(stored["attempts"]))
    if "delivered_via" in stored:
        stored["delivered_via"] = Via(stored["delivered_via"])
    if "reason" in stored:
        stored["reason"] = Reason(stored["reason"])
    return Event(**stored)


def value(typed: Mapping[str, str]) -> Any:
    return int(typed["N"]) if "N" in typed else typed["S"]


def typed(values: Mapping[str, str | int | None]) -> dict[str, dict[str, str]]:
    """Return values as DynamoDB wants them; None is left out."""
    return {
        name: {"N": str(value)} if isinstance(value, int) else {"S": str(value)}
        for name, value in values.items()
        if value is not None
    }
