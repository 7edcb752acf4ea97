"""The bytecode in the package, without which each cold start compiles the functions' modules."""

import os
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.checkout import copy_repository

# As in Lambda: no variable moves bytecode elsewhere, and none is written.
IMPORT_APP = ("-E", "-B", "-c", "import app, chalicelib; print(chalicelib.__version__)")


@pytest.fixture
def unpacked(packaged: Path, tmp_path: Path) -> Path:
    """Return a folder with what Lambda unpacks."""
    with ZipFile(packaged / "build" / "package" / "deployment.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)


def write_bytecode(checkout: Path) -> dict[Path, int]:
    """Run the command; return when each file in vendor/ was written."""
    run_python(checkout, "-m", "tools.bytecode")
    files = [path for path in (checkout / "vendor").rglob("*") if path.is_file()]
    return {path.relative_to(checkout / "vendor"): path.stat().st_mtime_ns for path in files}


def test_a_cold_start_compiles_no_module_of_the_package(unpacked: Path) -> None:
    said = run_python(unpacked, "-v", *IMPORT_APP).stderr

    imported = [line for line in said.splitlines() if f"'{unpacked}/" in line]
    compiled = [line for line in imported if line.startswith("# code object from")]
    assert [line for line in compiled if ".pyc'" not in line] == []
    assert len(compiled) > 50


def test_bytecode_of_another_source_does_not_run(unpacked: Path) -> None:
    path = unpacked / "chalicelib" / "__init__.py"
    written = path.stat()
    path.write_text(path.read_text().replace('__version__ = "', '__version__ = "9'))
    os.utime(path, ns=(written.st_atime_ns, written.st_mtime_ns))

    assert run_python(unpacked, *IMPORT_APP).stdout.startswith("9")


def test_only_bytecode_that_is_out_of_date_is_written_and_deleted(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    copy_repository(checkout)
    theirs = checkout / "vendor" / "theirs" / "__init__.py"
    theirs.parent.mkdir(parents=True)
    theirs.touch()
    first = write_bytecode(checkout)
    gone = checkout / "vendor" / "chalicelib" / "__pycache__" / "gone.cpython-311.pyc"
    gone.touch()
    edited = checkout / "chalicelib" / "__init__.py"
    edited.write_text(f"{edited.read_text()}\n")
    removed = checkout / "chalicelib" / "console" / "__init__.py"
    removed.unlink()

    second = write_bytecode(checkout)

    assert theirs.exists()
    assert not gone.exists()
    changed = {path for path in first if first[path] != second.get(path)}
    assert {path.parent.parent for path in changed} == {
        edited.parent.relative_to(checkout),
        removed.parent.relative_to(checkout),
    }
