"""What tests start besides the project: packages in virtual environments of their own, and what npm
installs.

`python -m tests.support.packages e2e lambda npm` installs what these names stand for. Commands
of make do so before the tests: a slow network must not use up the time of a test.
"""

import fcntl
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tools.stage import ROOT

# Of which few packages are imported: compiling them all would take longer than compiling these.
SELDOM_IMPORTED = ("e2e", "third")
BROWSER = ROOT / "tests" / "browser"


def install(name: str = "e2e") -> Path:
    """Return the Python of a virtual environment that has the packages of a file in requirements/,
    which are installed if the file or this Python changed.
    """
    requirements = ROOT / "requirements" / f"{name}.txt"
    folder = ROOT / ".local" / f"{name}-venv"
    python = folder / "bin" / "python"
    made_from = folder / ".made-from"
    wanted = f"{sys.version}\n{requirements.read_text()}"
    with _one_process_at_a_time(f"{name}-venv"):
        if not made_from.is_file() or made_from.read_text() != wanted:
            venv.create(folder, clear=True, symlinks=True)
            pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
            bytecode = "--no-compile" if name in SELDOM_IMPORTED else "--compile"
            # The file pins also what its packages need.
            subprocess.run([*pip, bytecode, "--no-deps", "-r", requirements], check=True)
            made_from.write_text(wanted)
    return python


def install_from_npm() -> Path:
    """Return the folder of the packages that tests/browser/package.json names, which are installed
    if that changed; raise FileNotFoundError if there is no npm.
    """
    folder = BROWSER / "node_modules"
    made_from = folder / ".made-from"
    wanted = (BROWSER / "package-lock.json").read_text()
    with _one_process_at_a_time("npm"):
        if not made_from.is_file() or made_from.read_text() != wanted:
            command = "npm ci --ignore-scripts --no-audit --no-fund --loglevel=error"
            subprocess.run(command.split(), cwd=BROWSER, check=True)
            made_from.write_text(wanted)
    return folder


@contextmanager
def _one_process_at_a_time(what: str) -> Iterator[None]:
    """Wait until no other process is in such a block: in CI, `make ways` runs beside the tests."""
    local = ROOT / ".local"
    local.mkdir(exist_ok=True)
    with (local / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Install the packages that the arguments of the command name."""
    for name in sys.argv[1:]:
        if name != "npm":
            install(name)
        elif shutil.which("npm"):  # tests that need it are skipped without it
            install_from_npm()


if __name__ == "__main__":
    main()
