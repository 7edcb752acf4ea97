"""Run the operator's commands in the process of a test."""

import re
import shlex
from typing import Any

from click.testing import CliRunner

from tools.ops import cli


class Ran:
    """A command of tools.ops that was run. `output` has its standard output without the JSON lines
    of the app, which runs in the same process; `errors` has its standard error.

    :param arguments: The name of the command and its arguments.
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
    """Run a make command that a text proposes, with the variables that make would set.

    :param what: A pattern of the words that stand before the colon and the command.
    :param arguments: More arguments of the command.
    """
    [command] = re.findall(rf"{what}: make (.*)", text)
    name, *given = shlex.split(command)
    variables: Any = dict(variable.split("=", 1) for variable in given)
    if variables.pop("GO", ""):
        arguments = ("--go", *arguments)
    return Ran(name, *arguments, MAKELEVEL="1", **variables)
