"""Fixtures of the tests of what is deployed."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner

from tests.support.checkout import Checkout, copy_packaged
from tests.support.ministack import Ministack, ministack
from tools import stage
from tools.resources import main

Command = Callable[..., str]


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ministack]:
    with ministack(tmp_path_factory.mktemp("ministack") / "log") as aws:
        yield aws


@pytest.fixture
def aws(emulated: Ministack) -> Ministack:
    emulated.reset()
    return emulated


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkouts") / "packaged"
    copy_packaged(path)
    return path


@pytest.fixture
def checkout(packaged: Path, aws: Ministack) -> Iterator[Checkout]:
    """A checkout, for each test at the same path, for which there is bytecode."""
    path = shutil.copytree(packaged, packaged.with_name("first"), symlinks=True)
    yield Checkout(path, aws)
    shutil.rmtree(path)


@pytest.fixture
def resources(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that does what `make resources` does, in this process."""
    # The command runs in this process, which is faster: with its own session, in another folder.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(stage, "ROOT", checkout.path)

    def run(*arguments: str, status: int = 0, **variables: str) -> str:
        environ = {**dict.fromkeys(os.environ), **checkout.environ(**variables)}
        ran = CliRunner().invoke(main, ["dev", *arguments], env=environ)
        assert ran.exit_code == status, ran.output
        return ran.output

    return run
