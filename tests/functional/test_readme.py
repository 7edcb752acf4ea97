"""Every command in the README is run: here against a running system, or by the test that is named here."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import ROOT, Run, environment, running

README = (ROOT / "README.md").read_text(encoding="utf-8")

# Make targets that are run as the processes they are elsewhere: what make calls, and who calls it there.
RUN_ELSEWHERE = {
    "make test": ("-m pytest", "tests/functional/test_readme.py"),
    "make run": ("-m tools.run", "tests/functional/test_run.py"),
    "make deploy STAGE=dev": ("-m tools.deploy", "tests/functional/test_deploy.py"),
    "make dlq STAGE=dev": ("-m tools.ops dlq", "tests/functional/test_ops.py"),
    "make redrive STAGE=dev": ("-m tools.ops redrive", "tests/functional/test_ops.py"),
}


def commands() -> Iterator[str]:
    """Give each command of the console blocks, without its comment."""
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE):
            yield re.sub(r"\s+# .*$", "", command)


@pytest.fixture(scope="module")
def system() -> Iterator[Run]:
    with running() as run:
        yield run


def run(command: str, system: Run) -> str:
    """Run a command of the README in a shell, as somebody would who has a system on this port; return its output."""
    command = command.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{system.port}")
    command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", command)
    variables = {
        **environment(),
        "API_KEY": system.key,
        "TRIGGERS_API_KEY": system.key,
        "TRIGGERS_URL": f"http://127.0.0.1:{system.port}",
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def test_the_curl_answers_what_the_readme_says(system: Run) -> None:
    (curl,) = [command for command in commands() if command.startswith("curl")]
    (said,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)

    answer = json.loads(run(curl, system))

    told = json.loads(said)
    assert list(answer) == list(told)
    changing = ("event_id", "created_at", "delivered_at")
    assert {name: value for name, value in answer.items() if name not in changing} == {
        name: value for name, value in told.items() if name not in changing
    }


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("python ")])
def test_an_operators_command_does_what_the_readme_says(command: str, system: Run) -> None:
    answer = system.call("POST", "/events", '{"event_type": "order.created", "payload": {}}')
    event_id = json.loads(answer[2])["event_id"]

    assert run(re.sub(r"evt_[0-9a-f]{32}", event_id, command), system)


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("make ")])
def test_a_make_target_is_there_and_is_run(command: str, system: Run, tmp_path: Path) -> None:
    target, *settings = command.removeprefix("make ").split()
    # Whether the packages are set up does not matter here.
    dry = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", ".venv/.set-up", target, *settings],
        cwd=ROOT,
        env={**os.environ, "MAKEFLAGS": "", "MAKELEVEL": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if command == "make api-key NAME=acme":
        recipe = dry.strip().splitlines()[-1].removeprefix("exec ").replace(".venv/bin/python", sys.executable)
        assert re.search(r"acme:[0-9a-f]{64}", run(f"NAME=acme; {recipe}", system))
        return
    recipe, who = RUN_ELSEWHERE[command]
    assert recipe in dry
    assert (ROOT / who).exists()


def test_no_command_is_left_out() -> None:
    kinds = {command.split()[0] for command in commands()}
    assert kinds == {"make", "curl", "export", "python"}
