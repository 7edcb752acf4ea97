"""`make package STAGE=dev`: one CloudFormation template for everything, and the zip it deploys, in `build/package/`.

Chalice makes the template of the functions and the API. Added here: `resources.json`, parameters for what is secret,
log groups, and references in the place of names.
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from botocore.session import Session
from chalice.awsclient import TypedAWSClient
from chalice.package import PackageOptions, TemplateDeepMerger, create_app_packager

from tools import stage as stages
from tools.deployed import chalice_config, packageable

OUT = stages.ROOT / "build" / "package"
RESOURCES = stages.ROOT / "resources.json"
OVERLAY = Path(__file__).parent / "package_overlay.json"
LOG_RETENTION_DAYS = 30

# The logical ids that Chalice gives to the functions.
LOGICAL_IDS = {"api_handler": "APIHandler", "worker": "Worker", "sweep": "Sweep", "check_dlq": "CheckDlq"}
NAMED = {"events": "EventsTable", "inbox-queue": "InboxQueue", "inbox-dlq": "InboxDLQ"}
VARIABLES = {
    "EVENTS_TABLE_NAME": {"Ref": "EventsTable"},
    "INBOX_QUEUE_URL": {"Ref": "InboxQueue"},
    "INBOX_DLQ_URL": {"Ref": "InboxDLQ"},
    "ZAPIER_WEBHOOK_URL": {"Ref": "ZapierWebhookUrl"},
    "API_KEYS": {"Ref": "ApiKeys"},
    "WEBHOOK_SIGNING_SECRETS": {"Ref": "WebhookSigningSecrets"},
    "METRICS_NAMESPACE": {"Ref": "MetricsNamespace"},
}

DEPLOY = """\
build/package/ has sam.json, the template of everything, and deployment.zip. To deploy them with the AWS CLI:

  aws cloudformation package --template-file build/package/sam.json --s3-bucket YOUR-BUCKET \\
    --output-template-file build/package/packaged.yaml
  aws cloudformation deploy --template-file build/package/packaged.yaml --stack-name triggers-api-{stage} \\
    --s3-bucket YOUR-BUCKET --capabilities CAPABILITY_IAM CAPABILITY_AUTO_EXPAND \\
    --parameter-overrides AlarmEmail="$ALARM_EMAIL" AccessLogs=off ZapierWebhookUrl="$ZAPIER_WEBHOOK_URL" \\
    ApiKeys="$API_KEYS" WebhookSigningSecrets="$WEBHOOK_SIGNING_SECRETS\""""


def overlay() -> dict[str, Any]:
    """Return what `resources.json` and Chalice know nothing of: parameters, throttling, access logs."""
    template: dict[str, Any] = json.loads(OVERLAY.read_text())
    return template


def package(stage: str, variables: dict[str, str], out: Path = OUT) -> dict[str, Any]:
    """Write `sam.json` and `deployment.zip` into `out`, and return the template. `variables` are set as they stand."""
    options = PackageOptions(TypedAWSClient(Session()))
    with packageable() as project, tempfile.NamedTemporaryFile("w", suffix=".json") as merged:
        json.dump(TemplateDeepMerger().merge(overlay(), json.loads(RESOURCES.read_text())), merged)
        merged.flush()
        config = chalice_config(stage, variables, project)
        packager = create_app_packager(config, options, merge_template=merged.name)
        packager.package_app(config, str(out), stage)
    file = out / "sam.json"
    arns = {f"triggers-api-{stage}-{name}": logical_id for name, logical_id in NAMED.items()}
    arns |= {f"{stages.log_group(stage, function)}:*": f"{name}Logs" for function, name in LOGICAL_IDS.items()}
    template: dict[str, Any] = _with_references(json.loads(file.read_text()), arns)
    # CloudFormation can take over a table that an earlier stack left, by a name that it need not compute.
    template["Resources"]["EventsTable"]["Properties"]["TableName"] = f"triggers-api-{stage}-events"
    template["Parameters"]["Stage"] |= {"Default": stage, "AllowedValues": [stage]}
    if "METRICS_NAMESPACE" in variables:
        template["Parameters"]["MetricsNamespace"]["Default"] = variables["METRICS_NAMESPACE"]
    for function, logical_id in LOGICAL_IDS.items():
        _complete(template["Resources"], stage, function, logical_id)
    file.write_text(json.dumps(template, indent=2) + "\n")
    return template


def _complete(resources: dict[str, Any], stage: str, function: str, logical_id: str) -> None:
    """Give a function its name, its references and its log group: made first, or Lambda would make one of its own."""
    logs = f"{logical_id}Logs"
    resources[logical_id]["DependsOn"] = logs
    properties = resources[logical_id]["Properties"]
    properties["FunctionName"] = _named(stages.function_name(stage, function), stage)
    properties["Environment"]["Variables"] |= VARIABLES
    resources[logs] = {
        "Type": "AWS::Logs::LogGroup",
        "Properties": {
            "LogGroupName": _named(stages.log_group(stage, function), stage),
            "RetentionInDays": LOG_RETENTION_DAYS,
        },
    }


def _named(name: str, stage: str) -> dict[str, str]:
    return {"Fn::Sub": name.replace(f"triggers-api-{stage}", "triggers-api-${Stage}", 1)}


def _with_references(part: Any, arns: dict[str, str]) -> Any:
    """Return `part` with a reference for each name in `arns`, where policies and the event source spell an ARN out."""
    match part:
        case str() if part.startswith("arn:"):
            return _reference(part, arns) or part
        case {"Fn::Sub": str(arn)} if _reference(arn, arns):
            return _reference(arn, arns)
        case dict():
            return {key: _with_references(value, arns) for key, value in part.items()}
        case list():
            return [_with_references(value, arns) for value in part]
    return part


def _reference(arn: str, arns: dict[str, str]) -> dict[str, str] | None:
    for name, logical_id in arns.items():
        if match := re.fullmatch(f"arn:.*[:/]{re.escape(name)}(/.*)?", arn):
            return {"Fn::Sub": f"${{{logical_id}.Arn}}{match[1] or ''}"}
    return None


def main(stage: str) -> int:
    """Say what is wrong with what is given, or what was made and how it is deployed."""
    _, faults = stages.check({**os.environ, "STAGE": stage}, {**stages.TABLE_AND_QUEUES, **stages.WEBHOOK_AND_KEYS})
    faults += stages.unknown(stage)
    if faults:
        print("make package: nothing was made, since", *faults, sep="\n  ", file=sys.stderr)
        return 1
    os.environ["STAGE"] = stage  # app.py reads it
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # Chalice asks for one; the template is for any
    given = stages.given(os.environ)
    package(stage, {name: given[name] for name in stages.OPTIONAL if name in given})
    print(DEPLOY.format(stage=stage))
    return 0


if __name__ == "__main__":
    sys.exit(main(os.environ.get("STAGE") or "dev"))
