import subprocess
import sys

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, parse

ALL = parse(MUTANTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("mutant", ALL, ids=[mutant.what for mutant in ALL])
def test_a_mutant_still_applies_to_the_code(mutant: Mutant) -> None:
    assert mutant.mutated()


def test_each_mutant_names_a_test_that_exists() -> None:
    suites = sorted({mutant.suite for mutant in ALL})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-n", "0", *suites]
    collect = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert collect.returncode == 0, collect.stdout
    collected = collect.stdout.lower().splitlines()

    def has_test(mutant: Mutant) -> bool:
        suite = f"{mutant.suite}::"
        names = [test.removeprefix(suite) for test in collected if test.startswith(suite)]
        return any(mutant.name.lower() in name for name in names)  # as `pytest -k` selects

    assert [f"{mutant.suite}::{mutant.name}" for mutant in ALL if not has_test(mutant)] == []
