"""`make mutants`: break the code in one place at a time, and show that a test fails for each.

A mutant is caught if a test fails because the code does something else, not because it cannot run.
A part of a mutant's name as an argument selects the mutants with such names.

`tests/mutants.txt` lists the mutants, each in two or more lines:

    @@ core/store functional/test_events::expired_event: an expired event is there
    ~ _unexpired: only event

The first line names the module of `chalicelib` that is broken (or a file of `tools`, `examples` or
`tests`, or of the console page), the suite in `tests`, an expression that selects tests of it, as
`pytest -k` takes it, and what is wrong with the broken code.

The second line says how the module is broken: in which function, class or constant (as
`Class.method` if several have that name), by which operator, and where. The operators are the
functions in OPERATORS. The place is the smallest one with that text in it, or the one with exactly
that text; there must be one. After ` within ` stands a text of the statement in which the place
is looked for. Choose names of functions, attributes and constants for these texts: local variables
are renamed more often.

    ~ _recover_event: takes 0 for LEFT_SECONDS within push_later

A mutant that no operator makes, and one of a file of the page, quotes the lines that are replaced
after `-`, and those that take their place after `+`.
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

ROOT = Path(__file__).parent.parent
SITE = ROOT / "tests" / "support" / "mutation"
TIMEOUT_SECONDS = 600

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
    """Where an operator may change a tree."""

    source: str  # the code that is there, as `ast.unparse` writes it
    apply: Callable[[], None]  # changes the tree in this place


Operator = Callable[[ast.AST], Iterator[Place]]


@dataclass
class Child:
    """A node of a tree below its root."""

    node: ast.AST
    parent: ast.AST
    field: str  # of the parent
    replace: Callable[[ast.AST], None]  # puts another node in the place of this one


def find_children(tree: ast.AST) -> Iterator[Child]:
    """Yield all nodes below the root of a tree."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if isinstance(value, ast.AST):
                yield Child(value, parent, name, partial(setattr, parent, name))
            elif isinstance(value, list):
                for number, node in enumerate(value):
                    if isinstance(node, ast.AST):
                        yield Child(node, parent, name, partial(operator.setitem, value, number))


def without(tree: ast.AST) -> Iterator[Place]:
    """Leave out a statement, an operand, a filter, an argument, an element, a member, a decorator,
    an alternative of a pattern, or a clause of a condition expression.

    `_find_stored: without services.map` skips that call, `CLAIMABLE: without UNCLAIMED` drops that
    clause.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for number, (key, value) in enumerate(zip(node.keys, node.values, strict=True)):
                source = f"{ast.unparse(key) if key else '**'}: {ast.unparse(value)}"
                yield Place(source, partial(_pop, number, node.keys, node.values))
        elif not isinstance(node, ast.JoinedStr):
            for name in REMOVABLE:
                children = getattr(node, name, None)
                if isinstance(children, list):
                    for number, child in enumerate(children):
                        yield Place(ast.unparse(child), partial(_pop, number, children))
    yield from _clauses(tree)


REMOVABLE = (
    "args",
    "body",
    "decorator_list",
    "elts",
    "finalbody",
    "ifs",
    "keywords",
    "orelse",
    "patterns",
    "values",
)


def _pop(number: int, *lists: list[Any]) -> None:
    """Remove what has a number from each list; a block of no statements becomes `pass`."""
    for children in lists:
        removed = children.pop(number)
        if isinstance(removed, ast.stmt) and not children:
            children.append(ast.Pass())


def _clauses(tree: ast.AST) -> Iterator[Place]:
    """Find the clauses of condition expressions, to be left out with an AND or OR beside them."""
    for child in find_children(tree):
        text = _text_of(child)
        for start, end in _find_clauses(text):
            before, after = text[:start], text[end:]
            if LAST_CONNECTIVE.search(before):
                rest = LAST_CONNECTIVE.sub("", before) + after
            elif CONNECTIVE.match(after):
                rest = before + CONNECTIVE.sub("", after, count=1)
            else:  # the only clause
                continue
            yield Place(text[start:end], partial(_replace_text, child, rest))


def _text_of(child: Child) -> str:
    """Return what stands between the quotes of a string or an f-string; "" of anything else."""
    node = child.node
    if isinstance(node, ast.JoinedStr):
        return ast.unparse(node)[2:-1]
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    if is_text and not isinstance(child.parent, ast.JoinedStr):
        return ast.unparse(node)[1:-1]
    return ""


def _replace_text(child: Child, text: str) -> None:
    """Put an f-string with a text in the place of a string or an f-string."""
    child.replace(ast.parse(f"f{text!r}", mode="eval").body)


def _find_clauses(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each clause of a condition expression, also in parentheses, begins and ends."""
    for start in [0, *(found.end() for found in re.finditer(r"\(| AND | OR ", text))]:
        depth = 0
        end = start
        while end < len(text) and not (depth == 0 and CONNECTIVE.match(text, end)):
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if depth < 0:
                break
            end += 1
        yield start, end


