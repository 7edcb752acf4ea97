"""The blocks of runbook.md and operations.md, pasted into bash, each twice.

A `read` takes the next line that is pasted, as it does in a terminal. aws, make, chalice, git and
others only note how they are called; the calls of aws must be those of botocore's models.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
from fnmatch import fnmatch
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name

from tests.support.checkout import Checkout, copy_repository
from tests.support.ministack import ministack
from tests.support.packages import install
from tests.support.world import ROOT, Json
from tools import api_key

TEXTS = [
    (ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("runbook.md", "operations.md")
]
SECTIONS = re.split(r"^##+ (.*)\n", "".join(TEXTS), flags=re.MULTILINE)
BLOCK = re.compile(r"^ *```console\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
BLOCKS = {
    heading: [textwrap.dedent(block) for block in BLOCK.findall(text)]
    for heading, text in zip(["", *SECTIONS[1::2]], SECTIONS[::2], strict=True)
    if BLOCK.search(text)
}
WEBHOOK = "https://hooks.zapier.com/hooks/catch/1"
SECRET = f"whsec_{'a' * 32}"
ACME = f"acme:{'0' * 64}"
ONCALL = f"oncall:{'1' * 64}"
# What stands there for what a person puts in.
FILLED_IN = {
    "https://hooks.zapier.com/hooks/catch/…": WEBHOOK,
    "acme:…": ACME,
    "oncall:…": ONCALL,
    "whsec_…": SECRET,
    "…": "x",
}
SUSPENDED = "customer-7"
SETTINGS = (
    f"ZAPIER_WEBHOOK_URL={WEBHOOK}\nAPI_KEYS={ACME}\nWEBHOOK_SIGNING_SECRETS={SECRET}\n"
    f"SUSPENDED_TENANTS={SUSPENDED}\n"
)
RESOURCES = json.loads((ROOT / "resources.json").read_text())
# What the secret has from parameters, by variable.
FROM_PARAMETERS = {
    variable: parameter
    for line in RESOURCES["Resources"]["Settings"]["Properties"]["SecretString"]["Fn::Join"][1]
    for variable, parameter in re.findall(r"^(\w+)=\$\{(\w+)\}$", line["Fn::Sub"])
    if parameter in RESOURCES["Parameters"]
}
NOTING = """\
#!/bin/sh
{
  printf '%s\\037' "$(basename "$0")" "$@"
  printf '\\036%s' "${ZAPIER_WEBHOOK_URL:-}" "${API_KEYS:-}" "${WEBHOOK_SIGNING_SECRETS:-}" \\
    "${SUSPENDED_TENANTS:-}"
  printf '\\035'
} >> NOTES
case "$*" in
*get-secret-value*) test -z "${DENIED:-}" && cat SETTINGS;;
*COUNT*) echo "${ITEMS:-0}";;
*) echo made;;
esac
"""
TYPED = (f"{WEBHOOK}\n", f"{SECRET}\n")
OF_THE_CLI = {"query", "output", "template-file", "s3-bucket", "parameter-overrides"}
COMMANDS_OF_THE_CLI = ("configure set", "cloudformation package", "cloudformation deploy", "s3 cp")
MODELS = botocore.session.get_session()


class Call:
    """How a program was called: its words, and the settings that were in the environment."""

    def __init__(self, note: str) -> None:
        words, *self.settings = note.split("\036")
        self.words = words.rstrip("\037").split("\037")


class Shell:
    """A terminal in a checkout."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "checkout"
        copy_repository(self.path)
        (self.path / "settings").write_text(SETTINGS)
        self.notes = folder / "notes"
        self.programs = folder / "bin"
        self.programs.mkdir()
        text = NOTING.replace("NOTES", str(self.notes))
        for name in ("aws", "make", "chalice", "git", "curl", "sleep", "python"):
            program = self.programs / name
            program.write_text(text.replace("SETTINGS", str(self.path / "settings")))
            program.chmod(0o755)
        self.environ = {"HOME": str(folder), "PATH": f"{self.programs}:{os.environ['PATH']}"}

    def paste(self, *blocks: str) -> list[Call]:
        """Paste blocks, each twice, and type what they read; return the calls."""
        pasted = []
        for block in blocks:
            filled_in = re.sub("|".join(FILLED_IN), lambda found: FILLED_IN[found[0]], block)
            pasted += [filled_in + "".join(TYPED[: block.count("read -rs")])] * 2
        calls, done = self._run("".join(pasted))
        assert (done.returncode, done.stderr) == (0, "")
        return calls

    def paste_in_spite_of_errors(self, *blocks: str) -> list[Call]:
        """Paste blocks into an interactive shell, which goes on after an error; return the
        calls.
        """
        calls, _ = self._run("".join(blocks), "-i")
        return calls

    def _run(self, text: str, *options: str) -> tuple[list[Call], subprocess.CompletedProcess[str]]:
        self.notes.write_text("")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", *options],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.path,
            env=self.environ,
            timeout=240,
        )
        return [Call(note) for note in self.notes.read_text().split("\035")[:-1]], done


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def faults(words: list[str]) -> set[str]:
    """Return what botocore's models do not know of a call of the AWS CLI, or what they miss."""
    service, command, *rest = words
    if f"{service} {command}" in COMMANDS_OF_THE_CLI:
        return set()
    model = MODELS.get_service_model(service)
    if command == "wait":
        waiters = MODELS.get_waiter_model(service).waiter_names
        return {rest[0]} - {xform_name(name, "-") for name in waiters}
    names = {xform_name(name, "-"): name for name in model.operation_names}
    if command not in names:
        return {command}
    shape = model.operation_model(names[command]).input_shape
    known = {xform_name(name, "-") for name in shape.members} if shape else set()
    required = {xform_name(name, "-") for name in shape.required_members} if shape else set()
    given = {word.removeprefix("--").replace("no-", "", 1) for word in rest if word[:2] == "--"}
    return (given - known - OF_THE_CLI) | (required - given)


