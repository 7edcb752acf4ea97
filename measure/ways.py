"""`make ways`: interrupt `make deploy` and `make destroy` after their writes to an emulated AWS.

A way is a sequence of steps (deploy a version, undo an update) that leads to a stage. After each
way the command is interrupted: after a write the network is cut off, before the response arrives,
and the command is killed; Lambda has not finished with any function yet. `make deploy` must then
complete, and leave the stage as a first deployment that is not interrupted does; `make destroy`
must leave nothing.

After each way, the command is interrupted once for each operation that writes; with ALL=1, after
each write. The exit status is 1 if one of them fails.
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
NOW = "now"  # the present version
COMMITS = {NOW: "", "1.0.0": "1e0755a5"}  # of each version; "": the present files
GIVEN: Any = {"ZAPIER_WEBHOOK_URL": "none", "API_KEYS": api_key.entry("acme", api_key.new_key())}
ALL = bool(os.environ.get("ALL"))


def deploy(checkout: Checkout) -> None:
    """Run `make deploy` with the variables of a first deployment."""
    checkout.make("deploy", **GIVEN)


def interrupt(checkout: Checkout, case: "Case") -> None:
    """Run the command that follows the way of a case, `make deploy` or `make destroy`; interrupt it
    after the write of the case.
    """
    command = DESTROY if case.way == DESTROYED else ("deploy",)
    # Without the flags of the `make ways` that runs this process.
    checkout.interrupt([*MAKE, *command], number=case.number, MAKEFLAGS="", **GIVEN)


def undo(checkout: Checkout) -> None:
    """Undo an update, as docs/operations.md describes it: deploy the functions and the API of an
    earlier version, without changing the stack of resources.

    :param checkout: A checkout of the earlier version.
    """
    checkout.chalice("deploy")
    checkout.configure_api()


DESTROY = ("destroy", "CONFIRM=dev")  # the arguments of make
# The way after which the interrupted command is `make destroy`; after the others it is `make
# deploy`.
DESTROYED = NOW
# The name of the step that runs `make destroy`. All other steps end with the name of a version.
DESTROYING = "destroy"
# The ways: the steps before the interrupted command, separated by commas. The step that has the
# name of a version deploys it. An undo keeps the newer record of Chalice, as docs/operations.md
# says, or brings back the record of its own version.
WAYS = (
    "nothing",
    "1.0.0",
    "1.0.0, now, undo to 1.0.0",
    "1.0.0, now, undo to 1.0.0 with the record of 1.0.0",
    DESTROYED,
)
# How to describe what a deployment makes and sets. Each line has a service, the call that lists
# names (or ids), the JMESPath expression for the names in its response, the call that describes
# what has the name, and the parameters of this call, all of which get the name.
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
# Members of responses that differ between two runs, because they have times or ids.
DIFFERENT_MEMBERS = (
    r"ChangeSetId|CreateDate|CreationTime|LastModified|LastProcessingResult|LastUpdatedTime|"
    r"Location|RoleId|StackId|StackStatus|StateReason\w*|createdDate|deploymentId|id|"
    r"lastUpdatedDate|rootResourceId"
)
# Parts of other members that differ between two runs: addresses and UUIDs.
DIFFERENT_PARTS = r"localhost:\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def split_into_steps(way: str) -> list[str]:
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
    """A stage after some steps."""

    # The folder with all that the stage is: `state` of its emulated AWS, `deployed`, which is
    # Chalice's record of what it has deployed, and, in a folder with the name of each version that
    # was deployed, the record after the last step of that version.
    folder: Path
    # The calls of AWS that the last of these steps made, reads among them, as `Ministack.seen` gets
    # them; empty for a stage without steps.
    calls: list[str]


class Lab:
    """A folder with the code of each version, and the stages to which steps have led."""

    def __init__(self, folder: Path) -> None:
        """Use a folder in which no step was done.

        :param folder: An existing folder. Before the first step, the caller puts a packaged
            checkout of each version in COMMITS into it, under the name of the version.
        """
        self.folder = folder
        # What `describe` returned after the first complete deployment; "" before it.
        self.reference = ""
        # The stage after each sequence of steps that was done.
        self.reached = dict[tuple[str, ...], Stage]()

    def use_checkout(
        self, version: str, stage_folder: Path, act: Callable[[Checkout], None]
    ) -> None:
        """Call a function with a checkout of a version that works on a stage. All that the function
        changes, in the emulated AWS and in Chalice's record, is saved in the folder of the stage.

        :param version: The name of the version in COMMITS.
        :param stage_folder: The `folder` of the stage.
        :param act: The function, which runs commands of the checkout.
        """
        with (
            tempfile.TemporaryDirectory() as folder,
            ministack(stage_folder / "log", stage_folder / "state") as aws,
        ):
            path = Path(folder, "checkout")
            shutil.copytree(self.folder / version, path, symlinks=True)
            checkout = Checkout(path, aws)
            # Chalice writes its record into the folder of the stage.
            checkout.record.parent.symlink_to(stage_folder / "deployed")
            act(checkout)

    def reach(self, *steps: str) -> Stage:
        """Return the stage after some steps; without any, a stage on which nothing is deployed.

        At the first call, do the last step on a copy of the stage after the steps before it. Later
        calls with the same steps return the same stage.

        :param steps: The steps in their order, as `do_step` describes them.
        """
        if steps not in self.reached:
            folder = self.folder / "stages" / ", ".join(steps or ["nothing"])
            stage = Stage(folder, calls=[])  # `do_step` appends the calls that it makes
            self.reached[steps] = stage
            if steps:
                before = self.reach(*steps[:-1])
                shutil.copytree(before.folder, folder)
                self.do_step(steps[-1], stage)
            else:
                (folder / "deployed").mkdir(parents=True)
        return self.reached[steps]

    def do_step(self, step: str, stage: Stage) -> None:
        """Do a step of a way on a stage: change the stage in its folder, and append the calls of
        AWS that the step makes to `calls` of the stage.

        :param step: One of these, where a version is `now` (the present one) or `1.0.0`:

            - a version: deploy it by `make deploy`; after `now`, also compare the stage with the
              first complete deployment
            - `undo to` a version: deploy this earlier version without changing the stack
            - `undo to` a version `with the record of` the same version: restore the record that
              Chalice wrote when the version was deployed, and do the same
            - DESTROYING: run `make destroy` of the present version
        """
        version = NOW if step == DESTROYING else step.split()[-1]
        record = stage.folder / "deployed"
        if "record" in step:
            shutil.rmtree(record)
            shutil.copytree(stage.folder / version, record)
        if step.startswith("undo"):
            act = undo
        elif step == DESTROYING:
            act = destroy
        elif step == NOW:
            act = self.complete
        else:
            act = deploy

        def note_calls_and_act(checkout: Checkout) -> None:
            """Do the step in a checkout, and note each call of AWS that it makes."""
            checkout.aws.seen = stage.calls.append
            act(checkout)

        self.use_checkout(version, stage.folder, note_calls_and_act)
        # For a later undo with this record.
        shutil.copytree(record, stage.folder / version, dirs_exist_ok=True)

    def find_cases(self, way: str) -> list[Case]:
        """Do the steps of a way and the command after it without an interruption; return the
        places at which to interrupt this command: some of its writes to AWS.

        :param way: The steps in one text, as WAYS has it. The command after the way DESTROYED is
            `make destroy`, and after any other way `make deploy`.
        """
        command = DESTROYING if way == DESTROYED else NOW
        calls = self.reach(*split_into_steps(way), command).calls
        operations = [operation_of(call) for call in calls if is_write(call)]
        return list(choose(way, operations))

    @contextmanager
    def copied(self, way: str) -> Iterator[Path]:
        """Copy the folder of the stage after a way; yield the copy, which is deleted at the end of
        the block with all folders beside it.

        :param way: The steps in one text, as WAYS has it.
        """
        reached = self.reach(*split_into_steps(way)).folder
        with tempfile.TemporaryDirectory() as folder:
            yield shutil.copytree(reached, Path(folder, "stage"))

    def try_case(self, case: Case) -> dict[str, str]:
        """Interrupt the command after a way; then complete the deployment of one copy of the
        interrupted stage, and destroy another copy.

        :returns: By the names `complete` and `destroy`, the error of what was tried; "": it
            succeeded.
        """
        errors = {}
        with self.copied(case.way) as interrupted:
            self.use_checkout(NOW, interrupted, partial(interrupt, case=case))
            for act in (self.complete, destroy):
                stage_folder = interrupted.with_name(act.__name__)
                shutil.copytree(interrupted, stage_folder)
                try:
                    self.use_checkout(NOW, stage_folder, partial(resume, act=act))
                    errors[act.__name__] = ""
                except (AssertionError, subprocess.TimeoutExpired) as error:
                    errors[act.__name__] = str(error)
        return errors

    def complete(self, checkout: Checkout) -> None:
        """Run `make deploy`, and compare the stage with the stage after the first call of this
        method; raise AssertionError with the differences if there are any.
        """
        deploy(checkout)
        description = describe(checkout)
        if not self.reference:
            self.reference = description
        differences = difflib.unified_diff(
            self.reference.splitlines(), description.splitlines(), n=0
        )
        assert description == self.reference, "\n".join(differences)


def choose(way: str, operations: list[str]) -> Iterator[Case]:
    """Yield the places at which to interrupt the command after a way: after one write of each
    operation; with ALL, after each write.

    Of several writes with the same operation, the first is chosen for the first operation, the
    second for the second operation, and so on, beginning again after the last write.

    :param operations: The operations of all writes of the command, in their order.
    """
    cases_by_operation: dict[str, list[Case]] = {}
    for number, operation in enumerate(operations, 1):
        cases_by_operation.setdefault(operation, []).append(Case(way, number, operation))
    for turn, cases in enumerate(cases_by_operation.values()):
        if ALL:
            yield from cases
        else:
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
    """Call a function with a checkout, while Lambda refuses to change any function because its
    earlier update goes on. The updates end when a function's configuration is read.

    :param act: The function, which runs commands of the checkout.
    """
    # A client whose calls are neither recorded nor refused.
    client = checkout.aws.direct("lambda")
    functions = client.list_functions()["Functions"]
    # The emulated AWS refuses changes of these functions.
    checkout.aws.unfinished = {function["FunctionName"] for function in functions}
    act(checkout)


def destroy(checkout: Checkout) -> None:
    """Run `make destroy`; raise AssertionError if something of the stage is left."""
    checkout.make(*DESTROY)
    rest = describe(checkout)
    assert not rest, rest


def describe(checkout: Checkout) -> str:
    """Return, as text, all that a deployment has made in AWS, as DESCRIBED lists it, and the
    resources that Chalice recorded, without times and random ids; "" if there is nothing.
    """
    descriptions: list[Any] = []
    # Patterns of the texts that differ between two runs.
    left_out = [rf'"({DIFFERENT_MEMBERS})": .*', DIFFERENT_PARTS]
    for line in DESCRIBED.strip().split("\n"):
        # A line such as `iam list_roles Roles[].RoleName get_role RoleName`: list the roles, take
        # the names at the path, and call `get_role` with each name as the parameter RoleName.
        service, list_call, path, describe_call, *parameters = line.split()
        client = checkout.aws.client(service)
        names = jmespath.search(path, getattr(client, list_call)())
        if service == "apigateway":
            left_out += names  # which are random ids of APIs
        for name in names:
            arguments = dict.fromkeys(parameters, name)
            response = call_aws(getattr(client, describe_call), **arguments)
            descriptions.append([describe_call, name, response])
    if checkout.record.exists():
        recorded = json.loads(checkout.record.read_text())["resources"]
        descriptions += [["recorded", resource["name"]] for resource in recorded]
    texts = [json.dumps(part, indent=1, sort_keys=True, default=str) for part in descriptions]
    return "\n".join(sorted(re.sub("|".join(left_out), "", text) for text in texts))


def call_aws(call: Callable[..., Any], **parameters: str) -> Any:
    """Call AWS; return the response without the data of the HTTP response, which differ between two
    runs, or the code of the error if AWS responds with an error.

    :param call: A method of a boto3 client.
    """
    try:
        return {**call(**parameters), "ResponseMetadata": None}
    except ClientError as error:
        return error.response["Error"]["Code"]


def main() -> int:
    """Try all interruptions, and print a table of the results. Return the exit status: 1 if a
    command failed after an interruption, or if a version is not in this clone; else 0.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        lab = Lab(Path(folder))
        missing_versions = set()
        for version, commit in COMMITS.items():
            try:
                copy_packaged(lab.folder / version, commit)
            except subprocess.CalledProcessError:
                missing_versions.add(version)
                print(f"SKIPPED: what needs {version}: its commit {commit} is not in this clone")
        ways = [way for way in WAYS if not any(version in way for version in missing_versions)]
        cases = []
        for way in track(ways, "ways"):
            cases += lab.find_cases(way)
        tried = pool.map(lab.try_case, cases)
        results = list(track(tried, "interruptions", total=len(cases)))
    rows = []
    for case, errors in zip(cases, results, strict=True):
        # "" is the error of what succeeded.
        deployed = errors["complete"] or "done"
        destroyed = errors["destroy"] or "done"
        rows.append((case.way, case.number, case.operation, deployed, destroyed))
    print_table(("after", "write", "interrupted after", "deployed again", "destroyed"), rows)
    failed = sum(any(errors.values()) for errors in results)
    minutes = (time.monotonic() - started) / 60
    print(f"{len(cases)} interruptions, {failed} failed, {minutes:.0f} min")
    return 1 if failed or missing_versions else 0


if __name__ == "__main__":
    sys.exit(main())
