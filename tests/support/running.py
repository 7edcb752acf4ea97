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

# Matches the name of each environment variable that would change what the system does.
PROJECT_VARIABLES = re.compile(
    "PORT|STAGE|LOG_LEVEL|AWS_.*|API_KEYS|.*_SECRETS?|ZAPIER_WEBHOOK_URL|SUBSCRIPTION_HOSTS|"
    "EVENTS_TABLE_NAME|INBOX_.*|WORKER_.*|MAKE.*|MFLAGS"
)


def environment(**settings: str) -> dict[str, str]:
    """Return the environment of this process without the variables of the project, with PORT=0,
    which chooses a free port, and with `settings`.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not PROJECT_VARIABLES.fullmatch(name)
    }
    return {**inherited, "PORT": "0", **settings}


def ended(*command: str, **variables: str) -> tuple[int, str, str]:
    """Run a command in the repository to its end; return its exit status, standard output and
    standard error.

    :param variables: Environment variables of the command, as `environment` takes them.
    """
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
        """Start the system, and a thread that reads its standard output. `key` and `port` must be
        set before `call` is called.

        :param command: The command that runs the system.
        :param settings: Environment variables of the system.
        """
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
        """Read the lines that the system prints, each only once, until one begins with a match of
        a pattern; return the first group of the match. Fail the test if the output ends before, or
        after 150 s.
        """
        deadline = time.monotonic() + 150
        while True:
            try:
                line = self.lines.get(timeout=max(0, deadline - time.monotonic()))
            except Empty:
                line = None
            if line is None:
                pytest.fail(f"no line: {pattern}")
            match = re.match(pattern, line)
            if match:
                return match[1]

    def call(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Call the API of the system with the API key `key`; return the status code, the headers
        and the body of the response. Raise TimeoutError after 60 s.

        :param body: The body of the request, as JSON; None: the request has none.
        :param headers: Other headers of the request, or other values of those sent here.
        """
        sent = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        ) as connection:
            connection.request(method, path, body, {**sent, **headers})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def end(self, number: signal.Signals) -> int:
        """Send a signal to the process; return its exit status. Raise TimeoutExpired after 5 s."""
        self.process.send_signal(number)
        return self.process.wait(timeout=5)

    def close(self) -> None:
        """Kill the process and all processes that it started; wait for the end of its output."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join()
        self.output.close()


@contextlib.contextmanager
def running(
    *, module: str = "tools.run", command: Sequence[str] = (), key: str = "", **settings: str
) -> Iterator[Run]:
    """Run the system; yield it once it is ready, and kill it at the end of the block.

    :param module: The Python module that is run, unless there is a `command`.
    :param command: The command that runs the system; empty: Python with `module`.
    :param key: The API key of its `call`; "": the key that the system makes and prints.
    :param settings: Environment variables of the system.
    """
    with contextlib.closing(Run(command or [sys.executable, "-m", module], **settings)) as system:
        # The system prints the key, if it makes one, before it is ready.
        system.key = key or system.wait_for(r"  key +(\S+)")
        system.port = int(system.wait_for(r"ready  http://127.0.0.1:(\d+)"))
        yield system
