import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, parse

ALL = parse(MUTANTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("mutant", ALL, ids=[mutant.what for mutant in ALL])
def test_a_mutant_still_applies_to_the_code(mutant: Mutant) -> None:
    assert mutant.mutated()
    assert (ROOT / mutant.suite).is_file()


def test_no_mutant_has_a_name_that_is_not_defined(tmp_path: Path) -> None:
    for number, mutant in enumerate(ALL):
        (tmp_path / f"{number}.py").write_text(mutant.mutated(), encoding="utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "-q"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    found = {int(number) for number in re.findall(r"(\d+)\.py:", done.stdout)}
    assert [ALL[number].what for number in sorted(found)] == []
