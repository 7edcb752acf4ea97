"""`make ways`: interrupt `make deploy` and `make destroy` after their writes to an emulated AWS.

After a write the network is taken away, before the response arrives, and the command is killed;
Lambda has not finished with any function yet. `make deploy` must then complete, and leave the stage
as a first deployment that is not interrupted does; `make destroy` must leave nothing. On each way
each operation is the last one once; with ALL=1 each write is; with FEW=1 six are tried, and
deployed again or destroyed by turns. The exit status is 1 if one fails.
"""

import difflib
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
from typing import Any, NamedTuple

import jmespath
from botocore.exceptions import ClientError
from rich.progress import track

from tests.support.checkout import MAKE, Checkout, copy_packaged, is_write
from tests.support.ministack import ministack
from tools import api_key
from tools.command_line import print_table

AT_ONCE = 2
COMMITS = {"now": "", "1.0.0": "1e0755a5"}
GIVEN: Any = {"ZAPIER_WEBHOOK_URL": "none", "API_KEYS": api_key.entry("acme", api_key.new_key())}
ALL = bool(os.environ.get("ALL"))
FEW = bool(os.environ.get("FEW"))


def deploy(checkout: Checkout) -> None:
    checkout.make("deploy", **GIVEN)


def interrupt(checkout: Checkout, case: "Case") -> None:
    command = DESTROY if case.way == DESTROYED else ("deploy",)
    checkout.interrupt([*MAKE, *command], number=case.number, MAKEFLAGS="", **GIVEN)


def undo(checkout: Checkout) -> None:
    """Do what docs/operations.md says, but for its checks."""
    checkout.chalice("deploy")
    checkout.configure_api()


# The steps before the interrupted command, which is `make deploy`, or `make destroy` on the last
# way. An undo keeps the newer record of Chalice, as docs/operations.md says, or brings back the
# record of its own version.
DESTROY = ("destroy", "CONFIRM=dev")
DESTROYED = "now"
DESTROYING = "destroy"
WAYS = (
    "nothing",
    "1.0.0",
    "1.0.0, now, undo to 1.0.0",
    "1.0.0, now, undo to 1.0.0 with the record of 1.0.0",
    DESTROYED,
)
SIX = (
    ("nothing", "POST event-source-mappings"),
    ("nothing", "POST functions"),
    ("1.0.0", "ExecuteChangeSet"),
    (DESTROYED, "DELETE restapis"),
    ("1.0.0, now, undo to 1.0.0 with the record of 1.0.0", "PUT functions/code"),
    (DESTROYED, "DeleteRole"),
)
# How to describe what a deployment makes and sets. Each line has a service, the call that lists
# names, where its response has them, the call that describes one, and its parameters for the name.
DESCRIBED = """
lambda list_functions Functions[].FunctionName get_function FunctionName
lambda list_functions Functions[].FunctionName get_function_event_invoke_config FunctionName
lambda list_functions Functions[].FunctionName get_function_recursion_config FunctionName
lambda list_functions Functions[].FunctionName get_policy FunctionName
lambda list_event_source_mappings EventSourceMappings[].UUID get_event_source_mapping UUID
iam list_roles Roles[].RoleName get_role RoleName
iam list_roles Roles[].RoleName get_role_policy RoleName PolicyName
events list_rules Rules[].Name describe_rule Name
events list_rules Rules[].Name list_targets_by_rule Rule
apigateway get_rest_apis items[].id get_rest_api restApiId
apigateway get_rest_apis items[].id get_gateway_responses restApiId
apigateway get_rest_apis items[].id get_stages restApiId
cloudformation describe_stacks Stacks[].StackName describe_stacks StackName
cloudformation describe_stacks Stacks[].StackName get_template StackName
"""
# Members that differ between two runs: times and ids, and parts of texts that are random.
OF_THE_PAST = (
    r"ChangeSetId|CreateDate|CreationTime|LastModified|LastProcessingResult|LastUpdatedTime|"
    r"Location|RoleId|StackId|StackStatus|StateReason\w*|createdDate|deploymentId|id|"
    r"lastUpdatedDate|rootResourceId"
)
AT_RANDOM = r"localhost:\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def steps(way: str) -> list[str]:
    return [] if way == "nothing" else way.split(", ")


