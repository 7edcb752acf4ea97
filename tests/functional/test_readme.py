"""The commands of the README work as they are written.

`make run` is started and curl talks to it. Other targets of make run in tests of their own, so that of them, and of
chalice, it is only checked that they exist.
"""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import ROOT, Run, environment, running

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKE = ["make", "--no-print-directory", "-o", ".venv/.set-up", "-o", ".venv/.set-up-dev", f"PY={sys.executable}"]
CHALICE = str(Path(sys.executable).parent / "chalice")
NO_OUTER_MAKE = {"MAKEFLAGS": "", "MAKELEVEL": "0"}


def commands(program: str) -> list[str]:
    """Return the commands that begin with `program`: in console blocks without comments, and in backquotes."""
    blocks = re.findall(r"```(?:console|sh)\n(.*?)```", README, re.DOTALL)
    found = [command for block in blocks for command in re.findall(r"^(?:\$ )?((?:.*\\\n)*.+)$", block, re.MULTILINE)]
    found = [re.sub(r"\s+# .*$", "", command) for command in found] + re.findall(r"`((?:make|chalice) [^`]+)`", README)
    return sorted({command for command in found if command.startswith(f"{program} ")})


def run(*command: str, **variables: str) -> str:
    """Run a command; return its output."""
    environ = {**environment(), **NO_OUTER_MAKE, **variables}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def system() -> Iterator[Run]:
    with running(command=[*MAKE, "run"], **NO_OUTER_MAKE) as system:
        yield system


@pytest.mark.parametrize("command", commands("curl"))
def test_a_curl_is_answered_with_json(command: str, system: Run) -> None:
    variables: dict[str, str] = {}
    for export in commands("export"):
        variables |= dict(word.split("=", 1) for word in shlex.split(export)[1:])
    variables |= {name: system.key for name in variables if "KEY" in name}
    url = f"http://127.0.0.1:{system.port}"
    variables = {name: value.replace("http://127.0.0.1:8000", url) for name, value in variables.items()}
    command = re.sub(r"trk_[\w…]+", system.key, command.replace("http://127.0.0.1:8000", url))

    assert "event_id" in json.dumps(json.loads(run("bash", "-c", command, **variables)))


@pytest.mark.parametrize("command", commands("make"))
def test_a_target_of_make_exists(command: str) -> None:
    recipe = run(*MAKE, "-n", *shlex.split(command)[1:])

    assert recipe
    assert all(importlib.util.find_spec(module) for module in re.findall(r"-m ([\w.]+)", recipe))


@pytest.mark.parametrize("command", commands("chalice"))
def test_a_command_of_chalice_exists(command: str) -> None:
    assert "--stage" in run(CHALICE, shlex.split(command)[1], "--help")
