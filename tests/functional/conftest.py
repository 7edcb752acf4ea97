"""Fixtures of the functional tests: a system that pushes to a receiver, its AWS calls, and what it
writes.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import world as worlds
from tests.support.aws_calls import Aws
from tests.support.openapi import assert_described
from tests.support.receiver import Receiver
from tests.support.world import Answer, World, find_route


class DescribedWorld(World):
    """Checks every response against chalicelib/openapi.json."""

    def call(self, method: str, path: str, *args: Any, **kwargs: Any) -> Answer:
        answer = super().call(method, path, *args, **kwargs)
        assert_described(method, find_route(path.partition("?")[0])[0], answer)
        return answer


@pytest.fixture(scope="module")
def reused_world() -> Iterator[World]:
    with worlds.world("http://127.0.0.1:9/", kind=DescribedWorld) as system:
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
    aws.close()


@pytest.fixture
def target() -> Iterator[Receiver]:
    """A receiver for subscriptions."""
    with Receiver() as target:
        yield target


@pytest.fixture
def listener() -> Iterator[Receiver]:
    """Another one, such as for reports."""
    with Receiver() as listener:
        yield listener
