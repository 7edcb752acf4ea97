"""What a write costs in DynamoDB, from the items that are really written.

Sources: "DynamoDB item sizes and formats" (CapacityUnitCalculations.html), "DynamoDB read and write
operations" (read-write-operations.html) and "Provisioned throughput considerations for global
secondary indexes" (GSI.html) in Amazon's DynamoDB Developer Guide.
"""

import math
from collections import Counter
from collections.abc import Iterable

from tests.support.in_memory_aws import SORT, Item, indexes

KB = 1024
OVERHEAD_BYTES = 100  # of storage, for each item and each row of an index


def consumed(before: Item, after: Item) -> Counter[str]:
    """Return the units and the stored bytes of a write: of the table, and of all indexes.

    An absent item is empty.

    - The table takes a unit for each begun KB of the item before or after, whichever is larger.
    - An index holds keys and projected attributes of the items that have its partition key.
    """
    used = Counter(
        table_units=max(units(before), units(after)), table_bytes=stored(after) - stored(before)
    )
    for partition, projected in indexes().values():
        old = row(before, partition, projected)
        new = row(after, partition, projected)
        used["index_bytes"] += stored(new) - stored(old)
        used["index_units"] += index_units(old, new, partition)
    return used


def row(item: Item, partition: str, projected: Iterable[str]) -> Item:
    """Return the row that an index holds of an item; it is empty without the partition key."""
    return {name: item[name] for name in projected if name in item} if partition in item else {}


def index_units(old: Item, new: Item, partition: str) -> int:
    """Return the units that an index takes when a row changes.

    If its key changes, the old row is deleted and a new one put, and each takes its units; else the
    larger of both rows counts, or nothing if they are the same.
    """
    if any(old.get(name) != new.get(name) for name in (partition, SORT)):
        return units(old) + units(new)
    return max(units(old), units(new)) if old != new else 0


def stored(item: Item) -> int:
    """Return the bytes that an item or a row takes in storage; an absent one is empty."""
    return size(item) + OVERHEAD_BYTES if item else 0


def size(item: Item) -> int:
    """Return the bytes of an item: names and values, strings in UTF-8."""
    return sum(len(name) + value_size(value) for name, value in item.items())


def value_size(value: str | bytes | int) -> int:
    """Return the bytes of a value; a number has one for each two significant digits, and one
    more.
    """
    if isinstance(value, int):
        return math.ceil(len(str(value).strip("0")) / 2) + 1
    return len(value.encode() if isinstance(value, str) else value)


def units(item: Item) -> int:
    """Return the write units of an item or a row: one for each begun KB, and 0 if it is empty."""
    return math.ceil(size(item) / KB)
