"""`make package STAGE=dev`: write one CloudFormation template for everything, and the zip that it
deploys, to build/package/.

`chalice package --merge-template` merges resources.json, and what ties the functions to it, into
its own template of the functions and the API.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from chalicelib.infra.parsing import Json
from tools import bytecode, gateway
from tools.configuration import read_config
from tools.stage import FUNCTION_SUFFIXES, ROOT, own_runtime, read_template, tags_of

OUT = ROOT / "build" / "package"


def package(stage: str, out: Path = OUT) -> None:
    """Write sam.json and deployment.zip of a stage.

    Raise ClickException if the configuration of the stage or this Python is unusable, and
    CalledProcessError if Chalice fails, after it printed why.

    :param out: The folder to write to, which is made if it is missing.
    """
    own_runtime()  # raises if this Python is unusable
    read_config(stage)  # raises if the configuration is unusable
    template = resources_and_additions(stage)
    bytecode.write()
    chalice = Path(sys.executable).with_name("chalice")
    # Chalice needs a region; the template is for any.
    environ = {"AWS_DEFAULT_REGION": "us-east-1", **os.environ}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as merged:
        json.dump(template, merged)
        merged.flush()
        subprocess.run(  # noqa: S603
            [chalice, "package", "--stage", stage, "--merge-template", merged.name, out],
            cwd=ROOT,
            env=environ,
            check=True,
        )


def resources_and_additions(stage: str) -> Json:
    """Return resources.json for a stage, with what Chalice's template lacks: names and settings of
    the functions, their queues by reference, and settings of the API.
    """
    template: Json = read_template(stage)
    template["Parameters"]["Stage"].update(Default=stage, AllowedValues=[stage])
    resources = template["Resources"]
    # A first creation that failed deletes its empty table, once someone has turned its protection
    # off.
    resources["EventsTable"]["DeletionPolicy"] = "RetainExceptOnCreate"
    for function, suffix in FUNCTION_SUFFIXES.items():
        properties: Json = {
            "FunctionName": f"triggers-api-{stage}{suffix}",
            "RecursiveLoop": "Allow",
            "LoggingConfig": gateway.LOGGING,
            "EventInvokeConfig": gateway.ONCE,
        }
        resources[function] = {"Properties": properties}
    # The event sources refer to the queues, so that CloudFormation creates the queues first. The
    # reference is a Fn::Sub, because it replaces the Fn::Sub that Chalice's template has here;
    # another function, such as Fn::GetAtt, would be merged beside that one.
    for function, queue in (("Worker", "InboxQueue"), ("SlowWorker", "SlowQueue")):
        source = {"Properties": {"Queue": {"Fn::Sub": f"${{{queue}.Arn}}"}}}
        resources[function]["Properties"]["Events"] = {f"{function}SqsEventSource": source}
    api = {
        # Without it the SAM transform makes a second, public API stage, which is named Stage.
        "OpenApiVersion": "2.0",
        # The gateway responses are part of the definition: an update of the definition would undo
        # gateway responses that are resources of their own.
        "DefinitionBody": {"x-amazon-apigateway-gateway-responses": gateway.RESPONSES},
        "MethodSettings": method_settings(),
        "Tags": tags_of(stage),
        "PropagateTags": True,  # from the stage of the API to the API
    }
    resources["RestAPI"] = {"Properties": api}
    return template


def method_settings() -> list[Json]:
    """Return the limits of the API's methods as CloudFormation writes them: calls a second, and
    calls at once (the burst).
    """
    settings = []
    for key, (rate, burst) in gateway.LIMITS.items():
        # Such as `~1events~1batch` and `POST`: API Gateway writes `~1` for a slash in the path.
        path, method = key.split("/")
        settings.append(
            {
                # CloudFormation writes the root's path as it is, and others with `~1`.
                "ResourcePath": f"/{path.removesuffix('~1')}",
                "HttpMethod": method,
                "ThrottlingRateLimit": rate,
                "ThrottlingBurstLimit": burst,
            }
        )
    return settings


@click.command()
@click.argument("stage")
def main(stage: str) -> None:
    """Package a stage, and print the folder; exit with the status of Chalice if Chalice fails."""
    try:
        package(stage)
    except subprocess.CalledProcessError as error:  # Chalice said why
        sys.exit(error.returncode)
    folder = OUT.relative_to(ROOT)
    print(f"{folder}: sam.json and deployment.zip; to deploy them, see docs/operations.md")


if __name__ == "__main__":
    main()
