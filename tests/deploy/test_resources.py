"""What resources.json describes, and what `make package` makes of it and of the functions."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import click
import pytest

from chalicelib import console
from chalicelib.core.store import SWEEP_PERIOD_SECONDS
from chalicelib.infra.telemetry import UNITS
from tests.support.world import ROOT, Json, assert_has
from tools import stage
from tools.configuration import read_config
from tools.package import package
from tools.stage import FUNCTION_SUFFIXES, read_template

CONFIG: Any = json.loads((ROOT / ".chalice" / "config.json").read_text())
IS_WRITTEN = shutil.ignore_patterns("deployments", "deployed")
Configure = Callable[..., None]
RUNBOOK = ROOT / "docs" / "runbook.md"
RESOURCES: Any = json.loads((ROOT / "resources.json").read_text())["Resources"]
PROPERTIES: Any = {name: resource["Properties"] for name, resource in RESOURCES.items()}
INDEXES: dict[str, set[str]] = {
    index["IndexName"]: set(index["Projection"]["NonKeyAttributes"])
    for index in PROPERTIES["EventsTable"]["GlobalSecondaryIndexes"]
}
DLQ_ARN = {"Fn::GetAtt": ["InboxDLQ", "Arn"]}
AT_LEAST = "GreaterThanOrEqualToThreshold"
AT_LEAST_ONE = {
    "ComparisonOperator": AT_LEAST,
    "Threshold": 1,
    "Period": 300,
    "EvaluationPeriods": 1,
    "TreatMissingData": "notBreaching",
}
SWEEP = {"Fn::Sub": "triggers-api-${Stage}-sweep"}
FIRST = {"Namespace": "TriggersApi", "Statistic": "Sum", **AT_LEAST_ONE}
POLICIES_AND_LOGS = {
    "APIHandler": ("api.json", "ApiLogs"),
    "Worker": ("worker.json", "WorkerLogs"),
    "SlowWorker": ("slow-worker.json", "SlowWorkerLogs"),
    "Sweep": ("sweep.json", "SweepLogs"),
    "CheckDlq": ("check-dlq.json", "CheckDlqLogs"),
}
ALARMS = sorted(
    name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::CloudWatch::Alarm"
)


def of_queue(queue: str, metric: str) -> Json:
    """Return what an alarm of the maximum of a queue's metric has."""
    dimensions = [{"Name": "QueueName", "Value": PROPERTIES[queue]["QueueName"]}]
    watched = {"Namespace": "AWS/SQS", "MetricName": metric, "Dimensions": dimensions}
    return {**watched, "Statistic": "Maximum"}


QUEUE = {
    "VisibilityTimeout": 300,
    "MessageRetentionPeriod": 7 * 86400,
    "SqsManagedSseEnabled": True,
    "ReceiveMessageWaitTimeSeconds": 20,
    "RedrivePolicy": {"deadLetterTargetArn": DLQ_ARN, "maxReceiveCount": 5},
}
EXPECTED: Json = {
    "EventsTable": {
        "BillingMode": "PAY_PER_REQUEST",
        "SSESpecification": {"SSEEnabled": True},
        "TimeToLiveSpecification": {"AttributeName": "expires_at", "Enabled": True},
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
        "DeletionProtectionEnabled": True,
    },
    "InboxQueue": QUEUE,
    "SlowQueue": QUEUE,
    "InboxDLQ": {"MessageRetentionPeriod": 14 * 86400, "SqsManagedSseEnabled": True},
    "DLQAlarm": {
        **of_queue("InboxDLQ", "ApproximateNumberOfMessagesVisible"),
        **AT_LEAST_ONE,
    },
    "DeliveryFailureAlarm": {"MetricName": "DeliveryFailure", **FIRST},
    "SubscriptionDisabledAlarm": {"MetricName": "SubscriptionsDisabled", **FIRST},
    "SubscriptionsFailingAlarm": {"MetricName": "SubscriptionsFailing", **FIRST},
    "NothingDeliveredAlarm": {
        "EvaluationPeriods": 1,
        "Threshold": 1,
        "ComparisonOperator": AT_LEAST,
    },
    "InboxAgeAlarm": {
        **of_queue("InboxQueue", "ApproximateAgeOfOldestMessage"),
        **AT_LEAST_ONE,
        "Threshold": 1800,
    },
    "SlowAgeAlarm": {
        **of_queue("SlowQueue", "ApproximateAgeOfOldestMessage"),
        **AT_LEAST_ONE,
        "Threshold": 6 * 3600,
    },
    "SlowWorkerStoppedAlarm": {"EvaluationPeriods": 6, "DatapointsToAlarm": 6, "Threshold": 1},
    "SweepErrorsAlarm": {
        "Namespace": "AWS/Lambda",
        "MetricName": "Errors",
        "Dimensions": [{"Name": "FunctionName", "Value": SWEEP}],
        "Statistic": "Sum",
        "ComparisonOperator": AT_LEAST,
        "Threshold": 3,
        "Period": 15 * SWEEP_PERIOD_SECONDS,  # three of fifteen runs
        "EvaluationPeriods": 1,
        "TreatMissingData": "missing",
        "InsufficientDataActions": [{"Ref": "DLQAlarmTopic"}],
    },
    "ApiErrorsAlarm": {
        "EvaluationPeriods": 3,
        "DatapointsToAlarm": 2,
        "TreatMissingData": "notBreaching",
        "ComparisonOperator": "GreaterThanThreshold",
        "Threshold": 0.1,  # percent
    },
    "TableThrottledAlarm": {
        "EvaluationPeriods": 3,
        "DatapointsToAlarm": 2,
        "ComparisonOperator": AT_LEAST,
        "Threshold": 1,
    },
}


