"""`make mutants`: break the code in one place at a time, and show that a test fails for each.

A mutant is caught if a test fails because the code does something else, not because it cannot run.
Names of mutants as arguments select them.
"""

import ast
import gc
import multiprocessing
import operator
import os
import re
import runpy
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

ROOT = Path(__file__).parent.parent
SITE = ROOT / "tests" / "support" / "mutation"
TIMEOUT_SECONDS = 600

# Blocks of lines. `@@`: the module of chalicelib (or of tools or examples, or a file of the page),
# the tests and a part of their names, and what is broken. Then `~`: the function, the operator and,
# if there is more than one such place in the function, a part of what stands there; or, if that
# does not say it, `-`: the lines that are replaced, and `+`: by which.
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
class Place:
    """Where an operator may change a function: what stands there, and what changes it."""

    source: str
    apply: Callable[[], None]


def _removable(function: ast.AST) -> Iterator[Place]:
    """Find statements, operands, filters, arguments by name, elements and members."""
    for node in ast.walk(function):
        if isinstance(node, ast.JoinedStr):
            continue
        if isinstance(node, ast.Dict):
            for number, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
                source = f"{ast.unparse(key) if key else '**'}: {ast.unparse(value)}"
                yield Place(source, partial(_pop, number, node.keys, node.values))
            continue
        for name in ("body", "orelse", "values", "ifs", "keywords", "elts"):
            children = getattr(node, name, None)
            if isinstance(children, list):
                for number, child in enumerate(children):
                    yield Place(ast.unparse(child), partial(_pop, number, children))


def _pop(number: int, *lists: list[Any]) -> None:
    for children in lists:
        removed = children.pop(number)
        if isinstance(removed, ast.stmt) and not children:
            children.append(ast.Pass())


def _conditions(value: bool, function: ast.AST) -> Iterator[Place]:
    """Find conditions, operands and filters, to be replaced by a value."""
    constant = ast.Constant(value)
    for node in ast.walk(function):
        if isinstance(node, (ast.If, ast.IfExp, ast.While)):
            yield Place(ast.unparse(node.test), partial(setattr, node, "test", constant))
        operands = node.values if isinstance(node, ast.BoolOp) else getattr(node, "ifs", [])
        for number, operand in enumerate(operands):
            apply = partial(operator.setitem, operands, number, constant)
            yield Place(ast.unparse(operand), apply)


def _parts(function: ast.AST) -> Iterator[Place]:
    """Find operands, arguments and alternatives, to take the place of what they are a part of."""
    for parent in ast.walk(function):
        for name, value in ast.iter_fields(parent):
            for number, node in enumerate(value if isinstance(value, list) else [value]):
                for kind, attributes in PARTS.items():
                    if not isinstance(node, kind):
                        continue
                    values = [getattr(node, attribute) for attribute in attributes]
                    for part in values[0] if isinstance(values[0], list) else values:
                        apply = (
                            partial(operator.setitem, value, number, part)
                            if isinstance(value, list)
                            else partial(setattr, parent, name, part)
                        )
                        yield Place(ast.unparse(part), apply)


PARTS: dict[type[ast.AST], tuple[str, ...]] = {
    ast.BinOp: ("left", "right"),
    ast.BoolOp: ("values",),
    ast.Call: ("args",),
    ast.IfExp: ("body", "orelse"),
    ast.UnaryOp: ("operand",),
}
OPERATORS: dict[str, Callable[[ast.AST], Iterator[Place]]] = {
    "without": _removable,
    "always": partial(_conditions, True),
    "never": partial(_conditions, False),
    "only": _parts,
}


def change_one(function: ast.AST, change: str) -> None:
    """Change one place of a function: the innermost that contains a text. Raises ValueError unless
    there is one. `change` is the name of an operator and that text, which may be empty.
    """
    name, _, part = change.partition(" ")
    places = [place for place in OPERATORS[name](function) if part in place.source]
    innermost = [
        place
        for place in places
        if not any(other.source in place.source for other in places if other is not place)
    ]
    if len(innermost) != 1:
        raise ValueError(f"there are {len(places)} places for: {change}")
    innermost[0].apply()


