"""Storage: a file or a database, shared by many, refused in one sentence where it cannot be used."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
import yaml
from filelock import Timeout

from rislab.cli.main import main
from rislab.errors import InputError
from rislab.tuning import search
from rislab.tuning.storage import FILE, open_storage
from rislab.tuning.study import Trial, open_study
from rislab.tuning.worker import Task
from tests.tuning import postgres
from tests.tuning.small import SMALL, SPACE, WORDS, last_progress, trials_in, what_counts, work_here


def test_a_name_that_means_something_in_a_url_is_a_folder_like_any_other(tmp_path: Path) -> None:
    folder = tmp_path / "a {b}?c%20&d=e#f"
    folder.mkdir()
    open_study(open_storage(folder), SMALL, "tuning")
    assert (folder / FILE).exists() and [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_file_that_is_no_storage_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("this is a text, and long enough for the header of a database " * 40)
    with pytest.raises(InputError, match=f"storage {tmp_path / FILE} cannot be used: file is not a database"):
        open_storage(tmp_path)
    assert (tmp_path / FILE).read_text().startswith("this is a text")


def test_a_file_of_another_program_is_one_sentence(tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / FILE}")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE studies (title TEXT)"))
    with pytest.raises(InputError, match="cannot be used: table studies has no column named study_name") as error:
        stored = open_storage(tmp_path)
        with stored.errors():
            open_study(stored, SMALL, "tuning")
    assert len(str(error.value).splitlines()) == 1


def test_without_optuna_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"install it with pip install 'rislab\[tune\]'"):
        open_storage(tmp_path)


def test_a_lock_is_one_workers(tmp_path: Path) -> None:
    first, second = open_storage(tmp_path), open_storage(tmp_path)
    locked_once(first, second)


def locked_once(first: Any, second: Any) -> None:
    with first.lock(3, False) as is_held:
        assert is_held()
        with pytest.raises(Timeout), second.lock(3, False):
            pass
        with second.lock(4, False), second.exclusive():
            pass
    for _ in range(20):
        for storage in (second, first):
            with storage.lock(3, False):
                pass


# --------------------------------------------------------------------------------------------------------- the database


@pytest.mark.process
def test_a_lock_of_the_database_is_one_workers_of_one_study(database: str, tmp_path: Path) -> None:
    first, second = (open_storage(tmp_path, database, "locks") for _ in range(2))
    locked_once(first, second)
    with first.lock(3, False) as is_held, open_storage(tmp_path, database, "other").lock(3, False):
        assert is_held()
        # As after a network that was away for too long.
        engine = sqlalchemy.create_engine(database)
        with engine.connect() as connection:
            connection.execute(
                sqlalchemy.text("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
            )
        assert not is_held()


def command_lines() -> bytes:
    """Of all processes, as `ps` shows them to every user."""
    lines = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines += path.read_bytes()
    return lines


@pytest.mark.process
@pytest.mark.usefixtures("workers_here")
def test_two_machines_share_a_search_through_a_database(
    database: str, undisturbed: tuple[Path, list[Trial]], tmp_path: Path
) -> None:
    """Two searches with a folder each, as on two machines: every trial once, in one of them."""
    here, there = tmp_path / "here", tmp_path / "there"
    process = subprocess.Popen(
        [sys.executable, "-m", "rislab.cli", *WORDS, "--study", "shared", "--run", str(here)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "RISLAB_STORAGE": database},
    )
    listed = b""
    while process.poll() is None and not list(here.glob("trials/*/records.jsonl")):
        listed += command_lines()
        time.sleep(0.3)
    progress = last_progress(there, storage=database, name="shared")
    output = process.communicate(timeout=900)[0]
    assert process.returncode == 0, output
    assert b"rislab.tuning.worker" in listed and postgres.PASSWORD.encode() not in listed
    trials = trials_in(here, database, "shared")
    assert [(trial.number, trial.state) for trial in trials] == [(number, "complete") for number in range(5)]
    assert {trial.number for trial in progress.trials} == set(range(5))
    mine, theirs = ({int(path.name) for path in (folder / "trials").iterdir()} for folder in (here, there))
    assert mine and theirs and mine | theirs == set(range(5)) and not mine & theirs
    # The first trial does not depend on who worked when.
    assert what_counts(trials)[0] == what_counts(undisturbed[1])[0]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(postgres.PASSWORD.encode() in content for content in written)
    assert postgres.PASSWORD not in output
    assert "***" in yaml.safe_load((here / search.RECORD).read_text())["storage"]


@pytest.mark.process
@pytest.mark.usefixtures("forked")
def test_a_machine_that_dies_leaves_its_trial_to_the_others(database: str, tmp_path: Path) -> None:
    task = Task(str(tmp_path / "dying"), SMALL.to_dict(), database, "dying")
    process = subprocess.Popen([sys.executable, "-m", "rislab.tuning.worker"], stdin=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(json.dumps(dataclasses.asdict(task)) + "\n")
    process.stdin.flush()
    for _ in range(6000):
        if list((tmp_path / "dying").glob("trials/*/records.jsonl")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    begun = trials_in(tmp_path, database, "dying")
    assert [trial.state for trial in begun][-1] == "running"
    list(work_here(dataclasses.replace(task, folder=str(tmp_path / "heir"))))
    trials = trials_in(tmp_path, database, "dying")
    assert [(trial.number, trial.state) for trial in trials] == [(number, "complete") for number in range(5)]
    assert {tuple(sorted(trial.scores)) for trial in trials} == {(1, 2, 3)}
    assert (tmp_path / "heir" / "trials" / f"{begun[-1].number:04d}").exists()


@pytest.mark.process
def test_a_database_that_cannot_be_used_is_one_sentence(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_study(open_storage(tmp_path, database, "taken"), SMALL, "taken")
    for address in (
        database.replace(postgres.PASSWORD, "wr0ng-w0rd"),
        database.replace("/postgres", "/nowhere"),
        database.replace(f":{postgres.PASSWORD}@", "@") + "?password=hidden-w0rd&connect_timeout=2",
    ):
        words = [*WORDS, "--storage", address, "--study", "taken", "--run", str(tmp_path / "b")]
        assert main(words) == 2, address
        err = capsys.readouterr().err
        assert "cannot be used" in err and len(err.splitlines()) == 1
        assert all(word not in err for word in (postgres.PASSWORD, "wr0ng-w0rd", "hidden-w0rd"))
    other = dataclasses.replace(SMALL, trials=1, space={"lr": SPACE["lr"]})
    with pytest.raises(InputError, match="space micro_batch"):
        last_progress(tmp_path / "c", other, storage=database, name="taken")
    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        old = connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar()
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = 'v0.9.0.a'"))
    with pytest.raises(InputError, match="another version of optuna"):
        open_storage(tmp_path, database, "taken")
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE alembic_version SET version_num = :old"), {"old": old})
