"""What `make resources` fills in a table of an older version."""

from types import SimpleNamespace

import boto3

from tests.conftest import During
from tests.support.world import World
from tools import upgrade

TABLE = "triggers-api-dev-events"


def test_filling_leaves_what_was_deleted_meanwhile(world: World, during: During) -> None:
    dynamodb = world.outside_dynamodb
    for event_id in ("cpy_deleted", "cpy_kept"):
        texts = {"event_id": event_id, "sort_key": event_id, "subscription_id": "sub_1"}
        texts["status_shard"] = "copy-failed#3"
        dynamodb.put_item(TableName=TABLE, Item={name: {"S": text} for name, text in texts.items()})

    def delete(**_: object) -> None:
        dynamodb.delete_item(TableName=TABLE, Key={"event_id": {"S": "cpy_deleted"}})

    of_the_tool = SimpleNamespace(meta=boto3.DEFAULT_SESSION)
    during(of_the_tool, "after-call.dynamodb.Scan", delete)
    upgrade.fill(TABLE)

    [kept] = world.items()
    assert kept["event_id"] == {"S": "cpy_kept"}
    assert kept["lookup_key"] == {"S": "sub_1"}
