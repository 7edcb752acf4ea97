"""What is changed in a package before ministack gets it, and that nothing that was started outlives its block."""

import os
from pathlib import Path
from typing import Any, TextIO

import pytest

from tools import emulator

ALARM = {"Type": "AWS::CloudWatch::Alarm", "Properties": {"MetricName": "Errors"}}
CODE = {"Type": "AWS::Serverless::Function", "Properties": {"CodeUri": "./deployment.zip", "Handler": "app.app"}}


def role(*actions: str) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": list(actions), "Resource": ["arn"]}
    document = {"Version": "2012-10-17", "Statement": [statement]}
    return {"Type": "AWS::IAM::Role", "Properties": {"Policies": [{"PolicyDocument": document}]}}


def test_a_right_to_a_single_call_is_one_to_the_batch_call_and_no_other_right_is_given() -> None:
    template = emulator.with_batch_actions({"Resources": {"Role": role("sqs:SendMessage", "sqs:ReceiveMessage")}})

    assert template == {"Resources": {"Role": role("sqs:SendMessage", "sqs:ReceiveMessage", "sqs:SendMessageBatch")}}


def test_every_function_gets_its_code_from_where_it_was_put() -> None:
    template = emulator.with_code_at({"Resources": {"Code": CODE, "Alarm": ALARM}}, "s3://bucket/key")

    properties = {"CodeUri": "s3://bucket/key", "Handler": "app.app"}
    assert template["Resources"] == {"Code": {**CODE, "Properties": properties}, "Alarm": ALARM}


def interrupt(directory: Path, started: TextIO, output: TextIO) -> None:
    command = ["sh", "-c", "sleep 600 & echo started; wait"]
    with output, emulator.process_group(command, output, dict(os.environ), directory):
        started.readline()
        raise KeyboardInterrupt


def test_an_interrupt_leaves_no_process_behind_nor_a_child_of_one(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as reader:
        with pytest.raises(KeyboardInterrupt):
            interrupt(tmp_path, reader, os.fdopen(write_end, "w"))

        assert reader.read() == ""  # it comes to an end: nobody is left who could write
