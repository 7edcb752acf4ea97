"""Every command of the README is run as it stands there, but for these.

`make test` and `make check` would run themselves, and `make e2e`, `chaos`, `mutants`, `bench` and `cost` take too long:
make is asked what it would run, and that is there. An `export` gives its variables to what follows.

`make run` is what curl and `python -m tools.ops` talk to. `make deploy` and what operates a stage have moto for an AWS,
with the moves between queues that it lacks. make takes the packages for set up, and the Python that runs the tests.
"""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import boto3
import pytest
import requests
from moto.sqs.responses import SQSResponse

from tests.functional.test_ops import MoveTasks
from tests.support.moto_server import moto_server
from tests.support.running import ROOT, Run, environment, running

pytestmark = [pytest.mark.timeout(120)]

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKE = ["make", "--no-print-directory", "-o", ".venv/.set-up", f"PY={sys.executable}"]
WITHOUT_OUTER_MAKE = {"MAKEFLAGS": "", "MAKELEVEL": "0"}
ACCOUNT = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}

RUN = {"run", "api-key", "package", "deploy", "dlq", "redrive", "destroy"}
NOT_RUN = {"test", "check", "e2e", "chaos", "mutants", "bench", "cost"}


def commands() -> list[str]:
    """Return each command: of the console blocks, without its comment, and what begins with make in the text."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    found = [command for block in blocks for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", block, re.MULTILINE)]
    return [re.sub(r"\s+# .*$", "", command) for command in found] + re.findall(r"`(make [^`]+)`", README)


def beginning(words: str) -> list[str]:
    return [command for command in commands() if command.startswith(words)]


def run(command: str, **variables: str) -> str:
    """Run a command in a shell; return its output."""
    if command.startswith("make "):
        command = shlex.join([*MAKE, *shlex.split(command)[1:]])
    command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", command)
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**environment(), **WITHOUT_OUTER_MAKE, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def exported(command: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in shlex.split(command)[1:])


@pytest.fixture(scope="module")
def system() -> Iterator[Run]:
    with running(command=[*MAKE, "run"], **WITHOUT_OUTER_MAKE) as run:
        yield run


def ask(command: str, system: Run) -> str:
    """Run a command with what is exported for it, of which only the port and the key are another's."""
    variables: dict[str, str] = {}
    for export in beginning("export TRIGGERS_"):
        variables |= exported(export)
    assert variables == {"TRIGGERS_URL": "http://127.0.0.1:8000", "TRIGGERS_API_KEY": "trk_…"}
    return run(command, TRIGGERS_URL=f"http://127.0.0.1:{system.port}", TRIGGERS_API_KEY=system.key)


def test_the_curl_answers_what_the_readme_says(system: Run) -> None:
    (curl,) = beginning("curl")
    (said,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)

    answer = ask(curl, system)

    assert answer.endswith("}\n")
    told, seen = json.loads(said), json.loads(answer)
    assert list(seen) == list(told)
    for name in ("event_id", "created_at", "delivered_at"):
        del seen[name], told[name]
    assert seen == told


@pytest.mark.parametrize("command", beginning("python"))
def test_an_operators_command_does_what_the_readme_says(command: str, system: Run) -> None:
    answer = system.call("POST", "/events", '{"event_type": "order.created", "payload": {}}')
    event_id = json.loads(answer[2])["event_id"]

    assert ask(re.sub(r"evt_[0-9a-f]{32}", event_id, command), system)


def test_a_stage_is_deployed_operated_and_taken_down(monkeypatch: pytest.MonkeyPatch) -> None:
    moves = MoveTasks()
    for name, act in (("start", moves.start), ("list", moves.list)):
        method = f"{name}_message_move_task" + ("s" if name == "list" else "")
        monkeypatch.setattr(SQSResponse, method, lambda self, act=act: act(self), raising=False)
    with moto_server() as moto:
        requests.post(f"{moto.url}/moto-api/reset", timeout=10)
        variables = {**ACCOUNT, "AWS_ENDPOINT_URL": moto.url}
        (entry,) = re.findall(r"acme:[0-9a-f]{64}", run(beginning("make api-key ")[0]))
        for export in (*beginning("export ZAPIER"), *beginning("export API_KEYS")):
            variables |= exported(export.replace("catch/…", "catch/1/abc").replace("acme:…", entry))

        deployed = run(*beginning("make deploy "), **variables)
        sqs = boto3.client(
            "sqs", endpoint_url=moto.url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        dlq = sqs.get_queue_url(QueueName="triggers-api-dev-inbox-dlq")["QueueUrl"]
        dead = {"event_id": f"evt_{'0' * 32}", "reason": "permanent", "last_status_code": 404, "last_error": None}
        sqs.send_message(QueueUrl=dlq, MessageBody=json.dumps({**dead, "delivery_attempts": 1, "failed_at": None}))
        listed = run(*beginning("make dlq "), **variables)
        moved = run(*beginning("make redrive "), **variables)
        gone = run(*beginning("make destroy "), **variables)

    assert "TRIGGERS_API_KEY" in deployed
    assert "you@example.com" in deployed
    assert "permanent" in listed
    assert "1 message moved" in moved
    assert "is taken down" in gone


def test_a_package_is_written() -> None:
    out = ROOT / "build" / "package"
    shutil.rmtree(out, ignore_errors=True)

    told = run(*beginning("make package "))

    assert json.loads((out / "sam.json").read_text())["Resources"]["EventsTable"]
    assert (out / "deployment.zip").exists()
    assert "aws cloudformation deploy" in told


@pytest.mark.parametrize("target", sorted(NOT_RUN))
def test_what_is_not_run_is_known_to_make_and_there(target: str) -> None:
    (*_, command) = beginning(f"make {target}")

    recipe = run(f"make -n {command.removeprefix('make ')}")

    (*_, module) = re.findall(r"-m ([\w.]+)", recipe)
    assert importlib.util.find_spec(module)


def test_no_command_is_left_out() -> None:
    kinds = {command.split()[0] for command in commands()}
    targets = {command.split()[1] for command in beginning("make")}
    assert kinds == {"make", "curl", "export", "python"}
    assert targets == RUN | NOT_RUN
