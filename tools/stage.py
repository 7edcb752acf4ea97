"""The names of a stage's resources, and the resources that `make deploy` and Chalice created."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import click
import jmespath
from botocore.exceptions import ClientError
from chalice.config import Config

from chalicelib import __version__
from chalicelib.infra.parsing import Json
from tools.command_line import print_place

ROOT = Path(__file__).parent.parent
# The suffix of each function's name, by the name that Chalice's template has for the function. The
# function's log group has the same suffix.
FUNCTION_SUFFIXES = {
    "APIHandler": "",
    "Worker": "-worker",
    "SlowWorker": "-slow_worker",
    "Sweep": "-sweep",
    "CheckDlq": "-check_dlq",
}
# The name of each function in .chalice/config.json and in Chalice's record, by its suffix.
FUNCTION_NAMES = {suffix: suffix[1:] or "api_handler" for suffix in FUNCTION_SUFFIXES.values()}
# The Python runtimes of Lambda for which the tests run.
RUNTIMES = ("python3.11", "python3.12", "python3.13", "python3.14")


def chalice_folder() -> Path:
    """Return the folder of Chalice's configuration, policies and records."""
    return ROOT / ".chalice"


def read_template(stage: str) -> Any:
    """Return the CloudFormation template of a stage's resources, with this version in an output.

    A `Fn::Sub` that refers only to the stage is replaced by its text, because CloudFormation does
    not import a resource whose name has `Fn::Sub`.
    """

    def spell_out(part: Json) -> Any:
        """Return the text of an object `{"Fn::Sub": "..."}` with the name of the stage inserted.
        Return any other object, or one that refers to something else, unchanged.
        """
        if "Fn::Sub" not in part:
            return part
        text = str(part["Fn::Sub"]).replace("${Stage}", stage)
        refers_to_others = "${" in text
        return part if refers_to_others else text

    template = json.loads((ROOT / "resources.json").read_text(), object_hook=spell_out)
    template["Outputs"]["Version"] = {"Value": __version__}
    return template


def tags_of(stage: str) -> dict[str, str]:
    """Return the tags of all resources of a stage. Cost reports can be grouped by them."""
    return {"Service": "triggers-api", "Environment": stage}


def stack_name(stage: str) -> str:
    """Return the name of the stack of `make resources`."""
    return f"triggers-api-{stage}-resources"


def find_functions(stage: str, region: str | None = None) -> Json:
    """Return the configurations of the stage's deployed functions, as Lambda lists them, by the
    name of the function.

    :param region: The region of the functions; None: the region of the environment.
    """
    names = {f"triggers-api-{stage}{suffix}" for suffix in FUNCTION_SUFFIXES.values()}
    client = boto3.client("lambda", region_name=region)
    functions = client.get_paginator("list_functions").paginate().search("Functions[]")
    return {
        function["FunctionName"]: function
        for function in functions
        if function["FunctionName"] in names
    }


# A JMESPath expression for the configuration that Lambda returns of a function.
IS_BUSY = "State == 'Pending' || LastUpdateStatus == 'InProgress'"


def await_functions(stage: str) -> None:
    """Wait until Lambda has created or updated the stage's functions, and print their names.

    Until then, which takes about a minute in a VPC, Lambda refuses changes
    (ResourceConflictException).
    """
    client = boto3.client("lambda")
    for name in find_functions(stage):
        while jmespath.search(IS_BUSY, client.get_function_configuration(FunctionName=name)):
            print(f"waiting for {name}, which Lambda has not finished", flush=True)
            time.sleep(1)


def find_roles(stage: str) -> Json:
    """Return the roles that Chalice created for the stage's functions, by name. Roles have no
    region.
    """
    get_role = boto3.client("iam").get_role
    names = [role_name(stage, suffix) for suffix in FUNCTION_SUFFIXES.values()]
    roles = {name: describe(get_role, RoleName=name).get("Role") for name in names}
    return {name: role for name, role in roles.items() if role}


def read_policy(stage: str, suffix: str) -> Json:
    """Return the inline policy that Chalice gave the role of a function, empty if there is none.

    :param suffix: The end of the function's name, such as `-worker`, as FUNCTION_SUFFIXES has it.
    """
    name = role_name(stage, suffix)  # the name of the role and of its policy
    get_policy = boto3.client("iam").get_role_policy
    policy: Json = describe(get_policy, RoleName=name, PolicyName=name).get("PolicyDocument", {})
    return policy


def find_apis(stage: str) -> list[str]:
    """Return the ids of the stage's REST APIs: one, or none before the first deployment."""
    apis = boto3.client("apigateway").get_paginator("get_rest_apis").paginate()
    return list(apis.search(f"items[?name == 'triggers-api-{stage}'].id"))


def own_runtime() -> str:
    """Return the runtime with which Chalice deploys functions: the Python of this process. Raise
    ClickException if it is not one of RUNTIMES.
    """
    own = Config().lambda_python_version
    if own not in RUNTIMES:
        raise click.ClickException(
            f".venv has {own}, but functions can only run on {', '.join(RUNTIMES)}. Install one of "
            f"these, rm -r .venv, and repeat the command with, for example, PYTHON={RUNTIMES[-1]}"
        )
    return own


