"""What the partitions of an index take: a write beyond that is throttled, in the table, too."""

from collections import Counter
from collections.abc import Callable, Mapping

from botocore.exceptions import ClientError

from tests.support.in_memory_aws import Item
from tests.support.write_units import row, units_of_partitions

PARTITION_UNITS = 1_000.0  # a second, in DynamoDB
BURST_SECONDS = 10  # in which so many seconds' units are taken at any time


class Throughput:
    """Counts the units of each partition of some indexes; each has its partition key, and the
    attributes it shows.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        indexes: Mapping[str, tuple[str, list[str]]],
        units_per_second: float,
    ) -> None:
        self._clock = clock
        self._indexes = indexes
        self._most_units = units_per_second * BURST_SECONDS
        self._used = Counter[tuple[str, str]]()
        self._period = 0.0

    def take(self, before: Item | None, after: Item | None) -> None:
        """Count a write; raise ClientError, and count nothing, if it is too much for a partition
        that it changes.
        """
        if self._clock() // BURST_SECONDS != self._period:
            self._period = self._clock() // BURST_SECONDS
            self._used.clear()
        needed = Counter[tuple[str, str]]()
        for index, (partition, projected) in self._indexes.items():
            old, new = (row(item or {}, partition, projected) for item in (before, after))
            needed += {
                (index, key): units
                for key, units in units_of_partitions(old, new, partition).items()
            }
        if any(self._used[key] + units > self._most_units for key, units in needed.items()):
            raise ClientError({"Error": {"Code": "ThrottlingException"}}, "PutItem")
        self._used += needed
