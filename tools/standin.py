"""DynamoDB, SQS, Secrets Manager and a receiver in memory, for measuring: they answer at once, so our own time shows.

SQLite evaluates DynamoDB's expressions, which are nearly SQL. Only what the measured calls use is there.
"""
# ruff: noqa: S608  # the statements are made of the project's own expressions

import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import socket
import sqlite3
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from chalicelib.events import Event, Status, rfc3339
from chalicelib.store import SHARDS, partition, serialize
from tools import api_key, local_aws

RESOURCES = Path(__file__).parent.parent / "resources.json"
KEYS = ("event_id", "status_shard", "sort_key")
TABLES = ("events", "inbox_10", "inbox_1000", "inbox_50000")
API_KEY = "bench-key"
SLOW, SLOW_SECONDS = "?slow", 0.2


class StandIn:
    """Holds the tables, and answers the calls of boto3."""

    def __init__(self) -> None:
        table = json.loads(RESOURCES.read_text())["Resources"]["EventsTable"]["Properties"]
        self._projected = ", ".join((*KEYS, *table["GlobalSecondaryIndexes"][0]["Projection"]["NonKeyAttributes"]))
        columns = dict.fromkeys((*KEYS, *(field.name for field in fields(Event)), "target_url", "event_types"))
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._database.row_factory = sqlite3.Row
        for name in TABLES:
            self._database.execute(f"CREATE TABLE {name} ({', '.join(columns)}, PRIMARY KEY (event_id))")
            self._database.execute(f"CREATE INDEX {name}_index ON {name} (status_shard, sort_key)")

    def answer(self, operation: str, parameters: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the status code and the body of the response to a call."""
        if operation == "GetSecretValue":
            return 200, {"SecretString": "ZAPIER_WEBHOOK_URL=none"}
        if "TableName" not in parameters:  # a message is sent
            return 200, {"MessageId": "id"}
        table, values = parameters["TableName"], plain(parameters.get("ExpressionAttributeValues", {}))
        if operation == "Query":
            condition, limit = sql(parameters["KeyConditionExpression"]), parameters.get("Limit", -1)
            query = f"SELECT {self._projected} FROM {table} WHERE {condition} ORDER BY sort_key LIMIT {limit}"
            return 200, {"Items": [serialize(dict(row)) for row in self._database.execute(query, values)]}
        values["key"] = (parameters.get("Item") or parameters["Key"])["event_id"]["S"]
        condition = sql(parameters.get("ConditionExpression", "TRUE"))
        joined = f"(SELECT 1) LEFT JOIN {table} ON event_id = :key"
        current = self._one(f"SELECT ({condition}) AS holds, {table}.* FROM {joined}", values)
        if not current.pop("holds"):
            return 400, {"__type": "ConditionalCheckFailedException", "message": "", "Item": serialize(current)}
        if operation == "GetItem":
            return 200, {"Item": serialize(current)}
        if operation == "PutItem":
            self._put(table, plain(parameters["Item"]))
        elif operation == "UpdateItem":
            changes = assignments(parameters["UpdateExpression"])
            current = self._one(f"UPDATE {table} SET {changes} WHERE event_id = :key RETURNING *", values)
        return 200, {"Attributes": serialize(current)} if parameters.get("ReturnValues") == "ALL_NEW" else {}

    def fill(self, event_id: str, table: str, count: int) -> None:
        """Store `count` pending copies of an event, each a millisecond younger than the last."""
        original = self._one("SELECT * FROM events WHERE event_id = :key", {"key": event_id})
        for number in range(count):
            copy_id, created_at = f"evt_{os.urandom(16).hex()}", rfc3339(time.time() + (number - count) / 1000)
            own = {"event_id": copy_id, "created_at": created_at, "sort_key": f"{created_at}#{copy_id}"}
            self._put(table, original | own | {"status_shard": partition(Status.PENDING, number % SHARDS)})

    def _put(self, table: str, item: dict[str, Any]) -> None:
        names, placeholders = ", ".join(item), ", ".join(f":{name}" for name in item)
        self._database.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({placeholders})", item)

    def _one(self, statement: str, values: dict[str, Any]) -> dict[str, Any]:
        return dict(self._database.execute(statement, values).fetchone())


def sql(condition: str) -> str:
    """Return a condition of DynamoDB as SQL; a placeholder `#name` stands for the attribute `name`."""
    text = re.sub(r"attribute_exists\((\w+)\)", r"\1 NOTNULL", condition.replace("#", ""))
    return re.sub(r"attribute_not_exists\((\w+)\)", r"\1 ISNULL", text)


def assignments(update: str) -> str:
    """Return an update expression as what follows SET in SQL."""
    clauses = dict(re.findall(r"(SET|REMOVE|ADD) (.+?)(?= REMOVE | ADD |$)", update.replace("#", "")))
    removed = [f"{name} = NULL" for name in clauses.get("REMOVE", "").split(", ") if name]
    added = re.sub(r"(\w+) (:\w+)", r"\1 = coalesce(\1, 0) + \2", clauses.get("ADD", ""))
    return ", ".join(filter(None, (clauses.get("SET"), *removed, added)))


def plain(item: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return a DynamoDB item, or values of placeholders, as Python values by name."""
    return {name.lstrip(":"): int(value["N"]) if "N" in value else value["S"] for name, value in item.items()}


async def serve(listener: socket.socket) -> None:
    """Serve AWS; `/hook`, a receiver, which `?slow` makes slow; and `/fill`."""
    stand_in = StandIn()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1]) if length else 0)
                status_code, answer = 200, dict[str, Any]()
                if target := re.search(r"x-amz-target: *\S+\.(\w+)", head, re.IGNORECASE):
                    status_code, answer = stand_in.answer(target[1], json.loads(body))
                elif head.startswith("POST /fill"):
                    stand_in.fill(**json.loads(body))
                elif SLOW in head:
                    await asyncio.sleep(SLOW_SECONDS)
                content = json.dumps(answer).encode()
                writer.write(f"HTTP/1.1 {status_code} -\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        writer.close()

    await (await asyncio.start_server(handle, sock=listener)).serve_forever()


def start() -> None:
    """Start a stand-in in a process that ends with this one, and make the environment point the app at it."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    fork = multiprocessing.get_context("fork")
    fork.Process(target=lambda: asyncio.run(serve(listener)), daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    local_aws.use(url)
    os.environ |= {
        "EVENTS_TABLE_NAME": "events",
        "INBOX_QUEUE_URL": f"{url}/1/inbox",
        "INBOX_DLQ_URL": f"{url}/1/dlq",
        "ZAPIER_WEBHOOK_URL": f"{url}/hook",
        "API_KEYS": api_key.entry("bench", API_KEY),
        "WEBHOOK_SIGNING_SECRETS": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3",
        "SUBSCRIPTION_HOSTS": "127.0.0.1",
    }