@pytest.mark.parametrize("heading", BLOCKS)
def test_each_block_can_be_pasted_twice(heading: str, shell: Shell) -> None:
    calls = shell.paste(*BLOCKS[heading])

    assert calls
    called = [call.words[1:] for call in calls if call.words[0] == "aws"]
    assert [(words, faults(words)) for words in called if faults(words)] == []


def settings_of(calls: list[Call], *words: str) -> list[str]:
    """Return the settings that the environment had in the first call of these words."""
    return next(call.settings for call in calls if call.words == list(words))


def test_the_first_deployment_takes_what_is_typed(shell: Shell) -> None:
    calls = shell.paste(*BLOCKS["Deploy"][:3])

    assert settings_of(calls, "make", "deploy", "STAGE=dev") == [WEBHOOK, ACME, SECRET, ""]


def test_the_way_back_from_one_stack_saves_the_values_once(shell: Shell) -> None:
    blocks = BLOCKS["One stack for everything"]
    shell.paste(blocks[0])
    calls = shell.paste(*blocks[-2:])

    parameters = json.loads((shell.path / "parameters.json").read_text())
    assert parameters[0] == {"ParameterKey": "ZapierWebhookUrl", "ParameterValue": WEBHOOK}
    keys = {parameter["ParameterKey"] for parameter in parameters}
    assert keys == {*FROM_PARAMETERS.values(), "AlarmEmail"}
    read = [call for call in calls if "get-secret-value" in call.words]
    assert len(read) == 1
    settings = [WEBHOOK, ACME, SECRET, SUSPENDED]
    assert settings_of(calls, "make", "deploy", "STAGE=prod") == settings


def test_settings_that_cannot_be_read_are_neither_set_nor_applied(shell: Shell) -> None:
    shell.environ["DENIED"] = "1"
    calls = shell.paste_in_spite_of_errors(*BLOCKS["The settings before"])

    made = [call for call in calls if call.words[0] == "make"]
    assert [call.words[1:] for call in made] == [["resources", "STAGE=prod"]]
    assert made[0].settings == [""] * 4


def test_a_stack_whose_values_were_not_saved_is_not_deleted(shell: Shell) -> None:
    shell.environ["DENIED"] = "1"
    calls = shell.paste_in_spite_of_errors(*BLOCKS["One stack for everything"][-2:])

    assert [call.words[1] for call in calls] == ["secretsmanager"]


def test_policies_stay_unless_the_new_table_has_a_name(shell: Shell) -> None:
    policy = shell.path / ".chalice" / "policies" / "prod" / "api.json"
    before = policy.read_text()
    shell.paste_in_spite_of_errors(BLOCKS["The table"][-1])

    assert policy.read_text() == before
    config = json.loads((shell.path / ".chalice" / "config.json").read_text())
    assert "EVENTS_TABLE_NAME" not in config["stages"]["prod"]["environment_variables"]


