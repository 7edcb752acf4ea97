"""What resources.json describes, and what `make package` makes of it and of the functions."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import botocore.session
import pytest

from chalicelib.core.event import MEMBERS
from chalicelib.customers import console
from chalicelib.infra.telemetry import UNITS
from tests.support.world import ROOT, assert_has
from tools import gateway
from tools.package import package
from tools.stage import FUNCTION_SUFFIXES, read_template

RUNBOOK = ROOT / "docs" / "runbook.md"
RESOURCES: Any = json.loads((ROOT / "resources.json").read_text())["Resources"]
PROPERTIES: Any = {name: resource["Properties"] for name, resource in RESOURCES.items()}
INDEXES: dict[str, set[str]] = {
    index["IndexName"]: set(index["Projection"]["NonKeyAttributes"])
    for index in PROPERTIES["EventsTable"]["GlobalSecondaryIndexes"]
}
DLQ_ARN = {"Fn::GetAtt": ["InboxDLQ", "Arn"]}
IN_FIVE_MINUTES = {"Period": 300, "EvaluationPeriods": 1, "TreatMissingData": "notBreaching"}
AT_LEAST = {"ComparisonOperator": "GreaterThanOrEqualToThreshold"}
AT_LEAST_ONE = {**AT_LEAST, "Threshold": 1, **IN_FIVE_MINUTES}
OF_SWEEP = [{"Name": "FunctionName", "Value": {"Fn::Sub": "triggers-api-${Stage}-sweep"}}]
FIRST = {"Namespace": "TriggersApi", "Statistic": "Sum", **AT_LEAST_ONE}
POLICIES = {
    "APIHandler": "api.json",
    "Worker": "worker.json",
    "Sweep": "sweep.json",
    "CheckDlq": "check-dlq.json",
}
LOGS = {
    "APIHandler": "ApiLogs",
    "Worker": "WorkerLogs",
    "Sweep": "SweepLogs",
    "CheckDlq": "CheckDlqLogs",
}
ALARMS = sorted(
    name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::CloudWatch::Alarm"
)


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (
            "EventsTable",
            {"BillingMode": "PAY_PER_REQUEST", "SSESpecification": {"SSEEnabled": True}},
        ),
        (
            "EventsTable",
            {"TimeToLiveSpecification": {"AttributeName": "expires_at", "Enabled": True}},
        ),
        ("EventsTable", {"PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True}}),
        ("EventsTable", {"DeletionProtectionEnabled": True}),
        (
            "InboxQueue",
            {
                "VisibilityTimeout": 300,
                "MessageRetentionPeriod": 7 * 86400,
                "SqsManagedSseEnabled": True,
            },
        ),
        ("InboxQueue", {"ReceiveMessageWaitTimeSeconds": 20}),
        ("InboxQueue", {"RedrivePolicy": {"deadLetterTargetArn": DLQ_ARN, "maxReceiveCount": 5}}),
        ("InboxDLQ", {"MessageRetentionPeriod": 14 * 86400, "SqsManagedSseEnabled": True}),
        ("DLQAlarm", {"Namespace": "AWS/SQS", "MetricName": "ApproximateNumberOfMessagesVisible"}),
        (
            "DLQAlarm",
            {"Dimensions": [{"Name": "QueueName", "Value": PROPERTIES["InboxDLQ"]["QueueName"]}]},
        ),
        ("DLQAlarm", {"Statistic": "Maximum", **AT_LEAST_ONE}),
        ("DeliveryFailureAlarm", {"MetricName": "DeliveryFailure", **FIRST}),
        ("SubscriptionDisabledAlarm", {"MetricName": "SubscriptionsDisabled", **FIRST}),
        ("OldestPendingAlarm", {"Namespace": "TriggersApi", "MetricName": "OldestPendingAge"}),
        (
            "InboxAgeAlarm",
            {
                "Namespace": "AWS/SQS",
                "MetricName": "ApproximateAgeOfOldestMessage",
                "Threshold": 1800,
            },
        ),
        (
            "InboxAgeAlarm",
            {"Dimensions": [{"Name": "QueueName", "Value": PROPERTIES["InboxQueue"]["QueueName"]}]},
        ),
        ("InboxAgeAlarm", {"Statistic": "Maximum", **AT_LEAST, **IN_FIVE_MINUTES}),
        (
            "SweepErrorsAlarm",
            {"Namespace": "AWS/Lambda", "MetricName": "Errors", "Dimensions": OF_SWEEP},
        ),
        (
            "SweepErrorsAlarm",
            {"Statistic": "Sum", "Threshold": 3, "Period": 900, "EvaluationPeriods": 1, **AT_LEAST},
        ),
        (
            "ApiErrorsAlarm",
            {"EvaluationPeriods": 3, "DatapointsToAlarm": 2, "TreatMissingData": "notBreaching"},
        ),
        # percent
        ("ApiErrorsAlarm", {"ComparisonOperator": "GreaterThanThreshold", "Threshold": 0.1}),
        (
            "SweepErrorsAlarm",
            {"TreatMissingData": "missing", "InsufficientDataActions": [{"Ref": "DLQAlarmTopic"}]},
        ),
    ],
)
def test_a_resource_has_its_properties(resource: str, expected: Any) -> None:
    assert PROPERTIES[resource].items() >= expected.items()


@pytest.mark.parametrize("index", INDEXES, ids=INDEXES)
def test_an_index_projects_no_more_than_dynamodb_takes_and_nothing_large(index: str) -> None:
    model = botocore.session.get_session().get_service_model("dynamodb")
    assert len(INDEXES[index]) <= model.shape_for("NonKeyAttributeNameList").metadata["max"] == 20
    assert not {"payload", "metadata", "content"} & INDEXES[index]


def test_status_index_has_all_that_lists_show_but_the_subject() -> None:
    # the first two from `status_shard` and `sort_key`
    derived = {"status", "created_at", "subject"}
    assert {*MEMBERS} - derived <= INDEXES["status-index"]


def test_lookup_index_has_what_no_attempt_changes() -> None:
    never_changed = {
        "event_type",
        "response_bytes",
        "created_by",
        "source_event_id",
        "tenant",
        "subject",
    }
    assert INDEXES["lookup-index"] == {"status_shard", "expires_at", *never_changed}


@pytest.mark.parametrize("alarm", ALARMS)
def test_an_alarm_mails_and_is_in_the_runbook(alarm: str) -> None:
    topic, is_of_events = (
        [{"Ref": "DLQAlarmTopic"}],
        alarm in ("DeliveryFailureAlarm", "SubscriptionDisabledAlarm"),
    )
    assert PROPERTIES[alarm]["AlarmActions"] == topic
    # a state mails when it ends
    assert PROPERTIES[alarm].get("OKActions", topic if is_of_events else None) == topic
    name = PROPERTIES[alarm]["AlarmName"]["Fn::Sub"].removeprefix("triggers-api-${Stage}")
    assert "First " in json.dumps(PROPERTIES[alarm]["AlarmDescription"])
    assert f"`…{name}`" in RUNBOOK.read_text(encoding="utf-8")


# dashboards have no tags
@pytest.mark.parametrize("resource", sorted(PROPERTIES.keys() - {"DeliveryDashboard"}))
def test_a_resource_is_tagged(resource: str) -> None:
    tags = {tag["Key"]: tag["Value"] for tag in PROPERTIES[resource]["Tags"]}
    assert tags == {"Service": "triggers-api", "Environment": {"Ref": "Stage"}}


def test_the_dashboard_shows_every_metric_the_parts_of_the_system_and_the_alarms() -> None:
    widgets = json.dumps(read_template("qa")["Resources"]["DeliveryDashboard"])
    shown = [*UNITS, "CopyFailure", "SubscriptionsDisabled"]
    shown += [f"triggers-api-${{Stage}}-{queue}" for queue in ("inbox-queue", "inbox-dlq")]
    shown += [
        "Errors",
        "Throttles",
        "ConcurrentExecutions",
        "ThrottledRequests",
        "4XXError",
        "Latency",
    ]
    shown += [PROPERTIES[alarm]["AlarmName"]["Fn::Sub"] for alarm in ALARMS]
    assert [name for name in shown if name not in widgets] == []


# The package


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("package")
    package("prod", out)
    return out / "sam.json"


@pytest.fixture(scope="module")
def template(packaged: Path) -> Any:
    return json.loads(packaged.read_text())


def test_the_files_that_the_console_is_joined_from_are_packaged(packaged: Path) -> None:
    with ZipFile(packaged.with_name("deployment.zip")) as archive:
        names = set(archive.namelist())

    files = {str(path.relative_to(ROOT)) for path in console.FOLDER.iterdir()}
    assert files <= names


def test_cfn_lint_finds_no_fault_in_functions_and_resources(packaged: Path) -> None:
    cfn_lint = Path(sys.executable).with_name("cfn-lint")
    linted = subprocess.run([cfn_lint, packaged], capture_output=True, text=True, check=False)

    assert linted.returncode == 0
    assert linted.stdout == ""


def test_it_is_for_its_own_stage_shows_no_secret_and_leaves_no_table_if_it_fails(
    template: Any,
) -> None:
    parameters = template["Parameters"]
    assert parameters["Stage"]["AllowedValues"] == ["prod"]
    assert {
        parameters[name]["NoEcho"]
        for name in ("ZapierWebhookUrl", "ApiKeys", "WebhookSigningSecrets")
    } == {True}
    assert template["Resources"]["EventsTable"]["DeletionPolicy"] == "RetainExceptOnCreate"


def test_api_gateway_answers_with_problem_documents_that_do_not_repeat_the_request(
    template: Any,
) -> None:
    definition = template["Resources"]["RestAPI"]["Properties"]["DefinitionBody"]
    responses = definition["x-amazon-apigateway-gateway-responses"]
    assert responses.keys() >= {"MISSING_AUTHENTICATION_TOKEN", "DEFAULT_4XX", "DEFAULT_5XX"}
    for response in responses.values():
        assert response["responseParameters"] == {
            "gatewayresponse.header.Content-Type": "'application/problem+json'"
        }
        document = json.loads(response["responseTemplates"]["application/json"])
        assert document.keys() >= {"type", "title", "detail", "code"}
        assert "$context.error.message" not in document["detail"]


def test_calls_are_throttled_public_paths_apart_and_responses_are_compressed(template: Any) -> None:
    api = template["Resources"]["RestAPI"]["Properties"]
    rates = {
        each["HttpMethod"] + each["ResourcePath"]: each["ThrottlingRateLimit"]
        for each in api["MethodSettings"]
    }
    public = dict.fromkeys(
        ("GET/", "GET/~1health", "GET/~1openapi.json"), gateway.PUBLIC_CALLS_PER_SECOND
    )
    assert rates == {"*/*": gateway.CALLS_PER_SECOND, **public}
    assert api["MinimumCompressionSize"] == 1024


@pytest.mark.parametrize("function", FUNCTION_SUFFIXES)
def test_a_function_has_its_name_a_log_group_and_a_role_with_its_policy_file(
    template: Any, function: str
) -> None:
    resources = template["Resources"]
    properties, group = resources[function]["Properties"], resources[LOGS[function]]["Properties"]
    name = f"triggers-api-prod{FUNCTION_SUFFIXES[function]}"
    assert_has(properties, FunctionName=name, RecursiveLoop="Allow")
    assert properties["LoggingConfig"] == {"LogFormat": "JSON", "SystemLogLevel": "WARN"}
    assert properties["EventInvokeConfig"] == {
        "MaximumRetryAttempts": 0,
        "MaximumEventAgeInSeconds": 60,
    }
    assert_has(group, LogGroupName=f"/aws/lambda/{name}", RetentionInDays=30)
    [policy] = resources[properties["Role"]["Fn::GetAtt"][0]]["Properties"]["Policies"]
    assert policy["PolicyDocument"] == json.loads(
        (ROOT / ".chalice/policies/prod" / POLICIES[function]).read_text()
    )


def test_an_older_package_keeps_its_index(
    template: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = read_template("prod")
    [_, index] = older["Resources"]["EventsTable"]["Properties"]["GlobalSecondaryIndexes"]
    index["IndexName"] = "older-index"
    (tmp_path / "before.json").write_text(json.dumps(older))
    monkeypatch.setenv("BEFORE", str(tmp_path / "before.json"))

    package("prod", tmp_path)

    table = json.loads((tmp_path / "sam.json").read_text())["Resources"]["EventsTable"][
        "Properties"
    ]
    new = template["Resources"]["EventsTable"]["Properties"]
    assert table["GlobalSecondaryIndexes"] == [*new["GlobalSecondaryIndexes"], index]


def test_the_worker_is_invoked_by_the_queue_of_the_template(template: Any) -> None:
    [source] = template["Resources"]["Worker"]["Properties"]["Events"].values()
    assert source["Properties"]["Queue"] == {"Fn::Sub": "${InboxQueue.Arn}"}
