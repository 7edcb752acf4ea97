"""A CloudFormation stack, brought to what its template says, from whatever state it was left in."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

POLL_SECONDS = 2.0
UPDATABLE = {
    "CREATE_COMPLETE",
    "UPDATE_COMPLETE",
    "UPDATE_ROLLBACK_COMPLETE",
    "IMPORT_COMPLETE",
    "IMPORT_ROLLBACK_COMPLETE",
}
# What never came to be: it is taken away before it is made again.
STILLBORN = {"CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"}


class StackError(Exception):
    """CloudFormation did not get there: `str()` says what it said of it."""


class Stack:
    """One stack by its name. `say` is told of each resource that changes."""

    def __init__(self, cloudformation: Any, name: str, say: Callable[[str], None]) -> None:
        self._cloudformation = cloudformation
        self._name = name
        self._say = say
        self._seen: set[str] = set()

    def deploy(self, template: dict[str, Any], parameters: dict[str, str], *, import_existing: bool) -> dict[str, str]:
        """Create or update the stack, and return its outputs. A new one takes over what is there if `import_existing`.

        Raises StackError, and botocore's errors.
        """
        self._mark_seen()
        status = self._settled_status()
        if status in STILLBORN:
            self.delete()
            status = None
        what = {
            "StackName": self._name,
            "TemplateBody": json.dumps(template),
            "Parameters": [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
            "Tags": [
                {"Key": "Service", "Value": "triggers-api"},
                {"Key": "Environment", "Value": parameters["Stage"]},
            ],
        }
        if status in (None, "REVIEW_IN_PROGRESS"):
            self._import(what) if import_existing else self._create(what)
        elif status in UPDATABLE:
            self._update(what)
        else:
            raise StackError(f"stack {self._name} is in {status}: see to it in the CloudFormation console")
        status = self._settled_status(in_review=False)
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
            raise StackError(f"stack {self._name} came to {status}: {self._first_failure()}")
        return {output["OutputKey"]: output["OutputValue"] for output in self._describe()["Outputs"]}

    def delete(self) -> None:
        """Delete the stack if it is there, and wait until it is gone; raise StackError if it stays."""
        self._mark_seen()
        if self._settled_status() is None:
            return
        self._cloudformation.delete_stack(StackName=self._name)
        status = self._settled_status()
        if status not in (None, "DELETE_COMPLETE"):
            raise StackError(f"stack {self._name} came to {status}: {self._first_failure()}")

    def _create(self, what: dict[str, Any]) -> None:
        # A table that was made by a creation that failed is empty, and would stand in the way of the next.
        self._cloudformation.create_stack(**what, RetainExceptOnCreate=True)

    def _update(self, what: dict[str, Any]) -> None:
        try:
            self._cloudformation.update_stack(**what)
        except ClientError as error:
            if "No updates are to be performed" not in str(error):
                raise
            self._say(f"stack {self._name}: no change")

    def _import(self, what: dict[str, Any]) -> None:
        """Create the stack by a change set: the one way to make it with what is there already."""
        change = self._cloudformation.create_change_set(
            **what, ChangeSetName=f"deploy-{time.time_ns()}", ChangeSetType="CREATE", ImportExistingResources=True
        )["Id"]
        while True:
            made = self._cloudformation.describe_change_set(ChangeSetName=change)
            if made["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
                break
            time.sleep(POLL_SECONDS)
        if made["Status"] != "CREATE_COMPLETE":
            raise StackError(f"stack {self._name} cannot be made: {made.get('StatusReason')}")
        self._cloudformation.execute_change_set(ChangeSetName=change)

    def _settled_status(self, *, in_review: bool = True) -> str | None:
        """Return the status once nothing is in progress, and None when there is no stack.

        A stack `in_review` has a change set that nobody made: it rests.
        """
        while True:
            stack = self._describe()
            for event in self._news():
                if event["ResourceStatus"].endswith(("_COMPLETE", "_FAILED")):
                    self._say(f"  {event['ResourceStatus']:<16} {event['LogicalResourceId']}")
            status: str | None = stack.get("StackStatus")
            if status is None or not status.endswith("_IN_PROGRESS") or (in_review and status.startswith("REVIEW")):
                return status
            time.sleep(POLL_SECONDS)

    def _describe(self) -> dict[str, Any]:
        try:
            stack: dict[str, Any] = self._cloudformation.describe_stacks(StackName=self._name)["Stacks"][0]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationError":  # it does not exist
                return {}
            raise
        return stack

    def _news(self) -> Iterator[dict[str, Any]]:
        """Give the events that were not seen before, the oldest first."""
        for event in reversed(self._events()):
            if event["EventId"] not in self._seen:
                self._seen.add(event["EventId"])
                yield event

    def _events(self) -> list[dict[str, Any]]:
        with contextlib.suppress(ClientError):  # the stack is gone
            pages = self._cloudformation.get_paginator("describe_stack_events").paginate(StackName=self._name)
            return [event for page in pages for event in page["StackEvents"]]
        return []

    def _mark_seen(self) -> None:
        self._seen.update(event["EventId"] for event in self._events())

    def _first_failure(self) -> str:
        failed = [event for event in self._events() if event["ResourceStatus"].endswith("_FAILED")]
        first = failed[-1] if failed else {}
        return f"{first.get('LogicalResourceId', '')} {first.get('ResourceStatusReason', 'no reason is given')}".strip()