CONNECTIVE = re.compile(" AND | OR ")
LAST_CONNECTIVE = re.compile("( AND | OR )$")


def _conditions(tree: ast.AST) -> Iterator[Child]:
    """Find conditions, operands of `and` and `or`, filters, comparisons and negations."""
    for child in find_children(tree):
        is_negation = isinstance(child.node, ast.UnaryOp) and isinstance(child.node.op, ast.Not)
        is_truth_value = isinstance(child.node, (ast.BoolOp, ast.Compare)) or is_negation
        is_operand = isinstance(child.parent, ast.BoolOp) and child.field == "values"
        if is_truth_value or is_operand or child.field in ("ifs", "test"):
            yield child


def always(tree: ast.AST) -> Iterator[Place]:
    """Let a condition always hold. `sweep: always webhook_url`"""
    for child in _conditions(tree):
        yield Place(ast.unparse(child.node), partial(child.replace, ast.Constant(True)))


def never(tree: ast.AST) -> Iterator[Place]:
    """Let a condition never hold. `_state: never MAX_DESTINATIONS`"""
    for child in _conditions(tree):
        yield Place(ast.unparse(child.node), partial(child.replace, ast.Constant(False)))


def negated(tree: ast.AST) -> Iterator[Place]:
    """Let a condition hold if it does not, and the other way round. `put_listed: negated 'Code'`"""
    for child in _conditions(tree):
        if isinstance(child.node, ast.expr):
            negation = ast.UnaryOp(ast.Not(), child.node)
            yield Place(ast.unparse(child.node), partial(child.replace, negation))


def edge(tree: ast.AST) -> Iterator[Place]:
    """Let a comparison hold for equal numbers if it does not, and the other way round.

    `decide: edge max_delivery_attempts` makes `>` of the `>=` before that setting.
    """
    for child in find_children(tree):
        node = child.node
        if isinstance(node, ast.Compare) and type(node.ops[0]) in EDGES:
            other = EDGES[type(node.ops[0])]()
            yield Place(ast.unparse(node), partial(operator.setitem, node.ops, 0, other))


EDGES: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
}


def only(tree: ast.AST) -> Iterator[Place]:
    """Put a part in the place of the whole: an operand, an argument, an alternative, what is
    indexed, or the object whose method is called.

    `AFTER_PUSH_SECONDS: only CALL_SECONDS` makes that of `2 * CALL_SECONDS`.
    """
    for child in find_children(tree):
        for kind, attributes in PARTS.items():
            if isinstance(child.node, kind):
                for attribute in attributes:
                    value = getattr(child.node, attribute)
                    for part in value if isinstance(value, list) else [value]:
                        yield Place(ast.unparse(part), partial(child.replace, part))
        if isinstance(child.node, ast.Call) and isinstance(child.node.func, ast.Attribute):
            called = child.node.func.value
            yield Place(ast.unparse(called), partial(child.replace, called))


PARTS: dict[type[ast.AST], tuple[str, ...]] = {
    ast.BinOp: ("left", "right"),
    ast.BoolOp: ("values",),
    ast.Call: ("args",),
    ast.IfExp: ("body", "orelse"),
    ast.Subscript: ("value",),
    ast.UnaryOp: ("operand",),
}


def takes(new: str, tree: ast.AST) -> Iterator[Place]:
    """Take another value for an expression or, with a dot before it, another attribute.

    `MAX_PAGES: takes 1`, `post: takes 0 for sum(`, `copy_id: takes .claim_id for body_hash`
    """
    for child in find_children(tree):
        is_in_text = isinstance(child.parent, ast.JoinedStr)
        if not isinstance(child.node, ast.expr) or is_in_text or child.field in NOT_TAKEN:
            continue
        source = ast.unparse(child.node)
        if not new.startswith("."):
            yield Place(source, partial(child.replace, ast.parse(new, mode="eval").body))
        elif isinstance(child.node, ast.Attribute):
            yield Place(source, partial(setattr, child.node, "attr", new[1:]))


NOT_TAKEN = ("annotation", "optional_vars", "returns", "target", "targets")


