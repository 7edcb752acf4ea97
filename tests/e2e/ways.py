"""`make ways`: interrupt `make deploy` after its writes to an emulated AWS, and run it again.

After a write the network is taken away, before the response arrives, and the command is killed. The
second run must complete, and leave the stage as a first deployment that is not interrupted does;
`make destroy` in its place must leave nothing. On each way each operation is the last one once;
with ALL=1 each write is; with FEW=1 six are tried. The exit status is 1 if one fails.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import ClientError
from rich.progress import track

from tests.support.checkout import MAKE, Checkout, copy_repository, is_write
from tests.support.ministack import ministack
from tests.support.world import Json
from tools import api_key
from tools.command_line import print_table

T = TypeVar("T")
AT_ONCE = 2
COMMITS = {"now": None, "0.6.0": "82b9967", "0.5.0": "7ce67cb"}
GIVEN: Any = {"ZAPIER_WEBHOOK_URL": "none", "API_KEYS": api_key.entry("acme", api_key.new_key())}


def deploy(checkout: Checkout) -> None:
    checkout.make("deploy", **GIVEN)


def undo(checkout: Checkout) -> None:
    """Do what the runbook says, but for its checks."""
    checkout.chalice("deploy")
    checkout.configure_api()


def do_nothing(checkout: Checkout) -> None:
    pass


class Step(NamedTuple):
    """What is done in a checkout of a version, with the record of Chalice's that the step before
    left, or that of the last step of another version.
    """

    version: str
    act: Callable[[Checkout], None] = deploy
    record_of: str = ""


# What comes before the deployment that is interrupted. The record that an undo goes on with is the
# newer one, as the runbook says, or comes back with its commit, and the next may be yet another.
WAYS = {
    "first": [],
    "0.6.0": [Step("0.6.0")],
    "0.5.0": [Step("0.5.0")],
    "0.6.0 undone": [Step("0.6.0"), Step("now"), Step("0.6.0", undo)],
    "0.6.0 undone, older record": [Step("0.6.0"), Step("now"), Step("0.6.0", undo, "0.6.0")],
    "0.5.0 undone": [Step("0.5.0"), Step("now"), Step("0.5.0", undo)],
    "0.5.0 undone, older record": [Step("0.5.0"), Step("now"), Step("0.5.0", undo, "0.5.0")],
}
WAYS["0.5.0 undone, stale record"] = [*WAYS["0.5.0 undone"], Step("now", do_nothing, "now")]
FEW = {
    "first": ("POST event-source-mappings", "POST restapis"),
    "0.5.0": ("ExecuteChangeSet", "POST event-source-mappings"),
    "0.5.0 undone, older record": ("PUT functions/code", "PUT event-source-mappings"),
}
# Given at random, or of the past.
OF_NO_STATE = {
    *("ChangeSetId", "EventSourceMappingArn", "RevisionId", "RoleId", "Sid", "StackId", "UUID"),
    *("deploymentId", "id", "rootResourceId", "Location", "ResponseMetadata"),
    *("CreateDate", "CreationTime", "LastModified", "LastUpdatedTime", "createdDate"),
    *("lastUpdatedDate", "LastProcessingResult", "StackStatus", "StateReason", "StateReasonCode"),
}


class Case(NamedTuple):
    """A way, and the write after which it is interrupted, from 1."""

    way: str
    number: int
    operation: str


class Lab:
    """A folder with the code of each version, and with the stage with which each way begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reference: Json = {}

    def act(self, version: str, stage: Path, act: Callable[[Checkout], T]) -> T:
        """Do something in a checkout of a version, for the stage that is kept in a folder."""
        record = stage / "deployed"
        with (
            tempfile.TemporaryDirectory() as folder,
            ministack(stage / "log", stage / "state") as aws,
        ):
            path = Path(folder, "checkout")
            shutil.copytree(self.folder / version, path, symlinks=True)
            checkout = Checkout(path, aws)
            if record.exists():
                shutil.move(record, checkout.record.parent)
            result = act(checkout)
            if checkout.record.parent.exists():
                shutil.move(checkout.record.parent, record)
        return result

    def begin(self, way: str) -> list[Case]:
        """Keep the stage with which a way begins, and deploy once without an interruption; return
        where to interrupt.
        """
        stage = self.folder / f"before {way}"
        stage.mkdir()
        record = stage / "deployed"
        for step in WAYS[way]:
            if step.record_of:
                shutil.rmtree(record)
                shutil.copytree(stage / step.record_of, record)
            self.act(step.version, stage, step.act)
            shutil.copytree(record, stage / step.version, dirs_exist_ok=True)
        with self.copied(way) as uninterrupted:
            writes = self.act("now", uninterrupted, self.list_writes)
        return list(choose(way, writes))

    @contextmanager
    def copied(self, way: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            before = self.folder / f"before {way}"
            yield shutil.copytree(before, Path(folder, "stage"))

    def try_case(self, case: Case) -> tuple[str, str, float]:
        """Interrupt a deployment; return what was wrong after it was completed, and after its stage
        was destroyed, and the seconds.
        """
        started = time.monotonic()
        faults = []
        with self.copied(case.way) as interrupted:
            self.act("now", interrupted, partial(interrupt, number=case.number))
            for name, finish in (("deploy", self.deploy_again), ("destroy", destroy)):
                stage = interrupted.with_name(name)
                shutil.copytree(interrupted, stage)
                try:
                    self.act("now", stage, finish)
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    faults.append(str(error))
                else:
                    faults.append("")
        return faults[0], faults[1], time.monotonic() - started

    def deploy_again(self, checkout: Checkout) -> None:
        """Deploy; raise AssertionError unless the stage is as after a first deployment."""
        deploy(checkout)
        stage = describe(checkout)
        self.reference = self.reference or stage
        differences = list(find_differences(self.reference, stage))
        assert not differences, "\n".join(differences)

    def list_writes(self, checkout: Checkout) -> list[str]:
        """Deploy, and return the operations that write, without names and ids of resources."""
        writes: list[str] = []

        def note(seen: str) -> None:
            if is_write(seen):
                writes.append(operation_of(seen))

        checkout.aws.seen = note
        self.deploy_again(checkout)
        return writes


def choose(way: str, writes: list[str]) -> Iterator[Case]:
    """Yield where to interrupt: after one of the writes of each operation, each time after another,
    or after those that ALL and FEW select.
    """
    numbers: dict[str, list[int]] = {}
    for number, operation in enumerate(writes, 1):
        numbers.setdefault(operation, []).append(number)
    for turn, (operation, found) in enumerate(numbers.items()):
        if os.environ.get("ALL"):
            yield from (Case(way, number, operation) for number in found)
        elif not os.environ.get("FEW") or operation in FEW[way]:
            yield Case(way, found[turn % len(found)], operation)


def destroy(checkout: Checkout) -> None:
    checkout.make("destroy", "CONFIRM=dev")
    left = {name: value for name, value in describe(checkout).items() if value}
    assert not left, f"left: {json.dumps(left)[:500]}"


def interrupt(checkout: Checkout, number: int) -> None:
    checkout.interrupt([*MAKE, "deploy"], number=number, MAKEFLAGS="", **GIVEN)


def operation_of(seen: str) -> str:
    name, path, _ = seen.split()
    collections = re.sub(r"^/\d{4}-\d\d-\d\d|\?.*", "", path).strip("/").split("/")[::2]
    return f"{name} {'/'.join(collections)}".strip()


def describe(checkout: Checkout) -> Json:
    """Return what a deployment makes and sets of a stage, and what Chalice recorded of it."""
    aws = checkout.aws
    functions = aws.client("lambda")
    iam = aws.client("iam")
    events = aws.client("events")
    gateway = aws.client("apigateway")
    cloudformation = aws.client("cloudformation")
    stage: Json = {}
    for function in functions.list_functions()["Functions"]:
        name = {"FunctionName": function["FunctionName"]}
        stage[function["FunctionName"]] = [
            functions.get_function(**name),
            ask(functions.get_function_recursion_config, **name),
            ask(functions.get_function_event_invoke_config, **name),
            ask(functions.get_policy, **name),
        ]
    for source in functions.list_event_source_mappings()["EventSourceMappings"]:
        stage.setdefault(source["EventSourceArn"], []).append(source)
    for role in iam.list_roles()["Roles"]:
        name = {"RoleName": role["RoleName"]}
        policies = iam.list_role_policies(**name)["PolicyNames"]
        documents = [iam.get_role_policy(**name, PolicyName=policy) for policy in policies]
        stage[role["Arn"]] = [role, documents]
    for rule in events.list_rules()["Rules"]:
        stage[rule["Arn"]] = [rule, events.list_targets_by_rule(Rule=rule["Name"])["Targets"]]
    apis = gateway.get_rest_apis()["items"]
    for api in apis:
        api_id = {"restApiId": api["id"]}
        deployments = gateway.get_deployments(**api_id)["items"]
        newest = max(deployments, key=lambda deployment: deployment["createdDate"])
        stages = gateway.get_stages(**api_id)["item"]
        is_newest = [each["deploymentId"] == newest["id"] for each in stages]
        responses = gateway.get_gateway_responses(**api_id)["items"]
        stage.setdefault("APIs", []).append([api, stages, is_newest, responses])
    for stack in cloudformation.describe_stacks()["Stacks"]:
        template = cloudformation.get_template(StackName=stack["StackName"])["TemplateBody"]
        stage[stack["StackName"]] = [stack, template]
    if checkout.record.exists():
        recorded = json.loads(checkout.record.read_text())["resources"]
        stage["recorded"] = sorted(resource["name"] for resource in recorded)
    text = json.dumps(stage, default=str)
    for api in apis:
        text = text.replace(api["id"], "API")
    # the port of an emulator, and a member of a policy, which is text
    text = re.sub(r"localhost:\d+|Sid\W+[0-9a-f-]{36}", "", text)
    return json.loads(text, object_hook=without_random)  # type: ignore[no-any-return]


def ask(call: Callable[..., Any], **arguments: str) -> Any:
    """Return a response, or the code of an error: of what there is none."""
    try:
        return call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]