@pytest.mark.parametrize("resource", EXPECTED)
def test_a_resource_has_its_properties(resource: str) -> None:
    assert_has(PROPERTIES[resource], **EXPECTED[resource])


@pytest.mark.parametrize("alarm", ALARMS)
def test_an_alarm_mails_and_is_in_the_runbook(alarm: str) -> None:
    topic = [{"Ref": "DLQAlarmTopic"}]
    is_of_events = alarm in (
        "DeliveryFailureAlarm",
        "SubscriptionDisabledAlarm",
        "SubscriptionsFailingAlarm",
    )
    assert PROPERTIES[alarm]["AlarmActions"] == topic
    # a state mails when it ends
    assert PROPERTIES[alarm].get("OKActions", topic if is_of_events else None) == topic
    name = PROPERTIES[alarm]["AlarmName"]["Fn::Sub"].removeprefix("triggers-api-${Stage}")
    runbook = RUNBOOK.read_text(encoding="utf-8")
    assert f"`…{name}`" in runbook
    description = PROPERTIES[alarm]["AlarmDescription"]["Fn::Sub"]
    assert "First " in description
    assert "STAGE=${Stage}" in description
    [section] = re.findall(r"Section of docs/runbook\.md: (.*)\.$", description)
    assert re.search(rf"^###? ([0-9]\. )?{re.escape(section)}$", runbook, re.MULTILINE)


def test_the_alarm_of_the_table_watches_its_indexes_and_ends_when_its_data_ends() -> None:
    # CloudWatch keeps the state of an alarm on DynamoDB's metrics while they are missing.
    expression, *metrics = PROPERTIES["TableThrottledAlarm"]["Metrics"]
    names = [metric["MetricStat"]["Metric"]["MetricName"] for metric in metrics]
    assert names == ["WriteThrottleEvents"] * 5
    indexes = [metric["MetricStat"]["Metric"]["Dimensions"][1:] for metric in metrics]
    assert [each[0]["Value"] for each in indexes if each] == list(INDEXES)
    assert expression["Expression"] == " + ".join(f"FILL({metric['Id']}, 0)" for metric in metrics)


def computed(metric: Json, known: Json) -> Any:
    """Return the value of a metric that CloudWatch computes of others."""
    text = metric["Expression"].replace("IF(", "choose(")
    text = text.replace(" OR ", " or ").replace(" AND ", " and ")
    functions = {
        "FILL": lambda value, _missing: value,
        "choose": lambda condition, value, otherwise: value if condition else otherwise,
    }
    return eval(text, functions | known)


@pytest.mark.parametrize(
    "errors, not_stored, calls, rings",
    [
        (0, 0, 9, False),
        (1, 0, 1, True),
        (0, 1, 1, True),
        (2, 0, 3, False),
        (2, 1, 100, True),
        (0, 3, 100, True),
        (1, 2, 3001, False),
    ],
)
def test_the_alarm_of_the_api_rings_for_a_rate_of_errors_and_on_a_quiet_stage(
    errors: int, not_stored: int, calls: int, rings: bool
) -> None:
    alarm = PROPERTIES["ApiErrorsAlarm"]
    percent, failed, *metrics = alarm["Metrics"]
    names = {metric["Id"]: metric["MetricStat"]["Metric"]["MetricName"] for metric in metrics}
    assert names == {"partial": "EventsNotStored", "errors": "5XXError", "calls": "Count"}
    known = {"errors": errors, "partial": not_stored, "calls": calls}
    known["failed"] = computed(failed, known)
    assert (computed(percent, known) > alarm["Threshold"]) == rings


