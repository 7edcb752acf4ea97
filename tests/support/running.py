"""The system of `make run` as a process: start it, read what it prints, call it, stop it."""

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from queue import Empty, Queue
from threading import Thread

import pytest

from tests.support.world import ROOT

OURS = (
    "PORT|STAGE|LOG_LEVEL|AWS_.*|API_KEYS|.*_SECRETS?|ZAPIER_WEBHOOK_URL|SUBSCRIPTION_HOSTS|"
    "EVENTS_TABLE_NAME|INBOX_.*|WORKER_.*|MAKE.*|MFLAGS"
)


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of this process without the variables of the project, with PORT=0,
    which chooses a free port, and with `settings`.
    """
    others = {name: value for name, value in os.environ.items() if not re.fullmatch(OURS, name)}
    return {**others, "PORT": "0", **settings}


def ended(*command: str, **variables: str) -> tuple[int, str, str]:
    """Run a command to its end; return its exit status, standard output and standard error."""
    run = subprocess.run(
        command, cwd=ROOT, env=environment(**variables), capture_output=True, text=True, check=False
    )
    return run.returncode, run.stdout, run.stderr


class Run:
    """A running process of the system, and the lines that it has printed."""

    # The API key of `call`.
    key: str
    # The port on which the system listens.
    port: int

    def __init__(self, command: Sequence[str], **settings: str) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(**settings),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout
        self.output = self.process.stdout
        self.lines: Queue[str | None] = Queue()  # None: the output has ended
        self.reader = Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        """Put each line of the output into `lines`, and None at its end."""
        for line in self.output:
            self.lines.put(line)
        self.lines.put(None)

    def wait_for(self, pattern: str) -> str:
        """Read lines until one begins with a pattern; return its first group. Fail the test if the
        output ends before, or no such line comes within 150 s.
        """
        deadline = time.monotonic() + 150
        while True:
            try:
                line = self.lines.get(timeout=max(0, deadline - time.monotonic()))
            except Empty:
                line = None
            if line is None:
                pytest.fail(f"no line: {pattern}")
            if match := re.match(pattern, line):
                return match[1]

    def call(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        authorization = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        ) as connection:
            connection.request(method, path, body, {**authorization, **headers})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def end(self, number: signal.Signals) -> int:
        """Send a signal to the process; return its exit status. Raise TimeoutExpired after 5 s."""
        self.process.send_signal(number)
        return self.process.wait(timeout=5)

    def close(self) -> None:
        """Kill the process and all that it started, and wait for the end of its output."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join()
        self.output.close()


@contextlib.contextmanager
def running(
    *, module: str = "tools.run", command: Sequence[str] = (), key: str = "", **settings: str
) -> Iterator[Run]:
    """Run the system, and wait until it is ready; kill it at the end of the block.

    :param key: One of API_KEYS; empty: the one that the system prints.
    """
    with contextlib.closing(Run(command or [sys.executable, "-m", module], **settings)) as system:
        system.key = key or system.wait_for(r"  key +(\S+)")
        system.port = int(system.wait_for(r"ready  http://127.0.0.1:(\d+)"))
        yield system
