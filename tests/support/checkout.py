"""Checkouts of the repository, whose commands deploy to an emulated AWS."""

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from tests.support.ministack import ACCOUNT, Ministack, free_port, without_metric_math
from tests.support.versions import extract
from tests.support.world import ROOT
from tools import api_key

CHALICE = str(Path(sys.executable).with_name("chalice"))
OURS = (
    "PYTHONDONTWRITEBYTECODE|AWS_|API_KEYS|ZAPIER_|WEBHOOK_|ALARM_|STAGE|SETTINGS_|EVENTS_|"
    "INBOX_|WORKER_|SLOW_|QUIET_|DASHBOARD|MAKE"
)
# PY is the absolute path of this Python, for which there is bytecode.
MAKE = ("make", "--old-file=.venv/.set-up", f"PY={sys.executable}", "STAGE=dev")
KEY = api_key.new_key()
# Variables for a first deployment.
GIVEN: Any = {
    "ZAPIER_WEBHOOK_URL": "none",
    "API_KEYS": api_key.entry("acme", KEY),
    "ALARM_EMAIL": "ops@example.com",
}
ELSEWHERE: Any = {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "eu-west-1"}
PLACE = "account 000000000000, region us-east-1, stage dev\n"
FUNCTIONS = [
    "triggers-api-dev",
    "triggers-api-dev-check_dlq",
    "triggers-api-dev-slow_worker",
    "triggers-api-dev-sweep",
    "triggers-api-dev-worker",
]
RUNTIME = f"python3.{sys.version_info.minor}"
TABLE = "triggers-api-dev-events"
RESTORED = f"{TABLE}-restored"
# What commands need of the repository.
PARTS = (
    "app.py",
    "requirements.txt",
    "Makefile",
    "resources.json",
    "chalicelib",
    "tools",
    ".chalice",
)


def copy_repository(path: Path, commit: str | None = None) -> None:
    """Make a folder of the repository as it is, or as it was at a commit, with the .venv of these
    tests. Raise CalledProcessError if the commit is not in this clone.
    """
    path.mkdir(parents=True)
    if commit:
        extract(commit, path, *PARTS)
    else:
        # Other tests and users write these meanwhile.
        written = shutil.ignore_patterns("__pycache__", "deployments", "deployed")
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, path / part, ignore=written)
            else:
                shutil.copy(ROOT / part, path)
    resources = path / "resources.json"
    resources.write_text(without_metric_math(resources.read_text()))
    (path / ".venv").symlink_to(sys.prefix)


def copy_packaged(path: Path, commit: str | None = None) -> None:
    """Do what `copy_repository` does, and package the functions, so that Chalice downloads nothing
    when it deploys.
    """
    copy_repository(path, commit)
    command = [sys.executable, "-m", "tools.package", "dev"]
    subprocess.run(command, cwd=path, stdout=subprocess.DEVNULL, check=True)


class Checkout:
    """A clone of the repository, whose commands use an emulated AWS as the stage `dev`.

    Each command is run by a method, with environment variables as keyword arguments. A method that
    takes `status` checks the exit status: 0, or 1 for any other.
    """

    def __init__(self, path: Path, aws: Ministack) -> None:
        self.path = path
        self.aws = aws
        self.account = {name.upper(): value for name, value in ACCOUNT.items()}
        self.record = path / ".chalice" / "deployed" / "dev.json"

    def set_variable(self, name: str, value: str) -> None:
        """Set a variable of the stage in .chalice/config.json."""
        path = self.path / ".chalice" / "config.json"
        stage = json.loads(path.read_text())["stages"]["dev"]
        self.configure(environment_variables={**stage["environment_variables"], name: value})

    def configure(self, **members: Any) -> None:
        """Set members of the stage in .chalice/config.json."""
        path = self.path / ".chalice" / "config.json"
        config = json.loads(path.read_text())
        config["stages"]["dev"] |= members
        path.write_text(json.dumps(config))

    def make(self, *arguments: str, status: int = 0, **variables: str) -> str:
        """Run make with the .venv of the repository; return its output."""
        return self.run([*MAKE, *arguments], status, MAKEFLAGS="", **variables)

    def resources(self, *arguments: str, status: int = 0, **variables: str) -> str:
        """Run tools.resources; return its output."""
        command = [sys.executable, "-m", "tools.resources", "dev", *arguments]
        return self.run(command, status, **variables)

    def configure_api(self, status: int = 0) -> str:
        """Run tools.gateway; return its output."""
        return self.run([sys.executable, "-m", "tools.gateway", "dev"], status)

    def chalice(self, command: str, status: int = 0) -> str:
        """Run a command of Chalice for the stage; return its output."""
        return self.run([CHALICE, command, "--stage", "dev"], status)

    @contextmanager
    def local(self) -> Iterator[int]:
        """Run `chalice local`; yield its port once it listens."""
        port = free_port()
        with self.started([CHALICE, "local", "--stage", "dev", "--port", str(port)]):
            tries = urllib3.Retry(None, connect=60, backoff_factor=0.1, backoff_max=1)
            urllib3.request("GET", f"http://127.0.0.1:{port}/health", retries=tries, timeout=20)
            yield port

    def environ(self, **variables: str) -> dict[str, str]:
        """Return the environment of a command: the environment of this process without the
        variables of the project, the address and account of the emulated AWS, and `variables`.
        """
        inherited = {name: value for name, value in os.environ.items() if not re.match(OURS, name)}
        bytecode = {"PYTHONPYCACHEPREFIX": f"{sys.prefix}/pycache"}  # as make has it
        aws = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.aws.url}
        return {**inherited, **bytecode, **aws, **self.account, **variables}

    def run(self, command: list[str], status: int, **variables: str) -> str:
        """Run a command, and return its standard output and error; raise AssertionError if its exit
        status is not 0 for a `status` of 0, or is 0 for a `status` of 1, and TimeoutExpired after
        two minutes.
        """
        with self.started(command, **variables) as process:
            output, _ = process.communicate(timeout=120)
        assert min(process.returncode, 1) == status, output
        return output

    def interrupt(
        self, command: Sequence[str], operation: str = "", number: int = 1, **variables: str
    ) -> None:
        """Take the network away from a command after a write, before the response arrives, and
        kill the command.

        :param operation: How the operation begins whose writes are counted.
        :param number: After which of these writes, from 1, the network is taken away.
        """
        numbers = itertools.count(1)
        with self.started(command, **variables) as process:

            def look(seen: str) -> None:
                """Cut off the network and kill the command if `seen` is the chosen write."""
                if is_write(seen) and seen.startswith(operation) and next(numbers) == number:
                    self.aws.is_cut_off = True
                    kill(process)

            self.aws.seen = look
            output, _ = process.communicate(timeout=120)
        assert self.aws.is_cut_off, output
        self.aws.seen = lambda operation: None
        self.aws.is_cut_off = False

    @contextmanager
    def started(self, command: Sequence[str], **variables: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command, which is killed at the end of the block with all that it started."""
        options: Any = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        environ = self.environ(**variables)
        with subprocess.Popen(
            command, cwd=self.path, env=environ, start_new_session=True, **options
        ) as process:
            try:
                yield process
            finally:
                kill(process)


def is_write(operation: str) -> bool:
    """Return whether a call of AWS writes.

    :param operation: The name of its operation, or the HTTP method of a REST API; more text may
        follow.
    """
    reads = ("Get", "Describe", "List", "Query", "BatchGet", "GET", "HEAD")
    return not operation.startswith(reads)


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a process and all processes of its group; do nothing if they have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
