"""A CloudFormation stack, brought to what its template says, from whatever state it was left in."""

import contextlib
import json
import time
from collections.abc import Callable, Container
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
DONE = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"}
# What never came to be: it is taken away before it is made again.
STILLBORN = {"REVIEW_IN_PROGRESS", "CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"}


class StackError(Exception):
    """CloudFormation did not get there: `str()` says what it said of it."""


class Stack:
    """One stack by its name. `say` is told of each resource that changes."""

    def __init__(self, cloudformation: Any, name: str, say: Callable[[str], None]) -> None:
        self._cloudformation = cloudformation
        self._name = name
        self._say = say
        self._seen: set[str] = set()
        self._failures: list[str] = []

    @property
    def exists(self) -> bool:
        return bool(self._describe())

    def deploy(self, template: dict[str, Any], parameters: dict[str, str], *, import_existing: bool) -> dict[str, str]:
        """Create or update the stack, and return its outputs. A new one takes over what is there if `import_existing`.

        Raises StackError, and botocore's errors.
        """
        list(self._news())
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
        if status is None:
            begun = self._import(what) if import_existing else self._create(what)
        elif status in UPDATABLE:
            begun = self._update(what)
        else:
            raise StackError(f"stack {self._name} is in {status}: see to it in the CloudFormation console")
        if begun:
            status = self._settled_status(resting=())
            if status not in DONE:
                raise StackError(self._came_to(status))
        return {output["OutputKey"]: output["OutputValue"] for output in self._describe()["Outputs"]}

    def delete(self) -> None:
        """Delete the stack if it is there, and wait until it is gone; raise StackError if it stays."""
        list(self._news())
        if self._settled_status() is None:
            return
        self._cloudformation.delete_stack(StackName=self._name)
        while status := self._status():
            if status == "DELETE_FAILED":
                raise StackError(self._came_to(status))
            time.sleep(POLL_SECONDS)

    def _create(self, what: dict[str, Any]) -> bool:
        # A table that was made by a creation that failed is empty, and would stand in the way of the next.
        self._cloudformation.create_stack(**what, RetainExceptOnCreate=True)
        return True

    def _update(self, what: dict[str, Any]) -> bool:
        """Begin an update; return False where nothing differs."""
        try:
            self._cloudformation.update_stack(**what)
        except ClientError as error:
            if "No updates are to be performed" not in str(error):
                raise
            self._say(f"stack {self._name}: no change")
            return False
        return True

    def _import(self, what: dict[str, Any]) -> bool:
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
        return True

    def _settled_status(self, *, resting: Container[str] = ("REVIEW_IN_PROGRESS",)) -> str | None:
        """Return the status once nothing is in progress but what is `resting`, and None when there is no stack.

        REVIEW is where a stack rests whose change set nobody made, and passes through when it is made.
        """
        while status := self._status():
            if status in resting or not status.endswith("_IN_PROGRESS"):
                break
            time.sleep(POLL_SECONDS)
        return status

    def _status(self) -> str | None:
        """Tell what is new, and return the status."""
        status: str | None = self._describe().get("StackStatus")
        for event in self._news():
            state, resource = event["ResourceStatus"], event["LogicalResourceId"]
            if state.endswith(("_COMPLETE", "_FAILED")):
                self._say(f"  {state:<16} {resource}")
            if state.endswith("_FAILED"):
                self._failures.append(f"{resource} {event.get('ResourceStatusReason', 'for no reason given')}")
        return status

    def _describe(self) -> dict[str, Any]:
        try:
            stack: dict[str, Any] = self._cloudformation.describe_stacks(StackName=self._name)["Stacks"][0]
        except ClientError as error:
            if error.response["Error"]["Code"] == "ValidationError":  # it does not exist
                return {}
            raise
        return stack

    def _news(self) -> list[dict[str, Any]]:
        """Return the events that were not seen before, the oldest first."""
        fresh = []
        with contextlib.suppress(self._cloudformation.exceptions.ClientError):  # there is no stack
            for page in self._cloudformation.get_paginator("describe_stack_events").paginate(StackName=self._name):
                unseen = [event for event in page["StackEvents"] if event["EventId"] not in self._seen]
                fresh += unseen
                if len(unseen) < len(page["StackEvents"]):
                    break
        self._seen.update(event["EventId"] for event in fresh)
        return fresh[::-1]

    def _came_to(self, status: str | None) -> str:
        return f"stack {self._name} came to {status}: {next(iter(self._failures), 'no reason is given')}"
