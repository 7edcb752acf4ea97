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
    """Return what a write of an item uses: the write units, and by how many bytes the storage
    grows, as `table_units`, `table_bytes`, `index_units` and `index_bytes`. The latter two are
    sums over all indexes.

    - The table takes a unit for each begun KB of the item before or after, whichever is larger.
    - An index holds keys and projected attributes of the items that have its partition key.

    :param before: The item before the write; empty: there was none.
    :param after: The item after the write; empty: it was deleted.
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
    """Return the row that an index has of an item, or an empty row if the item lacks the index's
    partition key.

    :param item: The item; empty: there is none.
    :param partition: The name of the attribute that is the index's partition key.
    :param projected: The names of the attributes that the row has if the item has them.
    """
    if partition not in item:
        return {}
    return {name: item[name] for name in projected if name in item}


def index_units(old: Item, new: Item, partition: str) -> int:
    """Return the units that an index takes when the row of an item changes.

    If the partition key or the sort key of the row changes, the old row is deleted and the new row
    put, and each takes its units. Otherwise the larger of both rows takes its units, or nothing if
    the rows are the same.

    :param old: The row before the change; empty: there was none.
    :param new: The row after the change; empty: there is none.
    :param partition: The name of the attribute that is the index's partition key.
    """
    if any(old.get(name) != new.get(name) for name in (partition, SORT)):
        return units(old) + units(new)
    return max(units(old), units(new)) if old != new else 0


def stored(item: Item) -> int:
    """Return the bytes that an item or a row takes in storage: 0 if it is empty, since there is
    none.
    """
    return size(item) + OVERHEAD_BYTES if item else 0


def size(item: Item) -> int:
    """Return the bytes of an item: names and values, strings in UTF-8."""
    return sum(len(name) + value_size(value) for name, value in item.items())


def value_size(value: str | bytes | int) -> int:
    """Return the bytes of the value of an attribute. A number has a byte for each two significant
    digits, and one more.
    """
    if isinstance(value, int):
        significant_digits = str(value).strip("0")
        return math.ceil(len(significant_digits) / 2) + 1
    return len(value.encode() if isinstance(value, str) else value)


def units(item: Item) -> int:
    """Return the write units of an item or a row: one for each begun KB, and 0 if it is empty."""
    return math.ceil(size(item) / KB)
