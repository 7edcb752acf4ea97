"""`make mutants`: break the code in one place at a time, and show that a test fails for each.

A mutant is caught if a test fails because the code does something else, not because it cannot run.
Names of mutants as arguments select them.
"""

import gc
import multiprocessing
import os
import re
import runpy
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).parent.parent
SITE = ROOT / "tests" / "support" / "mutation"
TIMEOUT_SECONDS = 600

# Blocks of lines. `@@`: the module of chalicelib, the tests and a part of their names, and what is
# broken; `-`: what is replaced; `+`: by what.
MUTANTS = ROOT / "tests" / "mutants.txt"

# What tests import and no mutant changes is imported once; each mutant's process is forked then.
LIBRARIES = (
    "boto3",
    "chalice.app",
    "moto.cloudwatch.models",
    "moto.dynamodb.responses",
    "moto.iam.models",
    "moto.sqs.responses",
    "openapi_schema_validator",
    "pytest",
    "trustme",
)
# An error that the product raised, in a traceback that pytest prints: of a test, or of
# tests/conftest.py, which raises what the product logs.
CANNOT_RUN = re.compile(
    rf'File "{ROOT}/(?:app\.py|chalicelib/\S+)", line \d+, in \S+\n(?:    .*\n)*'
    r"((?:Attribute|Import|Name|Syntax|Type)Error.*)"
)
CAUGHT = "caught"
SURVIVED = "survived"


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
    mutants = []
    for line in text.strip().splitlines():
        if line.startswith("@@ "):
            place, _, what = line[3:].partition(": ")
            module, tests = place.split()
            suite, _, name = tests.partition("::")
            mutants.append(Mutant(what, f"chalicelib/{module}.py", f"tests/{suite}.py", name))
        else:
            (mutants[-1].old if line.startswith("- ") else mutants[-1].new).append(line[2:])
    return mutants


def run_tests(mutant: Mutant, text: str, outcome: Connection) -> None:
    """Run the tests of a mutant in this process, which is a new one, and send what came of it."""
    module = mutant.module.removesuffix(".py").replace("/", ".")
    gc.freeze()  # what the server imported need not be looked through again
    os.environ |= {"MUTANT_MODULE": module, "MUTANT_SOURCE": text, "PYTHONPATH": str(SITE)}
    runpy.run_path(str(SITE / "sitecustomize.py"))
    options = ["-n", "0", "-x", "-p", "no:cacheprovider", "--tb=native", "--timeout=60"]
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), sys.stdout.fileno())
        os.dup2(printed.fileno(), sys.stderr.fileno())
        status = pytest.main([*options, mutant.suite, "-k", mutant.name])
        sys.stdout.flush()
        printed.seek(0)
        broken = CANNOT_RUN.search(printed.read().decode())
    if status == pytest.ExitCode.OK:
        outcome.send(SURVIVED)
    elif broken:
        outcome.send(f"cannot run, {broken[1]}")
    elif status == pytest.ExitCode.TESTS_FAILED:
        outcome.send(CAUGHT)
    else:
        outcome.send(f"not tested, pytest exited with {int(status)}")


def run(mutant: Mutant, text: str) -> str:
    """Return what came of a mutant: CAUGHT, or what is wrong."""
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_tests, args=(mutant, text, sender))
    process.start()
    sender.close()
    try:
        return str(receiver.recv()) if receiver.poll(TIMEOUT_SECONDS) else "timed out"
    except EOFError:
        return "not tested, its process died"
    finally:
        process.kill()
        process.join()


def run_unbroken(tests: tuple[str, str]) -> str:
    """Return what came of tests, by their suite and names, if nothing is broken."""
    unbroken = Mutant("", "chalicelib/__init__.py", *tests)
    return run(unbroken, (ROOT / unbroken.module).read_text(encoding="utf-8"))


def main() -> int:
    console = Console(highlight=False, soft_wrap=True)
    wanted = " ".join(sys.argv[1:])
    mutants = [each for each in parse(MUTANTS.read_text(encoding="utf-8")) if wanted in each.what]
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(LIBRARIES))
    caught = 0
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        console.print("running their tests without a mutant")
        names: defaultdict[str, set[str]] = defaultdict(set)
        for mutant in mutants:
            names[mutant.suite].add(mutant.name or Path(mutant.suite).stem)
        tests = [(suite, " or ".join(names[suite])) for suite in names]
        for (suite, _), outcome in zip(tests, pool.map(run_unbroken, tests), strict=True):
            if outcome != SURVIVED:
                console.print(f"{suite}: {outcome} without a mutant")
                return 1

        outcomes = pool.map(lambda mutant: run(mutant, mutant.mutated()), mutants)
        for number, (mutant, outcome) in enumerate(zip(mutants, outcomes, strict=True), 1):
            caught += outcome == CAUGHT
            if outcome != CAUGHT:
                console.print(f"{outcome}: {mutant.what} ({mutant.module})")
            if number % 25 == 0:
                console.print(f"{number} of {len(mutants)}")
    finally:
        pool.shutdown(cancel_futures=True)
    console.print(f"{caught} of {len(mutants)} mutants caught")
    return 0 if 0 < caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