def without_random(values: Json) -> Json:
    return {name: value for name, value in values.items() if name not in OF_NO_STATE}


def find_differences(wanted: Any, value: Any, path: str = "") -> Iterator[str]:
    """Yield where two values differ, as paths."""
    if isinstance(wanted, dict) and isinstance(value, dict):
        for name in sorted(wanted.keys() | value.keys()):
            yield from find_differences(wanted.get(name), value.get(name), f"{path}/{name}")
    elif isinstance(wanted, list) and isinstance(value, list) and len(wanted) == len(value):
        for number, pair in enumerate(zip(wanted, value, strict=True)):
            yield from find_differences(*pair, f"{path}/{number}")
    elif wanted != value:
        yield f"{path}: {str(wanted)[:200]} became {str(value)[:200]}"


def versions_here(lab: Path) -> set[str]:
    """Copy the code of each version; return those whose commits this clone has."""
    found = set()
    for version, commit in COMMITS.items():
        try:
            copy_repository(lab / version, commit)
            found.add(version)
        except subprocess.CalledProcessError:
            print(
                f"SKIPPED, for want of commit {commit} (a shallow clone?): all that needs {version}"
            )
    return found


def main() -> int:
    started = time.monotonic()
    is_few = bool(os.environ.get("FEW"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        lab = Lab(Path(folder))
        versions = versions_here(lab.folder)
        ways = [
            way
            for way in (FEW if is_few else WAYS)
            if versions >= {step.version for step in WAYS[way]}
        ]
        cases = lab.begin(ways[0])
        for more in track(pool.map(lab.begin, ways[1:]), "ways", total=len(ways) - 1):
            cases += more
        tried = pool.map(lab.try_case, cases)
        rows = [
            (*case, *faults, f"{seconds:.0f}")
            for case, (*faults, seconds) in zip(
                cases, track(tried, "interruptions", total=len(cases)), strict=True
            )
        ]
    columns = ("way", "write", "interrupted after", "deployed again", "destroyed", "seconds")
    print_table(
        columns,
        [(*row[:3], *("no" if fault else "yes" for fault in row[3:5]), row[5]) for row in rows],
    )
    faults = [f"{row[0]}, {row[2]}: {fault}" for row in rows for fault in row[3:5] if fault]
    minutes = (time.monotonic() - started) / 60
    print(
        *faults, f"{len(rows)} interruptions, {len(faults)} faults, {minutes:.0f} minutes", sep="\n"
    )
    return int(bool(faults) or (versions != COMMITS.keys() and not is_few))


if __name__ == "__main__":
    sys.exit(main())
