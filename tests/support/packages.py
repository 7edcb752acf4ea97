"""What tests start besides the project: packages in virtual environments of their own, and what npm
installs.

`python -m tests.support.packages e2e lambda npm` installs what these names stand for. Commands
of make do so before the tests: a slow network must not use up the time of a test. CI does so while
.venv is set up, hence this module imports nothing but the standard library.
"""

import fcntl
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# The files whose packages are not compiled when they are installed: tests import so few modules of
# them that compiling all would take longer than compiling these few when they are imported.
SELDOM_IMPORTED = ("e2e", "third")
BROWSER = ROOT / "tests" / "browser"


def install(name: str = "e2e") -> Path:
    """Return the path of the Python of a virtual environment that has the packages of a file in
    requirements/. Make the virtual environment anew, and install the packages, if the file or the
    version of this Python has changed since.

    :param name: The name of the file, without `.txt`.
    """
    requirements = ROOT / "requirements" / f"{name}.txt"
    folder = ROOT / ".local" / f"{name}-venv"
    python = folder / "bin" / "python"
    made_from = folder / ".made-from"
    wanted = f"{sys.version}\n{requirements.read_text()}"
    with _only_process(f"{name}-venv"):
        if not made_from.is_file() or made_from.read_text() != wanted:
            venv.create(folder, clear=True, symlinks=True)
            pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
            bytecode = "--no-compile" if name in SELDOM_IMPORTED else "--compile"
            # --no-deps, because the file also names the packages that its packages require.
            subprocess.run([*pip, bytecode, "--no-deps", "-r", requirements], check=True)
            made_from.write_text(wanted)
    return python


def install_from_npm() -> Path:
    """Return the folder of the packages in tests/browser/package-lock.json. Install them by npm if
    the file has changed since; in this case, raise FileNotFoundError if there is no npm.
    """
    folder = BROWSER / "node_modules"
    made_from = folder / ".made-from"
    wanted = (BROWSER / "package-lock.json").read_text()
    with _only_process("npm"):
        if not made_from.is_file() or made_from.read_text() != wanted:
            command = "npm ci --ignore-scripts --no-audit --no-fund --loglevel=error"
            subprocess.run(command.split(), cwd=BROWSER, check=True)
            made_from.write_text(wanted)
    return folder


@contextmanager
def _only_process(name: str) -> Iterator[None]:
    """Wait until no other process is in a block with the same name, and keep others out until the
    end of this block. In CI, for example, `make e2e` runs beside the tests.

    :param name: The name of the lock file in .local, without `.lock`.
    """
    local = ROOT / ".local"
    local.mkdir(exist_ok=True)
    with (local / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Install the packages that the arguments of the command name: `npm`, unless there is no npm,
    or the name of a file in requirements/.
    """
    for name in sys.argv[1:]:
        if name != "npm":
            install(name)
        elif shutil.which("npm"):  # tests that need it are skipped without it
            install_from_npm()


if __name__ == "__main__":
    main()
