from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from chalicelib.events import Attempt, Event, Reason, Status, DeliveredVia
from chalicelib.store import SHARDS, attributes, Event.from_item, partition, partition_of, sort_key, typed

EVENT = Event("evt_" + "0" * 32, "t", Status.PENDING, "2026-11-25T00:00:00.000001Z", "acme", expires_at=5, size=6)
TIMES = st.datetimes().map(lambda moment: moment.isoformat(timespec="microseconds") + "Z")
COUNTS = st.integers(0, 10**12)
MAYBE_TEXT = st.none() | st.text()
TEXTS = ("event_type", "created_by", "payload", "metadata", "body_hash")
MAYBE_TIMES = ("next_attempt_at", "requeue_at", "claimed_until", "replayed_at", "delivered_at", "failed_at")


@settings(deadline=None, max_examples=40)
@given(
    st.builds(
        replace,
        st.just(EVENT),
        event_id=st.from_regex(r"evt_[0-9a-f]{32}", fullmatch=True),
        status=st.sampled_from(Status),
        created_at=TIMES,
        attempts=st.tuples(st.builds(Attempt, TIMES, st.text(), st.none() | COUNTS, MAYBE_TEXT, COUNTS)),
        claim_id=MAYBE_TEXT,
        delivered_via=st.none() | st.sampled_from(DeliveredVia),
        reason=st.none() | st.sampled_from(Reason),
        **dict.fromkeys(TEXTS, st.text()),
        **dict.fromkeys(MAYBE_TIMES, st.none() | TIMES),
        **dict.fromkeys(("expires_at", "size", "delivery_attempts"), COUNTS),
    )
)
def test_an_event_is_the_same_after_it_was_stored(event: Event) -> None:
    item = typed(attributes(event))
    back = Event.from_item(item)
    assert back == event
    # An enum equals its text; it must be one all the same.
    assert [type(each) for each in vars(back).values()] == [type(each) for each in vars(event).values()]
    assert all(type(text) is str for value in item.values() for text in value.values())


def test_a_row_of_the_index_is_an_event_without_what_the_index_lacks() -> None:
    event = replace(EVENT, payload='{"a":1}', attempts=(Attempt("1", "retry", 500, None, 1),), next_attempt_at="2")
    row = {name: text for name, text in typed(attributes(event)).items() if name not in ("payload", "attempts")}
    assert Event.from_item(row) == replace(event, payload="{}", attempts=())


def test_events_spread_evenly_over_the_shards_of_their_status() -> None:
    counts = Counter(partition_of(f"evt_{number:032x}", Status.FAILED) for number in range(8000))
    assert set(counts) == {partition(Status.FAILED, shard) for shard in range(SHARDS)}
    assert all(800 < count < 1200 for count in counts.values())


def test_the_index_orders_by_time_and_then_by_event() -> None:
    sibling = replace(EVENT, event_id="evt_" + "f" * 32)
    later = replace(EVENT, created_at="2026-11-25T00:00:00.000002Z")
    assert sort_key(EVENT) < sort_key(sibling) < sort_key(later)