def find_function(module: ast.Module, name: str) -> ast.AST:
    """Return the function of a module, or raise ValueError unless there is one of that name."""
    found = [
        node
        for node in ast.walk(module)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name
    ]
    if len(found) != 1:
        raise ValueError(f"{len(found)} functions are called {name}")
    return found[0]


@dataclass
class Mutant:
    """One way to break a file: `change`, or `old`, which stands in it once, becomes `new`.
    `name` is that of tests in `suite`.
    """

    what: str
    file: str
    suite: str
    name: str
    change: str = ""
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def mutated(self) -> str:
        """Return the file's text, broken; raise ValueError or SyntaxError if the mutant is
        unusable.
        """
        text = (ROOT / self.file).read_text(encoding="utf-8")
        if self.change:
            name, _, what = self.change.partition(": ")
            module = ast.parse(text)
            change_one(find_function(module, name), what)
            return ast.unparse(ast.fix_missing_locations(module))
        old = "\n".join(self.old)
        if text.count(old) != 1:
            raise ValueError(f"{self.what}: its place is {text.count(old)} times in {self.file}")
        text = text.replace(old, "\n".join(self.new))
        if self.file.endswith(".py"):
            compile(text, self.file, "exec")
        return text


def parse(text: str) -> list[Mutant]:
    mutants = []
    for line in text.strip().splitlines():
        if line.startswith("@@ "):
            place, _, what = line[3:].partition(": ")
            file, tests = place.split()
            suite, _, name = tests.partition("::")
            file = file if file.startswith(("tools/", "examples/")) else f"chalicelib/{file}"
            file = file if "." in file else f"{file}.py"
            mutants.append(Mutant(what, file, f"tests/{suite}.py", name))
        elif line.startswith("~ "):
            mutants[-1].change = line[2:]
        else:
            (mutants[-1].old if line.startswith("- ") else mutants[-1].new).append(line[2:])
    return mutants


def run_tests(mutant: Mutant, text: str, outcome: Connection) -> None:
    """Run the tests of a mutant in this process, which is a new one, and send what came of it."""
    file = Path(mutant.file)
    folder = tempfile.mkdtemp()
    if file.suffix != ".py":  # of the page, which is then read from a copy of its folder
        copy = shutil.copytree(ROOT / file.parent, folder, dirs_exist_ok=True)
        (Path(copy) / file.name).write_text(text, encoding="utf-8")
        file = file.with_name("__init__.py")
        text = (ROOT / file).read_text(encoding="utf-8")
        text = text.replace("Path(__file__).parent", f"Path({folder!r})")
    module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
    gc.freeze()  # what the server imported need not be looked through again
    os.environ |= {"MUTANT_MODULE": module, "MUTANT_SOURCE": text, "PYTHONPATH": str(SITE)}
    runpy.run_path(str(SITE / "sitecustomize.py"))
    options = ["-n", "0", "-x", "-p", "no:cacheprovider", "--tb=native", "--timeout=200"]
    with tempfile.TemporaryFile() as printed:
        os.dup2(printed.fileno(), sys.stdout.fileno())
        os.dup2(printed.fileno(), sys.stderr.fileno())
        status = pytest.main([*options, mutant.suite, "-k", mutant.name])
        sys.stdout.flush()
        printed.seek(0)
        broken = CANNOT_RUN.search(printed.read().decode())
    shutil.rmtree(folder)
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
    return run(unbroken, (ROOT / unbroken.file).read_text(encoding="utf-8"))


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
                console.print(f"{outcome}: {mutant.what} ({mutant.file})")
            if number % 25 == 0:
                console.print(f"{number} of {len(mutants)}")
    finally:
        pool.shutdown(cancel_futures=True)
    console.print(f"{caught} of {len(mutants)} mutants caught")
    return 0 if 0 < caught == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
