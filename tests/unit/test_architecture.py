"""Who may import whom, how big it may become, and what an import may do."""

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = {path.stem: path for path in (ROOT / "app.py", *(ROOT / "chalicelib").glob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}

# A module imports from the rows above its own alone. A new module finds its row here first.
ROWS = (
    {"__init__"},
    {"errors", "events", "backoff", "breaker", "signing", "metrics", "connection", "aws"},
    {"auth", "validation", "messages", "items", "log"},
    {"settings", "dynamodb", "sqs", "push"},
    {"services"},
    {"delivery", "listing"},
    {"batch", "schedules"},
    {"app"},
)
PURE = {"errors", "events", "backoff", "breaker", "signing", "auth", "validation", "messages", "settings"}
MAY_IMPORT = {
    "app": {"chalice"},
    "aws": {"boto3", "botocore"},
}


def imported(name: str) -> set[str]:
    """Return the full name of all that a module imports, inside functions too."""
    names = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively: this test cannot see what"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def ours(name: str) -> set[str]:
    """Return the project's modules that a module imports."""
    parts = [full.split(".") for full in imported(name)]
    names = {part[1] if part[1] in SOURCES else "__init__" for part in parts if part[0] == "chalicelib"}
    return names | {"app" for part in parts if part[0] == "app"}


GRAPH = {name: ours(name) for name in SOURCES}


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_one_way(name: str) -> None:
    assert GRAPH["app"]  # it is read from the code
    row = next(number for number, names in enumerate(ROWS) if name in names)
    assert GRAPH[name] <= set().union(*ROWS[:row])


def test_no_imports_run_in_a_circle() -> None:
    TopologicalSorter(GRAPH).prepare()


@pytest.mark.parametrize("name", SOURCES)
def test_a_third_party_is_known_to_its_own_modules_alone(name: str) -> None:
    packages = {full.split(".")[0] for full in imported(name)} - {"chalicelib"} - sys.stdlib_module_names
    assert packages == MAY_IMPORT.get(name, set())


@pytest.mark.parametrize("name", sorted(PURE))
def test_a_pure_module_needs_nothing_but_pure_modules_and_the_standard_library(name: str) -> None:
    assert GRAPH[name] <= PURE
    assert {full.split(".")[0] for full in imported(name)} - {"chalicelib"} <= sys.stdlib_module_names


def test_the_whole_is_read_at_one_sitting() -> None:
    lines = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in SOURCES.items()}
    assert {name: count for name, count in lines.items() if count > 280} == {}
    assert sum(lines.values()) <= 2720


# In a process of its own: reads of the environment are told apart by the file of who reads.
IMPORT_APP = """
import json, os, sys
root, read, calls = os.getcwd(), set(), []
ours = (os.path.join(root, "app.py"), os.path.join(root, "chalicelib", ""))

class Watched(type(os.environ)):
    def __getitem__(self, name):
        note(name)
        return super().__getitem__(name)
    def __iter__(self):
        note("everything")
        return super().__iter__()

def note(name):
    frame = sys._getframe()
    while frame and frame.f_globals["__name__"] in ("__main__", "os", "collections.abc"):
        frame = frame.f_back
    if frame and frame.f_code.co_filename.startswith(ours):
        read.add(name)

network = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
sys.addaudithook(lambda event, _: calls.append(event) if event in network else None)
import boto3, botocore.session
for owner, name in ((boto3, "client"), (boto3, "resource"), (botocore.session.Session, "create_client")):
    setattr(owner, name, lambda *_, **__: calls.append("client"))
os.environ.__class__ = Watched
sys.path.insert(0, root)
import app
print(json.dumps({"read": sorted(read), "calls": calls}))
"""


def test_importing_the_app_reads_three_variables_and_touches_nothing() -> None:
    command = [sys.executable, "-B", "-c", IMPORT_APP]
    done = subprocess.run(command, cwd=ROOT, env={}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {
        "read": ["STAGE", "WORKER_BATCH_WINDOW_SECONDS", "WORKER_MAX_CONCURRENCY"],
        "calls": [],
    }
