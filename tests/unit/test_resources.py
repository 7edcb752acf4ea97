"""What AWS is asked to make, and what each function may do with it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from cfnlint.api import lint
from chalice.config import Config
from moto import mock_aws

from chalicelib.telemetry import UNITS

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "resources.json").read_text()
TEMPLATE = json.loads(TEXT)
PROPERTIES: dict[str, Any] = {name: made["Properties"] for name, made in TEMPLATE["Resources"].items()}
CONFIG = json.loads((ROOT / ".chalice" / "config.json").read_text())
STAGES = ("dev", "prod")
ALARMS = sorted(name for name, made in TEMPLATE["Resources"].items() if made["Type"] == "AWS::CloudWatch::Alarm")
FUNCTIONS = ("api_handler", "worker", "sweep", "check_dlq")


@pytest.fixture(scope="module")
def stack() -> Iterator[dict[str, str]]:
    """Give the outputs of a stack that moto made for the stage `qa`, which mails its alarms."""
    with pytest.MonkeyPatch.context() as environ, mock_aws():
        environ.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield make_stack("qa", AlarmEmail="ops@example.com")


def make_stack(stage: str, **parameters: str) -> dict[str, str]:
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(
        StackName=stage,
        TemplateBody=TEXT,
        Parameters=[
            {"ParameterKey": name, "ParameterValue": value} for name, value in {"Stage": stage, **parameters}.items()
        ],
    )
    made = cloudformation.describe_stacks(StackName=stage)["Stacks"][0]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in made["Outputs"]}


def mailed(stack: dict[str, str]) -> list[tuple[str, str]]:
    sns = boto3.client("sns")
    subscriptions = sns.list_subscriptions_by_topic(TopicArn=stack["DLQAlarmTopicArn"])["Subscriptions"]
    return [(subscription["Protocol"], subscription["Endpoint"]) for subscription in subscriptions]


def test_the_template_is_clean() -> None:
    assert [str(match) for match in lint(TEXT)] == []


def test_the_outputs_tell_what_the_functions_need(stack: dict[str, str]) -> None:
    assert {name: re.split("[/:]", value)[-1] for name, value in stack.items()} == {
        "EventsTableName": "triggers-api-qa-events",
        "InboxQueueUrl": "triggers-api-qa-inbox-queue",
        "InboxDLQUrl": "triggers-api-qa-inbox-dlq",
        "DLQAlarmTopicArn": "triggers-api-qa-dlq-alarm-topic",
    }


def test_the_table_has_its_key_and_its_index(stack: dict[str, str]) -> None:
    table = boto3.client("dynamodb").describe_table(TableName=stack["EventsTableName"])["Table"]

    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert table["KeySchema"] == [{"AttributeName": "event_id", "KeyType": "HASH"}]
    (index,) = table["GlobalSecondaryIndexes"]
    assert index["IndexName"] == "status-index"
    assert [key["AttributeName"] for key in index["KeySchema"]] == ["status_shard", "sort_key"]
    assert index["Projection"]["ProjectionType"] == "INCLUDE"


@pytest.mark.parametrize(
    ("queue", "name", "value"),
    [
        ("InboxQueueUrl", "VisibilityTimeout", "300"),
        ("InboxQueueUrl", "MessageRetentionPeriod", str(7 * 86400)),
        ("InboxQueueUrl", "ReceiveMessageWaitTimeSeconds", "20"),
        ("InboxQueueUrl", "SqsManagedSseEnabled", "true"),
        ("InboxDLQUrl", "MessageRetentionPeriod", str(14 * 86400)),
        ("InboxDLQUrl", "SqsManagedSseEnabled", "true"),
    ],
)
def test_the_queues_have_their_attributes(stack: dict[str, str], queue: str, name: str, value: str) -> None:
    attributes = boto3.client("sqs").get_queue_attributes(QueueUrl=stack[queue], AttributeNames=["All"])["Attributes"]
    assert (name, value) in attributes.items()


def test_the_fifth_receive_is_a_messages_last(stack: dict[str, str]) -> None:
    sqs = boto3.client("sqs")
    of_inbox = sqs.get_queue_attributes(QueueUrl=stack["InboxQueueUrl"], AttributeNames=["RedrivePolicy"])
    of_dlq = sqs.get_queue_attributes(QueueUrl=stack["InboxDLQUrl"], AttributeNames=["QueueArn"])

    redrive = json.loads(of_inbox["Attributes"]["RedrivePolicy"])

    assert redrive == {"deadLetterTargetArn": of_dlq["Attributes"]["QueueArn"], "maxReceiveCount": 5}


def test_alarms_are_mailed_when_somebody_is_named(stack: dict[str, str]) -> None:
    assert mailed(stack) == [("email", "ops@example.com")]
    assert mailed(make_stack("nobody")) == []


@pytest.mark.parametrize(
    ("resource", "name", "value"),
    [
        ("EventsTable", "TimeToLiveSpecification", {"AttributeName": "expires_at", "Enabled": True}),
        ("EventsTable", "PointInTimeRecoverySpecification", {"PointInTimeRecoveryEnabled": True}),
        ("EventsTable", "SSESpecification", {"SSEEnabled": True}),
        ("DLQAlarm", "Namespace", "AWS/SQS"),
        ("DLQAlarm", "MetricName", "ApproximateNumberOfMessagesVisible"),
        ("DLQAlarm", "Dimensions", [{"Name": "QueueName", "Value": PROPERTIES["InboxDLQ"]["QueueName"]}]),
        ("DLQAlarm", "Statistic", "Maximum"),
        ("DLQAlarm", "ComparisonOperator", "GreaterThanOrEqualToThreshold"),
        ("DLQAlarm", "Threshold", 1),
        ("DLQAlarm", "Period", 300),
        ("DLQAlarm", "EvaluationPeriods", 1),
        ("DLQAlarm", "TreatMissingData", "notBreaching"),
    ],
)
def test_what_moto_passes_over_stands_in_the_template(resource: str, name: str, value: object) -> None:
    assert PROPERTIES[resource][name] == value


@pytest.mark.parametrize(
    ("alarm", "metric", "of"),
    [
        ("WorkerErrorsAlarm", ("AWS/Lambda", "Errors"), ("FunctionName", "triggers-api-${Stage}-worker")),
        ("SweepErrorsAlarm", ("AWS/Lambda", "Errors"), ("FunctionName", "triggers-api-${Stage}-sweep")),
        ("ApiErrorsAlarm", ("AWS/ApiGateway", "5XXError"), ("ApiName", "triggers-api-${Stage}")),
        ("ApiThrottlesAlarm", ("AWS/Lambda", "Throttles"), ("FunctionName", "triggers-api-${Stage}")),
        ("WorkerThrottlesAlarm", ("AWS/Lambda", "Throttles"), ("FunctionName", "triggers-api-${Stage}-worker")),
        ("TableThrottlesAlarm", ("AWS/DynamoDB", "WriteThrottleEvents"), ("TableName", "triggers-api-${Stage}-events")),
    ],
)
def test_an_alarm_watches_what_it_is_called_after(alarm: str, metric: tuple[str, str], of: tuple[str, str]) -> None:
    watched = PROPERTIES[alarm]
    assert (watched["Namespace"], watched["MetricName"]) == metric
    assert watched["Dimensions"] == [{"Name": of[0], "Value": {"Fn::Sub": of[1]}}]


def test_the_index_is_watched_beside_the_table() -> None:
    table, index = (PROPERTIES[f"{name}ThrottlesAlarm"] for name in ("Table", "Index"))
    (index_name,) = (index["IndexName"] for index in PROPERTIES["EventsTable"]["GlobalSecondaryIndexes"])
    assert index["MetricName"] == table["MetricName"]
    assert index["Dimensions"] == [
        *table["Dimensions"],
        {"Name": "GlobalSecondaryIndexName", "Value": index_name},
    ]


def test_silence_is_told_of() -> None:
    assert PROPERTIES["OldestPendingAlarm"]["InsufficientDataActions"] == [{"Ref": "DLQAlarmTopic"}]


def test_the_age_of_the_oldest_pending_event_is_watched_where_the_functions_publish_it() -> None:
    alarm = PROPERTIES["OldestPendingAlarm"]
    assert (alarm["Namespace"], alarm["MetricName"]) == ({"Ref": "MetricsNamespace"}, "OldestPendingAge")
    assert alarm["MetricName"] in UNITS
    assert alarm["Dimensions"] == [{"Name": "Stage", "Value": {"Ref": "Stage"}}]


@pytest.mark.parametrize("alarm", ALARMS)
def test_every_alarm_tells_the_topic_that_it_went_off_and_that_it_is_over(alarm: str) -> None:
    assert PROPERTIES[alarm]["AlarmActions"] == PROPERTIES[alarm]["OKActions"] == [{"Ref": "DLQAlarmTopic"}]


def test_the_table_outlives_its_stack() -> None:
    table = TEMPLATE["Resources"]["EventsTable"]
    assert (table["DeletionPolicy"], table["UpdateReplacePolicy"]) == ("Retain", "Retain")


@pytest.mark.parametrize("resource", sorted(PROPERTIES.keys() - {"DeliveryDashboard"}))  # dashboards have no tags
def test_everything_is_tagged(resource: str) -> None:
    assert PROPERTIES[resource]["Tags"] == [
        {"Key": "Service", "Value": "triggers-api"},
        {"Key": "Environment", "Value": {"Ref": "Stage"}},
    ]


def test_the_dashboard_shows_every_metric_both_queues_and_the_alarm(stack: dict[str, str]) -> None:
    body = boto3.client("cloudwatch").get_dashboard(DashboardName="triggers-api-qa-delivery")["DashboardBody"]
    widgets = [widget["properties"] for widget in json.loads(body)["widgets"]]
    shown = {tuple(metric[:4]) for widget in widgets for metric in widget.get("metrics", ()) if len(metric) > 1}

    assert {metric[1] for metric in shown if metric[0] == "TriggersApi"} == set(UNITS)
    assert {metric[2:] for metric in shown if metric[0] == "TriggersApi"} == {("Stage", "qa")}
    assert {metric[3] for metric in shown if metric[0] == "AWS/SQS"} == {
        "triggers-api-qa-inbox-queue",
        "triggers-api-qa-inbox-dlq",
    }
    (alarms,) = [widget["alarms"] for widget in widgets if "alarms" in widget]
    assert {arn.split(":")[-1] for arn in alarms} == {
        PROPERTIES[alarm]["AlarmName"]["Fn::Sub"].replace("${Stage}", "qa") for alarm in ALARMS
    }


@pytest.mark.parametrize("stage", STAGES)
def test_git_knows_of_a_stage_nothing_but_its_name(stage: str) -> None:
    for function in FUNCTIONS:
        assert Config(stage, function, config_from_disk=CONFIG).environment_variables == {"STAGE": stage}
