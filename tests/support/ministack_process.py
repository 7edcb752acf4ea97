"""An emulated AWS, ministack, in a venv and a process of its own.

IAM is enforced: a function may do what the policies of its role allow. No AWS account is used.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import urllib3
from botocore.config import Config

ROOT = Path(__file__).parent.parent.parent
REQUIREMENTS = ROOT / "requirements" / "e2e.txt"
VENV = ROOT / ".local" / "e2e-venv"
REGION = "us-east-1"
# The root user of ministack's account.
ACCOUNT = {"region_name": REGION, "aws_access_key_id": "test", "aws_secret_access_key": "test"}


class EmulatorError(Exception):
    """ministack cannot be installed or does not start."""


@dataclass
class Emulator:
    """A running ministack."""

    port: int

    def client(self, service: str) -> Any:
        config = Config(connect_timeout=3, retries={"total_max_attempts": 1}, proxies={})
        return boto3.client(
            service, endpoint_url=f"http://127.0.0.1:{self.port}", config=config, **ACCOUNT
        )


def without_metric_math(template: str) -> str:
    """Return a template in which alarms that compute watch their first metric instead: ministack
    takes no others.
    """
    parsed = json.loads(template)
    for properties in (resource.get("Properties", {}) for resource in parsed["Resources"].values()):
        for computed in properties.pop("Metrics", ())[1:2]:
            stat = computed["MetricStat"]
            properties |= {**stat["Metric"], "Period": stat["Period"], "Statistic": stat["Stat"]}
    return json.dumps(parsed)


def install() -> Path:
    """Return the Python of a venv that has the packages of requirements/e2e.txt; raise
    EmulatorError.
    """
    python, made_from = VENV / "bin" / "python", VENV / ".made-from"
    wanted = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    if made_from.is_file() and made_from.read_text() == wanted:
        return python
    print(f"setting up {VENV.relative_to(ROOT)} (once)", flush=True)
    venv.create(VENV, clear=True, symlinks=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    if subprocess.run([*pip, "--no-compile", "-r", REQUIREMENTS], check=False).returncode:
        raise EmulatorError("pip cannot install it")
    made_from.write_text(wanted)
    return python


def free_port() -> int:
    """Return a free port below the ephemeral range, so that no other process is given it
    meanwhile.
    """
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running(python: Path, log_file: Path) -> Iterator[Emulator]:
    """Run ministack until the end of the block; raise EmulatorError if it does not start."""
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, log_file.open("w") as log:
        # Functions inherit this environment, so it has nothing that the template should set.
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "TMPDIR": home,
            "BIND_HOST": "127.0.0.1",
            "AUTH": "true",
        }
        environ |= {"GATEWAY_PORT": str(port), "SFTP_ENABLED": "0", "IOT_MTLS_ENABLED": "0"}
        process = subprocess.Popen(
            [python, "-m", "ministack"],
            stdout=log,
            stderr=log,
            cwd=home,
            env=environ,
            start_new_session=True,
        )
        try:
            _await_health(port)
            yield Emulator(port)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the functions that run
            process.wait()


def _await_health(port: int) -> None:
    retries = urllib3.Retry(300, backoff_factor=0.1, backoff_max=0.1)
    try:
        urllib3.request(
            "GET", f"http://127.0.0.1:{port}/_ministack/health", retries=retries, timeout=5
        )
    except urllib3.exceptions.HTTPError as error:
        raise EmulatorError("ministack does not respond") from error
