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
# Matches the beginning of the name of each environment variable that would change what a command of
# the project does.
PROJECT_VARIABLES = re.compile(
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
    """Copy the parts of the repository that commands need to a new folder, with a link to the .venv
    of this process. The alarms of the template are changed for ministack.

    Raise CalledProcessError if the commit is not in this clone.

    :param path: The folder, which must not exist.
    :param commit: The commit whose files are copied; None: the present files.
    """
    path.mkdir(parents=True)
    if commit:
        extract(commit, path, *PARTS)
    else:
        # Other tests and users write to these folders while they are copied.
        ignore = shutil.ignore_patterns("__pycache__", "deployments", "deployed")
        for part in PARTS:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, path / part, ignore=ignore)
            else:
                shutil.copy(ROOT / part, path)
    resources = path / "resources.json"
    resources.write_text(without_metric_math(resources.read_text()))
    (path / ".venv").symlink_to(sys.prefix)


def copy_packaged(path: Path, commit: str | None = None) -> None:
    """Copy the repository, as `copy_repository` does, and package the functions, so that Chalice
    downloads nothing when it deploys.
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
        """Use a folder that `copy_repository` made.

        :param path: The folder.
        :param aws: The emulated AWS.
        """
        self.path = path
        self.aws = aws
        # The environment variables of the account, such as AWS_ACCESS_KEY_ID.
        self.account = {name.upper(): value for name, value in ACCOUNT.items()}
        # The file in which Chalice records what it has deployed.
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
        """Run `chalice local` until the end of the block; yield its port once it responds. Raise
        urllib3's MaxRetryError if it does not respond within about a minute.
        """
        port = free_port()
        with self.started([CHALICE, "local", "--stage", "dev", "--port", str(port)]):
            tries = urllib3.Retry(None, connect=60, backoff_factor=0.1, backoff_max=1)
            urllib3.request("GET", f"http://127.0.0.1:{port}/health", retries=tries, timeout=20)
            yield port

    def environ(self, **variables: str) -> dict[str, str]:
        """Return the environment of a command: the environment of this process without the
        variables of the project, the address and account of the emulated AWS, and `variables`,
        which take precedence.
        """
        inherited = {
            name: value for name, value in os.environ.items() if not PROJECT_VARIABLES.match(name)
        }
        bytecode = {"PYTHONPYCACHEPREFIX": f"{sys.prefix}/pycache"}  # as make has it
        aws = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.aws.url}
        return {**inherited, **bytecode, **aws, **self.account, **variables}

    def run(self, command: list[str], status: int, **variables: str) -> str:
        """Run a command, and return its standard output and error in one text.

        :param status: The expected exit status: 0, or 1 for any positive one.
        :param variables: Environment variables of the command.
        :raises AssertionError: If the command has another exit status, or was killed by a signal.
        :raises TimeoutExpired: After two minutes.
        """
        with self.started(command, **variables) as process:
            output, _ = process.communicate(timeout=120)
        is_as_expected = process.returncode == 0 if status == 0 else process.returncode > 0
        assert is_as_expected, output
        return output

    def interrupt(
        self, command: Sequence[str], operation: str = "", number: int = 1, **variables: str
    ) -> None:
        """Start a command and, once a write to AWS has taken effect, cut off its network before the
        response arrives, and kill it. Raise AssertionError if the command ends before that write.

        :param operation: The beginning of the operation whose writes are counted, such as `POST`;
            "": all writes are counted.
        :param number: The number of the write, counted from 1.
        :param variables: Environment variables of the command.
        """
        numbers = itertools.count(1)  # of the writes that are counted
        with self.started(command, **variables) as process:

            def kill_at_write(call: str) -> None:
                """Cut off the network and kill the command if a call is the write with the `number`
                among those whose operation begins with `operation`.

                :param call: The operation, the path and the status code: `CreateRole / 200`.
                """
                is_counted = is_write(call) and call.startswith(operation)
                if is_counted and next(numbers) == number:
                    self.aws.is_cut_off = True
                    kill(process)

            self.aws.seen = kill_at_write
            output, _ = process.communicate(timeout=120)
        assert self.aws.is_cut_off, output
        self.aws.seen = lambda operation: None
        self.aws.is_cut_off = False

    @contextmanager
    def started(self, command: Sequence[str], **variables: str) -> Iterator[subprocess.Popen[str]]:
        """Start a command, whose output and errors can be read together as text; kill it at the end
        of the block, with all processes that it started.

        :param variables: Environment variables of the command.
        """
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