@pytest.mark.parametrize("retries, deliveries, rings", [(10, 0, 1), (9, 0, 0), (10, 1, 0)])
def test_an_alarm_rings_where_pushes_fail_and_none_is_delivered(
    retries: int, deliveries: int, rings: int
) -> None:
    expression, *metrics = PROPERTIES["NothingDeliveredAlarm"]["Metrics"]
    read = {}
    for metric in metrics:
        statistic = metric["MetricStat"]
        read[metric["Id"]] = (statistic["Metric"]["MetricName"], statistic["Period"])
    assert read == {"retries": ("DeliveryRetry", 1800), "deliveries": ("DeliverySuccess", 1800)}
    assert computed(expression, {"retries": retries, "deliveries": deliveries}) == rings


# dashboards have no tags
@pytest.mark.parametrize("resource", sorted(PROPERTIES.keys() - {"DeliveryDashboard"}))
def test_a_resource_is_tagged(resource: str) -> None:
    tags = {tag["Key"]: tag["Value"] for tag in PROPERTIES[resource]["Tags"]}
    assert tags == {"Service": "triggers-api", "Environment": {"Ref": "Stage"}}


def test_the_dashboard_shows_every_metric_the_parts_of_the_system_and_the_alarms() -> None:
    widgets = json.dumps(read_template("qa")["Resources"]["DeliveryDashboard"])
    shown = [
        *UNITS,
        "CopyFailure",
        "EventsNotStored",
        "SubscriptionsDisabled",
        "SubscriptionsFailing",
        "triggers-api-${Stage}-inbox-queue",
        "triggers-api-${Stage}-inbox-dlq",
        "Errors",
        "Throttles",
        "ConcurrentExecutions",
        "ThrottledRequests",
        "4XXError",
        "Latency",
        *(PROPERTIES[alarm]["AlarmName"]["Fn::Sub"] for alarm in ALARMS),
    ]
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

    assert {str(path.relative_to(ROOT)) for path in console.FOLDER.iterdir()} <= names


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


