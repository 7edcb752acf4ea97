"""Run the operator's commands."""

import re
import shlex
from typing import Any

from click.testing import CliRunner

from tools.ops import cli


class Ran:
    """A command of tools.ops that was run, with its output.

    The app runs in the same process. Its JSON lines are left out of the output.

    :param status: The exit status that the command must have.
    :param variables: Environment variables of the command.
    """

    def __init__(self, *arguments: str, status: int = 0, **variables: str) -> None:
        result = CliRunner().invoke(cli, arguments, env=variables)
        self.output = "".join(
            line for line in result.stdout.splitlines(keepends=True) if not line.startswith('{"')
        )
        self.errors = result.stderr
        assert result.exit_code == status, result.output


def paste(text: str, what: str, *arguments: str) -> Ran:
    """Run the make command that a text proposes, as make runs it.

    :param what: The words before the command and a colon.
    """
    [command] = re.findall(rf"{what}: make (.*)", text)
    name, *given = shlex.split(command)
    variables: Any = dict(variable.split("=", 1) for variable in given)
    if variables.pop("GO", ""):
        arguments = ("--go", *arguments)
    return Ran(name, *arguments, MAKELEVEL="1", **variables)
