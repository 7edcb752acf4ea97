"""A system that pushes to a receiver, a hand on its calls to AWS, and what it writes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import world as worlds
from tests.support.aws import Aws
from tests.support.receiver import Receiver
from tests.support.world import World


@pytest.fixture(scope="module")
def reused_world() -> Iterator[World]:
    with worlds.world("http://127.0.0.1:9/") as system:
        yield system


@pytest.fixture
def world(reused_world: World, receiver: Receiver) -> Iterator[World]:
    reused_world.forget(ZAPIER_WEBHOOK_URL=receiver.url)
    yield reused_world
    reused_world.stop()


@pytest.fixture
def aws(world: World) -> Iterator[Aws]:
    aws = Aws(world)
    yield aws
    aws.let_go()


class Output:
    """What the system wrote to standard output since it was last read: a JSON object a line."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._capsys.readouterr().out.splitlines()]

    def metrics(self) -> list[dict[str, float]]:
        """Return the values of each metric line, by name."""
        return [
            {metric["Name"]: line[metric["Name"]] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
            for line in self.lines()
            if "_aws" in line
        ]


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str]) -> Output:
    return Output(capsys)
