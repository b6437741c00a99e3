"""Networks of fewer layers, for tests of what surrounds a network."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hrnet_d2.modeling.backbone import hrnet

SHALLOW = {"MODULES_PER_STAGE": (1, 1, 1), "BLOCKS_PER_BRANCH": 1}
WHOLE = {name: getattr(hrnet, name) for name in SHALLOW}


def now() -> tuple:
    """The numbers with which HRNets are built at present."""
    return tuple(getattr(hrnet, name) for name in SHALLOW)


@contextmanager
def of_depth(numbers: dict) -> Iterator[None]:
    """In this process HRNets are built with ``WHOLE`` or ``SHALLOW`` numbers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in numbers.items():
            patch.setattr(hrnet, name, value)
        yield


@pytest.fixture(scope="package", autouse=True)
def shallow() -> Iterator[None]:
    """For every test of a folder whose ``conftest.py`` imports this fixture.

    A shallow HRNet has every kind of layer, connection and name, and a quarter of the tensors to
    build, run, copy, write and read. Processes that a test starts build whole ones.
    """
    with of_depth(SHALLOW):
        yield


@pytest.fixture
def whole() -> Iterator[None]:
    """HRNet as it is, for models that files, other projects or other processes build too."""
    with of_depth(WHOLE):
        yield
