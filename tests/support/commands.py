"""Run the operator's commands."""

import re
import shlex
from typing import Any

from click.testing import CliRunner

from tools.ops import cli


class Ran:
    """What a command wrote. The app runs in the same process: its JSON lines are left out."""

    def __init__(self, *arguments: str, status: int = 0, **variables: str) -> None:
        result = CliRunner().invoke(cli, arguments, env=variables)
        self.output = "".join(
            line for line in result.stdout.splitlines(keepends=True) if not line.startswith('{"')
        )
        self.errors = result.stderr
        assert result.exit_code == status, result.output


def paste(text: str, what: str, *arguments: str) -> Ran:
    """Run the make command that a text has, as make does."""
    [command] = re.findall(rf"{what}: make (.*)", text)
    name, *given = shlex.split(command)
    variables: Any = dict(variable.split("=", 1) for variable in given)
    if variables.pop("GO", ""):
        arguments = ("--go", *arguments)
    return Ran(name, *arguments, MAKELEVEL="1", **variables)