def _change_number(change: Callable[[Any], Any], tree: ast.AST) -> Iterator[Place]:
    for child in find_children(tree):
        node = child.node
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            changed = ast.Constant(change(node.value))
            yield Place(ast.unparse(node), partial(child.replace, changed))


def less(tree: ast.AST) -> Iterator[Place]:
    """Let a number be one less. `SLOW_PUSHES: less`"""
    return _change_number(lambda number: number - 1, tree)


def more(tree: ast.AST) -> Iterator[Place]:
    """Let a number be one more. `SECRET_CHARACTERS: more`"""
    return _change_number(lambda number: number + 1, tree)


def tenfold(tree: ast.AST) -> Iterator[Place]:
    """Multiply by ten. `is_connected: tenfold IDLE_SECONDS`"""
    for child in find_children(tree):
        if isinstance(child.node, ast.expr) and child.field not in NOT_TAKEN:
            product = ast.BinOp(ast.Constant(10), ast.Mult(), child.node)
            yield Place(ast.unparse(child.node), partial(child.replace, product))


def uncaught(tree: ast.AST) -> Iterator[Place]:
    """Let exceptions pass a handler. `_post: uncaught ApiError`"""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type:
            nothing = ast.Tuple([], ast.Load())
            yield Place(ast.unparse(node.type), partial(setattr, node, "type", nothing))


def earlier(tree: ast.AST) -> Iterator[Place]:
    """Let a statement and the one before it change places. `move: earlier delete_many`"""
    for node in ast.walk(tree):
        for name in ("body", "finalbody", "orelse"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                for number, (first, second) in enumerate(pairwise(block)):
                    pair = slice(number, number + 2)
                    swap = partial(operator.setitem, block, pair, [second, first])
                    yield Place(ast.unparse(second), swap)


OPERATORS: dict[str, Operator] = {
    operate.__name__: operate
    for operate in (
        without,
        always,
        never,
        negated,
        edge,
        only,
        less,
        more,
        tenfold,
        uncaught,
        earlier,
    )
}


def change_one(definition: ast.AST, change: str) -> None:
    """Change one place of a function, a class or a constant.

    :param change: An operator and a place, as in `tests/mutants.txt`.
    :raises ValueError: Unless there is one such place.
    """
    change, _, statement = change.partition(" within ")
    name, _, text = change.partition(" ")
    operate: Operator
    if name == "takes":
        new, _, text = text.partition(" for ")
        operate = partial(takes, new)
    else:
        operate = OPERATORS[name]
    for tree in _find_statements(definition, statement):
        if places := [place for place in operate(tree) if text in place.source]:
            _choose(places, text).apply()
            return
    raise ValueError(f"there is no place for: {change}")


def _find_statements(definition: ast.AST, text: str) -> list[ast.AST]:
    """Return the statements with a text, the shortest first; without a text, the definition."""
    if not text:
        return [definition]
    statements = [node for node in ast.walk(definition) if isinstance(node, ast.stmt)]
    by_length = sorted(statements, key=lambda statement: len(ast.unparse(statement)))
    return [statement for statement in by_length if text in ast.unparse(statement)]


def _choose(places: Sequence[Place], text: str) -> Place:
    """Return the place that is a text, else the one with the text that has none inside. Raises
    ValueError unless there is one.
    """
    chosen = [place for place in places if place.source == text] or [
        place
        for place in places
        if not any(other.source in place.source for other in places if other is not place)
    ]
    if len(chosen) != 1:
        raise ValueError(f"there are {len(places)} places for: {text}")
    return chosen[0]


def find_definition(module: ast.Module, path: str) -> ast.AST:
    """Return the function, class or constant of a module that is called `path`, with the names of
    classes and functions around it as far as they are needed. Raises ValueError unless there is
    one.
    """
    found: list[ast.AST] = [module]
    for name in path.split("."):
        found = [node for parent in found for node in _definitions(parent) if name in _names(node)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} definitions are called {path}")
    return found[0]


def _definitions(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield functions, classes, constants of the module and fields of classes."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.Module)):
            yield from (each for each in node.body if isinstance(each, (ast.AnnAssign, ast.Assign)))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node is not tree:
            yield node


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


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
            change_one(find_definition(module, name), what)
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
            is_elsewhere = file.startswith(("tools/", "examples/", "tests/"))
            file = file if is_elsewhere else f"chalicelib/{file}"
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
    # Plain assertions, or pytest would load modules of `tests` in its own way.
    options = [
        "--assert=plain",
        "-n",
        "0",
        "-x",
        "-p",
        "no:cacheprovider",
        "--tb=native",
        "--timeout=200",
    ]
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
