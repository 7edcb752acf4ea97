"""A stage as Chalice is told of it: its configuration, the settings given now, and what is there already.

Settings reach Chalice in memory: git tracks `.chalice/config.json`, and secrets never land there. What is there is read
from AWS by its names. Chalice itself believes a note that it writes at the end of a deployment, on the laptop that made
it; without one it would make a second API and refuse the event source that is there.
"""

import contextlib
import importlib
import json
import py_compile
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import chalice.app
from chalice.config import Config, DeployedResources

from tools import stage as stages

POLL_SECONDS = 3.0
COMPILED_BYTES = 8500
SCHEDULED = ("sweep", "check_dlq")

Resource = dict[str, str]


class StageConfig(Config):
    """Chalice's configuration, with `found` in the place of the note."""

    found: Sequence[Resource] = ()

    def deployed_resources(self, chalice_stage_name: str) -> DeployedResources:
        return DeployedResources({"resources": list(self.found)})


def chalice_config(stage: str, variables: Mapping[str, str], project: Path = stages.ROOT) -> StageConfig:
    """Return the configuration of `stage`, whose functions get `variables` too and are packaged from `project`.

    STAGE and the event source's variables must be in the environment: importing app.py reads them.
    """
    from_disk: dict[str, Any] = json.loads(stages.CONFIG.read_text())
    from_disk["stages"][stage]["environment_variables"] |= variables
    return StageConfig(
        chalice_stage=stage,
        user_provided_params={"chalice_app": lambda: importlib.import_module("app").app},
        config_from_disk=from_disk,
        default_params={"project_dir": str(project), "api_gateway_stage": stages.API_STAGE},
    )


@contextlib.contextmanager
def packageable() -> Iterator[Path]:
    """Give a project for Chalice to package: what runs on Lambda, and nothing that Python left beside it.

    Lambda would compile the sources at each cold start, so the large ones are in it compiled. A small one saves less
    time for its bytes.
    """
    with tempfile.TemporaryDirectory() as directory:
        project = Path(directory)
        shutil.copy(stages.ROOT / "requirements.txt", project)
        app = Path(shutil.copy(stages.ROOT / "app.py", project))
        library = Path(
            shutil.copytree(
                stages.ROOT / "chalicelib", project / "chalicelib", ignore=shutil.ignore_patterns("__pycache__")
            )
        )
        (project / ".chalice").symlink_to(stages.CONFIG.parent)
        _compile(Path(chalice.app.__file__), project / "vendor" / "chalice")
        _compile(app, project / "vendor")
        for module in library.glob("*.py"):
            _compile(module, library)
        yield project


def _compile(source: Path, folder: Path) -> None:
    """Compile a large source for `folder`. It counts by its hash: times do not come out of a zip as they went in."""
    if source.stat().st_size >= COMPILED_BYTES:
        compiled = folder / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        mode = py_compile.PycInvalidationMode.CHECKED_HASH
        # A name without the folder, or no two packages of the same sources would be the same.
        py_compile.compile(str(source), str(compiled), source.name, doraise=True, invalidation_mode=mode)


def find(stage: str) -> list[Resource]:
    """Return what Chalice made of a stage, in Chalice's words and order: it deletes from the last to the first.

    What AWS is still changing is waited for. Raises botocore's errors.
    """
    found = []
    for name in ("worker", "sweep", "check_dlq", "api_handler"):
        found += [*find_role(stage, name), *_function(stage, name)]
        if name == "worker":
            found += _event_source(stage)
        elif name in SCHEDULED:
            found += _rule(stage, name)
    return found + _rest_api(stage)


def find_role(stage: str, function: str) -> list[Resource]:
    iam, name = boto3.client("iam"), f"triggers-api-{stage}-{function}"
    role = _if_there(iam.exceptions.NoSuchEntityException, lambda: iam.get_role(RoleName=name)["Role"])
    if not role:
        return []
    return [{"name": f"{function}_role", "resource_type": "iam_role", "role_name": name, "role_arn": role["Arn"]}]


def find_function(stage: str, function: str) -> dict[str, Any]:
    """Return what Lambda tells of a function: `Configuration`, `Tags` and more, or nothing."""
    functions, name = boto3.client("lambda"), stages.function_name(stage, function)
    return (
        _if_there(functions.exceptions.ResourceNotFoundException, lambda: functions.get_function(FunctionName=name))
        or {}
    )


def _function(stage: str, function: str) -> list[Resource]:
    while found := find_function(stage, function):
        configuration = found["Configuration"]
        if configuration.get("State") != "Pending" and configuration.get("LastUpdateStatus") != "InProgress":
            return [{"name": function, "resource_type": "lambda_function", "lambda_arn": configuration["FunctionArn"]}]
        time.sleep(POLL_SECONDS)  # until then it takes no change
    return []


def event_sources(stage: str) -> list[dict[str, Any]]:
    """Return what feeds the worker, as Lambda tells it, whether or not the worker is there."""
    queue, worker = f":triggers-api-{stage}-inbox-queue", f":{stages.function_name(stage, 'worker')}"
    pages = boto3.client("lambda").get_paginator("list_event_source_mappings").paginate()
    sources: list[dict[str, Any]] = [source for page in pages for source in page["EventSourceMappings"]]
    return [
        source
        for source in sources
        if source.get("EventSourceArn", "").endswith(queue) and source.get("FunctionArn", "").endswith(worker)
    ]


def _event_source(stage: str) -> list[Resource]:
    while any(source["State"] == "Deleting" for source in event_sources(stage)):  # it is in the way of a new one
        time.sleep(POLL_SECONDS)
    return [
        {
            "name": "worker-sqs-event-source",
            "resource_type": "sqs_event",
            "queue": f"triggers-api-{stage}-inbox-queue",
            "queue_arn": source["EventSourceArn"],
            "event_uuid": source["UUID"],
            "lambda_arn": source["FunctionArn"],
        }
        for source in event_sources(stage)[:1]
    ]


def _rule(stage: str, function: str) -> list[Resource]:
    events, name = boto3.client("events"), f"triggers-api-{stage}-{function}-event"
    rule = _if_there(events.exceptions.ResourceNotFoundException, lambda: events.describe_rule(Name=name))
    return [{"name": f"{function}-event", "resource_type": "cloudwatch_event", "rule_name": name}] if rule else []


def _rest_api(stage: str) -> list[Resource]:
    pages = boto3.client("apigateway").get_paginator("get_rest_apis").paginate()
    apis = [api["id"] for page in pages for api in page["items"] if api["name"] == f"triggers-api-{stage}"]
    return [{"name": "rest_api", "resource_type": "rest_api", "rest_api_id": api} for api in apis[:1]]


def _if_there(absent: type[Exception], read: Callable[[], Any]) -> Any:
    try:
        return read()
    except absent:
        return None
