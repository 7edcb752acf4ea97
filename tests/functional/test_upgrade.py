"""What `make resources` fills in a table of an older version."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import boto3
import pytest

from tests.support.world import Json, World
from tools import upgrade

TABLE = "triggers-api-dev-events"
COPIES = {f"cpy_{number}": "copy-failed#3" for number in range(100)}
OTHERS = {"sub_1": "subscription#acme", "cpy_pending": "copy-pending#0", "evt_1": "failed#1"}


class StoppedError(Exception):
    """The process is ended."""


def test_filling_goes_on_where_it_was_stopped_and_leaves_what_changed_meanwhile(
    world: World,
) -> None:
    dynamodb = world.outside_dynamodb
    for event_id, status_shard in {**COPIES, **OTHERS}.items():
        texts = {"event_id": event_id, "sort_key": event_id, "status_shard": status_shard}
        if event_id.startswith("cpy_"):
            texts["subscription_id"] = "sub_1"
        dynamodb.put_item(TableName=TABLE, Item={name: {"S": text} for name, text in texts.items()})
    written = count()

    def stop_at_40(**_: Any) -> None:
        if next(written) >= 40:
            raise StoppedError

    def count_write(**_: Any) -> None:
        next(written)

    def change_meanwhile(**_: Any) -> None:
        dynamodb.delete_item(TableName=TABLE, Key={"event_id": {"S": "cpy_pending"}})
        erased = {"UpdateExpression": "REMOVE status_shard"}
        dynamodb.update_item(TableName=TABLE, Key={"event_id": {"S": "sub_1"}}, **erased)

    with listening("before-call.dynamodb.UpdateItem", stop_at_40), pytest.raises(StoppedError):
        upgrade.fill(TABLE)
    assert len(lookup_keys(dynamodb)) == 40
    written = count()
    with (
        listening("before-call.dynamodb.UpdateItem", count_write),
        listening("after-call.dynamodb.Scan", change_meanwhile),
    ):
        upgrade.fill(TABLE)

    assert next(written) == 60 + 2
    assert lookup_keys(dynamodb) == dict.fromkeys(COPIES, "sub_1")


@contextmanager
def listening(event: str, handler: Callable[..., None]) -> Iterator[None]:
    """Let clients that are made meanwhile call the handler."""
    events = boto3.DEFAULT_SESSION.events
    events.register(event, handler)
    yield
    events.unregister(event, handler)


def lookup_keys(dynamodb: Any) -> Json:
    items = dynamodb.scan(TableName=TABLE)["Items"]
    return {
        item["event_id"]["S"]: item["lookup_key"]["S"] for item in items if "lookup_key" in item
    }
