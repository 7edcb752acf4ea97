"""DynamoDB calls: queries of an index, conditional writes, and their errors.

A failed condition is returned, not raised, with the current item.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from botocore.exceptions import ClientError

from chalicelib.infra.errors import AWS_ERRORS, StorageUnavailableError, error_code
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import rfc3339

BY_STATUS, BY_LOOKUP = "status-index", "lookup-index"
PARTITION_KEYS = {BY_STATUS: "status_shard", BY_LOOKUP: "lookup_key"}
CONDITION_FAILED = "ConditionalCheckFailedException"
LOWEST, HIGHEST = "0", "~"  # sort keys begin with a digit

# others are strings
TYPES: dict[type, tuple[str, Callable[[Any], Any]]] = {bytes: ("B", bytes), int: ("N", str)}

Values = Mapping[str, str | int | bytes | None]
Item = dict[str, dict[str, Any]]  # in DynamoDB's format


class Written(NamedTuple):
    """Whether the condition of a write held, and the item: the current one, or what `ReturnValues`
    asks for.
    """

    applied: bool
    item: Item | None


class Table:
    """The DynamoDB table of a stage. Every method raises StorageUnavailableError when DynamoDB
    fails.
    """

    def __init__(self, client: Any, name: str, *, clock: Callable[[], float]) -> None:
        self._client = client
        self._name = name
        self._clock = clock

    def pages(
        self, partition: str, values: Values | None = None, **parameters: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the responses of a query for the sort keys from `:low` to `:high` in a partition of
        an index.

        The index is that of statuses unless `parameters` has another `IndexName`. A `Limit` is for
        the first page; the others evaluate 1 MB: what a filter leaves out is passed over in few
        calls.
        """
        index = parameters.setdefault("IndexName", BY_STATUS)
        condition = f"{PARTITION_KEYS[index]} = :partition AND sort_key BETWEEN :low AND :high"
        _, placeholders = _placeholders(f"{condition} {parameters.get('FilterExpression', '')}")
        known = {
            **self._known_values(),
            ":partition": partition,
            ":low": LOWEST,
            ":high": HIGHEST,
            **(values or {}),
        }
        parameters["KeyConditionExpression"] = condition
        parameters["ExpressionAttributeValues"] = serialize(
            {name: known[name] for name in placeholders}
        )
        while known[":low"] <= known[":high"]:  # DynamoDB refuses another range
            response = self._call("query", **parameters)
            yield response
            if "LastEvaluatedKey" not in response:
                return
            parameters.pop("Limit", None)
            parameters["ExclusiveStartKey"] = response["LastEvaluatedKey"]

    def _get(self, key: str) -> Any:
        """Return an item, read consistently, or None."""
        return self._call("get_item", Key=serialize({"event_id": key}), ConsistentRead=True).get(
            "Item"
        )

    def _get_many(self, keys: Sequence[str], names: Sequence[str] = ()) -> list[Item]:
        """Return those of up to 100 items that exist, read consistently: attributes of some
        `names`, or all.
        """
        options: dict[str, Any] = {
            "Keys": [serialize({"event_id": key}) for key in keys],
            "ConsistentRead": True,
        }
        if names:
            options["ProjectionExpression"] = ", ".join(f"#{name}" for name in names)
            options["ExpressionAttributeNames"] = {f"#{name}": name for name in names}
        request = {self._name: options} if keys else {}
        items: list[Item] = []
        while request:  # again for what is over 16 MB, or was throttled
            response = self._request("batch_get_item", RequestItems=request)
            found = response["Responses"].get(self._name, [])
            items += found
            request = response.get("UnprocessedKeys", {})
            if request and not found:
                raise StorageUnavailableError
        return items

    def _update(
        self,
        key: str,
        condition: str,
        changes: Values,
        values: Values | None,
        *,
        counter: str = "",
        **parameters: Any,
    ) -> Written:
        """Set each attribute of `changes`, remove it if None, and add 1 to `counter`, if
        `condition` holds.
        """
        sets = ", ".join(
            f"#{name} = :new_{name}" for name, value in changes.items() if value is not None
        )
        removes = ", ".join(f"#{name}" for name, value in changes.items() if value is None)
        clauses = {"SET": sets, "REMOVE": removes, "ADD": f"{counter} :one" if counter else ""}
        return self._write(
            "update_item",
            condition,
            {
                ":one": 1,
                **(values or {}),
                **{f":new_{name}": value for name, value in changes.items()},
            },
            Key=serialize({"event_id": key}),
            UpdateExpression=" ".join(
                f"{verb} {clause}" for verb, clause in clauses.items() if clause
            ),
            **parameters,
        )

    def _delete(self, key: str, condition: str, values: Values | None = None) -> Written:
        return self._write("delete_item", condition, values or {}, Key=serialize({"event_id": key}))

    def _write(self, operation: str, condition: str, values: Values, **parameters: Any) -> Written:
        """Make a conditional write."""
        known = {**self._known_values(), **values}
        names, placeholders = _placeholders(f"{condition} {parameters.get('UpdateExpression', '')}")
        parameters |= {
            "ConditionExpression": condition,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        parameters["ExpressionAttributeNames"] = names
        parameters["ExpressionAttributeValues"] = serialize(
            {name: known[name] for name in placeholders}
        )
        # DynamoDB refuses empty ones
        given = {name: value for name, value in parameters.items() if value}
        try:
            response = self._call(operation, **given)
        except ClientError as failure:
            return Written(False, failure.response.get("Item"))
        return Written(True, response.get("Attributes"))

    def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        return self._request(operation, TableName=self._name, **parameters)

    def _request(self, operation: str, **parameters: Any) -> dict[str, Any]:
        try:
            response: dict[str, Any] = getattr(self._client, operation)(**parameters)
        except AWS_ERRORS as error:
            code = error_code(error)
            if code == CONDITION_FAILED:
                raise
            logger.warning("dynamodb failed", extra={"operation": operation, "error": code})
            raise StorageUnavailableError from None
        return response

    def _known_values(self) -> dict[str, Any]:
        """Return the placeholders that conditions and filters share."""
        now = self._clock()
        return {
            ":now": rfc3339(now),
            ":now_seconds": int(now),
            ":pending": "pending",
            ":failed": "failed",
        }

    def _after(self, seconds: float) -> str:
        return rfc3339(self._clock() + seconds)


def serialize(values: Values) -> Item:
    """Return values in DynamoDB's format, without those that are None."""
    return {name: _serialize(value) for name, value in values.items() if value is not None}


def _serialize(value: str | int | bytes) -> dict[str, Any]:
    name, convert = TYPES.get(type(value), ("S", str))
    return {name: convert(value)}


@cache
def _placeholders(expressions: str) -> tuple[dict[str, str], frozenset[str]]:
    """Return the names and value placeholders of expressions: DynamoDB rejects unused ones."""
    return {name: name[1:] for name in re.findall(r"#\w+", expressions)}, frozenset(
        re.findall(r":\w+", expressions)
    )
