"""Run the operator's commands in the process of a test."""

import re
import shlex
from typing import Any

from click.testing import CliRunner

from tools.ops import cli


class Ran:
    """A command of tools.ops that was run.

    `output` has its standard output without the JSON lines of the app's log, because the app runs
    in the same process. `errors` has its standard error.
    """

    def __init__(self, *arguments: str, status: int = 0, **variables: str) -> None:
        """Run a command in this process, and note what it writes: in `output` its standard output
        without the lines of the app's log, which are JSON objects, and in `errors` its standard
        error. Raise AssertionError if its exit status is not the expected one.

        :param arguments: The name of the command and its arguments.
        :param status: The expected exit status.
        :param variables: Environment variables of the command, in addition to those of this
            process.
        """
        result = CliRunner().invoke(cli, arguments, env=variables)
        lines = result.stdout.splitlines(keepends=True)
        self.output = "".join(line for line in lines if not line.startswith('{"'))
        self.errors = result.stderr
        assert result.exit_code == status, result.output


def paste(text: str, words: str, *arguments: str) -> Ran:
    """Run the only make command that a text proposes after some words and a colon (`Undo it: make
    undo STAGE=dev`), with the variables that make would set.

    :param words: A regular expression for the words before the colon.
    :param arguments: More arguments of the command, which the text does not have.
    """
    [command] = re.findall(rf"{words}: make (.*)", text)
    name, *assignments = shlex.split(command)
    variables: Any = dict(assignment.split("=", 1) for assignment in assignments)
    if variables.pop("GO", ""):  # the Makefile passes it as this argument
        arguments = ("--go", *arguments)
    # The environment of a command of make has MAKELEVEL.
    return Ran(name, *arguments, MAKELEVEL="1", **variables)
