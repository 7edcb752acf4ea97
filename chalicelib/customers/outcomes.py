"""Lists of events with what became of each."""

from itertools import accumulate

from chalicelib.core.invocation import CoreServices
from chalicelib.customers import recipients
from chalicelib.customers.subscriptions import Subscriptions
from chalicelib.customers.verdicts import judge
from chalicelib.infra.parsing import Json
from chalicelib.pull.listing import Page

MAX_COPIES = 1000  # of the events of a page: it ends before


def read_outcomes(
    page: Page, services: CoreServices, subscriptions: Subscriptions
) -> tuple[Page, Json]:
    """Return a page, which may end earlier, and members that tell what became of its events, by the
    ids of these.

    A copy has the outcome of its event; None: that was erased a moment ago.
    """
    source_ids = [event.source_event_id or event.event_id for event in page.events]
    known = {event.event_id: event for event in page.events}
    known |= services.store.get_many([*({*source_ids} - known.keys())])
    sources = [known[source_id] for source_id in dict.fromkeys(source_ids) if source_id in known]
    totals = accumulate(len(source.copies) for source in sources)
    kept = max(1, sum(total < MAX_COPIES for total in totals))
    if sources[kept:]:
        end = source_ids.index(sources[kept].event_id)
        page = Page(page.events[:end], page.events[end - 1].sort_key)
    found = recipients.read_recipients(sources[:kept], services, subscriptions)
    outcomes = {source_id: judge(known[source_id], rows) for source_id, rows in found.items()}
    return page, {
        event.event_id: {"outcome": outcomes.get(event.source_event_id or event.event_id)}
        for event in page.events
    }
