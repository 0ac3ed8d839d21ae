"""Fixtures of searches: one that nothing disturbed, workers without processes, a database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rislab.tuning import search
from rislab.tuning.study import Trial
from rislab.tuning.worker import Task
from tests.tuning import postgres
from tests.tuning.small import SMALL, trials_in, work_here


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trial]]:
    """Folder and trials of a search that ran without a break; not to be changed in place."""
    folder = tmp_path_factory.mktemp("undisturbed")
    list(work_here(Task(str(folder), SMALL.to_dict(), "", "tuning")))
    return folder, trials_in(folder)


@pytest.fixture
def workers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are calls of this process, which spares seconds where processes are not what is tested."""
    monkeypatch.setattr(search, "run_workers", work_here)


@pytest.fixture(scope="session")
def database() -> Iterator[str]:
    """URL of a PostgreSQL database, password included."""
    if postgres.programs() is None:
        pytest.skip("PostgreSQL is not here; install Debian's package postgresql to search on many machines")
    with postgres.server() as url:
        yield url
