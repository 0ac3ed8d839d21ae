"""Laws of the command line: one grammar, help that fits, the nearest word for a mistyped one, any terminal."""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rislab.cli import common, localise, terminal
from rislab.cli.completion import SHELLS, completion
from rislab.cli.main import COMMANDS, main, parser_of
from rislab.cli.terminal import Column, Table
from rislab.data.scene_config import SceneConfig
from rislab.errors import InputError
from rislab.faults.run_config import FaultRunConfig
from rislab.music.benchmark import Score
from rislab.sanity.overfit_config import OverfitConfig
from rislab.training.streaming_config import LearningConfig
from rislab.tuning.tuning_config import TuningConfig

ROOT = Path(__file__).resolve().parents[2]
every_command = pytest.mark.parametrize("command", COMMANDS)
WHERE = {"--config": ("FILE",), "--run": ("FOLDER",), "--out": ("FOLDER", "FILE", "CSV"), "-p": (("KEY", "VALUE"),)}


def options(command: str) -> dict[str, argparse.Action]:
    return {flag: action for action in parser_of(command).actions() for flag in action.option_strings}


@every_command
def test_the_grammar_is_one(command: str) -> None:
    known = options(command)
    # What has fields of a configuration takes them by -p and from a file.
    assert ("-p" in known) == ("--config" in known)
    if "--preset" in known:
        assert "-p" in known
    for flag, metavars in WHERE.items():
        # `rislab grade --run` runs code of students, as graders say; it has no run that could be resumed.
        if (command, flag) != ("grade", "--run"):
            assert flag not in known or known[flag].metavar in metavars
    for flag in ("-f", "--set", "--parameters", "--settings", "--yaml"):
        assert flag not in known
    if "--threads" in known:
        assert known["--threads"].default == common.THREADS


def test_presets_have_one_default() -> None:
    presets = {config().preset for config in (OverfitConfig, LearningConfig)} | {TuningConfig().base.preset}
    assert len(presets) == 1
    for command in ("overfit", "train", "tune", "localise"):
        assert f"default {presets.copy().pop()}" in (options(command)["--preset"].help or "")


