"""Lists of events with what became of each."""

from chalicelib.core.event import Event
from chalicelib.core.invocation import CoreServices
from chalicelib.customers import recipients
from chalicelib.customers.subscriptions import Subscriptions
from chalicelib.customers.verdicts import judge
from chalicelib.infra.parsing import Json
from chalicelib.pull.listing import Page

MAX_COPIES = 1000  # of the events of a page: it ends before


def read_outcomes(
    page: Page, services: CoreServices, subscriptions: Subscriptions
) -> tuple[Page, list[Json | None]]:
    """Return a page, which may end earlier, and what became of each of its events.

    A copy has the outcome of its event; None: that was erased a moment ago.
    """
    events = {event.event_id: event for event in page.events if not event.is_copy}
    source_ids = [event.source_event_id for event in page.events if event.source_event_id]
    missing = [source_id for source_id in dict.fromkeys(source_ids) if source_id not in events]
    events |= services.store.get_many(missing)
    judged: dict[str, Event] = {}
    copies = 0
    for number, event in enumerate(page.events):
        source = events.get(event.source_event_id or event.event_id)
        if source is None or source.event_id in judged:
            continue
        copies += len(source.copies)
        if judged and copies >= MAX_COPIES:
            shown = page.events[:number]
            page = Page(shown, shown[-1].sort_key)
            break
        judged[source.event_id] = source
    found = recipients.read_recipients([*judged.values()], services, subscriptions)
    outcomes = {source_id: judge(judged[source_id], rows) for source_id, rows in found.items()}
    return page, [outcomes.get(row.source_event_id or row.event_id) for row in page.events]
