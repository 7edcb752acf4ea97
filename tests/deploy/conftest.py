"""Fixtures of the tests of what is deployed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import Checkout, copy_packaged
from tests.support.ministack import Ministack, ministack


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