@every_command
@pytest.mark.parametrize("columns", [60, 100, 300])
def test_help_fits_and_shows_examples(command: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = parser_of(command).format_help()
    assert max(map(len, text.splitlines())) <= min(columns, 100)
    assert "\nexamples:\n" in text
    assert not re.search(r"see [A-Z]\w+[A-Z]|see rislab\.", text)
    for action in parser_of(command).actions():
        assert action.help, action.option_strings


@pytest.mark.parametrize("columns", [60, 100, 300])
def test_the_overview_fits(columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= min(columns, 100)
    assert all(f"  {command} " in text for command in COMMANDS)


def shown_commands() -> list[str]:
    """Commands that a text of ours shows: examples of the help, blocks of pages, cells of notebooks."""
    texts = [f"rislab {words}" for command in COMMANDS for words, _ in parser_of(command).examples]
    lines: list[str] = []
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("rislab/model/weights/*.md")]:
        if path.name != "CHANGELOG.md":
            lines += path.read_text().splitlines()
            lines += re.findall(r"`(rislab [a-z]+ [^`]+)`", path.read_text())
    for path in ROOT.glob("notebooks/*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            lines += re.findall(r"`(rislab [a-z]+ [^`]+)`", "".join(cell["source"]))
            lines += "".join(cell["source"]).splitlines()
    return texts + [line.strip().lstrip("!") for line in lines if re.match(r"!?rislab [a-z]+ ", line.strip())]


def test_every_command_that_is_shown_can_be_given() -> None:
    shown = shown_commands()
    assert len(shown) > 60
    for line in shown:
        words = shlex.split(line, comments=True)
        command, own = words[1], words[2:]
        if command not in COMMANDS or "…" in line:
            assert command in COMMANDS, line
            continue
        own = own[: own.index(">")] if ">" in own else own
        own = own[: own.index("--")] if command == "checkup" and "--" in own else own
        try:
            parser_of(command).parse_args(own)
        except InputError as error:
            # A sentence may name an option alone.
            if "are required: " not in str(error):
                pytest.fail(f"{line}: {error}")


@every_command
def test_a_mistyped_option_is_answered_with_the_nearest(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in [flag for flag in parser_of(command).flags() if len(flag) > 6]:
        assert main([command, flag[:-2] + flag[-1]]) == 2
        assert f"did you mean '{flag}'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["overfti"], "rislab has no command overfti, did you mean 'overfit'?"),
        (["--verson"], "rislab has no option --verson, did you mean '--version'?"),
        (["train", "-p", "micro_batc", "3"], "did you mean 'micro_batch'?"),
        (["train", "-p", "micro_batch", "x"], "micro_batch is 'x'; allowed: a whole number"),
        (["overfit", "stray"], "'stray' is a word too many; allowed: rislab overfit [options]"),
        (["overfit", "-p", "epochs"], "-p is given 'epochs'; allowed: -p KEY VALUE"),
        (["report", "overfit", "-p", "epochs=3"], "-p is given 'epochs=3'; allowed: -p KEY VALUE"),
        (["overfit", "-p", "--json"], "-p is given nothing; allowed: -p KEY VALUE"),
        (["localise", "--tolerances", "-5", "5"], "--tolerances is given '-5' '5'; allowed: --tolerances DEG DEG M"),
        (["faults", "never divided", "--epochs"], "--epochs: expected one argument"),
    ],
)
def test_a_mistake_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert said in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_a_parameter_is_the_option_of_its_name_and_both_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("epochs: 9\noptimiser: sgd\n")
    parser = parser_of("faults")

    def config(*words: str) -> FaultRunConfig:
        return common.configured(parser.parse_args(list(words)), FaultRunConfig)

    assert config("-p", "epochs", "7") == config("--epochs", "7") == FaultRunConfig(epochs=7)
    assert config("--config", str(file)) == FaultRunConfig(epochs=9, optimiser="sgd")
    assert config("-p", "epochs", "7", "--config", str(file)) == FaultRunConfig(epochs=7, optimiser="sgd")
    assert config("--epochs", "3", "-p", "epochs", "7").epochs == 7


def test_an_option_of_several_words_that_is_given_again_adds_to_them() -> None:
    """The words before were dropped without a word."""
    parser = parser_of("localise")
    assert parser.parse_args([]).snr == [0, 10, 20]
    assert parser.parse_args(["--snr", "5", "--sources", "1", "--snr", "7", "9"]).snr == [5, 7, 9]
    assert parser.parse_args([]).snr == [0, 10, 20]
    assert parser_of("sweep").parse_args(["overfit", "--grid", "a=1", "--grid", "b=2"]).grid == ["a=1", "b=2"]


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    import rislab

    assert main(["--version"]) == 0
    assert f"rislab {rislab.__version__}" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_letters_that_a_terminal_lacks_are_written_in_others(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    terminal.allow_any_letter(stream)
    print("Cramér–Rao … × ≥ ‖Δθ‖ 電", file=stream, flush=True)
    written = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "..." in written or "…" in written
    assert ">=" in written and "Cram" in written
    assert terminal.printable("6×6 …", stream).encode(encoding)


def test_a_table_wider_than_the_terminal_takes_more_lines() -> None:
    columns = [Column("name", 10, left=True), *(Column(f"head\n{letter}", 12, ".3f") for letter in "abcdef")]
    row = ("sparse", 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    for limit in (20, 60, 100):
        table = Table(columns, limit)
        for text in (table.head(), table.row(*row)):
            assert max(map(len, text.splitlines())) <= limit
        assert table.row(*row).split() == ["sparse", *(f"{value:.3f}" for value in row[1:])]  # type: ignore[str-bytes-safe]
    assert Table(columns, 100).row(*row).count("\n") == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command_and_option(shell: str) -> None:
    text = completion(shell)
    for command in COMMANDS:
        assert command in text
        for flag, action in options(command).items():
            assert (f"-l {flag[2:]}" if shell == "fish" and flag.startswith("--") else flag[1:]) in text or (
                action.help == argparse.SUPPRESS
            )


def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "rislab.bash").write_text(completion("bash"))

    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in ("rislab", *words))
        script = f"source rislab.bash; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _rislab; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("over") == ["overfit"]
    assert completed("overfit", "--acc") == ["--accumulation-steps"]
    assert completed("overfit", "--precision", "b") == ["bf16"]
    assert completed("overfit", "-p", "acc") == ["accumulation_steps"]
    assert completed("checkup", "--out", "ris") == ["rislab.bash"]
    assert completed("checkup", "ris") == ["rislab.bash"]
    assert completed("completion", "") == list(SHELLS)
    assert completed("explain", "P1") == ["P1", "P10", "P11"]
    assert completed("report", "overfit-f") == ["overfit-full"]


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{shlex.quote(sys.executable)} -m rislab.cli faults | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert not done.stderr


def test_a_number_that_is_not_there_is_a_dash_where_nan_says_nothing_else() -> None:
    columns = (Column("loss", 6, ".2f"), Column("K", 3))
    assert Table(columns, 100).row(float("nan"), 2).split() == ["nan", "2"]
    assert Table(columns, 100, absent="–").row(float("nan"), 2).split() == ["–", "2"]
    nothing = dict.fromkeys(("azimuth", "elevation", "range"), float("nan"))
    missed = Score("MUSIC", 0.0, 3, 10, 0.0, 0.0, 0.5, nothing, nothing, 1.0, 1.0, 1.0, 2.0)
    assert localise.score_line(missed).split().count(localise.ABSENT) == 6 and "nan" not in localise.score_line(missed)
    # A notebook shows it in a table of its own scroll: as a text its hundred letters broke in two at 1024 pixels.
    page = localise.ScoreTable([missed])._repr_html_()
    assert page.count(f">{localise.ABSENT}<") == 6 and "overflow-x:auto" in page and "median<br>azim. °" in page
    assert repr(localise.ScoreTable([missed])).endswith(localise.score_line(missed))
    assert localise.ABSENT in localise.conditions(SceneConfig.preset("classroom"), (1.0, 1.0, 1.0))


@pytest.mark.parametrize(("antennas", "kind"), [(1, "stochastic"), (8, "deterministic")])
def test_the_bound_that_recall_is_held_against_is_named(antennas: int, kind: str) -> None:
    """Unknown waveforms explain all that one antenna receives: the deterministic bound allows nothing there."""
    scenes = SceneConfig.preset("classroom", antennas=antennas)
    assert f"recall by the {kind} bound" in localise.conditions(scenes, (1.0, 1.0, 1.0))
