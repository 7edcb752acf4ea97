"""The product as it is, and as it was at a commit, loaded beside each other in one process."""

import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import app

ROOT = Path(__file__).parent.parent.parent
# The commit of version 1.0.0, from which stages are updated, and to which an update can be undone.
RELEASED = "1e0755a5"


@dataclass(frozen=True)
class Version:
    """The code of a version."""

    # `app`, which has the handlers of the functions.
    app: ModuleType
    # The name of its `chalicelib`.
    package: str

    def module(self, name: str) -> Any:
        """Return a module of its `chalicelib`, such as `core.event`."""
        return import_module(f"{self.package}.{name}")


PRESENT = Version(app, "chalicelib")


@cache
def load_version(commit: str = RELEASED) -> Version:
    """Load `app.py` and `chalicelib` as they were at a commit.

    Both are renamed, also where the code names `chalicelib`: the commit is appended to the names.
    Nothing else of them is changed. So this version and the present one share no class and no
    variable, only Python's loggers. The files are deleted once all modules are imported: the
    version can respond neither to `GET /` nor to `GET /openapi.json`.

    Raise CalledProcessError if the commit is not in this clone, as in a shallow one.
    """
    package = f"chalicelib_{commit}"
    with tempfile.TemporaryDirectory() as folder, _importable(folder):
        extract(commit, Path(folder), "app.py", "chalicelib")
        for path in Path(folder).rglob("*.py"):
            path.write_text(re.sub(r"\bchalicelib\b", package, path.read_text()))
        Path(folder, "chalicelib").rename(Path(folder, package))
        app_file = Path(folder, "app.py").rename(Path(folder, f"app_{commit}.py"))
        loaded = Version(import_module(app_file.stem), package)
        for module in pkgutil.walk_packages([str(Path(folder, package))], f"{package}."):
            import_module(module.name)
    return loaded


def versions_to_run() -> Sequence[Version]:
    """Return the present version and, if the environment variable BESIDE is set, 1.0.0."""
    return (PRESENT, load_version()) if "BESIDE" in os.environ else (PRESENT,)


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Let modules be imported from a folder, without bytecode of them, until the end of the
    block.
    """
    writes_no_bytecode = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        sys.dont_write_bytecode = writes_no_bytecode


def extract(commit: str, folder: Path, *paths: str) -> None:
    """Write files and folders of the repository, as they were at a commit, into a folder.

    Raise CalledProcessError if the commit is not in this clone, as in a shallow one.
    """
    archive = ["git", "archive", commit, *paths]
    archived = subprocess.run(archive, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    subprocess.run(["tar", "-x"], cwd=folder, input=archived.stdout, check=True)
