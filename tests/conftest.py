import atexit
import gc
import logging
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator

import pytest

# As in `make test`, before torch is imported: with another number of threads sums round otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before the package is imported: its built-in datasets take their folder from here. Processes of
# this one, among them pytest-xdist's, share it.
if "HRNET_D2_CACHE" not in os.environ:
    os.environ["HRNET_D2_CACHE"] = tempfile.mkdtemp(prefix="hrnet_d2_tests_")
    atexit.register(shutil.rmtree, os.environ["HRNET_D2_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """Commands that run inside a test set up their loggers, which other tests listen to."""
    loggers = [logging.getLogger(name) for name in ("hrnet_d2", "detectron2", "fvcore")]
    before = [(x, x.handlers[:], x.filters[:], x.propagate, x.level) for x in loggers]
    yield
    changed = False
    for logger, handlers, filters, propagate, level in before:
        changed |= logger.handlers != handlers or logger.propagate != propagate
        logger.handlers[:], logger.filters[:] = handlers, filters
        logger.propagate = propagate
        logger.setLevel(level)
    if changed:
        from detectron2.utils.logger import setup_logger

        setup_logger.cache_clear()  # otherwise it would not set up the same logger again


def pytest_collection_finish() -> None:
    """Models are thousands of objects, none of them garbage: Python's collector, which looks after
    every 700, takes a fifth of the time of building and copying them.
    """
    gc.freeze()  # what was imported stays
    gc.set_threshold(50_000, 20, 100)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that is skipped has failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, with --no-skips: {report.longrepr}"
    return report
