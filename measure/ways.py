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

AT_ONCE = 2  # interruptions that are tried in parallel
COMMITS = {"now": "", "1.0.0": "1e0755a5"}
GIVEN: Any = {"ZAPIER_WEBHOOK_URL": "none", "API_KEYS": api_key.entry("acme", api_key.new_key())}
ALL = bool(os.environ.get("ALL"))
FEW = bool(os.environ.get("FEW"))


def deploy(checkout: Checkout) -> None:
    """Run `make deploy` with the variables of a first deployment."""
    checkout.make("deploy", **GIVEN)


def interrupt(checkout: Checkout, case: "Case") -> None:
    """Run the command of a case, and interrupt it after the write of the case."""
    command = DESTROY if case.way == DESTROYED else ("deploy",)
    checkout.interrupt([*MAKE, *command], number=case.number, MAKEFLAGS="", **GIVEN)


def undo(checkout: Checkout) -> None:
    """Undo an update, as docs/operations.md describes it, from a checkout of the earlier version:
    deploy its functions and its API without changing the stack of resources.
    """
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
    """Return the names of the steps of a way in WAYS; the way `nothing` has none."""
    return [] if way == "nothing" else way.split(", ")


class Case(NamedTuple):
    """A place at which a command is interrupted."""

    # The way in WAYS that comes before the command.
    way: str
    # The number of the write of the command, from 1, after which it is interrupted.
    number: int
    # The operation of this write, as `operation_of` returns it.
    operation: str


class Stage(NamedTuple):
    """A deployed stage after some steps."""

    # The folder with the state of its emulated AWS and Chalice's record of its deployment.
    folder: Path
    # The calls of the last of these steps, as `Ministack.seen` gets them.
    writes: list[str]


class Lab:
    """A folder with the code of each version, and the stages that steps have led to.

    :param folder: An existing folder, with a packaged checkout for each version in COMMITS.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # What `describe` returned after the first complete deployment; "" before it.
        self.reference = ""
        # The stage after each sequence of steps that was done.
        self.reached = dict[tuple[str, ...], Stage]()

    def act(self, version: str, stage: Path, act: Callable[[Checkout], None]) -> None:
        """Call a function with a new checkout of a version, whose AWS has the state in a folder,
        and save the changed state there.

        :param stage: The folder of a `Stage`.
        """
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
        """Return the stage after some steps. A sequence of steps is done at the first call, and
        its stage is returned again at later calls.
        """
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
        """Do a step on a stage: change the state in its folder, and append the calls of the step
        to its `writes`.
        """
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
        """Do the steps of a way and the command after it without an interruption; return the
        places at which to interrupt this command.
        """
        last = DESTROYING if way == DESTROYED else "now"
        seen = self.reach(*steps(way), last).writes
        return list(choose(way, [operation_of(write) for write in seen if is_write(write)]))

    @contextmanager
    def copied(self, way: str) -> Iterator[Path]:
        """Copy the folder of the stage after a way; yield the copy, which is deleted at the end of
        the block.
        """
        before = self.reach(*steps(way)).folder
        with tempfile.TemporaryDirectory() as folder:
            yield shutil.copytree(before, Path(folder, "stage"))

    def try_case(self, case: Case) -> dict[str, str]:
        """Interrupt a command; then complete the deployment of one copy of the interrupted stage,
        and destroy another copy.

        Return, by the names `complete` and `destroy`, why this failed, or "" if it succeeded. With
        FEW, only one of the two is tried.
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
        """Run `make deploy`; raise AssertionError if the stage then differs from the stage after
        the first complete deployment.
        """
        deploy(checkout)
        stage = describe(checkout)
        self.reference = self.reference or stage
        lines = difflib.unified_diff(self.reference.splitlines(), stage.splitlines(), n=0)
        assert stage == self.reference, "\n".join(lines)


def choose(way: str, operations: list[str]) -> Iterator[Case]:
    """Yield the places at which to interrupt the command after a way: after one write of each
    operation; with ALL, after each write; with FEW, only the places in SIX.

    For the first operation the first of its writes is chosen, for the second operation the second
    of its writes, and so on.

    :param operations: The operations of all writes of the command, in their order.
    """
    writes: dict[str, list[Case]] = {}
    for number, operation in enumerate(operations, 1):
        writes.setdefault(operation, []).append(Case(way, number, operation))
    for turn, (operation, cases) in enumerate(writes.items()):
        if ALL:
            yield from cases
        elif not FEW or (way, operation) in SIX:
            yield cases[turn % len(cases)]


def operation_of(call: str) -> str:
    """Return the operation of a call to AWS: `POST functions/policy` for
    `POST /2015-03-31/functions/worker/policy?Qualifier=1 201`.

    :param call: The method or the name of the action, the path without spaces, and the status.
    """
    name, path, _status = call.split()
    path = re.sub(r"^/\d{4}-\d\d-\d\d|\?.*", "", path)  # without the API's version and the query
    collections = path.strip("/").split("/")[::2]  # every second segment is a name or an id
    return f"{name} {'/'.join(collections)}".strip()


def resume(checkout: Checkout, act: Callable[[Checkout], None]) -> None:
    """Call a function with a checkout, while Lambda refuses to change any function because an
    earlier update of it goes on.
    """
    functions = checkout.aws.direct("lambda").list_functions()["Functions"]
    checkout.aws.unfinished = {function["FunctionName"] for function in functions}
    act(checkout)


def destroy(checkout: Checkout) -> None:
    """Run `make destroy`; raise AssertionError if something of the stage is left."""
    checkout.make(*DESTROY)
    left = describe(checkout)
    assert not left, left


def describe(checkout: Checkout) -> str:
    """Return, as text, all that a deployment has made in AWS and the resources that Chalice
    recorded, without times and random ids; "" if there is nothing.
    """
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
    """Call AWS; return the response, or the code of the error if AWS responds with an error.

    :param names: The parameters of the call.
    """
    try:
        return {**call(**names), "ResponseMetadata": None}
    except ClientError as error:
        return error.response["Error"]["Code"]


def main() -> int:
    """Try all interruptions and print a table of the results; return the exit status."""
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