def test_an_undo_keeps_the_table_that_is_in_use_and_shows_what_it_keeps(
    shell: Shell, tmp_path: Path
) -> None:
    """By git itself: the table was restored after the good commit."""
    (shell.programs / "git").unlink()
    shell.environ["GIT_CONFIG_GLOBAL"] = str(tmp_path / "gitconfig")
    (tmp_path / "gitconfig").write_text("[user]\nname = a\nemail = a@example.com\n")
    chalice = shell.path / ".chalice"
    (chalice / "deployed").mkdir()
    (chalice / "deployed" / "prod.json").write_text("{}")
    shell.paste_in_spite_of_errors("git init -q; git add app.py .chalice; git commit -qm good\n")
    point = f"export NEW=restored\n{BLOCKS['The table'][-1]}"
    shell.paste_in_spite_of_errors(f"git tag GOOD_COMMIT\n{point}echo >> app.py\n")
    shell.paste_in_spite_of_errors("git commit -qam restored\n")
    restored = (chalice / "config.json").read_text()

    look = BLOCKS["A bad deploy must be undone"][0]
    shell.paste_in_spite_of_errors(f"{look.rstrip()} > ../shown\n")

    assert (chalice / "config.json").read_text() == restored
    assert "table/restored" in (chalice / "policies" / "prod" / "api.json").read_text()
    assert (shell.path / "app.py").read_text() == (ROOT / "app.py").read_text()
    assert '+        "EVENTS_TABLE_NAME": "restored"' in (tmp_path / "shown").read_text()


@pytest.mark.parametrize("heading", ["One stack for everything", "The settings before"])
def test_each_way_back_has_every_setting_of_the_secret_that_a_parameter_sets(heading: str) -> None:
    [names] = re.findall(r"^for NAME in ([A-Z_ ]+); do$", "".join(BLOCKS[heading]), re.MULTILINE)

    assert names.split() == list(FROM_PARAMETERS)


def test_files_with_secrets_that_are_written_into_the_checkout_are_ignored_by_git() -> None:
    written = re.findall(r"> (\w+\.\w+)", "".join(map("".join, BLOCKS.values())))
    ignored = (ROOT / ".gitignore").read_text().splitlines()

    assert {*written} == {"parameters.json", "subscriptions.jsonl", "values.txt"}
    assert [name for name in written if not any(fnmatch(name, line) for line in ignored)] == []


def test_a_table_that_has_items_is_not_deleted(shell: Shell) -> None:
    shell.environ["ITEMS"] = "1"
    calls = shell.paste(*BLOCKS["One stack for everything"])

    assert not any("delete-table" in call.words for call in calls)


def test_a_restored_table_is_pointed_to_and_so_is_the_stacks_own_again(shell: Shell) -> None:
    point = BLOCKS["The table"][-1]
    policies = shell.path / ".chalice" / "policies" / "prod"
    before = {path.name: path.read_text() for path in policies.iterdir()}
    name = "triggers-api-prod-events"

    for table in (f"{name}-2", "restored", name):
        shell.paste(f"export NEW={table}\n", point)
        after = {path.name: path.read_text() for path in policies.iterdir()}
        pointed = {
            file: text.replace(f"table/{name}", f"table/{table}") for file, text in before.items()
        }
        assert after == pointed
        config = json.loads((shell.path / ".chalice" / "config.json").read_text())
        variables = config["stages"]["prod"]["environment_variables"]
        assert variables["EVENTS_TABLE_NAME"] == table


@pytest.mark.timeout(300)
def test_the_settings_before_come_back(shell: Shell, tmp_path: Path) -> None:
    """By the AWS CLI and make themselves."""
    entry = api_key.entry("acme", api_key.new_key())
    good: Json = {
        "ZAPIER_WEBHOOK_URL": WEBHOOK,
        "API_KEYS": entry,
        "WEBHOOK_SIGNING_SECRETS": SECRET,
        "SUSPENDED_TENANTS": SUSPENDED,
    }
    for name in ("aws", "make"):
        (shell.programs / name).unlink()
    (shell.programs / "aws").symlink_to(install().with_name("aws"))
    look, apply = (block.replace("prod", "dev") for block in BLOCKS["The settings before"])
    with ministack(tmp_path / "log") as aws:
        checkout = Checkout(shell.path, aws)
        shell.environ |= checkout.environ(
            PATH=shell.environ["PATH"], MAKEFLAGS=f"-o .venv/.set-up -- PY={sys.executable}"
        )
        checkout.resources(**good)
        bad = {**good, "ZAPIER_WEBHOOK_URL": "none", "WEBHOOK_SIGNING_SECRETS": ""}
        bad["SUSPENDED_TENANTS"] = ""
        checkout.resources("--go", **bad)
        shell.paste(look.replace("STAGE=dev", "STAGE=dev 2> /dev/null || true"), apply)
        secret = aws.client("secretsmanager").get_secret_value(SecretId="triggers-api-dev-settings")
        no_changes = checkout.resources(**good)

    assert set(secret["SecretString"].splitlines()) >= {f"{name}={good[name]}" for name in good}
    assert "no changes" in no_changes
