"""`make deploy`, its last step, and `make mark-undelivered STAGE=prod` for a stack of `make
package`: let the index of what was not delivered have what failed under 0.8, too.
"""

from collections import defaultdict

from chalicelib.core.event import Status
from chalicelib.core.invocation import CoreServices
from chalicelib.core.store import from_item, partitions
from chalicelib.infra.table import UNDELIVERED
from chalicelib.pull.inbox import UNDELIVERED as NOT_DELIVERED


def mark_undelivered(services: CoreServices) -> None:
    """Mark the copies that failed, or wait after a failed attempt, and are not in the index; print
    how many. Each write is on condition that the copy was not delivered meanwhile, so that this can
    be stopped, repeated, and done by two.
    """
    store = services.store
    copies: defaultdict[str, list[str]] = defaultdict(list)
    for partition in partitions(Status.FAILED, Status.PENDING, of_copies=True):
        for page in store.pages(partition):
            for copy in map(from_item, page["Items"]):
                if copy.undelivered_key:
                    copies[copy.undelivered_key].append(copy.event_id)
    marked = 0
    for key, copy_ids in copies.items():
        pages = store.pages(key, IndexName=UNDELIVERED)
        known = {item["event_id"]["S"] for page in pages for item in page["Items"]}

        def mark(copy_id: str, key: str = key) -> bool:
            return store.change(copy_id, NOT_DELIVERED, {"undelivered_key": key}).applied

        marked += sum(services.map(mark, sorted({*copy_ids} - known)))
    print(f"copies that were not delivered, and are marked now: {marked:,}")
