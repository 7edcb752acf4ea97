"""`make package STAGE=dev`: one CloudFormation template for everything, and the zip it deploys, in build/package/.

`chalice package --merge-template` merges resources.json, and an overlay that replaces names by references.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from chalicelib.settings import SettingsError
from tools.resources import ROOT, read_config, read_template

OUT = ROOT / "build" / "package"
# Chalice's name of a function: the logical ids of function, role and log group.
FUNCTIONS = {
    "api_handler": ("APIHandler", "ApiHandlerRole", "ApiLogs"),
    "worker": ("Worker", "WorkerRole", "WorkerLogs"),
    "sweep": ("Sweep", "SweepRole", "SweepLogs"),
    "check_dlq": ("CheckDlq", "CheckDlqRole", "CheckDlqLogs"),
}
# The end of an ARN in a policy file, whose account and region are wildcards, and the reference that replaces it.
ARNS = {
    "table/[^/]*-events": "EventsTable.Arn",
    "[^:]*-inbox-queue": "InboxQueue.Arn",
    "[^:]*-inbox-dlq": "InboxDLQ.Arn",
    'secret:[^"]*': "Settings.Id",
}


def package(stage: str, out: Path = OUT) -> None:
    """Write sam.json and deployment.zip; raise SettingsError or CalledProcessError."""
    template = read_template(stage)
    template["Parameters"]["Stage"] |= {"Default": stage, "AllowedValues": [stage]}
    template["Resources"] |= _overlay(stage)
    chalice = Path(sys.executable).with_name("chalice")
    environ = {"AWS_DEFAULT_REGION": "us-east-1", **os.environ}  # Chalice wants one; the template is for any
    with tempfile.NamedTemporaryFile("w", suffix=".json") as merged:
        json.dump(template, merged)
        merged.flush()
        command = [str(chalice), "package", "--stage", stage, "--merge-template", merged.name, str(out)]
        subprocess.run(command, cwd=ROOT, env=environ, check=True)  # noqa: S603


def _overlay(stage: str) -> dict[str, Any]:
    # Without OpenApiVersion the SAM transform makes a second, public API stage, which is named Stage.
    overlay: dict[str, Any] = {"RestAPI": {"Properties": {"OpenApiVersion": "2.0"}}}
    files = read_config(stage)["stages"][stage]["lambda_functions"]
    for name, (function, role, logs) in FUNCTIONS.items():
        suffix = "" if name == "api_handler" else f"-{name}"
        overlay[function] = {"Properties": {"FunctionName": f"triggers-api-{stage}{suffix}"}}
        policy = (ROOT / ".chalice" / files[name]["iam_policy_file"]).read_text()
        for end, reference in {**ARNS, 'log-group:[^"]*': f"{logs}.Arn"}.items():
            pattern = rf'"arn:\*:\w+:\*:\*:{end}(/[^"]*)?"'
            policy = re.sub(pattern, rf'{{"Fn::Sub": "${{{reference}}}\1"}}', policy)
        overlay[role] = {"Properties": {"Policies": [{"PolicyName": role, "PolicyDocument": json.loads(policy)}]}}
    # Chalice has Fn::Sub here, too: another function would be merged beside it.
    queue = {"Queue": {"Fn::Sub": "${InboxQueue.Arn}"}}
    overlay["Worker"]["Properties"]["Events"] = {"WorkerSqsEventSource": {"Properties": queue}}
    return overlay


def main(stage: str) -> int:
    try:
        package(stage)
    except SettingsError as error:
        print(f"make package: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:  # Chalice said why
        return error.returncode
    print(f"{OUT.relative_to(ROOT)}: sam.json and deployment.zip; docs/runbook.md tells how to deploy them")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
