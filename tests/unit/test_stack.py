"""A stack is brought to what its template says from every state that CloudFormation leaves one in.

moto knows none of these states: what CloudFormation answers is written down here, and the calls are compared exactly.
"""

from typing import Any

import boto3
import pytest
from botocore.stub import ANY, Stubber

from tools import stack as stacks
from tools.stack import Stack, StackError

NAME = "triggers-api-dev-resources"
TEMPLATE: dict[str, Any] = {"Resources": {}}
WHAT: dict[str, Any] = {
    "StackName": NAME,
    "TemplateBody": '{"Resources": {}}',
    "Parameters": [{"ParameterKey": "Stage", "ParameterValue": "dev"}],
    "Tags": [{"Key": "Service", "Value": "triggers-api"}, {"Key": "Environment", "Value": "dev"}],
}


class CloudFormation:
    """Says what is to be asked, in order, and what is answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stacks, "POLL_SECONDS", 0.0)
        self.client = boto3.client(
            "cloudformation", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x"
        )
        self.stub = Stubber(self.client)
        self.stub.activate()
        self.said: list[str] = []
        self.stack = Stack(self.client, NAME, self.said.append)

    def has_events(self, *events: tuple[str, str, str]) -> None:
        """Answer that these were the events, the newest first: id, resource, status."""
        common = {"StackId": "s", "StackName": NAME, "Timestamp": 0, "ResourceStatusReason": "it is taken"}
        answer = [
            {"EventId": number, "LogicalResourceId": resource, "ResourceStatus": status, **common}
            for number, resource, status in events
        ]
        self.stub.add_response("describe_stack_events", {"StackEvents": answer}, {"StackName": NAME})

    def is_in(self, status: str | None, **more: Any) -> None:
        expected = {"StackName": NAME}
        if status is None:
            self.stub.add_client_error("describe_stacks", "ValidationError", "does not exist", 400, None, expected)
        else:
            stack = {"StackName": NAME, "CreationTime": 0, "StackStatus": status, **more}
            self.stub.add_response("describe_stacks", {"Stacks": [stack]}, expected)

    def settles_in(self, status: str | None) -> None:
        self.is_in(status)
        self.has_events()

    def has_outputs(self) -> None:
        self.is_in("CREATE_COMPLETE", Outputs=[{"OutputKey": "EventsTableName", "OutputValue": "events"}])

    def deploy(self, *, import_existing: bool = False) -> dict[str, str]:
        outputs = self.stack.deploy(TEMPLATE, {"Stage": "dev"}, import_existing=import_existing)
        self.stub.assert_no_pending_responses()
        return outputs


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> CloudFormation:
    return CloudFormation(monkeypatch)


def test_a_new_stack_is_made_and_each_resource_is_told_of_once(aws: CloudFormation) -> None:
    aws.has_events()
    aws.settles_in(None)
    aws.stub.add_response("create_stack", {"StackId": "s"}, {**WHAT, "RetainExceptOnCreate": True})
    aws.is_in("CREATE_IN_PROGRESS")
    aws.has_events(("1", "EventsTable", "CREATE_COMPLETE"))
    aws.is_in("CREATE_COMPLETE")
    aws.has_events(("2", "InboxDLQ", "CREATE_COMPLETE"), ("1", "EventsTable", "CREATE_COMPLETE"))
    aws.has_outputs()

    assert aws.deploy() == {"EventsTableName": "events"}
    assert [line.split() for line in aws.said] == [["CREATE_COMPLETE", "EventsTable"], ["CREATE_COMPLETE", "InboxDLQ"]]


@pytest.mark.parametrize("status", sorted(stacks.UPDATABLE))
def test_nothing_is_changed_where_nothing_differs(aws: CloudFormation, status: str) -> None:
    aws.has_events(("1", "EventsTable", "CREATE_COMPLETE"))
    aws.settles_in(status)
    message = "No updates are to be performed."
    aws.stub.add_client_error("update_stack", "ValidationError", message, 400, None, WHAT)
    aws.has_outputs()

    assert aws.deploy() == {"EventsTableName": "events"}
    assert aws.said == [f"stack {NAME}: no change"]


@pytest.mark.parametrize("status", sorted(stacks.STILLBORN))
def test_what_never_came_to_be_is_taken_away_first(aws: CloudFormation, status: str) -> None:
    aws.has_events()
    aws.settles_in(status)
    aws.has_events()
    aws.settles_in(status)
    aws.stub.add_response("delete_stack", {}, {"StackName": NAME})
    aws.settles_in("DELETE_IN_PROGRESS")
    aws.settles_in(None)
    aws.stub.add_response("create_stack", {"StackId": "s"}, {**WHAT, "RetainExceptOnCreate": True})
    aws.settles_in("CREATE_COMPLETE")
    aws.has_outputs()

    aws.deploy()


@pytest.mark.parametrize("status", ["CREATE_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS"])
def test_what_an_earlier_run_began_is_waited_for(aws: CloudFormation, status: str) -> None:
    aws.has_events()
    aws.is_in(status)
    aws.has_events()
    aws.settles_in("UPDATE_COMPLETE")
    aws.stub.add_response("update_stack", {"StackId": "s"}, WHAT)
    aws.settles_in("UPDATE_COMPLETE")
    aws.has_outputs()

    aws.deploy()


@pytest.mark.parametrize("status", ["CREATE_COMPLETE", "IMPORT_COMPLETE"])
def test_a_table_that_was_kept_is_taken_over(aws: CloudFormation, status: str) -> None:
    of_change = {"ChangeSetName": "arn:change"}
    aws.has_events()
    aws.settles_in(None)
    change = {**WHAT, "ChangeSetName": ANY, "ChangeSetType": "CREATE", "ImportExistingResources": True}
    aws.stub.add_response("create_change_set", {"Id": "arn:change"}, change)
    aws.stub.add_response("describe_change_set", {"Status": "CREATE_PENDING"}, of_change)
    aws.stub.add_response("describe_change_set", {"Status": "CREATE_COMPLETE"}, of_change)
    aws.stub.add_response("execute_change_set", {}, of_change)
    aws.settles_in("REVIEW_IN_PROGRESS")  # for a moment
    aws.settles_in(status)
    aws.has_outputs()

    aws.deploy(import_existing=True)


def test_what_cannot_be_taken_over_is_said(aws: CloudFormation) -> None:
    aws.has_events()
    aws.settles_in(None)
    aws.stub.add_response("create_change_set", {"Id": "arn:change"})
    refusal = {"Status": "FAILED", "StatusReason": "the table belongs to another stack"}
    aws.stub.add_response("describe_change_set", refusal)

    with pytest.raises(StackError, match="the table belongs to another stack"):
        aws.deploy(import_existing=True)


def test_the_first_failure_of_this_run_is_the_reason_that_is_given(aws: CloudFormation) -> None:
    earlier = ("0", "EventsTable", "UPDATE_FAILED")
    aws.has_events(earlier)
    aws.is_in("UPDATE_COMPLETE")
    aws.has_events(earlier)
    aws.stub.add_response("update_stack", {"StackId": "s"})
    aws.is_in("UPDATE_ROLLBACK_COMPLETE")
    aws.has_events(("2", "InboxQueue", "UPDATE_FAILED"), ("1", "InboxDLQ", "UPDATE_FAILED"), earlier)

    with pytest.raises(StackError, match="came to UPDATE_ROLLBACK_COMPLETE: InboxDLQ it is taken"):
        aws.deploy()


def test_a_stack_that_needs_a_person_is_left_alone(aws: CloudFormation) -> None:
    aws.has_events()
    aws.settles_in("UPDATE_ROLLBACK_FAILED")

    with pytest.raises(StackError, match="UPDATE_ROLLBACK_FAILED"):
        aws.deploy()


def test_a_stack_that_stays_is_not_said_to_be_gone(aws: CloudFormation) -> None:
    aws.has_events()
    aws.settles_in("CREATE_COMPLETE")
    aws.stub.add_response("delete_stack", {}, {"StackName": NAME})
    aws.is_in("DELETE_FAILED")
    aws.has_events(("1", "InboxDLQ", "DELETE_FAILED"))

    with pytest.raises(StackError, match="InboxDLQ it is taken"):
        aws.stack.delete()