@pytest.mark.parametrize("function", FUNCTION_SUFFIXES)
def test_a_function_has_its_name_a_log_group_and_a_role_with_its_policy_file(
    template: Any, function: str
) -> None:
    resources = template["Resources"]
    policy_file, logs = POLICIES_AND_LOGS[function]
    properties = resources[function]["Properties"]
    name = f"triggers-api-prod{FUNCTION_SUFFIXES[function]}"
    assert_has(
        properties,
        FunctionName=name,
        RecursiveLoop="Allow",
        LoggingConfig={"LogFormat": "JSON", "SystemLogLevel": "WARN"},
        EventInvokeConfig={"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60},
    )
    group = resources[logs]["Properties"]
    assert_has(group, LogGroupName=f"/aws/lambda/{name}", RetentionInDays=30)
    [policy] = resources[properties["Role"]["Fn::GetAtt"][0]]["Properties"]["Policies"]
    assert policy["PolicyDocument"] == json.loads(
        (ROOT / ".chalice/policies/prod" / policy_file).read_text()
    )


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Change variables in .chalice/config.json of a copy, of a stage or of one function."""
    shutil.copytree(ROOT / ".chalice", tmp_path / ".chalice", ignore=IS_WRITTEN)
    shutil.copy(ROOT / "resources.json", tmp_path)
    # The tool works on its own checkout, which other tests read meanwhile.
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    path = tmp_path / ".chalice" / "config.json"
    config = json.loads(path.read_text())

    def configure(name: str = "dev", of: str = "", **variables: Any) -> None:
        part = config["stages"].setdefault(name, config["stages"]["dev"])
        if of:
            part = part["lambda_functions"][of]
        part.setdefault("environment_variables", {}).update(variables)
        path.write_text(json.dumps(config))

    return configure


@pytest.mark.parametrize(
    "name, meant",
    [
        ("MAX_DELIVERY_ATEMPTS", "MAX_DELIVERY_ATTEMPTS"),
        ("SUBSCRIPTION_HOST", "SUBSCRIPTION_HOSTS"),
        ("settings_secret", "SETTINGS_SECRET"),
    ],
)
def test_a_name_that_misspells_a_setting_is_refused(
    configured: Configure, tmp_path: Path, name: str, meant: str
) -> None:
    configured(**{name: "3"})

    with pytest.raises(click.ClickException, match=f"{name} is no setting: is {meant} meant"):
        package("dev", tmp_path / "out")


@pytest.mark.parametrize(
    "name, value",
    [
        ("STAGE", "prod"),
        ("SETTINGS_SECRET", "triggers-api-prod-settings"),
        ("EVENTS_TABLE_NAME", "triggers-api-prod-events-restored"),
        ("SLOW_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/1/triggers-api-qa-slow-queue"),
    ],
)
def test_what_belongs_to_another_stage_is_refused(
    configured: Configure, tmp_path: Path, name: str, value: str
) -> None:
    configured(**{name: value})

    with pytest.raises(click.ClickException, match=f'"{name}": "{value}" is of another stage'):
        package("dev", tmp_path / "out")


def test_a_copied_stage_of_which_the_key_alone_was_renamed_is_refused(
    configured: Configure,
) -> None:
    configured("dev2")

    with pytest.raises(click.ClickException) as refused:
        read_config("dev2")

    found = re.findall('"(\\w+)": "(.*)" is of another stage', refused.value.message)
    policies = CONFIG["stages"]["dev"]["lambda_functions"].values()
    files = {("iam_policy_file", policy["iam_policy_file"]) for policy in policies}
    assert {*found} == {*CONFIG["stages"]["dev"]["environment_variables"].items()} | files


@pytest.mark.parametrize("function", ["api_handler", "worker"])
@pytest.mark.parametrize(
    "variables, fault",
    [
        ({"MAX_DELIVERY_ATTEMPTS": "many"}, "MAX_DELIVERY_ATTEMPTS is unusable: it must be an int"),
        (
            {"MAX_DELIVERY_ATTEMPTS": "1000"},
            "MAX_DELIVERY_ATTEMPTS and EVENT_RETENTION_DAYS do not",
        ),
        ({"PUSH_TIMEOUT_SECONDS": 5}, "PUSH_TIMEOUT_SECONDS: write its value in quotes"),
        ({"MAX_DELIVERY_ATEMPTS": "3"}, "MAX_DELIVERY_ATEMPTS is no setting: is MAX_DELIVERY_ATT"),
        ({"OTHER": "x" * 4096}, "shorten OTHER"),
    ],
)
def test_the_variables_of_a_single_function_are_checked(
    configured: Configure, tmp_path: Path, function: str, variables: Json, fault: str
) -> None:
    configured(of=function, **variables)

    with pytest.raises(click.ClickException) as refused:
        package("dev", tmp_path / "out")

    [line] = refused.value.message.splitlines()[1:]
    assert re.match(f"  {function}: .*{fault}", line)


@pytest.mark.parametrize(
    "config, fault",
    [
        (None, "cannot be read: "),
        ("[]", "must be a JSON object"),
        ('{"stages": []}', "stages must be an object"),
        ('{"stages": {"dev": 1}}', "dev must be an object"),
        ('{"stages": {"dev": {"environment_variables": []}}}', "environment_variables must be an"),
        ('{"lambda_functions": {"worker": 1}}', "worker must be an object"),
        ("{}", "STAGE is unusable: .chalice/config.json has no stages"),
        ('{"stages": {"prod": {}}}', "STAGE is unusable: .chalice/config.json has prod"),
    ],
)
def test_an_unusable_configuration_is_refused_in_a_line(
    configured: Configure, tmp_path: Path, config: str | None, fault: str
) -> None:
    path = tmp_path / ".chalice" / "config.json"
    path.unlink()
    if config:
        path.write_text(config)

    with pytest.raises(click.ClickException) as refused:
        read_config("dev")

    assert fault in refused.value.message


def test_a_stage_without_variables_is_taken(configured: Configure, tmp_path: Path) -> None:
    (tmp_path / ".chalice" / "config.json").write_text('{"stages": {"dev": {}}}')

    assert read_config("dev") == {}


@pytest.mark.parametrize(
    "table", ["triggers-api-dev-events-2", "triggers-api-dev-restored-events", "restored"]
)
def test_a_restored_table_and_variables_of_others_are_taken(
    configured: Configure, table: str
) -> None:
    others = {"DD_LOG_LEVEL": "info", "OTEL_LOG_LEVEL": "info", "AWS_MAX_ATTEMPTS": "3"}
    configured(EVENTS_TABLE_NAME=table, **others)

    assert_has(read_config("dev"), EVENTS_TABLE_NAME=table, **others)


def test_a_python_that_was_not_tested_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A Python that no machine has.
    monkeypatch.setattr(stage, "RUNTIMES", ("python3.99",))

    with pytest.raises(click.ClickException, match=r"PYTHON=python3\.99"):
        package("prod", tmp_path)