class Case(NamedTuple):
    """An interruption."""

    way: str
    # After which write of the command, from 1, and its operation.
    number: int
    operation: str


class Stage(NamedTuple):
    """A stage that was reached."""

    # What AWS and Chalice have of it.
    folder: Path
    # The writes of the step that reached it.
    writes: list[str]


class Lab:
    """A folder with the code of each version, and the stages that were reached."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.reference = ""
        self.reached = dict[tuple[str, ...], Stage]()

    def act(self, version: str, stage: Path, act: Callable[[Checkout], None]) -> None:
        """Act in a checkout of a version, on the stage that is kept in a folder."""
        with (
            tempfile.TemporaryDirectory() as folder,
            ministack(stage / "log", stage / "state") as aws,
        ):
            path = Path(folder, "checkout")
            shutil.copytree(self.folder / version, path, symlinks=True)
            checkout = Checkout(path, aws)
            checkout.record.parent.symlink_to(stage / "deployed")
            act(checkout)

    def reach(self, *steps: str) -> Stage:
        """Return the stage after some steps, each of which is done only once."""
        if steps not in self.reached:
            folder = self.folder / "stages" / ", ".join(steps or ["nothing"])
            self.reached[steps] = Stage(folder, [])
            if steps:
                shutil.copytree(self.reach(*steps[:-1]).folder, folder)
                self.do(steps[-1], self.reached[steps])
            else:
                (folder / "deployed").mkdir(parents=True)
        return self.reached[steps]

    def do(self, step: str, stage: Stage) -> None:
        """Do a step, and note its writes."""
        version = "now" if step == DESTROYING else step.split()[-1]
        record = stage.folder / "deployed"
        if "record" in step:
            shutil.rmtree(record)
            shutil.copytree(stage.folder / version, record)
        acts = {"now": self.complete, DESTROYING: destroy}
        act = undo if step.startswith("undo") else acts.get(step, deploy)

        def note(checkout: Checkout) -> None:
            checkout.aws.seen = stage.writes.append
            act(checkout)

        self.act(version, stage.folder, note)
        shutil.copytree(record, stage.folder / version, dirs_exist_ok=True)

    def begin(self, way: str) -> list[Case]:
        """Reach the stage with which a way begins, and go on without an interruption; return where
        to interrupt.
        """
        last = DESTROYING if way == DESTROYED else "now"
        seen = self.reach(*steps(way), last).writes
        return list(choose(way, [operation_of(write) for write in seen if is_write(write)]))

    @contextmanager
    def copied(self, way: str) -> Iterator[Path]:
        before = self.reach(*steps(way)).folder
        with tempfile.TemporaryDirectory() as folder:
            yield shutil.copytree(before, Path(folder, "stage"))

    def try_case(self, case: Case) -> dict[str, str]:
        """Interrupt a command, then deploy the stage, and destroy it instead; return the fault of
        each, by its name, or an empty text.
        """
        faults = {}
        acts = [self.complete, destroy]
        if FEW:
            turn = SIX.index((case.way, case.operation)) % len(acts)
            acts = [acts[turn]]
        with self.copied(case.way) as interrupted:
            self.act("now", interrupted, partial(interrupt, case=case))
            for act in acts:
                stage = interrupted.with_name(act.__name__)
                shutil.copytree(interrupted, stage)
                try:
                    self.act("now", stage, partial(resume, act=act))
                    faults[act.__name__] = ""
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    faults[act.__name__] = str(error)
        return faults

    def complete(self, checkout: Checkout) -> None:
        deploy(checkout)
        stage = describe(checkout)
        self.reference = self.reference or stage
        lines = difflib.unified_diff(self.reference.splitlines(), stage.splitlines(), n=0)
        assert stage == self.reference, "\n".join(lines)


def choose(way: str, operations: list[str]) -> Iterator[Case]:
    """Yield where to interrupt a way: after one write of each operation, at a different place for
    each; with ALL after each write; with FEW at the places in SIX.
    """
    writes: dict[str, list[Case]] = {}
    for number, operation in enumerate(operations, 1):
        writes.setdefault(operation, []).append(Case(way, number, operation))
    for turn, (operation, cases) in enumerate(writes.items()):
        if ALL:
            yield from cases
        elif not FEW or (way, operation) in SIX:
            yield cases[turn % len(cases)]


def operation_of(seen: str) -> str:
    """Return an operation without the names and ids of its path."""
    name, path, _ = seen.split()
    collections = re.sub(r"^/\d{4}-\d\d-\d\d|\?.*", "", path).strip("/").split("/")[::2]
    return f"{name} {'/'.join(collections)}".strip()


def resume(checkout: Checkout, act: Callable[[Checkout], None]) -> None:
    """Act while Lambda has not finished with any function."""
    functions = checkout.aws.direct("lambda").list_functions()["Functions"]
    checkout.aws.unfinished = {function["FunctionName"] for function in functions}
    act(checkout)


def destroy(checkout: Checkout) -> None:
    checkout.make(*DESTROY)
    left = describe(checkout)
    assert not left, left


def describe(checkout: Checkout) -> str:
    """Return what a deployment makes and sets of a stage, and what Chalice recorded of it."""
    parts: list[Any] = []
    of_no_state = [rf'"({OF_THE_PAST})": .*', AT_RANDOM]
    for line in DESCRIBED.split("\n")[1:-1]:
        service, listing, path, call, *parameters = line.split()
        client = checkout.aws.client(service)
        names = jmespath.search(path, getattr(client, listing)())
        if service == "apigateway":
            of_no_state += names
        for name in names:
            asked = ask(getattr(client, call), **dict.fromkeys(parameters, name))
            parts.append([call, name, asked])
    if checkout.record.exists():
        recorded = json.loads(checkout.record.read_text())["resources"]
        parts += [["recorded", resource["name"]] for resource in recorded]
    texts = [json.dumps(part, indent=1, sort_keys=True, default=str) for part in parts]
    return "\n".join(sorted(re.sub("|".join(of_no_state), "", text) for text in texts))


def ask(call: Callable[..., Any], **names: str) -> Any:
    """Return a response, or the code of its error, as for what does not exist."""
    try:
        return {**call(**names), "ResponseMetadata": None}
    except ClientError as error:
        return error.response["Error"]["Code"]


def main() -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        lab = Lab(Path(folder))
        missing = set()
        for version, commit in COMMITS.items():
            try:
                copy_packaged(lab.folder / version, commit)
            except subprocess.CalledProcessError:
                missing.add(version)
                print(f"SKIPPED: what needs {version}: its commit {commit} is not in this clone")
        wanted = dict(SIX) if FEW else WAYS
        ways = [way for way in wanted if not any(version in way for version in missing)]
        cases = []
        for way in track(ways, "ways"):
            cases += lab.begin(way)
        tried = pool.map(lab.try_case, cases)
        results = list(track(tried, "interruptions", total=len(cases)))
    rows = [
        (*case, *(faults.get(name, "not tried") or "done" for name in ("complete", "destroy")))
        for case, faults in zip(cases, results, strict=True)
    ]
    print_table(("after", "write", "interrupted after", "deployed again", "destroyed"), rows)
    failed = sum(any(faults.values()) for faults in results)
    minutes = (time.monotonic() - started) / 60
    print(f"{len(cases)} interruptions, {failed} failed, {minutes:.0f} min")
    return int(failed > 0 or (bool(missing) and not FEW))


if __name__ == "__main__":
    sys.exit(main())
