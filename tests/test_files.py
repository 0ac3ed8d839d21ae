"""Files: whole or not at all, read without running anything, and named when they cannot be used."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from rislab import files
from rislab.errors import InputError


def test_replace_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.replace(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        with pytest.raises(InputError, match="could not be written"):
            files.replace(path, b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_replace_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.replace(tmp_path / "file", b"old")

    def interrupted(number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.replace(tmp_path / "file", b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"old")]


def test_replace_makes_the_folder_and_a_file_that_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    files.replace(path, b"one")
    files.replace(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["b"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: 2024-99-99",
        "a: !!bool perhaps",
        "a: !!timestamp perhaps",
        "!!python/object:os.system {}",
        "[" * 1500,
        "lr: 0.1\nlr: 0.2",
        "a: [{b: 1, c: 2, b: 3}]",
        "a: 010",
        "a: 1:30",
    ],
)
def test_what_is_no_yaml_is_one_sentence_and_runs_nothing(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        files.parse_yaml(text)
    assert "\n" not in str(caught.value)
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(InputError, match=r"file.yaml is not YAML"):
        files.read_mapping(tmp_path / "file.yaml", "holds no mapping")


def test_a_number_is_no_name_of_a_field(tmp_path: Path) -> None:
    (tmp_path / "file.yaml").write_text("lr: 0.1\n3: 4\n")
    with pytest.raises(InputError, match="file.yaml has a field 3; allowed: names"):
        files.read_mapping(tmp_path / "file.yaml", "holds no mapping")


def test_scalars_may_stay_strings() -> None:
    assert files.parse_yaml("{a: 1e-3, b: no}", strings=True) == {"a": "1e-3", "b": "no"}
    assert files.parse_yaml("{a: 1.0e-3, b: no}") == {"a": 1e-3, "b": False}


def test_numbers_are_those_that_they_look_like() -> None:
    """YAML 1.1 has 1e-3 as a text, 010 as 8 and 1:30 as 90."""
    text = "[1e-3, -2E+5, .5e1, 1.e2, 0, 10, 0x1f, 1_000, 0.5, 1e3x, v1e3, '010', 01.5]"
    numbers = [0.001, -200000.0, 5.0, 100.0, 0, 10, 31, 1000, 0.5, "1e3x", "v1e3", "010", 1.5]
    assert files.parse_yaml(text) == numbers
    with pytest.raises(ValueError, match="010 is a number to base 8 or 60; allowed: one to base 10"):
        files.parse_yaml("seed: 010")
    with pytest.raises(
        ValueError,
        match=r"^line 2: while scanning for the next token, found character '\\t' that cannot start any token$",
    ):
        files.parse_yaml("epochs: 3\n\tlr: 2\n")


def test_a_file_is_tried_before_long_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"export is '.*', a folder; allowed: the path of a file"):
        files.check_file_writable("export", tmp_path)
    with pytest.raises(InputError, match="cannot be used"):
        files.check_file_writable("export", tmp_path / "file" / "weights.safetensors")
    files.check_file_writable("export", tmp_path / "new" / "weights.safetensors")
    assert (tmp_path / "new").is_dir() and (tmp_path / "file").read_text() == ""


def test_a_folder_is_tried_before_long_work(tmp_path: Path) -> None:
    files.check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"folder .*file/b cannot be used: Not a directory"):
        files.check_writable(tmp_path / "file" / "b")
