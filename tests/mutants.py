"""`make mutants`: break the code in one place at a time, and show that a test fails for each.

A mutant is caught if pytest exits with 1: its tests ran, and one failed. Names of mutants as
arguments select them.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).parent.parent
LEFT_OUT = (".git", ".venv", ".local", ".*cache", "__pycache__", "node_modules", "build")
TIMEOUT_SECONDS = 900

# Blocks of lines. `@@`: the module of chalicelib, the tests and a part of their names, and what is
# broken; `-`: what is replaced; `+`: by what.
MUTANTS = ROOT / "tests" / "mutants.txt"


@dataclass
class Mutant:
    """One way to break a module: `old`, which stands in it once, becomes `new`. `name` is that of
    tests in `suite`.
    """

    what: str
    module: str
    suite: str
    name: str
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def mutated(self) -> str:
        """Return the module's text, broken; raise ValueError or SyntaxError if the mutant is
        unusable.
        """
        text, old = (ROOT / self.module).read_text(encoding="utf-8"), "\n".join(self.old)
        if text.count(old) != 1:
            raise ValueError(f"{self.what}: its place is {text.count(old)} times in {self.module}")
        compile(text := text.replace(old, "\n".join(self.new)), self.module, "exec")
        return text


def parse(text: str) -> list[Mutant]:
    mutants: list[Mutant] = []
    for line in text.strip().splitlines():
        if line.startswith("@@ "):
            place, _, what = line[3:].partition(": ")
            module, tests = place.split()
            suite, _, name = tests.partition("::")
            mutants.append(Mutant(what, f"chalicelib/{module}.py", f"tests/{suite}.py", name))
        else:
            (mutants[-1].old if line.startswith("- ") else mutants[-1].new).append(line[2:])
    return mutants


def exit_status(*tests: str, module: str = "", text: str = "") -> int:
    """Run tests on a copy of the project, with the text of one module replaced; return the exit
    status of pytest.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        if module:
            (copy / module).write_text(text, encoding="utf-8")
        command = [sys.executable, "-B", "-m", "pytest", "-x", "-p", "no:cacheprovider", *tests]
        return subprocess.run(
            command, cwd=copy, capture_output=True, check=False, timeout=TIMEOUT_SECONDS
        ).returncode


def main() -> int:
    console = Console()
    mutants = [
        mutant
        for mutant in parse(MUTANTS.read_text(encoding="utf-8"))
        if " ".join(sys.argv[1:]) in mutant.what
    ]
    texts = [mutant.mutated() for mutant in mutants]
    console.print("running their tests without a mutant")
    if status := exit_status(*sorted({mutant.suite for mutant in mutants})):
        console.print(f"these fail already: pytest exited with {status}")
        return 1

    def run(mutant: Mutant, text: str) -> int:
        return exit_status(
            "-n", "0", mutant.suite, "-k", mutant.name, module=mutant.module, text=text
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        statuses = list(
            track(pool.map(run, mutants, texts), "mutants", total=len(mutants), console=console)
        )
    for mutant, status in zip(mutants, statuses, strict=True):
        if status != 1:
            outcome = "not tested" if status else "survived"
            console.print(
                f"{outcome}: {mutant.what} ({mutant.module}), pytest exited with {status}",
                highlight=False,
            )
    console.print(f"{statuses.count(1)} of {len(mutants)} mutants caught")
    return 0 if statuses.count(1) == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
