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
# Sort keys begin with a digit: they lie between these two.
LOWEST = "0"
HIGHEST = "~"

# The current item is returned when the condition of a write fails.
CURRENT_ITEM = {"ReturnValuesOnConditionCheckFailure": "ALL_OLD"}

# Values of attributes or placeholders, by name.
Values = Mapping[str, str | int | bytes | None]
# The attributes of an item in DynamoDB's format, by name.
Item = dict[str, Json]
NO_VALUES: Values = {}


class ItemResult(NamedTuple):
    """The result of a conditional write."""

    # Whether the condition held, and the item was written or deleted.
    applied: bool
    # The item: as it is now if the condition failed, and after a write that asked for it. None: the
    # item does not exist, or the write did not ask for it.
    item: Item | None


MAX_ROWS = 10_000  # more than the 1 MB that a page of a query may have
MAX_KEYS = 100  # of a BatchGetItem


class Table:
    """The DynamoDB table of a stage.

    Every method raises StorageUnavailableError when DynamoDB fails.
    """

    # The values of placeholders that any expression may use, besides `:now` and `:now_seconds`.
    own_values: ClassVar[Values] = NO_VALUES

    def __init__(
        self,
        client: Any,
        name: str,
        *,
        clock: Clock,
    ) -> None:
        """Use a table through a boto3 client of DynamoDB.

        :param name: The name of the table.
        :param clock: Returns the time (Unix seconds), which conditions compare with as `:now`.
        """
        self._client = client
        self._name = name
        self._clock = clock

    def pages(
        self,
        partition: str,
        values: Values = NO_VALUES,
        *,
        index: str = BY_STATUS,
        condition: str = "",
        newest_first: bool = False,
        first_rows: int | None = None,
    ) -> Iterator[Json]:
        """Yield the responses of a query of one partition of an index, one for each page.

        :param values: The values of the placeholders in `condition`, and the first and the last
            sort key of the rows, `:low` and `:high`; without these, all rows are read. If `:low` is
            greater than `:high`, there are no rows, and no page is yielded.
        :param index: The name of the index.
        :param condition: A filter expression that leaves rows out; empty: none are.
        :param newest_first: Whether the rows are in descending order of their sort keys.
        :param first_rows: How many rows are read for the first page, before the condition leaves
            rows out; None: as many as 1 MB has. Each further page has four times as many, up to
            1 MB, so that rows that the condition leaves out are passed over in few calls.
        """
        parameters: Json = {
            "TableName": self._name,
            "IndexName": index,
            "KeyConditionExpression": (
                f"{PARTITION_KEYS[index]} = :partition AND sort_key BETWEEN :low AND :high"
            ),
            "ScanIndexForward": not newest_first,
        }
        if condition:
            parameters["FilterExpression"] = condition
        if first_rows is not None:
            parameters["Limit"] = first_rows
        known: Json = {
            ":low": LOWEST,
            ":high": HIGHEST,
            ":partition": partition,
            **values,
        }
        if known[":low"] > known[":high"]:  # DynamoDB refuses such a range
            return
        while True:
            response = self._call("query", parameters, known)
            yield response
            if "LastEvaluatedKey" not in response:
                return
            parameters["Limit"] = min(4 * parameters.get("Limit", MAX_ROWS), MAX_ROWS)
            parameters["ExclusiveStartKey"] = response["LastEvaluatedKey"]

    def _get(self, key: str) -> Any:
        """Return an item in DynamoDB's format, read consistently; None: it does not exist."""
        parameters = {"TableName": self._name, "Key": key_of(key), "ConsistentRead": True}
        return self._call("get_item", parameters).get("Item")

    def _get_many(self, keys: Sequence[str], names: Sequence[str] = ()) -> list[Item]:
        """Return the items with some keys, read consistently and in no particular order; keys
        without an item are left out.

        :param names: The names of the attributes to read; empty: all.
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
                response = self._call("batch_get_item", {"RequestItems": request})
                found = response["Responses"].get(self._name, [])
                items += found
                request = response.get("UnprocessedKeys", {})
                if request and not found:  # all keys were throttled: do not go on without a pause
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
        returns_item: bool = False,
    ) -> ItemResult:
        """Change attributes of one item, if a condition holds.

        :param condition: A condition expression.
        :param changes: The new values of attributes by name; None removes the attribute.
        :param values: The values of the placeholders in `condition`.
        :param counter: The name of an attribute to which 1 is added; empty: none.
        :param returns_item: Whether the result carries the item as it is after the write. If the
            condition failed, the result carries the current item anyway, if there is one.
        """
        # SET #status = :new_status, #claim_id = :new_claim_id REMOVE #reason ADD lease_count :one
        clauses = {
            "SET": [f"#{name} = :new_{name}" for name in changes if changes[name] is not None],
            "REMOVE": [f"#{name}" for name in changes if changes[name] is None],
            "ADD": [f"{counter} :one"] if counter else [],
        }
        expression = [f"{verb} {', '.join(parts)}" for verb, parts in clauses.items() if parts]
        # More values than the expression uses: `_complete` leaves out the others.
        known = {f":new_{name}": value for name, value in changes.items()}
        known[":one"] = 1
        parameters = {"Key": key_of(key), "UpdateExpression": " ".join(expression)}
        if returns_item:
            parameters["ReturnValues"] = "ALL_NEW"
        return self._write("update_item", condition, parameters, {**known, **values})

    def _write(
        self,
        operation: str,
        condition: str,
        parameters: Json,
        values: Values = NO_VALUES,
    ) -> ItemResult:
        """Put, update or delete one item, if a condition holds.

        :param operation: `put_item`, `update_item` or `delete_item`.
        :param condition: A condition expression.
        :param parameters: The parameters of the operation besides table and condition.
        :param values: The values of the placeholders in all expressions.
        :returns: Whether the item was written, and an item: the current one if the condition failed
            and there is one; the written one if `parameters` ask for it by `ReturnValues`.
        """
        call = {
            "TableName": self._name,
            "ConditionExpression": condition,
            **CURRENT_ITEM,
            **parameters,
        }
        response = self._call(operation, call, values)
        # A failed condition has the item in `Item`, a write in `Attributes`.
        item = response.get("Item", response.get("Attributes"))
        return ItemResult(applied="Error" not in response, item=item)

    def _transact(self, values: Values, *writes: tuple[str, Json]) -> list[Any]:
        """Make conditional writes of several items, all or none.

        :param values: The values of the placeholders in the expressions of all writes.
        :param writes: For each write its kind, `Put` or `Update`, and its parameters.
        :returns: An empty list if the writes were made. Otherwise a reason for each write: its
            `Code` is the text `None` if this write was not the cause, and its `Item` the current
            item if its condition failed.
        """
        items = [
            {kind: self._complete({"TableName": self._name, **CURRENT_ITEM, **given}, values)}
            for kind, given in writes
        ]
        response = self._call("transact_write_items", {"TransactItems": items})
        reasons = response.get("CancellationReasons", [])
        if "Error" in response and not reasons:  # an empty list would say that all were written
            raise StorageUnavailableError
        return list(reasons)

    def _call(self, operation: str, parameters: Json, values: Values = NO_VALUES) -> Any:
        """Call DynamoDB and return its response or, if a condition failed, the response of that
        error, which has an `Error`.

        :param operation: The name of a method of boto3's client.
        :param parameters: Its parameters, but for the names and values of placeholders.
        :param values: The values of placeholders, as far as `_complete` needs them.
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
        """Return the parameters of a call, with the names and values of the placeholders in its
        expressions added.

        :param parameters: The parameters of the call; the names of those that are expressions end
            with `Expression`.
        :param values: The values of placeholders; values that no expression uses are left out. Any
            expression may also use `own_values`, `:now` (RFC 3339) and `:now_seconds` (Unix
            seconds).
        """
        expressions = [text for name, text in parameters.items() if name.endswith("Expression")]
        names, placeholders = _placeholders(" ".join(expressions))
        now = self._clock()
        known: Json = {
            ":now": rfc3339(now),
            ":now_seconds": int(now),
            **self.own_values,
            **values,
        }
        used: Json = {
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": serialize({name: known[name] for name in placeholders}),
        }
        # DynamoDB refuses an empty object.
        return {**parameters, **{name: given for name, given in used.items() if given}}

    def _after(self, seconds: float) -> str:
        """Return the time (RFC 3339) `seconds` from now, which may be negative."""
        return rfc3339(self._clock() + seconds)


def serialize(values: Values) -> Item:
    """Return values by name in DynamoDB's format: bytes as binary, integers as numbers (True as 1),
    others as texts. Values that are None are left out.
    """
    item: Item = {}
    for name, value in values.items():
        if isinstance(value, bytes):
            item[name] = {"B": value}
        elif isinstance(value, int):
            item[name] = {"N": f"{value:d}"}
        elif value is not None:
            item[name] = {"S": str(value)}
    return item


def key_of(event_id: str) -> Item:
    """Return the primary key of an item in DynamoDB's format."""
    return {"event_id": {"S": event_id}}


@cache
def _placeholders(expressions: str) -> tuple[dict[str, str], frozenset[str]]:
    """Return the attribute names in expressions by their placeholders (`#status`), and the
    placeholders of values (`:now`): DynamoDB refuses a call with a name or value that no expression
    uses.
    """
    names = {name: name[1:] for name in re.findall(r"#\w+", expressions)}
    return names, frozenset(re.findall(r":\w+", expressions))
