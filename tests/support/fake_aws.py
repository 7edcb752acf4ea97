"""An `aws` that makes no call: it checks its arguments against botocore's models, and notes them.

Usage: fake_aws.py NOTES SERVICE OPERATION [OPTIONS]. It prints an ARN for every query.
"""

import json
import sys
from pathlib import Path
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.validate import ParamValidator

ARN = "arn:aws:events:us-east-1:123456789012:made/{}"


def enum_faults(value: Any, shape: Any) -> list[str]:
    """Return the texts that are none of their shape's: botocore's validator takes any."""
    parts = []
    if shape.type_name == "structure":
        parts = [(value[name], shape.members[name]) for name in value]
    elif shape.type_name == "list":
        parts = [(item, shape.member) for item in value]
    faults = [value] if shape.type_name == "string" and value not in (shape.enum or [value]) else []
    return faults + [fault for part in parts for fault in enum_faults(*part)]


def main(notes: str, *arguments: str) -> None:
    session = botocore.session.get_session()
    service, operation, *options = arguments[2:]  # after --output text
    if operation == "wait":
        assert options[0] in map(to_option, session.get_waiter_model(service).waiter_names)
        return
    given = dict(zip(options[::2], options[1::2], strict=True))
    queried = given.pop("--query", None)
    model = session.get_service_model(service)
    [name] = [name for name in model.operation_names if to_option(name) == operation]
    shape = model.operation_model(name).input_shape
    members = {f"--{to_option(member)}": member for member in shape.members}
    parameters = json.load(sys.stdin) if given.pop("--cli-input-json", None) else {}
    parameters |= {members[option]: text for option, text in given.items()}
    report = ParamValidator().validate(parameters, shape)
    assert not report.has_errors(), report.generate_report()
    assert enum_faults(parameters, shape) == []
    with Path(notes).open("a", encoding="utf-8") as file:
        print(json.dumps([name, parameters]), file=file)
    if queried:
        print(ARN.format(operation))


def to_option(name: str) -> str:
    return str(xform_name(name, "-"))


if __name__ == "__main__":
    main(*sys.argv[1:])
