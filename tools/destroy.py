"""`make destroy STAGE=dev`: takes down what `make deploy` made. The table stays, and is named.

Every step can be repeated: stopped midway, it is run again.
"""

import contextlib
import os
import sys

import boto3
from botocore.session import Session
from chalice.awsclient import TypedAWSClient
from chalice.deploy.deployer import create_deletion_deployer
from chalice.utils import UI

from tools import deployed
from tools import stage as stages
from tools.deploy import DeployError, account_faults, console, package_stack, resources_stack, run
from tools.gateway import ACCESS_LOG_ROLE


def destroy(stage: str) -> None:
    """Take down a stage; raise DeployError, and what AWS and Chalice raise."""
    faults = stages.unknown(stage) + account_faults()
    if not faults and (name := package_stack(worker := deployed.find_function(stage, "worker"))):
        faults.append(f"STAGE {stage} is the packaged stack {name}: delete that")
    if faults:
        raise DeployError("\n  ".join(["nothing was changed, since", *faults]))
    stack = resources_stack(stage)
    if not stack.exists and not worker:  # in a wrong region, where only the roles are seen
        console.print(f"There is no stage {stage} in this account and region.")
        return
    os.environ["STAGE"] = stage  # app.py reads it, and some of the others, which do not matter here
    for name in stages.OPTIONAL:
        os.environ.pop(name, None)
    with console.status(f"stage {stage}"):
        config = deployed.chalice_config(stage, {})
        config.found = deployed.find(stage)
        create_deletion_deployer(TypedAWSClient(Session()), UI()).deploy(config, stage)
        _delete_log_groups(stage)
        stack.delete()
    console.print(
        f"Stage {stage} is taken down. Its events are kept in the table triggers-api-{stage}-events: "
        f"make deploy STAGE={stage} takes it over again. To delete it for good:\n"
        f"  aws dynamodb delete-table --table-name triggers-api-{stage}-events\n"
        f"API Gateway's role for logs is kept, too, if it was made: {ACCESS_LOG_ROLE} serves the whole account."
    )


def _delete_log_groups(stage: str) -> None:
    logs = boto3.client("logs")
    for name in stages.log_groups(stage):
        with contextlib.suppress(logs.exceptions.ResourceNotFoundException):
            logs.delete_log_group(logGroupName=name)


if __name__ == "__main__":
    sys.exit(run("make destroy", destroy, os.environ.get("STAGE", "")))
