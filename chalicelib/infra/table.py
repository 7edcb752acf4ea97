"""DynamoDB calls: queries of an index, conditional writes, and their errors.

A failed condition is returned, not raised, with the current item.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

from chalicelib.infra.errors import AWS_ERRORS, StorageUnavailableError, error_code
from chalicelib.infra.parsing import Json
from chalicelib.infra.telemetry import logger
from chalicelib.infra.times import Clock, rfc3339

BY_STATUS = "status-index"
BY_LOOKUP = "lookup-index"
BY_TENANT = "tenant-index"
UNDELIVERED = "undelivered-index"
PARTITION_KEYS = {
    BY_STATUS: "status_shard",
    BY_LOOKUP: "lookup_key",
    BY_TENANT: "tenant",
    UNDELIVERED: "undelivered_key",
}
CONDITION_FAILED = "ConditionalCheckFailedException"
TRANSACTION_CANCELED = "TransactionCanceledException"
MAX_KEYS = 100  # of a BatchGetItem
MAX_ROWS = 10_000  # more than the 1 MB that a page of a query may have
# Sort keys begin with a digit: they lie between these two.
LOWEST = "0"
HIGHEST = "~"

TYPES: Any = {bytes: ("B", bytes), int: ("N", str)}
CURRENT_ITEM = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}

Values = Mapping[str, str | int | bytes | None]
Item = dict[str, Json]  # in DynamoDB's format
NO_VALUES: Values = {}


class ItemResult(NamedTuple):
    """The result of a conditional write."""

    # Whether the condition held, and the item was written.
    applied: bool
    # If it was written, what `ReturnValues` asks for; if not, the item as it is. None: no item.
    item: Item | None


class Table:
    """The DynamoDB table of a stage.

    Every method raises StorageUnavailableError when DynamoDB fails.
    """

    # Values of placeholders that any expression may use, besides `:now` and `:now_seconds`.
    own_values: ClassVar[Values] = NO_VALUES

    def __init__(
        self,
        client: Any,
        name: str,
        *,
        clock: Clock,
    ) -> None:
        self._client = client
        self._name = name
        self._clock = clock

    def pages(
        self,
        partition: str,
        values: Values = NO_VALUES,
        **parameters: Any,
    ) -> Iterator[Json]:
        """Yield the responses of a query of one partition of an index, one for each page.

        :param values: Of the placeholders of the expressions; `:low` and `:high` are the first and
            the last sort key, by default all.
        :param parameters: Of the query. Without `IndexName` it is BY_STATUS. `Limit` is the number
            of rows of the first page; each further page has four times as many, up to 1 MB, so that
            rows that a filter leaves out are passed over in few calls.
        """
        index = parameters.setdefault("IndexName", BY_STATUS)
        key = f"{PARTITION_KEYS[index]} = :partition"
        parameters["KeyConditionExpression"] = f"{key} AND sort_key BETWEEN :low AND :high"
        known: Json = {
            ":low": LOWEST,
            ":high": HIGHEST,
            ":partition": partition,
            **values,
        }
        while known[":low"] <= known[":high"]:  # DynamoDB refuses another range
            response = self._call(
                "query",
                known,
                TableName=self._name,
                **parameters,
            )
            yield response
            if "LastEvaluatedKey" not in response:
                return
            parameters["Limit"] = min(4 * parameters.get("Limit", MAX_ROWS), MAX_ROWS)
            parameters["ExclusiveStartKey"] = response["LastEvaluatedKey"]

    def _get(self, key: str) -> Any:
        """Return an item, read consistently, or None."""
        response = self._call(
            "get_item",
            TableName=self._name,
            Key=key_of(key),
            ConsistentRead=True,
        )
        return response.get("Item")

    def _get_many(self, keys: Sequence[str], names: Sequence[str] = ()) -> list[Item]:
        """Return the items of some keys, read consistently; keys without an item are left out.

        :param names: The attributes to read; empty: all.
        """
        options: Json = {"ConsistentRead": True}
        if names:
            options["ProjectionExpression"] = ", ".join(f"#{name}" for name in names)
            options = self._complete(options, NO_VALUES)
        items: list[Item] = []
        for start in range(0, len(keys), MAX_KEYS):
            options["Keys"] = [*map(key_of, keys[start : start + MAX_KEYS])]
            request = {self._name: options}
            while request:  # again for items beyond 16 MB, or that were throttled
                response = self._call("batch_get_item", RequestItems=request)
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
        values: Values,
        *,
        counter: str = "",
        **parameters: Any,
    ) -> ItemResult:
        """Set attributes of an item, if `condition` holds.

        :param changes: The new values of attributes by name; None removes the attribute.
        :param values: Of the placeholders of `condition`.
        :param counter: The attribute to which 1 is added; empty: none.
        """
        # SET #status = :new_status, #claim_id = :new_claim_id REMOVE #reason ADD lease_count :one
        clauses = {
            "SET": [f"#{name} = :new_{name}" for name in changes if changes[name] is not None],
            "REMOVE": [f"#{name}" for name in changes if changes[name] is None],
            "ADD": [f"{counter} :one"] if counter else [],
        }
        expression = [f"{verb} {', '.join(parts)}" for verb, parts in clauses.items() if parts]
        known = {f":new_{name}": value for name, value in changes.items()}
        known[":one"] = 1
        return self._write(
            "update_item",
            condition,
            {**known, **values},
            Key=key_of(key),
            UpdateExpression=" ".join(expression),
            **parameters,
        )

    def _write(
        self,
        operation: str,
        condition: str,
        values: Values = NO_VALUES,
        **parameters: Any,
    ) -> ItemResult:
        """Put, update or delete one item, if `condition` holds."""
        response = self._call(
            operation,
            values,
            TableName=self._name,
            ConditionExpression=condition,
            **CURRENT_ITEM,
            **parameters,
        )
        item = response.get("Item", response.get("Attributes"))
        return ItemResult("Error" not in response, item)

    def _transact(self, values: Values, *writes: tuple[str, Json]) -> list[Any]:
        """Make conditional writes of several items, all or none.

        :param values: The values of the placeholders of all writes.
        :param writes: The kind of each, `Put` or `Update`, and its parameters.
        :returns: Nothing if they were made, else a reason for each: a `Code`, which is the text
            `None` for a write that was not in the way, and the current `Item` if its condition
            failed.
        """
        items = [
            {kind: self._complete({"TableName": self._name, **CURRENT_ITEM, **given}, values)}
            for kind, given in writes
        ]
        response = self._call("transact_write_items", TransactItems=items)
        reasons = response.get("CancellationReasons", [])
        if "Error" in response and not reasons:
            raise StorageUnavailableError
        return list(reasons)

    def _call(
        self,
        operation: str,
        values: Values = NO_VALUES,
        **parameters: Any,
    ) -> Any:
        """Call DynamoDB and return its response; if a condition failed, the response of the error.

        :param values: Of the placeholders that `own_values` does not have.
        """
        try:
            return getattr(self._client, operation)(**self._complete(parameters, values))
        except AWS_ERRORS as error:
            code = error_code(error)
            if code in (CONDITION_FAILED, TRANSACTION_CANCELED):
                return error.response
            logger.warning("dynamodb failed", extra={"operation": operation, "error": code})
            raise StorageUnavailableError from None

    def _complete(self, parameters: Json, values: Values) -> Json:
        """Return parameters with the names and values of the placeholders in their expressions."""
        expressions = [text for name, text in parameters.items() if name.endswith("Expression")]
        names, placeholders = _placeholders(" ".join(expressions))
        now = self._clock()
        known: Json = {
            ":now": rfc3339(now),
            ":now_seconds": int(now),
            **self.own_values,
            **values,
        }
        used = {
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": serialize({name: known[name] for name in placeholders}),
        }
        # DynamoDB refuses empty ones.
        return {**parameters, **{name: given for name, given in used.items() if given}}

    def _after(self, seconds: float) -> str:
        return rfc3339(self._clock() + seconds)


def serialize(values: Values) -> Item:
    """Return values in DynamoDB's format, without those that are None."""
    item: Item = {}
    for name, value in values.items():
        if value is not None:
            kind, convert = TYPES.get(type(value), ("S", str))
            item[name] = {kind: convert(value)}
    return item


def key_of(event_id: str) -> Item:
    """Return the primary key of an item."""
    return {"event_id": {"S": event_id}}


@cache
def _placeholders(expressions: str) -> tuple[dict[str, str], frozenset[str]]:
    """Return the names and value placeholders of expressions: DynamoDB refuses unused ones."""
    names = {name: name[1:] for name in re.findall(r"#\w+", expressions)}
    return names, frozenset(re.findall(r":\w+", expressions))
