"""What the simulations of docs/scaling.md must get right before their figures mean anything."""

from random import Random

import pytest
from rich.console import Console

from chalicelib.store import SHARDS
from chalicelib.schedules import QUEUE_IS_LONG
from tools import scaling
from tools.scaling import Backlog, Outage


def backlog(outage: Outage) -> Backlog:
    return Backlog(outage, Random(1))


def test_the_fullest_shard_has_at_least_its_part_and_at_most_all() -> None:
    ids = scaling.new_ids(1000, Random(1))

    assert 1 / SHARDS <= scaling.worst_share(ids) < 1.5 / SHARDS
    assert scaling.worst_share(ids[:1]) == 1


@pytest.mark.parametrize(("share", "events"), [(1, 500), (1 / 8, 4000)])
def test_an_event_is_put_into_its_pending_partition_and_deleted_from_it(share: float, events: int) -> None:
    assert scaling.most_events_a_second(share) == events


def test_without_an_outage_each_event_takes_one_message_and_one_push() -> None:
    system = backlog(Outage(1, outage_seconds=0))

    system.run()

    assert system.events == 30  # until the breaker lets a trial through
    assert (system.messages, system.pushes) == (30, 30)
    assert not system.pending


def test_after_an_outage_everything_is_delivered_and_nothing_is_pushed_again() -> None:
    system = backlog(Outage(2, outage_seconds=120))

    drained_seconds = system.run()

    assert system.events == 300
    assert not system.pending
    assert system.pushes >= system.events
    assert 0 < drained_seconds < 300


def test_a_longer_outage_means_more_pushes() -> None:
    short, long = backlog(Outage(1, outage_seconds=60)), backlog(Outage(1, outage_seconds=600))
    short.run()
    long.run()

    assert long.pushes / long.events > short.pushes / short.events


def test_the_gate_keeps_the_sweep_from_feeding_a_queue_that_is_long() -> None:
    gated = backlog(Outage(20, outage_seconds=600))
    ungated = backlog(Outage(20, outage_seconds=600, is_gated=False))
    gated.run()
    ungated.run()

    assert gated.most_visible > QUEUE_IS_LONG
    assert ungated.messages > 2 * gated.messages


def test_the_sweep_finds_what_waits_longer_than_a_message_can() -> None:
    """A delay of over 900 s has no message: without the sweep this would never end."""
    system = backlog(Outage(1 / 60, outage_seconds=3600, in_process_wait_seconds=0))

    assert system.run() > 60
    assert not system.pending


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = backlog(Outage(2, 120)), backlog(Outage(2, 120))

    assert first.run() == second.run()
    assert first.messages == second.messages


def test_the_tables_can_be_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scaling, "OUTAGES", (Outage(1, 60),))
    monkeypatch.setattr(scaling, "WINDOWS", 2)
    console = Console(width=160)

    console.print(scaling.shards_table())
    console.print(scaling.outages_table())

    assert "fullest shard" in capsys.readouterr().out
