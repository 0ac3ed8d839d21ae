"""Shared fixtures; on a machine that must have everything (RISLAB_NO_SKIP=1) a skipped test is a failure."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rislab

# nbformat imports jsonschema, which would build 38 grammars of URIs: two seconds of every process that no test needs.
sys.modules.setdefault("rfc3987_syntax", None)
ABSENT = str(Path(__file__).parent / "absent")
# Before any other conftest imports tests/forks.py, which forks nothing that is to have another path.
PATHS = [ABSENT, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(PATHS))


def pytest_configure(config: pytest.Config) -> None:
    # Toy models: a second thread costs more than it brings, and one thread makes sums repeatable.
    torch.set_num_threads(1)


def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    # Coverage must see what is imported, so its workers are started as ever.
    if hasattr(os, "pidfd_open") and not config.getoption("cov_source", None):
        from tests.forks import forking_workers

        stack = contextlib.ExitStack()
        stack.enter_context(forking_workers())
        config.add_cleanup(stack.close)


# The files that take longest come first, so that no worker is left alone with one of them at the end.
LONGEST = (
    "notebooks/test_notebooks.py",
    "browser/test_lab.py",
    "browser/test_figures.py",
    "tuning/test_search.py",
    "reports/test_grading.py",
    "faults/test_catalogue.py",
    "reports/test_gallery.py",
    "reports/test_classroom.py",
    "reliability/test_kills.py",
    "tuning/test_storage.py",
    "panels/test_training_panel.py",
    "checkup/test_loop_watch.py",
    "checkup/test_step_storage.py",
    "corpus/test_scoreboard.py",
    "checkup/test_script.py",
    "test_wheel.py",
    "tuning/test_worker.py",
    "checkup/test_changes_nothing.py",
    "checkup/test_transformers.py",
    "browser/test_accessibility.py",
    "browser/test_report.py",
    "docs/test_site.py",
    "reliability/test_hostile_files.py",
    "checkup/test_counting.py",
    "checkup/test_pytest_plugin.py",
    "checkup/test_never_crashes.py",
    "training/test_distributed.py",
)
TESTS = Path(__file__).parent
# Of each test at most so many of its cases, from first to last; all of them if it is not set.
CASES = os.environ.get("RISLAB_CASES")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if CASES:
        keep = {item.nodeid for item in _spread(items, int(CASES))}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in keep])
        items[:] = [item for item in items if item.nodeid in keep]
    places = {TESTS / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def _spread(items: list[pytest.Item], most: int) -> list[pytest.Item]:
    """At most so many cases of each test, evenly spread."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    counts = {test: min(most, len(same)) for test, same in cases.items()}
    return [same[len(same) * k // counts[test]] for test, same in cases.items() for k in range(counts[test])]


def pytest_collection_finish() -> None:
    # Each watch goes through all objects that are alive; those of imports are hundreds of thousands.
    # The first optimiser imports the compiler.
    importlib.import_module("torch._dynamo")
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = len(reporter.stats.get("skipped", [])) if reporter else 0
    if skipped and os.environ.get("RISLAB_NO_SKIP") == "1":
        reporter.write_line(f"{skipped} tests were skipped, and here nothing may be skipped", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(autouse=True, scope="module")
def frozen_imports() -> None:
    """What a file and the files before it have imported is not looked through by every collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def forked() -> Iterator[None]:
    """Python processes that a test starts are forks of one that has imported torch; see forks.py."""
    from tests.forks import forking

    with forking():
        yield


@pytest.fixture(scope="session")
def classroom() -> rislab.SceneBatch:
    """128 classroom scenes; not to be changed in place."""
    return rislab.simulate(rislab.SceneConfig.preset("classroom"), 128, seed=0)


@pytest.fixture(scope="session")
def full() -> rislab.SceneBatch:
    """16 full scenes; not to be changed in place."""
    return rislab.simulate(rislab.SceneConfig.preset("full"), 16, seed=0)
