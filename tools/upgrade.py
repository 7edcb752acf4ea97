"""What `make resources` does for a stage of an older version: indexes, and what they need."""

import contextlib
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import boto3
from botocore.config import Config

from chalicelib.infra.parsing import Json

# Items that are looked up: subscriptions, and copies that may be pushed again. Without those that
# have the key already: newer functions stored them, or a run that was stopped filled them.
PARTITIONS = {":s": {"S": "subscription"}, ":p": {"S": "copy-pending"}, ":f": {"S": "copy-failed"}}
TO_FILL = (
    "attribute_not_exists(lookup_key) AND (begins_with(status_shard, :s)"
    " OR begins_with(status_shard, :p) OR begins_with(status_shard, :f))"
)
# Neither deleted nor erased since it was read, nor stored by newer functions.
UNFILLED = "attribute_exists(status_shard) AND attribute_not_exists(lookup_key)"
FILLED = {"Key": "LookupKeys", "Value": "filled"}  # a tag of the table
# At 50 ms for a call that is 640 writes a second; a partition of an index takes 1,000, and live
# writes need theirs.
AT_ONCE = 32


def keep_indexes(template: Any, before: Any, *, are_read: bool) -> bool:
    """Add the indexes that only the template `before` has, while they are read, or when another is
    created.

    DynamoDB creates or deletes one index of a table at a time. Return whether one was added.
    """
    new = template["Resources"]["EventsTable"]["Properties"]
    old = before["Resources"]["EventsTable"]["Properties"]
    names = {index["IndexName"] for index in new["GlobalSecondaryIndexes"]}
    old_names = {index["IndexName"] for index in old["GlobalSecondaryIndexes"]}
    if old_names <= names or (names < old_names and not are_read):
        return False
    _add_missing(new["GlobalSecondaryIndexes"], old["GlobalSecondaryIndexes"], "IndexName")
    _add_missing(new["AttributeDefinitions"], old["AttributeDefinitions"], "AttributeName")
    return True


def _add_missing(entries: list[Any], others: list[Any], key: str) -> None:
    known = {entry[key] for entry in entries}
    entries += [other for other in others if other[key] not in known]


def await_indexes(table_name: str) -> None:
    """Wait until all indexes of the table can be read, and another one can be changed; print
    progress each minute. There may be no table yet.

    CloudFormation is done when DynamoDB begins to fill an index, which takes hours for a large
    table. It changes one at a time.
    """
    dynamodb = boto3.client("dynamodb")
    for seconds in itertools.count():
        try:
            table = dynamodb.describe_table(TableName=table_name)["Table"]
        except dynamodb.exceptions.ResourceNotFoundException:
            return
        states = {"table": table["TableStatus"]}
        for index in table.get("GlobalSecondaryIndexes", ()):
            states[index["IndexName"]] = index.get("IndexStatus", "ACTIVE")  # of emulators
        busy = [f"{name} {state}" for name, state in states.items() if state != "ACTIVE"]
        if not busy:
            return
        if seconds % 60 == 0:
            waited = f"{seconds // 60} min"
            print(f"waiting for {table_name}, {waited}: {', '.join(busy)}", flush=True)
        time.sleep(1)


def fill(table_name: str, *, once: bool = False) -> None:
    """Give subscriptions, and pending and failed copies, the `lookup_key` that older functions did
    not store. With `once`, unless that was done.

    Run again after it was stopped, it reads the table from its beginning, and writes what is left.
    """
    dynamodb = boto3.client("dynamodb", config=Config(max_pool_connections=AT_ONCE))
    table_arn = dynamodb.describe_table(TableName=table_name)["Table"]["TableArn"]
    if once and FILLED in dynamodb.list_tags_of_resource(ResourceArn=table_arn)["Tags"]:
        return
    pages = dynamodb.get_paginator("scan").paginate(
        TableName=table_name,
        FilterExpression=TO_FILL,
        ProjectionExpression="event_id, subscription_id",
        ExpressionAttributeValues=PARTITIONS,
    )
    read = 0
    filled = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, page in enumerate(pages):
            filled += sum(pool.map(partial(_fill_item, dynamodb, table_name), page["Items"]))
            read += page["ScannedCount"]
            if page["Items"] or number % 100 == 0 or "LastEvaluatedKey" not in page:
                print(f"lookup-index: {read:,} items read, {filled:,} filled", flush=True)
    dynamodb.tag_resource(ResourceArn=table_arn, Tags=[FILLED])


def _fill_item(dynamodb: Any, table_name: str, item: Json) -> bool:
    """Return whether the item was given its key."""
    lookup_key = item.get("subscription_id", {"S": "subscription"})
    with contextlib.suppress(dynamodb.exceptions.ConditionalCheckFailedException):
        dynamodb.update_item(
            TableName=table_name,
            Key={"event_id": item["event_id"]},
            UpdateExpression="SET lookup_key = :key",
            ConditionExpression=UNFILLED,
            ExpressionAttributeValues={":key": lookup_key},
        )
        return True
    return False
