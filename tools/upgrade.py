"""What `make resources` does for a stage of an older version."""

import contextlib
from typing import Any

import boto3

# The partitions of status-index whose items are looked up: subscriptions, and copies that may be
# pushed again.
PARTITIONS = ("subscription", "copy-pending", "copy-failed")
# Neither deleted nor erased since it was read, nor stored by newer functions.
UNFILLED = "attribute_exists(status_shard) AND attribute_not_exists(lookup_key)"
FILLED = {"Key": "LookupKeys", "Value": "filled"}  # a tag of the table


def keep_indexes(template: Any, before: Any, *, are_read: bool) -> bool:
    """Add the indexes that only the template `before` has, while they are read, or when another is
    created.

    DynamoDB creates or deletes one index of a table at a time. Return whether one was added.
    """
    new, old = (each["Resources"]["EventsTable"]["Properties"] for each in (template, before))
    names, old_names = (
        {index["IndexName"] for index in each["GlobalSecondaryIndexes"]} for each in (new, old)
    )
    if old_names <= names or (names < old_names and not are_read):
        return False
    for part, key in (
        ("GlobalSecondaryIndexes", "IndexName"),
        ("AttributeDefinitions", "AttributeName"),
    ):
        known = {each[key] for each in new[part]}
        new[part] += [each for each in old[part] if each[key] not in known]
    return True


def fill(name: str, *, once: bool = False) -> None:
    """Give subscriptions, and pending and failed copies, the `lookup_key` that older functions did
    not store.

    One after the other: live writes share the throughput of an index's partition. With `once`,
    unless that was done.
    """
    table, done = boto3.resource("dynamodb").Table(name), 0
    client, tagged = table.meta.client, {"ResourceArn": table.table_arn}
    if once and FILLED in client.list_tags_of_resource(**tagged)["Tags"]:
        return
    condition = {"UpdateExpression": "SET lookup_key = :key", "ConditionExpression": UNFILLED}
    for page in client.get_paginator("scan").paginate(TableName=name, IndexName="status-index"):
        for item in page["Items"]:
            if item["status_shard"].startswith(PARTITIONS):
                key, value = (
                    {"event_id": item["event_id"]},
                    {":key": item.get("subscription_id", "subscription")},
                )
                with contextlib.suppress(client.exceptions.ConditionalCheckFailedException):
                    table.update_item(Key=key, ExpressionAttributeValues=value, **condition)
        done += page["ScannedCount"]
        print(f"lookup-index: {done:,} events and subscriptions read", flush=True)
    client.tag_resource(**tagged, Tags=[FILLED])
