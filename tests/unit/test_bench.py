import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from chalicelib.events import Event, Status
from chalicelib.store import attributes, typed
from tools.bench import __main__ as bench
from tools.bench import calls, report
from tools.bench.measure import Pairs, Row
from tools.bench.scale import row_size

PROBE = """
import contextlib, json, os
from tools.bench import lab
os.environ |= lab.OWN_VARIABLES
with lab.serving("memory", "receiver") as names, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    system = lab.System(names)
    bare = lab.bare_of(system)
    event_id = lab.new_event_id()
    with system.recording() as ours:
        system.call(lab.proxy_event("POST", "/events", json.dumps(lab.EVENT)))
    bare.post(*bare.prepared(bare.posted, event_id))
    stored = lab.new_event_id()
    bare.store(stored)
    bare.work(*bare.prepared(bare.worked, stored))
    sent = [(item, bare.prepared(bare.posted, event_id)[number]) for number, (_, item) in enumerate(ours)]
    reads = [lab.proxy_event("GET", f"/events/{each}") for each in (event_id, stored)]
    got = [json.loads(system.call(read)["body"]) for read in reads]
print(json.dumps([sent, got]))
"""


def test_a_ratio_is_that_of_the_medians_and_its_spread_that_of_the_pairs() -> None:
    pairs = Pairs([0.002, 0.004, 0.006], [0.002, 0.002, 0.002])

    row = pairs.row("posting", most=2)

    assert (row.ratio, row.met, row.goal) == (2.0, True, "≤ 2")
    assert pairs.spread[0] < pairs.ratio < pairs.spread[1]
    assert pairs.row("posting", most=1.9).met is False
    assert pairs.row("posting").met is None


def test_a_row_has_as_many_bytes_as_dynamodb_reads() -> None:
    event = Event("evt_1", "type", Status.PENDING, "then", "acme", 1_700_000_000, 123, payload="not projected")

    # event_id, status_shard, sort_key, event_type, size, delivery_attempts, created_by, expires_at
    names = 8 + 12 + 8 + 10 + 4 + 17 + 10 + 10
    assert (
        row_size(typed(attributes(event))) == names + 5 + 9 + 10 + 4 + 3 + 1 + 4 + 2
    )  # zeroes at the ends take nothing


def test_the_bare_calls_send_what_the_app_sends_and_do_what_it_does() -> None:
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)

    sent, got = json.loads(run.stdout)

    assert len(sent) == 2
    assert all(shape(ours) == shape(bare) for ours, bare in sent)
    assert [event["status"] for event in got] == ["delivered", "delivered"]
    assert all(event["payload"] == got[0]["payload"] for event in got)


def shape(value: object) -> object:
    """Return a value with the length of each text in its place, but for expressions, which count as they stand."""
    match value:
        case dict():
            return {name: part if name.endswith("Expression") else shape(part) for name, part in value.items()}
        case str():
            return len(re.sub(r'(?<="duration_ms":)\d+', "1", value))  # a push may take 9 ms or 10
    return value


def test_the_paths_whose_calls_are_counted_are_told_apart() -> None:
    assert len({path.what for path in calls.PATHS}) == len(calls.PATHS)


def test_the_page_holds_every_row_and_names_each_path_that_is_not_as_designed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "DOCS", tmp_path)
    for draw in ("_draw_posts", "_draw_pages"):
        monkeypatch.setattr(report, draw, lambda *_: None)
    rows = [Row("a", "2 ms", "1 ms", 2.0, (1.5, 2.5), "≤ 1.25", met=False), Row("b", "1", "-")]

    report.write(rows, [("GET", {"GetItem": 2}, {"GetItem": 1})], {}, {})

    page = (tmp_path / "performance.md").read_text()
    assert "| a | 2 ms | 1 ms | 2.00 | 1.50 to 2.50 | ≤ 1.25 | no |" in page
    assert "| b | 1 | - | - | - | - | - |" in page
    assert "| GET | 2 GetItem | no: GetItem |" in page


@pytest.mark.parametrize(
    ("options", "met", "status"), [([], False, 0), (["--strict"], False, 1), (["--strict"], True, 0)]
)
def test_a_missed_goal_is_an_exit_status_only_when_asked_for(
    options: list[str], met: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--quick", *options])
    monkeypatch.setattr(bench, "measure", lambda rounds, starts: ([Row("a", "", "", met=met)], [], {}, {}))

    assert bench.main() == status
    assert ("1 of 1 goals missed" in capsys.readouterr().out) is not met
