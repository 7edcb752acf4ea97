import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, parse

ALL = parse(MUTANTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("mutant", ALL, ids=[mutant.what for mutant in ALL])
def test_a_mutant_still_applies_to_the_code(mutant: Mutant) -> None:
    assert mutant.mutated()
    assert (ROOT / mutant.suite).is_file()