OTHER_PYTHON = """\
the functions of {stage} have, or RUNTIME names, {wanted}, and .venv has {own}. Run one of these:
  rm -r .venv && make deploy STAGE={stage} PYTHON={newest} RUNTIME={newest}
  make deploy STAGE={stage} RUNTIME={own}"""


def check_runtime(stage: str) -> None:
    """Raise ClickException if a deployment would change the runtime of functions, and the variable
    RUNTIME does not name the new one; also raise it if RUNTIME names another runtime than that of
    this process, which the deployment would use.
    """
    own = own_runtime()
    named = os.environ.get("RUNTIME")
    deployed = sorted({function["Runtime"] for function in find_functions(stage).values()})
    if named:
        wanted = [named]
    elif deployed:
        wanted = deployed  # several, if a deployment was interrupted
    else:
        wanted = [own]  # at the first deployment
    if wanted != [own]:
        raise click.ClickException(
            OTHER_PYTHON.format(
                stage=stage, wanted=" and ".join(wanted), own=own, newest=wanted[-1]
            )
        )


OTHER_ACCOUNT = """\
nothing was changed: .chalice/deployed/{stage}.json names functions of account {recorded}, and these
credentials are of account {account}. Use credentials of account {recorded}, or choose another name
for a stage in this account. If the stage does not exist in account {recorded} any more:
  git rm .chalice/deployed/{stage}.json"""


def check_account(stage: str) -> None:
    """Print the account, the region and the stage of the command; raise ClickException if Chalice's
    record of the stage names another account.
    """
    account = print_place(stage)
    for recorded in re.findall(r":lambda:[^:]+:(\d+):", read_record(stage)):
        if recorded != account:
            raise click.ClickException(
                OTHER_ACCOUNT.format(stage=stage, recorded=recorded, account=account)
            )


# The tag with which CloudFormation marks the resources of a stack.
STACK_TAG = "aws:cloudformation:stack-name"
NOT_MADE_HERE = """\
nothing was changed: {stage} is no stage that `make deploy` created in {here}.
  functions here, and roles: {names}
  stack that they belong to: {owners}
  other regions that the roles or .chalice/deployed/{stage}.json name: {regions}
Roles have no region, so changing them here would change the stage {stage} in any region. Set
AWS_REGION to the region of the stage, or choose another name for a stage here. For a stack of
`make package`, see docs/operations.md, One stack for everything."""


def check_place(stage: str, *, has_stack: bool, is_deleting: bool) -> None:
    """Raise ClickException if functions or roles have the stage's names, and `make deploy` did not
    create them in this account and region.

    :param has_stack: Whether this region has the stack of `make resources`, which is created first
        and deleted last.
    :param is_deleting: Whether the caller is going to delete the stage.
    """
    client = boto3.client("lambda")
    functions = find_functions(stage)
    roles = find_roles(stage)
    arns = [function["FunctionArn"] for function in functions.values()]
    tags_by_function = [client.list_tags(Resource=arn)["Tags"] for arn in arns]
    # The stacks that created functions: those of `make package`, since Chalice uses no stack.
    owners = {tags[STACK_TAG] for tags in tags_by_function if STACK_TAG in tags}
    here = client.meta.region_name
    recorded = re.findall(":lambda:([^:]+):", read_record(stage))
    # The other regions in which the stage may be. IAM shows only the region in which a role was
    # last used.
    regions = {*jmespath.search("*.RoleLastUsed.Region", roles), *recorded} - {here}
    is_elsewhere = any(find_functions(stage, region) for region in regions)
    # Plain `chalice deploy` makes functions before there is a stack. They may be updated, but not
    # deleted. Roles alone may belong to a stage in a region that is not known here.
    has_own_functions = functions and not is_deleting
    is_made_here = has_stack or has_own_functions or not roles
    if owners or is_elsewhere or not is_made_here:
        raise click.ClickException(
            NOT_MADE_HERE.format(
                names=", ".join(sorted(functions | roles)),
                here=here,
                owners=", ".join(owners),
                regions=", ".join(regions),
                stage=stage,
            )
        )


def role_name(stage: str, suffix: str) -> str:
    """Return the name of a function's role. The names of the role's inline policy and of the
    function's EventBridge rule begin with it.

    :param suffix: The end of the function's name, such as `-worker`; empty for the function of the
        API, whose name has no such end.
    """
    return f"triggers-api-{stage}-{FUNCTION_NAMES[suffix]}"


def describe(call: Callable[..., Json], **name: str) -> Json:
    """Return the response of a call about a named resource, or an empty one if the resource does
    not exist.

    :param call: A method of a boto3 client.
    :param name: The parameters that name the resource.
    """
    try:
        return call(**name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchEntity", "ResourceNotFoundException"):
            raise
    return {}


def read_record(stage: str) -> str:
    """Return the text of Chalice's record of a stage, or an empty text if there is no record."""
    record = record_path(stage)
    return record.read_text() if record.exists() else ""


def record_path(stage: str) -> Path:
    """Return the path of Chalice's record of the resources that it deployed for a stage."""
    return chalice_folder() / "deployed" / f"{stage}.json"
