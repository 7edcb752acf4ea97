"""`make deploy`, its last step, and `make mark-undelivered STAGE=prod` for a stack of `make
package`: let the index of what was not delivered have what failed under 0.8, and nothing that was
delivered since.
"""

from collections import defaultdict

from chalicelib.core.event import Status
from chalicelib.core.store import EXISTS, from_item, partitions
from chalicelib.deps import Services
from chalicelib.infra.table import UNDELIVERED, Values
from tools.export import read_all

OLD_SECONDS = 60  # so long after an update, functions of the version before may record
WRITES_PER_SECOND = 300  # to one subscription, which is one partition of the index
# as `Event.undelivered_key` has it
IS_UNDELIVERED = (
    f"{EXISTS} AND (#status = :failed OR (#status = :pending AND attribute_exists(last_error)))"
)
IS_DELIVERED = "#status = :delivered"
DELIVERED: Values = {":delivered": Status.DELIVERED}


def mark_undelivered(services: Services, updated_at: float) -> None:
    """Mark the copies that failed, or wait after a failed attempt, and are not in the index; take
    the mark from those that were delivered; print how many were changed. Begin OLD_SECONDS after
    `updated_at`, when the functions were updated (Unix seconds).

    Each write is on condition that the copy is still so: this can be stopped, repeated, and done by
    two.
    """
    store = services.store
    keys = [subscription.subscription_id for subscription in read_all(services.subscriptions)]
    wait_seconds = updated_at + OLD_SECONDS - services.clock()
    if keys and wait_seconds > 0:
        print(f"waiting {wait_seconds:.0f} s for the last calls of older functions", flush=True)
        services.sleep(wait_seconds)
    undelivered: defaultdict[str | None, set[str]] = defaultdict(set)
    for partition in partitions(Status.FAILED, Status.PENDING, of_copies=True):
        for page in store.pages(partition):
            for copy in map(from_item, page["Items"]):
                undelivered[copy.undelivered_key].add(copy.event_id)

    def correct(key: str) -> int:
        pages = store.pages(key, IndexName=UNDELIVERED)
        marked = {item["event_id"]["S"] for page in pages for item in page["Items"]}
        changed = 0
        for copy_id in undelivered[key] ^ marked:
            is_missing = copy_id not in marked
            condition = IS_UNDELIVERED if is_missing else IS_DELIVERED
            changes = {"undelivered_key": key if is_missing else None}
            changed += store.change(copy_id, condition, changes, DELIVERED).applied
            services.sleep(1 / WRITES_PER_SECOND)
        return changed

    changed = sum(services.map(correct, keys))
    print(f"undelivered copies: {changed:,} marks were set or taken away")
