"""What resources.json describes."""

import json
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from chalicelib.telemetry import UNITS
from tools import resources

ROOT = Path(__file__).parent.parent.parent
RUNBOOK = ROOT / "docs" / "runbook.md"
RESOURCES: dict[str, Any] = json.loads((ROOT / "resources.json").read_text())["Resources"]
PROPERTIES: dict[str, Any] = {name: resource["Properties"] for name, resource in RESOURCES.items()}
DLQ_ARN = {"Fn::GetAtt": ["InboxDLQ", "Arn"]}
FIRST_OF_FIVE_MINUTES = {
    "Namespace": "TriggersApi",
    "Statistic": "Sum",
    "Period": 300,
    "EvaluationPeriods": 1,
    "Threshold": 1,
    "ComparisonOperator": "GreaterThanOrEqualToThreshold",
    "TreatMissingData": "notBreaching",
}
ALARMS = sorted(name for name, resource in RESOURCES.items() if resource["Type"] == "AWS::CloudWatch::Alarm")


def test_the_table_outlives_its_stack() -> None:
    assert RESOURCES["EventsTable"]["DeletionPolicy"] == RESOURCES["EventsTable"]["UpdateReplacePolicy"] == "Retain"


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        ("EventsTable", {"BillingMode": "PAY_PER_REQUEST", "SSESpecification": {"SSEEnabled": True}}),
        ("EventsTable", {"TimeToLiveSpecification": {"AttributeName": "expires_at", "Enabled": True}}),
        ("EventsTable", {"PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True}}),
        ("InboxQueue", {"VisibilityTimeout": 300, "MessageRetentionPeriod": 7 * 86400, "SqsManagedSseEnabled": True}),
        ("InboxQueue", {"ReceiveMessageWaitTimeSeconds": 20}),
        ("InboxQueue", {"RedrivePolicy": {"deadLetterTargetArn": DLQ_ARN, "maxReceiveCount": 5}}),
        ("InboxDLQ", {"MessageRetentionPeriod": 14 * 86400, "SqsManagedSseEnabled": True}),
        ("DLQAlarm", {"Namespace": "AWS/SQS", "MetricName": "ApproximateNumberOfMessagesVisible"}),
        ("DLQAlarm", {"Dimensions": [{"Name": "QueueName", "Value": PROPERTIES["InboxDLQ"]["QueueName"]}]}),
        ("DLQAlarm", {"Statistic": "Maximum", "ComparisonOperator": "GreaterThanOrEqualToThreshold", "Threshold": 1}),
        ("DLQAlarm", {"Period": 300, "EvaluationPeriods": 1, "TreatMissingData": "notBreaching"}),
        ("DeliveryFailureAlarm", {"MetricName": "DeliveryFailure", **FIRST_OF_FIVE_MINUTES}),
        ("SubscriptionDisabledAlarm", {"MetricName": "SubscriptionsDisabled", **FIRST_OF_FIVE_MINUTES}),
        ("OldestPendingAlarm", {"Namespace": "TriggersApi", "MetricName": "OldestPendingAge"}),
        ("ApiErrorsAlarm", {"Namespace": "AWS/ApiGateway", "MetricName": "5XXError"}),
    ],
)
def test_a_resource_has_its_properties(resource: str, expected: dict[str, Any]) -> None:
    assert PROPERTIES[resource].items() >= expected.items()


def test_the_index_projects_no_more_attributes_than_dynamodb_takes() -> None:
    model = botocore.session.get_session().get_service_model("dynamodb")
    [index] = PROPERTIES["EventsTable"]["GlobalSecondaryIndexes"]
    projected = index["Projection"]["NonKeyAttributes"]
    assert len(projected) <= model.shape_for("NonKeyAttributeNameList").metadata["max"] == 20
    assert not {"payload", "metadata", "content"} & set(projected)


@pytest.mark.parametrize("alarm", ALARMS)
def test_an_alarm_mails_and_is_in_the_runbook(alarm: str) -> None:
    assert PROPERTIES[alarm]["AlarmActions"] == [{"Ref": "DLQAlarmTopic"}]
    name = PROPERTIES[alarm]["AlarmName"]["Fn::Sub"].removeprefix("triggers-api-${Stage}")
    assert f"`…{name}`" in RUNBOOK.read_text(encoding="utf-8")


@pytest.mark.parametrize("alarm", sorted({*ALARMS} - {"DeliveryFailureAlarm", "SubscriptionDisabledAlarm"}))
def test_an_alarm_about_a_state_mails_when_it_ends(alarm: str) -> None:
    assert PROPERTIES[alarm]["OKActions"] == [{"Ref": "DLQAlarmTopic"}]


@pytest.mark.parametrize("resource", sorted(PROPERTIES.keys() - {"DeliveryDashboard"}))  # dashboards have no tags
def test_a_resource_is_tagged(resource: str) -> None:
    tags = {tag["Key"]: tag["Value"] for tag in PROPERTIES[resource]["Tags"]}
    assert tags == {"Service": "triggers-api", "Environment": {"Ref": "Stage"}}


def test_the_dashboard_shows_every_metric_both_queues_and_the_alarms() -> None:
    widgets = json.dumps(resources.read_template("qa")["Resources"]["DeliveryDashboard"])
    shown = [*UNITS, "CopyFailure", "SubscriptionsDisabled"]
    shown += [f"triggers-api-${{Stage}}-{queue}" for queue in ("inbox-queue", "inbox-dlq")]
    shown += [PROPERTIES[alarm]["AlarmName"]["Fn::Sub"] for alarm in ALARMS]
    assert [name for name in shown if name not in widgets] == []
